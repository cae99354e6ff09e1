"""Colours that can be read, names that fit, and charts that hold their numbers."""

import math

import numpy as np
import pytest
import torch

from flint_posthoc.report.charts import bar, curve, histogram_chart, nice_ceiling
from flint_posthoc.report.histogram import BINS, ActivationHistogram
from flint_posthoc.report.names import class_names, counted, percent, shorten, signed
from flint_posthoc.report.palette import DARK, LIGHT, Colour, Theme, contrast, level, shades
from flint_posthoc.report.pictures import PictureBook, as_image, heat_over, signed_picture


def colour(text: str) -> Colour:
    red, green, blue = (int(text[place : place + 2], 16) for place in (1, 3, 5))
    return red, green, blue


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_every_cell_of_the_heat_map_can_be_read(theme: Theme) -> None:
    found = shades(theme)
    assert len({shade.name for shade in found}) == 22
    assert min(contrast(colour(shade.fill), colour(shade.ink)) for shade in found) >= 4.5


def test_contrast_is_that_of_the_guidelines() -> None:
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((118, 118, 118), (255, 255, 255)) == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize(
    ("relevance", "name"), [(1.0, "p10"), (0.51, "p5"), (0.04, "p0"), (-0.04, "p0"), (-0.96, "n10"), (2.0, "p10"), (math.nan, "none")]
)
def test_a_relevance_has_a_level(relevance: float, name: str) -> None:
    assert level(relevance) == name


def test_names_are_cleaned_and_shortened() -> None:
    long, odd, empty = class_names(["word " * 20, "a\x00\n\tb\ud800", " "], 12)
    assert (long.short, long.is_shortened) == ("word word w…", True)
    assert (odd.short, odd.full) == ("a b?", "a b?")
    assert (empty.short, empty.is_shortened) == ("class 2", False)
    assert shorten("x" * 12, 12) == "x" * 12


def test_numbers_are_written_as_people_do() -> None:
    assert [signed(value) for value in (0.123, -0.126, math.nan)] == ["+0.12", "−0.13", "–"]
    assert percent(0.1234).replace("\N{NO-BREAK SPACE}", " ") == "12.3 %"
    assert (counted(1, "image"), counted(1200, "class", "classes")) == ("1 image", "1,200 classes")


def test_bars_start_in_the_middle() -> None:
    assert [(bar(value).x, bar(value).width, bar(value).kind) for value in (0.5, -0.25, 7.0, math.nan)] == [
        (100, 50, "for"), (75, 25, "against"), (100, 100, "for"), (100, 0, "against"),
    ]  # fmt: skip


def test_a_curve_goes_through_its_numbers_and_leaves_out_what_is_none() -> None:
    found = curve([1.0, 2.0, 3.0], {"all": [0.0, 2.0, 4.0], "some": [1.0, math.nan, 3.0]})
    assert [len(line.marks) for line in found.lines] == [3, 2]
    (_, low), (middle, _), (_, high) = found.lines[0].marks
    assert (low, high) == (found.bottom, found.y_ticks[-1].place)
    assert middle == found.x_ticks[1].place
    assert found.rows[2] == ("3", "4.00", "3.00")
    assert curve([1.0], {"none": [math.nan]}).lines[0].points == ""
    assert curve([1.0], {"none": [math.nan], "one": [1.0]}).rows == (("1", "–", "1.00"),)


@pytest.mark.parametrize(("value", "ceiling"), [(0.0, 1.0), (0.3, 0.4), (1.0, 1.0), (1.01, 2.0), (8.5, 10.0), (40.0, 40.0)])
def test_axes_end_at_round_numbers(value: float, ceiling: float) -> None:
    assert nice_ceiling(value) == pytest.approx(ceiling)


def test_a_histogram_is_drawn_up_to_its_last_bin() -> None:
    chart = histogram_chart(ActivationHistogram((4, 0, 2) + (0,) * (BINS - 3), 32.0, 6))
    assert len(chart.bars) == 2
    assert chart.bars[0][3] == 40
    assert (chart.end, chart.description.replace("\N{NO-BREAK SPACE}", " ")) == ("3", "fires on 50.0 % of 12 images")
    assert histogram_chart(ActivationHistogram((0,) * BINS, 0.0, 3)).bars == ()


def test_small_pictures_keep_every_pixel_and_large_ones_are_shrunk() -> None:
    small, large = PictureBook((1, 28, 28)), PictureBook((3, 300, 200))
    pixels = torch.rand(1, 28, 28)
    picture = small.add(as_image(pixels))
    assert (picture.width, picture.height) == (28, 28)
    assert picture.uri.startswith("data:image/png;base64,")
    assert small.add(as_image(pixels)) is picture
    photograph = large.add(as_image(torch.rand(3, 300, 200)))
    assert (photograph.width, photograph.height) == (107, 160)
    assert photograph.uri.startswith("data:image/webp;base64,")


def test_blue_speaks_for_and_orange_against() -> None:
    heat = torch.zeros(4, 4)
    heat[0, 0], heat[3, 3] = 1.0, -1.0
    tinted = np.asarray(heat_over(torch.full((1, 4, 4), 0.5), heat), dtype=int)
    assert tinted[0, 0, 2] > tinted[0, 0, 0] + 50
    assert tinted[3, 3, 0] > tinted[3, 3, 2] + 50
    assert len(set(tinted[1, 1])) == 1
    difference = np.asarray(signed_picture(torch.stack([heat, heat])), dtype=int)
    assert difference[0, 0, 2] > difference[0, 0, 0]
    assert difference[1, 1].tolist() == [255, 255, 255]
    assert np.asarray(signed_picture(torch.zeros(1, 2, 2))).min() == 255
