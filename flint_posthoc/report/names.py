"""Names and numbers as a reader sees them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MINUS = "−"


@dataclass(frozen=True)
class Name:
    """The name of a class: ``short`` for tables, ``full`` where there is room, ``index`` its position on the class axes."""

    index: int
    short: str
    full: str

    @property
    def anchor(self) -> str:
        """Of the class's section."""
        return f"class-{self.index}"

    @property
    def is_shortened(self) -> bool:
        return self.short != self.full


def class_names(names: Sequence[str], limit: int) -> tuple[Name, ...]:
    """The names of all classes, cleaned; ``short`` has at most ``limit`` characters."""
    cleaned = [clean(name) or f"class {index}" for index, name in enumerate(names)]
    return tuple(Name(index, shorten(name, limit), name) for index, name in enumerate(cleaned))


def clean(text: str) -> str:
    """``text`` on one line, without control characters and halves of surrogate pairs, which no page can hold."""
    line = " ".join(str(text).encode("utf-8", "replace").decode("utf-8").split())
    return "".join(character for character in line if character >= " " and character != "\x7f")


def shorten(text: str, limit: int) -> str:
    """At most ``limit`` characters of ``text``."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def number(value: float) -> str:
    """With two decimals; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.2f}"


def signed(value: float) -> str:
    """With two decimals and its sign; a dash for NaN."""
    if math.isnan(value):
        return "–"
    return f"{'+' if value >= 0 else MINUS}{abs(value):.2f}"


def percent(share: float, decimals: int = 1) -> str:
    """A share in [0, 1]; a dash for NaN."""
    return "–" if math.isnan(share) else f"{100 * share:.{decimals}f}\N{NO-BREAK SPACE}%"


def activation(value: float) -> str:
    """An activation φ with three significant digits."""
    return f"{value:.3g}"


def symbol(attribute: int) -> str:
    return f"φ{attribute}"


def attribute_anchor(attribute: int) -> str:
    """Of the attribute's card."""
    return f"attribute-{attribute}"


def pair_anchor(attribute: int, class_index: int) -> str:
    """Of the pair in the attribute's card."""
    return f"attribute-{attribute}-class-{class_index}"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """``1 image``, ``1,200 images``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
