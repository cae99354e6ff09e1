"""The colours of the heat map, in light and dark, each with an ink that can be read on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

LEVELS = 10  # shades on each side of zero

Colour: TypeAlias = tuple[float, float, float]  # sRGB in [0, 255]


@dataclass(frozen=True)
class Theme:
    """Colours of cells at relevance 0, 1 and -1, and the two inks to write on cells with."""

    zero: Colour
    positive: Colour
    negative: Colour
    inks: tuple[Colour, Colour]


@dataclass(frozen=True)
class Shade:
    """One level of the heat map: ``name`` is its CSS class, ``fill`` and ``ink`` are ``#rrggbb``."""

    name: str
    fill: str
    ink: str


BLUE, ORANGE = (0, 98, 155), (176, 74, 0)  # Okabe and Ito's, darkened, as everywhere in the package: blue speaks for, orange against
INKS = ((0, 0, 0), (255, 255, 255))  # the better of the two has a contrast of 4.58 at least, on any ground
LIGHT = Theme((255, 255, 255), BLUE, ORANGE, INKS)
DARK = Theme((27, 31, 37), (86, 180, 233), (240, 150, 70), INKS)


def level(relevance: float) -> str:
    """The CSS class of a cell with this relevance in [-1, 1]; ``none`` for NaN."""
    if relevance != relevance:
        return "none"
    steps = min(LEVELS, round(abs(relevance) * LEVELS))
    return f"{'p' if relevance >= 0 else 'n'}{steps}" if steps else "p0"


def shades(theme: Theme) -> list[Shade]:
    """Every level of a theme."""
    ends = {"p": theme.positive, "n": theme.negative}
    return [
        _shade(theme, f"{side}{steps}", _mix(theme.zero, end, steps / LEVELS)) for side, end in ends.items() for steps in range(LEVELS + 1)
    ]


def contrast(first: Colour, second: Colour) -> float:
    """WCAG 2's contrast ratio, 1 to 21."""
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


def _shade(theme: Theme, name: str, fill: Colour) -> Shade:
    ink = max(theme.inks, key=lambda candidate: contrast(candidate, fill))
    return Shade(name, hexadecimal(fill), hexadecimal(ink))


def _mix(start: Colour, end: Colour, part: float) -> Colour:
    red, green, blue = (low + (high - low) * part for low, high in zip(start, end, strict=True))
    return red, green, blue


def _luminance(colour: Colour) -> float:
    linear = [value / 255 / 12.92 if value <= 0.04045 * 255 else ((value / 255 + 0.055) / 1.055) ** 2.4 for value in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def hexadecimal(colour: Colour) -> str:
    """``#rrggbb``."""
    return "#" + "".join(f"{round(value):02x}" for value in colour)
