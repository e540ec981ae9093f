"""Consent as data: a table that says which videos may be used for what, until when, and on which document.

A CSV with the columns path or speaker, scope, until and document; a row names a file (relative to the table) or, in a
run, a speaker of select_clips.speakers. A renewal is a further row: the one that lasts longest counts.

In a run the main process writes what the table says today into three files of `results/<run>/consent/`: `training.json`
and `generation.json` say which videos are covered, and are read by select_clips and generate; `grants.json` has the
details, for pages. The first two change when a consent begins or ends, not when it is renewed in time, so a renewal
repeats no work; on the day after a consent ends, selection and generation run again.
"""

import json
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from latentsync.ledger.files import csv_rows

SCOPES = ("training", "generation")
COLUMNS = "path or speaker, scope, until and document"


@dataclass(frozen=True)
class Grant:
    """What one row allows, apart from whom it names."""

    until: str | None
    """The last day, as an ISO date; None: without an end."""
    document: str | None
    """sha256 of the signed paper, 64 hex digits."""
    ended: bool
    """The last day is over."""


@dataclass(frozen=True)
class Row:
    """One row of the table, checked; it has a path or a speaker."""

    path: Path | None
    speaker: str | None
    scope: tuple[str, ...]
    grant: Grant


Coverage = Mapping[str, Mapping[str, Grant]]  # path -> scope -> the grant that lasts longest
Covered = Mapping[str, str | None]  # path -> None, or the last day of a consent that has ended


def read_consent(table: Path, option: str, today: date) -> list[Row]:
    """The rows of a table; `option` names it in errors, and a path becomes one beside the table.

    Raises:
        ValueError: it is not such a table, or a row has a scope, a date or a hash that is none.
    """
    lines = csv_rows(table, option, f"write a CSV with the columns {COLUMNS}")
    if not lines:
        raise ValueError(f"{option} {table} has no rows, so it covers nothing; add a row for each video or speaker.")
    header = set(lines[0])
    if not header >= {"scope", "until", "document"} or not header & {"path", "speaker"}:
        begins = ",".join(name or "" for name in lines[0])
        raise ValueError(f"{option} {table} begins with {begins!r}; its first line must name {COLUMNS}, with commas.")
    return [_row(line, f"{option} {table} line {number}", table, today) for number, line in enumerate(lines, 2)]


def _row(line: Mapping[str, str], place: str, table: Path, today: date) -> Row:
    cells = {name: (line.get(name) or "").strip() for name in ("path", "speaker", "scope", "until", "document")}
    if bool(cells["path"]) == bool(cells["speaker"]):
        which = "both path and" if cells["path"] else "neither path nor"
        raise ValueError(f"{place} has {which} speaker; give one of them.")
    scope = tuple(cells["scope"].split())
    if not scope or set(scope) - set(SCOPES):
        raise ValueError(f"{place} has the scope {cells['scope']!r}; write training, generation, or both with a space.")
    document = cells["document"].lower()
    if document and not re.fullmatch(r"[0-9a-f]{64}", document):
        raise ValueError(f"{place} has the document {document!r}; write its sha256, 64 hex digits, or leave it empty.")
    try:
        last = date.fromisoformat(cells["until"]) if cells["until"] else None
    except ValueError:
        raise ValueError(
            f"{place} ends on {cells['until']!r}; write a date such as 2027-12-31, or leave it empty."
        ) from None
    grant = Grant(last.isoformat() if last else None, document or None, last is not None and last < today)
    path = table.parent.resolve() / cells["path"] if cells["path"] else None
    return Row(path, cells["speaker"] or None, scope, grant)


def cover_files(table: str | Path | None, today: date) -> dict[str, Grant] | None:
    """What the table of `--consent` allows to generate from, by resolved path; rows of speakers are for runs.

    None without a table: consent is not checked.

    Raises:
        ValueError: as `read_consent`.
    """
    if table is None:
        return None
    rows = read_consent(Path(table), "--consent", today)
    coverage = _gathered((str(row.path.resolve()), row) for row in rows if row.path is not None)
    return {path: scopes["generation"] for path, scopes in coverage.items() if "generation" in scopes}


def grant_of_file(grants: Mapping[str, Grant] | None, table: str | Path | None, video: Path) -> Grant | None:
    """What a video rests on, of what `cover_files` found; None: consent is not checked.

    Raises:
        ValueError: the table does not cover the video for generation, or no longer.
    """
    if grants is None:
        return None
    grant = grants.get(_name(str(video.resolve())))
    if why := _why(str(video), "generation", grant is not None, grant.until if grant and grant.ended else None):
        raise ValueError(f"--consent {table}: {why}.")
    return grant


def cover(rows: Iterable[Row], folder: Path, speakers: Mapping[str, str]) -> dict[str, dict[str, Grant]]:
    """What rows allow for the files of a folder. `speakers`: path in the folder -> speaker.

    Files are compared by name, as the list of sources has them: links are not followed.

    Raises:
        ValueError: a row names a speaker and no speakers are known.
    """
    paths_of: dict[str, list[str]] = {}
    for path, speaker in speakers.items():
        paths_of.setdefault(speaker, []).append(path)
    root, named = folder.resolve(), []
    for row in rows:
        if row.path is not None:
            named.append((os.path.relpath(row.path, root), row))
            continue
        assert row.speaker is not None
        if not speakers:
            raise ValueError(
                f"consent has a row for the speaker {row.speaker}, but select_clips.speakers names no speakers; "
                "set it to a CSV with path and speaker, or name files."
            )
        named += [(path, row) for path in paths_of.get(row.speaker, [])]
    return _gathered(named)


def _gathered(named: Iterable[tuple[str, Row]]) -> dict[str, dict[str, Grant]]:
    """Path -> scope -> the grant that lasts longest, from pairs of a path and a row that covers it."""
    found: dict[str, dict[str, Grant]] = {}
    for path, row in named:
        scopes = found.setdefault(_name(path), {})
        scopes |= {scope: max(row.grant, scopes.get(scope, row.grant), key=_length) for scope in row.scope}
    return found


def _length(grant: Grant) -> tuple[bool, str, str]:
    return grant.until is None, grant.until or "", grant.document or ""


def _name(path: str) -> str:
    return unicodedata.normalize("NFC", path)


def covered(coverage: Coverage, scope: str) -> dict[str, str | None]:
    """What is covered for a scope, and what no longer."""
    grants = {path: scopes[scope] for path, scopes in coverage.items() if scope in scopes}
    return {path: grant.until if grant.ended else None for path, grant in grants.items()}


def texts(coverage: Coverage) -> dict[str, str]:
    """Names and texts of the three files of a run; equal contents are equal bytes."""
    grants = {path: {scope: asdict(grant) for scope, grant in scopes.items()} for path, scopes in coverage.items()}
    files = {scope: covered(coverage, scope) for scope in SCOPES} | {"grants": grants}
    return {f"{name}.json": json.dumps(content, indent=1, sort_keys=True) + "\n" for name, content in files.items()}


def read_covered(paths: Sequence[Path]) -> dict[str, str | None] | None:
    """What training.json or generation.json says; None without one: consent is not checked."""
    return _read(paths)


def read_grants(paths: Sequence[Path]) -> dict[str, dict[str, Grant]] | None:
    """What grants.json says; None without it: consent is not checked."""
    plain = _read(paths)
    if plain is None:
        return None
    return {path: {scope: Grant(**grant) for scope, grant in scopes.items()} for path, scopes in plain.items()}


def _read(paths: Sequence[Path]) -> Any:
    if not paths:
        return None
    [path] = paths
    return json.loads(path.read_text(encoding="utf-8"))


def grant_of(coverage: Coverage, path: str, scope: str) -> Grant | None:
    """What a video rests on."""
    return coverage.get(_name(path), {}).get(scope)


def refusal(covered: Covered | None, path: str, scope: str) -> str | None:
    """Why a video of the input folder may not be used, in words; None: it may, or consent is not checked."""
    return None if covered is None else _why(path, scope, _name(path) in covered, covered.get(_name(path)))


def _why(path: str, scope: str, known: bool, ended: str | None) -> str | None:
    if not known:
        return f"{path} is not covered for {scope}; add a row with its path and this scope"
    return ended and f"the consent of {path} to {scope} ended on {ended}; add a row with a later date"
