"""`latentsync weights`: list, download, check, locate and describe pretrained files."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from latentsync import required
from latentsync.cli import options
from latentsync.weights import fetch as fetching
from latentsync.weights import registry
from latentsync.weights.registry import ALLOWED, USES, Entry, Use

app = typer.Typer(no_args_is_help=True, help="Pretrained files: list, fetch, verify, path, inspect.")

Names = Annotated[list[str] | None, typer.Argument(help="names as `list` shows them")]
For = Annotated[Use | None, options.choice("--for", Use, "what the files are needed for")]
Commercial = Annotated[
    bool, typer.Option("--commercial", help="leave out files whose licence does not allow commercial use")
]


@app.command("list")
def list_weights(use: For = None, commercial: Commercial = False) -> None:
    """List every pretrained file: size, licence, whether commercial use is allowed, and whether it is here."""
    rows = [("name", "GB", "commercial", "state", "needed for", "licence")]
    for entry in chosen(None, use, everything=True):
        if not commercial or ALLOWED[entry.commercial]:
            uses = ", ".join(entry.needed_for) or "by choice"
            rows.append((entry.name, size_gb(entry), entry.commercial, state(entry), uses, entry.licence))
    if len(rows) == 1:
        raise ValueError(f"Nothing that is needed for {use} may be used commercially (docs/licences.md).")
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    screen = shutil.get_terminal_size((120, 24)).columns
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        typer.echo(line if len(line) <= screen else line[: screen - 3] + "...")
    typer.echo("\nlicences in full: docs/licences.md")
    typer.echo(f"weights folder: {registry.weights_folder()} (LATENTSYNC_WEIGHTS sets another)")


@app.command()
def fetch(
    names: Names = None,
    use: For = None,
    commercial: Commercial = False,
    offline: Annotated[bool, typer.Option("--offline", help="download nothing; list what is missing")] = False,
) -> None:
    """Download files, resuming interrupted downloads; each is checked before it gets its final name."""
    entries = chosen(names, use)
    if commercial:
        if names:
            required.require_commercial([(entry.name, "asked for by name") for entry in entries])
        for entry in (entry for entry in entries if not ALLOWED[entry.commercial]):
            instead = f"; instead: {entry.instead}" if entry.instead else ""
            typer.echo(f"{entry.name}: left out, commercial use: {entry.commercial} ({entry.licence}){instead}")
        entries = [entry for entry in entries if ALLOWED[entry.commercial]]
    failed = []
    for entry in entries:
        typer.echo(f"{entry.name}: {entry.what}; licence {entry.licence}, commercial use: {entry.commercial}")
        new, faults = [], []
        for file in entry.files:
            try:
                new.append(fetching.fetch(file, offline))
            except ValueError as error:
                faults.append(error)
                typer.echo(f"  {error}", err=True)
        if faults:
            failed.append(entry.name)
            continue
        fetching.drop_archives(entry.files)
        typer.echo(f"  {'fetched' if any(new) else 'is here'}: {entry.path}")
    if failed:
        raise ValueError(f"{len(failed)} of {len(entries)} could not be fetched: {', '.join(failed)}.")


@app.command()
def verify(names: Names = None, use: For = None) -> None:
    """Compare the files that are here with their known sha256."""
    wrong = good = 0
    for entry in chosen(names, use, everything=True):
        for file in entry.files:
            path = file.path
            if not path.exists():
                if names:
                    typer.echo(f"{entry.name}: missing: {path}")
                    wrong += 1
                continue
            expected, actual = registry.expected_sha256(path), registry.sha256_of(path)
            fits = expected is None or actual.startswith(expected)
            good, wrong = good + fits, wrong + (not fits)
            if not fits:
                verdict = f"DAMAGED OR ANOTHER FILE, should be {expected}"
            elif expected is None:
                verdict = "no known sha256 to compare with"
            else:  # a sha256 that fetch recorded itself proves only that the file has not changed since
                verdict = "good" if file.sha256 else "as it was fetched"
            typer.echo(f"{entry.name}: {path}: sha256 {actual}: {verdict}")
    if wrong:
        raise ValueError(
            f"Missing or not what it should be: {wrong} of {wrong + good} files; move such a file away, fetch it again."
        )
    if not good:
        raise ValueError(
            f"None of these files is in {registry.weights_folder()}, so nothing was compared; fetch them with "
            "`latentsync weights fetch`, or set LATENTSYNC_WEIGHTS to the folder that holds them."
        )


@app.command()
def path(name: Annotated[str | None, typer.Argument(help="a name; none: the folder itself")] = None) -> None:
    """Print where a file is, or belongs."""
    typer.echo(registry.entry(name).path if name else registry.weights_folder())


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="any file of weights, ours or foreign")],
    tensors: Annotated[bool, typer.Option("--tensors", help="list every tensor as well: name, shape, type")] = False,
) -> None:
    """Describe a file of weights: what it is, what loads it, its size and its configuration."""
    from latentsync.weights import files as weight_files
    from latentsync.weights import layouts

    weight_files.require_file(file)
    known, program = registry.known_as(file), weight_files.is_program(file)
    state, metadata = ({}, {}) if program else weight_files.read(file)
    listed = f"It is {known.what} ({known.name} in `latentsync weights list`)." if known else None
    looks = layouts.recognise_own(metadata) if metadata else layouts.recognise(state)
    typer.echo(f"{file}\n" + ("\n".join(filter(None, (listed, looks))) or "Its kind is not known."))
    if program:
        typer.echo("kind: a program (ONNX or TorchScript), whose tensors are not listed")
    else:
        kinds = Counter(str(value.dtype).removeprefix("torch.") for value in state.values())
        types = ", ".join(kinds) if len(kinds) == 1 else ", ".join(f"{kind} x {n:,}" for kind, n in kinds.items())
        typer.echo(f"parameters: {sum(value.numel() for value in state.values()):,} in {len(state):,} tensors, {types}")
    typer.echo(f"size: {file.stat().st_size / 1e6:,.1f} MB\nsha256: {registry.sha256_of(file)}")
    for key, value in metadata.items():
        typer.echo(f"{key}: {value}")
    for key, value in state.items() if tensors else ():
        typer.echo(f"{key}  {tuple(value.shape)}  {str(value.dtype).removeprefix('torch.')}")
    if state and not tensors:
        typer.echo("--tensors lists all tensors.")


def chosen(names: list[str] | None, use: Use | None, everything: bool = False) -> list[Entry]:
    """The entries of these names, or those that are needed for one use, or all.

    Raises:
        ValueError: an unknown name, or neither names nor a use where one is needed.
    """
    if names:
        return [registry.entry(name) for name in names]
    if use is None and not everything:
        raise ValueError(
            f"Name the files to fetch, as `latentsync weights list` shows them, or give --for {'|'.join(USES)}."
        )
    return [entry for entry in registry.entries().values() if use is None or use in entry.needed_for]


def size_gb(entry: Entry) -> str:
    """Size in gigabytes; `?` if the registry does not know it."""
    sizes = [file.size for file in entry.files]
    return f"{sum(size for size in sizes if size) / 1e9:.2f}" + ("+?" if None in sizes else "") if any(sizes) else "?"


def state(entry: Entry) -> str:
    """Whether its files are here: here, half, missing or wrong size. Nothing is hashed."""
    files = entry.files
    if any(file.size not in (None, file.path.stat().st_size) for file in files if file.path.exists()):
        return "wrong size"
    if all(file.path.exists() for file in files):
        return "here"
    return "half" if any(fetching.part_of(file.path).exists() for file in files) else "missing"
