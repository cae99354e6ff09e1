"""Does g answer by its attributes? They are permuted, and its accuracy and fidelity should fall (the slides' shuffling experiment)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from ..arrays import Attributes, Logits
from ..canvas import Figure, with_notes_below
from ..charts import ranked_bars
from ..classifier.adapter import OutputKind
from ..data import Data
from ..errors import ConfigurationError
from ..interpreter.fitted import FittedInterpreter
from ..words import percent, plain, table, with_notes
from .gathering import LIMIT, UNLABELLED, SampledRows, Score, mean_score, sample_rows, score

MATTERS = 0.01  # of fidelity: an attribute whose shuffling costs more matters by itself
SHOWN = 5


def across_samples(attributes: Attributes, generator: Generator) -> Attributes:
    """Every attribute permuted across samples, each by a permutation of its own."""
    return attributes.gather(0, torch.rand(attributes.shape, generator=generator).argsort(dim=0))


def within_samples(attributes: Attributes, generator: Generator) -> Attributes:
    """The attributes of each sample permuted among themselves."""
    return attributes.gather(1, torch.rand(attributes.shape, generator=generator).argsort(dim=1))


def one_across_samples(attribute: int, attributes: Attributes, generator: Generator) -> Attributes:
    """One attribute permuted across samples, the others as they are."""
    shuffled = attributes.clone()
    shuffled[:, attribute] = attributes[torch.randperm(len(attributes), generator=generator), attribute]
    return shuffled


Permutation = Callable[[Attributes, Generator], Attributes]


@dataclass(frozen=True, kw_only=True)
class Shuffling:
    """Scores of g, intact and with shuffled attributes; each a mean over ``repeats`` permutations.

    Attributes:
        samples: images judged, a uniform sample of those ``seen``.
        one_at_a_time: of J, attribute j permuted across samples and the others left.
        across_samples: all attributes permuted across samples, each for itself.
        within_samples: the attributes of each sample permuted among themselves.
        chance: what g's own answers would score, were they handed to other images at random.
    """

    samples: int
    seen: int
    repeats: int
    intact: Score
    one_at_a_time: tuple[Score, ...]
    across_samples: Score
    within_samples: Score
    chance: Score
    notes: tuple[str, ...] = ()

    @property
    def drops(self) -> tuple[Score, ...]:
        """What each attribute alone is worth: intact minus shuffled, of J."""
        return tuple(self.intact - shuffled for shuffled in self.one_at_a_time)

    def ranking(self) -> list[int]:
        """The attributes by falling drop of fidelity."""
        return sorted(range(len(self.drops)), key=lambda attribute: -self.drops[attribute].fidelity)

    def __str__(self) -> str:
        rows = {
            "intact": self.intact,
            **{f"φ{attribute} shuffled across samples": self.one_at_a_time[attribute] for attribute in self.ranking()[:SHOWN]},
            "all shuffled across samples": self.across_samples,
            "shuffled within each sample": self.within_samples,
            "chance": self.chance,
        }
        cells = [(name, percent(entry.fidelity), percent(entry.accuracy)) for name, entry in rows.items()]
        return with_notes([table(("attributes", "fidelity", "accuracy of g"), cells), self.meaning()], self.notes)

    def meaning(self) -> str:
        """The table in one sentence."""
        mattering = sum(drop.fidelity > MATTERS for drop in self.drops)
        lost = 100 * (self.intact - self.across_samples).fidelity
        return (
            f"Shuffling all attributes costs {lost:.1f} points of fidelity ({percent(self.chance.fidelity)} is left to chance), and "
            f"{mattering} of {len(self.drops)} attributes cost more than {100 * MATTERS:.0f} point alone "
            f"({self.samples:,} images, {self.repeats} permutations each)."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return plain(self)

    def plot(self) -> Figure:
        """The drop of fidelity of each attribute, in points, largest first."""
        order = self.ranking()
        points = [100 * self.drops[attribute].fidelity for attribute in order]
        names, heading = [f"φ{attribute}" for attribute in order], "What shuffling each attribute costs"
        return with_notes_below(ranked_bars(names, points, heading=heading, axis="points"), self.notes)


def linear_logits(attributes: Attributes, weight: Tensor, bias: Tensor) -> Logits:
    """h, in float64 so that nothing rounds differently from one batch size to the next."""
    return attributes.double() @ weight.double().T + bias.double()


def permuted_score(
    rows: SampledRows, permute: Permutation, head: tuple[Tensor, Tensor], kind: OutputKind, repeats: int, generator: Generator
) -> Score:
    """The mean score of h on ``permute``\\ d attributes."""
    logits = (linear_logits(permute(rows.attributes, generator), *head) for _ in range(repeats))
    return mean_score([score(rows, entry, kind) for entry in logits])


def chance_score(rows: SampledRows, kind: OutputKind) -> Score:
    """The expected score of g's answers on random other images: Σ_c P(f = c) P(g = c), and with labels for f."""
    classes = rows.classifier_logits.shape[1]
    labels = rows.labels[rows.labels != UNLABELLED]
    g, f, truth = (
        torch.bincount(counted, minlength=classes).double() / max(1, len(counted))
        for counted in (kind.prediction(rows.interpreter_logits), kind.prediction(rows.classifier_logits), labels)
    )
    return Score(float(g @ f), float(g @ truth) if len(labels) else None)


def shuffle(fitted: FittedInterpreter, data: Data, *, repeats: int = 5, limit: int = LIMIT, seed: int = 0) -> Shuffling:
    """Permute attributes and see what g loses.

    Args:
        repeats: permutations of each kind, drawn from ``seed``.
        limit: images looked at, a uniform sample of ``data`` from one pass; memory is ``limit`` × (J + 2C) numbers.

    Raises:
        ConfigurationError: ``repeats`` or ``limit`` below 1, or a multi-label classifier. DataError.
    """
    fitted.require_one_label("shuffling")
    if repeats < 1:
        raise ConfigurationError(f"repeats, the number of permutations, must be at least 1, got {repeats}")
    rows, kind = sample_rows(fitted, data, limit, seed), fitted.view.kind
    head = (fitted.interpreter.head.weight.detach().cpu(), fitted.interpreter.head.bias.detach().cpu())
    generator = torch.Generator().manual_seed(seed)
    judge = partial(permuted_score, rows, head=head, kind=kind, repeats=repeats, generator=generator)
    alone = tuple(judge(partial(one_across_samples, attribute)) for attribute in range(fitted.interpreter.num_attributes))
    return Shuffling(
        samples=len(rows),
        seen=rows.seen,
        repeats=repeats,
        intact=score(rows, rows.interpreter_logits, kind),
        one_at_a_time=alone,
        across_samples=judge(across_samples),  # these two draw from the generator, in this order
        within_samples=judge(within_samples),
        chance=chance_score(rows, kind),
        notes=fitted.notes,
    )
