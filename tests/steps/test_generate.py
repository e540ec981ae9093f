"""Lip-sync on small real faces with small untrained networks: what must stay as it is, what must change, and when."""

import dataclasses
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from skimage import data

from latentsync.audio import whisper
from latentsync.config import Generate, GenerateInRun, TrainVae
from latentsync.generation import paste, speakers
from latentsync.generation import video as video_io
from latentsync.generation.audio import DrivingAudio
from latentsync.generation.networks import Models
from latentsync.generation.paste import paste_region
from latentsync.generation.pipeline import redraw
from latentsync.ledger.files import read_ledger, write_ledger
from latentsync.ledger.rows import Rejection
from latentsync.media import ahead
from latentsync.media.frames import native_rgb, planes
from latentsync.media.probe import probe_media
from latentsync.media.read import frame_times, read_frames, read_video_frames
from latentsync.models import vae as vaes
from latentsync.models.unet import UNet3D, UNetConfig
from latentsync.steps import generate
from latentsync.weights import files as weight_files
from tests.videos import head, write_video

RESOLUTION = 64
LOSSLESS = {"crf": 0, "steps": 2, "guidance": 1.0, "length": "video", "overlap": 0}


def face_or_nothing(index: int, width: int = 208, height: int = 176) -> np.ndarray:
    """Frames 8 to 19 are empty."""
    return np.full((height, width, 3), 90, np.uint8) if 8 <= index < 20 else head(index, width, height)


def speech(length_s: float, seed: int = 0) -> np.ndarray:
    t = np.arange(round(length_s * 16_000)) / 16_000
    generator = np.random.default_rng(seed)
    return (0.3 * np.sin(2 * np.pi * generator.uniform(120, 200) * t) * (np.sin(9 * t) > 0)).astype(np.float32)


def small_models(frames: int = 8) -> Models:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    unet = UNet3D(
        UNetConfig(
            block_out_channels=(16, 16),
            cross_attention_dim=16,
            attention_heads=2,
            norm_groups=8,
            motion_max_frames=frames,
        )
    )
    torch.nn.init.normal_(unet.conv_out.weight, std=0.2)  # as built it starts at zero and would ignore the audio
    vae = vaes.build(TrainVae(block_out_channels=(8, 8, 8, 16))).eval().requires_grad_(False)
    encoder = whisper.build("embedded", width=16, layers=1, seed=0)
    return Models(unet.eval().requires_grad_(False), vae, encoder, RESOLUTION, frames)


@pytest.fixture(scope="module")
def models() -> Models:
    return small_models()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_video(
        tmp_path_factory.mktemp("source") / "a b.mp4",
        30,
        images=head,
        size=(208, 176),
        audio=np.zeros(48_000, np.float32),
    )


@pytest.fixture(scope="module")
def tracks(source, detector):
    return speakers.track_video(source, detector)


def decoded(path) -> list:
    return [paste.copied(frame) for _, frame in read_video_frames(path)]


def assert_same_outside(before, after, matrix) -> int:
    """Luma and chroma are equal wherever the mask is 0; returns how many luma pixels differ inside."""
    region, alpha = paste_region((before.height, before.width), matrix, RESOLUTION)
    full = np.zeros((before.height, before.width), bool)
    full[region[1] : region[3], region[0] : region[2]] = alpha > 0
    for old, new in zip(planes(before), planes(after), strict=True):
        step_y, step_x = -(-full.shape[0] // old.shape[0]), -(-full.shape[1] // old.shape[1])
        padded = np.pad(full, ((0, -full.shape[0] % step_y), (0, -full.shape[1] % step_x)))
        touched = padded.reshape(old.shape[0], step_y, old.shape[1], step_x).any((1, 3))
        assert (old[~touched] == new[~touched]).all()
    luma = [planes(frame)[0].astype(int) for frame in (before, after)]
    return int((np.abs(luma[0] - luma[1]) > 8).sum())


def test_only_the_mouth_region_changes(source, tracks, models, tmp_path):
    report = redraw(
        source,
        DrivingAudio(speech(1.2)),
        tmp_path / "out.mp4",
        models,
        Generate(**LOSSLESS),
        tracks,
    )
    assert report["n_frames"] == report["n_generated"] == 30 and report["passed_through"] == {}
    before, after = decoded(source), decoded(tmp_path / "out.mp4")
    assert len(after) == 30
    changed = [assert_same_outside(*frames) for frames in zip(before, after, report["matrices"], strict=True)]
    assert min(changed) > 500  # an untrained net draws anything but a mouth


def test_after_the_audio_comes_silence_not_its_last_vowel(source, tracks, models, tmp_path):
    """With length video short audio is as good as the same audio followed by silence to the end of the video."""
    short = speech(0.5)
    silence = np.zeros(round(1.2 * 16_000) - len(short), np.float32)
    for name, sound in (("short", short), ("padded", np.concatenate([short, silence]))):
        redraw(source, DrivingAudio(sound), tmp_path / f"{name}.mp4", models, Generate(**LOSSLESS), tracks)
    for (_, one), (_, other) in zip(*(read_frames(tmp_path / f"{n}.mp4") for n in ("short", "padded")), strict=True):
        np.testing.assert_array_equal(one, other)


def test_pixels_that_are_not_square_stay_so(models, detector, tmp_path):
    """An anamorphic source (HDV, DV) must not come out squeezed."""
    wide = Fraction(4, 3)
    video = write_video(tmp_path / "hdv.mp4", 8, images=head, size=(208, 176), sample_aspect=wide)
    found = speakers.track_video(video, detector)
    report = redraw(video, DrivingAudio(speech(0.32)), tmp_path / "out.mp4", models, Generate(**LOSSLESS), found)
    assert report["n_generated"] == 8
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        next(container.decode(stream))
        assert (stream.width, stream.sample_aspect_ratio, stream.codec_context.sample_aspect_ratio) == (208, wide, wide)


def test_the_same_seed_gives_the_same_bytes(source, tracks, models, tmp_path):
    bytes_of = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        out = tmp_path / f"{name}.mp4"
        redraw(source, DrivingAudio(speech(1.2)), out, models, Generate(**LOSSLESS, seed=seed), tracks)
        bytes_of.append(out.read_bytes())
    assert bytes_of[0] == bytes_of[1] != bytes_of[2]


class Loudness(whisper.WhisperFeatures):
    """Audio features of no reach: each row is the mean level of its own 20 ms."""

    def __init__(self):
        pass

    def rows(self, samples: np.ndarray) -> torch.Tensor:
        level = np.abs(samples[: len(samples) // 320 * 320]).reshape(-1, 320).mean(1)
        return torch.from_numpy(np.tile(level[:, None, None], (1, 2, 16)).astype(np.float32))


def test_the_audio_at_its_own_time_moves_the_mouth(source, tracks, models, tmp_path):
    """Other audio in the last 0.2 s changes the windows of frames that hear it, and no other frame at all."""
    local = dataclasses.replace(models, encoder=Loudness())
    sound = speech(1.2)
    other = sound.copy()
    other[-3200:] = 0.9
    images = []
    for name, samples in (("a", sound), ("b", other)):
        redraw(source, DrivingAudio(samples), tmp_path / f"{name}.mp4", local, Generate(**LOSSLESS), tracks)
        images.append([rgb.astype(int) for _, rgb in read_frames(tmp_path / f"{name}.mp4")])
    difference = [np.abs(a - b).max() for a, b in zip(*images, strict=True)]
    assert max(difference[:16]) == 0  # frame 22 hears rows up to 49, the audio changes at row 50; windows are of 8
    assert min(difference[24:]) > 0


def test_frames_without_a_face_pass_through(detector, models, tmp_path):
    source = write_video(tmp_path / "gap.mp4", 30, images=face_or_nothing, size=(208, 176))
    found = speakers.track_video(source, detector)
    report = redraw(source, DrivingAudio(speech(1.2)), tmp_path / "out.mp4", models, Generate(**LOSSLESS), found)
    assert report["n_frames"] == 30 and report["passed_through"] == {"no_face": 12} and report["n_generated"] == 18
    for index, (before, after) in enumerate(zip(decoded(source), decoded(tmp_path / "out.mp4"), strict=True)):
        if 8 <= index < 20:
            assert np.isnan(report["matrices"][index]).all()
            assert all(np.array_equal(*pair) for pair in zip(planes(before), planes(after), strict=True))
        else:
            assert assert_same_outside(before, after, report["matrices"][index]) > 500


def test_a_video_without_a_usable_face_is_refused_and_nothing_is_written(source, tracks, models, tmp_path):
    empty = write_video(tmp_path / "none.mp4", 12, size=(160, 64))
    out, cfg = tmp_path / "out.mp4", Generate(**LOSSLESS)
    with pytest.raises(Rejection, match="not_redrawn: no_face in 12 frames"):
        redraw(empty, DrivingAudio(speech(1)), out, models, cfg, [])
    with pytest.raises(Rejection, match="not_redrawn: too_small in 30 frames"):
        redraw(source, DrivingAudio(speech(1)), out, models, cfg.model_copy(update={"min_face_px": 500}), tracks)
    assert [path.name for path in tmp_path.iterdir()] == ["none.mp4"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ntsc", {"fps": Fraction(30000, 1001)}),
        ("vfr", {"times_s": [0.0, 0.03, 0.08, 0.11, 0.16, 0.2, 0.22, 0.3, 0.34, 0.4]}),
        ("turned", {"rotation": (90, False)}),
        ("mirrored", {"rotation": (180, True)}),
        ("deep", {"pix_fmt": "yuv420p10le"}),
        ("fine", {"pix_fmt": "yuv444p"}),
        ("odd", {"size": (207, 175), "pix_fmt": "yuv444p"}),
    ],
)
def test_format_times_and_turn_are_the_sources(name, options, detector, models, tmp_path):
    turn = options.get("rotation")

    def images(index, width, height):
        if turn is None:
            return head(index, width, height)
        upright = head(index, *((height, width) if turn[0] == 90 else (width, height)))
        lying = np.rot90(upright, -turn[0] // 90)
        return np.ascontiguousarray(lying[:, ::-1] if turn[1] else lying)

    size = {"size": (208, 176)} | {key: value for key, value in options.items() if key == "size"}
    source = write_video(tmp_path / f"{name}.mp4", 10, images=images, **(options | size))
    upright = next(iter(read_frames(source)))[1].astype(int)
    expected = head(0, *upright.shape[1::-1]).astype(int)
    assert np.abs(upright - expected).mean() < 12  # the test's own image is upright
    found = speakers.track_video(source, detector)
    assert len(found) == 1
    report = redraw(source, DrivingAudio(speech(1)), tmp_path / "out.mp4", models, Generate(**LOSSLESS), found)
    before, after = probe_media(source), probe_media(tmp_path / "out.mp4")
    assert report["n_generated"] == before.n_frames == after.n_frames
    for field in ("width", "height", "rotation_deg", "pix_fmt", "fps"):
        assert getattr(before, field) == getattr(after, field), field
    (times, end_s), (new_times, new_end_s) = frame_times(source), frame_times(tmp_path / "out.mp4")
    np.testing.assert_allclose(times, new_times, atol=2e-5)
    assert end_s == pytest.approx(new_end_s, abs=2e-3)
    for pair in zip(decoded(source), decoded(tmp_path / "out.mp4"), report["matrices"], strict=True):
        assert assert_same_outside(*pair) > 100


@pytest.mark.parametrize("rotation", [None, (90, False), (270, True), (180, False), (0, True)])
def test_native_rgb_turned_by_to_displayed_is_what_is_shown(rotation, tmp_path):
    source = write_video(tmp_path / "v.mp4", 2, images=head, size=(208, 176), rotation=rotation)
    [(_, frame)] = read_video_frames(source, np.array([0]))
    [(_, shown)] = read_frames(source, np.array([0]))
    native, matrix = native_rgb(frame), paste.to_displayed(frame)
    y, x = np.mgrid[0:176:25, 0:208:25].reshape(2, -1)
    at_x, at_y = (matrix[:2] @ np.stack([x, y, np.ones_like(x)])).round().astype(int)
    np.testing.assert_array_equal(native[y, x], shown[at_y, at_x])


def test_the_video_plays_back_and_forth_until_the_audio_ends(source, tracks, models, tmp_path):
    sound = speech(2.0)
    cfg = Generate(**(LOSSLESS | {"length": "audio"}))
    report = redraw(source, DrivingAudio(sound), tmp_path / "out.mp4", models, cfg, tracks)
    assert report["order"].tolist() == [*range(30), *range(29, 9, -1)]
    before, after = decoded(source), decoded(tmp_path / "out.mp4")
    assert len(after) == 50
    for index, frame in zip(report["order"], after, strict=True):
        assert_same_outside(before[index], frame, report["matrices"][list(report["order"]).index(index)])
    assert frame_times(tmp_path / "out.mp4")[1] == pytest.approx(2.0)
    cut = redraw(source, DrivingAudio(sound[:8000]), tmp_path / "cut.mp4", models, cfg, tracks)
    assert cut["n_frames"] == 13 and probe_media(tmp_path / "cut.mp4").n_frames == 13


@pytest.mark.parametrize("length", ["video", "audio"])
def test_no_more_than_a_batch_of_windows_is_held(source, tracks, models, tmp_path, monkeypatch, length):
    read, written, most = 0, 0, 0

    def counting(path, indices, deinterlace):
        nonlocal read, most
        for pair in read_video_frames(path, indices, deinterlace):
            read += 1
            most = max(most, read - written)
            yield pair

    class Writer(video_io.VideoWriter):
        def write_frame(self, frame):
            nonlocal written
            written += 1
            super().write_frame(frame)

    monkeypatch.setattr(video_io, "read_video_frames", counting)
    monkeypatch.setattr(video_io, "VideoWriter", Writer)
    monkeypatch.setattr(video_io, "BACKWARDS_BLOCK", 8)
    cfg = Generate(**(LOSSLESS | {"length": length, "steps": 1, "overlap": 3, "batch_size": 2}))
    report = redraw(source, DrivingAudio(speech(6)), tmp_path / "out.mp4", models, cfg, tracks)
    assert written == report["n_frames"] == (30 if length == "video" else 150)
    read_ahead, drawn, between_threads = 2 * models.frames, 2 * models.frames, 2 * ahead.DEPTH + 3
    assert most <= read_ahead + drawn + between_threads + (8 if length == "audio" else 0)


def test_the_second_person_never_takes_over():
    def track(start, stop, width, birth):
        n = stop - start
        boxes = np.tile(np.float32([0, 0, width, width]), (n, 1))
        return speakers.Track(start, stop, birth, None, None, None, boxes, None, np.ones(n, bool), boxes[:, :2], None)

    speaker, other, later = track(0, 20, 90, 0), track(5, 30, 60, 1), track(35, 40, 60, 2)
    labels = speakers.speaking([speaker, other, later], 42)
    assert labels.tolist() == [0] * 20 + [speakers.OTHER_FACE] * 10 + [speakers.NO_FACE] * 5 + [2] * 5 + [-1] * 2
    chosen = speakers.speaking([speaker, other, later], 42, chosen=[1])
    assert chosen.tolist() == [speakers.OTHER_FACE] * 5 + [1] * 25 + [speakers.NO_FACE] * 5 + [2] * 5 + [-1] * 2


def test_a_cut_ends_the_track(detector, tmp_path):
    def two_shots(index, width, height):
        return (
            head(index, width, height)
            if index < 20
            else 255 - data.coffee()[:height, :width]
            if index < 40
            else (head(index, width, height)[:, ::-1])
        )

    source = write_video(tmp_path / "shots.mp4", 60, images=two_shots, size=(208, 176))
    found = speakers.track_video(source, detector)
    assert sorted((track.start, track.stop) for track in found) == [(0, 20), (40, 60)]
    landmarks = found[1].landmarks
    assert speakers.same_face(found, np.arange(60) / 25, landmarks, found[1].start) == 1
    assert speakers.same_face(found, np.arange(60) / 25, landmarks + 200, found[1].start) is None


def test_a_video_without_consent_is_a_row_and_no_file(models, tmp_path):
    """Neither video exists, so that looking at one would be another reason."""
    run = tmp_path / "results" / "run"
    unet, vae = tmp_path / "unet.safetensors", tmp_path / "vae.safetensors"
    facts = {"frames": 8, "resolution": RESOLUTION, "audio_encoder": {"backend": "embedded"}}
    weight_files.save(unet, models.unet.state_dict(), dataclasses.asdict(models.unet.config), **facts)
    vaes.save(vae, models.vae, 1.0)
    pairs = [
        {
            "id": f"{name}--{name}",
            "kind": "cross",
            "cross_rank": number,
            "picture_id": name,
            "picture_path": f"{name}.mp4",
            "picture_clips": [],
        }
        for number, name in enumerate(("ended", "none"))
    ]
    write_ledger(run / "select_clips/pairs.jsonl", pairs)
    write_ledger(run / "select_clips/test.jsonl", [])
    (tmp_path / "generation.json").write_text('{"ended.mp4": "2026-01-01"}')
    names = {"pairs": run / "select_clips/pairs.jsonl", "test": run / "select_clips/test.jsonl", "unet": unet}
    names |= {"vae": vae, "consent": tmp_path / "generation.json"}
    outputs = {"ledger": run / "generate/00000.jsonl"}
    generate.run(GenerateInRun(controls=1), {name: [path] for name, path in names.items()}, outputs, tmp_path)
    rows = {row["id"]: row for row in read_ledger(outputs["ledger"])}
    assert rows.keys() == {"ended--ended", "ended--ended-untrained", "none--none"}
    assert {row["status"] for row in rows.values()} == {"rejected"}
    assert {row["reason"] for row in rows.values()} == {"no_consent"}
    assert rows["none--none"]["detail"].startswith("none.mp4 is not covered for generation; add a row")
    assert rows["ended--ended"]["detail"].startswith("the consent of ended.mp4 to generation ended on 2026-01-01")
    assert not list(run.glob("generate/media/*"))


def test_describing_the_weights_reads_no_tensors(models, tmp_path, monkeypatch):
    """Every shard describes the same 5 GB; only the network itself is worth reading them."""
    unet, vae = tmp_path / "unet.safetensors", tmp_path / "vae.safetensors"
    facts = {"frames": 8, "resolution": RESOLUTION, "audio_encoder": {"backend": "embedded"}, "teachers": "embedded"}
    weight_files.save(unet, models.unet.state_dict(), dataclasses.asdict(models.unet.config), **facts)
    vaes.save(vae, models.vae, 1.0)
    monkeypatch.setattr(weight_files, "load_file", None)
    found = generate.describe(unet, vae)
    millions = sum(tensor.numel() for tensor in models.unet.state_dict().values()) / 1e6
    assert found["unet"] == weight_files.content_hash(unet) and found["vae"] == weight_files.content_hash(vae)
    assert len(found["stand_ins"]) == 4 and f"{millions:.1f} M parameters" in found["stand_ins"][0]
