"""A class-attribute pair as the page shows it: exemplars, where the attribute looks, what it wants to see, what it draws."""

from __future__ import annotations

from dataclasses import dataclass

from ..interpretation.cards import PairCard
from ..interpretation.classes import ClassAttributePair
from .charts import Bar, bar
from .names import Name, activation, counted, pair_anchor, signed, symbol
from .pictures import Picture, PictureBook, as_image, heat_over, signed_picture

OTHERWISE = "the classifier decides otherwise"


@dataclass(frozen=True)
class Shown:
    """A picture with what it shows in words (``alt``), what stands under it, and perhaps a ``warning``."""

    picture: Picture
    alt: str
    caption: str
    warning: str = ""


@dataclass(frozen=True)
class Maps:
    """Where the attribute looks on each exemplar, and how that was found out: ``method``, ``reason`` and the ``sanity`` of the method."""

    pictures: tuple[Shown, ...]
    method: str
    reason: str
    sanity: str


@dataclass(frozen=True)
class PairView:
    """One pair of an attribute's card and of a class's section.

    Attributes:
        drawing: AM+PI of the first exemplar; ``None``: not drawn, ``drawing_note`` says why.
        contrast: the decoder with the attribute, without it, and the difference; perhaps empty.
    """

    attribute: int
    symbol: str
    name: Name
    anchor: str
    relevance: float
    relevance_text: str
    bar: Bar
    candidates: str
    exemplars: tuple[Shown, ...]
    maps: Maps | None
    drawing: Shown | None
    drawing_note: str
    contrast: tuple[Shown, ...]


def plain_view(pair: ClassAttributePair, name: Name) -> PairView:
    """A pair without pictures."""
    return PairView(
        attribute=pair.attribute,
        symbol=symbol(pair.attribute),
        name=name,
        anchor=pair_anchor(pair.attribute, pair.class_index),
        relevance=pair.relevance,
        relevance_text=signed(pair.relevance),
        bar=bar(pair.relevance),
        candidates="",
        exemplars=(),
        maps=None,
        drawing=None,
        drawing_note="",
        contrast=(),
    )


def pair_view(card: PairCard, name: Name, book: PictureBook) -> PairView:
    """A pair with its pictures, which are put into ``book``."""
    drawing = _drawing(card, name, book)
    return PairView(
        attribute=card.pair.attribute,
        symbol=symbol(card.pair.attribute),
        name=name,
        anchor=pair_anchor(card.pair.attribute, card.pair.class_index),
        relevance=card.pair.relevance,
        relevance_text=signed(card.pair.relevance),
        bar=bar(card.pair.relevance),
        candidates=_candidates(card),
        exemplars=_exemplars(card, name, book),
        maps=_maps(card, name, book),
        drawing=drawing,
        drawing_note="" if drawing else _not_drawn(card),
        contrast=_contrast(card, name, book),
    )


def _candidates(card: PairCard) -> str:
    images = counted(card.candidates, "image")
    if not card.exemplars:
        return f"The attribute fires on none of the {images} of this class."
    return f"of {images} of this class"


def _exemplars(card: PairCard, name: Name, book: PictureBook) -> tuple[Shown, ...]:
    return tuple(
        Shown(
            book.add(as_image(pixels)),
            f"image {exemplar.position}, one of those of {name.short} on which {symbol(card.pair.attribute)} is strongest"
            + ("" if exemplar.agrees else f", and {OTHERWISE}"),
            f"image {exemplar.position}, φ\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{activation(exemplar.activation)}",
            "" if exemplar.agrees else OTHERWISE,
        )
        for exemplar, pixels in zip(card.exemplars, card.pixels, strict=True)
    )


def _maps(card: PairCard, name: Name, book: PictureBook) -> Maps | None:
    maps = card.attribution
    if maps is None:
        return None
    looks = f"where {symbol(card.pair.attribute)} looks"
    pictures = tuple(
        Shown(
            book.add(heat_over(pixels, heat)),
            f"{looks} in image {exemplar.position} of {name.short}" + ("" if exemplar.agrees else f", and {OTHERWISE}"),
            "",
            "; ".join(filter(None, ("empty: does not fire" * empty, OTHERWISE * (not exemplar.agrees)))),
        )
        for exemplar, pixels, heat, empty in zip(card.exemplars, card.pixels, maps.heat, maps.empty, strict=True)
    )
    return Maps(pictures, maps.method.replace("_", " "), maps.reason, maps.sanity)


def _drawing(card: PairCard, name: Name, book: PictureBook) -> Shown | None:
    drawn = card.picture
    if drawn is None:
        return None
    return Shown(
        book.add(as_image(drawn.pixels)),
        f"what {symbol(card.pair.attribute)} wants to see more of, drawn from image {card.exemplars[0].position} of {name.short}",
        f"φ {activation(drawn.initial_activation)} → {activation(drawn.final_activation)}",
        "" if drawn.rose else "did not rise above the image it started from: trust the image rather than this picture",
    )


def _not_drawn(card: PairCard) -> str:
    return "not drawn: the time for pictures was spent" if card.exemplars else "not drawn: no image to start from"


def _contrast(card: PairCard, name: Name, book: PictureBook) -> tuple[Shown, ...]:
    contrast = card.contrast
    if contrast is None:
        return ()
    phi = symbol(card.pair.attribute)
    return (
        Shown(book.add(as_image(contrast.whole)), f"image of {name.short} redrawn from all its attributes", "all attributes"),
        Shown(book.add(as_image(contrast.without)), f"the same without {phi}", f"without {phi}"),
        Shown(book.add(signed_picture(contrast.difference)), f"what {phi} adds to it", f"what {phi} adds"),
    )
