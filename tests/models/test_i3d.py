"""I3D: a TorchScript file runs only when its sha256 is known, and is fed clips in the range that was asked for."""

import warnings

import numpy as np
import pytest
import torch

from latentsync.models import i3d
from latentsync.weights import registry


class Means(torch.nn.Module):
    """The signature of the published detector; its features are the mean and the largest value."""

    def forward(self, x: torch.Tensor, rescale: bool, resize: bool, return_features: bool) -> torch.Tensor:
        assert not rescale and not resize and return_features
        return torch.stack([x.mean(dim=[1, 2, 3, 4]), x.amax(dim=[1, 2, 3, 4])], dim=1)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "i3d_torchscript.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # writing TorchScript is on its way out; reading it is not
        torch.jit.save(torch.jit.script(Means()), str(path))
    return path


def test_an_unknown_program_does_not_run(file):
    with pytest.raises(ValueError, match=r"is a program whose sha256 is not known.*i3d_torchscript\.pt\.sha256"):
        i3d.load(file)
    registry.recorded_at(file).write_text("0" * 64 + "\n")
    with pytest.raises(ValueError, match="instead of 0000"):
        i3d.load(file)
    with pytest.raises(ValueError, match="does not exist"):
        i3d.load(file.with_name("none.pt"))


def test_clips_in_both_ranges(file):
    registry.recorded_at(file).write_text(registry.sha256_of(file) + "\n")
    net = i3d.load(file)
    clips = np.zeros((2, 10, 224, 224, 3), np.uint8)
    clips[1] = 255
    np.testing.assert_allclose(i3d.features(net, clips), [[-1, -1], [1, 1]], atol=1e-5)
    np.testing.assert_allclose(i3d.features(net, clips, "latentsync"), [[0, 0], [1, 1]], atol=1e-5)


def test_a_file_that_is_no_torchscript(tmp_path):
    path = tmp_path / "i3d.pt"
    path.write_bytes(b"nothing of the kind")
    registry.recorded_at(path).write_text(registry.sha256_of(path) + "\n")
    with pytest.raises(ValueError, match=r"i3d\.pt is no TorchScript file"):
        i3d.load(path)
