"""Generate config/README.md and schema.json from config.py, docs/ledger.md from the columns of rows, docs/licences.md
from registry.toml.

`python docs/generate.py` after a change; a test compares the files with what this module generates.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from latentsync.config import SECTIONS, VERSIONS, Config, Section
from latentsync.faces.backends import BACKENDS
from latentsync.ledger.columns import ARRAYS, KINDS, REASONS, columns
from latentsync.sync.scorers import SCORERS
from latentsync.weights import registry

ROOT = Path(__file__).parent.parent
HEAD = """# Configuration

`config.yaml` configures the demo and is read if no `--configfile` is given. With `--configfile`, only the given files
are read, on top of the defaults below. The defaults follow the published LatentSync 1.5 recipe; where they differ, the
meaning names the published value. `real.yaml` runs your own footage through the whole graph on a CPU with stand-ins.
`input_dir` must be given: the folder of your videos, or `synthetic_talkers`, as in the demo. An unknown key is an
error. Editors can complete and check these files with `schema.json`.

    snakemake --cores all --configfile config/real.yaml --config input_dir=/data/videos run=mine

On the command line, write the keys of a section in braces, null included, and the target after `--`:

    snakemake --cores all --config 'select_clips={min_face_px: null}' -- curate

Threads, memory and GPUs of jobs are not part of the configuration: see `profiles/`. `torch_threads` and
`generate.encoder_threads` are keys because they change results; elsewhere x264 runs with one thread for that reason.
"""

LICENCES = """# Licences

The code is Apache-2.0. No pretrained file is part of this repository, and the demo downloads none. These are the files
of the published recipe and their alternatives (`latentsync weights list`):

TABLE

Commercial use: *restricted* means allowed under the use restrictions of the licence. *unclear* means that the terms of
the weights are not stated or are disputed; treat it as not allowed until you have asked the publisher.
`commercial: true` in a configuration, and `--commercial` of `latentsync generate` and `latentsync weights fetch`,
refuse what is unclear or forbidden and name an alternative.
This is a reading of the publishers' texts, not legal advice; what the training data allow is a separate question.

Face backends (`align_faces.backend`, `evaluate.faces`, `--faces`):

FACES

Of the optional packages, the code of CodeFormer (extra `codeformer`) has the same non-commercial licence as its
weights, so it is not part of the lock file. The package of InsightFace (extra `insightface`) is MIT, its weights are
not.

The synthetic talkers are drawn from the photograph of an astronaut in scikit-image (NASA, public domain). The face
models of mediapipe come in its wheel (Apache-2.0); the six points of the head model are vertices of its canonical face
model. Of the packages that measure clips, ImageHash is BSD-2, and the network that finds speech comes in the wheel of
Silero VAD (MIT). Pauses of the driving audio are found by WebRTC's voice detector (BSD-3, with an MIT wrapper).
"""

LEDGER = """# Ledgers

A ledger is a file `results/<run>/<step>/<shard>.jsonl`: one JSON object per line, sorted by id. A row has the columns
of the steps that it went through, and no row is ever dropped. Segments repeat the columns of their source, clips those
of their segment, videos those of their pair; a table lists them once. A column that ends in `_file` is a path relative
to `results/<run>`. Ticks are 25 per second, ranges half-open. The sha256 of a ledger is beside it, in
`.<shard>.jsonl.sha256` (`sha256sum -c` reads it); a ledger that was edited or damaged is refused, and deleting it lets
the next run write it again from the journal.

Generated from `latentsync/ledger/columns.py`; do not edit.
"""


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    first, *others = ("| " + " | ".join(map(str, cells)) + " |\n" for cells in (head, *rows))
    return "".join([first, "|---" * len(head) + "|\n", *others])


def ledger() -> str:
    """Text of docs/ledger.md: every column of every kind of row, and the reasons."""
    steps = ["", "sources", *VERSIONS]
    parts, known = [LEDGER], set()
    for kind_name, kind in KINDS.items():
        rows = [(f"`{name}`", _type(value), c.unit, c.step, c.meaning) for name, (value, c) in columns(kind).items()]
        rows = [row for row in sorted(rows, key=lambda row: steps.index(row[3])) if row not in known]
        known |= set(rows)
        listed = table(("column", "type", "unit", "written by", "meaning"), rows)
        parts.append(f"\n## {kind_name}\n\n{kind.__doc__}\n\n{listed}")
    for file, arrays in ARRAYS.items():
        rows = ((f"`{name}`", c.unit, c.meaning) for name, (_, c) in columns(arrays).items())
        parts.append(f"\n## Arrays of {file}\n\n{arrays.__doc__}\n\n{table(('array', 'type', 'meaning'), rows)}")
    reasons = table(("reason", "meaning"), ((f"`{reason}`", meaning) for reason, meaning in REASONS.items()))
    return "".join(parts) + f"\n## Reasons\n\n{reasons}"


def _type(value: Any) -> str:
    """A type in the words of JSON."""
    if get_origin(value) is Literal:
        return " or ".join(f"`{each}`" for each in get_args(value))
    names = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
    if value in names:
        return names[value]
    if get_origin(value) in (list, dict):
        what, inner = {list: "list", dict: "object"}[get_origin(value)], get_args(value)[-1]
        return what if inner is Any else f"{what} of {names[inner]}s"
    return " or ".join(_type(each) for each in get_args(value))


def licences() -> str:
    """Text of docs/licences.md: one row per entry of the registry."""
    entries = ((f"`{e.name}`", e.what, e.commercial, e.licence, e.source) for e in registry.entries().values())
    files = table(("name", "what", "commercial use", "licence", "source"), entries)
    weights_of = {name: ", ".join(f"`{file}`" for file in each.weights) for name, each in BACKENDS.items()}
    backends = ((f"`{name}`", weights_of[name] or "in the package", each.licence) for name, each in BACKENDS.items())
    faces = table(("backend", "weights", "licence"), backends)
    return LICENCES.replace("TABLE\n", files).replace("FACES\n", faces)


def readme() -> str:
    """Text of config/README.md: every key with its default and its meaning."""
    top = [(name, field) for name, field in Config.model_fields.items() if name not in SECTIONS]
    parts = [HEAD, "\n## Top level\n\n", _keys(top)]
    for name, section in SECTIONS.items():
        parts.append(f"\n## {name}\n\n{str(section.__doc__).strip()}\n")
        if section.model_fields:
            parts += ["\n", _keys(section.model_fields.items())]
        if name == "score_sync":
            scorers = ((f"`{name}`", scorer.scale, scorer.weights or "none") for name, scorer in SCORERS.items())
            parts += ["\n", table(("sync scorer", "its confidence", "weights"), scorers)]
    return "".join(parts)


def _keys(fields: Iterable[tuple[str, FieldInfo]]) -> str:
    rows = []
    for name, field in fields:
        default = field.default.model_dump(mode="json") if isinstance(field.default, Section) else field.default
        rows.append((f"`{name}`", f"`{json.dumps(default)}`", field.description or field.annotation.__doc__))
    return table(("key", "default", "meaning"), rows)


def schema() -> str:
    """JSON schema of the whole configuration."""
    return json.dumps(Config.model_json_schema(), indent=1) + "\n"


if __name__ == "__main__":
    (ROOT / "config/README.md").write_text(readme())
    (ROOT / "config/schema.json").write_text(schema())
    (ROOT / "docs/licences.md").write_text(licences())
    (ROOT / "docs/ledger.md").write_text(ledger())
