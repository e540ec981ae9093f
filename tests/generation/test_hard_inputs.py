"""Difficult inputs, one row each: what generation makes of them, or the sentence that it ends with.

A stand-in draws the mouths; reading, tracking, pasting, encoding and joining are those of `latentsync generate`.
"""

import dataclasses
import resource
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from latentsync.config import Generate
from latentsync.generation.session import LipSync
from latentsync.media.chroma import chroma_location
from latentsync.media.codecs import CODECS, colour_tags, hdr_light
from latentsync.media.deinterlace import field_order
from latentsync.media.frames import native_rgb, planes
from latentsync.media.read import frame_times, read_frames, read_video_frames
from latentsync.media.write import VideoWriter
from tests.generation.test_two_voices import Loud
from tests.generation.test_voices import two_heads
from tests.media.test_deinterlace import combing
from tests.media.test_faulty_media import two_tracks
from tests.toys import face
from tests.videos import VFR_S, head, woven, write_video

N = 20  # frames of the usual video
SECOND = 16_000


def tone(seconds: float, rate_hz: int = SECOND) -> np.ndarray:
    return (0.3 * np.sin(np.arange(round(seconds * rate_hz)) / 9)).astype(np.float32)


def leaves(index: int, width: int, height: int) -> np.ndarray:
    """A head that is gone for ten frames."""
    return np.full((height, width, 3), 90, np.uint8) if 10 <= index < 20 else head(index, width, height)


def cut_to_another_place(index: int, width: int, height: int) -> np.ndarray:
    image = head(index, width, height)
    return image if index < 10 else np.roll(image[:, ::-1], 30, 1) // 2 + 90


def drawn(index: int, width: int, height: int) -> np.ndarray:
    return cv2.resize(face(0.5, 3, (0, 0), 176), (width, height))


def empty_room(index: int, width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), 40 + index, np.uint8)


@dataclass
class Case:
    """One input, and what is wanted of it."""

    video: dict[str, Any] = field(default_factory=dict)  # of write_video
    audio: dict[str, Any] = field(default_factory=dict)  # of write_video, without pictures
    suffix: str = ".wav"
    cfg: dict[str, Any] = field(default_factory=dict)
    n_frames: int = N
    n_redrawn: int | None = None  # None: all
    passed: dict[str, int] = field(default_factory=dict)
    shows: dict[str, Any] = field(default_factory=dict)  # attributes of the result's video and audio stream
    says: str = ""  # the sentence it ends with instead


SOUND = {"audio": tone(0.8), "audio_rate_hz": SECOND, "audio_codec": "pcm_s16le"}
CASES = {
    "audio longer": Case(audio={"audio": tone(1.2)}, n_frames=30),
    "audio shorter": Case(audio={"audio": tone(0.4)}, n_frames=10),
    "audio shorter, whole video": Case(audio={"audio": tone(0.4)}, cfg={"length": "video"}),
    "stereo": Case(audio={"audio_layout": "stereo"}, shows={"channels": 2}),
    "5.1": Case(audio={"audio_layout": "5.1"}, shows={"channels": 6}),
    "silence": Case(audio={"audio": 0 * tone(0.8)}),
    "0.2 s": Case(audio={"audio": tone(0.2)}, n_frames=5),
    "mp3": Case(audio={"audio_codec": "libmp3lame"}, suffix=".mp3", shows={"audio": "mp3"}),
    "m4a": Case(audio={"audio_codec": "aac"}, suffix=".m4a", n_frames=21, shows={"audio": "aac"}),
    "60 fps": Case({"fps": 60, "n_frames": 48}, n_frames=48, shows={"rate": 60}),
    "16 fps": Case({"fps": 16, "n_frames": 13}, cfg={"length": "video"}, n_frames=13),
    "4 fps": Case({"fps": 4, "n_frames": 4}, {"audio": tone(1.0)}, n_frames=28, shows={"rate": 28}),  # held
    "29.97 fps": Case(
        {"fps": Fraction(30_000, 1001), "n_frames": 24}, n_frames=24, shows={"rate": Fraction(30_000, 1001)}
    ),
    "variable rate": Case({"times_s": VFR_S, "n_frames": len(VFR_S)}, cfg={"length": "video"}, n_frames=0),
    "portrait HEVC": Case({"codec": "libx265", "size": (176, 208)}, shows={"size": (176, 208)}),
    "10 bits": Case({"codec": "libx265", "pix_fmt": "yuv420p10le"}, shows={"pix_fmt": "yuv420p10le"}),
    "odd size": Case({"size": (207, 175), "pix_fmt": "yuv444p"}, shows={"size": (207, 175), "pix_fmt": "yuv444p"}),
    "4:4:4": Case({"pix_fmt": "yuv444p"}, shows={"pix_fmt": "yuv444p"}),
    "rotated": Case(
        {"rotation": (90, False), "images": lambda i, w, h: np.rot90(head(i, h, w), -1), "size": (176, 208)},
        shows={"size": (176, 208), "rotated": True},
    ),
    "pixel aspect": Case({"sample_aspect": Fraction(12, 11)}, shows={"aspect": Fraction(12, 11)}),
    "a cut": Case({"images": cut_to_another_place}),
    "a face that leaves and returns": Case(
        {"images": leaves, "n_frames": 30}, {"audio": tone(1.2)}, n_frames=30, n_redrawn=20, passed={"no_face": 10}
    ),
    "two faces": Case({"images": lambda i, w, h: two_heads(20, w, h), "size": (416, 176)}),
    "a drawn face": Case({"images": drawn, "size": (176, 176)}),
    "no face": Case({"images": empty_room}, says="no face"),
    "RGB": Case({"codec": "libx264rgb", "pix_fmt": "rgb24"}),
}


@pytest.fixture(scope="module")
def session():
    with LipSync() as opened:
        opened.models = lambda trained: Loud()
        yield opened


def files(case: Case, folder: Path) -> tuple[Path, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    video = write_video(folder / "in.mp4", **({"n_frames": N, "images": head, "size": (208, 176)} | case.video))
    return video, write_video(folder / f"says{case.suffix}", video_track=False, **(SOUND | case.audio))


def redrawn(session: LipSync, case: Case, video: Path, audio: Path, out: Path):
    session.generate = Generate(max_s=None, steps=1, **case.cfg)
    return session(video, audio, out)


@pytest.mark.parametrize("name", CASES)
def test_a_hard_input(session, tmp_path, name):
    case = CASES[name]
    video, audio = files(case, tmp_path / "in")
    before, out = {path: path.read_bytes() for path in (video, audio)}, tmp_path / "out.mp4"
    if case.says:
        with pytest.raises(ValueError, match=case.says):
            redrawn(session, case, video, audio, out)
        assert [path.name for path in tmp_path.iterdir()] == ["in"]
        return
    result = redrawn(session, case, video, audio, out)
    print(name, result.n_frames, result.n_generated, result.passed_through)
    assert result.n_frames == (case.n_frames or len(VFR_S))
    assert result.n_generated == (case.n_redrawn or result.n_frames) and result.passed_through == case.passed
    assert {path: path.read_bytes() for path in before} == before  # never changed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.mp4"]  # and nothing is left behind
    times_s, end_s = frame_times(out)
    assert len(times_s) == result.n_frames
    if case.cfg.get("length") == "video":
        assert np.abs(np.append(times_s, end_s) - np.append(*frame_times(video))).max() < 1e-4
    found = shown(out)
    assert {key: found[key] for key in case.shows} == case.shows


def shown(path: Path) -> dict[str, Any]:
    with av.open(str(path)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        frame = next(container.decode(video))
        return {
            "rate": video.average_rate,
            "size": (video.width, video.height),
            "pix_fmt": video.pix_fmt,
            "aspect": video.sample_aspect_ratio,
            "rotated": frame.rotation != 0,
            "audio": {"mp3float": "mp3"}.get(sound.codec_context.name, sound.codec_context.name),
            "channels": sound.codec_context.channels,
        }


class NotFinite(Loud):
    """One pixel of one face is no number."""

    def decode(self, latents):
        faces = super().decode(latents)
        faces[-1, 0, 40, 30] = float("nan")
        return faces


def test_numbers_of_networks_that_are_not_finite_reach_no_pixel(session, tmp_path):
    video, audio = files(Case(), tmp_path / "in")
    other = session.with_settings()
    other.models = lambda trained: NotFinite()
    with pytest.raises(ValueError, match="returned numbers that are not finite, so nothing is pasted"):
        redrawn(other, Case(), video, audio, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def colours(path: Path) -> np.ndarray:
    """The upper right corner of the first frame as its tags say, mean RGB."""
    with av.open(str(path)) as container:
        return native_rgb(next(container.decode(video=0)))[4:20, -20:-4].reshape(-1, 3).mean(0)


def test_rgb_video_keeps_its_colours_and_is_tagged_with_the_matrix_that_it_is_written_in(session, tmp_path):
    def coloured(index: int, width: int, height: int) -> np.ndarray:
        image = head(index, width, height).copy()
        image[:24, -24:] = (200, 40, 90)
        return image

    case = Case({"codec": "libx264rgb", "pix_fmt": "rgb24", "images": coloured, "codec_options": {"crf": "1"}})
    video, audio = files(case, tmp_path / "in")
    redrawn(session, case, video, audio, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert int(next(container.decode(video=0)).colorspace) == 1  # BT.709
    assert np.abs(colours(tmp_path / "out.mp4") - colours(video)).max() <= 3


@pytest.mark.parametrize("order", ["tff", "bff"])
def test_interlaced_video_keeps_its_fields_or_becomes_progressive_on_request(session, tmp_path, order):
    film = woven(lambda index, w, h: head(3 * index, w, h), order)
    source = {"field_order": order, "images": film, "codec_options": {"crf": "8"}, "n_frames": 10}
    case = Case(source, {"audio": tone(0.4)}, cfg={"crf": 8})
    video, audio = files(case, tmp_path / "in")

    def above(path: Path) -> float:
        """Combing above the mouth, where every line is the source's."""
        return float(np.mean([combing(frame, rows=60) for _, frame in read_video_frames(path)]))

    said, combs = {}, {}
    for name, cfg in {"kept": {}, "made": {"deinterlace": True}}.items():
        out = tmp_path / f"{name}.mp4"
        result = redrawn(session, dataclasses.replace(case, cfg=case.cfg | cfg), video, audio, out)
        assert result.n_generated == result.n_frames == 10
        said[name], combs[name] = result.notes, above(out)
        frames = [frame for _, frame in read_video_frames(out)]
        assert {frame.interlaced_frame for frame in frames} == {name == "kept"}
        assert name == "made" or {field_order(frame) for frame in frames} == {order}
    print("combing of the source, kept, deinterlaced:", above(video), combs)
    assert combs["kept"] == pytest.approx(above(video), rel=0.1) and combs["made"] < above(video) / 2
    kept = "it is interlaced: so is the result, with its fields in their order; --deinterlace makes it progressive"
    assert said == {"kept": (kept,), "made": ("it is interlaced: the result is deinterlaced",)}


@pytest.mark.parametrize("codec", ["prores", "h264"])
def test_transparency_is_kept_where_the_codec_can_and_else_said(session, tmp_path, codec):
    case, folder = Case(cfg={"codec": codec}), tmp_path / "in"
    _, audio = files(Case(), folder)
    with VideoWriter(folder / "a.mov", 25, 208, 176, codec="prores", like=av.VideoFrame(208, 176, "rgba")) as writer:
        for index in range(N):
            alpha = np.where(np.arange(208) < 160, 255, 0).astype(np.uint8)[None].repeat(176, 0)
            image = np.ascontiguousarray(np.dstack([head(index), alpha]))
            writer.write_frame(av.VideoFrame.from_ndarray(image, "rgba"))
    out = tmp_path / f"out{CODECS[codec].suffix}"
    result = redrawn(session, case, folder / "a.mov", audio, out)
    assert result.n_generated == N
    if codec == "h264":
        assert result.notes == ("its transparency is left out, as --codec h264 keeps none; prores does",)
        return
    assert result.notes == ()
    for _, frame in read_video_frames(out):
        assert frame.format.name == "yuva444p12le"  # as decoders give 4444
        alpha = planes(frame)[3] / 4095
        assert alpha[:, :158].min() > 0.99 and alpha[:, 162:].max() < 0.01
    before, after = (np.stack([rgb for _, rgb in read_frames(path)]) for path in (folder / "a.mov", out))
    assert (np.abs(before.astype(int) - after).max((0, 3)) > 40).sum() > 500  # a mouth was drawn


FULL_RANGE = {"pix_fmt": "yuvj420p", "codec_options": {"crf": "1", "color_range": "pc", "colorspace": "bt709"}}


@pytest.mark.parametrize("codec", ["h264", "hevc10", "prores"])
def test_full_range_video_keeps_its_colours(session, tmp_path, codec):
    case = Case(FULL_RANGE, cfg={"codec": codec})
    video, audio = files(case, tmp_path / "in")
    out = tmp_path / f"out{CODECS[codec].suffix}"
    redrawn(session, case, video, audio, out)
    assert np.abs(colours(out) - colours(video)).max() <= 3
    assert next(read_video_frames(out))[1].color_range == (1 if codec == "prores" else 2)


@pytest.mark.parametrize("codec", ["h264", "hevc10", "prores"])
def test_hdr10_keeps_its_light_its_tags_and_the_place_of_its_chroma(session, tmp_path, codec):
    light = ":master-display=G(8500,39850)B(6550,2300)R(35400,14600)WP(15635,16450)L(10000000,50):max-cll=1000,400"
    tags = {"colorspace": "bt2020nc", "color_primaries": "bt2020", "color_trc": "smpte2084", "color_range": "tv"}
    params = {"crf": "4", "x265-params": f"log-level=none:chromaloc=2{light}"}
    source = {"codec": "libx265", "pix_fmt": "yuv420p10le", "codec_options": tags | params}
    case = Case(source, cfg={"codec": codec} | ({"crf": 4} if codec != "prores" else {}))
    video, audio = files(case, tmp_path / "in")
    out = tmp_path / f"out{CODECS[codec].suffix}"
    result = redrawn(session, case, video, audio, out)
    before, after = (next(read_video_frames(path))[1] for path in (video, out))
    assert colour_tags(before) == colour_tags(after) == (9, 1, 9, 16)
    assert hdr_light(before) == light and np.abs(colours(out) - colours(video)).max() <= 3
    if codec == "prores":
        assert not hdr_light(after) and "HDR10" in result.sentence
    else:
        assert hdr_light(after) == light and "HDR10" not in result.sentence
        assert chroma_location(out) == 2 and after.format.name == "yuv420p10le"
    untouched = [planes(frame)[0][:40].astype(int) for frame in (before, after)]
    assert np.abs(untouched[0] - untouched[1]).mean() < 4  # of 1023


def test_a_face_in_pixels_that_are_not_square_is_redrawn_where_it_is(session, tmp_path):
    """The same film, stored squeezed to half its width: the mouth changes at the same place."""

    def squeezed(index: int, width: int, height: int) -> np.ndarray:
        return cv2.resize(head(index, 2 * width, height), (width, height), interpolation=cv2.INTER_AREA)

    plain, odd = Case(), Case({"size": (104, 176), "sample_aspect": Fraction(2), "images": squeezed})
    places = []
    for name, case in (("plain", plain), ("odd", odd)):
        video, audio = files(case, tmp_path / name)
        assert redrawn(session, case, video, audio, tmp_path / f"{name}.mp4").n_generated == N
        frames = [next(rgb for _, rgb in read_frames(path)) for path in (video, tmp_path / f"{name}.mp4")]
        changed = np.abs(frames[0].astype(int) - frames[1]).max(2) > 40
        places.append(np.array([np.median(at) for at in np.nonzero(changed)]))
    assert np.abs(places[0] - places[1]).max() < 6
    assert shown(tmp_path / "odd.mp4")["aspect"] == 2


def test_what_is_chosen_repaired_and_left_out_is_said(session, tmp_path):
    video, _ = files(Case({"audio": tone(0.8)}), tmp_path / "in")
    speech = two_tracks(tmp_path / "in/two.mkv", [np.zeros(44_100, np.float32), np.tile(tone(0.5), 2)])
    said = redrawn(session, Case(), video, speech, tmp_path / "a.mp4")
    assert said.notes == ("audio track 2 of two.mkv drives",)
    session.generate = Generate(max_s=None, steps=1, audio_track=1)
    said = session(video, speech, tmp_path / "b.mp4")
    assert said.notes == ("audio track 1 of two.mkv drives", "the audio of two.mkv is silent")
    assert said.notes[1] in said.sentence


def test_paths_with_spaces_quotes_and_signs(session, tmp_path):
    folder = tmp_path / 'some one\'s "videos" %03d [a] $x'
    video, audio = files(Case(), folder)
    video = video.rename(folder / "my 'film' #1.mp4")
    out = folder / 'it\'s "new"; %d.mp4'
    assert redrawn(session, Case(), video, audio, out).n_generated == N
    assert out.stat().st_size > 0 and len(list(folder.iterdir())) == 3


@contextmanager
def small_disk(n_bytes: int):
    """Files cannot grow beyond so many bytes: writing fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_nothing_under_a_hidden_name(session, tmp_path):
    video, audio = files(Case(), tmp_path / "in")
    with small_disk(4096), pytest.raises(OSError, match="large|space"):
        redrawn(session, Case(), video, audio, tmp_path / "out.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]  # no part was finished
    assert redrawn(session, Case(), video, audio, tmp_path / "out.mp4").n_generated == N  # once there is room
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.mp4"]


@pytest.mark.parametrize(
    ("out", "words"),
    [
        (lambda folder: folder / "in", "folder|directory|does not end in"),
        (lambda folder: folder / "in" / "in.mp4", "one of the inputs"),
        (lambda folder: folder / "a folder.mp4", "is a folder"),
    ],
)
def test_an_output_that_cannot_be_is_refused_first(session, tmp_path, out: Callable[[Path], Path], words):
    video, audio = files(Case(), tmp_path / "in")
    (tmp_path / "a folder.mp4").mkdir()
    session.models = None  # nothing is loaded before
    try:
        with pytest.raises(ValueError, match=words):
            redrawn(session, Case(), video, audio, out(tmp_path))
    finally:
        session.models = lambda trained: Loud()


def test_an_output_that_exists_is_replaced_when_the_new_one_is_whole(session, tmp_path):
    video, audio = files(Case(), tmp_path / "in")
    out = tmp_path / "out.mp4"
    out.write_bytes(b"an older one")
    with pytest.raises(ValueError, match="no face"):
        redrawn(
            session, Case(), write_video(tmp_path / "in/none.mp4", N, images=empty_room, size=(208, 176)), audio, out
        )
    assert out.read_bytes() == b"an older one"
    assert redrawn(session, Case(), video, audio, out).n_generated == N and out.stat().st_size > 1000
