"""What the page shows of a job: its state, and the player. Every text from outside is escaped."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

_TITLES = {"waiting": "In the queue", "running": "Working", "done": "Finished", "failed": "No result",
           "cancelled": "Cancelled"}  # fmt: skip
EMPTY = Markup(
    '<div class="job empty"><p>The result appears here: your video beside the new one, in step, with a report to '
    "download.</p></div>"
)


def state(snapshot: Mapping[str, Any]) -> str:
    """The state of a job: title, bar, sentence."""
    percent = float(snapshot["percent"])
    bar = Markup('<progress max="100" value="{0}" aria-label="Progress">{0} %</progress><span>{0:.0f} %</span>')
    busy = snapshot["state"] in ("waiting", "running")
    return Markup('<div class="job {}" role="status"><h3>{}</h3>{}<p>{}</p></div>').format(
        snapshot["state"],
        _TITLES[snapshot["state"]],
        Markup('<div class="bar">{}</div>').format(bar.format(percent)) if busy else "",
        snapshot["sentence"],
    )


def refusal(sentence: str) -> str:
    """Why there is no job."""
    return Markup('<div class="job failed" role="alert"><h3>Not started</h3><p>{}</p></div>').format(sentence)


def player(source: Path, result: Path, report: Path, kept: str) -> str:
    """Source and result side by side under one bar, and what can be downloaded."""
    videos = [
        Markup(
            '<figure><video src="{}" preload="auto" playsinline{}></video><figcaption>{}</figcaption>'
            '<p class="sorry">This browser cannot play this format; download it instead.</p></figure>'
        ).format(address(path), Markup(muted), caption)
        for path, caption, muted in ((source, "Your video", " muted"), (result, "Result", ""))
    ]
    return Markup(
        '<div class="player" role="group" aria-label="Your video and the result, played together">'
        '<div class="pair">{}{}</div>'
        '<div class="controls"><button type="button" class="play">Play</button>'
        '<input type="range" min="0" max="0" step="0.04" value="0" aria-label="Position">'
        '<span class="time">0:00 / 0:00</span>'
        '<label>Sound <select><option value="result">of the result</option>'
        '<option value="source">of your video</option><option value="none">off</option></select></label></div>'
        '<p class="downloads"><a class="get-video" href="{}" download>Download video</a> '
        '<a class="get-report" href="{}" download>Download report</a> <span>Kept for {}.</span></p></div>'
    ).format(*videos, address(result), address(report), kept)


def address(path: Path) -> str:
    """Where the page finds a file of its folder, relative to the page, so that it works behind a proxy."""
    return f"gradio_api/file={quote(str(path))}"
