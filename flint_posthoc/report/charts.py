"""The geometry of the page's small charts: numbers in, coordinates of inline SVG out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .histogram import BINS, ActivationHistogram
from .names import activation, counted, number, percent


@dataclass(frozen=True)
class Bar:
    """A signed share in [-1, 1] as a bar from the middle of 200 units of width; ``kind`` is its CSS class."""

    x: float
    width: float
    kind: str


def bar(value: float) -> Bar:
    """For relevance; NaN has no width."""
    length = 0.0 if math.isnan(value) else round(100 * min(1.0, abs(value)), 1)
    return Bar(100.0 if value >= 0 else 100.0 - length, length, "for" if value >= 0 else "against")


@dataclass(frozen=True)
class Tick:
    place: float
    text: str


@dataclass(frozen=True)
class Line:
    """A line of a curve chart: ``points`` as SVG wants them, ``marks`` their coordinates; ``kind`` is its CSS class."""

    name: str
    kind: str
    points: str
    marks: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class CurveChart:
    """Lines over common places, within ``width`` × ``height`` units."""

    width: int
    height: int
    left: int
    bottom: int
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    rows: tuple[tuple[str, ...], ...]  # the same numbers as a table, for who cannot see the lines


KINDS = ("first", "second")


def curve(places: Sequence[float], series: Mapping[str, Sequence[float]]) -> CurveChart:
    """At most two series over ``places``; not-a-number values break nothing and are left out."""
    width, height, left, right, top, bottom = 420, 220, 34, 12, 12, 190
    highest = nice_ceiling(max((value for values in series.values() for value in values if math.isfinite(value)), default=1.0))
    low, high = min(places), max(places)

    def x(place: float) -> float:
        return round(left + (width - left - right) * (place - low) / max(high - low, 1e-9), 1)

    def y(value: float) -> float:
        return round(bottom - (bottom - top) * value / highest, 1)

    lines = []
    for kind, (name, values) in zip(KINDS, series.items(), strict=False):
        marks = tuple((x(place), y(value)) for place, value in zip(places, values, strict=True) if math.isfinite(value))
        lines.append(Line(name, kind, " ".join(f"{across},{down}" for across, down in marks), marks))
    x_ticks = tuple(Tick(x(place), f"{place:g}") for place in places)
    y_ticks = tuple(Tick(y(highest * part / 4), f"{highest * part / 4:g}") for part in range(5))
    rows = tuple((f"{place:g}", *(number(values[index]) for values in series.values())) for index, place in enumerate(places))
    return CurveChart(width, height, left, bottom, tuple(lines), x_ticks, y_ticks, rows)


def nice_ceiling(value: float) -> float:
    """The smallest of 1, 2, 4 or 8 times a power of ten that is at least ``value``."""
    if value <= 0:
        return 1.0
    scale = 10.0 ** math.floor(math.log10(value))
    return next((step * scale for step in (1, 2, 4, 8) if step * scale >= value), 10 * scale)


@dataclass(frozen=True)
class HistogramChart:
    """Bars (x, y, width, height) in 160 × 40 units, and the same in words."""

    bars: tuple[tuple[float, float, float, float], ...]
    end: str
    description: str


def histogram_chart(histogram: ActivationHistogram) -> HistogramChart:
    """Of an attribute's positive activations, up to the last bin that holds any."""
    filled = max((index + 1 for index, count in enumerate(histogram.counts) if count), default=1)
    counts, end = histogram.counts[:filled], histogram.upper * filled / BINS
    step, tallest = 160 / filled, max(counts, default=0) or 1
    heights = [38 * count / tallest + (2 if count else 0) for count in counts]
    bars = tuple(
        (round(index * step, 2), round(40 - height, 2), round(max(step - 1, 0.5), 2), round(height, 2))
        for index, height in enumerate(heights)
        if height
    )
    total = histogram.fired + histogram.silent
    return HistogramChart(bars, activation(end), f"fires on {percent(histogram.share_fired)} of {counted(total, 'image')}")
