"""The mathematics of docs/method.md once more, slowly and obviously: Python floats and loops, arguments are nested lists or numpy arrays.

Nothing here imports flint_posthoc. Tests compare fast code with it; ``rows`` turns a tensor into what it takes.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

Vector = Sequence[float]
Matrix = Sequence[Sequence[float]]


def rows(tensor: Any) -> Any:
    """A tensor as nested lists of Python floats."""
    return tensor.detach().double().tolist()


def mean(values: Vector) -> float:
    return sum(values) / len(values)


def softmax(logits: Vector) -> list[float]:
    top = max(logits)
    powers = [math.exp(value - top) for value in logits]
    return [power / sum(powers) for power in powers]


def log_softmax(logits: Vector) -> list[float]:
    top = max(logits)
    log_sum = top + math.log(sum(math.exp(value - top) for value in logits))
    return [value - log_sum for value in logits]


def argmax(values: Vector) -> int:
    best = 0
    for index, value in enumerate(values):
        if value > values[best]:
            best = index
    return best


def entropy(values: Vector) -> float:
    """E(v) = -Σ p log p with p = softmax(v)."""
    return -sum(p * log_p for p, log_p in zip(softmax(values), log_softmax(values), strict=True))


def output_fidelity(f_logits: Matrix, g_logits: Matrix) -> float:
    """L_of = mean_b [ -Σ_c p_f log p_g ]."""
    return mean(
        [
            -sum(p_f * log_p_g for p_f, log_p_g in zip(softmax(f), log_softmax(g), strict=True))
            for f, g in zip(f_logits, g_logits, strict=True)
        ]
    )


def kl_divergence(f_logits: Matrix, g_logits: Matrix) -> float:
    """mean_b KL(p_f ‖ p_g) = mean_b Σ_c p_f (log p_f - log p_g)."""
    per_sample = []
    for f, g in zip(f_logits, g_logits, strict=True):
        terms = zip(softmax(f), log_softmax(f), log_softmax(g), strict=True)
        per_sample.append(sum(p_f * (log_p_f - log_p_g) for p_f, log_p_f, log_p_g in terms))
    return mean(per_sample)


def input_fidelity(reconstruction: Any, target: Any) -> float:
    """L_if = mean over batch, channels and pixels of (d(Φ(x)) - x)²; any equal nesting."""
    squares = [(one - other) ** 2 for one, other in zip(flattened(reconstruction), flattened(target), strict=True)]
    return mean(squares)


def flattened(nested: Any) -> list[float]:
    return [value for part in nested for value in flattened(part)] if isinstance(nested, list | tuple) else [nested]


def mean_attributes(attributes: Matrix) -> list[float]:
    return [mean([row[j] for row in attributes]) for j in range(len(attributes[0]))]


def conciseness_diversity(attributes: Matrix, zeta: float, mu: float, eta: float) -> float:
    """L_cd = ζ [ mean_b E(Φ(x)) - μ E(mean_b Φ(x)) ] + η mean_{b,j} |φ_j|."""
    conciseness = mean([entropy(row) for row in attributes])
    diversity = entropy(mean_attributes(attributes))
    l1 = mean([abs(value) for row in attributes for value in row])
    return zeta * (conciseness - mu * diversity) + eta * l1


def contributions(attributes: Matrix, weight: Matrix, classes: Sequence[int]) -> list[list[float]]:
    """α_{j,c,x} = φ_j(x) W_{c,j}."""
    return [[phi * weight[c][j] for j, phi in enumerate(row)] for row, c in zip(attributes, classes, strict=True)]


def relevance(alpha: Matrix) -> list[list[float]]:
    """r_{j,x} = α_j / max_i |α_i|; 0 where all α are 0."""
    result = []
    for row in alpha:
        peak = max(abs(value) for value in row)
        result.append([value / peak if peak > 0 else 0.0 for value in row])
    return result


def bias_share(alpha: Matrix, bias_of_class: Vector) -> list[float]:
    """|b_ĉ| / (|b_ĉ| + Σ |α|)."""
    result = []
    for row, bias in zip(alpha, bias_of_class, strict=True):
        total = abs(bias) + sum(abs(value) for value in row)
        result.append(abs(bias) / total if total > 0 else 0.0)
    return result


def absolute_conciseness(r: Matrix, tau: float) -> float | None:
    """CNS_τ: mean over explained samples of the number of j with |r_j| > 1/τ; ``None`` where no sample is explained."""
    counts = [sum(abs(value) > 1 / tau for value in row) for row in r if any(row)]
    return mean(counts) if counts else None


def signed_conciseness(r: Matrix, tau: float) -> float | None:
    """The same with r_j > 1/τ."""
    counts = [sum(value > 1 / tau for value in row) for row in r if any(row)]
    return mean(counts) if counts else None


def global_relevance(r: Matrix, explained_class: Sequence[int], num_classes: int) -> list[list[float]]:
    """r_{j,c}, (J, C): mean of r_{j,x} over explained samples of class c; NaN where there is none."""
    result = []
    for j in range(len(r[0])):
        of_classes = [
            [row[j] for row, c in zip(r, explained_class, strict=True) if c == wanted and any(row)] for wanted in range(num_classes)
        ]
        result.append([mean(values) if values else math.nan for values in of_classes])
    return result


def fidelity(f_logits: Matrix, g_logits: Matrix) -> float:
    """Share of samples with the same predicted class."""
    return mean([float(argmax(f) == argmax(g)) for f, g in zip(f_logits, g_logits, strict=True)])


def correlation(attributes: Matrix, i: int, j: int) -> float:
    """Pearson's correlation over samples; 0 where one of the two never varies."""
    ours, theirs = [row[i] for row in attributes], [row[j] for row in attributes]
    if len(set(ours)) == 1 or len(set(theirs)) == 1:
        return 0.0
    our_mean, their_mean = mean(ours), mean(theirs)
    covariance = sum((a - our_mean) * (b - their_mean) for a, b in zip(ours, theirs, strict=True))
    our_square = sum((a - our_mean) ** 2 for a in ours)
    their_square = sum((b - their_mean) ** 2 for b in theirs)
    return covariance / math.sqrt(our_square * their_square)


def ranks(values: Vector) -> list[float]:
    """1 for the smallest; equal values share the mean of their ranks."""
    return [1 + sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2 for value in values]


def rank_correlation(one: Vector, other: Vector) -> float:
    """Spearman's: Pearson's correlation of ranks; 0 where one never varies."""
    pairs = [[a, b] for a, b in zip(ranks(one), ranks(other), strict=True)]
    return correlation(pairs, 0, 1)


def alive(r: Matrix) -> list[int]:
    """The j with |r_{j,x}| > 0.2 on at least 0.1 % of samples."""
    counts = [sum(abs(row[j]) > 0.2 for row in r) for j in range(len(r[0]))]
    return [j for j, count in enumerate(counts) if count > 0 and count / len(r) >= 0.001 - 1e-12]


def duplicates(attributes: Matrix, r: Matrix) -> list[int]:
    """The alive j that correlate above 0.95 with an alive one that is kept; the one relevant more often is kept, then the lower index."""
    counts = {j: sum(abs(row[j]) > 0.2 for row in r) for j in alive(r)}
    kept: list[int] = []
    dropped: list[int] = []
    for j in sorted(counts, key=lambda index: (-counts[index], index)):
        twin = any(correlation(attributes, j, other) > 0.95 for other in kept)
        (dropped if twin else kept).append(j)
    return sorted(dropped)


# ---- attribution to pixels: networks here are torch modules, but nothing is hooked ----


class _GuidedRectifier(torch.autograd.Function):
    """ReLU whose derivative lets through what is positive on the way back and was positive on the way there (arXiv 1412.6806)."""

    @staticmethod
    def forward(context: Any, values: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(values)
        return values.clamp(min=0)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        (values,) = context.saved_tensors
        return gradient.clamp(min=0) * (values > 0)


class GuidedReLU(nn.Module):
    """What takes the place of every ``nn.ReLU`` in a copy of a network whose plain gradient is then guided backpropagation."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return _GuidedRectifier.apply(values)


def guide(module: nn.Module) -> nn.Module:
    """``module`` itself, with every ReLU in it replaced."""
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU):
            setattr(module, name, GuidedReLU())
        else:
            guide(child)
    return module


def occlusion(score: Callable[[torch.Tensor], float], image: torch.Tensor, baseline: torch.Tensor, side: int, stride: int) -> torch.Tensor:
    """(channels, H, W): the mean, over the patches that cover a pixel, of how much the score falls when a patch becomes the baseline."""
    fall, covered = torch.zeros_like(image), torch.zeros_like(image)
    whole = score(image)
    for top in places(image.shape[1], side, stride):
        for left in places(image.shape[2], side, stride):
            rows, columns = slice(top, top + side), slice(left, left + side)
            occluded = image.clone()
            occluded[:, rows, columns] = baseline[:, rows, columns]
            fall[:, rows, columns] += whole - score(occluded)
            covered[:, rows, columns] += 1
    return fall / covered


def places(length: int, side: int, stride: int) -> list[int]:
    """Where a patch begins; the last one may reach over the edge."""
    found = [0]
    while found[-1] + side < length:
        found.append(found[-1] + stride)
    return found


# ---- evaluation ----


def linear(row: Vector, weight: Matrix, bias: Vector) -> list[float]:
    """h: W φ + b."""
    return [b + sum(w * phi for w, phi in zip(weights, row, strict=True)) for weights, b in zip(weight, bias, strict=True)]


def swapped_fidelity(f_logits: Matrix, attributes: Matrix, weight: Matrix, bias: Vector, j: int) -> float:
    """The mean fidelity over all pairs of samples when one gets φ_j of the other: what shuffling φ_j expects."""
    hits = []
    for f, row in zip(f_logits, attributes, strict=True):
        for other in attributes:
            swapped = [other[i] if i == j else value for i, value in enumerate(row)]
            hits.append(float(argmax(f) == argmax(linear(swapped, weight, bias))))
    return mean(hits)


def auroc(score: Vector, positive: Sequence[bool]) -> float:
    """The share of (positive, negative) pairs in which the positive one scores higher, ties by half."""
    ours = [value for value, flag in zip(score, positive, strict=True) if flag]
    theirs = [value for value, flag in zip(score, positive, strict=True) if not flag]
    return mean([(a > b) + 0.5 * (a == b) for a in ours for b in theirs])


def median(values: Vector) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def depth_along(point: Vector, cloud: Matrix, direction: Vector) -> float:
    """Equation 1 of the paper for one direction instead of all."""
    projected = [sum(a * b for a, b in zip(row, direction, strict=True)) for row in cloud]
    middle = median(projected)
    spread = median([abs(value - middle) for value in projected])
    return 1 / (1 + abs(sum(a * b for a, b in zip(point, direction, strict=True)) - middle) / spread)
