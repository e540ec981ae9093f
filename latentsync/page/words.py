"""Sentences of the page."""

import re
from collections.abc import Mapping
from pathlib import Path

from latentsync.page.options import LABELS

CONSENT = (
    "I may use this video and this voice: the person shown and the person heard have agreed to it, and nobody will be "
    "deceived by the result."
)
NEEDS_CONSENT = "Please confirm first that you may use this video and this voice."
OPTIONS = {  # of the command line, in messages, as the page calls them
    "--audio-offset": "Audio offset",
    "--video": "The video",
    "--audio": "The audio",
    "--face": "Face",
    "--start": "From second",
    "--end": "Up to second",
    "--length video": "the length of the video",
    "--enhance": "Face enhancement",
    "--fidelity": "Fidelity",
    "--codec": "Format of the result",
    "--crf": "High quality",
}
_FOLDERS = re.compile(r"(?<![\w<])/(?:[^\s/:,;]+/)+")  # of an absolute path, up to the name of the file

_KEYS = re.compile(r" \((?:generate|enhance|mark)\.\w+\)")  # of the configuration, which the page does not have


def in_words_of_the_page(message: str, names: Mapping[Path, str]) -> str:
    """A sentence of the command line as the page says it: its own labels, and no paths of the server."""
    for key, label in LABELS.items():
        message = message.replace(f"Configuration key {key} is", f"{label} is")
    for path, name in sorted(names.items(), key=lambda one: -len(str(one[0]))):
        message = message.replace(f"--video {path}", "The video").replace(f"--audio {path}", "The audio")
        message = message.replace(str(path), name)
    for option, label in OPTIONS.items():
        message = re.sub(rf"{option}(?![\w-])", label, message)
    message = _KEYS.sub("", _FOLDERS.sub("", message))
    return message[:1].upper() + message[1:]


def time_left(seconds: float) -> str:
    """About how long something still takes."""
    if seconds < 60:
        return f"about {max(1, round(seconds))} s left"
    if seconds < 3600:
        return f"about {seconds / 60:.0f} min left"
    return f"about {seconds / 3600:.1f} h left"
