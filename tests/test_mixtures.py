"""Mixtures of images: what they hold, how they are labelled, that they are the same whenever they are read."""

from typing import Any

import pytest
import small
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from flint_posthoc import WithMixtures
from flint_posthoc.errors import BatchFormatError, ConfigurationError

PIXELS = small.images(12)
LABELS = torch.arange(12) % 4


class Alone(Dataset[Tensor]):
    """Images without labels."""

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, index: int) -> Tensor:
        return PIXELS[index]


class Named(Alone):
    """As Hugging Face data sets give them."""

    def __getitem__(self, index: int) -> Any:
        return {"pixel_values": PIXELS[index], "labels": int(LABELS[index])}


def test_the_images_come_first_and_each_mixture_lies_between_its_own_and_another() -> None:
    mixed = WithMixtures(TensorDataset(PIXELS, LABELS), copies=2, seed=3)
    assert len(mixed) == 36
    for index in range(12):
        assert torch.equal(mixed[index][0], PIXELS[index])
    for index in range(12, 36):
        image, label = mixed[index]
        own = index % 12
        assert int(label) == own % 4
        misses, share = min(between(image, PIXELS[own], PIXELS[other]) for other in range(12) if other != own)
        assert misses < 1e-4 or torch.equal(image, PIXELS[own])
        assert share >= 0.5 or torch.equal(image, PIXELS[own])


def between(image: Tensor, own: Tensor, other: Tensor) -> tuple[float, float]:
    """How far an image lies off the line between two others, and where on it."""
    share = float(((image - other) * (own - other)).sum() / (own - other).square().sum())
    return float((share * own + (1 - share) * other - image).norm()), share


def test_a_mixture_is_the_same_whenever_it_is_read_and_another_with_another_seed() -> None:
    one, again, other = (WithMixtures(Alone(), seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(one[index], again[index]) for index in reversed(range(24)))
    assert not all(torch.equal(one[index], other[index]) for index in range(12, 24))
    assert torch.equal(one[-1], one[23])


@pytest.mark.parametrize("data", [Alone(), Named(), TensorDataset(PIXELS, LABELS)])
def test_interpreters_learn_from_all_of_them(data: Any) -> None:
    explain = small.explainer()
    assert len(explain.cache(DataLoader(WithMixtures(data), batch_size=5), progress=False)) == 24
    explain.fit(WithMixtures(data), progress=False)
    assert explain(PIXELS).relevance.shape == (12, 3)


@pytest.mark.parametrize(
    ("data", "copies", "error", "message"),
    [
        (DataLoader(Alone()), 1, BatchFormatError, "of a data set of single images"),
        (PIXELS, 1, BatchFormatError, "got Tensor"),
        (Alone(), 0, ConfigurationError, "copies must be at least 1"),
    ],
)
def test_what_cannot_be_mixed_is_refused(data: Any, copies: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        WithMixtures(data, copies=copies)


def test_pixels_that_are_no_numbers_yet_are_refused() -> None:
    with pytest.raises(BatchFormatError, match="item 0 is none"):
        WithMixtures(TensorDataset((PIXELS * 10).to(torch.uint8)))[0]
