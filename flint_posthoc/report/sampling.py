"""Which images does the report explain one by one? A bounded, seeded choice from a stream: some of each class, and disagreements apart."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..interpreter.fitted import ReadBatch


class SampledImage(NamedTuple):
    """An image that was chosen."""

    key: float  # uniform in [0, 1); the smallest are kept
    position: int  # in the data, counted from 0
    label: int | None
    image: Tensor  # (channels, height, width), as the classifier sees it, on the CPU


class SmallestKeys:
    """The ``limit`` images of smallest key that were offered: a uniform choice, since keys are random."""

    def __init__(self, limit: int) -> None:
        self.limit, self.kept = limit, list[SampledImage]()

    def wants(self, key: float) -> bool:
        return len(self.kept) < self.limit or (bool(self.kept) and key < self.kept[-1].key)

    def offer(self, sample: SampledImage) -> None:
        """One more, in order of keys."""
        self.kept = sorted([*self.kept, sample], key=lambda entry: entry.key)[: self.limit]


class ImageSampler:
    """At most ``agreeing`` images on which f and g agree, spread over the classes, and at most ``disagreeing`` others.

    Memory is O(``agreeing`` + ``disagreeing``) images, also where there are more classes than that.
    """

    def __init__(self, num_classes: int, *, agreeing: int, disagreeing: int, seed: int) -> None:
        self._limit, self._of_class = agreeing, -(-agreeing // num_classes)
        self._agreeing: dict[int, SmallestKeys] = {}
        self._disagreeing = SmallestKeys(disagreeing)
        self._generator = torch.Generator().manual_seed(seed)
        self._seen = 0

    def add(self, batch: ReadBatch, classes: Tensor) -> None:
        """One more batch; ``classes`` (b,) are those that g predicts."""
        keys = torch.rand(len(classes), generator=self._generator, dtype=torch.float64).tolist()
        rows = zip(keys, classes.tolist(), batch.agrees.tolist(), strict=True)
        for row, (key, class_index, agrees) in enumerate(rows):
            place = self._agreeing.setdefault(class_index, SmallestKeys(self._of_class)) if agrees else self._disagreeing
            if place.wants(key):
                label = None if batch.labels is None else int(batch.labels[row])
                place.offer(SampledImage(key, self._seen + row, label, batch.images[row].to("cpu", copy=True)))
        self._seen += len(classes)
        self._forget()

    def _forget(self) -> None:
        """Drop the largest keys beyond the limit, from the classes that have most."""
        for _ in range(sum(len(kept.kept) for kept in self._agreeing.values()) - self._limit):
            fullest = max(self._agreeing.values(), key=lambda kept: (len(kept.kept), kept.kept[-1].key if kept.kept else 0.0))
            fullest.kept.pop()

    def result(self) -> tuple[SampledImage, ...]:
        """Disagreements first; then class by class."""
        agreeing = [sample for _, kept in sorted(self._agreeing.items()) for sample in kept.kept]
        return (*self._disagreeing.kept, *agreeing)
