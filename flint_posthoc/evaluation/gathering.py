"""What f and g say of many images at once: sums over all of them, or a uniform sample of rows from one pass, at most so many."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TypeVar

import torch
from jaxtyping import Int64
from torch import Tensor

from ..arrays import Attributes, Logits
from ..classifier.adapter import OutputKind
from ..data import Data
from ..errors import ConfigurationError, EmptyDataError
from ..interpreter.fitted import FittedInterpreter, ReadBatch

LIMIT = 20_000  # images kept, unless more are asked for
UNLABELLED = -1

Sums = TypeVar("Sums")  # what adds up over batches


def add_up(parts: Iterable[Sums], otherwise: str) -> Sums:
    """The sum of what each batch gave. Raises ``EmptyDataError``, which ends in ``otherwise``, where there was no batch."""
    rest = iter(parts)
    first = next(rest, None)
    if first is None:
        raise EmptyDataError(f"the data held no batch, {otherwise}")
    return reduce(add, rest, first)


class RowReservoir:
    """A uniform sample of at most ``limit`` rows of a stream, in the stream's order; all rows where there are no more.

    Each row draws a number, and the rows of the smallest numbers are kept: what is kept depends on the seed and the order of rows, not on
    how they come in batches. Memory is twice ``limit`` rows at most.

    Raises:
        ConfigurationError: ``limit`` below 1.
    """

    def __init__(self, limit: int, seed: int) -> None:
        if limit < 1:
            raise ConfigurationError(f"limit, the number of images kept, must be at least 1, got {limit}")
        self.limit, self.seen = limit, 0
        self._generator = torch.Generator().manual_seed(int(seed))
        self._parts: list[tuple[Tensor, ...]] = []

    def offer(self, *columns: Tensor) -> None:
        """More rows: tensors of one length, kept on the CPU."""
        rows = len(columns[0])
        self.seen += rows
        keys = torch.rand(rows, dtype=torch.float64, generator=self._generator)
        self._parts.append((keys, *(column.detach().cpu() for column in columns)))
        if sum(len(part[0]) for part in self._parts) > 2 * self.limit:
            self._parts = [self._smallest()]

    def _smallest(self) -> tuple[Tensor, ...]:
        together = tuple(torch.cat(column) for column in zip(*self._parts, strict=True))
        if len(together[0]) <= self.limit:
            return together
        kept = together[0].topk(self.limit, largest=False).indices.sort().values
        return tuple(column[kept] for column in together)

    def columns(self) -> tuple[Tensor, ...]:
        """The kept rows of each column. Raises ``EmptyDataError`` where none was offered."""
        if not self.seen:
            raise EmptyDataError("the data held no images, there is nothing to judge")
        return self._smallest()[1:]


@dataclass(frozen=True)
class SampledRows:
    """Rows of a uniform sample of images, on the CPU: (J + 2C + 1) numbers an image.

    Attributes:
        labels: (n,), -1 where the data has none.
        seen: images that the sample was drawn from.
    """

    attributes: Attributes
    classifier_logits: Logits
    interpreter_logits: Logits
    labels: Int64[Tensor, " b"]
    seen: int

    def __len__(self) -> int:
        return len(self.labels)


def labels_of(batch: ReadBatch) -> Tensor:
    """(b,), -1 where the batch has none."""
    return torch.full((len(batch.images),), UNLABELLED) if batch.labels is None else batch.labels


def sample_rows(fitted: FittedInterpreter, data: Data, limit: int = LIMIT, seed: int = 0) -> SampledRows:
    """One pass of f and g over ``data``. Raises ``EmptyDataError``, or ``ConfigurationError`` for a limit below 1."""
    reservoir = RowReservoir(limit, seed)
    for batch in fitted.read(data):
        reservoir.offer(batch.attributes, batch.classifier_logits, batch.interpreter_logits, labels_of(batch))
    attributes, classifier_logits, interpreter_logits, labels = reservoir.columns()
    return SampledRows(attributes, classifier_logits, interpreter_logits, labels, reservoir.seen)


@dataclass(frozen=True)
class Score:
    """What an interpreter is worth: shares in [0, 1], ``accuracy`` ``None`` without labels."""

    fidelity: float
    accuracy: float | None

    def __sub__(self, other: Score) -> Score:
        accuracy = None if self.accuracy is None or other.accuracy is None else self.accuracy - other.accuracy
        return Score(self.fidelity - other.fidelity, accuracy)


def score(rows: SampledRows, logits: Logits, kind: OutputKind) -> Score:
    """Fidelity to f and accuracy of ``logits`` (n, C) in the place of g's."""
    agreement, labelled = kind.agreement(rows.classifier_logits, logits), rows.labels != UNLABELLED
    correct = (kind.prediction(logits) == rows.labels)[labelled]
    return Score(float(agreement.double().mean()), float(correct.double().mean()) if len(correct) else None)


def mean_score(scores: list[Score]) -> Score:
    """The mean over repeats."""
    accuracies = [entry.accuracy for entry in scores if entry.accuracy is not None]
    fidelity = sum(entry.fidelity for entry in scores) / len(scores)
    return Score(fidelity, sum(accuracies) / len(accuracies) if accuracies else None)
