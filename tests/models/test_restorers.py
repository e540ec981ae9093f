"""Restorers: what goes in and out, how strongly they are checked, and what is said where a package or file is missing.

No trained restorer is available to tests. GFPGAN runs at a small size (test_enhancing.py), CodeFormer at its own, both
untrained; GPEN's place is taken by ONNX files of one operator.
"""

import builtins
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from latentsync.models import restorers
from latentsync.weights import files as weight_files
from latentsync.weights import onnx
from tests.onnx_files import onnx_file


@pytest.fixture
def faces():
    return np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)).astype(np.float32)


def test_onnx_pixels_go_in_and_come_out_in_their_ranges(tmp_path, faces):
    restore = restorers.open_restorer("gpen", onnx_file(tmp_path / "gpen_bfr_512.onnx"))
    assert restore.size == 32
    np.testing.assert_allclose(restore(faces), 255 - faces, atol=1e-3)  # -x of [-1, 1] is the negative of the picture
    same = restorers.open_restorer("gpen", onnx_file(tmp_path / "same.onnx", "Identity"))
    np.testing.assert_allclose(same(faces), faces, atol=1e-3)


def test_onnx_files_that_are_none(tmp_path):
    good = onnx_file(tmp_path / "good.onnx").read_bytes()
    rng, refused = np.random.default_rng(0), 0
    for number in range(40):
        damaged = bytearray(good)
        if number % 2:
            damaged = damaged[: rng.integers(1, len(good))]
        else:
            damaged[rng.integers(len(good))] ^= 1 << rng.integers(8)
        (tmp_path / "bad.onnx").write_bytes(damaged)
        try:
            restorers.open_restorer("gpen", tmp_path / "bad.onnx")
        except ValueError as error:
            assert "bad.onnx" in str(error), error
            refused += 1
    assert refused >= 25  # the rest are changed names and the like; the registry's sha256 sees those
    with pytest.raises(ValueError, match=r"takes \[\[1, 80, 52\]\], not one image"):
        restorers.open_restorer("gpen", onnx_file(tmp_path / "mel.onnx", shape=(1, 80, 52)))
    (tmp_path / "good.onnx.sha256").write_text("0" * 64)
    with pytest.raises(ValueError, match=r"good\.onnx has sha256 .* instead of 0000"):
        restorers.open_restorer("gpen", tmp_path / "good.onnx")


def test_a_gpu_that_does_not_start_is_no_cpu():
    """ONNX Runtime would go on in silence, some fifty times slower."""
    session = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    onnx.require_started(session, ["CPUExecutionProvider"])
    with pytest.raises(ValueError, match="could not start CUDAExecutionProvider"):
        onnx.require_started(session, ["CUDAExecutionProvider", "CPUExecutionProvider"])


def test_codeformer_runs_at_its_size(tmp_path):
    architecture = pytest.importorskip("spandrel_extra_arches.architectures.CodeFormer", reason="optional extra")
    torch.manual_seed(0)
    path = tmp_path / "codeformer.pth"
    state = {key: value.contiguous() for key, value in architecture.CodeFormer().state_dict().items()}
    torch.save({"params_ema": state}, path)
    restore = restorers.open_restorer("codeformer", path)
    face = np.random.default_rng(0).uniform(0, 255, (1, 512, 512, 3)).astype(np.float32)
    restored = restore(face)
    assert restored.shape == (1, 512, 512, 3) and 0 <= restored.min() < restored.max() <= 255


def test_a_file_of_another_restorer_is_named(tmp_path):
    torch.save({"params_ema": {"quantize.embedding.weight": torch.zeros(4, 2)}}, tmp_path / "wrong.pth")
    with pytest.raises(ValueError, match=r"It looks like CodeFormer; enhance.method: codeformer loads it\."):
        restorers.open_restorer("gfpgan", tmp_path / "wrong.pth")
    weight_files.save(tmp_path / "ours.safetensors", {"x": torch.zeros(1)}, {"width": 3})
    with pytest.raises(ValueError, match=r"ours\.safetensors holds the configuration of another network"):
        restorers.open_restorer("gfpgan", tmp_path / "ours.safetensors")


@pytest.mark.parametrize(
    ("method", "package", "extra"),
    [
        ("gfpgan", "spandrel", "restorers"),
        ("gpen", "onnxruntime", "restorers"),
        ("codeformer", "spandrel_extra_arches", "codeformer"),
    ],
)
def test_a_missing_package_is_one_sentence(tmp_path, monkeypatch, method, package, extra):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}")
        return real(name, *args, **kwargs)

    path = tmp_path / "weights.pth"
    torch.save({"params_ema": {"x": torch.zeros(1)}}, path)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=rf"needs a package that is not installed .*latentsync-studio\[{extra}\]"):
        restorers.open_restorer(method, path)
