"""Check the arguments of `lip_sync` and its kin before anything is loaded, in the words of the command line."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from latentsync import config
from latentsync.config import PRESETS, CodecName, Enhance, FaceBackend, Generate, Mark, Preset
from latentsync.ledger.rows import Rejection

NO_LIMIT: dict[str, Any] = {"max_s": None}  # a single video is not cut; a run limits each of its many videos


def sections(
    preset: Preset,
    generate: Mapping[str, Any] | None,
    enhance: Mapping[str, Any] | None,
    faces: FaceBackend,
    resolution: int | None,
) -> tuple[Generate, Enhance]:
    """The settings that arguments of `lip_sync` ask for; they are checked before any file is looked for."""
    config.require_choice("--preset", preset, Preset)
    keys = NO_LIMIT | PRESETS[preset] | dict(generate or {})
    cfg = config.validate({"generate": keys, "enhance": dict(enhance or {})})
    config.require_choice("--faces", faces, FaceBackend)
    if resolution is not None and (resolution <= 0 or resolution % 64):
        raise ValueError(f"--resolution is {resolution}, not a multiple of 64; published U-Nets draw 256 or 512 px.")
    return cfg.generate, cfg.enhance


def marked_as(mark: Mapping[str, Any] | None) -> Mark:
    """The section `mark` that an argument of `lip_sync` asks for."""
    return config.validate({"mark": dict(mark or {})}).mark


def checked(
    video: str | Path, audio: str | Path | None, out: str | Path, voices: str | Path | None, codec: CodecName
) -> tuple[Path, Path | None, Path]:
    """Video, audio and output as paths; the inputs are what they should be, and the output can be written.

    Raises:
        ValueError: an input is no file or lacks the stream it is given for, or the output is an input, a folder, of
            another format, or in a folder that does not exist or cannot be written to.
    """
    if (audio is None) == (voices is None):
        raise ValueError("Give either --audio, or --voices for several faces with audio of their own.")
    video, out, audio = Path(video), Path(out), None if audio is None else Path(audio)
    inputs = {"video": video} | ({"audio": audio} if audio else {}) | ({"voices": Path(voices)} if voices else {})
    for name, path in inputs.items():
        if not path.is_file():
            raise ValueError(f"--{name} {path} is not a file.")
    if out.resolve() in {path.resolve() for path in inputs.values()}:
        raise ValueError(f"--out {out} is one of the inputs, which are never changed; choose another name.")
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; give the name of the file to write.")
    suffix = ".mov" if codec == "prores" else ".mp4"
    if out.suffix.lower() != suffix:
        raise ValueError(
            f"--out {out} does not end in {suffix}, the format of --codec {codec}; call it {out.stem}{suffix}."
        )
    if not out.parent.is_dir():
        raise ValueError(f"--out {out} is in a folder that does not exist; create {out.parent}, or choose another.")
    try:
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise ValueError(f"--out {out} cannot be written: {out.parent}: {error.strerror}; choose another.") from None
    _require_streams(video, audio)
    return video, audio, out


def require_new(out: Path, inputs: Iterable[Path | None]) -> None:
    """Refuse an output that exists; a folder or one of the inputs is left to `checked`, which says more."""
    if out.is_file() and out.resolve() not in {path.resolve() for path in inputs if path}:
        raise ValueError(f"--out {out} exists; give --overwrite to replace it, or choose another name.")


def _require_streams(video: Path, audio: Path | None) -> None:
    """Whether the video has images and the audio is heard; what cannot be opened is refused later, with its reason."""
    shown, heard = _streams(video), _streams(audio or video)
    if shown is not None and "video" not in shown:
        swapped = audio is not None and heard is not None and "video" in heard
        fix = f"--audio {audio} has one: are the two swapped?" if swapped else "give the video of a speaking face."
        raise ValueError(f"--video {video} cannot be used: it has no video stream; {fix}")
    if audio is not None and heard is not None and "audio" not in heard:
        swapped = shown is not None and "audio" in shown and audio.resolve() != video.resolve()
        fix = f"--video {video} has one: are the two swapped?" if swapped else "give a recording of speech."
        raise ValueError(f"--audio {audio} cannot be used: it has no audio stream; {fix}")


def _streams(path: Path) -> set[str] | None:
    """Kinds of the streams of a file, without the picture on the cover of a song; None: FFmpeg cannot open it."""
    from av.stream import Disposition

    from latentsync.media.opening import opened

    try:
        with opened(path) as container:
            return {one.type for one in container.streams if not one.disposition & Disposition.attached_pic}
    except Rejection:
        return None


@contextmanager
def naming(option: str, path: Path) -> Iterator[None]:
    """Say which input a Rejection is about."""
    try:
        yield
    except Rejection as verdict:
        raise ValueError(f"{option} {path} cannot be used: {verdict}") from None
