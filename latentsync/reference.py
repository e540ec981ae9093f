"""Write config/README.md and schema.json from config.py, and docs/licences.md from registry.toml; a test compares.

`python -m latentsync.reference`
"""

import json
from pathlib import Path

from latentsync.config import Config, Section
from latentsync.weights import registry

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "config"
HEAD = """# Configuration

`config.yaml` is the demo and is read when no `--configfile` is given. Any other file is read alone, on top of the
defaults below, which are the published LatentSync 1.5 recipe: a key you leave out is published, not toy-sized.
`real.yaml` takes your own footage through the whole graph on a CPU with embedded models. An unknown key is an error.
Editors complete and check these files with `schema.json`.

    snakemake --cores all --configfile config/real.yaml --config input_dir=/data/videos run=mine

Threads of jobs, memory and GPUs are not configuration: see `profiles/`. Two exceptions, since they change sums:
`torch_threads`, and x264, which always runs with one thread.
"""


LICENCES = """# Licences

The code is Apache-2.0. Nothing pretrained is shipped or fetched by the demo. What the published recipe uses, and what
may take its place (`latentsync weights list`):

TABLE

Commercial use: *restricted* is allowed under the use restrictions of the licence; *unclear* is not stated for the
weights, or disputed, so nothing is allowed until somebody asks. `commercial: true` in a configuration, and
`--commercial` of `latentsync generate` and `latentsync weights fetch`, refuse what is unclear or forbidden and name
what to choose instead.
This is a reading of the publishers' words, not legal advice; what the training data allow is another question.

Of the optional packages, the code of CodeFormer (extra `codeformer`) is under the same non-commercial licence as its
weights; so it is not part of the lock file. InsightFace's package (extra `insightface`) is MIT, its weights are not.

The synthetic talkers are drawn from scikit-image's photograph of an astronaut (NASA, public domain). mediapipe's face
models come in its wheel (Apache-2.0); the six points of the head model are vertices of its canonical face. Of the
measures of curation, ImageHash is BSD-2, the voice detector WebRTC's (BSD-3, MIT wrapper).
"""


def licences() -> str:
    """The page of licences: a line for every entry of the registry."""
    lines = ["| name | what | commercial use | licence | source |", "|---|---|---|---|---|"]
    for entry in registry.entries().values():
        lines.append(f"| `{entry.name}` | {entry.what} | {entry.commercial} | {entry.licence} | {entry.source} |")
    return LICENCES.replace("TABLE", "\n".join(lines))


def readme() -> str:
    """The user's page: every key with its type, default and meaning."""
    parts = [HEAD]
    top = [(name, field) for name, field in Config.model_fields.items() if not _is_section(field.annotation)]
    parts.append("\n## Top level\n\n" + _table(top))
    for name, field in Config.model_fields.items():
        if _is_section(field.annotation):
            parts.append(f"\n## {name}\n\n{field.annotation.__doc__.strip()}\n")
            if field.annotation.model_fields:
                parts.append("\n" + _table(field.annotation.model_fields.items()))
    return "".join(parts)


def schema() -> str:
    """JSON schema of the whole configuration."""
    return json.dumps(Config.model_json_schema(), indent=1) + "\n"


def _is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _table(fields) -> str:
    lines = ["| key | published default | meaning |", "|---|---|---|"]
    for name, field in fields:
        default = field.default
        shown = default.model_dump(mode="json") if isinstance(default, Section) else default
        lines.append(f"| `{name}` | `{json.dumps(shown)}` | {field.description or field.annotation.__doc__} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (FOLDER / "README.md").write_text(readme())
    (FOLDER / "schema.json").write_text(schema())
    (ROOT / "docs/licences.md").write_text(licences())
