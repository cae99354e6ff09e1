"""What to do where the memory does not suffice: take smaller parts, or say in words how many would fit."""

from __future__ import annotations

import contextlib
import os
import resource
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch

from .arrays import ImageShape
from .errors import FlintWarning, MemoryExhaustedError

Part = TypeVar("Part")
_SAYINGS = ("can't allocate memory", "cannot allocate memory", "out of memory", "not enough memory", "bad_alloc", "alloc_failed")
_PIXELS_A_CORE = 8 * 224 * 224
_CGROUP = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_MEMINFO = Path("/proc/meminfo")
_LIMITS = (  # of versions 2 and 1: the controller, its limit, what is used, and what of that are pages of files
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def is_exhausted(error: BaseException) -> bool:
    """Whether memory, of the machine or of a device, was asked for in vain; CPU allocators say so in words alone."""
    if isinstance(error, MemoryExhaustedError):  # smaller parts were tried
        return False
    said = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(saying in said for saying in _SAYINGS)
    )


class Halving:
    """Takes a batch in parts that fit the memory: whole, or where it runs out in halves. What fitted is remembered for the next batch.

    Args:
        what: is done, in words: "explaining".
        most: images that are taken together at first; ``None``: all.
    """

    def __init__(self, what: str, most: int | None = None) -> None:
        self.what, self.most = what, most

    def parts(self, run: Callable[[slice], Part], count: int) -> Iterator[Part]:
        """``run`` over consecutive parts of ``count`` images. Raises ``MemoryExhaustedError`` where one image alone is too many."""
        done = 0
        while done < count:
            size = min(count - done, self.most or count)
            try:
                result = run(slice(done, done + size))
            except Exception as error:
                if not is_exhausted(error):
                    raise
                if size == 1:
                    raise MemoryExhaustedError(f"the memory does not suffice for {self.what} one image: {_first_line(error)}") from error
                self.most = size // 2
            else:
                done += size
                yield result
                continue
            warnings.warn(
                f"the memory did not suffice for {self.what} {size} images at once; trying {self.most}", FlintWarning, stacklevel=3
            )
            _give_back()


def at_once(image_shape: ImageShape, device: torch.device) -> int | None:
    """Images of this (channels, height, width) that a pass of a frozen classifier takes together; ``None``: as many as it is given.

    On a CPU these are few photographs a core: maps of many more would stay neither in its caches nor in the allocator's hands, and memory
    that the system gives anew for every layer costs as much as the arithmetic (measured by ``python -m examples.benchmarks.parts``).
    """
    return max(1, _PIXELS_A_CORE * torch.get_num_threads() // (image_shape[1] * image_shape[2])) if device.type == "cpu" else None


def most_that_fit(run: Callable[[int], object], count: int) -> int:
    """The largest of ``count`` / 2, / 4, … for which ``run`` finds the memory that it needs; 0 for none."""
    while count := count // 2:
        _give_back()
        try:
            run(count)
        except Exception as error:
            if not is_exhausted(error):
                raise
        else:
            return count
    return 0


@contextlib.contextmanager
def said_in_words(what: str, advice: str) -> Iterator[None]:
    """Memory that is asked for in vain in the body becomes ``MemoryExhaustedError``."""
    try:
        yield
    except Exception as error:
        if is_exhausted(error):
            raise MemoryExhaustedError(f"the memory does not suffice for {what}: {_first_line(error)}; {advice}") from error
        raise


def free_memory() -> int:
    """Bytes that this process may still take, of the machine, of its container or job (its control groups) and of its own limit.

    Pages of files that were read count as free: the system gives them up when memory is asked for.
    """
    rooms = [_numbers(_MEMINFO).get("MemAvailable:", 0) * 1024 or os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for controller, limit, used, pages in _LIMITS:
        for group in _groups(controller):
            with contextlib.suppress(OSError, ValueError):  # no such group; "max" is no number
                kept = int((group / used).read_text()) - _numbers(group / "memory.stat").get(pages, 0)
                rooms.append(int((group / limit).read_text()) - kept)
    own = resource.getrlimit(resource.RLIMIT_AS)[0]
    if own != resource.RLIM_INFINITY:
        with contextlib.suppress(OSError):
            rooms.append(own - int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE"))
    return max(0, min(rooms))


def _groups(controller: str) -> list[Path]:
    """The control group of this process and those that it is in, up to the root."""
    root = _CGROUP / controller
    with contextlib.suppress(OSError):
        for line in _OWN_GROUPS.read_text().splitlines():
            _, controllers, place = line.split(":", 2)
            if controller in controllers.split(","):
                own = root / place.lstrip("/")
                return [own, *(group for group in own.parents if group.is_relative_to(root))]
    return [root]


def _numbers(file: Path) -> dict[str, int]:
    """Of a file of names and numbers, a line each; nothing where there is no such file."""
    with contextlib.suppress(OSError):
        lines = (line.split() for line in file.read_text().splitlines())
        return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}
    return {}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:200]


def _give_back() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
