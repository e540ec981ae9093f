"""face-alignment's networks on files of the published form."""

import sys

import numpy as np
from skimage import data

from latentsync.faces.backends import open_detector


def test_face_alignment_runs_on_files_of_the_right_shape(weights_folder, monkeypatch):
    """Untrained nets written under the published names: everything but the quality of the landmarks."""
    import numba
    import torch

    if not any(name.startswith("face_alignment") for name in sys.modules):  # half compiled code would not run
        monkeypatch.setattr(numba.config, "DISABLE_JIT", True)  # compiling what reads the heat maps takes 30 s
    from face_alignment.detection.sfd.net_s3fd import s3fd
    from face_alignment.models import FAN

    torch.manual_seed(0)
    (weights_folder / "auxiliary").mkdir()
    blind = s3fd().state_dict()
    for name in (name for name in blind if name.endswith("mbox_conf.bias")):
        blind[name][-1] = -20  # an untrained net would find thousands of faces
    torch.save(blind, weights_folder / "auxiliary" / "s3fd-619a316812.pth")
    torch.save(FAN(4).state_dict(), weights_folder / "auxiliary" / "2DFAN4-11f355bf06.pth.tar")
    photo = data.astronaut()
    with open_detector("face_alignment", 1) as opened:
        assert opened.detect(photo) == []
        boxes = [np.array([180, 60, 270, 170, 0.9]), np.array([0, 0, 200, 40, 0.9]), np.array([0, 0, 20, 30, 0.9])]
        monkeypatch.setattr(opened.net.face_detector, "detect_from_image", lambda rgb: boxes)
        [face] = opened.detect(photo)  # too flat and too small ones are no faces
    assert face.landmarks.shape == (68, 2) and np.isfinite(face.landmarks).all()
    assert (face.landmarks.min(0) >= [100, 0]).all() and (face.landmarks.max(0) <= [350, 240]).all()
    assert opened.reset() is None
