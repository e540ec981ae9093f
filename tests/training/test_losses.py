"""The losses against golden/losses; TREPA's teacher is in test_teachers.py."""

import json
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file
from torch._subclasses.fake_tensor import FakeTensorMode

from latentsync.config import TrainUnetStage2
from latentsync.models import teachers
from latentsync.training import losses


@pytest.fixture(scope="module")
def published(golden):
    folder = golden("losses")
    return load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")


def test_recon(published):
    inputs, outputs = published
    ours = losses.recon(inputs["pred_noise"], inputs["noise"])
    torch.testing.assert_close(ours, outputs["recon_mse"], rtol=1e-6, atol=0)


def test_sync(published):
    inputs, outputs = published
    vision, audio, y = inputs["vision_embeds"], inputs["audio_embeds"], inputs["y"]
    torch.testing.assert_close(losses.cosine(vision, audio), outputs["cosine"], rtol=1e-6, atol=0)
    torch.testing.assert_close(losses.sync(vision, audio, y), outputs["sync_loss_mean"], rtol=1e-6, atol=0)
    each = torch.stack([losses.sync(vision[i : i + 1], audio[i : i + 1], y[i]) for i in range(4)])
    torch.testing.assert_close(each, outputs["sync_loss_per_sample"], rtol=1e-6, atol=0)


def test_sync_at_the_edges(golden):
    """Inside (0, 1) the published number. At 0 and 1 upstream says 100 and beyond them it raises: ours stays finite."""
    cases = json.loads((golden("losses") / "info.json").read_text())["bce_edge_cases"]
    assert len(cases) == 6
    for cosine, expected in cases.items():
        cosine = float(cosine)
        vision = torch.tensor([[cosine, max(0.0, 1 - cosine**2) ** 0.5]])
        right, wrong = (float(losses.sync(vision, torch.tensor([[1.0, 0]]), torch.tensor([y]))) for y in (1.0, 0.0))
        if 0 < cosine < 1:
            assert (right, wrong) == pytest.approx((expected["y1"], expected["y0"]), rel=1e-6, abs=0)
        else:
            assert expected in ({"y1": 100, "y0": 0}, {"y1": 0, "y0": 100}) or "RuntimeError" in expected
            low, high = (right, wrong) if cosine > 0.5 else (wrong, right)
            assert 0 < low < 1.1e-6 and high == pytest.approx(-torch.tensor(1e-6).log().item(), abs=0.02)


def test_the_published_weights_give_the_published_total(golden):
    example = json.loads((golden("losses") / "info.json").read_text())["total_example"]
    configured = TrainUnetStage2().losses.model_dump()
    assert configured == example["weights"]
    values = example | {"lpips": example["lpips_assumed"]}
    assert sum(weight * values[name] for name, weight in configured.items()) == pytest.approx(example["total"])


def test_sync_of_equal_and_of_strange_vectors_is_finite_with_finite_gradients():
    """Upstream's loss raises here: the cosine of equal unit vectors reaches 1.0000004."""
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.rand(2000, 512), dim=1)
    assert torch.nn.functional.cosine_similarity(vectors, vectors).max() > 1
    disjoint = torch.eye(2000, 512).roll(1, 1)
    for other in (vectors, torch.eye(2000, 512), disjoint):
        for y in (0.0, 1.0):
            for first in (vectors, torch.eye(2000, 512)):
                leaf = first.clone().requires_grad_()
                loss = losses.sync(leaf, other, torch.full((2000, 1), y))
                loss.backward()
                assert loss.isfinite() and leaf.grad.isfinite().all() and leaf.grad.norm() < 1e7
    assert losses.sync(vectors, vectors, torch.ones(2000)) < 1e-3


@contextmanager
def imagined_gpu(dtype):
    """Tensors without numbers on a GPU that need not exist, under its autocast: shows what its rules refuse."""
    torch.set_autocast_enabled("cuda", True)  # torch.autocast would switch itself off without a GPU
    torch.set_autocast_dtype("cuda", dtype)
    try:
        with FakeTensorMode():
            yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.set_autocast_dtype("cuda", torch.float16)
        torch.clear_autocast_cache()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_of_a_gpu_refuses_no_loss(dtype):
    with imagined_gpu(dtype):
        vectors = torch.rand(4, 8, device="cuda", requires_grad=True) @ torch.rand(8, 8, device="cuda")
        assert vectors.dtype == dtype
        with pytest.raises(RuntimeError, match="unsafe to autocast"):
            torch.nn.functional.binary_cross_entropy(vectors.float(), vectors.float())
        assert losses.sync(vectors, vectors.float(), torch.ones(4, 1, device="cuda")).dtype == torch.float32
        assert losses.recon(vectors, vectors.float()).dtype == torch.float32
        assert losses.trepa(vectors, vectors.float()).dtype == torch.float32


def test_sync_under_autocast_is_the_same_number():
    a, b, y = torch.rand(4, 8), torch.rand(4, 8), torch.tensor([1.0, 0, 1, 0])
    with torch.autocast("cpu", torch.bfloat16):
        inside = losses.sync(a, b, y)
    assert inside.equal(losses.sync(a, b, y))


def test_resize_is_bicubic_without_antialias(published):
    inputs, outputs = published
    ours = losses.resize_bicubic(inputs["pixels_for_bicubic"], 16)
    torch.testing.assert_close(ours, outputs["bicubic_32_to_16_no_antialias"], atol=1e-5, rtol=0)
    assert (ours - outputs["bicubic_32_to_16_WITH_antialias_for_contrast"]).abs().max() > 1
    same = torch.rand(1, 3, 8, 8)
    assert losses.resize_bicubic(same, 8) is same


def test_trepa_input(published):
    inputs, outputs = published
    clip = teachers.trepa_input(inputs["video_fake"], 224)
    assert clip.shape == (1, 3, 16, 224, 224)
    assert (clip.min(), clip.max()) == (0, 1)  # clamped: bicubic overshoots and so do the pixels
    torch.testing.assert_close(clip[:, :, 0], outputs["trepa_pre_fake_frame0"], atol=1e-5, rtol=0)
    means = clip.mean(dim=(0, 1, 3, 4))
    torch.testing.assert_close(means, outputs["trepa_pre_fake_mean_per_frame"], atol=1e-5, rtol=0)


def test_trepa_ignores_the_length_of_features():
    a, b = torch.rand(2, 6), torch.rand(2, 6)
    torch.testing.assert_close(losses.trepa(3 * a, b), losses.trepa(a, 0.1 * b))
    assert losses.trepa(a, 5 * a) < 1e-12 < losses.trepa(a, b)


def test_frames_and_halves():
    pixels = torch.arange(2 * 3 * 4 * 6 * 5).reshape(2, 3, 4, 6, 5)
    stacked = losses.frames_on_channels(pixels)
    assert stacked.shape == (2, 12, 6, 5)
    assert torch.equal(stacked[1, 3 * 2 + 1], pixels[1, 1, 2])  # channel = 3 * frame + colour
    frames = losses.frames_on_batch(pixels)
    assert frames.shape == (8, 3, 6, 5) and torch.equal(frames[4 * 1 + 2], pixels[1, :, 2])
    assert torch.equal(losses.lower_half(pixels), pixels[..., 3:, :])


def test_lpips_looks_at_the_lower_half_only():
    def distance(a, b):
        assert a.shape == (2 * 3, 3, 4, 8)
        return (a - b).abs().mean(dim=(1, 2, 3), keepdim=True)

    real, upper, lower = torch.zeros(3, 2, 3, 3, 8, 8).unbind(0)
    upper = upper.clone()
    upper[..., :4, :] = 1
    lower = lower.clone()
    lower[..., 4:, :] = 1
    assert losses.lpips(distance, upper, real) == 0
    assert losses.lpips(distance, lower, real) == 1
