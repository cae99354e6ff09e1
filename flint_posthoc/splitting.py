"""Which part of the data each of several processes reads: no image twice, none left out.

What can be indexed is divided here, and every process is given all of it: tensors, lists of batches, map-style data sets and their
loaders. What can only be gone through (an ``IterableDataset``, a loader of one, a generator) is taken for the process's own part.
With one process data stays as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from . import processes
from .data import Data
from .errors import DataError, EmptyDataError
from .loading import BATCH_SIZE, changed_loader, collate, images_in, is_map_style, is_one_batch, iterable, parts_of
from .randomness import preserved_random_state

_KNOWN_SAMPLERS = (SequentialSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


class Part(NamedTuple):
    """What one process reads of data.

    Attributes:
        first: the number of its first image in all of the data; ``None``: the data came in parts already.
        empty: there is nothing for this process.
    """

    data: Data
    first: int | None
    empty: bool = False

    def needed(self) -> Data:
        """``data``. Raises ``EmptyDataError`` where there is nothing for this process."""
        if self.empty:
            raise EmptyDataError(f"there are fewer images, or batches in a list, than the {processes.size()} processes that learn")
        return self.data


def own_part(data: Data) -> Part:
    """The part that this process reads in one pass: parts are consecutive, by rank, and differ by one image at most (of lists: by a batch).

    To be called, and read, by all processes.

    Raises:
        DataError: a ``DistributedSampler``, which repeats images; or other data than in the other processes.
    """
    if processes.size() == 1:
        return Part(data, 0)
    return next((split(data) for applies, split, _ in _KINDS if applies(data)), Part(_OwnStream(data), None))


def own_slices(data: Data) -> Data:
    """``data`` with this process's slice of each batch: together the processes' batches are those of one process.

    To be read by all processes together; reading raises ``DataError`` as above.
    """
    return data if processes.size() == 1 else _OwnSlices(data)


def num_batches(data: Data) -> int | None:
    """Batches of one pass over all of ``data``, where they can be counted without one."""
    if is_one_batch(data):
        return 1
    if is_map_style(data):
        return -(-len(data) // BATCH_SIZE)
    with contextlib.suppress(TypeError):  # a loader's sampler may have no length
        return None if is_stream(data) else len(data)
    return None


def is_stream(data: Data) -> bool:
    """Whether ``data`` can only be gone through."""
    return not any(applies(data) for applies, _, _ in _KINDS)


class _OwnSlices:
    """Data whose slices are drawn when it is read: every time anew, and with the random state of that moment."""

    def __init__(self, data: Data) -> None:
        self._data = data

    def __iter__(self) -> Iterator[Any]:
        return iter(iterable(next((slices(self._data) for applies, _, slices in _KINDS if applies(self._data)), self._data)))


class _OwnStream:
    """What can only be gone through; all processes begin to read theirs together.

    Iterating raises ``DataError`` where all streams begin alike, so that images would count several times.
    """

    def __init__(self, data: Data) -> None:
        self._data = data

    def __iter__(self) -> Iterator[Any]:
        items = iter(iterable(self._data))
        head = list(islice(items, 1))
        if len(set(processes.gather(_digest(head)))) == 1 and head:
            raise DataError(
                f"each of {processes.size()} processes reads the same first images from its {type(self._data).__name__}, which can only "
                "be gone through and is taken for the process's own part; divide it (split_by_node of webdataset, split_dataset_by_node "
                "of Hugging Face datasets), or pass data that can be indexed"
            )
        return chain(head, items)


# ---- one batch, a list of them ----


def _is_list(data: Data) -> bool:
    return isinstance(data, list | tuple)


def _part_of_batch(data: Any) -> Part:
    images, _ = parts_of(data) or (data, None)
    _require_same_data(images[:1], len(images))
    own = processes.share(len(images))
    return Part(_own_slice(data), own.start, not own)


def _part_of_list(data: Sequence[Any]) -> Part:
    _require_same_data(data[0] if data else None, len(data))
    own = processes.share(len(data))
    return Part(data[own.start : own.stop], sum(map(images_in, data[: own.start])), not own)


def _slices_of_batch(data: Any) -> Data:
    return _slices_of_list([data])


def _slices_of_list(data: Sequence[Any]) -> Data:
    _require_same_data(data[0] if data else None, len(data))
    return [_own_slice(batch) for batch in data]


def _own_slice(batch: Any) -> Any:
    """Of each column of a batch."""
    if isinstance(batch, Mapping):
        return {name: _own_slice_of(column) for name, column in batch.items()}
    return tuple(map(_own_slice_of, batch)) if isinstance(batch, list | tuple) else _own_slice_of(batch)


def _own_slice_of(column: Any) -> Any:
    own = processes.share(len(column))
    return column[own.start : own.stop]


def _require_same_data(sample: Any, length: int) -> None:
    """Raise ``DataError`` unless all processes were given the same data, as far as its length and its beginning tell."""
    if len(set(processes.gather((length, _digest(sample))))) > 1:
        raise DataError("the processes were given different data, though it is divided among them here: pass all of it in each process")


def _digest(value: Any) -> str:
    """Of the first tensor in a batch."""
    while isinstance(value, Mapping | list | tuple) and len(value):
        value = next(iter(value.values())) if isinstance(value, Mapping) else value[0]
    tensor = isinstance(value, Tensor)
    content = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy() if tensor else repr(value).encode()
    return hashlib.blake2b(content, digest_size=16).hexdigest()


# ---- map-style data sets and their loaders ----


def _is_loader(data: Data) -> bool:
    return isinstance(data, DataLoader) and not isinstance(data.dataset, IterableDataset)


def _part_of_set(data: Any) -> Part:
    return _part_of_loader(_loader_of(data))


def _slices_of_set(data: Any) -> Data:
    return _slices_of_loader(_loader_of(data))


def _loader_of(data: Any) -> DataLoader[Any]:
    return DataLoader(data, batch_size=BATCH_SIZE, collate_fn=collate)


def _part_of_loader(loader: DataLoader[Any]) -> Part:
    batching, seed = loader.batch_sampler, _worker_seed(loader)
    order = _common_order(loader)
    if batching is None:  # the data set's items are batches
        own = processes.share(len(order))
        return Part(changed_loader(loader, seed, sampler=order[own.start : own.stop]), None, not own)
    if type(batching) is not BatchSampler:
        own = processes.share(len(order))
        return Part(changed_loader(loader, seed, batch_sampler=order[own.start : own.stop]), sum(map(len, order[: own.start])), not own)
    size = batching.batch_size
    own = processes.share(len(order) // size * size if batching.drop_last else len(order))
    return Part(changed_loader(loader, seed, batch_sampler=_Pieces(order[own.start : own.stop], size)), own.start, not own)


def _slices_of_loader(loader: DataLoader[Any]) -> Data:
    batching, seed = loader.batch_sampler, _worker_seed(loader)
    order = _common_order(loader)
    if batching is None:
        return _Mapped(changed_loader(loader, seed, sampler=order), _own_slice)
    whole = order if type(batching) is not BatchSampler else _Pieces(order, batching.batch_size, batching.drop_last)
    return changed_loader(loader, seed, batch_sampler=[own for own in map(_own_slice_of, whole) if own])


class _Pieces:
    """A batch sampler: consecutive pieces of ``order``."""

    def __init__(self, order: Sequence[int], size: int, drop_last: bool = False) -> None:
        self._order, self._size, self._stop = order, size, len(order) // size * size if drop_last else len(order)

    def __len__(self) -> int:
        return -(-self._stop // self._size)

    def __iter__(self) -> Iterator[list[int]]:
        return (list(self._order[at : min(at + self._size, self._stop)]) for at in range(0, self._stop, self._size))


class _Mapped:
    """``loader`` with its batches changed."""

    def __init__(self, loader: DataLoader[Any], change: Callable[[Any], Any]) -> None:
        self._loader, self._change = loader, change

    def __iter__(self) -> Iterator[Any]:
        return map(self._change, self._loader)


def _sampler_of(loader: DataLoader[Any]) -> Iterable[Any]:
    """What says which items, or which batches of items, are read."""
    batching = loader.batch_sampler
    sampler = loader.sampler if batching is None else batching.sampler if type(batching) is BatchSampler else batching
    if isinstance(sampler, DistributedSampler) or isinstance(getattr(sampler, "sampler", None), DistributedSampler):
        raise DataError(
            "the loader has a DistributedSampler, which repeats images so that every process gets as many; "
            "pass the loader without it: the data is divided here, each image once"
        )
    return sampler


def _common_order(loader: DataLoader[Any]) -> Sequence[Any]:
    """The order that the main process draws, as it would alone. Raises ``DataError`` where samplers do not cover the same items."""
    sampler = _sampler_of(loader)
    processes.require_same("the number of items of the data set", _length(loader.dataset))
    if isinstance(sampler, SequentialSampler):
        return range(len(sampler))
    if not isinstance(sampler, _KNOWN_SAMPLERS) and len(set(processes.gather(_digest(_covered(sampler))))) > 1:
        raise DataError(
            f"the loader's {type(sampler).__name__} gives every process other items; pass one that gives all of them to each process: "
            "the data is divided here"
        )
    return processes.from_main(lambda: list(sampler))


def _covered(sampler: Iterable[Any]) -> Tensor:
    """The items that it gives, in order of their numbers; the random state stays as it is."""
    with preserved_random_state():
        entries = [entry if isinstance(entry, list | tuple) else (entry,) for entry in sampler]
    return torch.tensor([index for entry in entries for index in entry]).sort().values


def _length(data: Any) -> int | None:
    return len(data) if hasattr(data, "__len__") else None


def _worker_seed(loader: DataLoader[Any]) -> int:
    """What a loader draws before its sampler draws an order, which is then that of one process."""
    return int(torch.empty((), dtype=torch.int64).random_(generator=loader.generator))


_KINDS: tuple[tuple[Callable[[Data], bool], Callable[[Any], Part], Callable[[Any], Data]], ...] = (
    (is_one_batch, _part_of_batch, _slices_of_batch),
    (_is_list, _part_of_list, _slices_of_list),
    (_is_loader, _part_of_loader, _slices_of_loader),
    (is_map_style, _part_of_set, _slices_of_set),
)
