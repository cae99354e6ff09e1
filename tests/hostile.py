"""Spoilt artefacts, caches and fit checkpoints, made from bytes by choice after choice, and what reading one may do.

The same bytes always make the same folder: a fuzzer, hypothesis and the kept corpus all speak in bytes.
"""

import contextlib
import copy
import dataclasses
import hashlib
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import small
import torch

from flint_posthoc import ActivationCache, FlintExplainer
from flint_posthoc.artifact import JSON_NAME, TENSORS_NAME
from flint_posthoc.errors import FlintError
from flint_posthoc.learning.caching.manifest import NAME, SUMMARY_NAME, seal
from flint_posthoc.learning.checkpoint import FILE_NAME, FitCheckpoint
from flint_posthoc.learning.schedule import LossSchedule
from flint_posthoc.learning.settings import FitSettings
from flint_posthoc.learning.trainer import Trainer
from flint_posthoc.storage import file_digest

CORPUS = Path(__file__).with_name("corpus.txt")  # inputs that once reached something new, in hexadecimal, one a line
MARKUP = "<img src=x onerror=alert(1)>"
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 2**20, 2**31, 2**40, 2**63, -(2**63), 10**30, 10**5000,
    0.5, -0.0, 1e308, 1e-320, math.nan, math.inf,
    "", "..", "../../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "conv1", "fc", "maps", "tokens", "float32", "categorical", MARKUP,
    "\x00", "\ud800", "\u202e", "x" * 100_000, [], {}, [[]], [None], [1, 2, 3], [0] * 5000, {"a": 1}, {"__class__": "os.system"},
)  # fmt: skip


class Choices:
    """Whole numbers read off bytes; 0 when these are used up."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    def below(self, count: int) -> int:
        """One of 0 … count - 1."""
        width = 1 if count <= 256 else 3
        part = self._data[self._place : self._place + width]
        self._place += width
        return int.from_bytes(part, "little") % count

    def of(self, options: Any) -> Any:
        """One of ``options``."""
        return options[self.below(len(options))]


# ---- spoiling ----


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything inside a JSON value, a few entries of each list."""
    inside = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, child in inside:
        yield (*path, key)
        yield from places(child, (*path, key))


def parent_of(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        value = value[key]
    return value


def spoil_value(told: Any, choices: Choices) -> None:
    """Change one place of a JSON object, in place."""
    found = list(places(told))
    if not found:
        return
    path = choices.of(found)
    parent, key = parent_of(told, path), path[-1]
    match choices.below(6):
        case 0:
            del parent[key]
        case 1 if isinstance(parent, dict):
            parent[choices.of(("extra", "__class__", "../x", MARKUP))] = copy.deepcopy(choices.of(VALUES))
        case 2 if isinstance(parent[key], int | float):
            parent[key] = choices.of((parent[key] + 1, -parent[key], parent[key] * 2**20, float(parent[key]), str(parent[key])))
        case 3 if isinstance(parent[key], list) and parent[key]:
            parent[key] = choices.of((parent[key] * 2, parent[key][1:], parent[key] * 1000, parent[key][::-1]))
        case _:
            parent[key] = copy.deepcopy(choices.of(VALUES))  # which later choices may change in turn


def spoil_text(text: bytes, choices: Choices) -> bytes:
    """JSON that no object gives: names twice, deep nesting, numbers that are none, bytes flipped or cut off."""
    match choices.below(12):
        case 0:
            return text.replace(b"{", b'{"format": 1, "format": 2, ', 1)
        case 1:
            return text[:-1] + b', "deep": ' + b"[" * 3000 + b"]" * 3000 + b"}"
        case 2:
            return text[: choices.below(len(text) + 1)]
        case 3:
            place = choices.below(len(text))
            return text[:place] + bytes([choices.below(256)]) + text[place + 1 :]
        case 4:
            return text[:-1] + b', "many": [' + b"[]," * 100_000 + b"[]]}"
        case 5:
            return text.decode(errors="replace").encode("utf-16")
        case _:
            return text


def dumped(told: Any) -> bytes:
    with contextlib.suppress(ValueError):  # a number of more digits than Python writes
        return json.dumps(told).encode()
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(told).encode()
    finally:
        sys.set_int_max_str_digits(limit)


def spoil_tensors(content: bytes, choices: Choices) -> bytes:
    """A safetensors file whose header, its length or its body lies."""
    length = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    match choices.below(8):
        case 0:
            return content[: choices.below(len(content))]
        case 1:
            place = choices.below(len(content))
            return content[:place] + bytes([choices.below(256)]) + content[place + 1 :]
        case 2:
            return choices.of((0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1)).to_bytes(8, "little") + content[8:]
        case 3:
            body = choices.of((b"", body[:-1], body + b"\x00", body * 2))
        case 4:
            entry = header[choices.of(sorted(name for name in header if name != "__metadata__"))]
            entry["dtype"] = choices.of(("F16", "F64", "I64", "BOOL", "U8", "BF16", "F8_E4M3", "F4", "PICKLE"))
        case 5:
            names = sorted(name for name in header if name != "__metadata__")
            header[choices.of(names)]["data_offsets"] = header[choices.of(names)]["data_offsets"]
        case 6:
            numbers = bytearray(body)
            place = choices.below(max(1, len(numbers) // 4)) * 4
            numbers[place : place + 4] = choices.of((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f"))
            body = bytes(numbers)
        case _:
            spoil_value(header, choices)
    text = dumped(header)
    return len(text).to_bytes(8, "little") + text + body


# ---- what is read, and how ----


@dataclasses.dataclass(frozen=True)
class Target:
    """A folder as we write it, how it is spoilt and how it is read."""

    template: Path
    spoil: Callable[[Path, Choices], None]
    read: Callable[[Path], object]


def spoil_artifact(folder: Path, choices: Choices) -> None:
    tensors = folder / TENSORS_NAME
    if choices.below(3) == 0:
        tensors.write_bytes(spoil_tensors(tensors.read_bytes(), choices))
    told = json.loads((folder / JSON_NAME).read_bytes())
    if choices.below(8):  # an attacker knows how digests are made
        told["tensors"] = file_digest(tensors)
    for _ in range(choices.below(4)):
        spoil_value(told, choices)
    (folder / JSON_NAME).write_bytes(spoil_text(dumped(told), choices))


def spoil_cache(folder: Path, choices: Choices) -> None:
    shard = folder / "shard-00000.safetensors"
    for file in (shard, folder / SUMMARY_NAME):
        if choices.below(4) == 0:
            file.write_bytes(spoil_tensors(file.read_bytes(), choices))
    told = json.loads((folder / NAME).read_bytes())
    if choices.below(4):
        for entry, file in ((told["shards"][0], shard), (told["summary"], folder / SUMMARY_NAME)):
            entry["bytes"], entry["digest"] = file.stat().st_size, hashlib.blake2b(file.read_bytes(), digest_size=32).hexdigest()
    for _ in range(choices.below(4)):
        spoil_value(told, choices)
    if choices.below(8):
        told.pop("digest", None)
        with contextlib.suppress(ValueError):
            told["digest"] = seal(told)
    (folder / NAME).write_bytes(spoil_text(dumped(told), choices))


def spoil_checkpoint(folder: Path, choices: Choices) -> None:
    file = folder / FILE_NAME
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    name = choices.of(("history", "history", "identity", "format"))
    inner = json.loads(header["__metadata__"][name])
    if isinstance(inner, dict):
        for _ in range(choices.below(3)):
            spoil_value(inner, choices)
    text = spoil_text(dumped(inner), choices)
    header["__metadata__"][name] = text.decode("latin-1")
    told = dumped(header)
    content = len(told).to_bytes(8, "little") + told + content[8 + length :]
    file.write_bytes(spoil_tensors(content, choices) if choices.below(2) else content)


class Targets:
    """One of each kind, made from a tiny fit in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.model, self.pixels = small.tiny(), small.images(8)
        explain = small.explainer(self.model)
        explain.fit(self.pixels, epochs=2, batch_size=8, checkpoint_dir=folder / "checkpoint", progress=False)
        explain.save_pretrained(folder / "artifact")
        explain.cache(self.pixels, folder=folder / "cache", progress=False)
        self.every = (
            Target(folder / "artifact", spoil_artifact, self._read_artifact),
            Target(folder / "cache", spoil_cache, self._read_cache),
            Target(folder / "checkpoint", spoil_checkpoint, self._read_checkpoint),
        )
        self._explain, self._identity = explain, _identity_in(folder / "checkpoint" / FILE_NAME)

    def _read_artifact(self, folder: Path) -> object:
        """What loads also explains, and says so in words."""
        explain = FlintExplainer.from_pretrained(folder, self.model)
        local = explain(self.pixels)
        return str(local), json.dumps(local.to_dict(), allow_nan=False), str(explain.history), repr(explain)

    def _read_cache(self, folder: Path) -> object:
        cache = ActivationCache.open(folder)
        return cache.summary(), cache.select(torch.arange(min(4, len(cache)))), cache.note

    def _read_checkpoint(self, folder: Path) -> object:
        interpreter = copy.deepcopy(self._explain.interpreter).requires_grad_(True)
        trainer = Trainer(
            interpreter, self._explain.fitted.view.kind, NoBatches(), settings=FitSettings(epochs=1, learning_rate=1e-3),
            weights=small.CONFIG.weights, schedule=LossSchedule(), show_progress=False,
        )  # fmt: skip
        return str(FitCheckpoint(folder, self._identity).restore(trainer.learnt, trainer.optimizer, trainer.silent_steps).history)


class NoBatches:
    """For a trainer that only restores."""

    batches_per_epoch = 1

    def epoch(self, number: int) -> Iterator[Any]:
        return iter(())


def _identity_in(file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    identity: dict[str, Any] = json.loads(header["__metadata__"]["identity"])
    return identity


def attack(targets: Targets, data: bytes, place: Path, watched: Callable[[Path], AbstractContextManager[object]] = nullcontext) -> str:
    """Spoil a copy as ``data`` says, read it, and return how that ended: "read", or the name of an error of ours. Anything else is raised.

    ``watched`` is a context around the reading, given the folder.
    """
    choices = Choices(data)
    target = choices.of(targets.every)
    folder = Path(tempfile.mkdtemp(dir=place))
    try:
        shutil.copytree(target.template, folder, dirs_exist_ok=True)
        target.spoil(folder, choices)
        with watched(folder):
            target.read(folder)
    except FlintError as error:
        return type(error).__name__
    finally:
        shutil.rmtree(folder)
    return "read"
