"""Where do f and g part? Agreement class by class, a table of f's class against g's, and how far f's class is down g's list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..canvas import Figure, with_notes_below
from ..charts import count_matrix
from ..data import Data
from ..interpreter.fitted import FittedInterpreter, ReadBatch
from ..measures import among_first
from ..words import number, percent, plain, table, with_notes
from .gathering import add_up

DEPTHS = (1, 2, 3, 4)  # the first k of g's classes; the paper looks at 2, 3 and 4
SHOWN = 5

Counts = Int64[Tensor, "classes classes"]
ByDepth = Int64[Tensor, " depths"]


@dataclass(frozen=True)
class ConfusionSums:
    """Counts of images; those of two halves of the data add up to those of the whole.

    Attributes:
        counts: (C, C), a row a class of f and a column a class of g.
        outside: f's class is not among g's first k.  outside_while_right: the same where f is right by the labels.
        labelled: images with a label.
    """

    counts: Counts
    outside: ByDepth
    outside_while_right: ByDepth
    labelled: int

    def __add__(self, other: ConfusionSums) -> ConfusionSums:
        return ConfusionSums(
            self.counts + other.counts,
            self.outside + other.outside,
            self.outside_while_right + other.outside_while_right,
            self.labelled + other.labelled,
        )


def confusion_sums(fitted: FittedInterpreter, batch: ReadBatch) -> ConfusionSums:
    """Of one batch, on the CPU."""
    kind, classes = fitted.view.kind, fitted.view.num_classes
    f, g = (kind.prediction(logits).cpu() for logits in (batch.classifier_logits, batch.interpreter_logits))
    counts = torch.bincount(f * classes + g, minlength=classes**2).view(classes, classes)
    outside = ~among_first(batch.interpreter_logits.cpu(), f, DEPTHS)
    right = torch.zeros_like(f, dtype=torch.bool) if batch.labels is None else f == batch.labels.cpu()
    return ConfusionSums(counts, outside.sum(dim=0), outside[right].sum(dim=0), 0 if batch.labels is None else len(f))


@dataclass(frozen=True)
class Confusion:
    """f's class against g's, over one set of data.

    Attributes:
        counts: (C, C) images, a row a class of f and a column a class of g.
        outside: by k, the share of images on which f's class is not among g's first k: worse than a mere disagreement.
        outside_while_right: the share of labelled images on which that is so while f is right: what g cannot explain at all; ``None``
            without labels.
    """

    counts: Counts
    outside: dict[int, float]
    outside_while_right: dict[int, float] | None
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def fidelity(self) -> float:
        """Share of images with the same class."""
        return float(self.counts.diagonal().sum() / self.counts.sum())

    @property
    def fidelity_by_class(self) -> Float[Tensor, " classes"]:
        """Of the images that f puts into a class the share that g does too; NaN where f puts none."""
        return self.counts.diagonal().double() / self.counts.sum(dim=1)

    @property
    def reliability_by_class(self) -> Float[Tensor, " classes"]:
        """Of the images that g puts into a class the share that f does too; NaN where g puts none."""
        return self.counts.diagonal().double() / self.counts.sum(dim=0)

    def pairs(self) -> list[tuple[int, int, int]]:
        """(f's class, g's class, images), for each two that differ on some image, most images first."""
        found = [(f, g, int(self.counts[f, g])) for f, g in self.counts.nonzero().tolist() if f != g]
        return sorted(found, key=lambda pair: -pair[2])

    def __str__(self) -> str:
        columns = (self.counts.sum(dim=1).tolist(), self.fidelity_by_class.tolist(), self.reliability_by_class.tolist())
        rows = [
            (name, f"{images:,}", percent(fidelity), percent(reliability))
            for name, images, fidelity, reliability in zip(self.class_names, *columns, strict=True)
        ]
        lines = [table(("class", "images of f", "g says so too", "f says so where g does"), rows), self.meaning()]
        return with_notes(lines, self.notes)

    def meaning(self) -> str:
        """The table in a few sentences."""
        first = [f"{self.class_names[f]!r} as {self.class_names[g]!r} ({count})" for f, g, count in self.pairs()[:SHOWN]]
        parting = f"g takes f's {', '.join(first)}" if first else "g says what f says everywhere"
        deepest = max(self.outside, default=0)
        worse = f" On {percent(self.outside[deepest])} of the images f's class is not even among g's first {deepest}." if deepest else ""
        right = None if self.outside_while_right is None else self.outside_while_right.get(deepest)
        return f"Fidelity {percent(self.fidelity)}: {parting}.{worse}" + (
            f" {percent(right)} while f is right." if right is not None else ""
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; a class without images has no share."""
        shares = {name: plain(getattr(self, name)) for name in ("fidelity", "fidelity_by_class", "reliability_by_class")}
        return plain(self) | shares

    def plot(self) -> Figure:
        """The table as a picture; colour is the share of f's images of a class."""
        heading = f"f's class against g's: {number(100 * self.fidelity)} % agree"
        return with_notes_below(count_matrix(self.counts.numpy(), self.class_names, heading=heading), self.notes)


def conclude_confusion(sums: ConfusionSums, fitted: FittedInterpreter) -> Confusion:
    """Shares from counts over all data."""
    images, classes = int(sums.counts.sum()), len(sums.counts)
    depths = [(place, k) for place, k in enumerate(DEPTHS) if k < classes]
    outside = {k: float(sums.outside[place]) / images for place, k in depths}
    right = {k: float(sums.outside_while_right[place]) / sums.labelled for place, k in depths} if sums.labelled else None
    return Confusion(sums.counts, outside, right, fitted.class_names, fitted.notes)


@torch.no_grad()
def confuse(fitted: FittedInterpreter, data: Data) -> Confusion:
    """Agreement by class, in one pass and bounded memory.

    Raises:
        EmptyDataError: ``data`` holds no images.  ConfigurationError: a multi-label classifier.
    """
    fitted.require_one_label("a confusion table")
    sums = (confusion_sums(fitted, batch) for batch in fitted.read(data))
    return conclude_confusion(add_up(sums, "there is nothing to compare"), fitted)
