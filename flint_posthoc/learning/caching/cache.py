"""f sees each image once: its reduced activations, logits and the decoder's target, kept for all epochs of all fits."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import ClassifierMismatchError, ConfigurationError
from ...storage import StrPath, fingerprint
from ..batches import LearningBatch, Preparation, Survey
from .disk import Origin, open_cache, write_cache
from .layout import Narrowing, RowLayout, bytes_per_image, check_precision
from .order import Order
from .rows import Rows, RowsInMemory, RowsOnDisk


@dataclass(frozen=True)
class ActivationCache:
    """Everything a post-hoc fit reads of f and the data, in memory or in a folder; it is read in float32, however it is kept.

    Make one with ``FlintExplainer.cache(data)`` and pass it to several fits: a sweep over J or weights then pays for f once.
    """

    rows: Rows
    origin: Origin

    @classmethod
    def build(
        cls,
        preparation: Preparation,
        passes: Generator[LearningBatch, None, None],
        *,
        folder: StrPath | None = None,
        precision: str = "auto",
        images: int | None = None,
        overwrite: bool = False,
    ) -> ActivationCache:
        """Keep ``passes``, which is ``preparation.passes(data)``, perhaps with a progress bar around it: ``data`` is read exactly once.

        Args:
            folder: where to keep it, made if it is not there; ``None``: in memory.
            precision: of maps and targets, "float32", "float16" or "bfloat16"; "auto": float32 in memory, half on disk.
            images: how many there will be, where that is known: then room on the disk is asked for before the first is read.
            overwrite: replace a whole cache that stands in ``folder``.

        Raises:
            EmptyDataError: there is no batch.  ConfigurationError: an unknown precision.
            DiskSpaceError, ArtifactError: see ``write_cache``; nothing half-written stays behind.
        """
        check_precision(precision)
        view = preparation.view
        origin = Origin(view.layers, view.class_ids, fingerprint(view.model))
        with closing(passes) as stream:
            if folder is None:
                return cls(_in_memory(stream, "float32" if precision == "auto" else precision), origin)
            needed = (images or 0) * bytes_per_image(preparation, precision)
            return cls(write_cache(folder, origin, stream, precision=precision, needed=needed, overwrite=overwrite).rows, origin)

    @classmethod
    def open(cls, folder: StrPath) -> ActivationCache:
        """A cache that ``build`` left in ``folder``. All of it is read once, in bounded memory, to see that it is whole.

        Raises:
            NotAnArtifactError: no whole cache stands there.  DamagedArtifactError: it has changed since, or has another format.
        """
        stored = open_cache(folder)
        return cls(stored.rows, stored.origin)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes of memory, or of disk, that its images take."""
        return self.rows.nbytes

    @property
    def precision(self) -> str:
        """In which maps and targets are kept."""
        return self.rows.layout.precision

    @property
    def on_disk(self) -> bool:
        return isinstance(self.rows, RowsOnDisk)

    @property
    def note(self) -> str | None:
        """What a fit should say of it: where, and in which precision; ``None`` in memory and unrounded."""
        place = "on disk" if self.on_disk else "in memory"
        return f"activations were kept {place}, in {self.precision}" if self.on_disk or self.precision != "float32" else None

    def check(self, preparation: Preparation) -> None:
        """Raise unless this cache was made for the same classifier, layers, shapes, classes and resolution.

        Raises:
            ClassifierMismatchError: another classifier.
            ConfigurationError: anything else.
        """
        if self.origin.classifier != fingerprint(preparation.view.model):
            made_with = self.origin.classifier[:12]
            raise ClassifierMismatchError(
                f"the activation cache was made with another classifier (fingerprint {made_with}…), or with other weights"
            )
        expected = _told(preparation.view.layers, preparation.view.class_ids, RowLayout.of(preparation.blank(), self.precision))
        found = _told(self.origin.layers, self.origin.class_ids, self.rows.layout)
        if found != expected:
            raise ConfigurationError(
                f"the activation cache holds (layers, map shapes, classes, resolution) {found}, this fit needs {expected}"
            )

    def survey(self) -> Survey:
        """Of the stored images."""
        return self.rows.survey()

    def select(self, index: Tensor) -> LearningBatch:
        """The images at ``index`` (n,), in that order."""
        return self.rows.select(index).stored_as(torch.float32)

    def part(self, index: Tensor) -> ActivationCache:
        """A cache of the images at ``index`` (n,) alone; on disk nothing is copied."""
        return ActivationCache(self.rows.part(index), self.origin)


class CachedBatches:
    """Shuffled mini-batches of a cache: the order of an epoch depends on the seed and the epoch alone.

    ``order``: ``None`` takes the one that suits where the rows are.
    """

    def __init__(self, cache: ActivationCache, batch_size: int, seed: int, device: torch.device, order: Order | None = None) -> None:
        self.cache, self.batch_size, self.seed, self.device = cache, min(batch_size, len(cache)), seed, device
        self.order = order or cache.rows.order
        self.batches_per_epoch: int | None = len(cache) // self.batch_size

    def epoch(self, number: int) -> Iterator[LearningBatch]:
        """Every image at most once; the last, smaller batch is left out, since L_cd depends on the batch size."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        order = self.order(len(self.cache), self.batch_size, generator)
        for batch in self.cache.rows.batches(order, self.batch_size):
            yield batch.to(self.device).stored_as(torch.float32)


def _in_memory(passes: Iterator[LearningBatch], precision: str) -> RowsInMemory:
    narrow = Narrowing(precision)
    rows = RowsInMemory.of(map(narrow, passes), precision)
    narrow.warn()
    return rows


def _told(layers: tuple[str, ...], class_ids: tuple[int, ...] | None, layout: RowLayout) -> tuple[object, ...]:
    return layers, list(layout.maps), (layout.classes, class_ids), layout.target[1:]
