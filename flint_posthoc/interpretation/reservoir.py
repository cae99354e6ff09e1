"""A uniform sample of relevance vectors from a stream of any length."""

from __future__ import annotations

from heapq import heappush, heappushpop
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..arrays import ClassIndex, PerImageFlag, Relevance
from ..errors import ConfigurationError
from ..processes import gather, sum_


class _Kept(NamedTuple):
    """A relevance vector; of a heap of them the largest key comes first."""

    negative_key: int
    number: int
    relevance: Tensor


def sampling_keys(numbers: np.ndarray, seed: int) -> np.ndarray:
    """A random 64-bit key for each of these whole numbers (SplitMix64: Steele, Lea and Flood 2014), the same wherever it is drawn."""
    state = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed * 0xD1342543DE82EF95 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    return state


class RelevanceReservoir:
    """A uniform sample of at most ``samples_per_class`` relevance vectors a class from a stream of any length.

    Every image draws a key, and those of the smallest keys are kept: which ones depends on the seed and on an image's number in the data
    alone, not on how it comes in batches or to which process.
    """

    def __init__(self, num_attributes: int, num_classes: int, samples_per_class: int, seed: int) -> None:
        if samples_per_class < 1:
            raise ConfigurationError(f"samples_per_class must be at least 1, got {samples_per_class}")
        self.kept: list[list[_Kept]] = [[] for _ in range(num_classes)]
        self.num_attributes, self.limit = num_attributes, samples_per_class
        self._seed = seed

    def offer_all(self, relevance: Relevance, classes: ClassIndex, eligible: PerImageFlag, images: ClassIndex) -> None:
        """The flagged rows, each of the image with that number in the data; no image comes twice in a class."""
        keys, numbers = sampling_keys(images.numpy(), self._seed).tolist(), images.tolist()
        for index in eligible.nonzero().flatten().tolist():
            kept = self.kept[int(classes[index])]
            if len(kept) < self.limit:
                heappush(kept, _Kept(-keys[index], numbers[index], relevance[index].clone()))
            elif -keys[index] > kept[0].negative_key:
                heappushpop(kept, _Kept(-keys[index], numbers[index], relevance[index].clone()))

    def mean(self) -> tuple[Tensor, Tensor]:
        """r_{j,c} (J, C) with NaN for classes without samples, and the counts (C,), over what all processes were offered."""
        sums, counts = torch.zeros(len(self.kept), self.num_attributes, dtype=torch.float64), torch.zeros(len(self.kept), dtype=torch.int64)
        drawn = gather([[entry.negative_key for entry in kept] for kept in self.kept])
        for index, kept in enumerate(self.kept):
            smallest = sorted((key for process in drawn for key in process[index]), reverse=True)[: self.limit]
            rows = [entry.relevance for entry in sorted(kept) if entry.negative_key >= smallest[-1]]
            if rows:
                sums[index], counts[index] = torch.stack(rows).double().sum(dim=0), len(rows)
        return (sum_(sums) / sum_(counts)[:, None]).T.float(), counts
