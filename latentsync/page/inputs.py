"""Check what a user gave before it waits in the queue: is it a video, is it audio, is it short enough.

Every fault is one sentence without paths: the user knows a file by the name it was uploaded with.
"""

import os
import shutil
from pathlib import Path

from latentsync.ledger.rows import Rejection


def require_video(path: str | None, max_s: float) -> Path:
    """The video that was uploaded.

    Raises:
        ValueError: it is missing, no video, or too long.
    """
    if not path:
        raise ValueError("There is no video yet; add one under Video.")
    file = _uploaded(path)
    length_s = _video_s(file)
    if length_s is None:
        swap = _audio_s(file) is not None
        raise ValueError(
            f"{file.name} is audio without a picture; it belongs under Speech, and the video under Video."
            if swap
            else f"{file.name} is no video that can be read: {_why_no_video(file)}."
        )
    _require_short("video", file, length_s, max_s)
    return file


def require_speech(path: str | None, max_s: float) -> Path:
    """The audio that was uploaded or recorded: an audio file, or a video with audio.

    Raises:
        ValueError: it is missing, has no audio, or is too long.
    """
    if not path:
        raise ValueError("There is no speech yet; add audio under Speech, or record it.")
    file = _uploaded(path)
    length_s = _audio_s(file)
    if length_s is None:
        swap = _video_s(file) is not None
        raise ValueError(
            f"{file.name} is a video without audio; it belongs under Video, and the speech under Speech."
            if swap
            else f"{file.name} is no audio that can be read; MP3, WAV, M4A, FLAC and OGG can."
        )
    _require_short("audio", file, length_s, max_s)
    return file


def placed(file: Path, folder: Path) -> Path:
    """The file in a folder of its own: a second link to it where the disk allows, otherwise a copy."""
    folder.mkdir()
    to = folder / file.name
    try:
        os.link(file, to)
    except OSError:
        shutil.copyfile(file, to)
    return to


def _uploaded(path: str) -> Path:
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{file.name} is no longer on the server, where uploads are kept for a time; upload it again.")
    return file


def _require_short(what: str, file: Path, length_s: float, max_s: float) -> None:
    if length_s > max_s:
        raise ValueError(
            f"The {what} {file.name} is {length_s:.1f} s long, and this page takes {max_s:g} s at most; cut it."
        )


def _video_s(file: Path) -> float | None:
    """Length of the picture in seconds, None if there is none that can be decoded."""
    from latentsync.media.probe import probe_media

    try:
        return probe_media(file).duration_s
    except Rejection:
        return None


def _why_no_video(file: Path) -> str:
    from latentsync.media.probe import probe_media

    try:
        probe_media(file)
    except Rejection as verdict:
        return verdict.detail or verdict.reason
    raise AssertionError("it was no video a moment ago")


def _audio_s(file: Path) -> float | None:
    """Length of the audio in seconds, as far as it can be decoded; None without audio."""
    import av.error

    from latentsync.media.opening import opened

    try:
        with opened(file) as container:
            if not container.streams.audio:
                return None
            if next(container.decode(container.streams.audio[0]), None) is None:
                return None
        with opened(file) as container:  # a header may claim any length, or none: a browser writes none
            stream, ends, length = container.streams.audio[0], [0], 0
            for packet in container.demux(stream):
                length += packet.duration or 0
                ends.append((packet.pts or 0) + (packet.duration or 0))
            return float(max(length, *ends) * (stream.time_base or 0))
    except (Rejection, av.error.FFmpegError, StopIteration):
        return None
