"""The terms of L_int, each a mean over what docs/method.md says, and their weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..arrays import Attributes, Images, Logits, PerImage, Scalar
from ..classifier.adapter import OutputKind
from ..errors import ConfigurationError


def entropy(values: Tensor) -> PerImage:
    """E(v) = -Σ p log p with p = softmax(v), natural logarithm, over the last axis: (…, J) → (…). In [0, log J]."""
    log_probabilities = values.log_softmax(dim=-1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=-1)


def output_fidelity(kind: OutputKind, classifier_logits: Logits, interpreter_logits: Logits) -> Scalar:
    """L_of = mean_b H(p_f, p_g), with the classifier's logits detached (in joint mode too). Its floor is f's own entropy."""
    return kind.cross_entropy(classifier_logits.detach(), interpreter_logits).mean()


def output_fidelity_as_printed(kind: OutputKind, classifier_logits: Logits, interpreter_logits: Logits) -> Scalar:
    """L_of in the paper's printed order, mean_b H(p_g, p_f). Linear in p_g for a detached f, so its optimum is one-hot: degenerate."""
    return kind.cross_entropy(interpreter_logits, classifier_logits.detach()).mean()


TARGETS: dict[str, Callable[[OutputKind, Logits, Logits], Scalar]] = {
    "classifier": output_fidelity,
    "interpreter": output_fidelity_as_printed,
}
RECONSTRUCTION_LOSSES: dict[str, Callable[[Images, Images], Scalar]] = {"l2": F.mse_loss, "l1": F.l1_loss}


class AttributePenalties(NamedTuple):
    """The four parts of L_cd before their weights."""

    entropy: Scalar  # mean_b E(Φ(x))
    mean_entropy: Scalar  # E(mean_b Φ(x)), to be maximised
    l1: Scalar  # mean_{b,j} |φ_j|


def attribute_penalties(attributes: Attributes) -> AttributePenalties:
    """The parts of L_cd over one (global) mini-batch."""
    return AttributePenalties(entropy(attributes).mean(), entropy(attributes.mean(dim=0, keepdim=True)).mean(), attributes.abs().mean())


@dataclass(frozen=True)
class LossWeights:
    """L_int = β L_of + γ L_if + δ (ζ [mean E(Φ) - μ E(mean Φ)] + η mean|φ|), in the paper's letters.

    Attributes:
        target: whose distribution L_of is measured against: "classifier" (H(p_f, p_g)) or "interpreter", the printed and degenerate order.
        reconstruction: "l2" or "l1" (the authors for CIFAR-10).
    """

    beta: float = 2.0
    gamma: float = 1.0
    delta: float = 1.0
    zeta: float = 0.1
    mu: float = 1.2
    eta: float = 0.05
    target: str = "classifier"
    reconstruction: str = "l2"

    def __post_init__(self) -> None:
        negative = {name: value for name, value in self.numbers().items() if not value >= 0}
        if negative:
            raise ConfigurationError(f"loss weights must be numbers of at least 0, got {negative}")
        if self.target not in TARGETS or self.reconstruction not in RECONSTRUCTION_LOSSES:
            raise ConfigurationError(
                f"target must be one of {sorted(TARGETS)} and reconstruction one of {sorted(RECONSTRUCTION_LOSSES)}, "
                f"got {self.target!r} and {self.reconstruction!r}"
            )

    def numbers(self) -> dict[str, float]:
        """The six numeric weights by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.type == "float"}


class LossTerms(NamedTuple):
    """All terms of one mini-batch, unweighted, and the weighted total."""

    total: Scalar
    output_fidelity: Scalar
    input_fidelity: Scalar
    entropy: Scalar
    mean_entropy: Scalar
    l1: Scalar


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
    """L_int of one mini-batch. Every term is computed in every step, with weight 0 before it starts."""
    fidelity = TARGETS[weights.target](kind, classifier_logits, interpreter_logits)
    reconstruction_error = RECONSTRUCTION_LOSSES[weights.reconstruction](reconstruction, target)
    parts = attribute_penalties(attributes)
    penalty = weights.zeta * (parts.entropy - weights.mu * parts.mean_entropy) + weights.eta * parts.l1
    total = weights.beta * fidelity + weights.gamma * reconstruction_error + weights.delta * penalty
    return LossTerms(total, fidelity, reconstruction_error, *parts)


def first_non_finite(terms: LossTerms) -> str | None:
    """The name of the first term that is NaN or infinite, the total last."""
    named = {**terms._asdict(), "total": terms.total}
    order = [*(name for name in named if name != "total"), "total"]
    return next((name for name in order if not torch.isfinite(named[name])), None)
