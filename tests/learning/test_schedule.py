"""When each weight is on, how fast learning goes, and how long."""

import numpy as np
import pytest
import small
from hypothesis import given
from hypothesis import strategies as st

from flint_posthoc.errors import ConfigurationError
from flint_posthoc.learning.defaults import SMALL_IMAGES
from flint_posthoc.learning.losses import LossWeights
from flint_posthoc.learning.schedule import CONSTANT, LossSchedule, interpolate, step_at
from flint_posthoc.learning.settings import FitSettings, epoch_seed, learning_rate_factor

RAMP = ((0.2, 0.0), (0.4, 1.0), (0.8, 3.0))
ONES = LossWeights(1.0, 1.0, 1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(("position", "value"), [(0, 0), (0.2, 0), (0.3, 0.5), (0.4, 1), (0.6, 2), (0.8, 3), (5, 3)])
def test_a_ramp_is_linear_between_its_knots_and_constant_beyond(position: float, value: float) -> None:
    assert interpolate(RAMP, position) == pytest.approx(value)


@pytest.mark.parametrize(("position", "value"), [(0, 0), (1.99, 0), (2, 1), (2.01, 1), (9, 1)])
def test_a_step_is_off_before_its_place_and_on_from_it(position: float, value: float) -> None:
    assert interpolate(step_at(2), position) == value


def test_a_step_at_the_start_is_on_at_once() -> None:
    assert interpolate(step_at(0), 0) == 1


def test_two_steps_in_a_row_give_a_staircase() -> None:
    stairs = ((0.0, 0.0), (1.0, 0.0), (1.0, 0.25), (2.0, 0.25), (2.0, 1.0))
    assert [interpolate(stairs, position) for position in (0, 0.9, 1, 1.5, 2, 3)] == [0, 0, 0.25, 0.25, 1, 1]


@given(st.floats(0, 1))
def test_without_knots_of_its_own_a_weight_stays_as_it_is(progress: float) -> None:
    schedule = LossSchedule(CONSTANT, CONSTANT, CONSTANT, CONSTANT, CONSTANT, CONSTANT)
    weights = LossWeights(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, "interpreter", "l1")
    assert schedule.at(weights, progress=progress, epoch=0) == weights


def test_the_unit_says_whether_progress_or_epochs_count() -> None:
    by_progress = LossSchedule(beta=step_at(0.5), unit="progress")
    by_epochs = LossSchedule(beta=step_at(3), unit="epochs")
    assert by_progress.at(ONES, progress=0.4, epoch=99).beta == 0
    assert by_progress.at(ONES, progress=0.5, epoch=0).beta == 1
    assert by_epochs.at(ONES, progress=0.9, epoch=2.9).beta == 0
    assert by_epochs.at(ONES, progress=0.0, epoch=3).beta == 1


def test_each_weight_has_knots_of_its_own() -> None:
    names = ("beta", "gamma", "delta", "zeta", "mu", "eta")
    schedule = LossSchedule(**{name: ((0.0, place / 10),) for place, name in enumerate(names)})
    assert schedule.at(ONES, progress=0.3, epoch=0).numbers() == {name: place / 10 for place, name in enumerate(names)}


@pytest.mark.parametrize(
    "knots", [(), ((0.5, 1.0), (0.2, 0.0)), ((0.0, -1.0),), ((0.0, float("nan")),), ((float("nan"), 1.0),), ((0.0, float("inf")),)]
)
def test_bad_knots_are_refused_by_name(knots: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ConfigurationError, match="the knots of zeta"):
        LossSchedule(zeta=knots)


def test_another_unit_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'progress' or 'epochs', got 'steps'"):
        LossSchedule(unit="steps")


def test_the_learning_rate_rises_falls_and_never_stops() -> None:
    total = 1000
    factors = [learning_rate_factor(step, total) for step in range(total)]
    peak = factors.index(max(factors))
    assert 50 <= peak <= 100
    assert factors[peak] == pytest.approx(1, abs=0.03)
    assert factors[:peak] == sorted(factors[:peak])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert 0 < factors[0] < 0.05
    assert 0 < factors[-1] < 0.01


def test_a_fit_of_one_step_has_a_learning_rate() -> None:
    assert learning_rate_factor(0, 1) == 1


def test_the_learning_rate_is_constant_on_request() -> None:
    assert {FitSettings(learning_rate=0.3, constant_learning_rate=True).rate_at(step, 10) for step in range(10)} == {0.3}
    assert FitSettings(learning_rate=0.3, constant_learning_rate=False).rate_at(9, 10) < 0.1


@pytest.mark.parametrize(("settings", "steps"), [({"epochs": 3}, 21), ({"max_steps": 5}, 5), ({"max_steps": 500}, 500)])
def test_the_length_is_epochs_or_steps(settings: dict[str, int], steps: int) -> None:
    assert SMALL_IMAGES.fill(FitSettings(**settings)).total_steps(7) == steps


def test_the_automatic_length_does_not_fall_with_the_size_of_the_data() -> None:
    steps = [SMALL_IMAGES.fill(FitSettings()).total_steps(batches) for batches in (1, 10, 100, 1000, 10_000)]
    assert steps == sorted(steps)
    assert steps[0] >= 500
    assert steps[-1] > steps[0]


def test_a_batch_holds_at_least_twice_j_unless_asked_otherwise() -> None:
    assert FitSettings().batch_for(1000) >= 2000
    assert FitSettings(batch_size=7).batch_for(1000) == 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"max_steps": 0}, "max_steps must be 'auto' or at least 1, got 0"),
        ({"max_steps": "many"}, "max_steps must be 'auto' or at least 1, got 'many'"),
        ({"epochs": 2, "max_steps": 5}, "epochs or max_steps, not both"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate positive"),
        ({"learning_rate": float("nan")}, "learning_rate positive"),
        ({"weight_decay": -0.1}, "weight decays must be at least 0"),
        ({"head_weight_decay": float("nan")}, "weight decays must be at least 0"),
        ({"revive_after": 0}, "revive_after must be at least 1 or None, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        FitSettings(**settings)  # type: ignore[arg-type]


def test_seeds_have_64_bits() -> None:
    assert [epoch_seed(0, -1), epoch_seed(2, 5)] == [-1, 2_000_011]
    assert 0 <= epoch_seed(2**64 - 1, 5) < 2**63
    assert epoch_seed(2**50, 0) != epoch_seed(2**50, 1)
    with pytest.raises(ConfigurationError, match="seed must be a whole number of 64 bits"):
        FitSettings(seed=2**64)


def test_whole_numbers_of_numpy_are_taken_and_seeds_may_be_large() -> None:
    seed, length = np.uint64(2**63 + 11), {"max_steps": np.int32(3), "batch_size": np.int64(8)}
    history = small.explainer().fit(small.images(), seed=seed, progress=False, **length)
    assert history[-1].steps == 3
    assert [len(small.explainer().fit(small.images(), epochs=np.int16(2), seed=np.int64(1), progress=False))] == [2]
