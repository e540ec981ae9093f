"""`latentsync app`: the page in the browser."""

from pathlib import Path
from typing import Annotated

import typer

from latentsync.page import weights_on_disk
from latentsync.page.actions import Limits
from latentsync.page.folder import Folder

LIMITS = Limits()


def app(
    host: Annotated[
        str, typer.Option(help="where it listens; 0.0.0.0: on every network of this machine")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="where it listens")] = 7860,
    share: Annotated[
        bool, typer.Option("--share", help="make a public link, through servers of Gradio's makers; needs --auth")
    ] = False,
    auth: Annotated[
        str | None, typer.Option(help="USER:PASSWORD, or a file with such a line for each user; default: everybody may")
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(help="as of `latentsync generate`; repeat it to offer several; default: all that are here"),
    ] = None,
    folder: Annotated[Path, typer.Option(help="folder of uploads and results; what is old in it is deleted")] = Path(
        "results/page"
    ),
    keep_hours: Annotated[
        float, typer.Option(min=0.01, help="hours for which uploads and results are kept")
    ] = LIMITS.keep_hours,
    max_s: Annotated[float, typer.Option(min=1, help="longest video and audio, in seconds")] = LIMITS.max_s,
    max_mb: Annotated[int, typer.Option(min=1, help="largest upload, in megabytes")] = LIMITS.max_mb,
    max_queue: Annotated[int, typer.Option(min=1, help="most jobs that wait")] = LIMITS.max_queue,
    root_path: Annotated[str, typer.Option(help="where a proxy puts the page, such as /lipsync")] = "",
) -> None:
    """Lip-sync in the browser: one page, one queue, reached from this machine only unless --host says otherwise."""
    users = _users(auth)
    if share and not users:
        raise ValueError("--share makes a link for everybody who learns it; give --auth USER:PASSWORD with it.")
    found = weights_on_disk.on_disk(weights or ())
    if not found:
        typer.echo(f"latentsync: {weights_on_disk.HOW_TO_GET}", err=True)
    for one in found:
        typer.echo(f"latentsync: {one.title}: {one.sentence}")
    own, limits = Folder(folder), Limits(max_s, max_mb, max_queue, keep_hours)
    try:
        from latentsync.page.app import serve
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ValueError("The page needs Gradio; install it with `pip install latentsync-studio[app]`.") from None
    try:
        serve(own, found, limits, host=host, port=port, share=share, auth=users, root_path=root_path)
    except KeyboardInterrupt:
        typer.echo("latentsync: the page has ended; results stay in its folder for their time", err=True)


def _users(auth: str | None) -> list[tuple[str, str]]:
    """(user, password) of everybody that --auth names."""
    if auth is None:
        return []
    file = Path(auth)
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else [auth]
    pairs = [tuple(line.strip().split(":", 1)) for line in lines if line.strip() and not line.startswith("#")]
    if not pairs or any(len(pair) != 2 or not all(pair) for pair in pairs):
        where = f"a line of --auth {auth}" if file.is_file() else "--auth"
        raise ValueError(f"{where} is not USER:PASSWORD; give it so, or the name of a file with such lines.")
    return [(user, password) for user, password in pairs]
