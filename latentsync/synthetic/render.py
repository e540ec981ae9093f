"""Make one planned video (speech, frames, file, planned faults) and return its row of ground truth."""

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from latentsync.ledger.files import replacing, write_text
from latentsync.ledger.rows import Row
from latentsync.media.audio import read_channels
from latentsync.media.read import read_frames
from latentsync.media.write import VideoWriter
from latentsync.sync.curves import envelope_curve
from latentsync.synthetic.look import Look
from latentsync.synthetic.plan import INSET, NEAR_DUPLICATE, TWO_FACES, Take
from latentsync.synthetic.scene import Person, Shot, background, light, motion
from latentsync.synthetic.voice import Voice, at_48k, speak
from latentsync.timing import TICKS_PER_S, n_ticks

AUDIO_RATE_HZ = 48_000
ENCODING: dict[str, Any] = {"preset": "veryfast", "keyint": 50, "audio_rate_hz": AUDIO_RATE_HZ}
MAX_SHIFT_FRAMES = 15
UNRELATED = 2.0  # largest evidence of sync between unrelated speech and mouth (scale of sync/curves.py)
VFR_STEPS_S = (1 / 30, 1 / 30, 1 / 25, 1 / 24, 1 / 20, 1 / 15)
CRF = 15
# Measured on 16 talkers, 100 - PIQE of the face, mean of 3 frames: good videos 58 to 71, these 14 to 33; the detector
# still follows the mouth with r of 0.5 to 0.9. (PIQE does not detect noise: it counts as detail.)
POOR_CRF = {"compression": 42, "blur": 38}
# Measured on ten talkers at scale 0.8 and crf 20: quality 47 to 58, always below the 61 to 67 of the original, so that
# select_clips keeps the original; both hashes within 5 bits of it.
NEAR_DUPLICATE_CRF = 21
# Side of a picture-in-picture and its distance from the edges, relative to the height of the frame.
INSET_SHARE, INSET_MARGIN = 0.3, 0.03
BLUR = 0.0045  # standard deviation relative to the height of the frame


def render(take: Take, seed: int, folder: Path) -> Row:
    """Write the video below `folder` and return its row of ground truth; what it is made from must be finished.

    The same take and seed give the same bytes.
    """
    times_s, end_s = _frame_times(take, seed)
    cuts_s = [float(times_s[np.searchsorted(times_s, cut)]) for cut in take.cuts_s]
    voice = _speech(take, seed, "voice", end_s)
    path = folder / take.path
    if take.made_from is not None:
        _make_copy(take, folder / take.made_from, path)
    elif take.fault == "unreadable" and take.kind == "text":
        write_text(path, f"{take.look.name}: the video is on the other disk.\n" * 20)
    else:
        if take.fault == "no_face":
            frames = _without_face(take, seed, times_s)
        else:
            frames = _frames(take, seed, times_s, cuts_s, voice, end_s)
        audio = None if take.fault == "no_audio" else at_48k(voice.audio)
        crf = POOR_CRF[take.kind] if take.fault == "low_quality" else CRF
        clock = {"frame_times": times_s, "end_s": end_s} if take.vfr else {}
        _write(path, take, frames, audio, crf=crf, **clock)
        if take.fault == "unreadable":
            _cut_off(take, path)
    return _truth(take, times_s, end_s, cuts_s, voice)


def _frame_times(take: Take, seed: int) -> tuple[np.ndarray, float]:
    """Presentation times of the frames and the end of the last one, in seconds."""
    if not take.vfr:
        n = round(take.duration_s * take.fps)
        return np.arange(n) / float(take.fps), float(n / take.fps)
    steps = take.rng(seed, "clock").choice(VFR_STEPS_S, int(take.duration_s * 31))
    times = np.round(np.concatenate([[0], np.cumsum(steps)]) * 90_000) / 90_000
    n = int(np.searchsorted(times, take.duration_s))
    return times[:n], float(times[n])


def _speech(take: Take, seed: int, purpose: str, end_s: float) -> Voice:
    return speak(take.rng(seed, purpose), end_s, take.look.pitch_hz, take.look.tract)


def _unrelated_speech(take: Take, seed: int, end_s: float, voice: Voice) -> Voice:
    """Speech whose mouth does not match `voice` at any shift; drawn again if it happens to match."""
    ticks = np.arange(n_ticks(end_s))
    around = np.arange(-MAX_SHIFT_FRAMES, len(ticks) + MAX_SHIFT_FRAMES)
    loudness = voice.opening_at(around / TICKS_PER_S)
    loudness[(around < 0) | (around >= len(ticks))] = np.nan
    for attempt in range(100):
        speech = _speech(take, seed, f"other words {attempt}", end_s)
        mouth = speech.opening_at(ticks / TICKS_PER_S)
        if envelope_curve(mouth, loudness, MAX_SHIFT_FRAMES).max() < UNRELATED:
            return speech
    raise ValueError(f"{take.path}: all 100 attempts at unrelated speech match the audio; change make_talkers.seed.")


def _write(path: Path, take: Take, frames: Iterable[np.ndarray], audio: np.ndarray | None, **settings: Any) -> None:
    """Encode frames and audio float32 [n] at AUDIO_RATE_HZ; `settings`: further arguments of VideoWriter."""
    with VideoWriter(path, take.fps, take.width, take.height, audio=audio, **ENCODING, **settings) as writer:
        for frame in frames:
            writer.write(frame)


def _frames(
    take: Take, seed: int, times_s: np.ndarray, cuts_s: list[float], voice: Voice, end_s: float
) -> Iterator[np.ndarray]:
    """All frames of a video with talkers."""
    shots = [_shot(take, seed, number, end_s) for number in range(len(cuts_s) + 1)]
    mouths: list[Voice | None] = [voice]
    if take.fault == "low_sync":
        mouths = [_unrelated_speech(take, seed, end_s, voice)]
    if take.other is not None:
        mouths.append(_unrelated_speech(take, seed, end_s, voice) if take.kind == "other speaks" else None)
    inset = None
    if take.inset is not None:
        inset = _inset(take, take.inset, seed, end_s), _unrelated_speech(take, seed, end_s, voice)
    for time_s in times_s:
        shot = shots[np.searchsorted(cuts_s, time_s, side="right")]
        spoken_s = time_s - take.offset_frames / TICKS_PER_S
        openings = tuple(0.0 if mouth is None else float(mouth.opening_at(spoken_s)) for mouth in mouths)
        frame = shot.frame(float(time_s), openings)
        if inset is not None:
            scene, speech = inset
            small = scene.frame(float(time_s), (float(speech.opening_at(spoken_s)),))
            top, left = _corner(take, small.shape[0])
            frame[top : top + small.shape[0], left : left + small.shape[1]] = small
        if take.fault == "low_quality" and take.kind == "blur":
            frame = cv2.GaussianBlur(frame, (0, 0), BLUR * take.height)
        yield frame


def _shot(take: Take, seed: int, number: int, end_s: float) -> Shot:
    rng = take.rng(seed, f"shot {number}")
    size = take.width, take.height
    face_px = take.face_px[number]
    # The hair stays below the upper edge; the photograph ends at the chest.
    down = max(take.height * 0.2 + 0.72 * face_px, take.height - 2.2 * face_px)
    looks = (take.look,) if take.other is None else (take.look, take.other)
    places = [0.735, 0.265] if take.other_left else [0.265, 0.735]
    if take.other is None:
        places = [float(rng.uniform(0.42, 0.58))]
    people = []
    for look, place in zip(looks, places, strict=True):
        moves = motion(rng, end_s, listens=take.kind == "other silent" and look is take.other)
        people.append(Person(look, moves, (place * take.width, down), face_px, size))
    return Shot(background(rng, *size), tuple(people), light(rng, *size))


def _inset(take: Take, look: Look, seed: int, end_s: float) -> Shot:
    """A second, small scene: a person who speaks other words."""
    rng = take.rng(seed, "inset")
    side = round(INSET_SHARE * take.height)
    person = Person(look, motion(rng, end_s), (side / 2, 0.5 * side), 0.48 * side, (side, side))
    return Shot(background(rng, side, side), (person,), light(rng, side, side))


def _corner(take: Take, side: int) -> tuple[int, int]:
    """Top and left pixel of the picture-in-picture."""
    margin = round(INSET_MARGIN * take.height)
    top = margin if take.kind == "upper corner" else take.height - side - margin
    return top, margin if take.other_left else take.width - side - margin


def _without_face(take: Take, seed: int, times_s: np.ndarray) -> Iterator[np.ndarray]:
    """Frames of a slow pan over an image without a face."""
    import skimage.data

    rng = take.rng(seed, "scene")
    width, height = take.width, take.height
    if take.kind == "room":
        wide = background(rng, width * 3 // 2, height * 5 // 4)
    else:
        image = getattr(skimage.data, take.kind)()
        zoom = 1.3 * max(width / image.shape[1], height / image.shape[0])
        wide = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC)
    room = np.array(wide.shape[1::-1]) - (width, height) - 2
    begin, end = rng.uniform(0, 1, 2) * room, rng.uniform(0, 1, 2) * room
    for time_s in times_s:
        left, top = begin + (end - begin) * (time_s / max(times_s[-1], 1e-9))
        yield cv2.getRectSubPix(wide, (width, height), (left + width / 2, top + height / 2))


def _make_copy(take: Take, original: Path, path: Path) -> None:
    """Copy the bytes of a finished video, or encode it again at another size (a near duplicate)."""
    if take.fault == NEAR_DUPLICATE:
        audio = read_channels(original, AUDIO_RATE_HZ, "mono")[0]
        size = take.width, take.height
        frames = (cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for _, frame in read_frames(original))
        _write(path, take, frames, audio, crf=NEAR_DUPLICATE_CRF)
    else:
        with replacing(path) as temporary:
            shutil.copyfile(original, temporary)


def _cut_off(take: Take, path: Path) -> None:
    """Leave the first half of a finished file, which cannot be read as a video."""
    with tempfile.TemporaryDirectory() as scratch:
        whole = path
        if take.kind == "index cut off":
            whole = Path(scratch, "whole.mp4")
            _move_index_to_end(path, whole)
        data = whole.read_bytes()
    with replacing(path) as temporary:
        temporary.write_bytes(data[: len(data) // 2])


def _move_index_to_end(source: Path, target: Path) -> None:
    """Copy the packets to a file whose index is behind the media, as cameras write it."""
    bitexact = {"fflags": "+bitexact"}
    with av.open(str(source)) as reader, av.open(str(target), "w", format="mp4", options=bitexact) as writer:
        streams = {stream.index: writer.add_stream_from_template(stream) for stream in reader.streams}
        for packet in reader.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                writer.mux(packet)


def _truth(take: Take, times_s: np.ndarray, end_s: float, cuts_s: list[float], voice: Voice) -> Row:
    fault = None if take.fault in (TWO_FACES, INSET) else take.fault
    scenes = [0.0, end_s] if fault in ("unreadable", "duplicate") else [0.0, *cuts_s, end_s]
    expected = [
        {"start_s": round(start, 6), "end_s": round(end, 6), "track": "speaker", "reason": fault}
        for start, end in pairwise(scenes)
    ]
    if take.other is not None:
        speaker, other = ("right", "left") if take.other_left else ("left", "right")
        [whole] = expected
        expected = [whole | {"side": speaker}, whole | {"track": "silent", "reason": "not_speaking", "side": other}]
    return {
        "id": take.id,
        "path": take.path,
        "identity": take.look.name,
        "other_identity": next((look.name for look in (take.other, take.inset) if look), None),
        "faults": [fault] if fault else [],
        "kind": take.kind or None,
        "copy_of": take.copy_of,
        "again_of": take.again_of,
        "fps": round(float(take.fps), 6),
        "vfr": take.vfr,
        "n_frames": len(times_s),
        "duration_s": round(end_s, 6),
        "width": take.width,
        "height": take.height,
        "face_px": [round(px, 1) for px in take.face_px],
        "offset_frames": take.offset_frames,
        "cuts_s": [round(cut, 6) for cut in cuts_s],
        "expected": expected,
        "sound_opening": [round(float(v), 4) for v in voice.opening_at(np.arange(n_ticks(end_s)) / TICKS_PER_S)],
    }
