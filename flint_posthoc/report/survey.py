"""Everything that the report has to know of the data before pictures are drawn, from one pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..data import Data
from ..evaluation.evaluation import Evaluation, EvaluationSums, batch_sums, conclude
from ..interpretation.classes import GlobalInterpretation, GlobalReading
from ..interpretation.local import LocalInterpretation, interpret_locally
from ..interpreter.fitted import FittedInterpreter, ReadBatch
from .histogram import ActivationHistogram, HistogramReading
from .sampling import ImageSampler, SampledImage


@dataclass(frozen=True)
class SurveySettings:
    """How many images are looked at more closely.

    Attributes:
        samples_per_class: that go into the mean relevance of a class.
        agreeing, disagreeing, outside: that are explained one by one, as ``ImageSampler`` has it.
    """

    samples_per_class: int = 100
    agreeing: int = 20
    disagreeing: int = 12
    outside: int = 4
    seed: int = 0


@dataclass(frozen=True)
class Samples:
    """Images that are explained one by one, in the order in which a reader should see them: those on which f and g disagree first.

    Attributes:
        local: their explanations, for the class that g predicts.
        positions: of each in the data.
        labels: of each, ``None`` where the data has none.
    """

    local: LocalInterpretation
    positions: tuple[int, ...]
    labels: tuple[int | None, ...]


@dataclass(frozen=True)
class Survey:
    """What one pass over the data tells.

    Attributes:
        images_of_class: (C) on how many images g predicts each class.
        histograms: of the J attributes.
        confusions: (f's class, g's class) and on how many images they disagree so, most frequent first.
        samples: ``None`` where none were asked for.
    """

    evaluation: Evaluation
    world: GlobalInterpretation
    images_of_class: tuple[int, ...]
    histograms: tuple[ActivationHistogram, ...]
    confusions: tuple[tuple[tuple[int, int], int], ...]
    samples: Samples | None


class SurveyReading:
    """Gathers a survey batch by batch, in memory that does not grow with the data."""

    def __init__(self, fitted: FittedInterpreter, settings: SurveySettings) -> None:
        self._fitted, self._sums = fitted, EvaluationSums()
        num_classes, seed = fitted.view.num_classes, settings.seed
        self._world = GlobalReading(fitted, samples_per_class=settings.samples_per_class, agreeing_only=False, seed=seed)
        self._histograms = HistogramReading(fitted.interpreter.num_attributes)
        self._images_of_class, self._confusions = torch.zeros(num_classes, dtype=torch.int64), Counter[tuple[int, int]]()
        self._sampler = ImageSampler(
            num_classes, agreeing=settings.agreeing, disagreeing=settings.disagreeing, outside=settings.outside, seed=seed
        )

    @torch.no_grad()
    def add(self, batch: ReadBatch) -> None:
        """The images of one more batch."""
        kind = self._fitted.view.kind
        f, g = kind.prediction(batch.classifier_logits), kind.prediction(batch.interpreter_logits)
        self._sums = self._sums + batch_sums(self._fitted, batch)
        self._world.add(batch)
        self._histograms.add(batch.attributes)
        self._images_of_class += kind.members(batch.interpreter_logits).sum(dim=0).cpu()
        alike = kind.agreement(batch.classifier_logits, batch.interpreter_logits)
        self._confusions.update((first, second) for first, second in torch.stack([f, g], dim=1)[~alike].tolist() if first != second)
        self._sampler.add(batch, g, alike)

    def result(self) -> Survey:
        """What the batches so far tell. Raises ``EmptyDataError`` where there was none."""
        evaluation = conclude(self._sums, self._fitted.notes)
        images_of_class = tuple(self._images_of_class.tolist())
        confusions = tuple(self._confusions.most_common())
        samples = explained_samples(self._fitted, self._sampler.result())
        return Survey(evaluation, self._world.result(), images_of_class, self._histograms.result(), confusions, samples)


def explained_samples(fitted: FittedInterpreter, chosen: tuple[SampledImage, ...]) -> Samples | None:
    """The chosen images with their explanations."""
    if not chosen:
        return None
    local = interpret_locally(fitted, torch.stack([sample.image for sample in chosen]), "interpreter")
    return Samples(local, tuple(sample.position for sample in chosen), tuple(sample.label for sample in chosen))


def survey(
    fitted: FittedInterpreter, data: Data, settings: SurveySettings | None = None, *, seen: Callable[[int], object] = lambda images: None
) -> Survey:
    """One pass of f and g over ``data``.

    Args:
        seen: told the number of images of each batch, to show progress.

    Raises:
        DataError: empty or malformed data.
    """
    reading = SurveyReading(fitted, settings or SurveySettings())
    for batch in fitted.read(data):
        reading.add(batch)
        seen(len(batch.images))
    return reading.result()
