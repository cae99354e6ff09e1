"""What is told of the steps of an epoch: means by name, and the first step that went wrong."""

import math
from typing import Any

import torch

from flint_posthoc.learning.losses import LossTerms
from flint_posthoc.learning.means import COMMON, NAMES, RunningMeans, StepValues


def step(first: float = 0.0, **changed: float) -> StepValues[torch.Tensor]:
    """Values that count up from ``first``, in the order of their names."""
    values: dict[str, Any] = {name: first + index for index, name in enumerate(NAMES)}
    return StepValues(**{name: torch.tensor(float(value), requires_grad=True) for name, value in (values | changed).items()})


def after(*steps: StepValues[torch.Tensor]) -> RunningMeans:
    means = RunningMeans()
    for values in steps:
        means.add(values)
    return means


def test_the_terms_of_the_loss_come_first() -> None:
    assert NAMES[:COMMON] == LossTerms._fields


def test_each_mean_stands_under_its_name() -> None:
    assert after(step(0), step(1), step(5)).read() == StepValues(**{name: 2.0 + index for index, name in enumerate(NAMES)})


def test_the_last_step_is_watched_while_all_goes_well() -> None:
    assert after(step(0), step(7)).watched() == step(7)


def test_the_first_step_whose_loss_was_not_finite_is_watched_from_then_on() -> None:
    for broken in (math.nan, math.inf):
        assert after(step(0), step(1, l1=broken), step(2), step(3, total=math.nan)).watched().total == 1


def test_a_value_beside_the_loss_may_be_anything() -> None:
    assert after(step(0, kl_divergence=math.inf), step(7)).watched() == step(7)


def test_no_graph_is_kept() -> None:
    assert not any(value.requires_grad for value in vars(after(step(), step()).watched()).values())
