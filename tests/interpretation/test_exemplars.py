"""Maximum activating samples against an exhaustive search, with ties, few images and labels."""

import pytest
import small
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.patches import Rectangle

from flint_posthoc.errors import ConfigurationError, MissingLabelsError
from flint_posthoc.interpretation.classes import ClassAttributePair
from flint_posthoc.interpretation.exemplars import ExemplarSearch, find_exemplars

PAIRS = [(attribute, class_index) for attribute in range(3) for class_index in range(small.CLASSES)]


@pytest.fixture(scope="module")
def explain():
    return small.rarely_firing(small.fitted(), share=0.5)


def exhaustive(explain, pixels, classes, k):
    """All images of the class on which the attribute fires, sorted; nothing is streamed."""
    attributes = explain(pixels).attributes
    found = []
    for attribute, class_index in PAIRS:
        members = [row for row in range(len(pixels)) if classes[row] == class_index and attributes[row, attribute] > 0]
        found.append(sorted(members, key=lambda row: (-float(attributes[row, attribute]), row))[:k])
    return found


@given(batch_size=st.integers(1, 40), k=st.integers(1, 5), seed=st.integers(0, 5))
def test_streaming_finds_what_an_exhaustive_search_finds(explain, batch_size, k, seed) -> None:
    pixels = small.images(40, seed)
    found = find_exemplars(explain.fitted, pixels.split(batch_size), PAIRS, k=k)
    assert [[exemplar.position for exemplar in each] for each in found.found] == exhaustive(
        explain, pixels, explain(pixels).interpreter_class, k
    )


def test_the_image_itself_its_activation_and_pixels_come_along(explain) -> None:
    pixels = small.images(30)
    found = find_exemplars(explain.fitted, pixels.split(7), PAIRS, k=2)
    local = explain(pixels)
    for pair, exemplars, shown in zip(found.pairs, found.found, found.pixels, strict=True):
        for exemplar, picture in zip(exemplars, shown, strict=True):
            assert torch.equal(exemplar.image, pixels[exemplar.position])
            assert exemplar.activation == pytest.approx(float(local.attributes[exemplar.position, pair.attribute]), abs=1e-4)
            assert torch.allclose(picture, local.pixels[exemplar.position].clamp(0, 1))


def test_images_on_which_f_decides_otherwise_are_marked(explain) -> None:
    pixels = small.images(40, seed=2)
    found, agrees = explain.exemplars(pixels, PAIRS), explain(pixels).agrees
    every = [exemplar for exemplars in found.found for exemplar in exemplars]
    assert [exemplar.agrees for exemplar in every] == [bool(agrees[exemplar.position]) for exemplar in every]
    assert {exemplar.agrees for exemplar in every} == {True, False}  # else this shows nothing
    wrong = next(exemplar for exemplar in every if not exemplar.agrees)
    assert f"image {wrong.position} ({wrong.activation:.2f}, f decides otherwise)" in str(found)
    figure = found.plot()
    frames = [patch for patch in figure.findobj(Rectangle) if not patch.get_fill()]
    assert len(frames) == sum(not exemplar.agrees for exemplar in every)
    assert "framed: f decides" in figure.get_suptitle()


def test_ties_go_to_the_earlier_image(explain) -> None:
    pixels = small.images(6).repeat(3, 1, 1, 1)
    found = find_exemplars(explain.fitted, pixels.split(4), PAIRS, k=2)
    assert any(found.found)
    for exemplars in found.found:
        if len(exemplars) == 2:
            assert exemplars[0].position < 6
            assert exemplars[1].position == exemplars[0].position + 6


def test_classes_by_label(explain) -> None:
    pixels = small.images(32)
    labels = torch.arange(32) % small.CLASSES
    found = find_exemplars(explain.fitted, small.loader(pixels, labels, shuffle=False), PAIRS, k=3, by="label")
    assert [[exemplar.position for exemplar in each] for each in found.found] == exhaustive(explain, pixels, labels, 3)
    assert set(found.candidates) == {8}
    with pytest.raises(MissingLabelsError, match="by true class need labels"):
        find_exemplars(explain.fitted, pixels, PAIRS, by="label")


def test_a_class_without_images_has_none_and_says_so(explain) -> None:
    pixels = small.images(8)
    labels = torch.zeros(8, dtype=torch.long)
    found = find_exemplars(explain.fitted, [(pixels, labels)], [(0, 1)], by="label")
    assert (found.found, found.candidates) == (((),), (0,))
    assert "no image of 0" in str(found)


def test_no_more_than_k_images_a_pair_are_kept(explain) -> None:
    search = ExemplarSearch(explain.fitted, PAIRS, k=2)
    for batch in explain.fitted.read(small.images(200).split(16)):
        search.add(batch)
        assert max(map(len, search._found)) <= 2
    kept = [exemplar.image for each in search.result().found for exemplar in each]
    assert all(image.untyped_storage().nbytes() == image.numel() * 4 for image in kept)  # no view that holds on to its whole batch


def test_pairs_that_do_not_exist(explain) -> None:
    with pytest.raises(ConfigurationError, match="no pair of attribute 3 and class 0: attributes are 0 to 2, classes 0 to 3"):
        find_exemplars(explain.fitted, small.images(4), [(3, 0)])
    with pytest.raises(ConfigurationError, match="no pair of attribute 0 and class -1"):
        find_exemplars(explain.fitted, small.images(4), [ClassAttributePair(0, -1, 0.5)])
    with pytest.raises(ConfigurationError, match="k=0"):
        find_exemplars(explain.fitted, small.images(4), PAIRS, k=0)
    with pytest.raises(ConfigurationError, match="by='class'"):
        find_exemplars(explain.fitted, small.images(4), PAIRS, by="class")


def test_figure_and_text(explain, without_pyplot) -> None:
    found = find_exemplars(explain.fitted, small.images(20), PAIRS[:5])
    assert len(found.plot().axes) == 6
    assert str(found).startswith("Exemplars of 5 class-attribute pairs")
