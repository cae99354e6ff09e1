"""Which images does the report explain one by one? A bounded, seeded choice from a stream: disagreements, and some of each class."""

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
    """A bounded choice of images, held in memory, however many classes there are.

    Args:
        agreeing: most images on which f and g agree, spread over the classes.
        disagreeing: most images on which they do not.
        outside: most images on which they agree among the explained classes, while f's unrestricted choice is none of them.
    """

    def __init__(self, num_classes: int, *, agreeing: int, disagreeing: int, outside: int, seed: int) -> None:
        self._limit, self._of_class = agreeing, -(-agreeing // num_classes)
        self._agreeing: dict[int, SmallestKeys] = {}
        self._disagreeing, self._outside = SmallestKeys(disagreeing), SmallestKeys(outside)
        self._generator = torch.Generator().manual_seed(seed)
        self._seen = 0

    def add(self, batch: ReadBatch, classes: Tensor, agreement: Tensor) -> None:
        """One more batch; ``classes`` (b,) are those that g predicts, ``agreement`` (b,) says where f does so among the explained ones."""
        keys = torch.rand(len(classes), generator=self._generator, dtype=torch.float64).tolist()
        rows = zip(keys, classes.tolist(), agreement.tolist(), batch.inside.tolist(), strict=True)
        for row, (key, class_index, agrees, inside) in enumerate(rows):
            place = self._place(class_index, agrees, inside)
            if place.wants(key):
                label = None if batch.labels is None else int(batch.labels[row])
                place.offer(SampledImage(key, self._seen + row, label, batch.images[row].to("cpu", copy=True)))
        self._seen += len(classes)
        self._forget()

    def _place(self, class_index: int, agrees: bool, inside: bool) -> SmallestKeys:
        if agrees and inside:
            return self._agreeing.setdefault(class_index, SmallestKeys(self._of_class))
        return self._outside if agrees else self._disagreeing

    def _forget(self) -> None:
        """Drop the largest keys beyond the limit, from the classes that have most."""
        for _ in range(sum(len(kept.kept) for kept in self._agreeing.values()) - self._limit):
            fullest = max(self._agreeing.values(), key=lambda kept: (len(kept.kept), kept.kept[-1].key if kept.kept else 0.0))
            fullest.kept.pop()

    def result(self) -> tuple[SampledImage, ...]:
        """Disagreements first, then those outside, then class by class."""
        agreeing = [sample for _, kept in sorted(self._agreeing.items()) for sample in kept.kept]
        return (*self._disagreeing.kept, *self._outside.kept, *agreeing)
