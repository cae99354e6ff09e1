"""Words in pictures stand whole inside them."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from flint_posthoc import figures

LONG = "the classifier says 'electric ray, crampfish, numbfish, torpedo', the interpreter 'tiger shark, Galeocerdo cuvieri': no explanation"
IMAGE = np.full((3, 8, 8), 0.5)


def widest(figure: Figure) -> float:
    """How far the heading reaches out of the figure, in its widths: 1 is from edge to edge."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    suptitle = figure._suptitle
    assert suptitle is not None
    return float(suptitle.get_window_extent(canvas.get_renderer()).width / figure.bbox.width)


@pytest.mark.parametrize(
    "figure",
    [
        figures.local_interpretation(IMAGE, [1], [0.5], heading="Which attributes speak for 'torpedo'?", warning=f"{LONG}; {LONG}"),
        figures.under_images([IMAGE], [IMAGE], ["φ1"], heading=LONG),
        figures.strips(["φ1"], [[]], columns=1, heading="Where each attribute is strongest"),
    ],
    ids=["explanation", "one image", "no images"],
)
def test_headings_are_not_cut_off(figure: Figure) -> None:
    assert widest(figure) <= 1


def test_titles_side_by_side_do_not_meet() -> None:
    figure = figures.under_images([IMAGE] * 3, [IMAGE] * 3, [LONG] * 3, heading="short")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    extents = [axes.title.get_window_extent(canvas.get_renderer()) for axes in figure.axes[:3]]
    assert extents[0].x1 < extents[1].x0
    assert extents[1].x1 < extents[2].x0
