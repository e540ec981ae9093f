"""Write envs/{curate,train,deliver}.yaml: what the steps of their rules import, pinned as in requirements.lock.

`python envs/generate.py` after `make lock`; a test compares. A rule names its environment in `conda:`; what its step
imports, directly or through other modules of the package, is read from the source. The package itself is not in the
list, since pip would bring all of its dependencies: rules put its folder on PYTHONPATH. pip inside conda knows no
overrides, so mediapipe brings its own OpenCV there; the one virtual environment of `make setup` is the tested way.
"""

import ast
import re
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODULES = {"train_unet_stage1": "train_unet", "train_unet_stage2": "train_unet"}  # two rules, one module
OPTIONAL = {"insightface", "spandrel_extra_arches"}  # extras outside the lock: each says itself how to install it


@cache
def imports_of(module: str) -> frozenset[str]:
    """Every module that one module of `latentsync` imports, wherever in it: dotted names, parents included."""
    path = ROOT / Path(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not path.exists():
        return frozenset()
    names = {module.rpartition(".")[0]}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # "latentsync.faces.face_mesh:Detector"
            names |= set(re.findall(r"^(latentsync[\w.]*):\w+$", node.value))
        elif isinstance(node, ast.Call):
            names |= found_for_data(node)
    return frozenset(names - {""})


def found_for_data(node: ast.Call) -> set[str]:
    """The module that a call of `find_spec` names: one that is not imported, since only a data file of it is read."""
    if isinstance(node.func, ast.Name) and node.func.id == "find_spec" and isinstance(node.args[0], ast.Constant):
        return {node.args[0].value}
    return set()


def reached(start: str) -> tuple[set[str], set[str]]:
    """Modules of `latentsync` that a module leads to, and the top-level names of what they import from others."""
    ours, others, waiting = set(), set(), [start]
    while waiting:
        module = waiting.pop()
        if module in ours:
            continue
        ours.add(module)
        for name in imports_of(module):
            if name.split(".")[0] == "latentsync":
                waiting.append(name)
            else:
                others.add(name.split(".")[0])
    return {module for module in ours if imports_of(module)}, others - sys.stdlib_module_names - OPTIONAL


def steps_of() -> dict[str, set[str]]:
    """Name of an environment -> modules of the steps whose rules use it."""
    steps: dict[str, set[str]] = {}
    for path in sorted((ROOT / "workflow/rules").glob("*.smk")):
        text = path.read_text()
        table = re.findall(r'^    \("(\w+)"', text, re.MULTILINE)  # steps of the one rule that has no name of its own
        rules = re.findall(r"^ *rule(?: (\w+))?:\n(.*?)(?=^ *rule|\Z)", text, re.MULTILINE | re.DOTALL)
        for rule, body in rules:
            for name in re.findall(r"envs/(\w+)\.yaml", body):
                steps.setdefault(name, {"__main__"}).update(
                    MODULES.get(step, step) for step in ([rule] if rule else table)
                )
    return steps


@cache
def environments() -> dict[str, str]:
    """The text of each environment file, by name."""
    pins = dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    texts = {}
    for name, steps in steps_of().items():
        imported = set().union(*(reached(f"latentsync.steps.{step}")[1] for step in steps))
        packages = sorted(distribution(module) for module in imported)
        lines = "".join(f"      - {package}=={pins[package]}\n" for package in packages)
        texts[name] = f"channels:\n  - conda-forge\ndependencies:\n  - python=3.11\n  - pip\n  - pip:\n{lines}"
    return texts


def distribution(module: str) -> str:
    """The declared package that an imported top-level module belongs to, as the lock writes it."""
    [name] = {name.lower().replace("_", "-") for name in packages_distributions()[module]}
    return name


@cache
def packages_distributions() -> dict[str, list[str]]:
    """Top-level module -> the installed packages that bring it; asking takes half a second."""
    return dict(metadata.packages_distributions())


if __name__ == "__main__":
    for name, text in environments().items():
        (ROOT / "envs" / f"{name}.yaml").write_text(text)
