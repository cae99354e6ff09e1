"""A uniform sample of relevance vectors from a stream of any length."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arrays import ClassIndex, PerImageFlag, Relevance
from ..errors import ConfigurationError


class RelevanceReservoir:
    """A uniform sample of at most ``samples_per_class`` relevance vectors a class from a stream of any length (Vitter's algorithm R)."""

    def __init__(self, num_attributes: int, num_classes: int, samples_per_class: int, seed: int) -> None:
        if samples_per_class < 1:
            raise ConfigurationError(f"samples_per_class must be at least 1, got {samples_per_class}")
        self.kept: list[list[Tensor]] = [[] for _ in range(num_classes)]
        self.offered = [0] * num_classes
        self.num_attributes, self.limit = num_attributes, samples_per_class
        self.generator = torch.Generator().manual_seed(seed)

    def offer(self, relevance: Tensor, class_index: int) -> None:
        """One more relevance vector (J,) of this class."""
        kept, self.offered[class_index] = self.kept[class_index], self.offered[class_index] + 1
        if len(kept) < self.limit:
            kept.append(relevance.clone())
        else:
            place = int(torch.randint(self.offered[class_index], (), generator=self.generator))
            if place < self.limit:
                kept[place] = relevance.clone()

    def offer_all(self, relevance: Relevance, classes: ClassIndex, eligible: PerImageFlag) -> None:
        """The flagged rows of a batch, in order."""
        for index in eligible.nonzero().flatten().tolist():
            self.offer(relevance[index], int(classes[index]))

    def mean(self) -> tuple[Tensor, Tensor]:
        """r_{j,c} (J, C) with NaN for classes without samples, and the counts (C,)."""
        empty = torch.full((self.num_attributes,), float("nan"))
        means = [torch.stack(kept).mean(dim=0) if kept else empty for kept in self.kept]
        return torch.stack(means, dim=1), torch.tensor([len(kept) for kept in self.kept])
