"""Small statistics: the area under the ROC curve, a mean with its bootstrap interval, a difference of two shares with its own."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..measures import ranks
from ..words import MISSING

Values = Float[Tensor, " n"]
Flags = Bool[Tensor, " n"]

DRAWS = 1000  # of a bootstrap
EXACT = 1000  # samples up to which a binomial is summed
LEVEL = 0.95
DEVIATIONS = NormalDist().inv_cdf((1 + LEVEL) / 2)  # of a normal interval


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
        return MISSING if math.isnan(self.mean) else f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def bootstrap(values: Values, seed: int = 0) -> Interval:
    """The mean of ``values`` with the percentile interval of a bootstrap over them. NaN among them is left out."""
    known = values[~values.isnan()].double()
    if not len(known):
        return Interval(math.nan, math.nan, math.nan)
    generator = torch.Generator().manual_seed(seed)
    means = torch.stack([known[torch.randint(len(known), (len(known),), generator=generator)].mean() for _ in range(DRAWS)])
    low, high = means.quantile(means.new_tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2])).tolist()
    return Interval(float(known.mean()), low, high)


def paired_interval(only_first: int, only_second: int, samples: int) -> Interval:
    """The difference of two shares over the same ``samples``, in [-1, 1], with the Wald interval for paired proportions.

    Of McNemar's table of pairs (Agresti, Categorical Data Analysis, section 11.1) only the two cells that differ count: b samples that
    are right for the first alone, c for the second alone. Mean (b - c) / n, variance ((b + c) - (b - c)² / n) / n². Rough where b + c is
    small: with b = c = 0 it has no width.
    """
    if not samples:
        return Interval(math.nan, math.nan, math.nan)
    mean = (only_first - only_second) / samples
    variance = ((only_first + only_second) * samples - (only_first - only_second) ** 2) / samples**3
    reach = DEVIATIONS * math.sqrt(variance)
    return Interval(mean, max(-1.0, mean - reach), min(1.0, mean + reach))


def sign_test(first: int, second: int) -> float:
    """The two-sided p of so uneven a split of two counts, were either as likely: McNemar's exact test of samples right for one alone."""
    if first + second > EXACT:
        return math.erfc(abs(first - second) / math.sqrt(2 * (first + second)))
    tail: float = sum(math.comb(first + second, count) for count in range(min(first, second) + 1)) / 2 ** (first + second)
    return min(1.0, 2 * tail)
