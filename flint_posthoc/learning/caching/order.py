"""In which order an epoch reads a cache: windows of positions, each to be cut into mini-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Generator, Tensor

BLOCK = 64  # consecutive rows that are read together
WINDOW_BYTES = 64 * 2**20
WINDOW_BATCHES = 16  # at least, so that a mini-batch mixes many blocks

Order = Callable[[int, int, Generator], Iterator[Tensor]]  # (rows, batch size, source of chance) → windows


def shuffled(rows: int, batch_size: int, generator: Generator) -> Iterator[Tensor]:
    """One window of all rows, shuffled: for rows in memory."""
    yield torch.randperm(rows, generator=generator)


def windows(row_bytes: int, rows: int, batch_size: int, generator: Generator) -> Iterator[Tensor]:
    """Blocks in random order, and rows in random order within a window of several blocks: reading stays nearly sequential and bounded."""
    size = batch_size * max(WINDOW_BATCHES, WINDOW_BYTES // (row_bytes * batch_size))
    pending, waiting = [], 0
    for block in torch.randperm(-(-rows // BLOCK), generator=generator).tolist():
        pending.append(torch.arange(BLOCK * block, min(BLOCK * (block + 1), rows)))
        waiting += len(pending[-1])
        while waiting >= size:
            whole = torch.cat(pending)
            pending, waiting = [whole[size:]], waiting - size
            yield whole[:size][torch.randperm(size, generator=generator)]
    if waiting:
        yield torch.cat(pending)[torch.randperm(waiting, generator=generator)]


def whole_batches(window: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Its mini-batches, without the smaller one at its end."""
    return (window[start : start + batch_size] for start in range(0, len(window) - batch_size + 1, batch_size))
