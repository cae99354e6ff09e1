"""Draws arrays with matplotlib, which is imported when a picture is asked for. Knows no other room: everything arrives as lists and arrays.

Figures are made without pyplot, so that no global state, window or backend is touched. Colours are Okabe and Ito's, safe for
colour-blind readers.
"""

from __future__ import annotations

import base64
import html
import io
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, ParamSpec

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Figure
else:
    Figure = Any

Arguments = ParamSpec("Arguments")

POSITIVE, NEGATIVE, NEUTRAL, ACCENT = "#0072B2", "#D55E00", "#8A8A8A", "#009E73"
DIVERGING = "RdBu"  # blue is positive, as in the bars
MAX_LABEL = 28
LEAST_WIDTH = 4.5  # inches of a figure with a heading


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """An empty figure of ``width`` × ``height`` inches; without a ``layout`` its parts are placed by hand."""
    from matplotlib.figure import Figure as MatplotlibFigure

    return MatplotlibFigure(figsize=(width, height), layout=layout)


def as_written(make: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """A way to make figures in which words stay as they are: dollars in the name of a class are no mark-up."""

    @wraps(make)
    def made(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Figure:
        from matplotlib.text import Text

        figure = make(*args, **kwargs)
        for text in figure.findobj(Text):
            if "$" in text.get_text():
                text.set_parse_math(False)
        return figure

    return made


def shorten(text: str, limit: int = MAX_LABEL) -> str:
    """``text`` on one line of at most ``limit`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def as_picture(pixels: np.ndarray) -> np.ndarray:
    """(channels, H, W) pixels in [0, 1] as matplotlib wants them: (H, W) grey, (H, W, 3) colour; other channel counts show their mean."""
    clipped = np.clip(np.asarray(pixels, dtype=np.float32), 0, 1)
    return np.moveaxis(clipped, 0, -1) if clipped.shape[0] == 3 else clipped.mean(axis=0)


def as_arrays(images: Iterable[Any]) -> list[np.ndarray]:
    """Each of a stack of tensors as an array."""
    return [image.detach().cpu().numpy() for image in images]


def show_image(axes: Any, pixels: np.ndarray, title: str = "") -> None:
    """One image without ticks."""
    axes.imshow(as_picture(pixels), cmap="gray", vmin=0, vmax=1, interpolation="antialiased")
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


def write_above(figure: Figure, heading: str, width: float) -> None:
    """``heading`` over a figure of ``width`` inches, on as many lines as it takes."""
    figure.suptitle(textwrap.fill(heading, round(width * 12)), fontsize=10)


def write_below(figure: Figure, notes: Sequence[str], width: int) -> None:
    """What else a reader has to know, in small letters and lines of at most ``width``."""
    if notes:
        figure.supxlabel("\n".join(line for note in notes for line in textwrap.wrap(f"note: {note}", width)), fontsize=6.5)


@as_written
def relevance_heatmap(relevance: np.ndarray, class_names: Sequence[str], *, heading: str, notes: Sequence[str] = ()) -> Figure:
    """The class-attribute matrix r_{j,c} (J, C), a row an attribute and a column a class; classes that were never predicted are hatched."""
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
    axes.set_yticks(range(0, num_attributes, step), [f"φ{attribute}" for attribute in range(0, num_attributes, step)], fontsize=7)
    relevance_scale(figure, axes, image, "mean relevance r")
    axes.set_title(heading, fontsize=9)
    write_below(figure, notes, 60)
    return figure


def relevance_scale(figure: Figure, axes: Any, image: Any, label: str) -> None:
    """What the colours of ``image`` mean, beside it."""
    scale = figure.colorbar(image, ax=axes, shrink=0.8)
    scale.set_label(label, fontsize=8)
    scale.ax.tick_params(labelsize=7)


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


def show_heat(axes: Any, heat: np.ndarray, title: str = "") -> None:
    """A signed map (H, W) in [-1, 1]: blue speaks for, red against."""
    axes.imshow(heat, cmap=DIVERGING, vmin=-1, vmax=1, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=9)


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
) -> Figure:
    """Exemplars above their maps; to the right the drawn picture above the decoder's contrast. Each list may be empty."""
    columns = max(len(exemplars), 1) + 3
    figure = new_figure(1.5 * columns, 3.6)
    grid = figure.subplots(2, columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for column, pixels in enumerate(exemplars):
        show_image(grid[0, column], pixels, "strongest in" if column == 0 else "")
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


def unit_heat(heat: np.ndarray) -> np.ndarray:
    """``heat`` scaled so that its largest absolute value is 1; all zero stays so."""
    peak = float(np.abs(heat).max(initial=0))
    return heat / peak if peak > 0 else heat


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
def strips(titles: Sequence[str], images: Sequence[Sequence[np.ndarray]], *, columns: int = 3, heading: str) -> Figure:
    """A row of small images under each title, ``columns`` of such rows side by side."""
    rows, longest, side = max(1, math.ceil(len(titles) / columns)), max((1, *map(len, images))), 0.44
    wide = max(LEAST_WIDTH / columns, longest * side + 0.3)
    figure = new_figure(columns * wide, rows * (side + 0.3) + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, title, strip in zip(grid, titles, images, strict=False):
        _strip(axes, strip, 0)
        axes.set(xlim=(0, longest), ylim=(0.5, -0.5), aspect="equal", anchor="W")
        axes.set_title(shorten(title, round(wide * 14)), fontsize=8, loc="left", pad=2)
    for axes in grid:
        axes.set_axis_off()
    write_above(figure, heading, columns * wide)
    return figure


def _strip(axes: Any, images: Sequence[np.ndarray], place: float) -> None:
    """Small images side by side, in the row ``place`` of ``axes``, one unit of its axes each."""
    for column, pixels in enumerate(images):
        extent = (column + 0.04, column + 0.96, place + 0.46, place - 0.46)
        axes.imshow(as_picture(pixels), cmap="gray", vmin=0, vmax=1, interpolation="antialiased", extent=extent)


def as_html(figures: Sequence[Figure], text: str) -> str:
    """For notebooks: ``text``, escaped, above the figures as inline pictures."""
    pictures = "".join(f'<img style="max-width:100%" src="data:image/png;base64,{_base64(figure)}">' for figure in figures)
    return f'<pre style="white-space:pre-wrap">{html.escape(text)}</pre>{pictures}'


def _base64(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def save(figure: Figure, path: str | Path) -> Path:
    """Write ``figure`` as the kind that the suffix names (PNG, PDF, SVG) and return the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path
