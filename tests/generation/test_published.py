"""`--as-published`: each stage against what upstream's code produced, and the whole against a restatement in plain
numpy, torch, OpenCV and diffusers, from a description of upstream and with nothing of generation/published.py.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

import latentsync
from latentsync import config
from latentsync.audio import whisper
from latentsync.config import Generate, TrainVae
from latentsync.faces import alignment
from latentsync.faces.face import Detector
from latentsync.faces.mask import keep_mask
from latentsync.generation import published
from latentsync.generation.audio import driving_audio
from latentsync.generation.networks import Models
from latentsync.generation.session import LipSync
from latentsync.media.probe import probe_media
from latentsync.media.read import read_frames
from latentsync.models import vae as vaes
from latentsync.models.unet import UNet3D, UNetConfig
from tests.videos import head, write_video

R, WINDOW = 256, 8
ANCHORS = np.array([[542.0, 673.0], [622.0, 687.0], [567.0, 750.0]])
STEPS, GUIDANCE, SEED = 2, 1.5, 1247
# What `ffmpeg -r 25` (9.0.2) made of numbered frames: the first of four seconds, and how many there were in all.
FFMPEG = {
    (25, 100): ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24], 100),
    (30, 120): ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17, 19, 20, 21, 22, 23, 25, 26, 27], 102),
    (24, 96): ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23], 100),
    (16, 64): ([0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7, 7, 8, 9, 9, 10, 11, 11, 12, 13, 13, 14, 15, 15], 100),
    (60, 240): ([0, 1, 2, 4, 6, 9, 11, 14, 16, 18, 21, 23, 26, 28, 30, 33, 35, 38, 40, 42, 45, 47, 50, 52, 54], 102),
}


def small_models() -> Models:
    """Untrained networks for faces of the published size, in short windows."""
    torch.manual_seed(0)
    shape = UNetConfig(block_out_channels=(16, 16), cross_attention_dim=16, attention_heads=2, norm_groups=8)
    unet, vae = UNet3D(shape).eval(), vaes.build(TrainVae(block_out_channels=(8, 8, 8, 16))).eval()
    torch.nn.init.normal_(unet.conv_out.weight, std=0.1)
    return Models(
        unet.requires_grad_(False), vae.requires_grad_(False), whisper.build("embedded", width=16, layers=1), R, WINDOW
    )


@pytest.fixture(scope="module")
def models() -> Models:
    torch.set_num_threads(1)
    return small_models()


@pytest.fixture(scope="module")
def parity(golden):
    folder = golden("alignment")
    arrays = load_file(folder / "outputs.safetensors")
    return lambda name: arrays[name] if name in arrays else cv2.imread(str(folder / f"{name}.png"))[..., ::-1]


def within_a_level(ours: np.ndarray, upstreams: np.ndarray, equal: float) -> None:
    away = np.abs(ours.astype(int) - upstreams)
    assert away.max() <= 1 and (away == 0).mean() >= equal, (away.max(), (away == 0).mean())


# --- stages against upstream's own numbers ---


@pytest.mark.parametrize("resolution", [256, 512])
def test_crop_and_paste_are_upstreams(golden, parity, resolution):
    frame = np.ascontiguousarray(parity("frame_1080x1920"))
    matrix, _ = alignment.published_similarity(ANCHORS, resolution, None)
    within_a_level(published.crop(frame, matrix, resolution), parity(f"face_{resolution}"), 0.99)
    y0, y1, x0, x1 = json.loads((golden("alignment") / "info.json").read_text())[f"R{resolution}"]["roi_y0y1x0x1"]
    # Painted areas are whole numbers, which rounding errors truncate to either side.
    for kind, face, equal in (("unmodified", "face", 0.98), ("painted", "face_painted", 0.9)):
        pixels = (parity(f"{face}_{resolution}").astype(np.float64) / 255 * 2 - 1).astype(np.float32)
        restored = published.pasted_back(frame, pixels, matrix, resolution)
        within_a_level(restored[y0:y1, x0:x1], parity(f"restored_{kind}_{resolution}_roi"), equal)
        restored[y0:y1, x0:x1] = frame[y0:y1, x0:x1]
        assert (restored == frame).all()


def test_the_hard_mask_is_upstreams(golden, models, monkeypatch):
    """golden/mask: pixels where the mask is 1, what the VAE decoded (here a stored tensor) where it is 0."""
    folder = golden("mask")
    face = load_file(folder / "preprocess_inputs.safetensors")["face_256_uint8_chw"].transpose(1, 2, 0)
    decoded = torch.from_numpy(load_file(folder / "decoded.safetensors")["decoded"])
    wanted = load_file(folder / "preprocess_outputs.safetensors")["combined_pixel_values_rows_90_140"][0]
    drawing = published.Drawing(models, Generate(), np.zeros(16_000, np.float32))
    monkeypatch.setattr(drawing, "latents", lambda given, start: torch.zeros(1))
    monkeypatch.setattr(published.vaes, "decode", lambda vae, latents: decoded)
    [pixels] = drawing.window(face[None], 0)
    np.testing.assert_allclose(pixels[90:140].transpose(2, 0, 1), wanted, atol=1e-6)


def test_the_order_of_frames_and_the_noise_are_upstreams(golden):
    folder = golden("pipeline_bookkeeping")
    info = json.loads((folder / "info.json").read_text())
    for name, wanted in info["loop_video"].items():
        n, spoken = (int(part.strip("videoa")) for part in name.replace("audio", "").split("_"))
        order = published.there_and_back(min(n, spoken), spoken)
        if isinstance(wanted, dict):
            assert len(order) == wanted["len"] and order[-len(wanted["tail"]) :].tolist() == wanted["tail"]
        else:
            assert order.tolist() == wanted
    [noise] = load_file(folder / "outputs.safetensors").values()
    small = dataclasses.replace(small_models(), resolution=64)
    drawing = published.Drawing(small, Generate(seed=1247), np.zeros(16_000, np.float32))
    np.testing.assert_array_equal(drawing.noise[0, :, 0].numpy(), noise[0, :, 0])


@pytest.mark.parametrize(("rate", "n"), FFMPEG)
def test_frames_are_retimed_as_ffmpeg_does(rate, n):
    first, count = FFMPEG[rate, n]
    shown = published.retimed(np.arange(n) / rate, n / rate)
    assert shown[: len(first)].tolist() == first and len(shown) == count


@given(st.lists(st.floats(0.004, 0.5), min_size=1, max_size=60))
def test_any_frame_times_give_frames_in_order_and_about_as_many_as_25_a_second(lasts_s):
    times_s = np.cumsum([0.0, *lasts_s])
    shown = published.retimed(times_s[:-1], float(times_s[-1]))
    assert (np.diff(shown) >= 0).all() and 0 <= shown[0] and shown[-1] < len(lasts_s)
    assert abs(len(shown) - times_s[-1] * 25) <= 2.1
    late = np.arange(len(shown)) - times_s[shown] * 25  # ticks between when a frame is due and when it is shown
    assert late.max() < 14.1  # as long as the longest frame lasts


def test_audio_is_heard_in_pieces_of_30_s(models):
    samples = np.random.default_rng(0).normal(size=16_000 * 31).astype(np.float32).clip(-1, 1) / 4
    heard = published.Drawing(models, Generate(), samples).tokens
    own = whisper.WhisperFeatures(models.encoder.encoder, "published").features(samples)
    across = whisper.WhisperFeatures(models.encoder.encoder, "overlap").features(samples)
    for frame in (2, 745, 752):
        rows = np.arange(2 * frame - 4, 2 * frame + 6)
        np.testing.assert_allclose(heard(np.array([2 * frame]))[0].numpy(), own[rows].reshape(-1, 16), atol=1e-2)
    assert np.abs(own[1490:1510] - across[1490:1510]).max() > 0.1


# --- the whole ---


def similarity(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The matrix without bias, and the bias, by the formulas of the specification."""
    p1, p2 = (
        torch.from_numpy(points).double(),
        torch.tensor([[17.0, 20], [58, 20], [37.5, 40]]).double() * 2.8 * R / 256,
    )
    c1, c2 = p1.mean(0), p2.mean(0)
    s1, s2 = (p1 - c1).std(), (p2 - c2).std()
    n1, n2 = (p1 - c1) / s1, (p2 - c2) / s2
    u, _, v = torch.svd(n1.T @ n2)
    turn = v @ u.T
    scaled = s2 / s1 * turn
    return torch.cat([scaled, (c2 - scaled @ c1)[:, None]], 1).numpy(), (n2[2] - n1[2]).numpy()


def sampled(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], fill: float) -> np.ndarray:
    """`image` (h, w, c) warped by `matrix`, source -> target, as kornia does: grid_sample, and a fill beyond."""
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    y, x = np.mgrid[: size[1], : size[0]].astype(np.float64)
    at = np.stack([x, y, np.ones_like(x)], -1) @ back.T
    scale = 2 / (np.array(image.shape[1::-1]) - 1)
    grid = torch.from_numpy(at[None, ..., :2] * scale - 1)
    both = torch.from_numpy(np.concatenate([image, np.ones((*image.shape[:2], 1))], -1)).double().permute(2, 0, 1)[None]
    warped = F.grid_sample(both, grid, "bilinear", "zeros", align_corners=True)[0].permute(1, 2, 0).numpy()
    return warped[..., :-1] + (1 - warped[..., -1:]) * fill


def cropped(rgb: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    box = sampled(rgb, matrix, (210, 280), 127.0)
    return cv2.resize((box + 1e-9).astype(np.uint8), (R, R), interpolation=cv2.INTER_LANCZOS4)


def restored(frame: np.ndarray, face: torch.Tensor, matrix: np.ndarray) -> np.ndarray:
    """The whole box, 3 R R in [-1, 1], pasted back on the whole frame."""
    height, width = frame.shape[:2]
    box = F.interpolate(face[None].double(), (280, 210), mode="bicubic", antialias=True)[0].permute(1, 2, 0).numpy()
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    pasted = (sampled(box, inverse, (width, height), 127.0) / 2 + 0.5).clip(0, 1) * 255
    ones = sampled(np.ones((280, 210, 1)), inverse, (width, height), 0.0)[..., 0]
    eroded = cv2.erode(ones, np.ones((2, 2)))
    edge = int(eroded.sum() ** 0.5) // 20
    centre = cv2.erode(eroded, np.ones((2 * edge, 2 * edge)))
    size = 2 * edge + 1
    soft = cv2.GaussianBlur(centre, (size, size), 0.3 * ((size - 1) * 0.5 - 1) + 0.8)[..., None]
    return (soft * (eroded[..., None] * pasted) + (1 - soft) * frame + 1e-9).astype(np.uint8)


def matrices_of(frames: list[np.ndarray], detector: Detector) -> list[np.ndarray]:
    """Largest face, landmarks and anchors rounded, and the bias that moves from frame to frame."""
    detector.reset()
    matrices, bias, chart = [], None, detector.scheme
    for frame in frames:
        points = np.round(detector.detect(np.ascontiguousarray(frame))[0].landmarks)
        anchors = [points[list(one)].mean(0) for one in (chart.left_brow, chart.right_brow, chart.nose)]
        matrix, now = similarity(np.round(anchors))
        bias = now if bias is None else 0.2 * bias + 0.8 * now
        matrix[:, 2] += bias
        matrices.append(matrix)
    return matrices


def chunks_of(samples: np.ndarray, models: Models) -> list[torch.Tensor]:
    """Audio tokens of each frame, until the next would begin after the audio."""
    heard = (np.round(samples * 32768) / 32768).clip(-1, 32767 / 32768).astype(np.float32)
    features = whisper.WhisperFeatures(models.encoder.encoder, "published").features(heard)
    chunks = []
    while not chunks or 2 * (len(chunks) - 1) <= len(features):
        i = len(chunks)
        rows = [min(max(row, 0), len(features) - 1) for row in range(2 * (i - 2), 2 * (i + 3))]
        chunks.append(torch.from_numpy(features[rows]).flatten(0, 1))
    return chunks


def windows_of(
    faces: list[np.ndarray], order: list[int], chunks: list[torch.Tensor], models: Models
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Latents f c h w and pixels f 3 R R of each window; all draws come from the global generator, seeded once."""
    torch.manual_seed(SEED)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    keep, vae, scale = torch.from_numpy(keep_mask(R).copy()), models.vae, models.vae.config["scaling_factor"]
    noise = torch.randn(1, 4, 1, R // 8, R // 8).repeat(1, 1, len(order), 1, 1)
    for start in range(0, len(order), WINDOW):
        pixels = torch.from_numpy(np.stack([faces[k] for k in order[start : start + WINDOW]]))
        pixels = pixels.permute(0, 3, 1, 2) / 255 * 2 - 1
        masked, reference = (
            (vae.encode(one).latent_dist.sample() * scale).transpose(0, 1)[None] for one in (pixels * keep, pixels)
        )
        audio = torch.stack(chunks[start : start + WINDOW])[None]
        hole = F.interpolate(keep[None, None], (R // 8, R // 8))[:, :, None].expand(1, 1, len(pixels), -1, -1)
        latents = noise[:, :, start : start + WINDOW]
        scheduler.set_timesteps(STEPS)
        for t in scheduler.timesteps:
            sample = torch.cat([latents, hole, masked, reference], 1).repeat(2, 1, 1, 1, 1)
            null, spoken = models.unet(sample, t.repeat(2), torch.cat([torch.zeros_like(audio), audio])).chunk(2)
            eps = null + GUIDANCE * (spoken - null)
            latents = scheduler.step(eps, int(t), latents, eta=0.0, return_dict=False)[0]
        latents = latents[0].transpose(0, 1)
        yield latents, vae.decode(latents / scale).sample * (1 - keep) + pixels * keep


def read_by_opencv(path: Path) -> list[np.ndarray]:
    reader, frames = cv2.VideoCapture(str(path)), []
    while (read := reader.read())[0]:
        frames.append(read[1][..., ::-1])
    return frames


@pytest.fixture(scope="module")
def short_clip(clips, folder, speech):
    """Seven frames of a real clip with speech, written anew."""
    frames = [rgb for _, rgb in read_frames(clips / "vrt3.mp4", np.arange(7))]
    height, width = frames[0].shape[:2]
    audio = {"audio": speech[8000:13300], "audio_rate_hz": 16_000, "codec_options": {"crf": "18"}}
    return write_video(folder / "clip.mp4", 7, size=(width, height), images=lambda i, *_: frames[i], **audio)


@pytest.fixture
def session(models, monkeypatch):
    cfg = Generate(as_published=True, steps=STEPS, guidance=GUIDANCE, seed=SEED, max_s=None)
    with LipSync(generate=cfg) as opened:
        monkeypatch.setattr(opened, "models", lambda trained: models)
        yield opened


@torch.inference_mode()
def test_a_whole_clip_is_redrawn_as_upstream_redraws_it(session, models, short_clip, detector, monkeypatch, tmp_path):
    """Forwards and a little backwards, in a whole window and a shorter one."""
    seen: dict[str, list] = {"crop": [], "denoise": [], "write": []}

    def spied(owner, name):
        function = getattr(owner, name)

        def call(*arguments):
            result = function(*arguments)
            seen[name].append(arguments[1] if name == "write" else result)
            return result

        monkeypatch.setattr(owner, name, call)

    spied(published, "crop")
    spied(published.sampling, "denoise")
    spied(published.VideoWriter, "write")
    out = tmp_path / "out.mp4"
    result = session(short_clip, short_clip, out)

    frames, chunks = read_by_opencv(short_clip), chunks_of(driving_audio(short_clip).for_model, models)
    matrices = matrices_of(frames, detector)
    order = [*range(7), *range(6, -1, -1)][: len(chunks)]
    assert result.n_frames == result.n_generated == len(order) == 11
    assert [one.shape[1] for one in seen["denoise"]] == [8, 3]
    crops = [cropped(frame, matrix) for frame, matrix in zip(frames, matrices, strict=True)]
    for ours, k in zip(seen["crop"], order, strict=True):
        within_a_level(ours, crops[k], 0.99)
    # A crop that is truncated to the other side here and there moves the latents, so they start from the same crops.
    expected = list(windows_of(seen["crop"][:7], order, chunks, models))
    for ours, (latents, _) in zip(seen["denoise"], expected, strict=True):
        torch.testing.assert_close(ours[0], latents, atol=3e-5, rtol=0)
    pixels = torch.cat([drawn for _, drawn in expected])
    for ours, k, face in zip(seen["write"], order, pixels, strict=True):
        within_a_level(ours, restored(frames[k], face, matrices[k]), 0.98)
        assert np.abs(ours.astype(int) - frames[k]).max() > 50
    info = probe_media(out)
    assert (info.n_frames, info.fps, info.audio_rate_hz) == (11, 25, 16_000)


def test_a_frame_without_a_face_ends_it_with_one_sentence(session, folder, short_clip, tmp_path):
    empty = [head(0) if i < 3 else np.full((176, 208, 3), 90, np.uint8) for i in range(6)]
    video = write_video(folder / "empty.mp4", 6, size=(208, 176), images=lambda i, *_: empty[i])
    with pytest.raises(ValueError, match=r"^--video \S*empty.mp4 shows no face in frame 3 at 25 fps \(0.12 s\), where"):
        session(video, short_clip, tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []


def test_what_would_have_no_effect_is_refused(folder, short_clip, tmp_path):
    for keys, words in (
        ({"overlap": 4}, r"^--overlap 4 \(generate.overlap\) has no effect with --as-published"),
        ({"solver": "unipc"}, "--solver unipc"),
        ({"length": "video"}, "--length video"),
        ({"guided_to": 0.0}, "--guided-to 0.0"),
    ):
        with pytest.raises(ValueError, match=words):
            config.validate({"generate": {"as_published": True} | keys})
    config.validate({"generate": {"as_published": True, "overlap": 0, "steps": 25, "guidance": 2.0, "max_s": 5.0}})
    files = short_clip, short_clip, tmp_path / "out.mp4", "none"
    unpublished: dict[str, dict[str, Any]] = {
        "--tiny-vae": {"preview": True},
        "--start": {"start_s": 0.1},
        "--end": {"end_s": 0.2},
    }
    for option, extra in unpublished.items():
        with pytest.raises(ValueError, match=f"^{option} is no part of the published pipeline; leave out"):
            latentsync.lip_sync(*files, generate={"as_published": True}, **extra)
