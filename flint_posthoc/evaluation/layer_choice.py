"""Which layers? What is suggested beside every good layer alone, and the best of these with the next, by cross-validated fidelity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..words import plain, table
from .selection import HEADS, SizeScore

Layers = tuple[str, ...]
MEASURES = 4  # of a score that are shown
PAIRED = 4  # of the layers that are nearly as good alone as the best one


@dataclass(frozen=True)
class LayerScore:
    """What reading these layers is worth on held-out images, a mean over folds."""

    layers: Layers
    score: SizeScore


@dataclass(frozen=True)
class LayerComparison:
    """Choices of layers, the best first.

    Attributes:
        suggested: what ``layers=None`` takes, one of the choices.
    """

    scores: tuple[LayerScore, ...]
    suggested: Layers
    folds: int

    @property
    def gap(self) -> float:
        """By how much the best choice's fidelity exceeds that of the suggested one, a share of images."""
        found = next(entry for entry in self.scores if entry.layers == self.suggested)
        return self.scores[0].score.fidelity - found.score.fidelity

    def __str__(self) -> str:
        rows = [(" ".join(entry.layers) + " *" * (entry.layers == self.suggested), *entry.score.cells[:MEASURES]) for entry in self.scores]
        told = (
            f"* suggested: {100 * self.gap:.2f} points of fidelity below the best of {len(rows)} choices, at most: the best is what "
            f"the same {self.folds} folds favoured"
        )
        return f"{table(('layers', *HEADS[:MEASURES]), rows)}\n{told}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return plain(self) | {"gap": self.gap}


def compare_layers(
    measured: Callable[[Layers], SizeScore], suggested: Layers, good: Layers, choices: Sequence[Layers] | None, folds: int
) -> LayerComparison:
    """Ask ``measured`` for each choice once.

    Args:
        good: layers that could be read, in forward order.
        choices: to compare beside ``suggested``; ``None``: each good layer, and the best of them with each of the next four.
    """
    scores: dict[Layers, SizeScore] = {}

    def measure(wanted: Sequence[Layers]) -> None:
        scores.update({layers: measured(layers) for layers in dict.fromkeys(wanted) if layers not in scores})

    single = [(layer,) for layer in good] if choices is None else []
    measure([suggested, *single, *(choices or ())])
    if single:
        (best,), *others = sorted(single, key=lambda layers: -scores[layers].fidelity)[: 1 + PAIRED]
        measure([tuple(layer for layer in good if layer in (best, other)) for (other,) in others])
    ordered = sorted(scores.items(), key=lambda entry: -entry[1].fidelity)
    return LayerComparison(tuple(LayerScore(layers, score) for layers, score in ordered), suggested, folds)
