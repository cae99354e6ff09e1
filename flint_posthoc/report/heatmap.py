"""The class-attribute heat map as a table: which classes and attributes it shows, in which order."""

from __future__ import annotations

from dataclasses import dataclass

from .content import ReportContent
from .names import Name, attribute_anchor, counted, pair_anchor, signed, symbol
from .palette import level


@dataclass(frozen=True)
class Cell:
    """r of one pair: CSS ``level``, ``text`` for the eye, ``label`` for the ear; ``anchor`` of the pair's pictures, empty without."""

    level: str
    text: str
    label: str
    anchor: str


@dataclass(frozen=True)
class Row:
    """One attribute; ``anchor`` of its card, empty without."""

    symbol: str
    anchor: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class HeatMap:
    """The table, and in sentences what it leaves out."""

    columns: tuple[Name, ...]
    rows: tuple[Row, ...]
    omitted: tuple[str, ...]


@dataclass(frozen=True)
class PageSelection:
    """What the page shows.

    Attributes:
        classes: by position on the class axes, ascending; those with most images where there are too many.
        attributes: those relevant to a class, by falling strength; ``rows`` the same ordered by the class that each serves most.
        left_classes, left_attributes: how many are left out for want of room.
        served: for each attribute the classes with r > threshold and their r, strongest first; ``opposed``: with r < -threshold.
    """

    classes: tuple[int, ...]
    attributes: tuple[int, ...]
    rows: tuple[int, ...]
    left_classes: int
    left_attributes: int
    served: tuple[tuple[tuple[int, float], ...], ...]
    opposed: tuple[tuple[tuple[int, float], ...], ...]


def select(content: ReportContent) -> PageSelection:
    """What fits on the page."""
    relevance, limits, threshold = content.survey.world.relevance.tolist(), content.limits, content.threshold
    of_class = content.survey.images_of_class
    by_images = sorted(range(len(of_class)), key=lambda index: (-of_class[index], index))
    if len(of_class) > limits.classes:
        by_images = [index for index in by_images if of_class[index]] or by_images
    classes = tuple(sorted(by_images[: limits.classes]))
    served = tuple(_strongest([(c, r) for c, r in enumerate(row) if r > threshold]) for row in relevance)
    opposed = tuple(_strongest([(c, r) for c, r in enumerate(row) if r < -threshold]) for row in relevance)
    used = [j for j in range(len(relevance)) if served[j] or opposed[j]]
    strength = {j: abs((served[j] or opposed[j])[0][1]) for j in used}
    by_strength = sorted(used, key=lambda j: (not served[j], -strength[j], j))
    attributes = tuple(by_strength[: limits.attributes])
    rows = tuple(sorted(attributes, key=lambda j: (not served[j], (served[j] or opposed[j])[0][0], -strength[j])))
    return PageSelection(classes, attributes, rows, len(of_class) - len(classes), len(used) - len(attributes), served, opposed)


def _strongest(pairs: list[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    return tuple(sorted(pairs, key=lambda pair: -abs(pair[1])))


def heat_map(content: ReportContent, selection: PageSelection, names: tuple[Name, ...]) -> HeatMap:
    """The table of the selected classes and attributes; cells with pictures lead to them."""
    relevance = content.survey.world.relevance.tolist()
    pictured = {(card.pair.attribute, card.pair.class_index) for card in content.cards}
    rows = tuple(
        Row(
            symbol(j),
            attribute_anchor(j) if selection.served[j] else "",
            tuple(_cell(j, names[c], relevance[j][c], (j, c) in pictured) for c in selection.classes),
        )
        for j in selection.rows
    )
    return HeatMap(tuple(names[c] for c in selection.classes), rows, _omitted(content, selection))


def _cell(attribute: int, name: Name, relevance: float, pictured: bool) -> Cell:
    if relevance != relevance:
        return Cell("none", "", f"{symbol(attribute)}, {name.short}: no image", "")
    label = f"{symbol(attribute)}, {name.short}: {signed(relevance)}"
    text = signed(relevance).lstrip("+").replace("0.", ".", 1) if abs(relevance) >= 0.05 else ""
    return Cell(level(relevance), text, label, pair_anchor(attribute, name.index) if pictured else "")


def _omitted(content: ReportContent, selection: PageSelection) -> tuple[str, ...]:
    of_class, num_attributes, shown = content.survey.images_of_class, len(selection.served), len(selection.classes)
    which = "with images" if shown == sum(images > 0 for images in of_class) else "with most images"
    idle = num_attributes - len(selection.attributes) - selection.left_attributes
    sentences = (
        (selection.left_classes, f"Shown are the {shown} classes {which}, of {len(of_class):,}."),
        (
            selection.left_attributes,
            f"Shown are the {len(selection.attributes)} strongest attributes; {selection.left_attributes:,} more have a part.",
        ),
        (idle, f"Left out: {counted(idle, 'attribute')} with no relevance beyond ±{content.threshold:g} to any class."),
    )
    return tuple(sentence for number, sentence in sentences if number)
