"""A cache's rows, one an image: in memory, or in shards on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TypeAlias

import torch
from torch import Tensor

from ...errors import EmptyDataError
from ..batches import DataSummary, LearningBatch
from .layout import RowLayout, blocks, marks
from .order import Order, shuffled, whole_batches, windows
from .shards import ShardReader

SUMMARY_ROWS = 1024  # that are summed up together

Choice: TypeAlias = Callable[[Tensor], Tensor]  # numbers of a mini-batch → rows to read of it


def _all(numbers: Tensor) -> Tensor:
    return numbers


@dataclass(frozen=True)
class RowsInMemory:
    """All of them, as one batch."""

    stored: LearningBatch
    layout: RowLayout

    @classmethod
    def of(cls, passes: Iterable[LearningBatch], precision: str, images: int | None = None) -> RowsInMemory:
        """Batches of this precision, on the CPU, written to where they stay; for an unknown number of ``images`` there is no such place.

        Raises ``EmptyDataError`` where there is none.
        """
        stream = iter(passes)
        first = next(stream, None)
        if first is None:
            raise EmptyDataError("the data held no batch, there is nothing to learn from")
        layout = RowLayout.of(first, precision)
        if images is None:
            return cls(LearningBatch.joined([first, *stream]), layout)
        whole, seen = first.room(images), 0
        for batch in chain([first], stream):
            if seen + batch.images() > images:
                return cls(LearningBatch.joined([whole.rows(slice(0, seen)), batch, *stream]), layout)
            whole.write(seen, batch)
            seen += batch.images()
        return cls(whole.rows(slice(0, seen)), layout)

    def __len__(self) -> int:
        return len(self.stored.logits)

    @property
    def nbytes(self) -> int:
        """Of memory."""
        return len(self) * self.layout.row_bytes

    @property
    def marks(self) -> Tensor:
        """What each image is known again by."""
        return torch.cat([marks(self.stored.target[index]) for index in blocks(len(self), SUMMARY_ROWS)])

    @property
    def order(self) -> Order:
        """Any row may follow any other."""
        return shuffled

    def select(self, index: Tensor) -> LearningBatch:
        """The rows at ``index`` (n,), in that order."""
        return self.stored.rows(index)

    def batches(self, order: Iterable[Tensor], batch_size: int, own: Choice = _all) -> Iterator[LearningBatch]:
        """Whole mini-batches of the rows in ``order``, of each those that are ``own``; the rest of a window is left out."""
        for window in order:
            for index in whole_batches(window, batch_size):
                yield self.select(own(index))

    def part(self, index: Tensor) -> RowsInMemory:
        """Some of them, copied."""
        return RowsInMemory(self.select(index), self.layout)

    def summary(self) -> DataSummary:
        """Of all rows, in order."""
        return DataSummary.of((self.select(index) for index in blocks(len(self), SUMMARY_ROWS)), self.layout.classes)


@dataclass(frozen=True)
class RowsOnDisk:
    """Rows of a whole cache, read when they are needed.

    Attributes:
        chosen: their numbers in the cache; ``None``: all of them.
        known: the summary that was made when they were written.
        marks: what each image is known again by; ``None``: not known, of some rows or of a cache of an earlier version.
    """

    reader: ShardReader
    chosen: Tensor | None = None
    known: DataSummary | None = None
    marks: Tensor | None = None

    @property
    def layout(self) -> RowLayout:
        return self.reader.layout

    def __len__(self) -> int:
        return len(self.reader) if self.chosen is None else len(self.chosen)

    @property
    def nbytes(self) -> int:
        """Of disk."""
        return len(self) * self.layout.row_bytes

    @property
    def order(self) -> Order:
        """Nearly sequential, and in bounded memory."""
        return partial(windows, self.layout.row_bytes)

    def select(self, index: Tensor) -> LearningBatch:
        """The rows at ``index`` (n,), in that order."""
        numbers, place = self._numbers(index).sort()
        found = self.reader.read(numbers, self.layout.empty(len(index)))
        return found.rows(place.argsort())

    def batches(self, order: Iterable[Tensor], batch_size: int, own: Choice = _all) -> Iterator[LearningBatch]:
        """Whole mini-batches of the rows in ``order``, as above. One window is in memory at a time."""
        memory = self.layout.empty(0)
        for window in order:
            parts = [own(index) for index in whole_batches(window, batch_size)]
            if not parts:
                continue
            numbers, place = self._numbers(torch.cat(parts)).sort()
            if len(memory.logits) < len(numbers):
                memory = self.layout.empty(len(numbers))
            self.reader.read(numbers, memory)
            for index in place.argsort().split([len(part) for part in parts]):
                yield memory.rows(index)

    def part(self, index: Tensor) -> RowsOnDisk:
        """Some of them; nothing is copied."""
        return RowsOnDisk(self.reader, self._numbers(index))

    def summary(self) -> DataSummary:
        """The known one, or of all rows in order."""
        return self.known or DataSummary.of((self.select(index) for index in blocks(len(self), SUMMARY_ROWS)), self.layout.classes)

    def _numbers(self, index: Tensor) -> Tensor:
        return index if self.chosen is None else self.chosen[index]


Rows: TypeAlias = RowsInMemory | RowsOnDisk  # batches come in the stored precision, on the CPU
