"""What did learning by design do to f? Its accuracy beside that of another classifier, image by image on the same data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..arrays import Logits
from ..data import Data
from ..errors import ClassifierOutputError
from ..interpreter.fitted import FittedInterpreter, ReadBatch
from ..words import percent, plain, with_notes
from .estimates import LEVEL, Interval, paired_interval, sign_test
from .rivals import rival

FEW = 10  # images right for one of two classifiers alone, below which a normal interval is rough


@dataclass(frozen=True)
class AccuracyComparison:
    """f beside a reference on the same labelled images. Shares in [0, 1]; classes are the explained ones.

    Attributes:
        accuracy: f's.  reference_accuracy: the reference's.  interpreter_accuracy: g's.
        difference: accuracy - reference_accuracy, in [-1, 1], with its 95 % interval, paired over images.
        only_classifier, only_reference: images that f alone, that the reference alone has right.
        agreement: share of images on which f and the reference decide alike.
    """

    samples: int
    accuracy: float
    reference_accuracy: float
    interpreter_accuracy: float
    difference: Interval
    only_classifier: int
    only_reference: int
    agreement: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        mean, low, high = (f"{100 * share:+.2f}" for share in self.difference)
        lines = [
            f"Of {self.samples:,} images the classifier has {percent(self.accuracy)} right, "
            f"the reference {percent(self.reference_accuracy)} and the interpreter {percent(self.interpreter_accuracy)}.",
            f"Classifier less reference: {mean} points, with 95 % confidence between {low} and {high}: {self.verdict()}.",
            f"Right for the classifier alone: {self.only_classifier:,} images, for the reference alone: {self.only_reference:,}; "
            f"both decide alike on {percent(self.agreement)}.",
        ]
        return with_notes(lines, self.notes)

    def verdict(self) -> str:
        """What the interval says, in words, and where that is a near thing, what a sign test does."""
        if self.difference.low <= 0 <= self.difference.high:
            return "these images do not tell them apart"
        chance = sign_test(self.only_classifier, self.only_reference)
        if chance > 1 - LEVEL:
            return f"these images do not tell them apart all the same, by a sign test (p = {chance:.2f})"
        return f"the classifier is {'better' if self.difference.mean > 0 else 'worse'} than the reference"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return plain(self)


def accuracy_counts(fitted: FittedInterpreter, batch: ReadBatch, reference_logits: Logits) -> Counter[str]:
    """Numbers of images of one batch, which add up over batches. The batch has labels, the reference's logits lie on the CPU.

    Raises:
        ClassifierOutputError: the reference's logits are not finite.
    """
    finite = reference_logits.isfinite().all(dim=1)
    if not finite.all():
        raise ClassifierOutputError(f"the reference's logits are not finite for {int((~finite).sum())} of {len(finite)} images")
    kind, f_logits, labels = fitted.view.kind, batch.classifier_logits.cpu(), batch.labels.cpu()  # type: ignore[union-attr]
    answers = (f_logits, batch.interpreter_logits.cpu(), reference_logits)
    f_right, g_right, other_right = (kind.right(logits, labels) for logits in answers)
    flags = {
        "classifier": f_right,
        "interpreter": g_right,
        "reference": other_right,
        "only_classifier": f_right & ~other_right,
        "only_reference": other_right & ~f_right,
        "agreeing": kind.agreement(f_logits, reference_logits),
    }
    return Counter({"samples": len(labels)} | {name: int(flag.sum()) for name, flag in flags.items()})


def conclude_accuracy(counts: Counter[str], notes: tuple[str, ...] = ()) -> AccuracyComparison:
    """The figures from the counts over all data, of at least one image."""
    samples, ours, theirs = counts["samples"], counts["only_classifier"], counts["only_reference"]
    rough = (f"only {ours + theirs} images are right for one of the two alone: the interval is a rough one",) if ours + theirs < FEW else ()
    return AccuracyComparison(
        samples=samples,
        accuracy=counts["classifier"] / samples,
        reference_accuracy=counts["reference"] / samples,
        interpreter_accuracy=counts["interpreter"] / samples,
        difference=paired_interval(ours, theirs, samples),
        only_classifier=ours,
        only_reference=theirs,
        agreement=counts["agreeing"] / samples,
        notes=notes + rough,
    )


@torch.no_grad()
def compare_accuracy(fitted: FittedInterpreter, reference: nn.Module, data: Data) -> AccuracyComparison:
    """f's accuracy beside that of ``reference``, in one pass over ``data``, which needs labels (classes, one-hot or soft; label sets).

    Args:
        reference: f as it was before it learnt beside its interpreter, or a classifier trained without one. It has f's outputs, or the
            explained ones alone; it runs in evaluation mode and is left as it was.

    Raises:
        MissingLabelsError: images without labels. DataError.
        ConfigurationError: ``reference`` is f itself, or gives another number of classes.
        ClassifierOutputError: its logits, or f's, are not finite.
    """
    counts: Counter[str] = Counter()
    with rival(reference, fitted, "reference", "a copy made before it learnt, or a network trained without an interpreter") as logits:
        for batch in fitted.read(data, labels="targets"):
            counts.update(accuracy_counts(fitted, batch, logits(batch.images)))
    return conclude_accuracy(counts, fitted.notes)
