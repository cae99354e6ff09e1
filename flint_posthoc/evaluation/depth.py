"""Projection depth: how central a point lies in a cloud of others (equation 1 of the paper; Zuo and Serfling, 2000)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from ..errors import ConfigurationError, DataError

RANK = 1e-6  # of the largest deviation; what varies less does not vary
CHUNK = 256  # points refined at once

Points = Float64[Tensor, "n dimensions"]
PerPoint = Float64[Tensor, " n"]


@dataclass(frozen=True)
class DepthSettings:
    """How the supremum over all directions is sought.

    Attributes:
        directions: drawn at random, isotropic where the cloud's covariance is the identity, so that an affine map changes nothing.
        refinements: steps of ascent from the best of them, for each point.
        min_spread: the median absolute deviation counts as at least this many standard deviations (0.67 of a normal distribution); 0 is
            equation 1, by which a cloud with half of its points in one plane has no depth anywhere else.
    """

    directions: int = 300
    refinements: int = 10
    min_spread: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.directions < 1 or self.refinements < 0 or self.min_spread < 0:
            raise ConfigurationError(f"directions must be at least 1, refinements and min_spread at least 0, got {self}")


@dataclass(frozen=True)
class PrincipalSpace:
    """An affine map onto the directions in which a cloud varies most, each scaled to deviation 1.

    Attributes:
        mean: (D,).  axes: (D, k). Directions without any deviation (constant border pixels) are not among them.
    """

    mean: Tensor
    axes: Tensor

    @classmethod
    def of(cls, cloud: Float[Tensor, "m _"], most: int | None = None) -> PrincipalSpace:
        """The ``most`` strongest principal components of a cloud of points; ``None``: all in which it varies."""
        wide = cloud.double()
        mean = wide.mean(dim=0)
        _, deviations, axes = torch.linalg.svd((wide - mean) / len(wide) ** 0.5, full_matrices=False)
        largest = deviations[:1].sum()  # they come by size, and may be none
        kept = int((deviations > RANK * largest.clamp_min(1e-30)).sum())
        kept = kept if most is None else min(kept, most)
        return cls(mean, (axes[:kept] / deviations[:kept, None]).T)

    def __call__(self, points: Float[Tensor, "n _"]) -> Points:
        """Their coordinates (n, k)."""
        return (points.double() - self.mean) @ self.axes

    def beside(self, points: Float[Tensor, "n _"]) -> PerPoint:
        """How far each point lies off the space, where no coordinate sees it."""
        offset, axes = points.double() - self.mean, F.normalize(self.axes, dim=0)
        return (offset - offset @ axes @ axes.T).norm(dim=1)


class ProjectionDepth:
    """D(x|X) for one cloud X (m, D), over the directions in which it varies. Affine-invariant.

    Raises:
        DataError: a cloud of fewer than two points.
    """

    def __init__(self, cloud: Float[Tensor, "m _"], settings: DepthSettings = DepthSettings()) -> None:
        if len(cloud) < 2:
            raise DataError(f"projection depth needs a cloud of at least 2 points, got {len(cloud)}")
        self.settings, self.space = settings, PrincipalSpace.of(cloud)
        self._cloud = self.space(cloud)
        generator = torch.Generator().manual_seed(settings.seed)
        mixtures = torch.randn(settings.directions, len(cloud), dtype=torch.float64, generator=generator)
        self._directions = F.normalize(mixtures @ self._cloud, dim=1)
        self._middle, self._spread, _ = self._location(self._directions)

    def __call__(self, points: Float[Tensor, "n _"]) -> PerPoint:
        """The depth of each point, in [0, 1]; 1 is the very middle."""
        parts = [self._outlyingness(part) for part in self.space(points).split(CHUNK)]
        return 1 / (1 + torch.cat(parts))

    def _location(self, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Median and deviation of the cloud along each direction (n,), with the gradients of both (2, n, k) by it."""
        projected = directions @ self._cloud.T
        middle, place = _median(projected)
        offset = projected - middle[:, None]
        spread, far = _median(offset.abs())
        of_middle = self._cloud[place].mean(dim=1)
        side = offset.gather(1, far).sign()[..., None]
        of_spread = (side * (self._cloud[far] - of_middle[:, None])).mean(dim=1)
        floored = spread < self.settings.min_spread
        gradients = torch.stack([of_middle, of_spread * ~floored[:, None]])
        return middle, spread.clamp_min(self.settings.min_spread), gradients

    def _outlyingness(self, points: Points) -> PerPoint:
        along = ratio((points @ self._directions.T - self._middle).abs(), self._spread)
        directions = self._directions[along.argmax(dim=1)]
        best, slope = self._climb(points, directions)
        rate = torch.full_like(best, 0.5)
        for _ in range(self.settings.refinements):
            moved = F.normalize(directions + rate[:, None] * F.normalize(slope, dim=1), dim=1)
            value, steepest = self._climb(points, moved)
            better = value > best
            best = torch.where(better, value, best)
            directions, slope = (torch.where(better[:, None], *pair) for pair in ((moved, directions), (steepest, slope)))
            rate = torch.where(better, rate, rate / 2)
        return best

    def _climb(self, points: Points, directions: Points) -> tuple[PerPoint, Points]:
        """The outlyingness of each point along its direction, and in which way that grows."""
        middle, spread, (of_middle, of_spread) = self._location(directions)
        distance = (points * directions).sum(dim=1) - middle
        value = ratio(distance.abs(), spread)
        slope = distance.sign()[:, None] * (points - of_middle) - value[:, None] * of_spread
        return value, slope.nan_to_num(0, 0, 0)


def _median(values: Float64[Tensor, "n m"]) -> tuple[PerPoint, Tensor]:
    """The usual median of each row, and the two places (n, 2) that it is the mean of."""
    count = values.shape[1]
    place = values.argsort(dim=1)[:, [(count - 1) // 2, count // 2]]
    return values.gather(1, place).mean(dim=1), place


def ratio(distance: Tensor, spread: Tensor) -> Tensor:
    """Distance over spread, where nothing over nothing is nothing."""
    return torch.where(distance == 0, 0.0, distance / spread)
