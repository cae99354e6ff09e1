"""The unchecked batches of any data: what it is an iterable of, and what its loaders say when they break."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from .errors import BatchFormatError, DataError, ImageShapeError

BATCH_SIZE = 64  # of data sets that do not come in batches
IMAGE_KEYS = ("pixel_values", "image", "images", "img")
LABEL_KEYS = ("labels", "label")
ALLOWED = (
    "images (B, C, H, W), (images, labels), or a dict with "
    + " or ".join(map(repr, IMAGE_KEYS))
    + " and perhaps "
    + " or ".join(map(repr, LABEL_KEYS))
)

Data: TypeAlias = Any  # one of the forms above; whether it is one of them is checked here and said in words, not by the type


def iterable(data: Data) -> Iterable[Any]:
    """The unchecked batches of ``data``. Raises ``BatchFormatError`` for what gives none."""
    if is_one_batch(data):
        return (data,)
    if is_map_style(data):
        return DataLoader(data, batch_size=BATCH_SIZE, collate_fn=collate)
    if isinstance(data, IterableDataset):
        return _batched(data)
    if isinstance(data, str | bytes | Mapping) or not isinstance(data, Iterable):
        raise BatchFormatError(f"data of type {type(data).__name__} gives no batches; expected an iterable of {ALLOWED}")
    return data


def _batched(data: Iterable[Any]) -> Iterator[Any]:
    """The batches of a stream, or its single images 64 at a time."""
    items = iter(data)
    for first in islice(items, 1):
        whole, parts = chain([first], items), parts_of(first)
        single = parts is not None and isinstance(parts[0], Tensor) and parts[0].dim() == 3
        yield from (collate(group) for group in _groups(whole, BATCH_SIZE)) if single else whole


def _groups(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while group := list(islice(items, size)):
        yield group


def readable(items: Iterable[Any]) -> Iterator[Any]:
    """``items``, as ``loading`` reads them."""
    with loading():
        yield from items


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """What a loader says of images of varying size, or of a worker that has died, becomes a ``DataError``."""
    try:
        yield
    except RuntimeError as error:
        if "equal size" in str(error):
            raise ImageShapeError(f"images of varying size make no batch; resize them to one size: {error}") from error
        if "exited unexpectedly" in str(error) or "is killed by signal" in str(error):
            raise DataError(f"a worker of the loader died in the middle of a pass: {error}") from error
        raise


def changed_loader(loader: DataLoader[Any], seed: int, **changes: Any) -> DataLoader[Any]:
    """A copy of ``loader`` that reads other items, whatever kind of loader it is; it draws nothing more from the random state."""
    changed = copy.copy(loader)
    vars(changed).update(changes, generator=torch.Generator().manual_seed(seed), _iterator=None)  # a loader refuses to have these set
    return changed


def is_one_batch(data: Data) -> bool:
    """A tensor, a pair (images, labels) or a dict with images, rather than a sequence of batches."""
    if isinstance(data, list | tuple):
        images, labels = data if len(data) == 2 else (None, None)
        return _are_images(images) and labels is not None and not _are_images(labels)
    return isinstance(data, Tensor) or (isinstance(data, Mapping) and _are_images(_first_of(data, IMAGE_KEYS)))


def _are_images(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 4


def images_in(batch: Any) -> int:
    """How many images a batch holds, whatever its form."""
    parts = parts_of(batch)
    return len(parts[0]) if parts else 0


def is_map_style(data: Any) -> bool:
    """A data set of single items, rather than a sequence of batches."""
    indexable = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    return indexable and not isinstance(data, Tensor | list | tuple | Mapping | str | bytes | np.ndarray | DataLoader | IterableDataset)


def collate(items: list[Any]) -> Any:
    """A batch of single items. Raises ``BatchFormatError``, or ``ImageShapeError`` for images of varying size."""
    try:
        return default_collate(items)
    except TypeError as error:
        raise BatchFormatError(
            f"items of the data set make no batch: {error}. Expected images as tensors (C, H, W), with or without a label"
        ) from error
    except RuntimeError as error:
        raise ImageShapeError(f"items of the data set make no batch, are they of different sizes? {error}") from error


def parts_of(item: Any) -> tuple[Any, Any] | None:
    """What stands for the images and for the labels of a batch or of a single sample; ``None`` where it has another form."""
    if isinstance(item, Mapping):
        return _first_of(item, IMAGE_KEYS), _first_of(item, LABEL_KEYS)
    if isinstance(item, list | tuple):
        return (item[0], item[1] if len(item) == 2 else None) if len(item) in (1, 2) else None
    return item, None


def _first_of(item: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((item[key] for key in keys if key in item), None)


def describe(item: Any) -> str:
    """The type of ``item`` and of what is in it, for messages."""
    if isinstance(item, Tensor | np.ndarray):
        return f"{type(item).__name__} of {item.dtype} and shape {tuple(item.shape)}"
    if isinstance(item, Mapping):
        return type(item).__name__ + " of " + ", ".join(f"{key!r}: {type(item[key]).__name__}" for key in islice(item, 10))
    if isinstance(item, list | tuple):
        return (
            f"{type(item).__name__} of {len(item)} ({', '.join(type(part).__name__ for part in item[:4])}{', …' if len(item) > 4 else ''})"
        )
    return type(item).__name__
