"""Activation histograms: the same counts as a loop over all values at once, in whatever batches and order they come."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flint_posthoc.report.histogram import BINS, ActivationHistogram, HistogramReading


def oracle(values: list[float]) -> ActivationHistogram:
    positive = [value for value in values if value > 0]
    if not positive:
        return ActivationHistogram((0,) * BINS, 0.0, len(values))
    upper = 2.0 ** math.frexp(max(positive))[1]
    counts = [0] * BINS
    for value in positive:
        counts[math.floor(value / upper * BINS)] += 1
    return ActivationHistogram(tuple(counts), upper, len(values) - len(positive))


def read(values: Tensor, batch_size: int) -> tuple[ActivationHistogram, ...]:
    reading = HistogramReading(values.shape[1])
    for batch in values.split(batch_size):
        reading.add(batch)
    return reading.result()


activation = st.one_of(st.just(0.0), st.floats(2.0**-20, 2.0**20, width=32))


@given(st.lists(st.tuples(activation, activation), min_size=1, max_size=60), st.integers(1, 60))
def test_counts_are_those_of_a_loop(rows: list[tuple[float, float]], batch_size: int) -> None:
    found = read(torch.tensor(rows), batch_size)
    assert found == tuple(oracle([row[j] for row in rows]) for j in range(2))


def test_order_does_not_matter() -> None:
    values = torch.randn(500, 3).relu() * torch.tensor([1e-3, 1.0, 1e4])
    assert read(values, 7) == read(values.flip(0), 64)


@pytest.mark.parametrize("growth", [1e3, 1e30])
def test_a_much_larger_activation_pushes_the_others_into_the_first_bin(growth: float) -> None:
    (found,) = read(torch.tensor([[1.0], [1.5], [growth]]), 1)
    assert found.counts[0] == 2
    assert found.fired == 3


def test_what_never_fires_says_so() -> None:
    silent, half = read(torch.tensor([[0.0, 0.0], [0.0, 2.0]]), 1)
    assert (silent.upper, silent.fired, silent.silent, silent.share_fired) == (0.0, 0, 2, 0.0)
    assert (half.upper, half.share_fired) == (4.0, 0.5)


def test_nothing_read_is_all_zero() -> None:
    assert HistogramReading(2).result() == (ActivationHistogram((0,) * BINS, 0.0, 0),) * 2
