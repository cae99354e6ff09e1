"""What one optimiser step reads of f and the data, how it is made from images, and what one pass tells of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from ..arrays import Activations, Images, ImageShape, Logits
from ..classifier.view import ClassifierView, OpenView, ViewPass
from ..data import Batch, Data, batches
from ..errors import EmptyDataError
from ..labels import Labels, class_of
from ..measures import area_resize
from ..memory import Halving, at_once
from ..processes import gather, size, sum_
from ..splitting import own_slices

Reduce = Callable[[Activations], Activations]


class LearningBatch(NamedTuple):
    """What one optimiser step needs of f and the data."""

    activations: Activations
    logits: Logits  # f's, over the explained classes
    target: Images  # the classifier's input at the decoder's resolution
    classes: Tensor  # (b,) the class an image counts under: its label, or f's prediction where there is none
    prediction: Tensor | None = None  # L_pred of these images, with its graph; by design only
    right: Bool[Tensor, "b decisions"] | None = None  # which of f's decisions are what the labels say; by design only

    def to(self, device: torch.device) -> LearningBatch:
        """The same batch on ``device``."""
        return self._replace(
            activations=tuple(maps.to(device) for maps in self.activations),
            logits=self.logits.to(device),
            target=self.target.to(device),
            classes=self.classes.to(device),
            right=None if self.right is None else self.right.to(device),
        )

    def stored_as(self, dtype: torch.dtype) -> LearningBatch:
        """With maps and target in another precision; logits stay as they are."""
        return self._replace(activations=tuple(maps.to(dtype) for maps in self.activations), target=self.target.to(dtype))

    def mapped(self, change: Reduce) -> LearningBatch:
        """With other activations."""
        return self._replace(activations=change(self.activations))

    def images(self) -> int:
        """How many."""
        return len(self.logits)

    def nbytes(self) -> int:
        """Of all tensors without a graph."""
        return sum(tensor.nbytes for tensor in (*self.activations, self.logits, self.target, self.classes))

    def none(self) -> LearningBatch:
        """Of the same shapes, without any image and without a graph."""
        empty = self.rows(slice(0, 0))
        return empty._replace(activations=tuple(maps.detach() for maps in empty.activations), logits=empty.logits.detach())

    def room(self, images: int) -> LearningBatch:
        """Memory for so many images of these shapes, in these precisions and memory formats."""
        columns = (_room(column, images) for column in (self.logits, self.target, self.classes))
        return LearningBatch(tuple(_room(tap, images) for tap in self.activations), *columns)

    def write(self, start: int, part: LearningBatch) -> None:
        """Copy ``part`` into the rows from ``start`` on."""
        columns = zip((*self.activations, *self[1:4]), (*part.activations, *part[1:4]), strict=True)
        for whole, rows in columns:
            whole[start : start + len(rows)] = rows

    @classmethod
    def joined(cls, parts: Sequence[LearningBatch]) -> LearningBatch:
        """The images of all parts."""
        if len(parts) == 1:
            return parts[0]
        maps = tuple(torch.cat(tap) for tap in zip(*(part.activations for part in parts), strict=True))
        logits, target, classes = (torch.cat(column) for column in zip(*(part[1:4] for part in parts), strict=True))
        flags = [part.right for part in parts if part.right is not None]
        return cls(maps, logits, target, classes, right=torch.cat(flags) if flags else None)

    def rows(self, index: Tensor | slice) -> LearningBatch:
        """The images at ``index``, in that order; maps keep their memory format."""
        maps = tuple(_taken(tap, index) for tap in self.activations)
        return LearningBatch(maps, _taken(self.logits, index), _taken(self.target, index), self.classes[index])


def _room(rows: Tensor, count: int) -> Tensor:
    """Unwritten memory like ``rows``, for ``count`` of them."""
    if _channels_last(rows):
        return torch.empty(count, *rows.shape[1:], dtype=rows.dtype, memory_format=torch.channels_last)
    return torch.empty(count, *rows.shape[1:], dtype=rows.dtype)


def _channels_last(rows: Tensor) -> bool:
    return rows.dim() == 4 and rows.is_contiguous(memory_format=torch.channels_last)


def _taken(rows: Tensor, index: Tensor | slice) -> Tensor:
    """``rows[index]``, each copied whole, as plain indexing does not."""
    if isinstance(index, slice):
        return rows[index]
    if _channels_last(rows):
        return rows.permute(0, 2, 3, 1).index_select(0, index).permute(0, 3, 1, 2)
    return rows.index_select(0, index)


class BatchReader(NamedTuple):
    """How a batch of images becomes a ``LearningBatch``: whatever of Ψ and d is not learnt."""

    view: ClassifierView
    reduce: Reduce
    resolution: tuple[int, int]
    image_shape: ImageShape
    device: torch.device
    labels: Labels = "counted"
    max_channels: int | None = None  # of a tap in a cache; wider ones are stored as so many principal components
    bfloat16: bool = False  # f's pass, as autocast does it

    def blank(self) -> LearningBatch:
        """One image's worth of zeros, for its shapes."""
        maps = self.reduce(tuple(torch.zeros(1, *shape) for shape in self.view.tap_shapes))
        target = torch.zeros(1, self.image_shape[0], *self.resolution)
        return LearningBatch(maps, torch.zeros(1, self.view.num_classes), target, torch.zeros(1, dtype=torch.int64))

    def read(self, data: Data) -> Iterator[Batch]:
        """The checked batches of ``data``; labels, where there are any, are positions in the explained classes."""
        return batches(
            data, device=self.device, image_shape=self.image_shape, num_classes=self.view.num_classes, labels=self.view.labels(self.labels)
        )

    @torch.no_grad()
    def passes(self, data: Data) -> Iterator[LearningBatch]:
        """One pass of the frozen f over ``data``."""
        halving = Halving("the classifier's pass over", at_once(self.image_shape, self.device))
        with self.view.frozen(bfloat16=self.bfloat16) as run:
            for batch in self.read(data):
                parts = halving.parts(partial(self._passed, batch, run), len(batch.images))
                yield LearningBatch.joined(list(parts))

    def labelled(self, data: Data) -> Iterator[LearningBatch]:
        """What a ``DataSummary`` needs of labelled ``data``, without a pass of f."""
        for batch in self.read(data):
            classes, target = class_of(batch.labels), area_resize(batch.images, self.resolution)  # type: ignore[arg-type]
            yield LearningBatch((), target.new_empty(len(classes), 0), target, classes)

    def _passed(self, batch: Batch, run: OpenView, part: slice) -> LearningBatch:
        images = batch.images[part]
        result = run(images)
        return self.learning_batch(images, result, None if batch.labels is None else batch.labels[part])

    def learning_batch(self, images: Images, passed: ViewPass, labels: Tensor | None, prediction: Tensor | None = None) -> LearningBatch:
        """What f's pass over ``images`` gave, at the resolutions of Ψ and d."""
        kind, logits = self.view.kind, passed.logits
        classes = kind.prediction(logits) if labels is None else class_of(labels)
        right = None if labels is None or self.labels != "targets" else kind.decisions(logits) == kind.wanted(labels)
        return LearningBatch(self.reduce(passed.activations), logits, area_resize(images, self.resolution), classes, prediction, right)


@dataclass(frozen=True)
class DataSummary:
    """What one pass tells of the data.

    Attributes:
        class_counts: images that count under each class.
        class_means: the mean image of each class (C, channels, h, w); classes never seen get the overall mean.
    """

    batches: int
    class_counts: tuple[int, ...]
    class_means: Tensor

    @property
    def images(self) -> int:
        return sum(self.class_counts)

    @property
    def mean_image(self) -> Tensor:
        """Of all images, (channels, h, w)."""
        shares = torch.tensor(self.class_counts, dtype=torch.float64) / self.images
        return torch.einsum("k,kchw->chw", shares, self.class_means.cpu().double()).float()

    def over_all(self) -> DataSummary:
        """Of what all processes saw."""
        if size() == 1:
            return self
        batches = sum(gather(self.batches))
        counts = sum_(torch.tensor(self.class_counts))
        sums = sum_(self.class_means.double() * torch.tensor(self.class_counts).view(-1, 1, 1, 1))
        return DataSummary(batches, tuple(counts.tolist()), _class_means(sums, counts))

    @classmethod
    def of(cls, stream: Iterable[LearningBatch], num_classes: int) -> DataSummary:
        """Raises ``EmptyDataError`` where ``stream`` holds nothing."""
        sums = DataSummarySums(num_classes)
        for batch in stream:
            sums.add(batch)
        return sums.result()


class DataSummarySums:
    """A ``DataSummary`` in the making."""

    def __init__(self, num_classes: int) -> None:
        self._batches, self._counts = 0, torch.zeros(num_classes, dtype=torch.int64)
        self._sums: Tensor | None = None  # (C, channels, h, w)

    def add(self, batch: LearningBatch) -> None:
        """Count one batch in."""
        classes, target = batch.classes.cpu(), batch.target.cpu().double()
        self._sums = target.new_zeros(len(self._counts), *target.shape[1:]) if self._sums is None else self._sums
        self._sums.index_add_(0, classes, target)
        self._counts += classes.bincount(minlength=len(self._counts))
        self._batches += 1

    def result(self) -> DataSummary:
        """Raises ``EmptyDataError`` where nothing was counted in."""
        if self._sums is None:
            raise EmptyDataError("the data held no batch, there is nothing to learn from")
        return DataSummary(self._batches, tuple(self._counts.tolist()), _class_means(self._sums, self._counts))


def _class_means(sums: Tensor, counts: Tensor) -> Tensor:
    images = counts.view(-1, 1, 1, 1)
    return torch.where(images > 0, sums / images.clamp_min(1), sums.sum(dim=0) / images.sum()).float()


class LiveBatches:
    """Mini-batches as the user's loader gives them, f run in each epoch: for augmented data, or data too large to cache."""

    def __init__(self, reader: BatchReader, data: Data, batches_per_epoch: int | None) -> None:
        self.reader, self.data, self.batches_per_epoch = reader, data, batches_per_epoch
        self.components = None

    def epoch(self, number: int) -> Iterator[LearningBatch]:
        """The user's own batches in the user's own order; of several processes each its slices of them."""
        yield from self.reader.passes(own_slices(self.data))
