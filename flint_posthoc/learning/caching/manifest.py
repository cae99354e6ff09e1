"""What stands beside the shards of a cache on disk: a JSON object, written last, so that a folder with one holds a whole cache."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import DamagedArtifactError, NotAnArtifactError
from ...storage import read_json, write_json
from .layout import STORED_DTYPES, RowLayout

FORMAT = 2
NAME, SUMMARY_NAME = "manifest.json", "summary.safetensors"
SHARDS_LIMIT, IMAGES_LIMIT, AXIS_LIMIT, LAYERS_LIMIT = 100_000, 2**40, 2**20, 1024
ROW_LIMIT = 2**30  # bytes of one image


class StoredFile(NamedTuple):
    """A file of the cache: how large, and the digest of its bytes."""

    nbytes: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A whole cache in words and numbers.

    Attributes:
        data: digest of the targets and classes that were read, before rounding.
        batches, class_counts: of the ``DataSummary``.  summary: its class means, and the components of wide taps.
        shards, shard_rows: in order.
    """

    classifier: str
    layers: tuple[str, ...]
    class_ids: tuple[int, ...] | None
    layout: RowLayout
    data: str
    batches: int
    class_counts: tuple[int, ...]
    summary: StoredFile
    shards: tuple[StoredFile, ...]
    shard_rows: tuple[int, ...]

    @property
    def images(self) -> int:
        return sum(self.shard_rows)

    @property
    def nbytes(self) -> int:
        """Of all shards."""
        return sum(shard.nbytes for shard in self.shards)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, sealed with a digest."""
        layout = self.layout
        told = {
            "format": FORMAT,
            "classifier": self.classifier,
            "layers": list(self.layers),
            "class_ids": None if self.class_ids is None else list(self.class_ids),
            "maps": [list(shape) for shape in layout.maps],
            "classes": layout.classes,
            "target": list(layout.target),
            "precision": layout.precision,
            "images": self.images,
            "data": self.data,
            "batches": self.batches,
            "class_counts": list(self.class_counts),
            "summary": {"file": SUMMARY_NAME, "bytes": self.summary.nbytes, "digest": self.summary.digest},
            "shards": [
                {"file": shard_name(place), "rows": rows, "bytes": shard.nbytes, "digest": shard.digest}
                for place, (shard, rows) in enumerate(zip(self.shards, self.shard_rows, strict=True))
            ],
        }
        return told | {"digest": seal(told)}

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> Manifest:
        """The inverse of ``to_dict``; what it says is bounded and agrees with itself.

        Raises ``ValueError``, ``KeyError``, ``TypeError``.
        """
        if told["format"] != FORMAT:
            raise ValueError(f"it has format {told['format']!r}, this version reads {FORMAT}")
        if told["digest"] != seal({name: value for name, value in told.items() if name != "digest"}):
            raise ValueError("its digest is not that of its contents")
        layout = RowLayout(
            tuple(_shape(shape) for shape in _list(told["maps"], LAYERS_LIMIT)),
            _whole(told["classes"], 1, AXIS_LIMIT),
            _shape(told["target"]),
            _one_of(told["precision"], STORED_DTYPES),
        )
        shards = [_shard(place, entry, layout) for place, entry in enumerate(_list(told["shards"], SHARDS_LIMIT))]
        manifest = cls(
            classifier=_digest(told["classifier"]),
            layers=tuple(_text(layer) for layer in _list(told["layers"], LAYERS_LIMIT)),
            class_ids=None if told["class_ids"] is None else tuple(_whole(c, 0, AXIS_LIMIT) for c in _list(told["class_ids"], AXIS_LIMIT)),
            layout=layout,
            data=_digest(told["data"]),
            batches=_whole(told["batches"], 1, IMAGES_LIMIT),
            class_counts=tuple(_whole(count, 0, IMAGES_LIMIT) for count in _list(told["class_counts"], AXIS_LIMIT)),
            summary=_file(told["summary"], SUMMARY_NAME),
            shards=tuple(shard for shard, _ in shards),
            shard_rows=tuple(rows for _, rows in shards),
        )
        manifest._check(_whole(told["images"], 1, IMAGES_LIMIT))
        return manifest

    def _check(self, images: int) -> None:
        layout = self.layout
        if not (self.images == images == sum(self.class_counts)):
            raise ValueError(f"{images} images, {self.images} rows and {sum(self.class_counts)} counted classes contradict each other")
        if len(layout.maps) != len(self.layers) or not layout.maps:
            raise ValueError(f"{len(layout.maps)} maps for {len(self.layers)} layers")
        if len(self.class_counts) != layout.classes or (self.class_ids is not None and len(self.class_ids) != layout.classes):
            raise ValueError(f"class counts or class ids are not those of {layout.classes} classes")


def shard_name(place: int) -> str:
    """Of the file at this place; no name that stands in a manifest is ever opened."""
    return f"shard-{place:05}.safetensors"


def seal(told: dict[str, Any]) -> str:
    """The digest of a JSON object."""
    text = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """From here on the folder holds a cache. Raises ``ArtifactError``."""
    write_json(folder / NAME, manifest.to_dict())


def read_manifest(folder: Path) -> Manifest:
    """Raises ``NotAnArtifactError`` where there is none, ``DamagedArtifactError`` where it is untrue or of another format."""
    if not (folder / NAME).exists():
        raise NotAnArtifactError(f"{folder} holds no whole activation cache: {NAME} is missing, which is written last")
    told = read_json(folder / NAME)
    try:
        return Manifest.from_dict(told)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedArtifactError(f"{folder / NAME} is no manifest of an activation cache: {error}") from error


def _shard(place: int, entry: Any, layout: RowLayout) -> tuple[StoredFile, int]:
    file, rows = _file(entry, shard_name(place)), _whole(entry["rows"], 1, IMAGES_LIMIT)
    if layout.row_bytes > ROW_LIMIT or file.nbytes != layout.file_bytes(rows):
        raise ValueError(f"{shard_name(place)} of {file.nbytes} bytes cannot hold {rows} rows of {layout.row_bytes} bytes")
    return file, rows


def _file(entry: Any, name: str) -> StoredFile:
    if not isinstance(entry, dict) or entry["file"] != name:
        raise ValueError(f"expected the file {name}, it names {str(entry)[:100]}")
    return StoredFile(_whole(entry["bytes"], 1, 2**50), _digest(entry["digest"]))


def _whole(value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"expected a whole number from {least} to {most}, got {str(value)[:100]}")
    return value


def _list(value: Any, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise ValueError(f"expected a list of at most {most} entries, got {str(value)[:100]}")
    return value


def _shape(value: Any) -> tuple[int, int, int]:
    channels, height, width = (_whole(axis, 1, AXIS_LIMIT) for axis in _list(value, 3))
    return channels, height, width


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {str(value)[:100]}")
    return value


def _digest(value: Any) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", _text(value)):
        raise ValueError(f"expected a digest of 64 hexadecimal digits, got {value[:100]}")
    return str(value)


def _one_of(value: Any, names: Container[str]) -> str:
    if _text(value) not in names:
        raise ValueError(f"unknown name {value[:100]}")
    return str(value)
