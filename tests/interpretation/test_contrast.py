"""The decoder with and without an attribute."""

import pytest
import small
import torch

from flint_posthoc.errors import ConfigurationError, ImageShapeError
from flint_posthoc.interpretation.contrast import contrast


@pytest.fixture(scope="module")
def explain():
    return small.rarely_firing(small.fitted(), share=0.5)


def test_each_image_loses_its_own_attribute_and_no_other(explain) -> None:
    pixels = small.images(12)
    attributes = torch.arange(12) % 3
    found = contrast(explain.fitted, pixels, attributes)
    phi = explain(pixels).attributes
    assert torch.allclose(found.whole, explain.reconstruct(pixels))
    for row, attribute in enumerate(attributes.tolist()):
        silenced = phi[row].clone()
        silenced[attribute] = 0
        expected = explain.fitted.normalization.denormalize(explain.interpreter.decoder(silenced[None]))
        assert torch.allclose(found.without[row], expected[0], atol=1e-6)
        assert found.activation[row] == phi[row, attribute]
    assert torch.equal(found.difference, found.whole - found.without)


def test_a_silent_attribute_adds_nothing(explain) -> None:
    pixels = small.images(40)
    found = contrast(explain.fitted, pixels, 0)
    silent = found.activation == 0
    assert silent.any()
    assert not silent.all()
    assert found.difference[silent].abs().max() < 1e-6 < found.difference[~silent].abs().max()


def test_attributes_that_do_not_exist(explain) -> None:
    with pytest.raises(ConfigurationError, match="no attribute 3; expected 0 to 2"):
        contrast(explain.fitted, small.images(2), 3)
    with pytest.raises(ConfigurationError, match=r"2 of them, one an image; got torch\.int64 of shape"):
        contrast(explain.fitted, small.images(2), [0, 1, 2])
    with pytest.raises(ConfigurationError, match=r"torch\.float32"):
        contrast(explain.fitted, small.images(2), torch.tensor([0.0, 1.0]))
    with pytest.raises(ImageShapeError):
        contrast(explain.fitted, torch.zeros(2, 2, 9, 9), 0)


def test_figure(explain, without_pyplot) -> None:
    assert len(contrast(explain.fitted, small.images(2), 1).plot().axes) == 8


def test_text_says_how_much_a_pixel_changes(explain) -> None:
    found = contrast(explain.fitted, small.images(2), 1)
    largest = float(found.difference[0].abs().max())
    assert f"φ1 at {float(found.activation[0]):.2f} changes a pixel by up to {largest:.2f}" in str(found)
