"""A card for each class-attribute pair: its exemplars, seen through AM+PI, input attribution and the decoder (paper, section 4.2)."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..canvas import Figure, as_arrays, as_html, shorten, with_notes_below
from ..data import Data
from ..errors import AttributionError, FlintWarning
from ..figures import pair_card
from ..interpreter.fitted import FittedInterpreter
from ..words import with_notes
from .ascent import MaximizationSettings, preset_for
from .attribution import AttributionSettings, attribute_pixels
from .attribution.settings import DEFAULTS
from .classes import ClassAttributePair
from .contrast import contrast
from .exemplars import FRAMED, Exemplar, Exemplars, PairLike, find_exemplars, otherwise
from .maximization import maximize

Progress = Callable[[int], None]  # told how many more pictures were drawn


class DrawnPicture(NamedTuple):
    """What AM+PI drew from a pair's first exemplar."""

    pixels: Tensor  # (channels, height, width) in [0, 1]
    initial_activation: float  # φ_j of the exemplar
    final_activation: float  # φ_j of the picture as a person gets it
    rose: bool


class AttributionMap(NamedTuple):
    """Where in each exemplar the attribute is seen."""

    heat: Tensor  # (exemplars, height, width) in [-1, 1]
    method: str
    reason: str
    exact: bool
    sanity: str  # how the method's maps change when the network is randomised, in words; empty where that was not checked
    empty: tuple[bool, ...]


class ContrastPictures(NamedTuple):
    """What the decoder draws of the first exemplar with the attribute, without it, and what the attribute adds (signed)."""

    whole: Tensor
    without: Tensor
    difference: Tensor


@dataclass(frozen=True)
class PairCard:
    """Everything there is to see of an attribute in a class.

    Attributes:
        exemplars: strongest first, perhaps none.  pixels: the same in [0, 1].  candidates: images of the class that were seen.
        picture, attribution: ``None``: not drawn, for want of time or of an exemplar.
    """

    pair: ClassAttributePair
    class_name: str
    exemplars: tuple[Exemplar, ...]
    pixels: tuple[Tensor, ...]
    candidates: int
    picture: DrawnPicture | None = None
    attribution: AttributionMap | None = None
    contrast: ContrastPictures | None = None
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The pair in words."""
        known = "" if math.isnan(self.pair.relevance) else f", relevance {self.pair.relevance:+.2f}"
        return f"φ{self.pair.attribute} in {self.class_name!r}{known}"

    @property
    def picture_note(self) -> str:
        """How far the attribute rose in its picture, or why there is none."""
        if self.picture is None:
            return "not drawn"
        rise = f"φ{self.pair.attribute} {self.picture.initial_activation:.2f} → {self.picture.final_activation:.2f}"
        return rise if self.picture.rose else f"{rise}: did not rise"

    def __str__(self) -> str:
        strongest = ", ".join(map(str, self.exemplars)) or "no image"
        maps = "no maps" if self.attribution is None else f"maps by {self.attribution.method}"
        return with_notes([f"{self.title}: strongest in {strongest}; AM+PI {self.picture_note}; {maps}"], self.notes)

    def plot(self) -> Figure:
        """Exemplars and their maps, the drawn picture, and the decoder's contrast."""
        heat = [] if self.attribution is None else as_arrays(self.attribution.heat)
        drawn = [] if self.picture is None else as_arrays([self.picture.pixels])
        decoded = [] if self.contrast is None else as_arrays(self.contrast)
        framed = otherwise(self.exemplars)
        heading, pixels = shorten(self.title, 59) + FRAMED if any(framed) else self.title, as_arrays(self.pixels)
        figure = pair_card(pixels, heat, drawn, decoded, heading=heading, picture_note=self.picture_note, framed=framed)
        return with_notes_below(figure, self.notes)

    def _repr_html_(self) -> str:
        return as_html([self.plot()], self.title)


def draw_cards(
    fitted: FittedInterpreter,
    data: Data,
    pairs: Iterable[PairLike],
    *,
    k: int = 3,
    budget_seconds: float = 240.0,
    maximization: MaximizationSettings | None = None,
    attribution: AttributionSettings = DEFAULTS,
    progress: Progress = lambda drawn: None,
) -> list[PairCard]:
    """The cards of ``pairs``, in their order, from one pass over ``data``.

    Pictures are drawn from each pair's strongest exemplar, and its maps made, by falling relevance until ``budget_seconds`` are spent.

    Raises:
        ConfigurationError: a pair that does not exist, k < 1. DataError.
    """
    deadline = time.monotonic() + budget_seconds
    found = find_exemplars(fitted, data, pairs, k=k)
    cards = [_with_contrast(fitted, card) if card.exemplars else card for card in _bare(found)]
    return _drawn(fitted, cards, maximization or preset_for(fitted.image_shape), attribution, deadline, progress)


def _bare(found: Exemplars) -> list[PairCard]:
    rows = zip(found.pairs, found.found, found.pixels, found.candidates, strict=True)
    names, notes = found.class_names, found.notes
    return [PairCard(pair, names[pair.class_index], images, pixels, count, notes=notes) for pair, images, pixels, count in rows]


def _with_contrast(fitted: FittedInterpreter, card: PairCard) -> PairCard:
    decoded = contrast(fitted, card.exemplars[0].image[None], card.pair.attribute)
    return replace(card, contrast=ContrastPictures(*(part[0].cpu() for part in (decoded.whole, decoded.without, decoded.difference))))


def _drawn(
    fitted: FittedInterpreter,
    cards: list[PairCard],
    maximization: MaximizationSettings,
    attribution: AttributionSettings,
    deadline: float,
    progress: Progress,
) -> list[PairCard]:
    """With pictures and maps, as many as there is time for; what would end after the deadline is not begun."""
    drawn, seconds_each = list(cards), 0.0
    order = sorted((index for index, card in enumerate(cards) if card.exemplars), key=lambda index: _rank(cards[index].pair))
    while order:
        started = time.monotonic()
        if deadline <= started + seconds_each:
            break
        first = maximization.batch_size / 4  # they tell how long one takes
        room = (deadline - started) / seconds_each if seconds_each else first
        size = min(maximization.batch_size, max(1, int(room)))
        chosen, order = order[:size], order[size:]
        pictures = _pictures(fitted, [cards[index] for index in chosen], maximization)
        for index, picture in zip(chosen, pictures, strict=True):
            drawn[index] = replace(cards[index], picture=picture, attribution=_maps(fitted, cards[index], attribution))
        seconds_each = max(seconds_each, (time.monotonic() - started) / len(chosen))
        progress(len(chosen))
    return drawn


def _rank(pair: ClassAttributePair) -> float:
    """Strongest first, pairs of unknown relevance last."""
    return math.inf if math.isnan(pair.relevance) else -abs(pair.relevance)


def _maps(fitted: FittedInterpreter, card: PairCard, settings: AttributionSettings) -> AttributionMap | None:
    images = torch.stack([exemplar.image for exemplar in card.exemplars])
    try:
        maps = attribute_pixels(fitted, images, attribute=card.pair.attribute, settings=settings)
    except AttributionError as error:  # the other cards may well have theirs
        warnings.warn(f"there are no maps of {card.title}: {error}", FlintWarning, stacklevel=2)
        return None
    sanity = "" if maps.sanity is None else str(maps.sanity)
    return AttributionMap(maps.heat(), maps.method, maps.reason, maps.exact, sanity, tuple(maps.empty.tolist()))


def _pictures(fitted: FittedInterpreter, cards: Sequence[PairCard], settings: MaximizationSettings) -> list[DrawnPicture]:
    images = torch.stack([card.exemplars[0].image for card in cards])
    found = maximize(fitted, images, [card.pair.attribute for card in cards], settings=settings)
    columns = found.pixels.cpu(), found.initial_activation.tolist(), found.final_activation.tolist(), found.rose.tolist()
    return [DrawnPicture(*row) for row in zip(*columns, strict=True)]
