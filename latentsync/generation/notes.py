"""What a user should know about a video that is redrawn: what is repaired in it, and what the result leaves out."""

from collections import Counter
from pathlib import Path

import av

from latentsync.config import CodecName
from latentsync.media import repairs
from latentsync.media.opening import opened
from latentsync.media.probe import timeline

_STREAMS = {"audio": "audio tracks", "subtitle": "subtitles", "data": "data tracks", "video": "other videos"}


def notes_of(video: Path, codec: CodecName, own_audio: bool) -> list[str]:
    """Sentences without a full stop; `own_audio`: the result has an audio track of this file."""
    found = timeline(video)
    notes = [f"{video.name}: {repairs.sentence(found.info.repairs)}"] if found.info.repairs else []
    if any(component.is_alpha for component in av.VideoFormat(found.info.pix_fmt).components):
        notes.append(f"its transparency is left out, as --codec {codec} has none")
    if found.info.interlaced:
        notes.append("it is interlaced: the result shows both fields of a frame at once; deinterlace it first")
    with opened(video) as container:
        left = Counter(stream.type for stream in container.streams if stream.index != found.stream)
    left["audio"] -= own_audio
    left["audio"] -= not own_audio and left["audio"] == 1  # the audio that is replaced is not missed
    named = [f"{_STREAMS[kind]} ({n})" for kind, n in left.items() if n > 0 and kind in _STREAMS]
    return notes + ([f"left out of it: {', '.join(named)}"] if named else [])
