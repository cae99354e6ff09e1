"""Why do f and g disagree, and is disagreement a reason to distrust f? Depth of the images in their class (the paper's analysis)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..arrays import PerImage, PerImageFlag
from ..canvas import Figure, with_notes_below
from ..charts import histograms
from ..data import Data, batches
from ..interpreter.fitted import FittedInterpreter, ReadBatch
from ..words import number, percent, plain, table, with_notes
from .class_depth import ClassDepths, SpaceDepths, outlying
from .estimates import auroc
from .gathering import UNLABELLED, labels_of

PARTS = ("… while f is right", "… while f is wrong")  # of the images on which they disagree
SHOWN = 100  # positions of outlying disagreements that are kept


class Judged(NamedTuple):
    """What is known of each image: (N,) each, and the depths (N, spaces)."""

    depths: SpaceDepths
    agrees: PerImageFlag
    labels: Tensor
    classes: Tensor
    classifier_confidence: PerImage  # f's own maximum softmax
    interpreter_confidence: PerImage  # g's probability of f's class

    @property
    def labelled(self) -> PerImageFlag:
        return self.labels != UNLABELLED

    @property
    def wrong(self) -> PerImageFlag:
        """f is wrong by the labels."""
        return self.labelled & (self.classes != self.labels)

    @property
    def known(self) -> PerImageFlag:
        """f's class could be judged."""
        return ~self.depths.isnan().any(dim=1)


def _judge(fitted: FittedInterpreter, trust: ClassDepths, batch: ReadBatch) -> Judged:
    classes = fitted.view.kind.prediction(batch.classifier_logits)
    f, g = batch.classifier_logits.softmax(dim=1), batch.interpreter_logits.softmax(dim=1)
    agrees = fitted.view.kind.agreement(batch.classifier_logits, batch.interpreter_logits)  # over the explained classes
    columns = (agrees, labels_of(batch), classes, f.amax(dim=1), g.gather(1, classes[:, None])[:, 0])
    return Judged(trust.depths(batch, classes), *(column.cpu() for column in columns))


def judge(fitted: FittedInterpreter, trust: ClassDepths, data: Data) -> Judged:
    """Every image of ``data`` in one pass; memory is seven numbers an image."""
    parts = [_judge(fitted, trust, batch) for batch in fitted.read(data)]
    return Judged(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _without_labels(fitted: FittedInterpreter, data: Data) -> Iterator[Tensor]:
    """Only the images: those of another data set have labels of their own."""
    return (batch.images for batch in batches(data, device=fitted.device, image_shape=fitted.image_shape, labels="ignored"))


def _distrust(column: int) -> Callable[[Judged], Tensor]:
    return lambda judged: -judged.depths[:, column]


FLAG, INTERPRETERS_DOUBT = "the flag: the lesser of both", "the interpreter's doubt: 1 - p_g of f's class"
OWN_DOUBT = "f's own doubt: 1 - its maximum softmax"
SIGNALS: dict[str, Callable[[Judged], Tensor]] = {
    "depth in pixels": _distrust(0),
    "depth in attributes": _distrust(1),
    FLAG: lambda judged: -judged.depths.amin(dim=1),
    INTERPRETERS_DOUBT: lambda judged: -judged.interpreter_confidence.double(),
    OWN_DOUBT: lambda judged: -judged.classifier_confidence.double(),
}


@dataclass(frozen=True)
class Signal:
    """How well one number tells what is to be distrusted: areas under the ROC curve, 0.5 is chance; ``None`` where there is no such image.

    Attributes:
        disagreement: images on which g differs from f, among all. Unknown for g's own doubt, which is disagreement by another name.
        errors: images that f gets wrong, among the labelled ones.
        outside: images of the other data set, among those of both.
    """

    name: str
    disagreement: float | None
    errors: float | None
    outside: float | None


@dataclass(frozen=True)
class Group:
    """Images of one kind: how many, the median depth over the threshold by space, and the share of outliers."""

    name: str
    images: int
    median_depth: dict[str, float]
    outliers: float


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """How images on which f and g disagree differ from the others, and how good a flag of trust that makes.

    Attributes:
        groups: the images by what f and g say of them.
        signals: the flag beside f's own maximum softmax.
        fidelity_trusted, fidelity_flagged, accuracy_trusted, accuracy_flagged: of g to f and of f, on either side of the flag; ``None`` for
            no image. unjudged: images whose class has too few members, no part of anything else.
        outlying_disagreements: positions in the data of images on which g disagrees and which are outliers, least deep first.
        depths: by group the lesser depth over threshold of each image, for the picture.
    """

    images: int
    unjudged: int
    groups: tuple[Group, ...]
    signals: tuple[Signal, ...]
    fidelity_trusted: float | None
    fidelity_flagged: float | None
    accuracy_trusted: float | None
    accuracy_flagged: float | None
    outlying_disagreements: tuple[int, ...]
    depths: dict[str, Float[Tensor, " _"]]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        spaces = list(self.groups[0].median_depth)
        heads = ("images", "number", *(f"depth in {space}" for space in spaces), "outliers")
        groups = [(g.name, f"{g.images:,}", *(number(g.median_depth[s]) for s in spaces), percent(g.outliers)) for g in self.groups]
        areas = [(s.name, number(s.disagreement), number(s.errors), number(s.outside)) for s in self.signals]
        lines = [table(heads, groups), "", table(("AUROC for", "disagreement", "f's errors", "other data"), areas), "", self.meaning()]
        return with_notes(lines, self.notes)

    def meaning(self) -> str:
        """The tables in a few sentences."""
        trusted = f"Where the flag trusts an image, g agrees on {percent(self.fidelity_trusted)} and f is right on "
        flagged = f"{percent(self.accuracy_trusted)}; where it does not, on {percent(self.fidelity_flagged)} and "
        unjudged = f" {self.unjudged} images of classes with too few members are left out." if self.unjudged else ""
        return (
            "Depths are over the threshold of the class that f gives: below 1 lie the outliers, by construction 5 % of the members "
            "held out for it, unless told otherwise, and more of those that it was learnt from: judge other images. "
            f"{trusted}{flagged}{percent(self.accuracy_flagged)}.{self._areas()}{unjudged}"
        )

    def _areas(self) -> str:
        """What the flag is worth beside f's own doubt, for what could be judged."""
        by_name = {signal.name: signal for signal in self.signals}
        flag, own = by_name[FLAG], by_name[OWN_DOUBT]
        kinds = {"disagreement": "disagreement", "errors": "f's errors", "outside": "other data"}
        known = [(words, getattr(flag, kind), getattr(own, kind)) for kind, words in kinds.items() if getattr(flag, kind) is not None]
        compared = ", ".join(f"{number(ours)} against {number(theirs)} for {words}" for words, ours, theirs in known)
        return f" AUROC of the flag against f's own doubt: {compared}." if compared else ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, without the depths of single images."""
        exported: dict[str, Any] = plain(replace(self, depths={}))
        del exported["depths"]
        return exported

    def plot(self) -> Figure:
        """How deep the images of each group lie."""
        arrays = {name: values.numpy() for name, values in self.depths.items() if len(values) and name not in PARTS}
        heading = "How deep do images lie in the class that f gives them?"
        return with_notes_below(histograms(arrays, mark=1.0, heading=heading, axis="depth over threshold"), self.notes)


def _groups(judged: Judged) -> dict[str, Tensor]:
    disagrees = ~judged.agrees
    return {
        "f and g agree": judged.agrees,
        "f and g disagree": disagrees,
        PARTS[0]: disagrees & judged.labelled & ~judged.wrong,
        PARTS[1]: disagrees & judged.wrong,
    }


def _group(name: str, depths: SpaceDepths, spaces: tuple[str, ...]) -> Group:
    medians = depths.quantile(0.5, dim=0).tolist() if len(depths) else [torch.nan] * len(spaces)
    outliers = float(outlying(depths).double().mean()) if len(depths) else torch.nan
    return Group(name, len(depths), dict(zip(spaces, medians, strict=True)), outliers)


def _signal(name: str, judged: Judged, outside: Judged | None) -> Signal:
    values = SIGNALS[name](judged)
    other = values[:0] if outside is None else SIGNALS[name](outside)
    both, is_other = torch.cat([values, other]), torch.arange(len(values) + len(other)) >= len(values)
    disagreement = None if name == INTERPRETERS_DOUBT else auroc(values, ~judged.agrees)
    labelled = judged.labelled
    return Signal(name, disagreement, auroc(values[labelled], judged.wrong[labelled]), auroc(both, is_other))


def _share(flags: Tensor) -> float | None:
    return float(flags.double().mean()) if len(flags) else None


def _select(judged: Judged, rows: Tensor) -> Judged:
    return Judged(*(column[rows] for column in judged))


def conclude_disagreement(judged: Judged, outside: Judged | None, spaces: tuple[str, ...], notes: tuple[str, ...] = ()) -> Disagreement:
    """The analysis of judged images, and perhaps of those of another data set."""
    known = judged.known.nonzero().flatten()
    inside, other = _select(judged, known), None if outside is None else _select(outside, outside.known)
    depths = {name: inside.depths[rows] for name, rows in _groups(inside).items()}
    if other is not None:
        depths["other data"] = other.depths
    flagged, labelled, right = outlying(inside.depths), inside.labelled, ~inside.wrong
    least = inside.depths.amin(dim=1)
    found = (flagged & ~inside.agrees).nonzero().flatten()
    return Disagreement(
        images=len(inside.agrees),
        unjudged=len(judged.agrees) - len(known),
        groups=tuple(_group(name, values, spaces) for name, values in depths.items()),
        signals=tuple(_signal(name, inside, other) for name in SIGNALS),
        fidelity_trusted=_share(inside.agrees[~flagged]),
        fidelity_flagged=_share(inside.agrees[flagged]),
        accuracy_trusted=_share(right[labelled & ~flagged]),
        accuracy_flagged=_share(right[labelled & flagged]),
        outlying_disagreements=tuple(known[found[least[found].argsort(stable=True)]][:SHOWN].tolist()),
        depths={name: values.amin(dim=1) for name, values in depths.items()},
        notes=notes,
    )


def analyse_disagreement(fitted: FittedInterpreter, trust: ClassDepths, data: Data, *, outside: Data | None = None) -> Disagreement:
    """Are images on which f and g disagree outliers of their class, and does that tell f's errors and images of another kind?

    Args:
        trust: of ``learn_class_depths`` on other data, best the training data.
        data: what is judged; with labels f's errors are known.
        outside: images of another kind, of the same shape and normalised alike; its labels are not looked at.

    Raises:
        DataError.
    """
    judged = judge(fitted, trust, data)
    other = None if outside is None else judge(fitted, trust, _without_labels(fitted, outside))
    unknown = trust.unknown_classes
    note = (f"not judged, of fewer than {trust.settings.least} members: {', '.join(map(repr, unknown))}",) if unknown else ()
    return conclude_disagreement(judged, other, tuple(trust.by_space), (*fitted.notes, *note))
