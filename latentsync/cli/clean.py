"""`latentsync clean`: delete media files that no ledger of a run names any more."""

from pathlib import Path
from typing import Annotated

import typer

from latentsync.ledger.superseded import superseded_media


def clean(
    run: Annotated[Path, typer.Argument(help="results/<run>")],
    yes: Annotated[bool, typer.Option("--yes", help="delete them; without it they are only listed")] = False,
) -> None:
    """List media that no ledger of a run names any more, and with --yes delete them.

    Sources are never touched, and nothing outside of the run is: links inside it are not followed.
    """
    superseded, links = superseded_media(run)
    # A file with another name elsewhere (a hard link) keeps its space and its content there.
    size_mb = sum(path.stat().st_size for path in superseded if path.stat().st_nlink == 1) / 1e6
    for path in superseded:
        typer.echo(path)
        if yes:
            path.unlink()
    for link in links:
        typer.echo(f"{link} is, or lies in, a link to another folder; nothing in it is deleted.", err=True)
    outcome = "deleted" if yes else "would be deleted; add --yes to delete them"
    typer.echo(f"{len(superseded)} files, {size_mb:.1f} MB, {outcome}" if superseded else "nothing is superseded")
