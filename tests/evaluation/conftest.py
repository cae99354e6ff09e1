"""An interpreter that has learnt something, and images that it has not seen."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import jaxtyping
import pytest
import small
from torch import Tensor

from flint_posthoc import FlintExplainer, LossWeights

LEARNING = dataclasses.replace(
    small.CONFIG,
    settings=dataclasses.replace(small.CONFIG.settings, max_steps=400, batch_size=32, learning_rate=5e-3),
    weights=LossWeights(temperature=1.0, eta=0.05),
)


@contextmanager
def unchecked() -> Iterator[None]:
    """Axis names are not checked for a while: a fit of hundreds of steps would take a minute."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def train() -> Tensor:
    return small.images(600, seed=1)


@pytest.fixture(scope="session")
def learnt(train: Tensor) -> FlintExplainer:
    """Six attributes; agrees with its classifier on about three quarters of new images."""
    with unchecked():
        return small.fitted(data=train, num_attributes=6, config=LEARNING)


@pytest.fixture(scope="session")
def pixels() -> Tensor:
    return small.images(40, seed=4)


@pytest.fixture(scope="session")
def labelled(learnt: FlintExplainer, pixels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The same in batches of 7, with labels of which a third are not what the classifier says."""
    return list(zip(pixels.split(7), small.labels(learnt.model, pixels).split(7), strict=True))
