"""What the command line of Snakemake asks for: the steps behind its targets, and mistakes that end in a traceback.

Snakemake knows the targets only after the Snakefile is parsed, so they are read from the command line, with Snakemake's
own parser.
"""

import os
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def _parsed(argv: list[str]) -> Namespace | None:
    """The command line as Snakemake reads it; None if the process is another program that uses Snakemake."""
    if Path(argv[0]).stem != "snakemake" and Path(argv[0]).parts[-2:] != ("snakemake", "__main__.py"):
        return None
    from snakemake.cli import get_argument_parser

    return get_argument_parser().parse_args(argv[1:])


def requested(rules: Iterable[Any], argv: list[str]) -> set[str] | None:
    """Names of all rules that the targets of the command line need; None where that is not known: then all may be.

    Targets are rules, or files of a rule. What a rule needs follows from the folders that it reads and others write.
    """
    args = _parsed(argv)
    if args is None:
        return None
    by_name = {rule.name: rule for rule in rules}
    maker = {os.path.dirname(path): name for name, rule in by_name.items() for path in rule.output}
    targets = [*(args.targets or ["all"]), *(args.forcerun or []), *(args.prioritize or [])]
    waiting = [name if name in by_name else maker.get(os.path.dirname(os.path.relpath(name))) for name in targets]
    needed: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name is None:
            return None
        if name not in needed:
            needed.add(name)
            folders = {os.path.dirname(path) for path in by_name[name].input if isinstance(path, str)}
            waiting += [maker[folder] for folder in folders if folder in maker]
    return needed


def refuse_config(argv: list[str]) -> None:
    """End with one sentence where Snakemake would end with a traceback because of what follows --config.

    The profiles call this: a profile is read before --config is.

    Raises:
        SystemExit: a target follows --config without --, or a key has a dot.
    """
    args = _parsed(argv)
    if args is None:
        return
    for entry in args.config or ():
        if entry.startswith("base64//"):  # Snakemake's own words to a job of its
            continue
        name, equals, value = entry.partition("=")
        section, dot, key = name.partition(".")
        if not equals:
            given = " ".join(one for one in args.config if "=" in one)
            raise SystemExit(
                f"{entry!r} after --config is no key=value; if it is a target, put -- before it: "
                f"--config {given} -- {entry}"
            )
        if dot:
            for inner in reversed(key.split(".")):
                value = f"{{{inner}: {value}}}"
            raise SystemExit(f"--config {entry}: a key has no dot; write --config '{section}={value}'")
