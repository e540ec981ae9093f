"""Write config/README.md and config/schema.json from the models of config.py; a test compares.

`python -m latentsync.config_docs`
"""

import json
from pathlib import Path

from latentsync.config import Config, Section

FOLDER = Path(__file__).parent.parent / "config"
HEAD = """# Configuration

`config.yaml` is the demo and is read when no `--configfile` is given. Any other file is read alone, on top of the
defaults below, which are the published LatentSync 1.5 recipe: a key you leave out is published, not toy-sized.
`real.yaml` takes your own footage through the whole graph on a CPU with embedded models. An unknown key is an error.
Editors complete and check these files with `schema.json`.

    snakemake --cores all --configfile config/real.yaml --config input_dir=/data/videos run=mine

Threads of jobs, memory and GPUs are not configuration: see `profiles/`. Two exceptions, since they change sums:
`torch_threads`, and x264, which always runs with one thread.
"""


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
