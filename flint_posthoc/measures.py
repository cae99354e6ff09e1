"""The paper's quantities as pure functions of tensors: contributions, relevance, conciseness, alive and duplicate attributes; ranks too.

Letters as in docs/method.md: φ attributes (b, J), W weight (C, J), b bias (C,), α contributions, r relevance.
Nothing here loops over samples; what runs over a data set is returned as sums that can be added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .arrays import Attributes, Bias, ClassIndex, Contributions, Images, Logits, PerAttributeFlag, PerImage, PerImageFlag, Relevance, Weight
from .errors import ConfigurationError

PAIR_THRESHOLD = 0.1  # r_{j,c} above which an attribute counts for a class (the paper's)
SHOWN_TAU = 2.0  # of the conciseness that tables show
RELEVANT = 0.2  # |r| above this: the attribute matters for that sample
SAMPLES_PER_RELEVANT = 1000  # alive: relevant on at least one sample in so many
DUPLICATE_CORRELATION = 0.95
_SMALL_MAP = 32 * 32  # pixels up to which one matrix for both axes is faster than one for each
_CONSTANT = 1e-12  # a variance below this share of the second moment is rounding, not variation
_WIDEST_FLOAT = {"mps": torch.float32}  # devices without float64

Counts = Int[Tensor, " b"]
PerAttributeCount = Int[Tensor, " attributes"]
Correlation = Float[Tensor, "attributes attributes"]
Rows = Float[Tensor, "*rows n"]
PerRow = Float[Tensor, "*rows"]


def contributions(attributes: Attributes, weight: Weight, classes: ClassIndex) -> Contributions:
    """α_{j,c,x} = φ_j(x) W_{c,j} for one class c an image; the bias takes no part. ``classes`` are in [0, C)."""
    return attributes * weight[classes.long()]


def relevance(contributions: Contributions) -> Relevance:
    """r_{j,x} = α_j / max_i |α_i|, in [-1, 1]; a row whose α are all 0 stays 0."""
    peak = contributions.abs().amax(dim=1, keepdim=True)
    return contributions / torch.where(peak == 0, 1, peak)


def explained(contributions: Contributions) -> PerImageFlag:
    """Where some α is not 0. The other samples are *unexplained* and left out of means."""
    return (contributions != 0).any(dim=1)


def bias_share(contributions: Contributions, bias_of_class: PerImage) -> PerImage:
    """|b_ĉ| / (|b_ĉ| + Σ_j |α_j|), in [0, 1]: how much of the evidence the attributes do not carry. 0 where both are 0."""
    bias = bias_of_class.abs()
    total = bias + contributions.abs().sum(dim=1)
    return bias / torch.where(total == 0, 1, total)


def absolute_conciseness(relevance: Relevance, tau: float) -> Counts:
    """The number of j with |r_j| > 1/τ, one a sample; CNS_τ is the mean over explained ones. Raises ``ConfigurationError`` unless τ > 0."""
    return signed_conciseness(relevance.abs(), tau)


def signed_conciseness(relevance: Relevance, tau: float) -> Counts:
    """The number of j with r_j > 1/τ, the form that the paper prints. Raises ``ConfigurationError`` unless τ > 0."""
    if not tau > 0:
        raise ConfigurationError(f"conciseness needs τ > 0, got {tau}")
    return (relevance > 1 / tau).sum(dim=1)


def class_centred(weight: Weight, bias: Bias) -> tuple[Weight, Bias]:
    """h with Σ_c W_{c,j} = 0 and Σ_c b_c = 0: the same softmax, and a relevance without an arbitrary k_j added to every W_{c,j}."""
    return weight - weight.mean(dim=0), bias - bias.mean()


class RelevanceSums(NamedTuple):
    """Summands of the global relevance r_{j,c}: divide ``sum`` by ``counts``; where a count is 0 there is no r_{j,c}."""

    sum: Float[Tensor, "attributes classes"]
    counts: Int[Tensor, " classes"]


def global_relevance_sums(relevance: Relevance, explained_class: ClassIndex, num_classes: int) -> RelevanceSums:
    """Sums of r_{j,x} over the samples of each explained class, float64. Unexplained samples (r = 0 for all j) are left out.

    A product with a one-hot matrix rather than a scatter, which would add in a random order on CUDA.
    """
    members = F.one_hot(explained_class.long(), num_classes) * (relevance != 0).any(dim=1, keepdim=True)
    return RelevanceSums(_wide(relevance).T @ _wide(members), members.sum(dim=0))


@dataclass(frozen=True)
class AttributeMoments:
    """First and second moments of attributes, float64; those of two batches add up to those of both.

    Attributes:
        count: samples seen.
        sum: Σ_x φ_j(x), (J,).
        products: Σ_x φ_i(x) φ_j(x), (J, J).
    """

    count: int
    sum: Float[Tensor, " attributes"]
    products: Correlation

    def __add__(self, other: AttributeMoments) -> AttributeMoments:
        return AttributeMoments(self.count + other.count, self.sum + other.sum, self.products + other.products)

    def correlation(self) -> Correlation:
        """Pearson's correlation in [-1, 1]. An attribute that never varies has correlation 0 with all, itself included."""
        samples = max(self.count, 1)
        mean, second = self.sum / samples, self.products / samples
        covariance = second - torch.outer(mean, mean)
        varies = covariance.diagonal() > _CONSTANT * second.diagonal()
        scale = torch.where(varies, covariance.diagonal().clamp_min(0).sqrt().reciprocal(), 0)
        return (covariance * torch.outer(scale, scale)).clamp(-1, 1)


def attribute_moments(attributes: Attributes) -> AttributeMoments:
    """The moments of one batch, to be added up over batches."""
    wide = _wide(attributes)
    return AttributeMoments(len(wide), wide.sum(dim=0), wide.T @ wide)


def relevant_counts(relevance: Relevance) -> PerAttributeCount:
    """On how many samples |r_j| > 0.2, one an attribute."""
    return (relevance.abs() > RELEVANT).sum(dim=0)


def fired_counts(attributes: Attributes) -> PerAttributeCount:
    """On how many samples φ_j > 0, one an attribute."""
    return (attributes > 0).sum(dim=0)


@dataclass(frozen=True)
class AttributeStatus:
    """What became of each of the J attributes: ``live``, ``duplicate`` or ``dead``, exactly one of them.

    ``never_fires`` (φ_j = 0 on every sample) is the part of ``dead`` that no data reaches at all.
    """

    live: PerAttributeFlag
    duplicate: PerAttributeFlag
    dead: PerAttributeFlag
    never_fires: PerAttributeFlag


def classify_attributes(
    relevant_counts: PerAttributeCount, samples: int, correlation: Correlation, fired_counts: PerAttributeCount
) -> AttributeStatus:
    """Sort attributes by docs/method.md: alive where |r_j| > 0.2 on at least 0.1 % of ``samples``, otherwise dead.

    Of alive attributes that correlate above 0.95 the one relevant on most samples stays live (ties: the lower index),
    and those that correlate with one that stays are duplicates.
    """
    alive = (relevant_counts * SAMPLES_PER_RELEVANT >= samples) & (relevant_counts > 0)
    live = torch.zeros_like(alive)
    for index in relevant_counts.argsort(descending=True, stable=True).tolist():
        live[index] = alive[index] & ~(live & (correlation[index] > DUPLICATE_CORRELATION)).any()
    return AttributeStatus(live, alive & ~live, ~alive, fired_counts == 0)


def among_first(logits: Logits, classes: ClassIndex, depths: Sequence[int]) -> Bool[Tensor, "b depths"]:
    """Whether the class of an image is among the k of largest logits, a column each k of ``depths``."""
    order = logits.topk(min(max(depths), logits.shape[1]), dim=1).indices
    return torch.stack([(order[:, :k] == classes[:, None]).any(dim=1) for k in depths], dim=1)


def reconstruction_error(reconstruction: Images, images: Images) -> PerImage:
    """Mean over channels and pixels of (d(Φ(x)) - x)², one an image: L_if before its mean over the batch."""
    return (reconstruction - images).square().mean(dim=(1, 2, 3))


def area_resize(images: Images, size: tuple[int, int]) -> Float[Tensor, "b image_channels _ _"]:
    """Images or maps averaged by area to (height, width), as adaptive average pooling does; the very same tensor where it has that size.

    Written as matrix products: on a CPU up to twenty times as fast as ``F.adaptive_avg_pool2d``, forward and backward.
    """
    height, width = images.shape[2:]
    if (height, width) == tuple(size):
        return images
    rows, columns = _averaging(height, size[0], images), _averaging(width, size[1], images)
    if height * width <= _SMALL_MAP:
        return (images.flatten(2) @ torch.kron(rows, columns)).unflatten(2, size)
    return ((images @ columns).transpose(2, 3) @ rows).transpose(2, 3)


def _averaging(length: int, cells: int, like: Tensor) -> Float[Tensor, "length cells"]:
    """The matrix whose columns average the stretches floor(i·length/cells) to ceil((i+1)·length/cells)."""
    cell, place = torch.arange(cells), torch.arange(length)[:, None]
    inside = (place >= cell * length // cells) & (place < -(-(cell + 1) * length // cells))
    return (inside / inside.sum(dim=0)).to(like)


def ranks(values: Rows) -> Rows:
    """Along the last axis: 1 for the smallest; equal values share the mean of their ranks. float64."""
    ordered, origin = values.sort(dim=-1)
    place = torch.arange(1, values.shape[-1] + 1, device=values.device)
    rises = ordered[..., 1:] != ordered[..., :-1]
    first = torch.where(F.pad(rises, (1, 0), value=True), place, 0).cummax(dim=-1).values
    last = torch.where(F.pad(rises, (0, 1), value=True), place, len(place)).flip(-1).cummin(dim=-1).values.flip(-1)
    shared = _wide(first + last) / 2
    return shared.scatter(-1, origin, shared)


def pearson(one: Rows, other: Rows) -> PerRow:
    """The correlation along the last axis, in [-1, 1], float64; NaN where one of the two never varies."""
    first, second = (_wide(values) - _wide(values).mean(dim=-1, keepdim=True) for values in (one, other))
    scale = first.norm(dim=-1) * second.norm(dim=-1)
    return torch.where(scale > 0, (first * second).sum(dim=-1) / scale, torch.nan).clamp(-1, 1)


def spearman(one: Rows, other: Rows) -> PerRow:
    """The correlation of ranks along the last axis, in [-1, 1], float64; NaN where one of the two never varies."""
    return pearson(ranks(one), ranks(other))


def _wide(values: Tensor) -> Tensor:
    return values.to(_WIDEST_FLOAT.get(values.device.type, torch.float64))
