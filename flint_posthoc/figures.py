"""Draws arrays with matplotlib, which is imported when a picture is asked for. Knows no other room: everything arrives as lists and arrays.

Figures are made without pyplot, so that no global state, window or backend is touched. Colours are Okabe and Ito's, safe for
colour-blind readers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Figure
else:
    Figure = Any

POSITIVE, NEGATIVE, NEUTRAL, ACCENT = "#0072B2", "#D55E00", "#8A8A8A", "#009E73"
DIVERGING = "RdBu"  # blue is positive, as in the bars
MAX_LABEL = 28


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of ``width`` × ``height`` inches."""
    from matplotlib.figure import Figure as MatplotlibFigure

    return MatplotlibFigure(figsize=(width, height), layout="constrained")


def shorten(text: str, limit: int = MAX_LABEL) -> str:
    """``text`` on one line of at most ``limit`` characters, safe from matplotlib's own mark-up."""
    line = " ".join(text.split())
    return (line if len(line) <= limit else line[: limit - 1] + "…").replace("$", r"\$")


def as_picture(pixels: np.ndarray) -> np.ndarray:
    """(channels, H, W) pixels in [0, 1] as matplotlib wants them: (H, W) grey, (H, W, 3) colour; other channel counts show their mean."""
    clipped = np.clip(np.asarray(pixels, dtype=np.float32), 0, 1)
    return np.moveaxis(clipped, 0, -1) if clipped.shape[0] == 3 else clipped.mean(axis=0)


def show_image(axes: Any, pixels: np.ndarray, title: str = "") -> None:
    """One image without ticks."""
    axes.imshow(as_picture(pixels), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=9)


def relevance_bars(axes: Any, attributes: Sequence[int], relevance: Sequence[float], title: str = "") -> None:
    """Horizontal bars of signed relevance in [-1, 1], the first one on top."""
    places = range(len(attributes))
    axes.barh(places, relevance, color=[POSITIVE if value >= 0 else NEGATIVE for value in relevance], height=0.7)
    axes.set_yticks(places, [f"φ{attribute}" for attribute in attributes], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(-1.05, 1.05)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("relevance to the explained class", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_title(title, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def local_interpretation(
    pixels: np.ndarray, attributes: Sequence[int], relevance: Sequence[float], *, heading: str, warning: str = ""
) -> Figure:
    """An image beside the relevance bars of its explanation; a ``warning`` (g and f disagree …) stands in red above both."""
    figure = new_figure(7.2, max(2.6, 0.28 * len(attributes) + 1.2))
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.6])
    show_image(left, pixels)
    relevance_bars(right, attributes, relevance)
    figure.suptitle(heading + (f"\n{warning}" if warning else ""), fontsize=9, color=NEGATIVE if warning else "black")
    return figure


def relevance_heatmap(relevance: np.ndarray, class_names: Sequence[str], *, heading: str) -> Figure:
    """The class-attribute matrix r_{j,c} (J, C), a row an attribute and a column a class; classes that were never predicted are hatched."""
    num_attributes, num_classes = relevance.shape
    figure = new_figure(min(24, 0.42 * num_classes + 3), min(30, 0.2 * num_attributes + 2.2))
    axes = figure.subplots()
    axes.set_facecolor("#D9D9D9")
    axes.patch.set_hatch("///")
    image = axes.imshow(np.ma.masked_invalid(relevance), cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    step = max(1, math.ceil(num_classes / 60))
    axes.set_xticks(range(0, num_classes, step), [shorten(name, 18) for name in class_names[::step]], rotation=60, ha="right", fontsize=8)
    step = max(1, math.ceil(num_attributes / 130))
    axes.set_yticks(range(0, num_attributes, step), [f"φ{attribute}" for attribute in range(0, num_attributes, step)], fontsize=7)
    figure.colorbar(image, ax=axes, shrink=0.8).set_label("mean relevance r", fontsize=8)
    axes.set_title(heading, fontsize=9)
    return figure


def fit_history(series: Mapping[str, Sequence[float]], validation: Mapping[str, Sequence[float]] | None = None) -> Figure:
    """One small line plot a series over epochs; ``validation`` adds a second line to the series of the same name."""
    columns = 3
    rows = max(1, math.ceil(len(series) / columns))
    figure = new_figure(3 * columns, 2.1 * rows)
    grid = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axes, (name, values) in zip(grid, series.items(), strict=False):
        axes.plot(range(len(values)), values, color=POSITIVE, marker="o" if len(values) < 3 else "", label="training")
        other = (validation or {}).get(name, [])
        if any(math.isfinite(value) for value in other):
            axes.plot(range(len(other)), other, color=NEGATIVE, label="validation")
            axes.legend(fontsize=7)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("epoch", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(series) :]:
        axes.set_axis_off()
    return figure


def picture_rows(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], *, heading: str = "") -> Figure:
    """A grid of pictures, one list a row, with a title a column: images beside their reconstructions."""
    columns = len(titles)
    figure = new_figure(1.5 * columns, 1.5 * len(rows) + 0.5)
    grid = np.array(figure.subplots(len(rows), columns), dtype=object).reshape(len(rows), columns)
    for number, row in enumerate(rows):
        for column, pixels in enumerate(row):
            show_image(grid[number, column], pixels, titles[column] if number == 0 else "")
    figure.suptitle(heading, fontsize=9)
    return figure


def save(figure: Figure, path: str | Path) -> Path:
    """Write ``figure`` as the kind that the suffix names (PNG, PDF, SVG) and return the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path
