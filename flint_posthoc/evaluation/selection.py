"""How many attributes? A sweep over J with cross-validated measures, and the smallest J beyond which fidelity hardly rises (the paper)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..canvas import Figure, with_notes_below
from ..charts import curves
from ..classifier.prepare import PreparedClassifier
from ..classifier.taps import no_trace
from ..errors import ConfigurationError
from ..interpreter.fitted import FittedInterpreter, ReadBatch
from ..learning.batches import LearningBatch
from ..learning.caching.cache import ActivationCache
from ..learning.fitting import fit, learning_mode
from ..learning.presets import FlintConfig
from ..learning.request import FitRequest
from ..measures import SHOWN_TAU
from ..words import number, percent, plain, table, with_notes
from .evaluation import Evaluation, EvaluationSums, batch_sums, conclude

HEADS = ("fidelity", "reconstruction", "CNS, τ = 2", "in use", "duplicate or dead")  # over ``SizeScore.cells``
BATCH = 1024


@dataclass(frozen=True, kw_only=True)
class SizeScore:
    """What J attributes are worth on held-out images, a mean over folds.

    Attributes:
        fidelity: share in [0, 1]; fidelity_error is the standard error of the mean over folds.
        reconstruction: error relative to the class-mean image's.  conciseness: CNS at τ = 2.
        live: attributes in use.  wasted: duplicates and dead ones.
    """

    num_attributes: int
    fidelity: float
    fidelity_error: float
    reconstruction: float
    conciseness: float
    live: float
    wasted: float

    @property
    def cells(self) -> tuple[str, ...]:
        """A row of a table under ``HEADS``."""
        fidelity = f"{percent(self.fidelity)} ± {100 * self.fidelity_error:.2f}"
        return fidelity, number(self.reconstruction), number(self.conciseness), number(self.live, 1), number(self.wasted, 1)

    @classmethod
    def of(cls, evaluations: Sequence[Evaluation]) -> SizeScore:
        """From one evaluation a fold."""
        fidelity = torch.tensor([entry.fidelity for entry in evaluations], dtype=torch.float64)
        return cls(
            num_attributes=evaluations[0].num_attributes,
            fidelity=float(fidelity.mean()),
            fidelity_error=float(fidelity.std()) / math.sqrt(len(fidelity)),
            reconstruction=_mean(entry.relative_reconstruction_error for entry in evaluations),
            conciseness=_mean(entry.conciseness[SHOWN_TAU]["absolute"] for entry in evaluations),
            live=_mean(len(entry.live_attributes) for entry in evaluations),
            wasted=_mean(len(entry.duplicate_attributes) + len(entry.dead_attributes) for entry in evaluations),
        )


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def recommend(scores: Sequence[SizeScore], tolerance: float) -> int:
    """The place of the smallest J whose fidelity is within ``tolerance``, or within one standard error, of the best one's."""
    best = max(scores, key=lambda entry: entry.fidelity)
    enough = best.fidelity - max(tolerance, best.fidelity_error) - 1e-12
    return min((place for place, entry in enumerate(scores) if entry.fidelity >= enough), key=lambda place: scores[place].num_attributes)


@dataclass(frozen=True)
class Selection:
    """A sweep over J.

    Attributes:
        scores: by rising J.
        tolerance: what "hardly" means, in shares of images.
    """

    images: int
    folds: int
    tolerance: float
    scores: tuple[SizeScore, ...]
    notes: tuple[str, ...] = ()

    @property
    def recommended(self) -> int:
        """The smallest J beyond which fidelity hardly rises."""
        return self.scores[recommend(self.scores, self.tolerance)].num_attributes

    def __str__(self) -> str:
        rows = [(f"J = {s.num_attributes}" + " *" * (s.num_attributes == self.recommended), *s.cells) for s in self.scores]
        return with_notes([table(("attributes", *HEADS), rows), self.recommendation()], self.notes)

    def recommendation(self) -> str:
        """What to take and why, in words."""
        place = recommend(self.scores, self.tolerance)
        chosen, best = self.scores[place], max(self.scores, key=lambda entry: entry.fidelity)
        gain = 100 * (best.fidelity - chosen.fidelity)
        words = [f"Take J = {chosen.num_attributes}: {percent(chosen.fidelity)} fidelity over {self.folds} folds of {self.images:,} images"]
        words.append(f"; J = {best.num_attributes} would add {gain:.2f} points" if best is not chosen else ", the best of all tried")
        if place == len(self.scores) - 1 and len(self.scores) > 1:
            words.append(". It is the largest one tried: fidelity may rise further, try larger ones too")
        if chosen.wasted > 0.25 * chosen.num_attributes:
            words.append(f". {number(chosen.wasted, 1)} of its attributes are duplicates or dead, so fewer may do")
        return "".join(words) + "."

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return plain(self) | {"recommended": self.recommended, "recommendation": self.recommendation()}

    def plot(self) -> Figure:
        """Measures over J, the recommended one marked."""
        sizes = [score.num_attributes for score in self.scores]
        lines: dict[str, Callable[[SizeScore], float]] = {
            "fidelity": lambda score: score.fidelity,
            "reconstruction error, relative": lambda score: score.reconstruction,
            "share of attributes in use": lambda score: score.live / score.num_attributes,
        }
        series = {name: (sizes, [read(score) for score in self.scores]) for name, read in lines.items()}
        heading = f"How many attributes? J = {self.recommended}"
        return with_notes_below(curves(series, heading=heading, axis="J", vertical="held-out images", mark=self.recommended), self.notes)


def folds_of(images: int, folds: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """(learnt from, held out) for each fold: every image is held out exactly once."""
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    parts = [part.sort().values for part in order.tensor_split(folds)]
    return [(torch.cat([*parts[:place], *parts[place + 1 :]]).sort().values, parts[place]) for place in range(folds)]


@torch.no_grad()
def _held_out(fitted: FittedInterpreter, batches: Iterable[LearningBatch]) -> Evaluation:
    """``evaluate`` on cached activations: the decoder's target stands for the image, the class an image counts under for its label."""
    total = EvaluationSums()
    for batch in batches:
        attributes, logits = fitted.interpreter.attributes_and_logits(batch.activations)
        agrees = fitted.view.kind.agreement(batch.logits, logits)
        read = ReadBatch(
            images=batch.target,
            labels=batch.classes,
            activations=batch.activations,
            attributes=attributes,
            classifier_logits=batch.logits,
            interpreter_logits=logits,
            inside=torch.ones_like(agrees),
            agrees=agrees,
        )
        total = total + batch_sums(fitted, read)
    return conclude(total)


def _fold(
    prepared: PreparedClassifier, cache: ActivationCache, size: int, config: FlintConfig, parts: tuple[Tensor, Tensor], device: torch.device
) -> Evaluation:
    learnt, held_out = parts
    with no_trace(prepared.view.model), learning_mode(device):
        result = fit(prepared, size, config, FitRequest(data=(), first_pass=(), cache=cache.part(learnt), progress=False), device)
    fitted = FittedInterpreter(
        view=prepared.view,
        interpreter=result.interpreter,
        image_shape=prepared.image_shape,
        normalization=prepared.normalization,
        class_names=prepared.class_names,
        class_means=result.summary.class_means.to(device),
    )
    return _held_out(fitted, (cache.select(index).to(device) for index in held_out.split(BATCH)))


def check_sizes(sizes: Sequence[int], folds: int, images: int | None) -> None:
    """Raise ``ConfigurationError`` unless each size can be fitted once a fold; ``images``: how many there are, where that is known."""
    if len(sizes) == 0 or min(sizes) < 1 or len(set(sizes)) != len(sizes):
        raise ConfigurationError(f"sizes must be different numbers of attributes, each at least 1, got {list(sizes)}")
    if folds < 2 or (images is not None and folds > images):
        raise ConfigurationError(f"folds must be at least 2 and at most the {images} cached images, got {folds}")


def sweep_sizes(
    prepared: PreparedClassifier,
    cache: ActivationCache,
    sizes: Sequence[int],
    *,
    config: FlintConfig | None = None,
    folds: int = 3,
    tolerance: float = 0.005,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Selection:
    """Fit every J on all folds but one, judge it on that one: ``len(sizes)`` × ``folds`` fits on activations that f gave once.

    Args:
        prepared: of ``FlintExplainer.preflight``.  cache: of ``FlintExplainer.cache`` on the training data.
        tolerance: a gain of fidelity below this is "hardly" one, in shares of images.
        seed: of the folds; that of the fits is the config's.

    Raises:
        ConfigurationError: no size, one below 1 or twice, fewer than two folds, more folds than images, or a cache of another layer or
            resolution. ClassifierMismatchError: a cache of another classifier.
    """
    check_sizes(sizes, folds, len(cache))
    if not 0 <= tolerance < 1:
        raise ConfigurationError(f"tolerance must be in [0, 1), a share of images, got {tolerance}")
    parts, place = folds_of(len(cache), folds, seed), torch.device(device)
    scores = [
        SizeScore.of([_fold(prepared, cache, size, config or FlintConfig(), part, place) for part in parts]) for size in sorted(sizes)
    ]
    notes = prepared.notes if cache.note is None else (*prepared.notes, cache.note)
    return Selection(len(cache), folds, tolerance, tuple(scores), notes)
