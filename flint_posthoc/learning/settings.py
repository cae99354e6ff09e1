"""How long a fit lasts and how fast it learns."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import ConfigurationError
from .defaults import known

PASSES = 12  # over the data, unless it is small
WARMUP = 100  # steps, of a long fit


@dataclass(frozen=True)
class FitSettings:
    """How long and how fast.

    Attributes:
        epochs: passes over the data; excludes ``max_steps``.
        max_steps: optimiser steps, or "auto": twelve passes over the data, and never fewer than ``least_steps``.
        least_steps: ``None``: 1000, and 350 for photographs, post-hoc.
        batch_size: of the learning loop, where activations are cached (else the loader's own); ``None``: 128, or 2J where that is more.
        learning_rate: AdamW's peak; it rises over the first steps and falls along a cosine, unless ``constant_learning_rate`` (the paper).
            ``None``: 2e-3, and 6e-3 for photographs, post-hoc.
        weight_decay: of Ψ and d.  head_weight_decay: of h.
        revive_after: steps without a single activation after which an attribute is re-initialised; ``None``: never (the paper).
        seed: of initialisation and order.
    """

    epochs: int | None = None
    max_steps: int | str = "auto"
    least_steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    constant_learning_rate: bool = False
    weight_decay: float = 0.01
    head_weight_decay: float = 0.01
    revive_after: int | None = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if not (isinstance(self.seed, int) and -(2**63) <= self.seed < 2**64):
            raise ConfigurationError(f"seed must be a whole number of 64 bits, got {self.seed!r}")
        if self.epochs is not None and (not isinstance(self.epochs, int) or self.epochs < 1):
            raise ConfigurationError(f"epochs must be a whole number of at least 1, got {self.epochs!r}")
        if self.max_steps != "auto" and (not isinstance(self.max_steps, int) or self.max_steps < 1):
            raise ConfigurationError(f"max_steps must be 'auto' or at least 1, got {self.max_steps!r}")
        if self.epochs is not None and self.max_steps != "auto":
            raise ConfigurationError(f"give epochs or max_steps, not both (epochs={self.epochs}, max_steps={self.max_steps})")
        sizes = (self.least_steps, self.batch_size)
        if any(size is not None and size < 1 for size in sizes) or not (self.learning_rate is None or self.learning_rate > 0):
            raise ConfigurationError(
                "least_steps and batch_size must be at least 1 and learning_rate positive, "
                f"got {self.least_steps}, {self.batch_size} and {self.learning_rate}"
            )
        if not (self.weight_decay >= 0 and self.head_weight_decay >= 0):
            raise ConfigurationError(f"weight decays must be at least 0, got {self.weight_decay} and {self.head_weight_decay}")
        if self.revive_after is not None and self.revive_after < 1:
            raise ConfigurationError(f"revive_after must be at least 1 or None, got {self.revive_after}")

    @property
    def peak(self) -> float:
        """The learning rate."""
        return known(self.learning_rate)

    def rate_at(self, step: int, total: int) -> float:
        """The learning rate at ``step`` of ``total``."""
        return self.peak * (1.0 if self.constant_learning_rate else learning_rate_factor(step, total))

    def batch_for(self, num_attributes: int) -> int:
        """The learning loop's batch size: below 2J samples the diversity entropy sees too few."""
        return self.batch_size or max(128, 2 * num_attributes)

    def total_steps(self, batches_per_epoch: int) -> int:
        """Optimiser steps of the whole fit."""
        if self.epochs is not None:
            return self.epochs * batches_per_epoch
        return max(known(self.least_steps), PASSES * batches_per_epoch) if self.max_steps == "auto" else int(self.max_steps)


def epoch_seed(seed: int, epoch: int) -> int:
    """Of what is random in an epoch, so that a resumed fit ends as an unbroken one; of 64 bits, as generators take it."""
    told = seed * 1_000_003 + epoch
    return told if -(2**63) <= told < 2**63 else told % 2**63


def learning_rate_factor(step: int, total: int) -> float:
    """Share of the peak learning rate at ``step`` (from 0): a linear rise over at most 100 steps, then a cosine down to 0.1 %."""
    rise = min(1.0, (step + 1) / min(WARMUP, max(1, total // 10)))
    return rise * max(1e-3, 0.5 * (1 + math.cos(math.pi * step / total)))
