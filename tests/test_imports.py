"""Packages import only earlier ones, steps never import steps, and only evaluate may read the talkers' truth."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "latentsync"
# Every package may import those on earlier lines and itself; steps import no steps.
ORDER = [
    {"config", "timing"},
    {"ledger"},
    {"weights"},
    {"media"},
    {"faces", "audio"},
    {"models"},
    {"sync"},
    {"training"},
    {"generation", "curation"},
    {"evaluation"},
    {"report", "synthetic"},
    {"required", "gpu_lease", "command_line"},
    {"workflow", "terminal"},
    {"steps"},
    {"page"},
    {"cli", "__main__"},
]
LEVEL = {part: number for number, parts in enumerate(ORDER) for part in parts}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported(path: Path) -> set[str]:
    """Dotted names below `latentsync` that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith("latentsync.")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_are_allowed(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for name in imported(path):
        target = name.split(".")[1]
        assert LEVEL[target] < LEVEL[own] or target == own != "steps", name


def test_every_package_has_its_place():
    parts = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in FILES}
    assert parts == LEVEL.keys()


def test_the_check_sees_a_wrong_import(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def f():\n    from latentsync.steps import probe\n")
    assert imported(wrong) == {"latentsync.steps.probe"}


def test_only_evaluate_reads_the_truth():
    readers = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in ("truth", "truth.jsonl")
    }
    assert readers <= {"steps/make_talkers.py", "steps/evaluate.py"}


def test_the_workflow_and_the_curation_steps_start_without_torch():
    """Importing torch costs seconds in every job and every parse of the Snakefile."""
    light = ["probe", "resample", "detect_scenes", "segment", "align_faces", "score_sync", "select_clips"]
    light += ["describe_clips", "estimate", "report"]
    modules = ["latentsync.workflow", *(f"latentsync.steps.{step}" for step in light)]
    code = f"import sys; import {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_one_opencv_and_mediapipe_that_starts():
    from importlib.metadata import distributions

    import cv2
    import mediapipe

    installed = {dist.metadata["Name"].lower() for dist in distributions()}
    assert {name for name in installed if name.startswith("opencv")} == {"opencv-python-headless"}
    assert cv2.__version__.startswith("4.11") and mediapipe.__version__ == "0.10.21"


def test_pickles_are_read_in_two_places_and_never_with_code():
    """torch.load only with weights_only=True; TorchScript, which is a program, only where its sha256 is asked for."""
    found = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("load", "loads")
            ):
                called = ast.unparse(node.func)
                if called in ("torch.load", "torch.jit.load", "pickle.load", "pickle.loads"):
                    safe = any(one.arg == "weights_only" and ast.unparse(one.value) == "True" for one in node.keywords)
                    found.setdefault(called, set()).add((str(path.relative_to(PACKAGE)), safe))
    assert found["torch.load"] == {("weights/files.py", True), ("training/state.py", True)}
    assert found["torch.jit.load"] == {("models/i3d.py", False)}
    assert found.keys() == {"torch.load", "torch.jit.load"}
