"""Rows in files: safetensors of a bounded size, written as rows come, checked before they are used, read in pieces.

A shard holds one tensor a column (``RowLayout.columns``), so that consecutive rows are consecutive bytes of each. Its size and header
follow from the manifest alone: a file that says anything else is damaged, and nothing is allocated by what a file says.
"""

from __future__ import annotations

import hashlib
import os
import stat
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate, groupby, pairwise
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ...errors import DamagedArtifactError
from ..batches import LearningBatch
from .folder import require_space, writing
from .layout import RowLayout, columns_of, raw
from .manifest import Manifest, StoredFile, shard_name

SHARD_BYTES = 128 * 2**20
_CHUNK = 2**20  # bytes that are digested at once


class FileState(NamedTuple):
    """What tells that a file is the one that was looked at before."""

    device: int
    inode: int
    size: int
    changed: int  # nanoseconds

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


_VERIFIED: set[tuple[tuple[FileState, ...], tuple[StoredFile, ...]]] = set()  # files that this process has found as they were noted


class ShardWriter:
    """Collects rows and writes a shard whenever one is full. At most one shard is in memory."""

    def __init__(self, folder: Path, layout: RowLayout) -> None:
        self.folder, self.layout = folder, layout
        self.shards: list[StoredFile] = []
        self.rows: list[int] = []
        self._buffer = layout.empty(max(1, SHARD_BYTES // layout.row_bytes))
        self._filled = 0

    def add(self, batch: LearningBatch) -> None:
        """Rows in the layout's precision. Raises ``DiskSpaceError``, ``ArtifactError``."""
        done, capacity = 0, len(self._buffer.logits)
        while done < len(batch.logits):
            count = min(len(batch.logits) - done, capacity - self._filled)
            for kept, column in zip(columns_of(self._buffer), columns_of(batch), strict=True):
                kept[self._filled : self._filled + count] = column[done : done + count]
            done, self._filled = done + count, self._filled + count
            if self._filled == capacity:
                self.flush()

    def flush(self) -> None:
        """Write what is left as the last, smaller shard. Raises ``DiskSpaceError``, ``ArtifactError``."""
        if not self._filled:
            return
        header, digest = self.layout.header(self._filled), _digest()
        require_space(self.folder, self.layout.file_bytes(self._filled), f"the next {self._filled} images")
        with writing(self.folder), open(self.folder / shard_name(len(self.shards)), "xb") as file:
            pieces = [memoryview(header), *(raw(column[: self._filled]) for column in columns_of(self._buffer))]
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        self.shards.append(StoredFile(self.layout.file_bytes(self._filled), digest.hexdigest()))
        self.rows.append(self._filled)
        self._filled = 0


class ShardReader:
    """Rows of a whole cache by their number, through system calls into memory that the caller gives: nothing is mapped.

    Raises ``DamagedArtifactError``, also later, where a file is missing, has another size or has changed since.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest, self.layout = folder, manifest, manifest.layout
        self._starts = [0, *accumulate(manifest.shard_rows)]
        self._states = tuple(_state(folder / shard_name(place), file.nbytes) for place, file in enumerate(manifest.shards))
        self._offsets = {rows: _column_offsets(manifest.layout, rows) for rows in set(manifest.shard_rows)}

    def __len__(self) -> int:
        return self._starts[-1]

    def verify(self) -> None:
        """Read every byte once, in order, and raise ``DamagedArtifactError`` unless it is what was written.

        Files that this process has verified, and that have not changed since, are not read again.
        """
        if (self._states, self.manifest.shards) in _VERIFIED:
            return
        for place, (file, rows) in enumerate(zip(self.manifest.shards, self.manifest.shard_rows, strict=True)):
            with self._open(place) as descriptor:
                _verify(descriptor, self.folder / shard_name(place), self.layout.header(rows), file.digest)
        _VERIFIED.add((self._states, self.manifest.shards))

    def read(self, index: Tensor, into: LearningBatch) -> LearningBatch:
        """The rows at ``index``, in that order, in the first rows of ``into``; consecutive numbers are read together."""
        at, filled = 0, into.rows(slice(0, len(index)))
        columns = columns_of(filled)
        for place, pieces in groupby(self._pieces(index), key=lambda piece: piece[0]):
            offsets = self._offsets[self.manifest.shard_rows[place]]
            with self._open(place) as descriptor:
                for _, first, count in pieces:
                    for column, of_row, offset in zip(columns, self.layout.columns, offsets, strict=True):
                        _fill(descriptor, raw(column[at : at + count]), offset + first * of_row.nbytes)
                    at += count
        return filled

    def _pieces(self, index: Tensor) -> Iterator[tuple[int, int, int]]:
        """(shard, first row in it, rows) of what lies together."""
        steps = index.diff() != 1
        edges = [0, *(steps.nonzero().flatten() + 1).tolist(), len(index)] if len(index) else []
        for begin, end in pairwise(edges):
            first, last = int(index[begin]), int(index[end - 1]) + 1
            if not 0 <= first < last <= len(self):
                raise IndexError(f"rows {first} to {last - 1} of a cache of {len(self)} images")
            while first < last:
                place = bisect_right(self._starts, first) - 1
                count = min(last, self._starts[place + 1]) - first
                yield place, first - self._starts[place], count
                first += count

    @contextmanager
    def _open(self, place: int) -> Iterator[int]:
        path = self.folder / shard_name(place)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise DamagedArtifactError(f"{path} cannot be read: {error}") from error
        try:
            if FileState.of(os.fstat(descriptor)) != self._states[place]:
                raise DamagedArtifactError(f"{path} has changed since the cache was opened")
            yield descriptor
        except DamagedArtifactError:
            raise
        except OSError as error:
            raise DamagedArtifactError(f"{path} cannot be read: {error}") from error
        finally:
            os.close(descriptor)


def digest_of(path: Path) -> str:
    """Of a file's bytes, as manifests note it. Raises ``OSError``."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, _digest).hexdigest()


def _digest() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=32)


def _state(path: Path, nbytes: int) -> FileState:
    try:
        status = os.lstat(path)
    except OSError as error:
        raise DamagedArtifactError(f"{path} is missing: {error}") from error
    if not stat.S_ISREG(status.st_mode) or status.st_size != nbytes:
        raise DamagedArtifactError(f"{path} is damaged: expected a file of {nbytes:,} bytes, found {status.st_size:,}")
    return FileState.of(status)


def _column_offsets(layout: RowLayout, rows: int) -> list[int]:
    sizes = [rows * column.nbytes for column in layout.columns]
    return list(accumulate(sizes[:-1], initial=len(layout.header(rows))))


def _verify(descriptor: int, path: Path, header: bytes, expected: str) -> None:
    digest, buffer = _digest(), bytearray(_CHUNK)
    if os.pread(descriptor, len(header), 0) != header:
        raise DamagedArtifactError(f"{path} is damaged: its header is not the one that the manifest asks for")
    while count := os.readv(descriptor, [buffer]):
        digest.update(memoryview(buffer)[:count])
    if digest.hexdigest() != expected:
        raise DamagedArtifactError(f"{path} is damaged: its digest is not the one that was noted when it was written")


def _fill(descriptor: int, buffer: memoryview, offset: int) -> None:
    while len(buffer):
        count = os.preadv(descriptor, [buffer], offset)
        if not count:
            raise DamagedArtifactError("the file ends too early")
        buffer, offset = buffer[count:], offset + count
