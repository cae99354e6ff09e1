"""What a fit takes where its config says ``None``."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from flint_posthoc import FitSettings, FlintConfig, FlintExplainer, JointSettings, LossWeights
from flint_posthoc.errors import ConfigurationError
from flint_posthoc.learning import fitting
from flint_posthoc.learning.defaults import PHOTOGRAPHS, PHOTOGRAPHS_BY_DESIGN, SMALL_IMAGES, Defaults, known
from tests import small

BATCH = 8


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Defaults]:
    """What the trainers were given, the first one first."""
    given: list[Defaults] = []
    real = fitting.Trainer

    def caught(*arguments: Any, **named: Any) -> Any:
        settings, weights = named["settings"], named["weights"]
        given.append(Defaults(settings.least_steps, settings.learning_rate, weights.eta, weights.temperature))
        return real(*arguments, **named)

    monkeypatch.setattr(fitting, "Trainer", caught)
    return given


def explainer(side: int, *, joint: bool = False, config: FlintConfig | None = None) -> FlintExplainer:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 3))
    return FlintExplainer(model, layers=["2"], num_attributes=3, input_size=(3, side, side), joint=joint, config=config)


def fit(explain: FlintExplainer, side: int, **changed: Any) -> None:
    images = torch.rand(BATCH, 3, side, side)
    explain.fit([(images, torch.arange(BATCH) % 3)], max_steps=1, progress=False, **changed)


@pytest.mark.parametrize(
    ("side", "joint", "expected"),
    [
        (64, False, [SMALL_IMAGES]),
        (64, True, [SMALL_IMAGES, SMALL_IMAGES]),
        (65, False, [PHOTOGRAPHS]),
        (65, True, [PHOTOGRAPHS_BY_DESIGN, PHOTOGRAPHS]),
    ],
)
def test_each_kind_of_fit_has_its_own(started: list[Defaults], side: int, joint: bool, expected: list[Defaults]) -> None:
    """By design the second one is that of the interpreter which is fitted when the classifier is done."""
    fit(explainer(side, joint=joint, config=FlintConfig(joint=JointSettings(refit_steps=1))), side)
    assert started == expected


def test_what_is_said_holds_and_the_rest_is_ours(started: list[Defaults]) -> None:
    config = FlintConfig(settings=FitSettings(least_steps=7), weights=LossWeights(eta=0.0))
    fit(explainer(16, config=config), 16)
    fit(explainer(16), 16, weights=LossWeights(temperature=3.0), learning_rate=0.5)
    assert started == [SMALL_IMAGES._replace(least_steps=7, eta=0.0), SMALL_IMAGES._replace(temperature=3.0, learning_rate=0.5)]


def test_a_config_keeps_what_it_leaves_to_the_fit() -> None:
    explain = small.fitted(config=dataclasses.replace(small.CONFIG, weights=LossWeights(beta=3.0)))
    assert explain.config.weights == LossWeights(beta=3.0)
    assert explain.config.weights.eta is None


def test_nothing_is_learnt_with_what_nobody_chose() -> None:
    with pytest.raises(ConfigurationError, match="left to the kind of fit"):
        known(LossWeights().temperature)
