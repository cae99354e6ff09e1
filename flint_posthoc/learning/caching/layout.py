"""One image's row in a cache: which tensors, in which precision, and where they stand in a shard's file."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ...arrays import Images, ImageShape, MapShape
from ...errors import ConfigurationError, FlintWarning
from ...measures import area_resize
from ..batches import BatchReader, LearningBatch

STORED_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}  # of stored maps and targets
HEADROOM = 8  # how far below float16's largest number the first batch has to stay
_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}  # as safetensors calls them


class Column(NamedTuple):
    """One tensor of a row."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Of one row."""
        return self.dtype.itemsize * math.prod(self.shape)


@dataclass(frozen=True)
class RowLayout:
    """The shapes of a cached image's tensors, and the precision of its maps and target."""

    maps: tuple[MapShape, ...]
    classes: int
    target: ImageShape
    precision: str

    @classmethod
    def of(cls, batch: LearningBatch, precision: str) -> RowLayout:
        """Of batches shaped like this one."""
        maps = tuple((tap.shape[1], tap.shape[2], tap.shape[3]) for tap in batch.activations)
        return cls(maps, batch.logits.shape[1], (batch.target.shape[1], batch.target.shape[2], batch.target.shape[3]), precision)

    def of_width(self, channels: int | None) -> RowLayout:
        """With so many channels in each tap at most."""
        limit = math.inf if channels is None else channels
        return replace(self, maps=tuple((int(min(shape[0], limit)), *shape[1:]) for shape in self.maps))

    @property
    def dtype(self) -> torch.dtype:
        """Of maps and target."""
        return STORED_DTYPES[self.precision]

    @property
    def columns(self) -> tuple[Column, ...]:
        """In the order in which they stand in a file: wide numbers first, so that each starts at a multiple of its size."""
        taps = (Column(f"tap.{place}", self.dtype, shape) for place, shape in enumerate(self.maps))
        target = Column("target", self.dtype, self.target)
        return (Column("classes", torch.int64, ()), Column("logits", torch.float32, (self.classes,)), *taps, target)

    @property
    def row_bytes(self) -> int:
        return sum(column.nbytes for column in self.columns)

    def empty(self, rows: int) -> LearningBatch:
        """Memory for so many rows."""
        classes, logits, *maps, target = (torch.empty(rows, *column.shape, dtype=column.dtype) for column in self.columns)
        return LearningBatch(tuple(maps), logits, target, classes)

    def header(self, rows: int) -> bytes:
        """What a safetensors file of so many rows begins with."""
        entries, start = {}, 0
        for column in self.columns:
            stop = start + rows * column.nbytes
            entries[column.name] = {"dtype": _NAMES[column.dtype], "shape": [rows, *column.shape], "data_offsets": [start, stop]}
            start = stop
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def file_bytes(self, rows: int) -> int:
        """The size of that file."""
        return len(self.header(rows)) + rows * self.row_bytes


def columns_of(batch: LearningBatch) -> tuple[Tensor, ...]:
    """A batch's tensors in the order of ``RowLayout.columns``."""
    return (batch.classes, batch.logits, *batch.activations, batch.target)


def raw(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU; writing to them writes to the tensor."""
    view: memoryview = tensor.reshape(-1).view(torch.uint8).numpy().data
    return view


def check_precision(precision: str) -> str:
    """``precision`` as it is. Raises ``ConfigurationError`` for an unknown one."""
    if precision not in ("auto", *STORED_DTYPES):
        raise ConfigurationError(f"precision of a cache must be one of {['auto', *STORED_DTYPES]}, got {precision!r}")
    return precision


def half_precision(batch: LearningBatch) -> str:
    """float16 where maps and target of this batch, with room above, lie in its normal range; else bfloat16."""
    numbers = torch.finfo(torch.float16)
    peaks = [float(column.abs().max()) for column in (*batch.activations, batch.target)]
    fits = all(peak == 0 or numbers.tiny <= peak <= numbers.max / HEADROOM for peak in peaks)
    return "float16" if fits else "bfloat16"


class Narrowing:
    """Brings batches to the CPU and into one precision; ``clipped`` numbers were too large for it and became its largest."""

    def __init__(self, precision: str) -> None:
        self.dtype, self.clipped = STORED_DTYPES[precision], 0

    def __call__(self, batch: LearningBatch) -> LearningBatch:
        """The batch as it is kept."""
        here = batch.to(torch.device("cpu"))
        return here._replace(activations=tuple(map(self._narrow, here.activations)), target=self._narrow(here.target))

    def _narrow(self, column: Tensor) -> Tensor:
        if column.dtype == self.dtype:
            return column
        narrow = column.to(self.dtype)
        beyond = narrow.isinf() & column.isfinite()
        if not beyond.any():
            return narrow
        self.clipped += int(beyond.sum())
        return torch.where(beyond, narrow.sign() * torch.finfo(self.dtype).max, narrow)

    def warn(self) -> None:
        """Say how many numbers were clipped, if any."""
        if self.clipped:
            warnings.warn(
                f"{self.clipped:,} activations were too large for {self.dtype} and were cut to {torch.finfo(self.dtype).max:g}; "
                "keep the cache in precision='bfloat16' or 'float32'",
                FlintWarning,
                stacklevel=2,
            )


def bytes_per_image(reader: BatchReader, precision: str) -> int:
    """Of a cached image; "auto" counts as half precision."""
    layout = RowLayout.of(reader.blank(), "float16" if precision == "auto" else precision)
    return layout.of_width(reader.max_channels).row_bytes


def blocks(rows: int, size: int) -> Iterator[Tensor]:
    """0 … rows - 1 in consecutive pieces, made one at a time."""
    return (torch.arange(start, min(start + size, rows)) for start in range(0, rows, size))


def marks(targets: Images) -> Float[Tensor, "b _"]:
    """What images are known again by, in another precision too: the mean colours of their quarters, (b, up to 4 x channels)."""
    quarters = (min(2, targets.shape[2]), min(2, targets.shape[3]))
    return area_resize(targets.float(), quarters).flatten(1)
