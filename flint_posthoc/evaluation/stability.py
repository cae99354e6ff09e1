"""Does another seed find the same attributes? Fits of one classifier, their attributes matched by correlation (Hungarian algorithm)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from operator import add
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..canvas import Figure, with_notes_below
from ..charts import curves
from ..classifier.adapter import TapLayout
from ..classifier.view import OpenView
from ..data import Data
from ..errors import ClassifierMismatchError, ConfigurationError
from ..interpretation.classes import class_relevance_sums
from ..interpreter.fitted import FittedInterpreter
from ..measures import AttributeMoments, RelevanceSums, attribute_moments, pearson
from ..memory import Halving, at_once
from ..storage import fingerprint
from ..words import number, percent, plain, table, with_notes
from .gathering import add_up

SAME = 0.9  # correlation above which two attributes are called the same

CrossCorrelation = Float[Tensor, "first second"]


class Match(NamedTuple):
    """Attribute ``first`` of one fit and ``second`` of another."""

    first: int
    second: int
    correlation: float  # of their activations over images
    relevance_correlation: float  # of their global relevance over classes; NaN where one of them is the same for all


def match(correlations: CrossCorrelation) -> list[tuple[int, int]]:
    """The pairing, each attribute at most once, of the largest total correlation; sorted by the first."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(correlations.numpy(), maximize=True)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


@dataclass(frozen=True)
class PairStability:
    """Two fits, by their positions. Attributes that never vary in the data have no correlation and no match.

    Attributes:
        matches: by falling correlation.
        unmatched: attributes of either fit that are left over because they never vary, or the other fit has fewer.
        elsewhere: mean correlation of all other pairs of attributes that vary. The match picks the largest, so attributes that have nothing
            to do with each other would match above it.
        agreement: share of images on which both interpreters say the same class.
    """

    first: int
    second: int
    matches: tuple[Match, ...]
    unmatched: int
    elsewhere: float
    agreement: float

    @property
    def correlation(self) -> float:
        """Mean over matches; NaN without any."""
        return _mean([entry.correlation for entry in self.matches])

    @property
    def relevance_correlation(self) -> float:
        """Mean over matches where it is known."""
        return _mean([entry.relevance_correlation for entry in self.matches])

    @property
    def same(self) -> float:
        """Share of the matches that correlate above 0.9."""
        return _mean([float(entry.correlation > SAME) for entry in self.matches])


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


@dataclass(frozen=True)
class Stability:
    """How alike several fits are, two by two, over ``images``."""

    images: int
    fits: int
    pairs: tuple[PairStability, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows = [
            (
                f"{pair.first} and {pair.second}",
                number(pair.correlation),
                number(pair.elsewhere),
                percent(pair.same),
                number(pair.relevance_correlation),
                str(pair.unmatched),
                percent(pair.agreement),
            )
            for pair in self.pairs
        ]
        heads = ("fits", "matched r", "other r", f"r > {SAME}", "r of relevance", "unmatched", "same class")
        return with_notes([table(heads, rows), self.meaning()], self.notes)

    def meaning(self) -> str:
        """The table in a few sentences."""
        matched, same = (_mean([getattr(pair, name) for pair in self.pairs]) for name in ("correlation", "same"))
        return (
            f"Attributes of {self.fits} fits, matched one to one over {self.images:,} images, correlate by {number(matched)} on average "
            f"(all other pairs by {number(_mean([pair.elsewhere for pair in self.pairs]))}, of which a match would pick the largest); "
            f"{percent(same)} of them are the same "
            f"attribute found again (r > {SAME}). What an attribute means should be read off one fit only as far as that goes."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        means = ("correlation", "relevance_correlation", "same")
        pairs = [plain(pair) | {name: plain(getattr(pair, name)) for name in means} for pair in self.pairs]
        return plain(self) | {"pairs": pairs}

    def plot(self) -> Figure:
        """The correlation of matched attributes, best match first."""
        lines = {f"fits {p.first} and {p.second}": [entry.correlation for entry in p.matches] for p in self.pairs}
        points = {name: (list(range(1, len(values) + 1)), values) for name, values in lines.items()}
        heading = "Do other seeds find the same attributes?"
        return with_notes_below(curves(points, heading=heading, axis="matched attributes", vertical="correlation"), self.notes)


@dataclass(frozen=True)
class _Sums:
    """Additive, over images of several fits at once: moments of all attributes side by side, relevance of each fit, answers that agree."""

    images: int
    moments: AttributeMoments
    relevance: tuple[RelevanceSums, ...]
    agreeing: Tensor

    @classmethod
    def of(cls, fits: Sequence[FittedInterpreter], explained: Sequence[tuple[Tensor, Tensor]]) -> _Sums:
        """One batch: Φ (b, J) and logits (b, C) of every fit."""
        kind, logits = fits[0].view.kind, [z for _, z in explained]
        relevance = tuple(
            class_relevance_sums(kind, phi, fitted.interpreter.head.weight, z) for fitted, (phi, z) in zip(fits, explained, strict=True)
        )
        agreeing = torch.stack([torch.stack([kind.agreement(one, other).sum() for other in logits]) for one in logits])
        return cls(len(logits[0]), attribute_moments(torch.cat([phi for phi, _ in explained], dim=1)), relevance, agreeing)

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(
            self.images + other.images,
            self.moments + other.moments,
            tuple(RelevanceSums(*map(add, mine, theirs)) for mine, theirs in zip(self.relevance, other.relevance, strict=True)),
            self.agreeing + other.agreeing,
        )


def _conclude(fits: Sequence[FittedInterpreter], sums: _Sums) -> Stability:
    """Match every two fits."""
    sizes = [fitted.interpreter.num_attributes for fitted in fits]
    blocks = [row.split(sizes, dim=1) for row in sums.moments.correlation().cpu().split(sizes)]
    of_classes = [(entry.sum / entry.counts).cpu() for entry in sums.relevance]
    shares = (sums.agreeing.double() / sums.images).tolist()
    varies = [block[place].diagonal() > 0 for place, block in enumerate(blocks)]
    pairs = tuple(
        _pair((a, b), blocks[a][b], (varies[a], varies[b]), (of_classes[a], of_classes[b]), shares[a][b])
        for a, b in combinations(range(len(fits)), 2)
    )
    return Stability(sums.images, len(fits), pairs, fits[0].notes)


def _pair(
    places: tuple[int, int], block: Tensor, varies: tuple[Tensor, Tensor], of_classes: tuple[Tensor, Tensor], agreement: float
) -> PairStability:
    first, second = (flags.nonzero().flatten() for flags in varies)
    alive = block[first][:, second]
    found = match(alive)
    entries = [(int(first[i]), int(second[j]), float(alive[i, j])) for i, j in found]
    matches = [Match(i, j, r, _over_classes(of_classes[0][i], of_classes[1][j])) for i, j, r in entries]
    others = alive.numel() - len(found)
    return PairStability(
        *places,
        matches=tuple(sorted(matches, key=lambda entry: -entry.correlation)),
        unmatched=block.shape[0] + block.shape[1] - 2 * len(found),
        elsewhere=float(alive.sum() - sum(r for *_, r in entries)) / others if others else math.nan,
        agreement=agreement,
    )


def _over_classes(one: Tensor, other: Tensor) -> float:
    known = ~(one.isnan() | other.isnan())
    return float(pearson(one[known], other[known])) if int(known.sum()) > 1 else math.nan


def _check(fits: Sequence[FittedInterpreter]) -> None:
    if len(fits) < 2:
        raise ConfigurationError(f"stability compares at least 2 fits, got {len(fits)}")
    first = fits[0]
    for place, other in enumerate(fits[1:], start=1):
        if other.view.model is not first.view.model and fingerprint(other.view.model) != fingerprint(first.view.model):
            raise ClassifierMismatchError(f"fit {place} explains another classifier than fit 0; stability compares fits of the same one")
        if (other.class_ids, other.image_shape) != (first.class_ids, first.image_shape):
            raise ConfigurationError(
                f"fit {place} is for classes {other.class_ids} and images {other.image_shape}, "
                f"fit 0 for {first.class_ids} and {first.image_shape}"
            )


@torch.no_grad()
def compare_fits(fits: Sequence[FittedInterpreter], data: Data) -> Stability:
    """Match the attributes of several fits of one classifier over ``data``, in one pass and bounded memory.

    Args:
        fits: at least two, perhaps of other seeds, layers or numbers of attributes; f runs once for all that tap the same layers.

    Raises:
        ConfigurationError: fewer than two, or for other classes or images. ClassifierMismatchError: of another classifier. DataError.
    """
    _check(fits)
    halving = Halving("explaining", at_once(fits[0].image_shape, fits[0].device))
    with ExitStack() as stack:
        runs = {fitted.view.layouts: stack.enter_context(fitted.view.frozen()) for fitted in {f.view.layouts: f for f in fits}.values()}
        sums = (
            _Sums.of(fits, explained)
            for batch in fits[0].batches(data)
            for explained in halving.parts(partial(_explained, fits, runs, batch.images), len(batch.images))
        )
        total = add_up(sums, "there is nothing to compare the fits on")
    return _conclude(fits, total)


def _explained(
    fits: Sequence[FittedInterpreter], runs: Mapping[tuple[TapLayout, ...], OpenView], images: Tensor, part: slice
) -> list[tuple[Tensor, Tensor]]:
    """Φ(x) and g's logits of each fit; f runs once for all that tap the same layers."""
    passes = {layouts: run.activations(images[part]) for layouts, run in runs.items()}
    return [fitted.attributes_and_logits(passes[fitted.view.layouts]) for fitted in fits]
