"""Pictures of images, alone and beside bars, maps and words. Charts of numbers are in ``charts``."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .canvas import (
    NEGATIVE,
    POSITIVE,
    Figure,
    as_picture,
    as_written,
    new_figure,
    shorten,
    show_heat,
    show_image,
    write_above,
    write_below,
)

LEAST_WIDTH = 4.5  # inches of a figure with a heading


def relevance_bars(axes: Any, attributes: Sequence[int], relevance: Sequence[float]) -> None:
    """Horizontal bars of signed relevance in [-1, 1], the first one on top."""
    places = range(len(attributes))
    axes.barh(places, relevance, color=[POSITIVE if value >= 0 else NEGATIVE for value in relevance], height=0.7)
    axes.set_yticks(places, [f"φ{attribute}" for attribute in attributes], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(-1.05, 1.05)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("relevance to the explained class", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


@as_written
def local_interpretation(
    pixels: np.ndarray, attributes: Sequence[int], relevance: Sequence[float], *, heading: str, warning: str = "", notes: Sequence[str] = ()
) -> Figure:
    """An image beside the relevance bars of its explanation; a ``warning`` (g and f disagree …) stands in red above, ``notes`` below."""
    said = textwrap.wrap(warning, 95)
    figure = new_figure(7.2, max(2.6, 0.28 * len(attributes) + 1.2) + 0.15 * len(said))
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.6])
    show_image(left, pixels)
    relevance_bars(right, attributes, relevance)
    figure.suptitle("\n".join([heading, *said]), fontsize=9, color=NEGATIVE if warning else "black")
    write_below(figure, notes, 100)
    return figure


@as_written
def picture_rows(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], row_titles: Sequence[str] = (), *, heading: str) -> Figure:
    """A grid of pictures, one list a row, with a title a column and perhaps one a row: images above their reconstructions."""
    columns = len(titles)
    figure = new_figure(1.0 * columns + 1.2 * bool(row_titles), 1.05 * len(rows) + 0.6)
    grid = np.array(figure.subplots(len(rows), columns), dtype=object).reshape(len(rows), columns)
    for number, row in enumerate(rows):
        for column, pixels in enumerate(row):
            show_image(grid[number, column], pixels, titles[column] if number == 0 else "")
        if row_titles:
            grid[number, 0].text(-0.15, 0.5, row_titles[number], transform=grid[number, 0].transAxes, ha="right", va="center", fontsize=9)
    figure.suptitle(heading, fontsize=10)
    return figure


@as_written
def under_images(
    images: Sequence[np.ndarray],
    below: Sequence[np.ndarray],
    titles: Sequence[str],
    show: Callable[..., None] | None = None,
    *,
    heading: str,
) -> Figure:
    """Titled images, each with what belongs to it below, as ``show`` draws it; at most eight columns side by side."""
    columns = min(8, max(1, len(titles)))
    blocks = math.ceil(len(titles) / columns)
    width = max(LEAST_WIDTH, 1.35 * columns + 0.3)
    figure = new_figure(width, 3.0 * blocks + 0.5)
    grid = figure.subplots(2 * blocks, columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for number, (image, other, title) in enumerate(zip(images, below, titles, strict=True)):
        block, column = divmod(number, columns)
        show_image(grid[2 * block, column], image, textwrap.fill(shorten(title, 80), 28))
        (show or show_image)(grid[2 * block + 1, column], other)
    for axes in grid.ravel():
        axes.title.set_fontsize(6)
    write_above(figure, heading, width)
    return figure


@as_written
def contrast_rows(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str]) -> Figure:
    """Rows of an image, its reconstruction, the same without an attribute, and the signed difference (mean over channels, scaled)."""
    columns = ("image", "from its attributes", "without this one", "what it adds")
    figure = new_figure(1.5 * len(columns) + 0.6, 1.55 * len(rows) + 0.5)
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for number, (row, title) in enumerate(zip(rows, titles, strict=True)):
        for axes, pixels, heading in zip(grid[number], row[:3], columns, strict=False):
            show_image(axes, pixels, heading if number == 0 else "")
        show_heat(grid[number, 3], unit_heat(row[3].sum(axis=0)), columns[3] if number == 0 else "")
        grid[number, 0].text(-0.1, 0.5, title, transform=grid[number, 0].transAxes, ha="right", va="center", fontsize=9)
    return figure


@as_written
def pair_card(
    exemplars: Sequence[np.ndarray],
    heat: Sequence[np.ndarray],
    drawn: Sequence[np.ndarray],
    decoded: Sequence[np.ndarray],
    *,
    heading: str,
    picture_note: str,
    framed: Sequence[bool] = (),
) -> Figure:
    """Exemplars above their maps; to the right the drawn picture above the decoder's contrast. Each list may be empty.

    ``framed``: which exemplars to warn of.
    """
    columns = max(len(exemplars), 1) + 3
    figure = new_figure(1.5 * columns, 3.6)
    grid = figure.subplots(2, columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for column, pixels in enumerate(exemplars):
        show_image(grid[0, column], pixels, "strongest in" if column == 0 else "")
    for axes in (axes for axes, so in zip(grid[0], framed, strict=False) if so):
        axes.add_patch(_frame((-0.5, -0.5), axes.get_xlim()[1] + 0.5, axes.get_ylim()[0] + 0.5))
    for column, values in enumerate(heat):
        show_heat(grid[1, column], values, "seen where" if column == 0 else "")
    right = len(grid[0]) - 3
    grid[0, right].set_title(picture_note, fontsize=8, loc="left")
    for pixels in drawn:
        show_image(grid[0, right], pixels)
        grid[0, right].set_title(f"AM+PI: {picture_note}", fontsize=8, loc="left")
    for axes, pixels, title in zip(grid[1, right:], decoded[:2], ("decoded", "without it"), strict=False):
        show_image(axes, pixels, title)
    for pixels in decoded[2:]:
        show_heat(grid[1, -1], unit_heat(pixels.sum(axis=0)), "it adds")
    figure.suptitle(shorten(heading, 90), fontsize=10)
    return figure


class ExplainedImage(NamedTuple):
    """One row of ``explained_images``: an image, its strongest attributes, and images on which each of those is strongest."""

    pixels: np.ndarray
    title: str
    warning: str
    attributes: Sequence[int]
    relevance: Sequence[float]
    examples: Sequence[Sequence[np.ndarray]]


@as_written
def explained_images(rows: Sequence[ExplainedImage], *, heading: str) -> Figure:
    """Rows of an image, the relevance bars of its explanation and, beside each bar, images on which that attribute is strongest."""
    bars, examples = max(len(row.attributes) for row in rows), max(len(images) for row in rows for images in row.examples)
    side = 0.46  # inches: a small image, and a bar
    block, row_height = side * bars, side * bars + 0.6
    width, height = 3.95 + block + side * examples, row_height * len(rows) + 0.85
    figure = new_figure(width, height, layout=None)  # so that every bar has its images beside it

    def axes_at(left: float, top: float, wide: float, high: float) -> Any:
        return figure.add_axes((left / width, (height - top - high) / height, wide / width, high / height))

    for number, row in enumerate(rows):
        top, high = row_height * number + 0.8, side * len(row.attributes)
        image = axes_at(0.15, top, block, block)
        show_image(image, row.pixels, "\n".join(filter(None, (row.title, row.warning))))
        image.title.set_color(NEGATIVE if row.warning else "black")
        middle = axes_at(block + 0.85, top, 2.5, high)
        relevance_bars(middle, row.attributes, row.relevance)
        middle.set(ylim=(len(row.attributes) - 0.5, -0.5), xticks=(-1, -0.5, 0, 0.5, 1))
        middle.set_xlabel("relevance" if number == len(rows) - 1 else "", fontsize=8)
        right = axes_at(block + 3.6, top, side * examples, high)
        for place, images in enumerate(row.examples):
            _strip(right, images, place)
        right.set(xlim=(0, examples), ylim=middle.get_ylim(), aspect="auto")
        right.set_axis_off()
        if number == 0:
            middle.set_title("its strongest attributes", fontsize=9)
            right.set_title("images on which each is strongest", fontsize=9)
    figure.suptitle(heading, fontsize=11, y=1 - 0.12 / height, va="top")
    return figure


class Captioned(NamedTuple):
    """One place of ``captioned_rows``: an image with what is said of it; a ``warning`` makes that red."""

    pixels: np.ndarray
    title: str
    warning: str = ""


@as_written
def captioned_rows(rows: Sequence[Sequence[Captioned]], row_titles: Sequence[str] = (), *, heading: str) -> Figure:
    """Rows of images, each under words of its own, with perhaps a title a row."""
    columns, lines = max(map(len, rows)), max(_words(image).count("\n") + 1 for row in rows for image in row)
    width = 1.2 if lines < 3 else 1.5
    figure = new_figure(width * columns + 1.1 * bool(row_titles), (1.1 + 0.13 * lines) * len(rows) + 0.6)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for number, row in enumerate(rows):
        for axes, image in zip(grid[number], row, strict=False):
            show_image(axes, image.pixels)
            axes.set_title(_words(image), fontsize=7, pad=3, color=NEGATIVE if image.warning else "black")
        if row_titles:
            grid[number, 0].text(-0.2, 0.5, row_titles[number], transform=grid[number, 0].transAxes, ha="right", va="center", fontsize=9)
    figure.suptitle(heading, fontsize=10)
    return figure


def _words(image: Captioned) -> str:
    return "\n".join(filter(None, (image.title, image.warning)))


@as_written
def strips(
    titles: Sequence[str],
    images: Sequence[Sequence[np.ndarray]],
    *,
    columns: int = 3,
    heading: str,
    framed: Sequence[Sequence[bool]] | None = None,
) -> Figure:
    """A row of small images under each title, ``columns`` of such rows side by side; ``framed``: which of them to warn of."""
    rows, longest, side = max(1, math.ceil(len(titles) / columns)), max((1, *map(len, images))), 0.44
    wide = max(LEAST_WIDTH / columns, longest * side + 0.3)
    figure = new_figure(columns * wide, rows * (side + 0.3) + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, title, strip, warned in zip(grid, titles, images, framed or [()] * len(images), strict=False):
        _strip(axes, strip, 0)
        for column in (column for column, so in enumerate(warned) if so):
            axes.add_patch(_frame((column + 0.04, -0.46), 0.92, 0.92))
        axes.set(xlim=(0, longest), ylim=(0.5, -0.5), aspect="equal", anchor="W")
        axes.set_title(shorten(title, round(wide * 14)), fontsize=8, loc="left", pad=2)
    for axes in grid:
        axes.set_axis_off()
    write_above(figure, heading, columns * wide)
    return figure


def _frame(corner: tuple[float, float], width: float, height: float) -> Any:
    """Around an image that is to be warned of."""
    from matplotlib.patches import Rectangle

    return Rectangle(corner, width, height, fill=False, edgecolor=NEGATIVE, linewidth=2, clip_on=False)


def _strip(axes: Any, images: Sequence[np.ndarray], place: float) -> None:
    """Small images side by side, in the row ``place`` of ``axes``, one unit of its axes each."""
    for column, pixels in enumerate(images):
        extent = (column + 0.04, column + 0.96, place + 0.46, place - 0.46)
        axes.imshow(as_picture(pixels), cmap="gray", vmin=0, vmax=1, interpolation="antialiased", extent=extent)


def unit_heat(heat: np.ndarray) -> np.ndarray:
    """``heat`` scaled so that its largest absolute value is 1; all zero stays so."""
    peak = float(np.abs(heat).max(initial=0))
    return heat / peak if peak > 0 else heat
