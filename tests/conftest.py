"""Fixtures for every test: parity data, real clips, weights, a face detector, speech, and a GPU that may be forced.

`latentsync` is imported inside fixtures only: pytest reads this file before jaxtyping can check what is imported.
"""

import os
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# As every step does: OpenBLAS called from two threads at once may spin for ever. This limits SciPy's. NumPy has an
# OpenBLAS of its own, which plugins of pytest have loaded before this file is read, so `make test` sets it, too.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import pytest
from hypothesis import settings

from tests import typechecker  # noqa: F401  named in pyproject.toml as what checks annotations

ROOT = Path(__file__).parent.parent

settings.register_profile("shared_machine", deadline=None)  # the cores may be busy with other tests
settings.load_profile("shared_machine")


def _folder(variable: str, default: str, required: str, what: str) -> Path:
    folder = Path(os.environ.get(variable, ROOT.parent / "shared" / default))
    if not folder.is_dir():
        message = f"{what} not found at {folder}; set {variable}"
        pytest.fail(message) if os.environ.get(required) == "1" else pytest.skip(message)
    return folder


@pytest.fixture(scope="session", autouse=True)
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the test certificate is made: not in the user's own folder."""
    folder = tmp_path_factory.mktemp("data")
    os.environ["LATENTSYNC_DATA"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def golden():
    """`golden("mask")` is the folder of that parity data; skipped where absent unless REQUIRE_GOLDEN=1."""
    return lambda name: _folder("LATENTSYNC_GOLDEN", "golden", "REQUIRE_GOLDEN", "golden data") / name


@pytest.fixture(scope="session")
def clips() -> Path:
    """The folder of real clips; skipped where absent unless REQUIRE_CLIPS=1."""
    return _folder("LATENTSYNC_CLIPS", "clips", "REQUIRE_CLIPS", "real clips")


@pytest.fixture
def weights_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty weights folder in which files of random numbers may stand for published ones: no sha256 is known."""
    from latentsync.weights import registry

    monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(registry, "expected_sha256", lambda path: None)
    return tmp_path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests of a module put the videos that they read."""
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def detector() -> Iterator[Any]:
    """FaceMesh for at most two faces; it remembers the faces of its last image until `reset`."""
    from latentsync.faces.backends import open_detector

    with open_detector("mediapipe", 2) as opened:
        yield opened


@pytest.fixture(scope="module")
def speech(golden) -> np.ndarray:
    """Three seconds of recorded speech, float32 in [-1, 1], 16 kHz."""
    with wave.open(str(golden("audio") / "speech_3s_16k.wav")) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules with slow tests first, those of the workflow before all: one that begins last keeps one core waiting."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, item.path.parent.name != "workflow"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip GPU tests without a GPU, unless FAIL_WITHOUT_CUDA=1 wants that to be a failure."""
    if item.get_closest_marker("needs_cuda"):
        import torch

        if not torch.cuda.is_available() and os.environ.get("FAIL_WITHOUT_CUDA") != "1":
            pytest.skip("no GPU here; FAIL_WITHOUT_CUDA=1 turns this into a failure")
