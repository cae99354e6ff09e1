"""What every figure is made with: colours, axes, words, files. matplotlib is imported when a picture is asked for.

Figures are made without pyplot, so that no global state, window or backend is touched. Colours are Okabe and Ito's, safe for
colour-blind readers. Knows no other room: everything arrives as lists and arrays.
"""

from __future__ import annotations

import base64
import html
import io
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Figure
else:
    Figure = Any

Arguments = ParamSpec("Arguments")

POSITIVE, NEGATIVE, NEUTRAL, ACCENT = "#0072B2", "#D55E00", "#8A8A8A", "#009E73"
DIVERGING = "RdBu"  # blue is positive, as in the bars
MAX_LABEL = 28


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


def write_above(figure: Figure, heading: str, width: float) -> None:
    """``heading`` over a figure of ``width`` inches, on as many lines as it takes."""
    figure.suptitle(textwrap.fill(heading, round(width * 12)), fontsize=10)


def write_below(figure: Figure, notes: Sequence[str], width: int) -> None:
    """What else a reader has to know, in small letters and lines of at most ``width``."""
    if notes:
        figure.supxlabel("\n".join(line for note in notes for line in textwrap.wrap(f"note: {note}", width)), fontsize=6.5)


def with_notes_below(figure: Figure, notes: Sequence[str]) -> Figure:
    """``figure`` with ``notes`` under it."""
    write_below(figure, notes, round(16 * figure.get_figwidth()))
    return figure


def show_heat(axes: Any, heat: np.ndarray, title: str = "") -> None:
    """A signed map (H, W) in [-1, 1]: blue speaks for, red against."""
    axes.imshow(heat, cmap=DIVERGING, vmin=-1, vmax=1, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=9)


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
