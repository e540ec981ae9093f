"""`latentsync faces`: list the faces of a video, with thumbnails and a table for `latentsync generate --voices`."""

from pathlib import Path
from typing import Annotated

import typer

from latentsync.cli import options
from latentsync.config import FaceBackend


def faces(
    video: Annotated[Path, typer.Argument(help="the video; it is never changed")],
    out: Annotated[Path, typer.Option(help="folder for the table faces.csv and a thumbnail of each face")],
    backend: Annotated[
        FaceBackend, options.choice("--faces", FaceBackend, "face detector; use the one of `latentsync generate`")
    ] = "mediapipe",
) -> None:
    """List the faces of a video: number, when each is seen, size, place.

    Write audio files into the column `audio` of the table, then pass it to `latentsync generate --voices`.
    """
    from latentsync.generation.api import list_faces

    for line in list_faces(video, out, backend):
        typer.echo(line)
