"""Files that are either whole or absent: atomic JSON and safetensors with size limits, and fingerprints of classifiers.

Nothing here unpickles, and no path that stands in a file is ever opened.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, BinaryIO, NamedTuple, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .errors import ArtifactError, DamagedArtifactError, DiskSpaceError, NotAnArtifactError

JSON_LIMIT = 64 * 2**20  # bytes
TENSORS_LIMIT = 16 * 2**30  # bytes
JSON_DEPTH = 64  # nested lists and objects
JSON_ITEMS = 2**22  # values, each of which takes some hundred bytes once it is read
LIST_LIMIT = 1024  # entries of a list in a record
JSON_DIGITS = 20  # of a whole number: as many as 2 ** 64 - 1 has, the largest seed
HEADER_LIMIT = 16 * 2**20  # bytes that say what is in a safetensors file
_CHUNK = 2**22  # elements of a parameter that are brought to the CPU at once

StrPath = str | os.PathLike[str]


def artifact_folder(path: StrPath) -> Path:
    """``path`` if it is a folder that can be read from. Raises ``NotAnArtifactError``."""
    folder = Path(path)
    if not folder.exists():
        raise NotAnArtifactError(f"{folder} does not exist; expected a folder that was saved by flint_posthoc")
    if not folder.is_dir():
        raise NotAnArtifactError(f"{folder} is a file; expected a folder that was saved by flint_posthoc")
    return folder


def writable_folder(path: StrPath) -> Path:
    """``path`` as a folder to write into, made with its parents where missing. Raises ``ArtifactError``."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be made a folder to write into: {error}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ArtifactError(f"{folder} is not writable")
    return folder


def existing_file(path: StrPath, limit: int) -> Path:
    """``path`` if it is a regular file of at most ``limit`` bytes. Raises ``NotAnArtifactError``, ``DamagedArtifactError``."""
    file = Path(path)
    if not file.exists():
        raise NotAnArtifactError(f"{file} does not exist")
    if not file.is_file():
        raise DamagedArtifactError(f"{file} is damaged: expected a regular file")
    if file.stat().st_size > limit:
        raise DamagedArtifactError(f"{file} is too large: {file.stat().st_size} bytes, at most {limit} are read")
    return file


def write_bytes(path: StrPath, content: bytes) -> None:
    """Replace the file by ``content`` at once; what writers that were killed left of it goes.

    Raises ``DiskSpaceError``, ``ArtifactError``, and then the old file still stands.
    """
    path = Path(path)
    try:
        remove_left_over(path)
        temporary, file = _temporary(path)
        try:
            with file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, path)
            _flush(path.parent)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
    except OSError as error:
        raise cannot_write(path, error) from error


def remove_left_over(path: Path) -> None:
    """Remove the temporary files of ``path`` whose writers are gone. Raises ``OSError`` where its folder cannot be read."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.tmp")
    for name in filter(ours.fullmatch, os.listdir(path.parent)):
        with contextlib.suppress(OSError):  # somebody else's, in use, or just gone
            descriptor = os.open(path.with_name(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.with_name(name).unlink()
            finally:
                os.close(descriptor)


def cannot_write(path: StrPath, error: OSError) -> ArtifactError:
    """What the system said while ``path`` was written, as an error of ours."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DiskSpaceError(f"{path} cannot be written, the disk is full: {error}")
    return ArtifactError(f"{path} cannot be written: {error}")


def write_json(path: StrPath, value: Mapping[str, Any]) -> None:
    """Replace the file by a JSON object, UTF-8. Raises ``ArtifactError``, also for NaN and infinity, which JSON does not have."""
    try:
        text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False)
        write_bytes(path, text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: what was to be written is no JSON: {error}") from error


def read_json(path: StrPath, limit: int = JSON_LIMIT) -> dict[str, Any]:
    """The JSON object in a file of at most ``limit`` bytes.

    Raises ``NotAnArtifactError`` where there is no such file, ``DamagedArtifactError`` where it is too large, malformed, nested
    deeper than ``JSON_DEPTH``, holds NaN or infinity, or is not an object.
    """
    file = existing_file(path, limit)
    try:
        return parse_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DamagedArtifactError(f"{file} is damaged: {error}") from error


def parse_json(text: bytes | str) -> dict[str, Any]:
    """The JSON object in ``text``.

    Raises ``ValueError`` where it is malformed, no object, nested deeper than ``JSON_DEPTH``, holds more than ``JSON_ITEMS`` values, a
    name twice, NaN, infinity or a whole number beyond 64 bits.
    """
    raw = text.encode() if isinstance(text, str) else text
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > JSON_ITEMS:
        raise ValueError(f"more than {JSON_ITEMS} values")
    try:
        value = json.loads(raw, parse_constant=_refuse, parse_float=_finite, parse_int=_bounded, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError(f"nested deeper than {JSON_DEPTH}") from error
    _check_depth(value)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    return value


Record = TypeVar("Record")


def record(kind: type[Record], stored: Any) -> Record:
    """A dataclass from a JSON object whose values have the types that its fields declare.

    Raises ``TypeError`` for other fields and types, ``ValueError`` for lists of more than ``LIST_LIMIT`` entries and what ``kind`` refuses.
    """
    if not isinstance(stored, dict):
        raise TypeError(f"expected the fields of {kind.__name__}, got {str(stored)[:100]}")
    hints = get_type_hints(kind)
    return kind(**{name: _typed(value, hints.get(name, NoneType), f"{kind.__name__}.{name}") for name, value in stored.items()})


def _typed(value: Any, hint: Any, place: str) -> Any:
    allowed = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for one in allowed:
        if isinstance(one, type) and is_dataclass(one) and isinstance(value, dict):
            return record(one, value)
        if get_origin(one) is tuple and isinstance(value, list):
            if len(value) > LIST_LIMIT:
                raise ValueError(f"{place} has {len(value)} entries, at most {LIST_LIMIT} are read")
            return tuple(_typed(entry, get_args(one)[0], place) for entry in value)
        if type(value) is one or (one is float and type(value) is int):
            return value
    raise TypeError(f"{place} is {str(value)[:100]}, expected {hint}")


class StoredTensors(NamedTuple):
    """The contents of a safetensors file, on the CPU."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def write_tensors(path: StrPath, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Replace the file by these tensors (safetensors; from any device, shared memory is written twice). Raises ``ArtifactError``."""
    try:
        content = save(_separate(tensors), metadata=dict(metadata or {}))
    except (SafetensorError, KeyError, ValueError) as error:
        raise ArtifactError(f"{path}: these tensors cannot be written: {error}") from error
    write_bytes(path, content)


def read_tensors(path: StrPath, limit: int = TENSORS_LIMIT) -> StoredTensors:
    """The tensors in a safetensors file of at most ``limit`` bytes, copied out of it to the CPU.

    Raises ``NotAnArtifactError`` where there is no such file, ``DamagedArtifactError`` where it is too large, truncated or untrue.
    """
    file = existing_file(path, limit)
    try:
        _check_header(file)
        with safe_open(file, framework="pt", device="cpu") as opened:
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118 (no mapping)
            return StoredTensors(tensors, dict(opened.metadata() or {}))
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise DamagedArtifactError(f"{file} is damaged: {error}") from error


def file_digest(path: StrPath) -> str:
    """SHA-256 (hex) of a file's bytes. Raises ``OSError``."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(model: nn.Module) -> str:
    """SHA-256 (hex) of the model's class name and of name, dtype, shape and bytes of every parameter and buffer, in order of names.

    Buffers that no checkpoint holds count where they are one number a channel, as of a normalisation inside the model; larger ones are
    tables that follow from the architecture, and some of those grow in a forward pass. Weights that quantised layers pack count with their
    values. The module that the class stands in does not count (it is ``__main__`` in a script and something else where that is imported),
    nor do the device, the memory layout and flags. Of one tensor at most a few megabytes are on the CPU at a time.
    """
    named = [*model.named_parameters(remove_duplicate=False), *_telling_buffers(model), *_packed_weights(model)]
    return tensors_digest(sorted(named, key=lambda pair: pair[0]), f"{type(model).__qualname__}\n")


def weights_stamp(model: nn.Module) -> tuple[tuple[int, int], ...]:
    """Another one once a parameter or buffer was written to or replaced; thousands of times cheaper than a fingerprint.

    What is written through ``.data``, which torch does not count, goes unnoticed.
    """
    tensors = (*model.parameters(), *model.buffers())
    return tuple((id(tensor), 0 if tensor.is_inference() else tensor._version) for tensor in tensors)


def _telling_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for place, module in model.named_modules(remove_duplicate=False):
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            if name not in module._non_persistent_buffers_set or buffer.numel() == max(buffer.shape, default=1):
                yield f"{place}.{name}" if place else name, buffer


def _packed_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Of torch's quantised layers, whose weights are neither parameters nor buffers."""
    for place, module in model.named_modules(remove_duplicate=False):
        packed = getattr(module, "_weight_bias", None)
        for name, value in zip(("weight", "bias"), packed(), strict=False) if callable(packed) else ():
            if isinstance(value, Tensor):
                yield f"{place}.{name}", value.dequantize() if value.is_quantized else value


def tensors_digest(named: Iterable[tuple[str, Tensor]], heading: str = "") -> str:
    """SHA-256 (hex) of ``heading`` and of name, dtype, shape and bytes of every tensor, in this order."""
    digest = hashlib.sha256(heading.encode())
    for name, tensor in named:
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        for chunk in _chunks(tensor):
            digest.update(chunk)
    return digest.hexdigest()


def _chunks(tensor: Tensor) -> Iterator[memoryview]:
    flat = tensor.detach().reshape(-1)
    for chunk in flat.split(_CHUNK) if len(flat) else ():
        here = chunk.cpu().resolve_conj().resolve_neg().contiguous()
        yield here.view(torch.uint8).numpy().data


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU that share no memory, as safetensors asks for."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        here = tensor.detach().cpu().contiguous()
        address = here.untyped_storage().data_ptr()
        separate[name] = here.clone() if address in seen else here
        seen.add(address)
    return separate


def _temporary(path: Path) -> tuple[Path, BinaryIO]:
    """A new file beside ``path`` that nobody else will take for left over while it is open."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        file = open(temporary, "xb")  # noqa: SIM115 (the caller's)
        with contextlib.suppress(OSError):  # a file system without locks, where nothing is ever taken for left over
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return temporary, file
        file.close()  # somebody was faster than the lock


def _check_header(file: Path) -> None:
    with open(file, "rb") as opened:
        told = int.from_bytes(opened.read(8), "little")
    if told > HEADER_LIMIT:
        raise ValueError(f"its header claims {told} bytes, at most {HEADER_LIMIT} are read")


def _flush(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _refuse(digits)


def _bounded(digits: str) -> int:
    if len(digits.removeprefix("-")) > JSON_DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits, at most {JSON_DIGITS} are read")
    return int(digits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object gives one name twice")
    return found


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(JSON_DEPTH + 1):
        level = [child for item in level for child in _children(item)]
    if level:
        raise ValueError(f"nested deeper than {JSON_DEPTH}")


def _children(value: object) -> list[object]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
