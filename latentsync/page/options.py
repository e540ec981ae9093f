"""The options of the page, from the configuration's sections: one row each, which becomes a component and a setting.

Default, limits, choices and meaning are those of config.py, as for the command line (cli/options.py).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from latentsync.config import HIGH_QUALITY_CRF, PRESETS, Enhance, Generate, Mark, Preset, Section

OF_PRESET = {key for keys in PRESETS.values() for key in keys}


@dataclass(frozen=True)
class Option:
    """A key of a section, as the page shows it."""

    section: type[Section]
    key: str
    label: str
    off: str = ""
    """What the page calls null, if that is a choice."""
    prefix: str = ""
    """Of the name by which programs give it."""
    most: float | None = None
    """End of a slider where the configuration has no limit."""

    @property
    def name(self) -> str:
        """What programs call it."""
        return self.prefix + self.key

    @property
    def default(self) -> Any:
        """As in the configuration; None where the preset decides."""
        return None if self.section is Generate and self.key in OF_PRESET else self._field.default

    @property
    def meaning(self) -> str:
        """For people: null exists only in YAML."""
        text = (self._field.description or "").replace("`", "")
        text = text.replace(f"; null: {self.off}", "") if self.off else text
        text = text.replace("null:", f"{self.off or 'empty'}:")
        starts_with_value = text.startswith((*(f"{choice}:" for choice in self.choices), f"{self.off}:"))
        return text if starts_with_value else text[:1].upper() + text[1:]

    @property
    def placeholder(self) -> str:
        """What an empty field stands for."""
        if self.section is Generate and self.key in OF_PRESET:
            return str(of_preset("exact", self.key))
        return "0" if self.counts else "none"

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of a Literal, () for others."""
        options = (self._field.annotation, *get_args(self._field.annotation))
        return next((get_args(one) for one in options if get_origin(one) is Literal), ())

    @property
    def limits(self) -> tuple[float | None, float | None]:
        """Least and greatest value, None where there is no such limit."""
        found = {end: getattr(one, end) for one in self._field.metadata for end in ("ge", "le") if hasattr(one, end)}
        return found.get("ge"), found.get("le", self.most)

    @property
    def whole(self) -> bool:
        """Whether it is a whole number."""
        return int in (self._field.annotation, *get_args(self._field.annotation))

    @property
    def counts(self) -> bool:
        """Whether it is a number."""
        return bool({int, float} & {self._field.annotation, *get_args(self._field.annotation)})

    @property
    def _field(self) -> Any:
        return self.section.model_fields[self.key]


ENHANCING = [
    Option(Enhance, "method", "Face enhancement", off="none", prefix="enhance_"),
    Option(Enhance, "strength", "Strength of the enhancement", prefix="enhance_"),
]
ENHANCING_MORE = [
    Option(Enhance, "region", "Enhanced region", prefix="enhance_"),
    Option(Enhance, "lip_protection", "Lip protection", prefix="enhance_"),
    Option(Enhance, "fidelity", "Fidelity", prefix="enhance_"),
    Option(Enhance, "force", "Enhance every face", prefix="enhance_"),
]
TIMING = [
    Option(Generate, "audio_offset_ms", "Audio offset, ms"),
    Option(Generate, "length", "Length of the result"),
    Option(Generate, "loop", "When the audio is longer"),
    Option(Generate, "silence", "In pauses of the audio", off="as generated"),
]
DRAWING = [
    Option(Generate, "steps", "Denoising steps"),
    Option(Generate, "guidance", "Guidance", most=3.0),
    Option(Generate, "seed", "Seed"),
    Option(Generate, "solver", "Solver", off="as the preset says"),
]
OUTPUT = [Option(Generate, "codec", "Format of the result"), Option(Generate, "deinterlace", "Deinterlace")]
FACE = Option(Generate, "face", "Face")
MARKING = [Option(Mark, "label", "Visible label")]
ALL = [*ENHANCING, *ENHANCING_MORE, *TIMING, *DRAWING, *OUTPUT, *MARKING, FACE]


LABELS = {f"{option.section.__name__.lower()}.{option.key}": option.label for option in ALL}


def settings(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What the page's values mean as keys of `generate`, `enhance` and `mark`; empty ones are left to the default."""
    found: dict[type[Section], dict[str, Any]] = {Generate: {}, Enhance: {}, Mark: {}}
    for option in ALL:
        value = values.get(option.name)
        if value not in (None, "", option.off):
            found[option.section][option.key] = number(option.label, value) if option.counts else value
    if values.get("high_quality") and "crf" not in found[Generate]:
        found[Generate]["crf"] = HIGH_QUALITY_CRF
    return found[Generate], found[Enhance], found[Mark]


def number(label: str, value: Any) -> float | int:
    """What somebody typed, as a number.

    Raises:
        ValueError: it is none.
    """
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{label} is {value!r}, which is no number.")
    return int(found) if found.is_integer() else found


def of_preset(preset: Preset, key: str) -> Any:
    """The value of a key that applies with a preset while the user gives none."""
    return PRESETS[preset].get(key, Generate.model_fields[key].default)
