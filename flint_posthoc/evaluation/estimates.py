"""Small statistics: ranks and their correlation, the area under the ROC curve, a mean with its bootstrap interval."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Values = Float[Tensor, " n"]
Flags = Bool[Tensor, " n"]

DRAWS = 1000  # of a bootstrap
LEVEL = 0.95


def ranks(values: Values) -> Values:
    """1 for the smallest; equal values share the mean of their ranks. float64."""
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2).double()[place]


def correlation(one: Values, other: Values) -> float:
    """Pearson's, in [-1, 1]; NaN where one of the two never varies."""
    first, second = (values.double() - values.double().mean() for values in (one, other))
    scale = float(first.norm() * second.norm())
    return max(-1.0, min(1.0, float(first @ second) / scale)) if scale > 0 else math.nan


def rank_correlation(one: Values, other: Values) -> float:
    """Spearman's, in [-1, 1]; NaN where one of the two never varies."""
    return correlation(ranks(one), ranks(other))


def auroc(score: Values, positive: Flags) -> float | None:
    """The probability that a positive sample scores above another one, ties by half; ``None`` where one of the two kinds is missing."""
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return None
    above = float(ranks(score)[positive].sum()) - positives * (positives + 1) / 2
    return above / (positives * negatives)


class Interval(NamedTuple):
    """A mean over samples and where it lies with 95 % confidence; NaN over no sample."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return "-" if math.isnan(self.mean) else f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def bootstrap(values: Values, seed: int = 0) -> Interval:
    """The mean of ``values`` with the percentile interval of a bootstrap over them. NaN among them is left out."""
    known = values[~values.isnan()].double()
    if not len(known):
        return Interval(math.nan, math.nan, math.nan)
    generator = torch.Generator().manual_seed(seed)
    means = torch.stack([known[torch.randint(len(known), (len(known),), generator=generator)].mean() for _ in range(DRAWS)])
    low, high = means.quantile(means.new_tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2])).tolist()
    return Interval(float(known.mean()), low, high)
