"""`latentsync inspect`: what a video says about where it comes from."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

NO_MANIFEST = "no manifest"


def inspect(
    file: Annotated[Path, typer.Argument(help="any video, of this project or another; it is never changed")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, with the manifest as c2pa's reader gives it")] = (
        False
    ),
) -> None:
    """Say who signed a video, what it was made from and with, and whether it was changed since (exit status 1).

    A video without a manifest is nothing wrong: exit status 0.
    """
    from latentsync.media import manifest
    from latentsync.media.certificate import TEST_MEANING, TEST_NAME

    if not file.is_file():
        raise ValueError(f"{file} is not a file.")
    found, tags = manifest.read(file), _tags(file)
    if as_json:
        typer.echo(json.dumps({"manifest": found and asdict(found), "tags": tags}, indent=1, ensure_ascii=False))
    elif found is None:
        typer.echo(f"{file}: {NO_MANIFEST}")
    else:
        who = TEST_MEANING if found.signer == TEST_NAME else "not compared with a list of trusted signers"
        typer.echo(f"{file}: signed by {found.signer} ({who})")
        typer.echo(f"time: {found.time or 'not stated'}; software: {found.software}")
        typer.echo("changed since: " + (f"YES: {'; '.join(found.faults)}" if found.faults else "no"))
        for said in found.said:
            typer.echo(f"what was done: {said}")
        for ingredient in found.ingredients:
            typer.echo(f"made from: {ingredient}")
        for name, value in _networks(found.details).items():
            typer.echo(f"network: {name} {value}")
    if not as_json:
        for name, value in tags.items():
            typer.echo(f"tag: {name}: {value}")
    if found is not None and found.faults:
        raise typer.Exit(1)


def _networks(manifest: dict[str, Any]) -> dict[str, str]:
    """Content hashes of the weights by network, in a manifest of this project."""
    from latentsync.generation.marking import ASSERTION

    data = next((one["data"] for one in manifest.get("assertions", []) if one["label"] == ASSERTION), {})
    return data.get("weights", {})


def _tags(file: Path) -> dict[str, str]:
    """Comment and description of the container; none where FFmpeg cannot read it."""
    from latentsync.ledger.rows import Rejection
    from latentsync.media.opening import opened

    try:
        with opened(file) as container:
            metadata = {name.lower(): value for name, value in container.metadata.items()}
    except Rejection:
        return {}
    return {name: metadata[name] for name in ("comment", "description") if name in metadata}
