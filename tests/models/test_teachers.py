"""LPIPS and the TREPA teacher: published numbers at tiny size, and what the embedded ones can tell apart."""

import json

import pytest
import torch
from safetensors.torch import load_file

from latentsync.models import teachers
from latentsync.training import losses
from latentsync.weights import files as weight_files
from latentsync.weights import layouts, registry

GOLDEN = {"image_size": 224, "patch_size": 14, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
GOLDEN |= {"intermediate_size": 209, "num_frames": 16, "num_labels": 174}  # int(48 * 48 / 11)


def test_trepa_is_the_published_one(golden):
    folder = golden("losses")
    inputs, outputs = load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")
    teacher = teachers.VideoTeacher(teachers.config(GOLDEN)).eval()
    state = layouts.videomae_state(load_file(folder / "videomaev2_tiny_weights.safetensors"))
    weight_files.load_strictly(teacher.net, state, "golden")
    fake = inputs["video_fake"].clone().requires_grad_()
    features_fake, features_real = teacher(fake), teacher(inputs["video_real"])
    for ours, name in ((features_fake, "fake"), (features_real, "real")):
        torch.testing.assert_close(ours, outputs[f"trepa_feat_{name}_unnormalised"], atol=1e-4, rtol=0)
    loss = losses.trepa(features_fake, features_real)
    torch.testing.assert_close(loss, outputs["trepa_loss"], rtol=1e-3, atol=0)
    loss.backward()
    gradient = outputs["trepa_grad_fake"]
    torch.testing.assert_close(fake.grad, gradient, atol=1e-3 * float(gradient.abs().max()), rtol=0)


def test_the_giant_has_the_published_shapes(golden):
    published = json.loads((golden("losses") / "keys_full_videomaev2_giant.json").read_text())
    size = json.loads((golden("losses") / "info.json").read_text())["videomae_giant"]
    few = teachers.VIDEOMAE_V2["giant"] | {"num_frames": 2}  # changes no weight, only the position table, which is slow
    with torch.device("meta"):
        state = {key: torch.empty(value) for key, value in published.items()}
        teacher = teachers.VideoTeacher(teachers.config(few))
    expected = {key: value.shape for key, value in layouts.videomae_state(state).items()}
    assert {key: value.shape for key, value in teacher.net.state_dict().items()} == expected
    assert len(published) == size["keys"]
    assert sum(parameter.numel() for parameter in teacher.net.parameters()) == size["params"]


@pytest.mark.parametrize("size, width, layers", [("base", 768, 12), ("small", 384, 12)])
def test_smaller_published_teachers_load_from_upstreams_names(golden, weights_folder, monkeypatch, size, width, layers):
    """Two of twelve blocks, under the names of the giant's published file."""
    published = json.loads((golden("losses") / "keys_full_videomaev2_giant.json").read_text())
    shape = teachers.VIDEOMAE_V2[size]
    assert (shape["hidden_size"], shape["num_hidden_layers"]) == (width, layers)
    monkeypatch.setitem(teachers.VIDEOMAE_V2, size, shape | {"num_hidden_layers": 2, "image_size": 32})
    sizes = {1408: width, 6144: 4 * width, 3 * 1408: 3 * width, 174: 710}
    torch.manual_seed(0)
    state = {}
    for key, old in published.items():
        if not key.startswith("blocks.") or int(key.split(".")[1]) < 2:
            new = [width, 3, 2, 16, 16] if key == "patch_embed.proj.weight" else [sizes.get(side, side) for side in old]
            state[key] = 0.02 * torch.randn(new)
    (weights_folder / "auxiliary").mkdir()
    torch.save({"module": state}, registry.entry(f"videomae_{size}").path)
    teacher = teachers.video("published", size=size)
    assert teacher(torch.rand(1, 3, 16, 48, 48) * 2 - 1).shape == (1, width)
    loaded = teacher.net.videomae.encoder.layer[1].attention.attention.key.weight
    assert torch.equal(loaded, state["blocks.1.attn.qkv.weight"][width : 2 * width])


def test_normalisation_is_what_the_teacher_was_trained_on(clip):
    """[0, 1] with ImageNet's mean and deviation taken out; published: [0, 1] as it is."""
    seen = {}
    for normalise in ("none", "imagenet"):
        teacher = teachers.video("embedded", normalise=normalise)
        patches = teacher.net.videomae.embeddings.patch_embeddings
        hook = patches.register_forward_pre_hook(lambda _, inputs, n=normalise: seen.__setitem__(n, inputs[0]))
        teacher(clip)
        hook.remove()
    plain, normal = seen["none"], seen["imagenet"]  # b f c h w
    assert 0 <= plain.min() and plain.max() <= 1
    for channel, (mean, std) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
        torch.testing.assert_close(normal[:, :, channel] * std + mean, plain[:, :, channel])


@pytest.fixture(scope="module")
def clip():
    """A pattern that moves to the left: 1 3 16 64 64 in [-1, 1]."""
    y, x = torch.meshgrid(torch.linspace(0, 6, 64), torch.linspace(0, 6, 64), indexing="ij")
    frames = torch.stack([torch.sin(x + 0.4 * k) * torch.cos(y) for k in range(16)])
    return frames.expand(1, 3, -1, -1, -1).contiguous()


def test_embedded_video_teacher_sees_changes_and_order(clip):
    teacher = teachers.video("embedded")

    def distance(other):
        return float(losses.trepa(teacher(other), teacher(clip)))

    assert distance(clip) == 0
    little, much = (clip + amount * torch.ones_like(clip).tril() for amount in (0.02, 0.3))
    assert 0 < distance(little) < distance(much)
    assert distance(clip.flip(2)) > 1e-7  # the same frames, the other way round
    assert teachers.video("embedded", frames=4)(clip[:, :, :4]).shape == (1, 96)


def test_embedded_perceptual_distance(clip):
    distance = teachers.perceptual("embedded")
    frames = losses.frames_on_batch(clip)
    noise = torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))
    near, far = distance(frames + 0.02 * noise, frames), distance(frames + 0.3 * noise, frames)
    assert near.shape == (16, 1, 1, 1)
    assert distance(frames, frames).abs().max() == 0
    assert (0 < near).all() and (near < far).all()


def test_gradients_reach_the_pixels_and_not_the_teachers(clip):
    video, perceptual = teachers.video("embedded"), teachers.perceptual("embedded")
    noise = torch.randn(clip.shape, generator=torch.Generator().manual_seed(0))
    for loss in (
        lambda fake: losses.trepa(video(fake), video(clip)),
        lambda fake: losses.lpips(perceptual, fake, clip),
    ):
        fake = (clip + 0.1 * noise).requires_grad_()
        loss(fake).backward()
        assert fake.grad.norm() > 0
    for teacher in (video, perceptual):
        assert not teacher.training and all(parameter.grad is None for parameter in teacher.parameters())


def test_embedded_teachers_depend_on_their_seed_alone(clip):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    one, two, other = (teachers.video("embedded", seed=seed)(clip) for seed in (0, 0, 1))
    assert torch.equal(one, two) and not torch.equal(one, other)
    frames = clip[:, :, 0]
    one, two, other = (teachers.perceptual("embedded", seed)(frames, frames.flip(3)) for seed in (0, 0, 1))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_published_lpips_takes_torchvisions_vgg16(weights_folder):
    import torchvision

    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = torchvision.models.vgg16().state_dict()
    state = {key: torch.randn(value.shape) * 0.05 for key, value in shapes.items() if key.startswith("features.")}
    (weights_folder / "auxiliary").mkdir()
    torch.save(state, weights_folder / "auxiliary" / "vgg16-397923af.pth")
    net = teachers.perceptual("published")
    assert torch.equal(net.net.slice5[1].weight, state["features.24.weight"])  # 23 is the pool that opens slice 5
    assert float(net.lin0.model[-1].weight.min()) >= 0 and float(net.lin0.model[-1].weight.max()) > 0  # learned, 0.1
    a, b = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    assert (net(a, b) > 0).all()


def test_missing_weights_and_wrong_lengths_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match="vgg16-397923af.pth is missing"):
        teachers.perceptual("published")
    with pytest.raises(ValueError, match="vit_g_hybrid_pt_1200e_ssv2_ft.pth is missing"):
        teachers.video("published")
    with pytest.raises(ValueError, match="frames is 8, but the published TREPA teacher was trained on 16"):
        teachers.video("published", frames=8)
    with pytest.raises(ValueError, match="frames is 5"):
        teachers.video("embedded", frames=5)
