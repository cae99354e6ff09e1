"""The terms of L_int, each a mean over the mini-batch of one number an image or, for the diversity, of the attributes; their weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..arrays import Attributes, Images, Logits, PerImage, Scalar
from ..classifier.adapter import OutputKind
from ..errors import ConfigurationError
from ..measures import reconstruction_error
from ..processes import batch_mean
from .defaults import known


def entropy(values: Tensor) -> PerImage:
    """E(v) = -Σ p log p with p = softmax(v), natural logarithm, over the last axis: (…, J) → (…). In [0, log J]."""
    log_probabilities = values.log_softmax(dim=-1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=-1)


def output_fidelity(kind: OutputKind, classifier_logits: Logits, interpreter_logits: Logits, temperature: float = 1.0) -> PerImage:
    """T² H(p_f, p_g) at temperature T, one an image, the classifier's logits detached (by design too); L_of is its mean.

    Its floor is T² times f's own entropy. The factor keeps the gradient's size (Hinton, Vinyals, Dean 2015, section 2.1).
    """
    f, g = classifier_logits.detach() / temperature, interpreter_logits / temperature
    return temperature**2 * kind.cross_entropy(f, g)


def output_fidelity_as_printed(
    kind: OutputKind, classifier_logits: Logits, interpreter_logits: Logits, temperature: float = 1.0
) -> PerImage:
    """The same in the paper's printed order, H(p_g, p_f). Linear in p_g for a detached f, so its optimum is one-hot: degenerate."""
    f, g = classifier_logits.detach() / temperature, interpreter_logits / temperature
    return temperature**2 * kind.cross_entropy(g, f)


def absolute_error(reconstruction: Images, images: Images) -> PerImage:
    """Mean over channels and pixels of |d(Φ(x)) - x|, one an image."""
    return (reconstruction - images).abs().mean(dim=(1, 2, 3))


TARGETS: dict[str, Callable[[OutputKind, Logits, Logits, float], PerImage]] = {
    "classifier": output_fidelity,
    "interpreter": output_fidelity_as_printed,
}
RECONSTRUCTION_LOSSES: dict[str, Callable[[Images, Images], PerImage]] = {"l2": reconstruction_error, "l1": absolute_error}
LETTERS = ("beta", "gamma", "delta", "zeta", "mu", "eta")


@dataclass(frozen=True)
class LossWeights:
    """L_int = β L_of + γ L_if + δ (ζ [mean E(Φ) - μ E(mean Φ)] + η mean|φ|), in the paper's letters.

    Attributes:
        target: whose distribution L_of is measured against: "classifier" (H(p_f, p_g)) or "interpreter", the printed and degenerate order.
        reconstruction: "l2" or "l1" (the authors for CIFAR-10).
        eta: ``None``: 0.2 for small images, 0.05 for photographs.
        temperature: at which L_of compares p_f and p_g. Above 1 the unlikely classes count too: g follows f's errors better, with more
            attributes an explanation (``docs/training.md``). ``None``: 2 for small images, 1 for photographs.
    """

    beta: float = 2.0
    gamma: float = 1.0
    delta: float = 1.0
    zeta: float = 0.1
    mu: float = 1.2
    eta: float | None = None
    target: str = "classifier"
    reconstruction: str = "l2"
    temperature: float | None = None

    def __post_init__(self) -> None:
        negative = {name: value for name, value in self.numbers().items() if value is not None and not value >= 0}
        if negative:
            raise ConfigurationError(f"loss weights must be numbers of at least 0, got {negative}")
        if self.temperature is not None and not self.temperature > 0:
            raise ConfigurationError(f"temperature must be positive, got {self.temperature}")
        if self.target not in TARGETS or self.reconstruction not in RECONSTRUCTION_LOSSES:
            raise ConfigurationError(
                f"target must be one of {sorted(TARGETS)} and reconstruction one of {sorted(RECONSTRUCTION_LOSSES)}, "
                f"got {self.target!r} and {self.reconstruction!r}"
            )

    def numbers(self) -> dict[str, float | None]:
        """The six weights by letter; ``None`` where it is left to the kind of fit."""
        return {name: getattr(self, name) for name in LETTERS}


class LossTerms(NamedTuple):
    """All terms of one mini-batch, unweighted, and the weighted total."""

    total: Scalar
    output_fidelity: Scalar
    input_fidelity: Scalar
    entropy: Scalar  # mean_b E(Φ(x))
    mean_entropy: Scalar  # E(mean_b Φ(x)), to be maximised
    l1: Scalar  # mean_{b,j} |φ_j|


def interpretability_loss(
    kind: OutputKind,
    weights: LossWeights,
    *,
    attributes: Attributes,
    interpreter_logits: Logits,
    classifier_logits: Logits,
    reconstruction: Images,
    target: Images,
) -> LossTerms:
    """L_int of one mini-batch, over all processes. Every term is computed in every step, with weight 0 before it starts."""
    fidelity = TARGETS[weights.target](kind, classifier_logits, interpreter_logits, known(weights.temperature))
    error = RECONSTRUCTION_LOSSES[weights.reconstruction](reconstruction, target)
    columns = torch.column_stack([fidelity, error, entropy(attributes), attributes.abs().mean(dim=1), attributes])
    means = batch_mean(columns)
    (mean_fidelity, mean_error, concise, l1), diverse = means[:4], entropy(means[None, 4:]).mean()
    penalty = weights.zeta * (concise - weights.mu * diverse) + known(weights.eta) * l1
    total = weights.beta * mean_fidelity + weights.gamma * mean_error + weights.delta * penalty
    return LossTerms(total, mean_fidelity, mean_error, concise, diverse, l1)


def first_non_finite(terms: LossTerms) -> str | None:
    """The name of the first term that is NaN or infinite, the total last."""
    named = {**terms._asdict(), "total": terms.total}
    order = [*(name for name in named if name != "total"), "total"]
    return next((name for name in order if not torch.isfinite(named[name])), None)
