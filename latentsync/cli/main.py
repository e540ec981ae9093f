"""The command `latentsync`: its commands, and errors in one sentence. The workflow calls `latentsync.steps` instead."""

import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from latentsync.cli import weights
from latentsync.cli.app import app as page
from latentsync.cli.clean import clean
from latentsync.cli.faces import faces
from latentsync.cli.generate import generate
from latentsync.cli.inspect import inspect
from latentsync.cli.options import UnknownChoice
from latentsync.ledger import faults

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
app.command()(generate)
app.command()(faces)
app.command()(inspect)
app.command()(clean)
app.command("app")(page)
app.add_typer(weights.app, name="weights")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"latentsync-studio {version('latentsync-studio')}")
        raise typer.Exit


@app.callback()
def about(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and end")
    ] = False,
) -> None:
    """LatentSync Studio: make the person in a video say other words."""


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt  # as Ctrl-C: open files are closed, and temporary ones deleted


def main() -> None:
    """Run the command line; a user error is one sentence and exit status 1, being stopped is exit status 130."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        app()
    except Exception as error:
        expected = isinstance(error, ValueError | OSError | UnknownChoice)
        if (sentence := faults.sentence(error, Path.cwd()) or (str(error) if expected else None)) is None:
            raise
        print(f"latentsync: {sentence}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
