"""f sees each image once: its reduced activations, logits and the decoder's target, kept for all epochs of all fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..arrays import Activations, Images, Logits
from ..classifier.view import ClassifierView
from ..data import Batch, Data, Labels, batches, class_of
from ..errors import ClassifierMismatchError, ConfigurationError, EmptyDataError
from ..measures import area_resize
from ..storage import fingerprint

Reduce = Callable[[Activations], Activations]


class LearningBatch(NamedTuple):
    """What one optimiser step needs of f and the data."""

    activations: Activations
    logits: Logits  # f's, over the explained classes
    target: Images  # the classifier's input at the decoder's resolution
    classes: Tensor  # (b,) the class an image counts under: its label, or f's prediction where there is none
    prediction: Tensor | None = None  # L_pred of these images, weighted, with its graph; by design only

    def to(self, device: torch.device) -> LearningBatch:
        """The same batch on ``device``."""
        return LearningBatch(
            tuple(maps.to(device) for maps in self.activations), self.logits.to(device), self.target.to(device), self.classes.to(device)
        )


class Preparation(NamedTuple):
    """How a batch of images becomes a ``LearningBatch``: whatever of Ψ and d is not learnt."""

    view: ClassifierView
    reduce: Reduce
    resolution: tuple[int, int]
    image_shape: tuple[int, int, int]
    device: torch.device
    labels: Labels = "optional"
    bfloat16: bool = False  # f's pass, as autocast does it

    def bytes_per_image(self) -> int:
        """Of a cached image, in float32."""
        maps = self.reduce(tuple(torch.zeros(1, *shape) for shape in self.view.tap_shapes))
        pixels = self.image_shape[0] * self.resolution[0] * self.resolution[1]
        return sum(tap.nbytes for tap in maps) + 4 * (pixels + self.view.num_classes) + 8

    def read(self, data: Data) -> Iterator[Batch]:
        """The checked batches of ``data``; labels, where there are any, are positions in the explained classes."""
        return batches(data, device=self.device, image_shape=self.image_shape, num_classes=self.view.num_classes, labels=self.labels)

    @torch.no_grad()
    def passes(self, data: Data) -> Iterator[LearningBatch]:
        """One pass of the frozen f over ``data``."""
        with self.view.frozen(bfloat16=self.bfloat16) as run:
            for batch in self.read(data):
                result = run(batch.images)
                classes = self.view.kind.prediction(result.logits) if batch.labels is None else class_of(batch.labels)
                yield LearningBatch(self.reduce(result.activations), result.logits, area_resize(batch.images, self.resolution), classes)


@dataclass(frozen=True)
class Survey:
    """What one pass tells of the data.

    Attributes:
        class_means: the mean image of each class (C, channels, h, w); classes never seen get the overall mean.
    """

    batches: int
    images: int
    class_means: Tensor

    @classmethod
    def of(cls, stream: Iterable[LearningBatch], num_classes: int) -> Survey:
        """Raises ``EmptyDataError`` where ``stream`` holds nothing."""
        number, counts, sums = 0, torch.zeros(num_classes, dtype=torch.float64), torch.zeros(())
        for batch in stream:
            number += 1
            members = F.one_hot(batch.classes.cpu(), num_classes).double()
            counts = counts + members.sum(dim=0)
            sums = sums + torch.einsum("bk,bchw->kchw", members, batch.target.cpu().double())
        if not number:
            raise EmptyDataError("the data held no batch, there is nothing to learn from")
        overall = sums.sum(dim=0) / counts.sum()
        means = torch.where(counts.view(-1, 1, 1, 1) > 0, sums / counts.clamp_min(1).view(-1, 1, 1, 1), overall)
        return cls(number, int(counts.sum()), means.float())


@dataclass(frozen=True)
class ActivationCache:
    """Everything a post-hoc fit reads of f and the data, in memory, on the CPU, in float32.

    Build one with ``FlintExplainer.cache(data)`` and pass it to several fits: a sweep over J or weights then pays for f once.
    """

    stored: LearningBatch
    layers: tuple[str, ...]
    class_ids: tuple[int, ...] | None
    classifier: str  # its fingerprint

    @classmethod
    def build(cls, preparation: Preparation, passes: Iterable[LearningBatch]) -> ActivationCache:
        """Keep ``passes``, which is ``preparation.passes(data)``, perhaps with a progress bar around it: ``data`` is read exactly once.

        Raises:
            EmptyDataError: there is no batch.
        """
        parts = [part.to(torch.device("cpu")) for part in passes]
        if not parts:
            raise EmptyDataError("the data held no batch, there is nothing to learn from")
        maps = tuple(torch.cat(tap) for tap in zip(*(part.activations for part in parts), strict=True))
        logits, target, classes = (torch.cat(column) for column in zip(*(part[1:4] for part in parts), strict=True))
        view = preparation.view
        return cls(LearningBatch(maps, logits, target, classes), view.layers, view.class_ids, fingerprint(view.model))

    def __len__(self) -> int:
        return len(self.stored.logits)

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        tensors = (*self.stored.activations, *self.stored[1:4])
        return sum(tensor.nbytes for tensor in tensors)

    def check(self, preparation: Preparation) -> None:
        """Raise unless this cache was made for the same classifier, layers, shapes, classes and resolution.

        Raises:
            ClassifierMismatchError: another classifier.
            ConfigurationError: anything else.
        """
        if self.classifier != fingerprint(preparation.view.model):
            raise ClassifierMismatchError(
                f"the activation cache was made with another classifier (fingerprint {self.classifier[:12]}…), or with other weights"
            )
        expected_maps = preparation.reduce(tuple(torch.zeros(1, *shape) for shape in preparation.view.tap_shapes))
        expected = (
            preparation.view.layers,
            [tuple(maps.shape[1:]) for maps in expected_maps],
            (preparation.view.num_classes, preparation.view.class_ids),
            preparation.resolution,
        )
        found = (
            self.layers,
            [tuple(maps.shape[1:]) for maps in self.stored.activations],
            (self.stored.logits.shape[1], self.class_ids),
            tuple(self.stored.target.shape[2:]),
        )
        if found != expected:
            raise ConfigurationError(
                f"the activation cache holds (layers, map shapes, classes, resolution) {found}, this fit needs {expected}"
            )

    def survey(self, num_classes: int) -> Survey:
        """Of the stored images, in order."""
        return Survey.of((self.select(index) for index in torch.arange(len(self)).split(1024)), num_classes)

    def select(self, index: Tensor) -> LearningBatch:
        """The images at ``index`` (n,), in that order."""
        stored = self.stored
        return LearningBatch(
            tuple(maps[index] for maps in stored.activations), stored.logits[index], stored.target[index], stored.classes[index]
        )


class CachedBatches:
    """Shuffled mini-batches of a cache: the order of an epoch depends on the seed and the epoch alone."""

    def __init__(self, cache: ActivationCache, batch_size: int, seed: int, device: torch.device) -> None:
        self.cache, self.batch_size, self.seed, self.device = cache, min(batch_size, len(cache)), seed, device
        self.batches_per_epoch: int | None = len(cache) // self.batch_size

    def epoch(self, number: int) -> Iterator[LearningBatch]:
        """Every image at most once; the last, smaller batch is left out, since L_cd depends on the batch size."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        order = torch.randperm(len(self.cache), generator=generator)
        for index in order[: self.batches_per_epoch * self.batch_size].split(self.batch_size):  # type: ignore[operator]
            yield self.cache.select(index).to(self.device)


class LiveBatches:
    """Mini-batches as the user's loader gives them, f run in each epoch: for augmented data, or data too large to cache."""

    def __init__(self, preparation: Preparation, data: Data, batches_per_epoch: int | None) -> None:
        self.preparation, self.data, self.batches_per_epoch = preparation, data, batches_per_epoch

    def epoch(self, number: int) -> Iterator[LearningBatch]:
        """The user's own batches in the user's own order."""
        yield from self.preparation.passes(self.data)
