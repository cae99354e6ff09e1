"""A card for each attribute and a section for each class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..interpretation.classes import ClassAttributePair
from .charts import HistogramChart, histogram_chart
from .content import ReportContent
from .heatmap import PageSelection
from .names import Name, attribute_anchor, counted, percent, signed, symbol
from .pairs import PairView, pair_view, plain_view
from .pictures import PictureBook

PairViews = Mapping[tuple[int, int], PairView]  # by (attribute, class index)


@dataclass(frozen=True)
class PlainPair:
    """An attribute's relevance to a class in words, where there are no pictures; ``anchor`` of what it leads to, perhaps empty."""

    name: Name
    symbol: str
    relevance_text: str
    anchor: str


@dataclass(frozen=True)
class AttributeCard:
    """One attribute.

    Attributes:
        relevance: ``class:r`` of each class it serves, for the page's filter.
        pairs: with pictures, strongest first.  plain: served classes without.  opposed: classes that it speaks against.
    """

    index: int
    symbol: str
    anchor: str
    state: str
    strength: float
    relevance: str
    chart: HistogramChart
    pairs: tuple[PairView, ...]
    plain: tuple[PlainPair, ...]
    opposed: tuple[PlainPair, ...]


@dataclass(frozen=True)
class ClassSection:
    """One class: how often it was predicted, its attributes in order, those against it, and what a reader must know of it."""

    name: Name
    anchor: str
    facts: str
    note: str
    pairs: tuple[PairView, ...]
    linked: frozenset[int]  # attributes that have a card of their own on the page
    opposed: tuple[PlainPair, ...]


def pair_views(content: ReportContent, names: tuple[Name, ...], book: PictureBook) -> PairViews:
    """Every pair above the threshold, with pictures where there is a card."""
    found = {(pair.attribute, pair.class_index): plain_view(pair, names[pair.class_index]) for pair in _pairs(content)}
    drawn = {(card.pair.attribute, card.pair.class_index): pair_view(card, names[card.pair.class_index], book) for card in content.cards}
    return found | drawn


def _pairs(content: ReportContent) -> list[ClassAttributePair]:
    return content.survey.world.pairs(content.threshold)


def attribute_cards(
    content: ReportContent, selection: PageSelection, names: tuple[Name, ...], views: PairViews
) -> tuple[AttributeCard, ...]:
    """The cards of selected attributes that serve a class, strongest first."""
    return tuple(_card(content, selection, names, views, j) for j in selection.attributes if selection.served[j])


def _card(content: ReportContent, selection: PageSelection, names: tuple[Name, ...], views: PairViews, attribute: int) -> AttributeCard:
    served, pictured = selection.served[attribute], [views[attribute, c] for c, _ in selection.served[attribute]]
    return AttributeCard(
        attribute,
        symbol(attribute),
        attribute_anchor(attribute),
        _state(content, attribute),
        served[0][1],
        " ".join(f"{c}:{r:.4f}" for c, r in served),
        histogram_chart(content.survey.histograms[attribute]),
        tuple(view for view in pictured if has_pictures(view)),
        tuple(PlainPair(view.name, view.symbol, view.relevance_text, "") for view in pictured if not has_pictures(view)),
        tuple(PlainPair(names[c], symbol(attribute), signed(r), "") for c, r in selection.opposed[attribute]),
    )


def has_pictures(view: PairView) -> bool:
    """Whether there was a card for the pair, if only to say that there is no image."""
    return bool(view.candidates)


def _state(content: ReportContent, attribute: int) -> str:
    evaluation = content.survey.evaluation
    groups = (
        ("duplicate of another attribute", evaluation.duplicate_attributes),
        ("matters for fewer than 0.1 % of images", evaluation.dead_attributes),
    )
    return next((state for state, attributes in groups if attribute in attributes), "")


def class_sections(content: ReportContent, selection: PageSelection, names: tuple[Name, ...], views: PairViews) -> tuple[ClassSection, ...]:
    """A section for each selected class, in their order."""
    cards = {j for j in selection.attributes if selection.served[j]}
    return tuple(_section(content, selection, names[c], views, cards) for c in selection.classes)


def _section(content: ReportContent, selection: PageSelection, name: Name, views: PairViews, cards: set[int]) -> ClassSection:
    of_class = sorted((view for view in views.values() if view.name.index == name.index), key=lambda view: -view.relevance)
    opposed = [(j, r) for j, row in enumerate(selection.opposed) for c, r in row if c == name.index]
    return ClassSection(
        name,
        name.anchor,
        _facts(content, name.index),
        _note(content, name.index, bool(of_class)),
        tuple(of_class),
        frozenset(cards),
        tuple(
            PlainPair(name, symbol(j), signed(r), attribute_anchor(j) if j in cards else "")
            for j, r in sorted(opposed, key=lambda part: part[1])
        ),
    )


def _facts(content: ReportContent, index: int) -> str:
    images, disagreement = content.survey.images_of_class[index], float(content.survey.world.disagreement[index])
    if not images:
        return ""
    return f"{counted(images, 'image')} · the classifier disagrees on {percent(disagreement)}"


def _note(content: ReportContent, index: int, has_attributes: bool) -> str:
    images, counts = content.survey.images_of_class[index], int(content.survey.world.counts[index])
    notes = (
        (not images, "No image: the interpreter predicted this class for none of the images, so nothing can be said of it."),
        (images and not counts, "No attribute takes part in the explanation of any of its images."),
        (images and counts and not has_attributes, f"No attribute has a relevance above {content.threshold:g} to this class."),
    )
    return next((note for holds, note in notes if holds), "")
