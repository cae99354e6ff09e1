"""How far to trust the explanations, in words and figures."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..evaluation.evaluation import Evaluation
from .charts import CurveChart, curve
from .content import ReportContent
from .heatmap import PageSelection
from .names import Name, counted, percent, symbol

VERDICTS = (  # (least fidelity, what it means)
    (0.95, "The interpreter repeats the classifier closely, so its reasons are a good guide to what the classifier looks at."),
    (
        0.85,
        "The interpreter repeats the classifier most of the time: its reasons are a fair guide to common cases, a weak one to rare ones.",
    ),
    (
        0.0,
        "The interpreter often decides otherwise than the classifier: read its reasons as hints, not as an account of the classifier.",
    ),
)


@dataclass(frozen=True)
class Tile:
    """A figure that stands out."""

    figure: str
    caption: str


@dataclass(frozen=True)
class ConfusionRow:
    """What classifier and interpreter say where they disagree, and how often."""

    classifier: Name
    interpreter: Name
    images: str


@dataclass(frozen=True)
class AttributeList:
    """Attributes with a common fate: a term and what it means, and the symbols."""

    term: str
    meaning: str
    symbols: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Trust:
    """The section: a verdict in a sentence, what stands out, every measure, the curve, and where they disagree."""

    images: int
    verdict: str
    disagreement: str
    tiles: tuple[Tile, ...]
    rows: tuple[tuple[str, str, str], ...]
    conciseness: CurveChart
    confusions: tuple[ConfusionRow, ...]
    confusions_left: int
    idle: tuple[AttributeList, ...]


def trust(content: ReportContent, selection: PageSelection, names: tuple[Name, ...]) -> Trust:
    """The section on how far to trust what follows."""
    evaluation, confusions = content.survey.evaluation, content.survey.confusions
    limit = content.limits.confusions
    shown = tuple(ConfusionRow(names[f], names[g], counted(images, "image")) for (f, g), images in confusions[:limit])
    return Trust(
        images=evaluation.samples,
        verdict=next(sentence for least, sentence in VERDICTS if evaluation.fidelity >= least),
        disagreement=_disagreement(evaluation),
        tiles=_tiles(evaluation),
        rows=tuple(evaluation.rows()),
        conciseness=_conciseness(evaluation),
        confusions=shown,
        confusions_left=len(confusions) - len(shown),
        idle=_idle(evaluation, selection, content.threshold),
    )


def _share(share: float, evaluation: Evaluation) -> int:
    """A share of the images as their number."""
    return round(share * evaluation.samples)


def _disagreement(evaluation: Evaluation) -> str:
    differing, outside = (_share(1 - share, evaluation) for share in (evaluation.fidelity, evaluation.inside_classes))
    sentences = [
        f"On {counted(differing, 'image')} of {evaluation.samples:,} they disagree."
        if differing
        else f"On all {evaluation.samples:,} images both decide the same.",
        f"On {outside:,} the classifier’s own choice is none of the classes explained here." if outside else "",
        "There, an explanation tells why the interpreter decided, not why the classifier did; such images are marked on this page, "
        "the smallest by a dashed frame."
        if differing or outside
        else "",
    ]
    return " ".join(filter(None, sentences))


def _tiles(evaluation: Evaluation) -> tuple[Tile, ...]:
    concise = evaluation.conciseness[2.0]["absolute"]
    tiles = [
        Tile(percent(evaluation.fidelity), "fidelity: interpreter and classifier decide the same"),
        Tile(f"{_share(1 - evaluation.fidelity, evaluation):,}", f"of {counted(evaluation.samples, 'image')} on which they disagree"),
        Tile(f"{len(evaluation.live_attributes)} of {evaluation.num_attributes}", "attributes in use"),
        Tile("–" if math.isnan(concise) else f"{concise:.1f}", "attributes carry a typical explanation (conciseness, τ = 2)"),
    ]
    accuracies = (evaluation.classifier_accuracy, evaluation.interpreter_accuracy)
    if None not in accuracies:
        f, g = (percent(share or 0.0) for share in accuracies)
        tiles.insert(1, Tile(f"{f} / {g}", "accuracy of the classifier / of the interpreter"))
    return tuple(tiles)


def _conciseness(evaluation: Evaluation) -> CurveChart:
    counts = evaluation.conciseness
    series = {
        "for or against, |r| > 1/τ": [means["absolute"] for means in counts.values()],
        "for, r > 1/τ": [means["signed"] for means in counts.values()],
    }
    return curve(list(counts), series)


def _idle(evaluation: Evaluation, selection: PageSelection, threshold: float) -> tuple[AttributeList, ...]:
    silent, dead = set(evaluation.never_fires), set(evaluation.dead_attributes)
    told = dead | set(evaluation.duplicate_attributes)
    taking_part = zip(selection.served, selection.opposed, strict=True)
    idle = tuple(j for j, (served, opposed) in enumerate(taking_part) if not served and not opposed and j not in told)
    groups = (
        ("Never fire", "silent on every image", evaluation.never_fires),
        ("Dead", "fire, but matter for fewer than 0.1 % of the images", tuple(j for j in evaluation.dead_attributes if j not in silent)),
        ("Duplicates", "follow another attribute so closely that they say nothing new", evaluation.duplicate_attributes),
        ("Serve no class", f"matter for single images, but have a mean relevance beyond ±{threshold:g} for no class", idle),
    )
    return tuple(AttributeList(term, meaning, tuple(map(symbol, attributes))) for term, meaning, attributes in groups if attributes)
