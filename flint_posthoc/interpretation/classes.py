"""Which attributes make up a class?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arrays import Attributes, Logits, Weight
from ..canvas import Figure, as_html
from ..charts import relevance_heatmap
from ..classifier.adapter import OutputKind
from ..data import Data
from ..errors import ConfigurationError
from ..interpreter.fitted import FittedInterpreter, ReadBatch
from ..measures import PAIR_THRESHOLD, RelevanceSums, contributions, explained, global_relevance_sums, relevance
from ..processes import rank, sum_, together
from ..splitting import own_part
from ..words import plain, with_notes
from .local import explain_attributes
from .reservoir import RelevanceReservoir

UNNUMBERED = 2**40  # images between the first numbers of two processes whose streams come in parts


class ClassAttributePair(NamedTuple):
    """An attribute that makes up a class."""

    attribute: int
    class_index: int
    relevance: float


CLASSES_PLOTTED, ATTRIBUTES_PLOTTED = 60, 100  # at most

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

    def pairs(self, threshold: float = PAIR_THRESHOLD, *, sign: str = "positive") -> list[ClassAttributePair]:
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
        return with_notes(lines, self.notes)

    def _class_line(self, index: int, pairs: Sequence[ClassAttributePair]) -> str:
        name = self.class_names[index]
        if not self.counts[index]:
            disagreement = float(self.disagreement[index])
            if math.isnan(disagreement):
                return f"{name!r}: the interpreter predicted it for no image"
            return f"{name!r}: none of its images could be sampled (the classifier disagrees on {disagreement:.1%})"
        parts = ", ".join(f"φ{pair.attribute} {pair.relevance:+.2f}" for pair in pairs[:6]) or f"no attribute above {PAIR_THRESHOLD}"
        return f"{name!r}: {parts} ({int(self.counts[index])} images; the classifier disagrees on {self.disagreement[index]:.1%})"

    def plot(self) -> Figure:
        """The class-attribute heat map; of many classes the 60 predicted most often, of many attributes the 100 strongest in those."""
        heading, classes = "Which attributes make up each class?", list(range(len(self.class_names)))
        if len(classes) > CLASSES_PLOTTED:
            predicted = [c for c in classes if self.counts[c] > 0] or classes
            classes = sorted(sorted(predicted, key=lambda c: -int(self.counts[c]))[:CLASSES_PLOTTED])
            heading += f"\n{len(classes)} of {len(self.class_names):,} classes: those predicted most often"
        strength = self.relevance[:, classes].nan_to_num().abs().amax(dim=1)
        attributes = strength.topk(min(ATTRIBUTES_PLOTTED, len(strength))).indices.sort().values.tolist()
        if len(attributes) < len(strength):
            heading += f"\n{len(attributes)} of {len(strength)} attributes: the strongest in those"
        names, shown = [self.class_names[c] for c in classes], self.relevance[:, classes][attributes]
        return relevance_heatmap(shown.numpy(), names, heading=heading, notes=self.notes, attributes=attributes)

    def _repr_html_(self) -> str:
        return as_html([self.plot()], str(self))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; NaN becomes ``None``: the class was never predicted."""
        names = ("class_names", "class_ids", "notes", "counts", "disagreement", "relevance")
        return {name: plain(getattr(self, name)) for name in names}


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
