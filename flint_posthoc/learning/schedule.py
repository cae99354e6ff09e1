"""When each loss weight is on: piecewise-linear multipliers over training progress or over epochs."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from itertools import pairwise

from ..errors import ConfigurationError
from .defaults import known
from .losses import LossWeights

Knots = tuple[tuple[float, float], ...]
CONSTANT: Knots = ((0.0, 1.0),)
RAMPED_IN: Knots = ((0.0, 0.0), (0.3, 1.0))  # switched on at once the entropies kill attributes


def interpolate(knots: Knots, position: float) -> float:
    """The piecewise-linear function through ``knots`` (position, value), constant beyond both ends; the later of two at one place wins."""
    if position < knots[0][0]:
        return knots[0][1]
    for (left, low), (right, high) in pairwise(knots):
        if left <= position < right:
            return low + (high - low) * (position - left) / (right - left)
    return knots[-1][1]


def step_at(position: float) -> Knots:
    """Off before ``position``, fully on from it: the paper's way of starting a term."""
    return ((0.0, 0.0), (position, 0.0), (position, 1.0)) if position > 0 else CONSTANT


@dataclass(frozen=True)
class LossSchedule:
    """A multiplier for each weight of ``LossWeights``, as knots over ``unit``.

    Attributes:
        unit: "progress" in [0, 1] of the whole fit, or "epochs" counted from 0 as in Algorithm 1.
    """

    beta: Knots = CONSTANT
    gamma: Knots = CONSTANT
    delta: Knots = CONSTANT
    zeta: Knots = RAMPED_IN
    mu: Knots = CONSTANT
    eta: Knots = RAMPED_IN
    unit: str = "progress"

    def __post_init__(self) -> None:
        if self.unit not in ("progress", "epochs"):
            raise ConfigurationError(f"unit must be 'progress' or 'epochs', got {self.unit!r}")
        for name, knots in self._knots().items():
            finite = all(math.isfinite(position) and 0 <= value < math.inf for position, value in knots)
            if not knots or not finite or any(right < left for (left, _), (right, _) in pairwise(knots)):
                raise ConfigurationError(
                    f"the knots of {name} must be (position, multiplier of at least 0), one at least, in rising order, got {knots}"
                )

    def _knots(self) -> dict[str, Knots]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "unit"}

    def at(self, weights: LossWeights, *, progress: float, epoch: float) -> LossWeights:
        """The weights in force at ``progress`` of the whole fit, in [0, 1], and after ``epoch`` epochs (fractions within one)."""
        position = progress if self.unit == "progress" else epoch
        scaled = {name: known(getattr(weights, name)) * interpolate(knots, position) for name, knots in self._knots().items()}
        return dataclasses.replace(weights, **scaled)


POST_HOC_SCHEDULE = LossSchedule()
BY_DESIGN_SCHEDULE = LossSchedule(beta=RAMPED_IN)  # L_of asks f to be predictable, and slows what it learns first
