"""What a user should know about a video that is redrawn: what is repaired in it, and what the result leaves out."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import av
import numpy as np

from latentsync.config import Generate
from latentsync.media import repairs
from latentsync.media.codecs import CODECS, hdr_light
from latentsync.media.frames import has_alpha
from latentsync.media.opening import opened
from latentsync.media.probe import timeline
from latentsync.media.read import read_video_frames

NOTHING: Mapping[str, int] = {}
_STREAMS = {"audio": "audio tracks", "subtitle": "subtitles", "data": "data tracks", "video": "other videos"}


def notes_of(video: Path, cfg: Generate, own_audio: bool, damage: Mapping[str, int] = NOTHING) -> list[str]:
    """Sentences without a full stop.

    Args:
        video: the source.
        cfg: how the result is made.
        own_audio: the result has an audio track of this file.
        damage: repairs that were counted while it was read.
    """
    found = timeline(video)
    repaired = repairs.added(found.info.repairs, damage)
    notes = [f"{video.name}: {repairs.sentence(repaired)}"] if repaired else []
    if has_alpha(av.VideoFormat(found.info.pix_fmt)) and not CODECS[cfg.codec].alpha:
        notes.append(f"its transparency is left out, as --codec {cfg.codec} keeps none; prores does")
    if cfg.codec == "prores" and hdr_light(next(read_video_frames(video, np.zeros(1, np.int64)))[1]):
        notes.append("its mastering display and content light (HDR10) are left out, as --codec prores writes none")
    if found.info.interlaced:
        notes.append(f"it is interlaced: {_of_fields(cfg)}")
    with opened(video) as container:
        left = Counter(stream.type for stream in container.streams if stream.index != found.stream)
    left["audio"] -= own_audio
    left["audio"] -= not own_audio and left["audio"] == 1  # the audio that is replaced is not missed
    named = [f"{_STREAMS[kind]} ({n})" for kind, n in left.items() if n > 0 and kind in _STREAMS]
    return notes + ([f"left out of it: {', '.join(named)}"] if named else [])


def _of_fields(cfg: Generate) -> str:
    """What becomes of the two fields of a frame."""
    if cfg.deinterlace:
        return "the result is deinterlaced"
    if cfg.as_published or not CODECS[cfg.codec].interlaced:
        why = "--as-published" if cfg.as_published else f"--codec {cfg.codec}"
        return f"the result shows both fields of a frame at once, as {why} writes no fields"
    return "so is the result, with its fields in their order; --deinterlace makes it progressive"
