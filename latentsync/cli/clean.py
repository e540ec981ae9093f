"""`latentsync clean`: delete media files that no ledger of a run names any more."""

from pathlib import Path
from typing import Annotated

import typer

from latentsync.ledger.superseded import superseded_media


def clean(
    run: Annotated[Path, typer.Argument(help="results/<run>")],
    yes: Annotated[bool, typer.Option("--yes", help="delete them; without it they are only listed")] = False,
) -> None:
    """List media that no ledger of a run names any more, and with --yes delete them. Sources are never touched."""
    superseded = superseded_media(run)
    size_mb = sum(path.stat().st_size for path in superseded) / 1e6
    for path in superseded:
        typer.echo(path)
        if yes:
            path.unlink()
    outcome = "deleted" if yes else "would be deleted; add --yes to delete them"
    typer.echo(f"{len(superseded)} files, {size_mb:.1f} MB, {outcome}" if superseded else "nothing is superseded")
