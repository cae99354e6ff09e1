"""How alike two maps over pixels are: structural similarity, and Spearman's correlation of ranks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ...arrays import PerImage
from ...measures import spearman

WINDOW = 7  # pixels of SSIM's square window, as in scikit-image

Heat = Float[Tensor, "b height width"]


def strength(maps: Float[Tensor, "b _ height width"]) -> Heat:
    """Absolute maps with channels summed, each scaled to at most 1; all zero where the map is."""
    heat = maps.nan_to_num().sum(dim=1).abs()
    peak = heat.amax(dim=(1, 2), keepdim=True)
    return heat / torch.where(peak > 0, peak, 1)


def rank_correlation(one: Heat, other: Heat) -> PerImage:
    """Spearman's of the pixels of each pair of maps; 0 where one of them never varies."""
    return spearman(one.flatten(1), other.flatten(1)).nan_to_num(0).float()


def ssim(one: Heat, other: Heat) -> PerImage:
    """Mean structural similarity of maps in [0, 1] (Wang et al., 2004): square windows, C1 = 0.01², C2 = 0.03²."""
    window = min(WINDOW, *one.shape[1:])
    means = [_smoothed(maps, window) for maps in (one, other)]
    variances = [_smoothed(maps**2, window) - mean**2 for maps, mean in zip((one, other), means, strict=True)]
    covariance = _smoothed(one * other, window) - means[0] * means[1]
    luminance = (2 * means[0] * means[1] + 1e-4) / (means[0] ** 2 + means[1] ** 2 + 1e-4)
    structure = (2 * covariance + 9e-4) / (variances[0] + variances[1] + 9e-4)
    return (luminance * structure).mean(dim=(1, 2))


def _smoothed(maps: Heat, window: int) -> Tensor:
    return F.avg_pool2d(maps[:, None], window, stride=1)[:, 0]
