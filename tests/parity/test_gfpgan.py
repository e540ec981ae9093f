"""The gfpgan package, in an environment of its own, and this project's restorer: the same picture from one file.

`make parity` makes the environment and runs this. Its weights are random numbers in the published shape, because no
trained file is available to tests, scaled so that the network draws a varied picture. Both sides run on as many threads
of one torch, which requirements-parity.lock takes from requirements.lock.
"""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from latentsync.faces import alignment
from latentsync.faces.backends import FACE_MESH
from latentsync.generation.restore import ffhq_matrix
from latentsync.models import restorers
from latentsync.synthetic.photo import photo

ROOT = Path(__file__).parents[2]
INTERPRETER = ROOT / ".venv-parity" / "bin" / "python"
SIDE_PX = 512
YAWS_DEG = range(61)

pytestmark = pytest.mark.slow


def write_weights(path):
    """A file in GFPGAN's published form (330 MB): every tensor matters to the picture, and few pixels are clipped."""
    torch.manual_seed(0)
    network = restorers.gfpgan_network(**restorers.PUBLISHED_GFPGAN).requires_grad_(False)
    for name, values in network.named_parameters():
        if values.numel() == 1 or (name.endswith("bias") and "modulation" not in name):  # zeros, strengths of noise too
            values.normal_(0, 0.1)
        elif name.startswith("condition_"):
            values *= 2
        elif name.startswith("conv_body"):
            values *= 1.5
        elif "to_rgb" in name and name.endswith("modulated_conv.weight"):
            values *= 0.2
    torch.save({"params_ema": network.state_dict()}, path)


def turned(yaws_deg) -> np.ndarray:
    """The five points [n, 5, 2] of the face of the photograph, its head turned further by each angle, from afar."""
    face, poses = photo(mirrored=False), []
    middle = face.points.mean(0)
    for yaw in np.radians(yaws_deg):
        x = (face.points[:, 0] - middle[0]) * np.cos(yaw) + (face.depth - face.depth.mean()) * np.sin(yaw)
        poses.append(FACE_MESH.five_points(np.stack([x + middle[0], face.points[:, 1]], 1)))
    return np.array(poses)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What the package made, and ours: the restorer, a photograph with five points, and the face aligned by them."""
    if not INTERPRETER.exists():
        message = "no environment with the gfpgan package; `make setup-parity` makes it"
        pytest.fail(message) if os.environ.get("REQUIRE_PARITY") == "1" else pytest.skip(message)
    folder = tmp_path_factory.mktemp("gfpgan")
    write_weights(folder / "GFPGANv1.4.pth")
    frame, poses = photo(mirrored=False).pixels, turned(YAWS_DEG)
    points = poses[0]
    matrix = ffhq_matrix(points, SIDE_PX)
    aligned = alignment.warp(frame, alignment.invert(matrix), (SIDE_PX, SIDE_PX))
    pixels = np.ascontiguousarray(aligned.transpose(2, 0, 1)[None]) / np.float32(127.5) - 1
    np.savez(folder / "given.npz", frame=frame, points=points, poses=poses, aligned=aligned, pixels=pixels)
    script, threads = ROOT / "tests" / "parity" / "gfpgan_package.py", str(torch.get_num_threads())
    command = [INTERPRETER, script, folder / "GFPGANv1.4.pth", folder / "given.npz", folder / "made.npz", threads]
    without_ours = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, env=without_ours, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    restore = restorers.open_restorer("gfpgan", folder / "GFPGANv1.4.pth")
    package = SimpleNamespace(**np.load(folder / "made.npz"))
    yield SimpleNamespace(
        package=package, restore=restore, frame=frame, poses=poses, matrix=matrix, aligned=aligned, pixels=pixels
    )
    (folder / "GFPGANv1.4.pth").unlink()


def levels(a, b) -> np.ndarray:
    """How far two pictures are apart, in levels of 0 to 255."""
    return np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32))


def test_networks_are_equal_to_the_last_bit(both):
    """With the noise of the file, as this project draws, and with new noise from one seed, as the package draws."""
    pixels, network, package = torch.from_numpy(both.pixels), both.restore.network, both.package
    with torch.inference_mode():
        torch.manual_seed(0)
        fresh, _ = network(pixels, return_rgb=False)
        fixed, _ = network(pixels, return_rgb=False, randomize_noise=False)
    np.testing.assert_array_equal(fixed.numpy(), package.fixed)
    np.testing.assert_array_equal(fresh.numpy(), package.fresh)
    spread, clipped = package.fixed.std(), (abs(package.fixed) > 1).mean()
    apart = levels(package.fresh, package.fixed).mean() * 127.5
    print(f"\nbit-equal networks; std of the picture {spread * 127.5:.0f} levels, {clipped:.1%} of it clipped;")
    print(f"new noise instead of the file's moves it by {apart:.1f} levels on average")
    assert spread > 0.2 and clipped < 0.2 and apart > 1, "a picture of one colour proves nothing"


def test_pictures_are_within_a_level_through_both_alignments(both):
    through_ours, through_theirs = both.restore(np.stack([both.aligned, both.package.crop.astype(np.float32)]))
    for name, ours, theirs in (
        ("our", through_ours, both.package.from_ours),
        ("the package's", through_theirs, both.package.from_own),
    ):
        apart = levels(np.rint(ours), theirs)
        print(f"\nthrough {name} alignment: at most {apart.max():.0f} level, {(apart > 0).mean():.3%} of values differ")
        assert theirs.std() > 20 and apart.max() <= 1


def test_how_far_the_two_alignments_are_apart(both):
    """Ours fits all five points by least squares; the package's leaves out points that fit badly (LMEDS)."""
    edge = np.array([-0.5, SIDE_PX - 0.5])
    corners = np.stack(np.meshgrid(edge, edge), -1).reshape(4, 2)
    ours = [ffhq_matrix(points, SIDE_PX) for points in both.poses]
    in_frame = [
        [alignment.apply(alignment.invert(matrix), corners) for matrix in one] for one in (ours, both.package.matrices)
    ]
    scale = np.array([alignment.scale_of(matrix) for matrix in ours])
    apart_px = np.linalg.norm(np.subtract(*in_frame), axis=-1).max(1) * scale
    far = (apart_px > 1).sum()
    print(f"\nalignments at the corners of {SIDE_PX} px: {apart_px[0]:.3f} px apart as photographed; head turned")
    print(f"by 0 to 60 degrees: {far} of {len(apart_px)} steps more than 1 px apart, up to {apart_px.max():.0f} px")
    for name, places in zip(("ours", "the package's"), in_frame, strict=True):
        step_px = np.linalg.norm(np.diff(places, axis=0), axis=-1).max(1) * scale[1:]
        print(f"from one degree to the next the corners of {name} move by at most {step_px.max():.1f} px")
    assert apart_px[0] < 0.5


def test_how_far_pasted_pictures_are_apart(both):
    frame, package, matrix = both.frame, both.package, both.matrix
    crops = levels(both.aligned, package.crop)
    height, width = frame.shape[:2]
    [restored] = both.restore(both.aligned[None])
    back = alignment.warp(restored, matrix, (width, height))
    square = np.zeros((SIDE_PX, SIDE_PX, 1), np.float32)
    square[SIDE_PX // 4 : -SIDE_PX // 4, SIDE_PX // 4 : -SIDE_PX // 4] = 1  # where the package's soft edge is 1
    middle = alignment.warp(square, matrix, (width, height), 0)[..., 0] == 1
    pasted = levels(back, package.pasted)[middle]
    print(f"\ncrops {crops.mean():.2f} levels apart on average; restored and pasted back, the middle of the face")
    print(f"{pasted.mean():.2f} on average, 99 % within {np.percentile(pasted, 99):.1f}, at most {pasted.max():.1f}")
    assert middle.sum() > 1000 and levels(back, frame)[middle].mean() > 20, "nothing was restored"
    assert pasted.mean() < 2
