"""Everything that a fit depends on as one value, and the settings that others have published."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..errors import ConfigurationError
from ..interpreter.attributes import AttributeNetworkConfig
from ..interpreter.decoder import DecoderConfig
from ..interpreter.interpreter import InterpreterConfig
from ..storage import record
from .defaults import PHOTOGRAPHS, PHOTOGRAPHS_BY_DESIGN, SMALL_IMAGES
from .joint import JointSettings
from .losses import LossWeights
from .schedule import BY_DESIGN_SCHEDULE, POST_HOC_SCHEDULE, Knots, LossSchedule, step_at
from .settings import FitSettings


@dataclass(frozen=True)
class FlintConfig:
    """Sizes, loss weights, schedule and optimisation. The defaults are ours; ``paper_v1`` and ``authors`` are what others used.

    ``joint`` is read only where f learns too. What ``fit`` is given by keyword takes precedence.

    Attributes:
        schedule: when each weight is on; ``None``: the entropies and l1 grow in, and where f learns too L_of does.
    """

    interpreter: InterpreterConfig = field(default_factory=InterpreterConfig)
    settings: FitSettings = field(default_factory=FitSettings)
    weights: LossWeights = field(default_factory=LossWeights)
    schedule: LossSchedule | None = None
    joint: JointSettings = field(default_factory=JointSettings)

    def chosen(self, *, photographs: bool, joint: bool) -> FlintConfig:
        """With what is ours for such a fit in place of the ``None`` of ``settings`` and ``weights``."""
        ours = SMALL_IMAGES if not photographs else PHOTOGRAPHS_BY_DESIGN if joint else PHOTOGRAPHS
        return dataclasses.replace(self, settings=ours.fill(self.settings), weights=ours.fill(self.weights))

    def schedule_of(self, *, joint: bool) -> LossSchedule:
        """``schedule``, or what stands for ``None``."""
        return self.schedule or (BY_DESIGN_SCHEDULE if joint else POST_HOC_SCHEDULE)

    def to_dict(self) -> dict[str, Any]:
        """In what JSON knows, which leaves a ``prediction_loss`` out."""
        return dataclasses.asdict(dataclasses.replace(self, joint=dataclasses.replace(self.joint, prediction_loss=None)))

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> FlintConfig:
        """The reverse. Raises ``TypeError`` or ``ValueError`` for what no ``to_dict`` gives."""
        return record(cls, _renamed(stored))


def _renamed(stored: Mapping[str, Any]) -> dict[str, Any]:
    """As today's versions store it: in earlier ones the interpreter that f learnt with learnt on for ``refine_steps``."""
    joint = stored.get("joint")
    if not isinstance(joint, dict) or "refine_steps" not in joint:
        return dict(stored)
    kept = {name: value for name, value in joint.items() if name != "refine_steps"}
    return {**stored, "joint": kept if joint["refine_steps"] else {**kept, "refit_steps": 0}}


Entry = TypeVar("Entry")

_LENET = InterpreterConfig(
    attributes=AttributeNetworkConfig(
        hidden_channels=64,
        tap_kernel_size=3,
        merge_kernel_size=None,
        max_grid=None,
        max_channels=None,
        pool_size=3,
        hidden_units=None,
        standardize=False,
        dropout=0.0,
    ),
    decoder=DecoderConfig(base_channels=2, channels=(8,)),
    head_dropout=0.01,
    initial_bias=None,
    centre_head=False,
)
_RESNET18 = dataclasses.replace(
    _LENET,
    attributes=AttributeNetworkConfig(
        hidden_channels=64,
        tap_kernel_size=3,
        merge_kernel_size=3,
        max_grid=None,
        max_channels=None,
        pool_size=3,
        hidden_units=None,
        strided=True,
        standardize=False,
        dropout=0.0,
    ),
)
_NETWORKS = {"mnist": _LENET, "fashion_mnist": _LENET, "quickdraw": _RESNET18, "cifar10": _RESNET18}

_PLAIN_ADAM = JointSettings(learning_rate=1e-4, weight_decay=0.0, prediction_weight=1.0, keep_best=False, refit_steps=0)


def _settings(epochs: int, batch_size: int) -> FitSettings:
    return FitSettings(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=1e-4,
        weight_decay=0.0,
        head_weight_decay=0.0,
        revive_after=None,
        constant_learning_rate=True,
    )


# "Hyperparameter tuning" of the first version: η is the weight of l1 summed over J, so J times that of its mean; epochs from Algorithm 1.
_PAPER = {
    "mnist": (LossWeights(beta=0.5, gamma=0.8, delta=0.2, zeta=1.0, mu=1.0, eta=0.5 * 25, temperature=1.0), _settings(12, 16)),
    "quickdraw": (LossWeights(beta=0.1, gamma=5.0, delta=0.1, zeta=1.0, mu=2.0, eta=3.0 * 24, temperature=1.0), _settings(12, 64)),
}
_PAPER_SCHEDULE = LossSchedule(beta=step_at(2), delta=step_at(2), eta=step_at(2), zeta=step_at(3), unit="epochs")


def paper_v1(dataset: str) -> FlintConfig:
    """The hyperparameters that the paper's first version states, for "mnist" (LeNet) or "quickdraw" (ResNet18).

    Raises:
        ConfigurationError: for a data set that it states none for.
    """
    weights, settings = _chosen(_PAPER, dataset)
    return FlintConfig(_NETWORKS[dataset], settings, weights, _PAPER_SCHEDULE, _PLAIN_ADAM)


def _from_epochs(*, gamma: int, beta: int, eta: Knots, zeta: int) -> LossSchedule:
    """Each term from an epoch on; l1, which starts in two steps, by knots."""
    return LossSchedule(gamma=step_at(gamma), beta=step_at(beta), eta=eta, zeta=step_at(zeta), unit="epochs")


# The authors' programme: l1 as a mean over batch and J, the diversity weight fixed at 1; epochs here count from 0.
_AUTHORS = {
    "mnist": (
        LossWeights(beta=0.5, gamma=0.8, delta=1.0, eta=0.1, zeta=0.2, mu=1.0, temperature=1.0),
        _settings(12, 16),
        _from_epochs(gamma=0, beta=2, eta=((0.0, 0.0), (2.0, 0.0), (2.0, 1.0)), zeta=4),
    ),
    "quickdraw": (
        LossWeights(beta=0.1, gamma=5.0, delta=1.0, eta=0.30, zeta=0.1, mu=1.0, temperature=1.0),
        _settings(12, 64),
        _from_epochs(gamma=0, beta=2, eta=((0.0, 0.0), (1.0, 0.0), (1.0, 0.02 / 0.30), (2.0, 0.02 / 0.30), (2.0, 1.0)), zeta=3),
    ),
    "cifar10": (
        LossWeights(beta=0.6, gamma=2.0, delta=1.0, eta=0.15, zeta=0.2, mu=1.0, reconstruction="l1", temperature=1.0),
        _settings(25, 64),
        _from_epochs(gamma=0, beta=2, eta=((0.0, 0.0), (1.0, 0.0), (1.0, 0.001 / 0.15), (2.0, 0.001 / 0.15), (2.0, 1.0)), zeta=3),
    ),
}
_AUTHORS["fashion_mnist"] = _AUTHORS["mnist"]


def authors(dataset: str) -> FlintConfig:
    """What the authors' programme uses, for "mnist", "fashion_mnist", "quickdraw" or "cifar10".

    Their fall of the learning rate to 4e-5 from epoch 19 (CIFAR-10) is left out.

    Raises:
        ConfigurationError: for another data set.
    """
    weights, settings, schedule = _chosen(_AUTHORS, dataset)
    return FlintConfig(_NETWORKS[dataset], settings, weights, schedule, _PLAIN_ADAM)


def _chosen(table: dict[str, Entry], dataset: str) -> Entry:
    if dataset not in table:
        raise ConfigurationError(f"no preset for {dataset!r}; there are {sorted(table)}")
    return table[dataset]
