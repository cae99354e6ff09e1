"""Which attributes made this prediction, and which make up a class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arrays import Attributes, Bias, ClassIndex, Contributions, Images, Logits, Members, PerImage, PerImageFlag, Relevance, Weight
from ..classifier.adapter import OutputKind
from ..data import Data
from ..errors import ClassSelectionError, ConfigurationError
from ..figures import Figure, as_html, local_interpretation, relevance_heatmap, shorten
from ..interpreter.fitted import FittedInterpreter, ReadBatch
from ..measures import RelevanceSums, bias_share, contributions, explained, global_relevance_sums, relevance
from ..memory import said_in_words
from ..processes import rank, sum_, together
from ..splitting import own_part
from .reservoir import RelevanceReservoir

UNNUMBERED = 2**40  # images between the first numbers of two processes whose streams come in parts
SHOWN_IN_NOTEBOOK = 4  # images of a local interpretation that are drawn at once


class AttributeRelevance(NamedTuple):
    """One attribute's part in one prediction."""

    attribute: int
    relevance: float  # r_{j,x}, in [-1, 1]
    contribution: float  # α_{j,c,x}, in logits
    activation: float  # φ_j(x) ≥ 0


@dataclass(frozen=True)
class LocalInterpretation:
    """Why these predictions? One row an image; class axes are positions in ``class_ids``.

    Attributes:
        pixels: (B, channels, H, W) in [0, 1], for pictures.
        attributes: φ (B, J).  contributions: α_{j,c,x} (B, J) for the explained class.  relevance: r (B, J) in [-1, 1].
        classifier_logits, interpreter_logits: (B, C) of f and g.
        explained_class, classifier_class, interpreter_class: (B,), what is explained and what f and g predict: of several labels the
            strongest logit, whether or not it is a label.
        classifier_members, interpreter_members: (B, C), which classes f and g give each image: one, or with several labels any number.
        agrees: (B,), where f and g lead to the same decision and f's unrestricted prediction is an explained class.
        inside: (B,), where that prediction is one.
        bias_share: (B,) in [0, 1], the part of the evidence that no attribute has.
        notes: what else a reader has to know: an estimated pixel range, a restricted f …
    """

    pixels: Images
    attributes: Attributes
    classifier_logits: Logits
    interpreter_logits: Logits
    explained_class: ClassIndex
    classifier_class: ClassIndex
    interpreter_class: ClassIndex
    classifier_members: Members
    interpreter_members: Members
    contributions: Contributions
    relevance: Relevance
    agrees: PerImageFlag
    inside: PerImageFlag
    bias_share: PerImage
    class_names: tuple[str, ...]
    class_ids: tuple[int, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.relevance)

    @property
    def unexplained(self) -> Tensor:
        """(B,) bool: no attribute contributes anything."""
        return ~explained(self.contributions)

    def top(self, k: int = 5) -> list[list[AttributeRelevance]]:
        """For each image its ``k`` attributes of largest absolute relevance, largest first; attributes without any part are left out."""
        order = self.relevance.abs().argsort(dim=1, descending=True, stable=True)[:, :k]
        columns = [order, *(values.gather(1, order) for values in (self.relevance, self.contributions, self.attributes))]
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [[entry for entry in map(AttributeRelevance, *row) if entry.relevance != 0] for row in rows]

    def caveat(self, index: int) -> str:
        """What a reader of image ``index``'s explanation must know before believing it; empty where there is nothing."""
        sentences = []
        by_f, by_g = self.classifier_members[index], self.interpreter_members[index]
        asked, f, g = (
            self.class_names[int(classes[index])] for classes in (self.explained_class, self.classifier_class, self.interpreter_class)
        )
        if not self.inside[index]:
            sentences.append(f"the classifier's unrestricted prediction is none of the {len(self.class_ids)} explained classes")
        if self.classifier_class[index] != self.interpreter_class[index] and not self.agrees[index]:
            told = [repr(name) if members.any() else "nothing" for name, members in ((f, by_f), (g, by_g))]
            sentences.append(f"the classifier says {told[0]}, the interpreter {told[1]}: this does not explain the classifier's prediction")
        elif self.inside[index] and not self.agrees[index]:
            sentences.append(f"both say {f!r} first, and decide differently on other labels")
        if not by_g.any():
            who = "the interpreter gives" if by_f.any() else "neither gives"
            sentences.append(f"{who} it any label; what is explained is the logit of {asked!r}")
        elif asked not in (f, g) and not by_g[int(self.explained_class[index])]:
            sentences.append(f"{asked!r} was asked for, the interpreter says {g!r}")
        if self.unexplained[index]:
            sentences.append("no attribute takes part: unexplained")
        return "; ".join(sentences)

    def describe(self, index: int, k: int = 5, *, title: str | None = None) -> str:
        """Image ``index``'s explanation in a few lines of text, under its number or ``title``."""
        name = self.class_names[int(self.explained_class[index])]
        parts = ", ".join(f"φ{entry.attribute} {entry.relevance:+.2f}" for entry in self.top(k)[index]) or "nothing"
        caveat = self.caveat(index)
        return f"{title or f'image {index}'}: {name!r} because of {parts} (bias share {self.bias_share[index]:.0%})" + (
            f"\n  CAUTION: {caveat}" if caveat else ""
        )

    def __str__(self) -> str:
        shown = min(len(self), 10)
        lines = [f"LocalInterpretation of {len(self)} images: classifier and interpreter agree on {int(self.agrees.sum())}"]
        lines += [self.describe(index) for index in range(shown)]
        lines += [f"… and {len(self) - shown} more"] * (len(self) > shown) + [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def plot(self, index: int = 0, *, k: int = 8) -> Figure:
        """Image ``index`` beside its ``k`` strongest attributes; a disagreement is written in the heading."""
        entries = self.top(k)[index]
        heading = f"Which attributes speak for {shorten(self.class_names[int(self.explained_class[index])])!r}?"
        attributes, values = [entry.attribute for entry in entries], [entry.relevance for entry in entries]
        pixels, warning = self.pixels[index].cpu().numpy(), self.caveat(index)
        return local_interpretation(pixels, attributes, values, heading=heading, warning=warning, notes=self.notes)

    def _repr_html_(self) -> str:
        return as_html([self.plot(index) for index in range(min(len(self), SHOWN_IN_NOTEBOOK))], str(self))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, without the pixels; ``agrees`` travels with every row."""
        columns = (
            "explained_class",
            "classifier_class",
            "interpreter_class",
            "agrees",
            "bias_share",
            "relevance",
            "contributions",
            "attributes",
            "classifier_logits",
            "interpreter_logits",
        )
        rows = zip(*(getattr(self, column).tolist() for column in columns), strict=True)
        images = [dict(zip(columns, row, strict=True)) | {"caveat": self.caveat(index)} for index, row in enumerate(rows)]
        return {"class_names": list(self.class_names), "class_ids": list(self.class_ids), "notes": list(self.notes), "images": images}


def explained_classes(
    for_class: str | int | Tensor, *, kind: OutputKind, classifier_logits: Logits, interpreter_logits: Logits
) -> ClassIndex:
    """The class to explain for each image (b,): ``"interpreter"`` (g's prediction), ``"classifier"`` (f's), one class, or a tensor (b,).

    Raises:
        ClassSelectionError: another word, a class that does not exist, or a tensor of another length.
    """
    if isinstance(for_class, str):
        predicted = {"interpreter": interpreter_logits, "classifier": classifier_logits}
        if for_class not in predicted:
            raise ClassSelectionError(f"for_class must be 'interpreter', 'classifier', a class or a tensor of classes, got {for_class!r}")
        return kind.prediction(predicted[for_class])
    batch, num_classes = interpreter_logits.shape
    classes = torch.as_tensor(for_class, device=interpreter_logits.device)
    if classes.dtype.is_floating_point or classes.dtype == torch.bool or classes.shape not in ((), (batch,)):
        raise ClassSelectionError(
            f"for_class must be one whole number or {batch} of them, got {classes.dtype} of shape {tuple(classes.shape)}"
        )
    if bool(((classes < 0) | (classes >= num_classes)).any()):
        raise ClassSelectionError(f"for_class must be in 0 to {num_classes - 1}, got {sorted(set(classes.flatten().tolist()))}")
    return classes.long().expand(batch)


class Explanation(NamedTuple):
    """Contributions and relevance of a batch for one class an image."""

    contributions: Contributions
    relevance: Relevance
    bias_share: PerImage


def explain_attributes(attributes: Attributes, weight: Weight, bias: Bias, classes: ClassIndex) -> Explanation:
    """α_{j,c,x}, r_{j,x} and the bias share for the class of each image (docs/method.md)."""
    alpha = contributions(attributes, weight, classes)
    return Explanation(alpha, relevance(alpha), bias_share(alpha, bias[classes]))


class ClassAttributePair(NamedTuple):
    """An attribute that makes up a class."""

    attribute: int
    class_index: int
    relevance: float


SIGNS = {"positive": lambda values: values, "negative": lambda values: -values, "both": torch.abs}


@dataclass(frozen=True)
class GlobalInterpretation:
    """What does each class consist of?

    Attributes:
        relevance: r_{j,c} (J, C), the mean of r_{j,x} over sampled images with ĉ = c; NaN where no image was predicted as c.
        counts: (C,) images that went into each mean.
        disagreement: (C,) share of all images with ĉ = c on which f disagrees; NaN where there was none.
    """

    relevance: Tensor
    counts: Tensor
    disagreement: Tensor
    class_names: tuple[str, ...]
    class_ids: tuple[int, ...]
    notes: tuple[str, ...] = ()

    def pairs(self, threshold: float = 0.1, *, sign: str = "positive") -> list[ClassAttributePair]:
        """The pairs with r_{j,c} > ``threshold`` (0.1 in the paper), strongest first.

        Args:
            sign: "positive", "negative" (r < -threshold) or "both".

        Raises:
            ConfigurationError: a threshold outside [0, 1) or an unknown sign.
        """
        if sign not in SIGNS or not 0 <= threshold < 1:
            raise ConfigurationError(f"threshold must be in [0, 1) and sign one of {sorted(SIGNS)}, got {threshold} and {sign!r}")
        strength = SIGNS[sign](self.relevance)
        found = [ClassAttributePair(j, c, float(self.relevance[j, c])) for j, c in (strength > threshold).nonzero().tolist()]
        return sorted(found, key=lambda pair: -abs(pair.relevance))

    def __str__(self) -> str:
        num_attributes, num_classes = self.relevance.shape
        lines = [f"GlobalInterpretation of {int(self.counts.sum())} decisions: {num_attributes} attributes, {num_classes} classes"]
        by_class: dict[int, list[ClassAttributePair]] = {}
        for pair in self.pairs():
            by_class.setdefault(pair.class_index, []).append(pair)
        lines += [self._class_line(index, by_class.get(index, [])) for index in range(len(self.class_names))]
        return "\n".join(lines + [f"note: {note}" for note in self.notes])

    def _class_line(self, index: int, pairs: Sequence[ClassAttributePair]) -> str:
        name = self.class_names[index]
        if not self.counts[index]:
            disagreement = float(self.disagreement[index])
            if math.isnan(disagreement):
                return f"{name!r}: the interpreter predicted it for no image"
            return f"{name!r}: none of its images could be sampled (the classifier disagrees on {disagreement:.1%})"
        parts = ", ".join(f"φ{pair.attribute} {pair.relevance:+.2f}" for pair in pairs[:6]) or "no attribute above 0.1"
        return f"{name!r}: {parts} ({int(self.counts[index])} images; the classifier disagrees on {self.disagreement[index]:.1%})"

    def plot(self) -> Figure:
        """The class-attribute heat map."""
        heading = "Which attributes make up each class?"
        return relevance_heatmap(self.relevance.numpy(), self.class_names, heading=heading, notes=self.notes)

    def _repr_html_(self) -> str:
        return as_html([self.plot()], str(self))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; NaN becomes ``None``: the class was never predicted."""
        return {
            "class_names": list(self.class_names),
            "class_ids": list(self.class_ids),
            "notes": list(self.notes),
            "counts": self.counts.tolist(),
            "disagreement": [_null(value) for value in self.disagreement.tolist()],
            "relevance": [[_null(value) for value in row] for row in self.relevance.tolist()],
        }


def _null(value: float) -> float | None:
    return None if value != value else value


def interpret_locally(fitted: FittedInterpreter, images: Tensor, for_class: str | int | Tensor) -> LocalInterpretation:
    """Why these predictions? ``images`` (B, channels, H, W) as the classifier sees them; ``for_class`` as in ``explained_classes``."""
    with said_in_words("the explanation", "explain fewer images at once"):
        batch = fitted.read_together(images)
    kind = fitted.view.kind
    classes = explained_classes(
        for_class, kind=kind, classifier_logits=batch.classifier_logits, interpreter_logits=batch.interpreter_logits
    )
    head = fitted.interpreter.head
    explanation = explain_attributes(batch.attributes, head.weight.detach(), head.bias.detach(), classes)
    return LocalInterpretation(
        fitted.normalization.denormalize(batch.images.detach()),
        batch.attributes,
        batch.classifier_logits,
        batch.interpreter_logits,
        classes,
        kind.prediction(batch.classifier_logits),
        kind.prediction(batch.interpreter_logits),
        kind.members(batch.classifier_logits),
        kind.members(batch.interpreter_logits),
        explanation.contributions,
        explanation.relevance,
        batch.agrees,
        batch.inside,
        explanation.bias_share,
        fitted.class_names,
        fitted.class_ids,
        fitted.notes,
    )


def class_relevance_sums(kind: OutputKind, attributes: Attributes, weight: Weight, logits: Logits) -> RelevanceSums:
    """Sums of r_{j,x} over the images of a batch, under every class that g, of these ``logits`` (b, C), gives them."""
    rows, classes = kind.members(logits).nonzero(as_tuple=True)
    return global_relevance_sums(relevance(contributions(attributes[rows], weight, classes)), classes, len(weight))


class GlobalReading:
    """r_{j,c} over a stream, batch by batch. Unexplained samples take no part in the means, nor where asked for those that disagree.

    Args:
        first: the number of the first image in the data.
    """

    def __init__(self, fitted: FittedInterpreter, *, samples_per_class: int, agreeing_only: bool, seed: int, first: int = 0) -> None:
        num_classes = fitted.view.num_classes
        self._fitted, self._agreeing_only = fitted, agreeing_only
        self._reservoir = RelevanceReservoir(fitted.interpreter.num_attributes, num_classes, samples_per_class, seed)
        self._seen, self._disagreeing = (torch.zeros(num_classes, dtype=torch.int64) for _ in range(2))
        self._next = first

    def add(self, batch: ReadBatch) -> None:
        """The images of one more batch."""
        head, view = self._fitted.interpreter.head, self._fitted.view
        rows, classes = view.kind.members(batch.interpreter_logits).nonzero(as_tuple=True)  # an image once for each class it counts under
        agrees = (view.kind.members(batch.classifier_logits)[rows, classes] & batch.inside[rows]).cpu()
        explanation = explain_attributes(batch.attributes[rows], head.weight.detach(), head.bias.detach(), classes)
        predicted, eligible = classes.cpu(), explained(explanation.contributions).cpu()
        self._seen += torch.bincount(predicted, minlength=view.num_classes)
        self._disagreeing += torch.bincount(predicted[~agrees], minlength=view.num_classes)
        eligible = eligible & agrees if self._agreeing_only else eligible
        self._reservoir.offer_all(explanation.relevance.cpu(), predicted, eligible, self._next + rows.cpu())
        self._next += len(batch.images)

    def result(self) -> GlobalInterpretation:
        """What the batches so far say, those of all processes."""
        fitted, means = self._fitted, self._reservoir.mean()
        disagreement = sum_(self._disagreeing.clone()) / sum_(self._seen.clone())
        return GlobalInterpretation(*means, disagreement, fitted.class_names, fitted.class_ids, fitted.notes)


def interpret_globally(
    fitted: FittedInterpreter, data: Data, *, samples_per_class: int, agreeing_only: bool, seed: int
) -> GlobalInterpretation:
    """r_{j,c} over ``data``, in one pass, as ``GlobalReading`` gathers it; by several processes together, each image once.

    Raises ``EmptyDataError`` where it holds no batch.
    """
    with together():
        part = own_part(data)
        first = rank() * UNNUMBERED if part.first is None else part.first
        reading = GlobalReading(fitted, samples_per_class=samples_per_class, agreeing_only=agreeing_only, seed=seed, first=first)
        for batch in fitted.read_own(part):
            reading.add(batch)
        return reading.result()
