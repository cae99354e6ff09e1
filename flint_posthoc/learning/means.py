"""What is told of a step by name, and its means over an epoch: summed on the device and read rarely, as a look waits for it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ..processes import sum_
from .losses import LossTerms

T = TypeVar("T")
COMMON = len(LossTerms._fields)  # values of a step that are those of all processes; the others are this one's share


@dataclass(frozen=True)
class StepValues(Generic[T]):
    """What is told of one step, as tensors, or of several on average, as numbers: the terms of the loss and what goes with them."""

    total: T
    output_fidelity: T
    input_fidelity: T
    entropy: T
    mean_entropy: T
    l1: T
    kl_divergence: T
    fidelity: T
    prediction: T  # L_pred; 0 post-hoc
    accuracy: T  # of f; 0 post-hoc


NAMES = tuple(field.name for field in fields(StepValues))


class RunningMeans:
    """Of the values of all steps so far; it can be asked from the first step on."""

    def __init__(self) -> None:
        self._sums = self._watched = torch.zeros(())
        self._steps = 0

    @torch.no_grad()
    def add(self, step: StepValues[Tensor]) -> None:
        """One step more; nothing is read from the device."""
        values = torch.stack([getattr(step, name) for name in NAMES])
        first = self._steps == 0
        self._sums = values if first else self._sums + values
        self._watched = values if first else torch.where(self._watched[:COMMON].isfinite().all(), values, self._watched)
        self._steps += 1

    def read(self) -> StepValues[float]:
        """The means over all processes."""
        common, shares = self._sums.split([COMMON, len(self._sums) - COMMON])
        return StepValues(*(torch.cat([common, sum_(shares.clone())]) / self._steps).tolist())

    def watched(self) -> StepValues[Tensor]:
        """The values of the last step, or of the first one whose loss was not finite."""
        return StepValues(*self._watched.cpu())
