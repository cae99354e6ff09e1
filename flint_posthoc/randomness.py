"""The process's global random states: of torch on the CPU and on all CUDA devices in use, of NumPy and of Python."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from .threads import TURN


class RandomState:
    """A snapshot of all of them, put back by ``restore``."""

    def __init__(self) -> None:
        self._states: list[tuple[Callable[[Any], object], Any]] = [
            (torch.set_rng_state, torch.get_rng_state()),
            (np.random.set_state, np.random.get_state()),  # noqa: NPY002 (the user's global generator is what is kept)
            (random.setstate, random.getstate()),
        ]
        if torch.cuda.is_initialized():
            self._states.append((torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))

    def restore(self) -> None:
        """Put everything back."""
        for put_back, state in self._states:
            put_back(state)


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Puts the global random states back when the block ends, however it ends. Other threads wait."""
    with TURN:
        before = RandomState()
        try:
            yield
        finally:
            before.restore()


def seed_global_states(seed: int) -> None:
    """Of torch, NumPy and Python, which loaders and their augmentation draw from."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (the global state is what is seeded)
    random.seed(seed)
