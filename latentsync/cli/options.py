"""Options of the command line that are keys of the configuration: same default, limits, choices and description."""

from typing import Any, Literal, get_args, get_origin

import typer

from latentsync.config import Section, require_choice


class UnknownChoice(Exception):
    """A value that an option does not know; not a ValueError, which typer would reword."""


def choice(option: str, literal: Any, description: str | None) -> Any:
    """An option for one of the values of a Literal; `--help` shows them, and any other is refused in one sentence."""

    def parse(value: str) -> str:
        try:
            require_choice(option, value, literal)
        except ValueError as error:
            raise UnknownChoice(str(error)) from None
        return value

    return typer.Option(option, parser=parse, metavar=f"[{'|'.join(get_args(literal))}]", help=description)


def key(section: type[Section], name: str, option: str | None = None) -> Any:
    """The option for a key of a section; `option`: what it is called if not like the key."""
    field = section.model_fields[name]
    option = option or f"--{name}"
    description = (field.description or "").replace("null:", "default:")  # null exists only in YAML
    literal = next((one for one in (field.annotation, *get_args(field.annotation)) if get_origin(one) is Literal), None)
    if literal is not None:
        return choice(option, literal, description)
    limits = {end: getattr(one, end) for one in field.metadata for end in ("ge", "le") if hasattr(one, end)}
    return typer.Option(option, min=limits.get("ge"), max=limits.get("le"), help=description)


def given(context: typer.Context, name: str) -> bool:
    """Whether an option is given on the command line; else its value is its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
