"""Charts of numbers: bars, curves, histograms, heat maps, tables of counts. Pictures of images are in ``figures``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .canvas import (
    ACCENT,
    DIVERGING,
    NEGATIVE,
    NEUTRAL,
    POSITIVE,
    Figure,
    as_written,
    new_figure,
    shorten,
    write_below,
)

COLOURS = (POSITIVE, NEGATIVE, ACCENT, NEUTRAL, "#CC79A7", "#E69F00")
LONG_LABEL = 44
MANY_LINES = 6  # beyond which their names stand beside the picture: within, they would cover it


def _plain_axes(axes: Any, heading: str, horizontal: str, vertical: str = "") -> None:
    axes.set_title(heading, fontsize=9)
    axes.set_xlabel(horizontal, fontsize=8)
    axes.set_ylabel(vertical, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


@as_written
def ranked_bars(names: Sequence[str], values: Sequence[float], *, heading: str, axis: str) -> Figure:
    """Horizontal bars in the given order, the first one on top."""
    figure = new_figure(5, min(30, 0.18 * len(names) + 1.2))
    axes = figure.subplots()
    axes.barh(range(len(names)), values, color=[POSITIVE if value >= 0 else NEGATIVE for value in values], height=0.7)
    axes.set_yticks(range(len(names)), [shorten(name, LONG_LABEL) for name in names])
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    _plain_axes(axes, heading, axis)
    return figure


@as_written
def count_matrix(counts: np.ndarray, names: Sequence[str], *, heading: str) -> Figure:
    """Counts (C, C) as a table; colour is the share of a row. Up to 20 classes the counts are written in."""
    classes = len(names)
    figure = new_figure(min(20, 0.4 * classes + 2), min(20, 0.36 * classes + 1.6))
    axes = figure.subplots()
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    for row, column in np.argwhere(counts) if classes <= 20 else ():
        axes.text(
            column, row, counts[row, column], ha="center", va="center", fontsize=6, color="white" if shares[row, column] > 0.5 else "black"
        )
    ticks = range(0, classes, max(1, math.ceil(classes / 50)))
    axes.set_xticks(ticks, [shorten(names[tick], 18) for tick in ticks], rotation=60, ha="right")
    axes.set_yticks(ticks, [shorten(names[tick], 18) for tick in ticks])
    _plain_axes(axes, heading, "interpreter", "classifier")
    return figure


@as_written
def sample_heatmap(relevance: np.ndarray, groups: Sequence[str], marked: np.ndarray, *, heading: str, axis: str) -> Figure:
    """Relevance (J, N) of single samples, a row an attribute and a column a sample; neighbours of one group share its name, ``marked``
    samples (N,) have a triangle above.
    """
    num_attributes, samples = relevance.shape
    figure = new_figure(min(20, 0.09 * samples + 2.4), min(30, 0.16 * num_attributes + 2.4))
    axes = figure.subplots()
    image = axes.imshow(relevance, cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    for place in np.flatnonzero(marked):
        axes.plot(place, -1, "v", color=NEGATIVE, markersize=4, clip_on=False)
    edges = [*(place for place in range(samples) if place == 0 or groups[place] != groups[place - 1]), samples]
    for edge in edges[1:-1]:
        axes.axvline(edge - 0.5, color="black", linewidth=0.6)
    names = [shorten(groups[edge], 18) for edge in edges[:-1]]
    short = max(map(len, names)) < 12
    centres = [(start + end - 1) / 2 for start, end in pairwise(edges)]
    axes.set_xticks(centres, names, rotation=0 if short else 30, ha="center" if short else "right")
    axes.set_yticks(range(num_attributes), [f"φ{attribute}" for attribute in range(num_attributes)])
    axes.set_ylim(num_attributes - 0.5, -0.5)
    axes.tick_params(axis="x", length=0)
    axes.tick_params(labelsize=7)
    axes.set_xlabel(axis, fontsize=8)
    axes.set_title(heading, fontsize=9, pad=16)
    relevance_scale(figure, axes, image, "relevance r")
    return figure


@as_written
def histograms(groups: Mapping[str, np.ndarray], *, mark: float, heading: str, axis: str) -> Figure:
    """Outlines of how values spread in each group, as shares of the group, with a line at ``mark``."""
    figure = new_figure(6, 3.2)
    axes = figure.subplots()
    edges = np.linspace(0, max((float(np.nanmax(values)) for values in groups.values()), default=1.0) + 1e-9, 31).tolist()
    for name, values in groups.items():
        axes.hist(
            values, bins=edges, weights=np.full(len(values), 1 / len(values)), histtype="step", label=f"{shorten(name)} ({len(values):,})"
        )
    axes.axvline(mark, color="black", linewidth=0.8, linestyle=":")
    if groups:
        axes.legend(fontsize=7)
    _plain_axes(axes, heading, axis, "share of images")
    return figure


@as_written
def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    heading: str,
    axis: str,
    vertical: str,
    mark: float | None = None,
    dashed: Sequence[str] = (),
) -> Figure:
    """Lines through (x, y) points, by name; those ``dashed`` in the colour of the one before. A dotted line at x = ``mark``."""
    beside = len(series) > MANY_LINES
    figure = new_figure(7.5 if beside else 5.5, 3.4)
    axes = figure.subplots()
    solid = 0
    for name, (across, values) in series.items():
        solid += name not in dashed
        colour, style = COLOURS[(solid - 1) % len(COLOURS)], "--" if name in dashed else "-"
        axes.plot(across, values, marker="o", markersize=3, linestyle=style, color=colour, label=shorten(name, LONG_LABEL))
    if mark is not None:
        axes.axvline(mark, color="black", linewidth=0.8, linestyle=":")
    figure.legend(fontsize=7, loc="outside right center", handlelength=3) if beside else axes.legend(fontsize=7)
    _plain_axes(axes, heading, axis, vertical)
    return figure


@as_written
def relevance_heatmap(
    relevance: np.ndarray,
    class_names: Sequence[str],
    *,
    heading: str,
    notes: Sequence[str] = (),
    attributes: Sequence[int] | None = None,
) -> Figure:
    """The class-attribute matrix r_{j,c} (J, C), a row an attribute and a column a class; classes that were never predicted are hatched.

    ``attributes``: which these rows are; ``None``: all.
    """
    num_attributes, num_classes = relevance.shape
    figure = new_figure(min(24, 0.42 * num_classes + 3), min(30, 0.2 * num_attributes + 2.2))
    axes = figure.subplots()
    axes.set_facecolor("#D9D9D9")
    axes.patch.set_hatch("///")
    image = axes.imshow(np.ma.masked_invalid(relevance), cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    step = max(1, math.ceil(num_classes / 60))
    names = [shorten(name, 18) for name in class_names[::step]]
    short = max(map(len, names), default=0) <= 4
    axes.set_xticks(range(0, num_classes, step), names, fontsize=8, rotation=0 if short else 60, ha="center" if short else "right")
    step = max(1, math.ceil(num_attributes / 130))
    numbers = list(range(num_attributes) if attributes is None else attributes)[::step]
    axes.set_yticks(range(0, num_attributes, step), [f"φ{attribute}" for attribute in numbers], fontsize=7)
    relevance_scale(figure, axes, image, "mean relevance r")
    axes.set_title(heading, fontsize=9)
    write_below(figure, notes, 60)
    return figure


@as_written
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


def relevance_scale(figure: Figure, axes: Any, image: Any, label: str) -> None:
    """What the colours of ``image`` mean, beside it."""
    scale = figure.colorbar(image, ax=axes, shrink=min(0.8, 6 / figure.get_figheight()))
    scale.set_label(label, fontsize=8)
    scale.ax.tick_params(labelsize=7)
