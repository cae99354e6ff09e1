"""Areas and intervals against loops."""

import math

import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flint_posthoc.evaluation.estimates import auroc, bootstrap, paired_interval, sign_test

pairs = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=2, max_size=20)


def columns(rows: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    first, second = zip(*rows, strict=True)
    return torch.tensor(first, dtype=torch.float32), torch.tensor(second, dtype=torch.float32)


@given(pairs)
def test_the_area_under_the_curve_counts_pairs(rows: list[tuple[int, int]]) -> None:
    score, second = columns(rows)
    positive = second > 0
    if positive.all() or not positive.any():
        assert auroc(score, positive) is None
    else:
        assert auroc(score, positive) == pytest.approx(oracles.auroc(score.tolist(), positive.tolist()))


def test_an_interval_holds_the_mean_shrinks_with_samples_and_depends_on_the_seed_alone() -> None:
    few, many = torch.randn(30), torch.randn(3000)
    interval = bootstrap(few, seed=1)
    assert interval.low < interval.mean < interval.high
    assert interval.mean == pytest.approx(few.mean().item(), rel=1e-5)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * few.std().item() / math.sqrt(30), rel=0.15)
    assert bootstrap(many).high - bootstrap(many).low < 0.2 * (interval.high - interval.low)
    assert bootstrap(few, seed=1) == interval != bootstrap(few, seed=2)


def test_what_is_unknown_takes_no_part_in_an_interval() -> None:
    known = torch.tensor([1.0, 2.0, 3.0])
    assert bootstrap(torch.cat([known, torch.tensor([math.nan])])) == bootstrap(known)
    assert math.isnan(bootstrap(torch.tensor([math.nan])).mean)
    assert str(bootstrap(torch.tensor([math.nan]))) == "-"
    assert str(bootstrap(torch.tensor([0.5, 0.5]))) == "+0.50 [+0.50, +0.50]"


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6), st.integers(0, 6))
def test_the_interval_of_a_paired_difference_is_that_of_a_mean_of_signs(b: int, c: int, both: int, neither: int) -> None:
    signs = [1.0] * b + [-1.0] * c + [0.0] * (both + neither)
    found = paired_interval(b, c, len(signs))
    if not signs:
        assert math.isnan(found.mean)
        return
    mean = oracles.mean(signs)
    reach = 1.959964 * math.sqrt(oracles.mean([(sign - mean) ** 2 for sign in signs]) / len(signs))
    expected = (mean, max(-1.0, mean - reach), min(1.0, mean + reach))
    assert tuple(found) == pytest.approx(expected, abs=1e-6)


def test_a_paired_interval_is_about_the_bootstraps() -> None:
    signs = torch.cat([torch.ones(60), -torch.ones(25), torch.zeros(415)])
    assert tuple(paired_interval(60, 25, 500)) == pytest.approx(tuple(bootstrap(signs)), abs=0.005)


@pytest.mark.parametrize(("first", "second", "p"), [(5, 0, 0.0625), (6, 0, 0.03125), (0, 0, 1.0), (7, 3, 0.34375)])
def test_the_sign_test_is_the_binomials(first: int, second: int, p: float) -> None:
    assert sign_test(first, second) == pytest.approx(p)
    assert sign_test(second, first) == pytest.approx(p)


def test_of_many_samples_the_sign_test_is_the_normals() -> None:
    assert sign_test(530, 470) == pytest.approx(sign_test(531, 470), abs=0.02)
