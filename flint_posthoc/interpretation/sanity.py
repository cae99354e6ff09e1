"""Do the maps depend on what the network learnt? Their similarity before and after it is randomised (Adebayo et al., 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class SanityScore(NamedTuple):
    """How similar a method's maps stay after a stage of randomisation."""

    stage: str
    ssim: float  # structural similarity of absolute maps, at most 1
    rank_correlation: float  # Spearman's, of absolute maps, in [-1, 1]


@dataclass(frozen=True)
class SanityCheck:
    """The similarity of each method's maps at each stage."""

    scores: dict[str, tuple[SanityScore, ...]]

    def score(self, method: str) -> SanityScore | None:
        """What is kept with the maps of ``method``; ``None`` where it was not checked."""
        return self.scores[method][-1] if method in self.scores else None
