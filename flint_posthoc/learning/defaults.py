"""What is ours for each kind of fit where a config says ``None``; chosen on validation splits (docs/training.md)."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, TypeVar

from ..errors import ConfigurationError

Value = TypeVar("Value")
Record = TypeVar("Record")


class Defaults(NamedTuple):
    """Named as in ``FitSettings`` and ``LossWeights``."""

    least_steps: int
    learning_rate: float
    eta: float
    temperature: float

    def fill(self, record: Record) -> Record:
        """``record`` with these in place of its ``None``."""
        missing: dict[str, Any] = {name: value for name, value in self._asdict().items() if getattr(record, name, value) is None}
        return dataclasses.replace(record, **missing)  # type: ignore[type-var]


SMALL_IMAGES = Defaults(least_steps=1000, learning_rate=2e-3, eta=0.2, temperature=2.0)
PHOTOGRAPHS = Defaults(least_steps=350, learning_rate=6e-3, eta=0.05, temperature=1.0)
PHOTOGRAPHS_BY_DESIGN = PHOTOGRAPHS._replace(least_steps=1000, learning_rate=2e-3)


def automatic_num_attributes(num_classes: int) -> int:
    """J where none is asked for: 25 for ten classes or fewer as in the paper, 2.5 a class beyond, at most 256."""
    return min(256, max(25, round(2.5 * num_classes)))


def known(value: Value | None) -> Value:
    """A number of a config that was filled. Raises ``ConfigurationError`` where it was not."""
    if value is None:
        raise ConfigurationError("a number of this config is left to the kind of fit: take FlintConfig.chosen(…)")
    return value
