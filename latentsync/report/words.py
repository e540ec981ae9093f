"""Numbers and lengths of time in words, for pages, the dataset card and tables."""

from collections.abc import Sequence

TIME = (("h", 3600), ("min", 60), ("s", 1))  # units and their size in seconds


def plain(value: float, digits: int) -> str:
    """Fixed digits, no minus zero, a real minus sign, thin spaces from 10,000 on."""
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    whole, _, rest = text.partition(".")
    if len(whole.lstrip("-")) > 4:
        whole = f"{int(whole):,}".replace(",", "\u202f")
    return (whole + ("." + rest if rest else "")).replace("-", "−")


def in_unit(value: float, units: Sequence[tuple[str, float]]) -> tuple[float, str]:
    """The value in the largest unit of which there are at least 1.5, else in the smallest.

    units: (name, size), largest first.
    """
    name, size = next((unit for unit in units if value >= 1.5 * unit[1]), units[-1])
    return value / size, name


def in_time(seconds: float) -> tuple[float, int, str]:
    """A length of time as (value, digits, unit): one decimal, none for 10 seconds and more of them."""
    value, unit = in_unit(seconds, TIME)
    return value, 0 if unit == "s" and value >= 10 else 1, unit


def duration(seconds: float | None) -> str:
    """A length of time in the unit that suits it."""
    if seconds is None:
        return "unknown"
    value, digits, unit = in_time(seconds)
    return f"{plain(value, digits)} {unit}"


def spoken(name: str) -> str:
    """The name of a column in words: `face_share` is "Face share"."""
    return name.replace("_", " ").capitalize()


def sentence(words: str) -> str:
    """A capital letter at the start and a full stop at the end."""
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) else ".")


def listed(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
