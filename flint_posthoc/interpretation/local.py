"""Which attributes made this prediction?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arrays import Attributes, Bias, ClassIndex, Contributions, Images, Logits, Members, PerImage, PerImageFlag, Relevance, Weight
from ..canvas import Figure, as_html, shorten
from ..classifier.adapter import OutputKind
from ..errors import ClassSelectionError
from ..figures import local_interpretation
from ..interpreter.fitted import FittedInterpreter
from ..measures import bias_share, contributions, explained, relevance
from ..memory import said_in_words
from ..words import with_notes

SHOWN_IN_NOTEBOOK = 4  # images that are drawn at once


class AttributeRelevance(NamedTuple):
    """One attribute's part in one prediction."""

    attribute: int
    relevance: float  # r_{j,x}, in [-1, 1]
    contribution: float  # α_{j,c,x}, in logits
    activation: float  # φ_j(x) ≥ 0


PREDICTED = ("interpreter", "classifier")  # whose prediction may be explained


@dataclass(frozen=True, kw_only=True)
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
        lines += [f"… and {len(self) - shown} more"] * (len(self) > shown)
        return with_notes(lines, self.notes)

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
        predicted = dict(zip(PREDICTED, (interpreter_logits, classifier_logits), strict=True))
        if for_class not in predicted:
            told = "'interpreter', 'classifier', a class, by number or name, or a tensor of classes"
            raise ClassSelectionError(f"for_class must be {told}, got {for_class!r}")
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


class ClassRelevance(NamedTuple):
    """Contributions and relevance of a batch for one class an image."""

    contributions: Contributions
    relevance: Relevance
    bias_share: PerImage


def explain_attributes(attributes: Attributes, weight: Weight, bias: Bias, classes: ClassIndex) -> ClassRelevance:
    """α_{j,c,x}, r_{j,x} and the bias share for the class of each image (docs/method.md)."""
    alpha = contributions(attributes, weight, classes)
    return ClassRelevance(alpha, relevance(alpha), bias_share(alpha, bias[classes]))


def class_called(word: str, class_names: Sequence[str]) -> str | int:
    """The position of the class of that name, "interpreter" and "classifier" aside; another word as it is.

    Raises ``ClassSelectionError`` where several have it.
    """
    found = [position for position, name in enumerate(class_names) if name == word]
    if word in PREDICTED or not found:
        return word
    if len(found) > 1:
        raise ClassSelectionError(f"classes {found} are all called {word!r}; name one by its number")
    return found[0]


def interpret_locally(fitted: FittedInterpreter, images: Tensor, for_class: str | int | Tensor) -> LocalInterpretation:
    """Why these predictions? ``images`` (B, channels, H, W) as the classifier sees them; ``for_class`` as in ``explained_classes``, or a
    class's name.
    """
    wanted = class_called(for_class, fitted.class_names) if isinstance(for_class, str) else for_class
    with said_in_words("the explanation", "explain fewer images at once"):
        batch = fitted.read_together(images)
    kind = fitted.view.kind
    classes = explained_classes(wanted, kind=kind, classifier_logits=batch.classifier_logits, interpreter_logits=batch.interpreter_logits)
    head = fitted.interpreter.head
    explanation = explain_attributes(batch.attributes, head.weight.detach(), head.bias.detach(), classes)
    return LocalInterpretation(
        pixels=fitted.normalization.denormalize(batch.images.detach()),
        attributes=batch.attributes,
        classifier_logits=batch.classifier_logits,
        interpreter_logits=batch.interpreter_logits,
        explained_class=classes,
        classifier_class=kind.prediction(batch.classifier_logits),
        interpreter_class=kind.prediction(batch.interpreter_logits),
        classifier_members=kind.members(batch.classifier_logits),
        interpreter_members=kind.members(batch.interpreter_logits),
        contributions=explanation.contributions,
        relevance=explanation.relevance,
        agrees=batch.agrees,
        inside=batch.inside,
        bias_share=explanation.bias_share,
        class_names=fitted.class_names,
        class_ids=fitted.class_ids,
        notes=fitted.notes,
    )
