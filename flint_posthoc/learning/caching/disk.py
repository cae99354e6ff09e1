"""A cache on disk as a whole: written shard by shard with the manifest last, opened once every byte has been checked."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import ArtifactError, DamagedArtifactError, EmptyDataError, NotAnArtifactError
from ...locking import locked
from ...processes import gather
from ...storage import StrPath, artifact_folder, read_json, read_tensors, writable_folder, write_tensors
from ..batches import DataSummary, DataSummarySums, LearningBatch
from .components import Components
from .folder import LOCK_NAME, occupied_bytes, remove_cache, require_space, writing
from .layout import Narrowing, RowLayout, half_precision, marks, raw
from .manifest import FORMAT, NAME, SUMMARY_NAME, Manifest, StoredFile, read_manifest, write_manifest
from .rows import RowsOnDisk
from .shards import ShardReader, ShardWriter, digest_of

SUMMARY_LIMIT = 2 * 2**30  # bytes
_MEANS, _MARKS = "class_means", "marks"


class Origin(NamedTuple):
    """Whose activations a cache holds; ``classifier`` is its fingerprint."""

    layers: tuple[str, ...]
    class_ids: tuple[int, ...] | None
    classifier: str


class Known(NamedTuple):
    """What stands beside the rows: their summary, and the marks of their images."""

    summary: DataSummary
    marks: Tensor | None


class StoredCache(NamedTuple):
    """What a folder holds."""

    origin: Origin
    rows: RowsOnDisk
    components: Components | None


def write_cache(
    path: StrPath,
    origin: Origin,
    passes: Iterator[LearningBatch],
    components: Components | None = None,
    *,
    precision: str,
    needed: int,
    overwrite: bool,
) -> StoredCache:
    """Write ``passes`` into a folder. Whatever raises, no file of ours stays there; files of others are never touched.

    Args:
        components: in which ``passes`` gives wide taps.
        precision: "auto" lets the first batch decide which half precision it is.  needed: bytes, as far as they are known.

    Raises:
        ArtifactError: not writable, written by another process, or it holds a whole cache and ``overwrite`` is False.
        DiskSpaceError: before the first batch is read, or later.  EmptyDataError: there is no batch.
    """
    folder = writable_folder(path)
    with locked(folder / LOCK_NAME, "writes a cache into"):
        if not overwrite:
            _refuse_whole(folder, origin)
        require_space(folder, needed - occupied_bytes(folder), "the activations")
        remove_cache(folder)
        try:
            known, manifest = _write(folder, origin, passes, components, precision)
        except BaseException:
            with contextlib.suppress(ArtifactError):
                remove_cache(folder)
            raise
        return StoredCache(origin, RowsOnDisk(ShardReader(folder, manifest), known=known.summary, marks=known.marks), components)


def open_cache(path: StrPath) -> StoredCache:
    """What ``write_cache`` wrote. The first time in a process, all of it is read once, in bounded memory, to check its digests.

    Raises:
        NotAnArtifactError: no whole cache.  DamagedArtifactError: one that has changed, or is of another format.
    """
    folder = artifact_folder(path)
    manifest = read_manifest(folder)
    reader = ShardReader(folder, manifest)
    known, components = _read_summary(folder, manifest)
    reader.verify()
    rows = RowsOnDisk(reader, known=known.summary, marks=known.marks)
    return StoredCache(Origin(manifest.layers, manifest.class_ids, manifest.classifier), rows, components)


def _write(
    folder: Path, origin: Origin, passes: Iterator[LearningBatch], components: Components | None, precision: str
) -> tuple[Known, Manifest]:
    first = next(passes, None)
    if first is None:
        raise EmptyDataError("the data held no batch, there is nothing to learn from")
    layout = RowLayout.of(first, gather(half_precision(first))[0] if precision == "auto" else precision)
    writer, narrow, sums, seen = ShardWriter(folder, layout), Narrowing(layout.precision), DataSummarySums(layout.classes), _DataDigest()
    marked: list[Tensor] = []
    for batch in chain([first], passes):
        sums.add(batch)
        seen.add(batch)
        marked.append(marks(batch.target).cpu())
        writer.add(narrow(batch))
    writer.flush()
    narrow.warn()
    summary, known = sums.result(), torch.cat(marked)
    with writing(folder):
        told = {_MEANS: summary.class_means, _MARKS: known} | ({} if components is None else components.tensors())
        write_tensors(folder / SUMMARY_NAME, told)
        manifest = Manifest(
            classifier=origin.classifier,
            layers=origin.layers,
            class_ids=origin.class_ids,
            layout=layout,
            data=seen.result(),
            batches=summary.batches,
            class_counts=summary.class_counts,
            summary=_stored(folder / SUMMARY_NAME),
            shards=tuple(writer.shards),
            shard_rows=tuple(writer.rows),
        )
        write_manifest(folder, manifest)
    return Known(summary, known), manifest


class _DataDigest:
    """Of targets and classes in the order of the pass, however they are cut into batches."""

    def __init__(self) -> None:
        self._targets, self._classes = hashlib.blake2b(digest_size=32), hashlib.blake2b(digest_size=32)

    def add(self, batch: LearningBatch) -> None:
        """Count one batch in."""
        self._targets.update(raw(batch.target.cpu().float().contiguous()))
        self._classes.update(raw(batch.classes.cpu().long().contiguous()))

    def result(self) -> str:
        """Of all so far."""
        return hashlib.blake2b(self._targets.digest() + self._classes.digest(), digest_size=32).hexdigest()


def _stored(path: Path) -> StoredFile:
    return StoredFile(path.stat().st_size, digest_of(path))


def _read_summary(folder: Path, manifest: Manifest) -> tuple[Known, Components | None]:
    path, noted, shape = folder / SUMMARY_NAME, manifest.summary, (manifest.layout.classes, *manifest.layout.target)
    if not path.exists():
        raise DamagedArtifactError(f"{path} is missing")
    tensors = read_tensors(path, limit=min(noted.nbytes, SUMMARY_LIMIT)).tensors
    means, marked = tensors.pop(_MEANS, None), tensors.pop(_MARKS, None)
    whole = marked is None or (marked.dim() == 2 and len(marked) == manifest.images and marked.dtype == torch.float32)
    if means is None or tuple(means.shape) != shape or means.dtype != torch.float32 or not whole or _stored(path) != noted:
        raise DamagedArtifactError(f"{path} is damaged: it is not what was noted when it was written")
    try:
        components = Components.from_tensors(tensors, manifest.layout.maps) if tensors else None
    except (KeyError, ValueError) as error:
        raise DamagedArtifactError(f"{path} is damaged: {error}") from error
    return Known(DataSummary(manifest.batches, manifest.class_counts, means), marked), components


def _refuse_whole(folder: Path, origin: Origin) -> None:
    """Raise ``ArtifactError`` where the folder holds a whole cache, of any origin or of another format."""
    try:
        manifest = read_manifest(folder)
        ShardReader(folder, manifest)
    except NotAnArtifactError:
        return
    except DamagedArtifactError:
        if _format(folder) in (None, FORMAT):
            return
        raise ArtifactError(f"{folder} holds an activation cache of another format; overwrite=True replaces it") from None
    same = Origin(manifest.layers, manifest.class_ids, manifest.classifier) == origin
    whose = "this classifier and these layers: ActivationCache.open reads it," if same else "another classifier or other layers:"
    raise ArtifactError(f"{folder} holds a whole activation cache of {whose} overwrite=True replaces it")


def _format(folder: Path) -> int | None:
    try:
        told = read_json(folder / NAME).get("format")
    except ArtifactError:
        return None
    return told if isinstance(told, int) else None
