"""f sees each image once: its reduced activations, logits and the decoder's target, kept for all epochs of all fits."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ...arrays import Images, Maps
from ...errors import ClassifierMismatchError, ConfigurationError
from ...processes import gather, local_size, minimum_, size, together
from ...storage import StrPath, fingerprint
from ...words import in_bytes
from ..batches import BatchReader, DataSummary, LearningBatch
from ..settings import epoch_seed
from .components import Components, in_components
from .disk import Origin, open_cache, write_cache
from .layout import Narrowing, RowLayout, bytes_per_image, check_precision, marks
from .row_ranges import RowRange, found_folder, part_folder
from .rows import Rows, RowsInMemory, RowsOnDisk

SAME_MARK = 2e-3  # how far half precision, and another batch, move the mean of many pixels


@dataclass(frozen=True)
class ActivationCache:
    """Everything a post-hoc fit reads of f and the data, in memory or in a folder.

    Make one with ``FlintExplainer.cache(data)`` and pass it to several fits: a sweep over J or weights then pays for f once.

    Attributes:
        held: of several processes that made it together, this one's rows; ``None``: all rows are here.
    """

    rows: Rows
    origin: Origin
    components: Components | None = None  # in which wide taps are stored
    held: RowRange | None = None

    @classmethod
    def build(
        cls,
        reader: BatchReader,
        passes: Generator[LearningBatch, None, None],
        *,
        folder: StrPath | None = None,
        precision: str = "auto",
        images: int | None = None,
        overwrite: bool = False,
    ) -> ActivationCache:
        """Keep ``passes``, which is ``reader.passes(data)``, perhaps with a progress bar around it: ``data`` is read exactly once.

        Args:
            folder: where to keep it, made if it is not there; ``None``: in memory.
            precision: of maps and targets, "float32", "float16" or "bfloat16"; "auto": as f runs in memory, half on disk.
            images: how many there will be, where that is known: then room on the disk is asked for before the first is read.
            overwrite: replace a whole cache that stands in ``folder``.

        Raises:
            EmptyDataError: there is no batch.  ConfigurationError: an unknown precision.
            DiskSpaceError, ArtifactError: see ``write_cache``; nothing half-written stays behind.
        """
        check_precision(precision)
        view = reader.view
        origin = Origin(view.layers, view.class_ids, fingerprint(view.model))
        with closing(passes):
            components, stream = in_components(passes, reader.max_channels)
            if folder is None:
                as_run = "bfloat16" if reader.bfloat16 else "float32"
                return cls._of(_in_memory(stream, as_run if precision == "auto" else precision, images), origin, components)
            needed = (images or 0) * bytes_per_image(reader, precision) * local_size()
            place = part_folder(Path(folder))
            written = write_cache(place, origin, stream, components, precision=precision, needed=needed, overwrite=overwrite)
            return cls._of(written.rows, origin, components)

    @classmethod
    def _of(cls, rows: Rows, origin: Origin, components: Components | None) -> ActivationCache:
        return cls(rows, origin, components, None if size() == 1 else RowRange.of_part(len(rows)))

    @classmethod
    def open(cls, folder: StrPath) -> ActivationCache:
        """A cache that ``build`` left in ``folder``. All of it is read once, in bounded memory, to see that it is whole.

        Raises:
            NotAnArtifactError: no whole cache stands there, or parts of one for another number of processes.
            DamagedArtifactError: it has changed since, or has another format.
        """
        with together():
            place, in_parts = found_folder(Path(folder))
            stored = open_cache(place)
            return (cls._of if in_parts else cls)(stored.rows, stored.origin, stored.components)

    def __len__(self) -> int:
        """Images, those of all processes."""
        return self.holding.total

    def __repr__(self) -> str:
        place = "on disk" if self.on_disk else "in memory"
        layers = ", ".join(self.origin.layers)
        return f"ActivationCache({len(self):,} images, {layers}, {self.precision} {place}, {in_bytes(self.nbytes)})"

    @property
    def holding(self) -> RowRange:
        """Which rows this process reads."""
        return self.held or RowRange.of_whole(len(self.rows))

    @property
    def nbytes(self) -> int:
        """Bytes of memory, or of disk, that its images take here."""
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
        """What a fit should say of it: where, in which precision, and what was left out; ``None`` in memory and whole."""
        place = "on disk" if self.on_disk else "in memory"
        kept = f"activations were kept {place}, in {self.precision}" if self.on_disk or self.precision != "float32" else None
        left_out = None if self.components is None else self.components.note
        return "; ".join(filter(None, [kept, left_out])) or None

    def check(self, reader: BatchReader) -> None:
        """Raise unless this cache was made for the same classifier, layers, shapes, classes and resolution.

        Raises:
            ClassifierMismatchError: another classifier.
            ConfigurationError: anything else.
        """
        if self.origin.classifier != fingerprint(reader.view.model):
            made_with = self.origin.classifier[:12]
            raise ClassifierMismatchError(
                f"the activation cache was made with another classifier (fingerprint {made_with}…), or with other weights"
            )
        expected = _told(reader.view.layers, reader.view.class_ids, RowLayout.of(reader.blank(), self.precision))
        found = _told(self.origin.layers, self.origin.class_ids, self._layout)
        if found != expected:
            raise ConfigurationError(
                f"the activation cache holds (layers, map shapes, classes, resolution) {found}, this fit needs {expected}"
            )

    def strangers(self, targets: Images) -> tuple[int, int]:
        """(how many, of how many): those of these images (b, channels, h, w), at the decoder's resolution, that are none of its own.

        Of all processes, and in what all of them hold; none where that is not known.
        """
        asked, known = torch.cat(gather(marks(targets).cpu())), self.rows.marks
        nearest = asked.new_zeros(len(asked)) if known is None else torch.cdist(asked, known, p=math.inf).amin(dim=1)
        return int((minimum_(nearest) > SAME_MARK).sum()), len(asked)

    @property
    def _layout(self) -> RowLayout:
        """Of the channels that are stored, as they are or in components."""
        layout = self.rows.layout
        if self.components is None:
            return layout
        return replace(
            layout, maps=tuple((len(tap.mean), *shape[1:]) for tap, shape in zip(self.components.taps, layout.maps, strict=True))
        )

    def summary(self) -> DataSummary:
        """Of the stored images, those of all processes."""
        return self.rows.summary() if self.held is None else self.rows.summary().over_all()

    def select(self, index: Tensor) -> LearningBatch:
        """The images at ``index`` (n,), in that order, with all channels. Raises ``ConfigurationError`` where they are not all here."""
        self._require_whole()
        return self.widened(self.rows.select(index).stored_as(torch.float32))

    def widened(self, batch: LearningBatch) -> LearningBatch:
        """A batch of rows with all channels."""
        return batch if self.components is None else batch.mapped(self.components.restore)

    def part(self, index: Tensor) -> ActivationCache:
        """A cache of the images at ``index`` (n,) alone; on disk nothing is copied. Raises ``ConfigurationError`` as above."""
        self._require_whole()
        return ActivationCache(self.rows.part(index), self.origin, self.components)

    def _require_whole(self) -> None:
        if self.held is not None:
            raise ConfigurationError(f"this process has {len(self.rows)} of {len(self)} cached images; choosing among them needs them all")


class CachedBatches:
    """Shuffled mini-batches of a cache: the order of an epoch depends on the seed and the epoch alone.

    Of several processes each gives those images of a mini-batch that it holds, perhaps none.

    ``in_components``: give wide taps as they are stored.  ``bfloat16``: give maps in it and channels last, else in float32.
    """

    def __init__(
        self,
        cache: ActivationCache,
        batch_size: int,
        seed: int,
        device: torch.device,
        in_components: bool = False,
        bfloat16: bool = False,
    ) -> None:
        self.components, self.bfloat16 = cache.components if in_components else None, bfloat16
        self.cache, self.batch_size, self.seed, self.device = cache, min(batch_size, len(cache)), seed, device
        self.batches_per_epoch: int | None = len(cache) // self.batch_size

    def epoch(self, number: int) -> Iterator[LearningBatch]:
        """Every image at most once; the last, smaller batch is left out, since L_cd depends on the batch size."""
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, number))
        order = self.cache.rows.order(len(self.cache), self.batch_size, generator)
        for batch in self.cache.rows.batches(order, self.batch_size, self.cache.holding.own):
            here = batch.to(self.device)
            if self.components is not self.cache.components:
                here = self.cache.widened(here.stored_as(torch.float32))
            yield here._replace(activations=tuple(map(self._laid_out, here.activations)), target=here.target.float())

    def _laid_out(self, maps: Maps) -> Maps:
        return maps.to(torch.bfloat16, memory_format=torch.channels_last) if self.bfloat16 else maps.float()


def _in_memory(passes: Iterator[LearningBatch], precision: str, images: int | None) -> RowsInMemory:
    narrow = Narrowing(precision)
    rows = RowsInMemory.of(map(narrow, passes), precision, images)
    narrow.warn()
    return rows


def _told(layers: tuple[str, ...], class_ids: tuple[int, ...] | None, layout: RowLayout) -> tuple[object, ...]:
    return layers, list(layout.maps), (layout.classes, class_ids), layout.target[1:]
