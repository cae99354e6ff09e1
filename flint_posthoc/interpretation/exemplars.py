"""Maximum activating samples (MAS): the images of a class on which an attribute is strongest (paper, section 4.1)."""

from __future__ import annotations

import math
import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor
from torch.nn.functional import one_hot

from ..arrays import Members
from ..canvas import Figure, as_arrays, with_notes_below
from ..data import Data
from ..errors import ConfigurationError, MissingLabelsError
from ..figures import strips
from ..interpreter.fitted import FittedInterpreter, ReadBatch
from ..processes import gather, rank, size, together
from ..splitting import own_part
from ..words import with_notes
from .classes import ClassAttributePair

OTHERWISE = "f decides otherwise"
FRAMED = f" (framed: {OTHERWISE})"
PairLike: TypeAlias = ClassAttributePair | Iterable[Any]  # (attribute, class index), perhaps with a relevance


class Exemplar(NamedTuple):
    """An image of a class on which an attribute fires."""

    position: int  # of the image in the data, counted from 0
    activation: float  # φ_j(x) > 0
    image: Tensor  # (channels, height, width), as the classifier sees it, on the CPU
    agrees: bool  # g decides as f does; else the image shows what g, and not f, takes for the class

    def __str__(self) -> str:
        caution = "" if self.agrees else f", {OTHERWISE}"
        return f"image {self.position} ({self.activation:.2f}{caution})"


@dataclass(frozen=True)
class Exemplars:
    """For each pair its strongest images.

    Attributes:
        found: one tuple a pair, strongest first (ties: the earlier image). Fewer than k, perhaps none, where the attribute fires on fewer.
        candidates: how many images of the pair's class there were.
        pixels: the images of ``found`` in [0, 1].
    """

    pairs: tuple[ClassAttributePair, ...]
    found: tuple[tuple[Exemplar, ...], ...]
    candidates: tuple[int, ...]
    pixels: tuple[tuple[Tensor, ...], ...]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pairs)

    def title(self, index: int) -> str:
        """Pair ``index`` in words."""
        pair = self.pairs[index]
        missing = "" if self.found[index] else f" (no image of {self.candidates[index]})"
        return f"φ{pair.attribute}: {self.class_names[pair.class_index]}{missing}"

    def plot(self) -> Figure:
        """A row of images for each pair."""
        titles = [self.title(index) for index in range(len(self))]
        framed = [otherwise(exemplars) for exemplars in self.found]
        heading = "Where each attribute is strongest" + FRAMED * any(map(any, framed))
        figure = strips(titles, [as_arrays(images) for images in self.pixels], heading=heading, framed=framed)
        return with_notes_below(figure, self.notes)

    def __str__(self) -> str:
        lines = [f"Exemplars of {len(self)} class-attribute pairs"]
        for index, exemplars in enumerate(self.found):
            lines.append(f"{self.title(index)}  {', '.join(map(str, exemplars))}".rstrip())
        return with_notes(lines, self.notes)


def otherwise(exemplars: Sequence[Exemplar]) -> tuple[bool, ...]:
    """On which of them f decides otherwise than g."""
    return tuple(not exemplar.agrees for exemplar in exemplars)


def _predicted(fitted: FittedInterpreter, batch: ReadBatch) -> Members:
    return fitted.view.kind.members(batch.interpreter_logits)


def _labelled(fitted: FittedInterpreter, batch: ReadBatch) -> Members:
    fitted.require_one_label("a true class")
    if batch.labels is None:
        raise MissingLabelsError("exemplars by true class need labels, and this data has none; by='interpreter' takes g's predictions")
    return one_hot(batch.labels, fitted.view.num_classes).bool()


MEMBERS: dict[str, Callable[[FittedInterpreter, ReadBatch], Members]] = {"interpreter": _predicted, "label": _labelled}


def checked_pairs(fitted: FittedInterpreter, pairs: Iterable[PairLike]) -> tuple[ClassAttributePair, ...]:
    """``pairs`` with their classes and attributes checked; a plain (attribute, class) gets relevance NaN.

    Raises:
        ConfigurationError: a pair that does not exist, or no pair.
    """
    limits = (fitted.interpreter.num_attributes, fitted.view.num_classes)
    checked = [_as_pair(pair) for pair in pairs]
    for pair in checked:
        if not (0 <= pair.attribute < limits[0] and 0 <= pair.class_index < limits[1]):
            raise ConfigurationError(
                f"there is no pair of attribute {pair.attribute} and class {pair.class_index}: "
                f"attributes are 0 to {limits[0] - 1}, classes 0 to {limits[1] - 1}"
            )
    return tuple(checked)


def _as_pair(pair: Any) -> ClassAttributePair:
    try:
        attribute, class_index, *relevance = pair
        return ClassAttributePair(operator.index(attribute), operator.index(class_index), float(*relevance or (math.nan,)))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"pairs are (attribute, class index), or those of global_interpretation(...).pairs(); got {pair!r}"
        ) from error


class ExemplarSearch:
    """Keeps the k strongest images of each pair while batches go by; memory O(pairs · k)."""

    def __init__(self, fitted: FittedInterpreter, pairs: Iterable[PairLike], *, k: int = 3, by: str = "interpreter") -> None:
        if k < 1 or by not in MEMBERS:
            raise ConfigurationError(f"exemplars need k of at least 1 and by one of {sorted(MEMBERS)}, got k={k} and by={by!r}")
        self._fitted, self._k, self._members = fitted, k, MEMBERS[by]
        self._pairs = checked_pairs(fitted, pairs)
        self._found: list[list[Exemplar]] = [[] for _ in self._pairs]
        self._of_class: dict[int, list[int]] = defaultdict(list)
        for index, pair in enumerate(self._pairs):
            self._of_class[pair.class_index].append(index)
        self._images_of_class: dict[int, int] = defaultdict(int)
        self._seen = 0

    def add(self, batch: ReadBatch) -> None:
        """The images of one more batch."""
        of_class, attributes = self._members(self._fitted, batch).cpu(), batch.attributes.cpu()
        for class_index in of_class.any(dim=0).nonzero().flatten().tolist():
            members = of_class[:, class_index].nonzero().flatten()
            self._images_of_class[class_index] += len(members)
            for index in self._of_class.get(class_index, ()):
                self._merge(index, members, attributes[members, self._pairs[index].attribute], batch)
        self._seen += len(of_class)

    def _merge(self, index: int, members: Tensor, activations: Tensor, batch: ReadBatch) -> None:
        kept = self._found[index]
        floor = kept[-1].activation if len(kept) == self._k else 0.0
        order = activations.argsort(descending=True, stable=True)[: self._k]
        for row, activation in zip(members[order].tolist(), activations[order].tolist(), strict=True):
            if activation > floor:
                image, agrees = batch.images[row].to("cpu", copy=True), bool(batch.agrees[row])
                kept.append(Exemplar(self._seen + row, activation, image, agrees))
        kept.sort(key=lambda exemplar: (-exemplar.activation, exemplar.position))
        del kept[self._k :]

    def result(self) -> Exemplars:
        """What was found so far, in the data of all processes."""
        found = self._best()
        pixels = [tuple(self._pixels(exemplars)) for exemplars in found]
        images_of_class = sum(map(Counter, gather(dict(self._images_of_class))), Counter())
        candidates = tuple(images_of_class[pair.class_index] for pair in self._pairs)
        return Exemplars(self._pairs, tuple(map(tuple, found)), candidates, tuple(pixels), self._fitted.class_names, self._fitted.notes)

    def _best(self) -> list[list[Exemplar]]:
        """For each pair the strongest images that any process found; only these are sent around."""
        first = sum(gather(self._seen)[: rank()])
        own = [[exemplar._replace(position=first + exemplar.position) for exemplar in exemplars] for exemplars in self._found]
        if size() == 1:
            return own
        told = gather([[(-exemplar.activation, exemplar.position, exemplar.agrees) for exemplar in exemplars] for exemplars in own])
        best = [sorted(chain.from_iterable(entries))[: self._k] for entries in zip(*told, strict=True)]
        wanted = {position for entries in best for _, position, _ in entries}
        images = {exemplar.position: exemplar.image for exemplars in own for exemplar in exemplars if exemplar.position in wanted}
        everywhere = {position: image for part in gather(images) for position, image in part.items()}
        return [[Exemplar(place, -negative, everywhere[place], agrees) for negative, place, agrees in entries] for entries in best]

    def _pixels(self, exemplars: Sequence[Exemplar]) -> Iterable[Tensor]:
        return (self._fitted.normalization.denormalize(exemplar.image[None])[0].clamp(0, 1) for exemplar in exemplars)


def find_exemplars(fitted: FittedInterpreter, data: Data, pairs: Iterable[PairLike], *, k: int = 3, by: str = "interpreter") -> Exemplars:
    """The ``k`` strongest images of each pair, from one pass over ``data``; of several processes together, each image once.

    Args:
        by: "interpreter": images of the class that g predicts; "label": of the true class.

    Raises:
        ConfigurationError: a pair that does not exist, k < 1, another word. MissingLabelsError: by label, without labels. DataError.
    """
    with together():
        search = ExemplarSearch(fitted, pairs, k=k, by=by)
        for batch in fitted.read_own(own_part(data)):
            search.add(batch)
        return search.result()
