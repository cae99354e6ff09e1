"""Single images: why did the interpreter decide so?"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..interpretation.local import AttributeRelevance, LocalInterpretation
from .charts import Bar, bar
from .content import ReportContent
from .heatmap import PageSelection
from .names import Name, attribute_anchor, percent, signed, symbol
from .pairs import Shown
from .pictures import THUMB, PictureBook, as_image
from .sections import PairViews

SHOWN = 5  # attributes of an image
LEAST = 0.05  # absolute relevance of those
DIFFERENT, OUTSIDE = "They disagree.", "The classifier’s own choice is not among these classes."
OTHER_LABELS = "They differ on other labels."


@dataclass(frozen=True)
class Reason:
    """An attribute's part in the decision: ``example`` is an image on which it is strongest, ``anchor`` what it leads to."""

    index: int
    symbol: str
    relevance_text: str
    bar: Bar
    anchor: str
    example: Shown | None


@dataclass(frozen=True)
class Single:
    """One image with its explanation.

    Attributes:
        explained: g's class, which the reasons are for.  classifier: f's.  label: the true one, ``None`` where that is not known.
        mark: that they disagree, or that f's own choice is not explained; empty where they agree.
        caveat: what a reader must know before believing it; empty where there is nothing.
    """

    image: Shown
    position: int
    explained: Name
    classifier: Name
    label: Name | None
    mark: str
    caveat: str
    reasons: tuple[Reason, ...]
    bias_share: str


def singles(
    content: ReportContent, selection: PageSelection, names: tuple[Name, ...], views: PairViews, book: PictureBook
) -> tuple[Single, ...]:
    """Every sampled image, in the order of the sample; their pictures are put into ``book``."""
    samples = content.survey.samples
    if samples is None:
        return ()
    local = replace(samples.local, class_names=tuple(name.short for name in names))
    carded = {j for j in selection.attributes if selection.served[j]}
    examples = _examples(views)
    top = local.top(SHOWN)
    labels = [None if label is None else names[label] for label in samples.labels]
    return tuple(
        Single(
            Shown(book.add(as_image(local.pixels[index]), THUMB), f"image {samples.positions[index]}", ""),
            samples.positions[index],
            names[int(local.explained_class[index])],
            names[int(local.classifier_class[index])],
            labels[index],
            _mark(local, index),
            local.caveat(index),
            tuple(
                _reason(entry, int(local.explained_class[index]), examples, carded) for entry in top[index] if abs(entry.relevance) >= LEAST
            ),
            percent(float(local.bias_share[index]), 0),
        )
        for index in range(len(local))
    )


def _mark(local: LocalInterpretation, index: int) -> str:
    if local.agrees[index]:
        return ""
    if local.explained_class[index] != local.classifier_class[index]:
        return DIFFERENT
    return OTHER_LABELS if local.inside[index] else OUTSIDE


def _examples(views: PairViews) -> dict[tuple[int, int | None], Shown]:
    """For each pair its first exemplar; under class ``None`` that of the attribute's strongest pair, for classes it does not serve."""
    found: dict[tuple[int, int | None], Shown] = {}
    for view in sorted(views.values(), key=lambda view: -view.relevance):
        if view.exemplars:
            found[view.attribute, view.name.index] = view.exemplars[0]
            found.setdefault((view.attribute, None), view.exemplars[0])
    return found


def _reason(entry: AttributeRelevance, class_index: int, examples: dict[tuple[int, int | None], Shown], carded: set[int]) -> Reason:
    return Reason(
        entry.attribute,
        symbol(entry.attribute),
        signed(entry.relevance),
        bar(entry.relevance),
        attribute_anchor(entry.attribute) if entry.attribute in carded else "",
        examples.get((entry.attribute, class_index)) or examples.get((entry.attribute, None)),
    )
