"""Interlaced video: combing before and after, the same pixels however a frame was reached, nothing for progressive."""

from fractions import Fraction

import numpy as np
import pytest

from latentsync.ledger.rows import Rejection
from latentsync.media import probe, read, write
from latentsync.media.deinterlace import deinterlaced, field_order
from latentsync.media.frames import planes
from tests.media.mangled import overwritten, remuxed
from tests.videos import woven, write_video

SIZE = 160, 96
CODECS = {
    "tff.mp4": {"field_order": "tff"},
    "bff.mp4": {"field_order": "bff"},
    "deep.mp4": {"field_order": "tff", "pix_fmt": "yuv422p10le"},
    "tff.ts": {"field_order": "tff", "codec": "mpeg2video", "codec_options": {"qmin": "1", "qmax": "3"}},
    "bff.avi": {
        "field_order": "bff",
        "codec": "mpeg2video",
        "codec_options": {"qmin": "1", "qmax": "3"},
        "b_frames": 0,
    },
}


def passing(index: int, width: int, height: int) -> np.ndarray:
    """A soft bright disc on grey lines; from field to field it moves by two pixels."""
    y, x = np.mgrid[:height, :width].astype(float)
    away = np.hypot(x - (20 + 2 * index) % (width + 40) + 20, y - height / 2)
    grey = 90 + 10 * np.sin(x / 5) + 120 / (1 + np.exp((away - 20) / 1.5))
    return np.repeat(grey[..., None], 3, 2).astype(np.uint8)


def interlaced(path, n_frames: int = 20, images=passing, **settings):
    settings = {"size": SIZE, "codec_options": {"crf": "4"}} | settings
    return write_video(path, n_frames, images=woven(images, settings["field_order"]), **settings)


def luma(frame) -> np.ndarray:
    return planes(frame)[0].astype(float) / 2 ** (frame.format.components[0].bits - 8)


def combing(frame, rows: int | None = None) -> float:
    """By how much lines are brighter or darker than both of their neighbours, grey levels, in the upper `rows`."""
    lines = luma(frame)[:rows]
    above, line, below = lines[:-2], lines[1:-1], lines[2:]
    sides = np.stack([line - above, line - below])
    return float(np.where((sides > 0).all(0) | (sides < 0).all(0), np.abs(sides).min(0), 0).mean())


def everything(path, deinterlace=True) -> dict:
    return dict(read.read_video_frames(path, deinterlace=deinterlace))


def same(one, other) -> bool:
    return all((a == b).all() for a, b in zip(planes(one), planes(other), strict=True))


@pytest.mark.parametrize("name", CODECS)
def test_a_deinterlaced_frame_is_the_film_at_the_time_of_its_first_field(folder, name):
    path = interlaced(folder / name, **CODECS[name])
    assert probe.probe_media(path).interlaced
    before, after = everything(path, False), everything(path)
    combs = [np.mean([combing(frame) for frame in frames.values()]) for frames in (before, after)]
    print(name, "combing before and after, grey levels:", *np.round(combs, 3))
    assert list(after) == list(range(20))
    assert combs[0] > 0.5 and combs[1] < combs[0] / 5  # MPEG-2 adds 0.1 of its own
    for index, frame in after.items():
        assert not frame.interlaced_frame and before[index].interlaced_frame
        first, second = (passing(2 * index + k, *SIZE)[..., 0] * (219 / 255) + 16 for k in range(2))
        errors = [np.sqrt(np.mean((luma(frame) - truth) ** 2)) for truth in (first, second)]
        assert errors[0] < 2.5 and errors[1] > 2 * errors[0]  # the other field would be another time
        assert (frame.pts, frame.time_base) == (before[index].pts, before[index].time_base)
        assert frame.format.name == before[index].format.name
    assert field_order(before[3]) == CODECS[name]["field_order"]


def test_colours_pixel_aspect_and_turn_stay(folder):
    params = "tff=1:colorprim=bt709:transfer=bt709:colormatrix=bt709"
    path = interlaced(
        folder / "tagged.mp4", 4, field_order="tff", rotation=(90, False), sample_aspect=Fraction(16, 11),
        codec_options={"crf": "4", "x264-params": params, "color_range": "tv"},
    )  # fmt: skip
    before, after = everything(path, False)[2], everything(path)[2]
    names = "colorspace", "color_range", "color_primaries", "color_trc", "rotation"
    assert [getattr(before, name) for name in names] == [getattr(after, name) for name in names]
    assert (int(after.colorspace), after.rotation) == (1, 90)
    _, shown = next(read.Reader(path, deinterlace=True).displayed_frames(np.array([2])))
    assert (shown.turns, shown.aspect) == (1, Fraction(16, 11))


def test_progressive_frames_are_not_touched(folder):
    path = write_video(folder / "plain.mp4", 30)
    before, after = everything(path, False), everything(path)
    assert list(before) == list(after) and all(same(before[index], after[index]) for index in before)
    frames = list(before.items())
    assert all(one[1] is other[1] for one, other in zip(frames, deinterlaced(one for one in frames), strict=True))


def mixed(folder):
    """A transport stream of nine seconds: progressive, interlaced, progressive, interlaced, of uneven lengths."""
    parts, start = [], 0
    for order, n in ((None, 40), ("tff", 90), (None, 25), ("tff", 70)):
        part = folder / f"part{start}.ts"

        def images(index, width, height, start=start, order=order):
            film = woven(passing, order) if order else lambda i, w, h: passing(2 * i, w, h)
            return film(start + index, width, height)

        write_video(
            part, n, start_s=1 + start / 25, size=SIZE, images=images, field_order=order, b_frames=0,
            codec_options={"crf": "8"},
        )  # fmt: skip
        parts.append(part.read_bytes())
        part.unlink()
        start += n
    path = folder / "mixed.ts"
    path.write_bytes(b"".join(parts))
    return path, start


def test_only_flagged_frames_change_and_seeking_gives_the_same_pixels(folder):
    path, n = mixed(folder)
    found = probe.timeline(path)
    assert len(found.parts) == 1 and not found.counted  # else each would be decoded from the start
    before, whole = everything(path, False), everything(path)
    assert list(before) == list(whole) == list(range(n))
    flagged = [index for index, frame in before.items() if frame.interlaced_frame]
    assert flagged == [*range(40, 130), *range(155, 225)]
    assert [index for index in before if not same(before[index], whole[index])] == flagged
    for wanted in ([224], [170, 171, 222], [155], [154, 155, 156], [129, 130], [128, 200], [40], [0, 224]):
        found = dict(read.read_video_frames(path, np.array(wanted), deinterlace=True))
        assert list(found) == wanted
        assert all(same(found[index], whole[index]) for index in wanted), wanted
    reader = read.Reader(path, deinterlace=True)
    for wanted in (np.arange(150, 170), np.arange(170, 175), np.arange(180, 225), np.arange(45, 50)):
        assert all(same(frame, whole[index]) for index, frame in reader.frames(wanted))


def test_a_video_that_changes_its_size_keeps_all_frames(folder):
    parts = []
    for k, size in enumerate([SIZE, (320, 128)]):
        part = interlaced(folder / f"{k}.ts", 12, field_order="tff", size=size, b_frames=0, start_s=1 + k * 12 / 25)
        parts.append(part.read_bytes())
    path = folder / "call.ts"
    path.write_bytes(b"".join(parts))
    after = everything(path)
    assert [(index, frame.width) for index, frame in after.items()] == [
        (index, 160 if index < 12 else 320) for index in range(24)
    ]
    assert max(combing(frame) for frame in after.values()) < 0.5


def test_a_lost_frame_is_no_neighbour_and_an_answer_reaches_the_decoder(folder):
    frames = list(everything(interlaced(folder / "tff.mp4", 12, field_order="tff"), False).items())
    answers = []

    def decoder():
        yield from frames[:4]
        answers.append((yield 5, None))  # reported before its turn
        yield frames[4]
        yield from frames[6:]

    def alone(numbers):
        return dict(deinterlaced(frames[number] for number in numbers))

    given, decoded = {}, deinterlaced(decoder())
    item = next(decoded)
    try:
        while True:
            given[item[0]] = item[1]
            item = decoded.send(True if item[1] is None else None)
    except StopIteration:
        pass
    assert answers == [True] and given.pop(5) is None and list(given) == [0, 1, 2, 3, 4, *range(6, 12)]
    assert all(combing(frame) < 0.5 for frame in given.values())
    for part in (range(5), range(6, 12)):
        assert all(same(given[number], frame) for number, frame in alone(part).items())


@pytest.mark.parametrize(("codec", "suffix"), [("h264", ".mp4"), ("lossless", ".mp4"), ("prores", ".mov")])
@pytest.mark.parametrize("order", ["tff", "bff"])
def test_a_writer_keeps_the_fields_of_its_source_in_their_order(folder, codec, suffix, order):
    frames = list(everything(interlaced(folder / f"{order}.mp4", 6, field_order=order), False).values())
    out = folder / f"out{suffix}"
    with write.VideoWriter(out, 25, *SIZE, codec=codec, crf=6, like=frames[0]) as writer:
        for frame in frames:
            writer.write(frame.to_ndarray(format="rgb24"))  # has lost its flag
    written = list(everything(out, False).values())
    assert [(frame.interlaced_frame, field_order(frame)) for frame in written] == [(True, order)] * 6
    assert np.mean([np.abs(luma(a) - luma(b)).mean() for a, b in zip(frames, written, strict=True)]) < 1.5


@pytest.mark.parametrize("strict", [True, False])
def test_frames_beside_lost_ones_are_the_same_however_they_are_reached(tmp_path, strict):
    film = interlaced(
        tmp_path / "film.mp4", 300, field_order="tff", gop=25, codec_options={"x264-params": "scenecut=0"}
    )
    path = remuxed(film, tmp_path / "broken.mp4", overwritten([60, 110, 199, 200]))
    holes: list[range] = []
    whole = dict(read.Reader(path, deinterlace=True, strict=strict).frames(holes=holes))
    assert len(holes) == (3 if strict else 0) and len(whole) == 300 - sum(map(len, holes))
    going_on = read.Reader(path, deinterlace=True, strict=strict)
    for span in np.array_split(np.arange(300), 9):
        for reader in (going_on, read.Reader(path, deinterlace=True, strict=strict)):
            if any(hole.start <= span[-1] and span[0] < hole.stop for hole in holes):
                with pytest.raises(Rejection, match="no frame can be decoded"):
                    list(reader.frames(span))
            else:
                found = dict(reader.frames(span))
                assert list(found) == list(span)
                assert not strict or all(same(found[i], whole[i]) for i in span)
