"""Is the explanation any good? Every measure as sums over batches, reduced once at the end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..arrays import Attributes, ClassIndex, Logits, PerImageFlag, Weight
from ..classifier.adapter import OutputKind
from ..data import Data
from ..errors import EmptyDataError
from ..interpretation.classes import class_relevance_sums
from ..interpreter.fitted import FittedInterpreter, ReadBatch
from ..measures import (
    PAIR_THRESHOLD,
    AttributeMoments,
    absolute_conciseness,
    among_first,
    area_resize,
    attribute_moments,
    class_centred,
    classify_attributes,
    contributions,
    explained,
    fired_counts,
    reconstruction_error,
    relevance,
    relevant_counts,
    signed_conciseness,
)
from ..precision import autocast
from ..processes import gather, together
from ..splitting import own_part
from ..words import MISSING, number, percent, plain, with_notes

TAUS = (1.5, 2.0, 2.5, 3.0, 4.0, 5.0)  # of the paper's conciseness curves
TOP_KS = (2, 3, 4, 5)
CENTRED = "centred_"  # before the sums that a class-centred h would give


@dataclass(frozen=True)
class EvaluationSums:
    """Additive state: the sums of two halves of the data are the sums of the whole, so that several processes need one reduction."""

    counts: dict[str, Tensor] = field(default_factory=dict)
    moments: AttributeMoments | None = None

    def __add__(self, other: EvaluationSums) -> EvaluationSums:
        if self.moments is None or other.moments is None:
            return other if self.moments is None else self
        return EvaluationSums({name: value + other.counts[name] for name, value in self.counts.items()}, self.moments + other.moments)


def batch_sums(fitted: FittedInterpreter, batch: ReadBatch) -> EvaluationSums:
    """The sums of one batch, in float64 on the CPU."""
    kind, head = fitted.view.kind, fitted.interpreter.head
    f, g = kind.prediction(batch.classifier_logits), kind.prediction(batch.interpreter_logits)
    agrees = kind.agreement(batch.classifier_logits, batch.interpreter_logits)
    divergence = kind.cross_entropy(batch.classifier_logits, batch.interpreter_logits) - kind.entropy(batch.classifier_logits)
    counts = {
        "samples": torch.tensor(len(f)),
        "agreeing": agrees.sum(),
        "agreeing_inside": batch.agrees.sum(),
        "inside": batch.inside.sum(),
        "divergence": divergence.sum(),
        "fired": fired_counts(batch.attributes),
        **_relevance_sums(kind, batch.attributes, head.weight, batch.interpreter_logits),
        **_reconstruction_sums(fitted, batch, f),
        **_label_counts(f, g, agrees, batch.labels),
    }
    if kind.one_label:
        counts["top_k"] = among_first(batch.interpreter_logits, f, TOP_KS).sum(dim=0)
    if kind.shift_invariant and not fitted.interpreter.config.centre_head:
        centred = _relevance_sums(kind, batch.attributes, class_centred(head.weight, head.bias)[0], batch.interpreter_logits)
        counts |= {CENTRED + name: value for name, value in centred.items()}
    return EvaluationSums({name: value.cpu().double() for name, value in counts.items()}, attribute_moments(batch.attributes.cpu()))


def _relevance_sums(kind: OutputKind, attributes: Attributes, weight: Weight, logits: Logits) -> dict[str, Tensor]:
    alpha = contributions(attributes, weight, kind.prediction(logits))
    counted = explained(alpha)
    r = relevance(alpha)[counted]
    of_classes = class_relevance_sums(kind, attributes, weight, logits)
    return {
        "explained": counted.sum(),
        "absolute": torch.stack([absolute_conciseness(r, tau).sum() for tau in TAUS]),
        "signed": torch.stack([signed_conciseness(r, tau).sum() for tau in TAUS]),
        "relevant": relevant_counts(r),
        "relevance": of_classes.sum,
        "relevance_counts": of_classes.counts,
    }


def _reconstruction_sums(fitted: FittedInterpreter, batch: ReadBatch, f: ClassIndex) -> dict[str, Tensor]:
    """Squared errors of d(Φ(x)) and of the class-mean image (by label, or by f), on [0, 1] pixels at the decoder's resolution."""
    pixels = fitted.normalization.denormalize
    with autocast(fitted.device, False):
        target = pixels(area_resize(batch.images, fitted.interpreter.decoder.resolution))
    class_means = fitted.class_means[f if batch.labels is None else batch.labels]
    guesses = {"reconstruction": fitted.redrawn(batch.attributes), "class_mean": pixels(class_means)}
    return {name: reconstruction_error(guess, target).sum() for name, guess in guesses.items()}


def _label_counts(f: ClassIndex, g: ClassIndex, agrees: PerImageFlag, labels: Tensor | None) -> dict[str, Tensor]:
    zero = torch.tensor(0)
    if labels is None:
        return dict.fromkeys(("labelled", "f_correct", "g_correct", "agreeing_on_errors", "agreeing_on_correct"), zero)
    correct = f == labels
    return {
        "labelled": torch.tensor(len(f)),
        "f_correct": correct.sum(),
        "g_correct": (g == labels).sum(),
        "agreeing_on_errors": (agrees & ~correct).sum(),
        "agreeing_on_correct": (agrees & correct).sum(),
    }


@dataclass(frozen=True)
class ClassCentred:
    """What would be measured if h, which is kept as it was learnt, were stored class-centred: relevance without an arbitrary part."""

    conciseness: dict[float, dict[str, float]]
    live_attributes: tuple[int, ...]


@dataclass(frozen=True)
class Evaluation:
    """How far to trust the explanations, over one set of data. Shares are in [0, 1]; ``None`` where labels are needed and there are none.

    Attributes:
        fidelity: share of images on which g's class is f's (f over the explained classes).
        errors: images that f has wrong by their labels.
        fidelity_on_errors, fidelity_on_correct: fidelity on those, and where f is right.
        inside_classes: share of images whose unrestricted f prediction is an explained class; fidelity_inside: that agree and are inside.
        top_k_fidelity: by k the share of images whose class by f is among g's first k; empty where an image may have several labels.
        conciseness: CNS by τ as {"absolute": mean number of attributes with |r| > 1/τ, "signed": with r > 1/τ} over explained images.
        reconstruction_error: mean squared error of d(Φ(x)) on [0, 1] pixels.
        relative_reconstruction_error: the same over that of the class-mean image (class by label, or by f without labels).
        live_attributes, duplicate_attributes, dead_attributes: numbers of the J attributes; never_fires is a part of the dead ones.
        classes_per_attribute: for each attribute the number of classes with r_{j,c} > 0.1.
        unexplained: share of images to which no attribute contributes.
        class_centred: where h is not (presets of the paper and its authors), else ``None``.
    """

    samples: int
    num_attributes: int
    classifier_accuracy: float | None
    interpreter_accuracy: float | None
    fidelity: float
    errors: int
    fidelity_on_errors: float | None
    fidelity_on_correct: float | None
    inside_classes: float
    fidelity_inside: float
    top_k_fidelity: dict[int, float]
    kl_divergence: float
    conciseness: dict[float, dict[str, float]]
    reconstruction_error: float
    relative_reconstruction_error: float
    live_attributes: tuple[int, ...]
    duplicate_attributes: tuple[int, ...]
    dead_attributes: tuple[int, ...]
    never_fires: tuple[int, ...]
    classes_per_attribute: tuple[int, ...]
    unexplained: float
    notes: tuple[str, ...] = ()
    class_centred: ClassCentred | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; the conciseness of no explanation at all is ``None``."""
        top_k = {str(k): share for k, share in self.top_k_fidelity.items()}
        centred = None
        if self.class_centred is not None:
            centred = asdict(self.class_centred) | {"conciseness": plain(self.class_centred.conciseness)}
        return asdict(self) | {"top_k_fidelity": top_k, "conciseness": plain(self.conciseness), "class_centred": centred}

    def rows(self) -> list[tuple[str, str, str]]:
        """(measure, figure, what it means), in the order in which a reader should see them."""
        rows = [*self._accuracy_rows(), *self._fidelity_rows(), *self._attribute_rows()]
        return [row for row in rows if row[1] != MISSING]

    def _accuracy_rows(self) -> Iterable[tuple[str, str, str]]:
        yield "images", f"{self.samples:,}", "that these figures were measured on"
        yield "accuracy of the classifier", percent(self.classifier_accuracy), "f against the labels"
        yield "accuracy of the interpreter", percent(self.interpreter_accuracy), "g against the labels, if it were used as the model"
        if self.inside_classes < 1:
            yield (
                "predictions inside the classes",
                percent(self.inside_classes),
                "f's unrestricted class is explained; elsewhere nothing is",
            )

    def _fidelity_rows(self) -> Iterable[tuple[str, str, str]]:
        yield "fidelity", percent(self.fidelity), "of the images are decided alike by interpreter and classifier"
        harder = f"of {self.errors:,} images, the harder test: does g repeat f's mistakes too?"
        yield "fidelity on the classifier's errors", percent(self.fidelity_on_errors), harder
        yield "fidelity where it is right", percent(self.fidelity_on_correct), "easier, since two good models agree anyway"
        for k, share in self.top_k_fidelity.items():
            yield f"top-{k} fidelity", percent(share), f"f's class is among the interpreter's first {k}"
        yield "KL divergence", f"{self.kl_divergence:.4f}", "nats between the two predicted distributions; 0 is a perfect copy"

    def _attribute_rows(self) -> Iterable[tuple[str, str, str]]:
        for tau in (2.0, 5.0):
            counts = self.conciseness[tau]
            limit, signed = f"{1 / tau:.1f}", f"{counts['signed']:.2f}"
            meaning = f"attributes an explanation with |relevance| > {limit} ({signed} with r > {limit}); fewer is easier to read"
            yield f"conciseness, τ = {tau:.0f}", number(counts["absolute"]), meaning
        used, wasted = (
            f"{len(self.live_attributes)} of {self.num_attributes}",
            f"{len(self.duplicate_attributes)}, {len(self.dead_attributes)}",
        )
        yield "attributes in use", used, "matter for at least 0.1 % of the images and double no other"
        if self.class_centred is not None:
            short, long = (number(self.class_centred.conciseness[tau]["absolute"]) for tau in (2.0, 5.0))
            meaning = f"conciseness at τ = 2 and 5 with a class-centred h, and {len(self.class_centred.live_attributes)} attributes in use"
            yield "class-centred", f"{short}, {long}", meaning
        yield "duplicates, dead", wasted, f"double another one; never matter ({len(self.never_fires)} never even fire)"
        yield (
            "classes an attribute serves",
            f"{_mean(self.classes_per_attribute, self.live_attributes):.1f}",
            "on average, of those in use (r > 0.1)",
        )
        relative = f"mean squared, on [0, 1] pixels; {self.relative_reconstruction_error:.2f} of what the mean image of the class gets"
        yield "reconstruction error", f"{self.reconstruction_error:.4f}", relative
        yield "unexplained", percent(self.unexplained), "of the images have no attribute in their explanation"

    def __str__(self) -> str:
        rows = self.rows()
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        lines = [f"{name:<{widths[0]}}  {figure:>{widths[1]}}  {meaning}" for name, figure, meaning in rows]
        return with_notes(lines, self.notes)


def _mean(values: Sequence[int], selected: Sequence[int]) -> float:
    return sum(values[index] for index in selected) / max(1, len(selected))


def conclude(sums: EvaluationSums, notes: tuple[str, ...] = ()) -> Evaluation:
    """The figures from the sums over all data. Raises ``EmptyDataError`` for sums over nothing."""
    counts = sums.counts
    if sums.moments is None:
        raise EmptyDataError("the data held no batch, there is nothing to evaluate")
    samples, explained_images = float(counts["samples"]), float(counts["explained"])
    correlation, fired = sums.moments.correlation(), counts["fired"].long()
    status = classify_attributes(counts["relevant"].long(), int(samples), correlation, fired)
    global_relevance = counts["relevance"] / counts["relevance_counts"]
    return Evaluation(
        samples=int(samples),
        num_attributes=len(counts["fired"]),
        errors=int(counts["labelled"] - counts["f_correct"]),
        **_label_shares(counts),
        fidelity=float(counts["agreeing"]) / samples,
        inside_classes=float(counts["inside"]) / samples,
        fidelity_inside=float(counts["agreeing_inside"]) / samples,
        top_k_fidelity=_top_k_shares(counts, samples),
        kl_divergence=float(counts["divergence"]) / samples,
        conciseness=_conciseness(counts, explained_images),
        reconstruction_error=float(counts["reconstruction"]) / samples,
        relative_reconstruction_error=float(counts["reconstruction"]) / max(float(counts["class_mean"]), 1e-12),
        live_attributes=_indices(status.live),
        duplicate_attributes=_indices(status.duplicate),
        dead_attributes=_indices(status.dead),
        never_fires=_indices(status.never_fires),
        classes_per_attribute=tuple((global_relevance > PAIR_THRESHOLD).sum(dim=1).tolist()),
        unexplained=1 - explained_images / samples,
        notes=notes,
        class_centred=_class_centred(counts, int(samples), correlation, fired),
    )


def _class_centred(counts: dict[str, Tensor], samples: int, correlation: Tensor, fired: Tensor) -> ClassCentred | None:
    found = {name.removeprefix(CENTRED): value for name, value in counts.items() if name.startswith(CENTRED)}
    if not found:
        return None
    live = classify_attributes(found["relevant"].long(), samples, correlation, fired).live
    return ClassCentred(_conciseness(found, float(found["explained"])), _indices(live))


def _top_k_shares(counts: dict[str, Tensor], samples: float) -> dict[int, float]:
    if "top_k" not in counts:  # of several labels an image
        return {}
    shares = zip(TOP_KS, (counts["top_k"] / samples).tolist(), strict=True)
    return {k: share for k, share in shares if k < len(counts["relevance_counts"])}


def _conciseness(counts: dict[str, Tensor], explained_images: float) -> dict[float, dict[str, float]]:
    means = (
        zip(TAUS, (counts["absolute"] / explained_images).tolist(), (counts["signed"] / explained_images).tolist(), strict=True)
        if explained_images
        else ((tau, math.nan, math.nan) for tau in TAUS)
    )
    return {tau: {"absolute": absolute, "signed": signed} for tau, absolute, signed in means}


def _label_shares(counts: dict[str, Tensor]) -> dict[str, float | None]:
    labelled, correct = float(counts["labelled"]), float(counts["f_correct"])
    parts = {
        "classifier_accuracy": ("f_correct", labelled),
        "interpreter_accuracy": ("g_correct", labelled),
        "fidelity_on_errors": ("agreeing_on_errors", labelled - correct),
        "fidelity_on_correct": ("agreeing_on_correct", correct),
    }
    return {name: float(counts[key]) / whole if whole else None for name, (key, whole) in parts.items()}


def _indices(flags: Tensor) -> tuple[int, ...]:
    return tuple(flags.nonzero().flatten().tolist())


@torch.no_grad()
def evaluate(fitted: FittedInterpreter, data: Data) -> Evaluation:
    """All measures over ``data``, in one pass and bounded memory; by several processes together, each image once.

    Raises ``EmptyDataError`` where it holds no batch.
    """
    own = EvaluationSums()
    with together():
        for batch in fitted.read_own(own_part(data)):
            own = own + batch_sums(fitted, batch)
        total = sum(gather(own), EvaluationSums())
    return conclude(total, fitted.notes)
