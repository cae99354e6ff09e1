"""Several processes that work on one task: who they are, where they meet, what they add up. With one process nothing here does anything.

``torchrun`` starts them and ``start()`` (or the script's own ``torch.distributed.init_process_group``) connects them. Short messages go
through a gloo group of our own, whatever the backend, so that no meeting waits for a GPU; tensors go where they are.

A process that fails inside ``together()`` says so at its next meeting, and all others raise ``ProcessFailedError`` there: nobody waits
for one that will not come.
"""

from __future__ import annotations

import atexit
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from .errors import ConfigurationError, FlintWarning, ProcessFailedError

T = TypeVar("T")
PATIENCE = timedelta(hours=6)  # that a process waits for the slowest one; a dead one is noticed at once

_ALONE: ContextVar[bool] = ContextVar("_ALONE", default=False)
_TOGETHER: ContextVar[bool] = ContextVar("_TOGETHER", default=False)
_MESSAGES: WeakKeyDictionary[dist.ProcessGroup, Any] = WeakKeyDictionary()


def start(backend: str | None = None) -> torch.device:
    """Connect the processes that ``torchrun`` started and return this one's device; started otherwise, there is one and nothing to do.

    They part when Python ends.

    Args:
        backend: of ``torch.distributed``; ``None``: nccl for tensors on a GPU where each process has one of its own, gloo for the rest.

    Raises:
        ConfigurationError: this build of torch has no ``torch.distributed``.
    """
    cuda = torch.cuda.is_available() and torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if torch.cuda.is_available() and not cuda:
        told = f"{os.environ['LOCAL_WORLD_SIZE']} processes share {torch.cuda.device_count()} GPUs here: all of them work on the CPU"
        warnings.warn(told, FlintWarning, stacklevel=2)
    if cuda:
        torch.cuda.set_device(device)
    if "RANK" in os.environ and not _initialized():
        if not dist.is_available():
            raise ConfigurationError("several processes need torch.distributed, which this build of torch was made without")
        dist.init_process_group(backend or ("cpu:gloo,cuda:nccl" if cuda else "gloo"))
        atexit.register(_leave)
    return device


def size() -> int:
    """How many processes work together."""
    return 1 if _ALONE.get() or not _initialized() else dist.get_world_size()


def rank() -> int:
    """Which of them this one is, from 0."""
    return 0 if size() == 1 else dist.get_rank()


def is_main() -> bool:
    """Whether this one writes files and shows progress."""
    return rank() == 0


def local_size() -> int:
    """How many of them share this machine, as far as ``torchrun`` tells."""
    return min(size(), int(os.environ.get("LOCAL_WORLD_SIZE", size())))


def share(count: int) -> range:
    """Which of ``count`` things in a row belong to this process: parts that differ by one at most, by rank."""
    return range(count * rank() // size(), count * (rank() + 1) // size())


@contextmanager
def alone() -> Iterator[None]:
    """While this lasts the process counts as the only one: for what each can do by itself."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


# ---- meetings ----


class _Word(NamedTuple):
    """What a process says at a meeting: a value, or that it has failed."""

    value: Any
    failure: str = ""


def gather(value: T) -> list[T]:
    """What every process says, by rank; a few numbers or words. Raises ``ProcessFailedError`` where one of them has failed."""
    return [value] if size() == 1 else _meet(_Word(value))


def from_main(make: Callable[[], T]) -> T:
    """What the main process makes, for all; the others do not call ``make``. For a few megabytes at most."""
    if size() == 1:
        return make()
    box = [make() if is_main() else None]
    gather(None)
    with _connected():
        dist.broadcast_object_list(box, src=0, group=_messages())
    return box[0]  # type: ignore[return-value]


def require_same(what: str, value: object) -> None:
    """Raise ``ConfigurationError`` in all processes unless ``value`` is the same in all of them."""
    values = gather(value)
    if any(other != values[0] for other in values):
        told = "; ".join(f"process {place}: {str(other)[:200]}" for place, other in enumerate(values[:4]))
        raise ConfigurationError(f"{what} must be the same in all {len(values)} processes ({told})")


@contextmanager
def together() -> Iterator[None]:
    """A block that all processes enter and leave as one: it ends well for all of them, or raises in all of them."""
    if size() == 1 or _TOGETHER.get():
        yield
        return
    token = _TOGETHER.set(True)
    try:
        yield
        gather(None)
    except ProcessFailedError:
        raise
    except Exception as error:
        with suppress(ProcessFailedError):
            _meet(_Word(None, f"{type(error).__name__}: {str(error)[:1000]}"))
        raise
    finally:
        _TOGETHER.reset(token)


@contextmanager
def midway() -> Iterator[None]:
    """A block inside which processes exchange tensors. Who fails there meets nobody: it closes its connection, and the others notice.

    Over nccl they notice when an exchange takes longer than the timeout of ``init_process_group``.
    """
    try:
        yield
    except ProcessFailedError:
        raise
    except Exception:
        if size() > 1:
            group, _MESSAGES[dist.group.WORLD] = _messages(), None  # type: ignore[index]
            dist.destroy_process_group(group)
        raise


def in_step(batches: Iterable[T], images_of: Callable[[T], int], none_of: Callable[[T], T]) -> Iterator[tuple[T, int]]:
    """(own batch, images in the batches of all processes), until nobody has one left; who has none any more goes on with an empty one.

    Args:
        none_of: makes an empty batch of another one.

    Raises:
        ProcessFailedError: another process could not read its next batch.
    """
    if size() == 1:
        yield from ((batch, images_of(batch)) for batch in batches)
        return
    remaining, last = iter(batches), None
    while True:
        batch, failure = _next(remaining)
        told = torch.tensor([0 if batch is None else images_of(batch), batch is not None, failure is not None])
        images, having, failing = sum_(told).tolist()
        if failure is not None:
            raise failure
        if failing:
            gather(None)  # where the failing one says what it was
        if not having:
            return
        last = none_of(last) if batch is None else batch  # type: ignore[arg-type]
        yield last, images


def _next(remaining: Iterator[T]) -> tuple[T | None, Exception | None]:
    try:
        return next(remaining, None), None
    except Exception as error:  # passed on once the others know
        return None, error


# ---- tensors ----


def sum_(tensor: Tensor) -> Tensor:
    """``tensor`` with those of all processes added, in place."""
    return _reduce_(tensor, "SUM")


def minimum_(tensor: Tensor) -> Tensor:
    """``tensor`` with the smallest of all processes at each place, in place."""
    return _reduce_(tensor, "MIN")


def batch_mean(columns: Float[Tensor, "b columns"]) -> Float[Tensor, " columns"]:
    """The mean over the mini-batches of all processes, an empty one too; its backward pass sums the gradients of all of them.

    Each process then holds the same loss, and the mean of their gradients (``average_gradients``) is that of the whole mini-batch.
    """
    if size() == 1:
        return columns.mean(dim=0)
    sums = _SumOverProcesses.apply(torch.cat([columns.sum(dim=0), columns.new_full((1,), len(columns))]), _group(columns))
    return sums[:-1] / sums[-1].detach()


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Give each parameter the mean of its gradients in all processes; where it has none that is 0, and none where no process has one."""
    if size() == 1:
        return
    here = [parameter.grad is not None for parameter in parameters]
    gradients = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in parameters]
    flat = sum_(torch.cat([*(gradient.flatten() for gradient in gradients), torch.tensor(here, device=gradients[0].device)]))
    *sums, having = flat.split([*(gradient.numel() for gradient in gradients), len(gradients)])
    somewhere = here if all(here) else having.tolist()  # a look at them waits for the device
    for parameter, gradient, total, found in zip(parameters, gradients, sums, somewhere, strict=True):
        parameter.grad = gradient.copy_((total / size()).view_as(gradient)) if found else None


@torch.no_grad()
def copy_from_main(tensors: Iterable[Tensor]) -> None:
    """Give each tensor the main process's values, in place."""
    if size() == 1:
        return
    for tensor in tensors:
        buffer = tensor.detach().contiguous()
        with _connected():
            dist.broadcast(buffer, src=0, group=_group(buffer))
        tensor.copy_(buffer)


def gather_rows(rows: Tensor) -> Tensor:
    """The rows (n, …) of all processes by rank; each may have another number of them. Through the CPU, for the rare large message."""
    if size() == 1:
        return rows
    rows, parts = rows.detach(), []
    for place, count in enumerate(gather(len(rows))):
        part = rows.float().cpu().contiguous() if place == rank() else torch.empty(count, *rows.shape[1:])
        with _connected():
            dist.broadcast(part, src=place, group=_messages())
        parts.append(part)
    return torch.cat(parts).to(rows)


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return _summed(tensor, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _summed(gradient, ctx.group), None


def _summed(tensor: Tensor, group: Any) -> Tensor:
    total = tensor.clone(memory_format=torch.contiguous_format)
    with _connected():
        dist.all_reduce(total, group=group)
    return total


def _reduce_(tensor: Tensor, operation: str) -> Tensor:
    if size() > 1:
        with _connected():
            dist.all_reduce(tensor, getattr(dist.ReduceOp, operation), group=_group(tensor))
    return tensor


# ---- groups ----


def _leave() -> None:
    """Threads of a group that outlive the interpreter abort the process: torch asks for each group to be destroyed."""
    _MESSAGES.clear()
    if _initialized():
        dist.destroy_process_group()


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def _meet(word: _Word) -> list[Any]:
    words: list[_Word] = [_Word(None)] * size()
    with _connected():
        dist.all_gather_object(words, word, group=_messages())
    failures = [f"process {place}: {said.failure}" for place, said in enumerate(words) if said.failure]
    if failures:
        raise ProcessFailedError(f"{len(failures)} of {len(words)} processes failed: {'; '.join(failures)}")
    return [said.value for said in words]


def _messages() -> Any:
    """A gloo group of all processes, made at their first meeting. Raises ``ProcessFailedError`` once ``midway`` has closed it."""
    world: Any = dist.group.WORLD
    if world not in _MESSAGES:
        _MESSAGES[world] = dist.new_group(backend="gloo", timeout=PATIENCE)
    if _MESSAGES[world] is None:
        raise ProcessFailedError("this process failed earlier, while it exchanged tensors with the others")
    return _MESSAGES[world]


def _group(tensor: Tensor) -> Any:
    """That which carries ``tensor``; ``None``: the one that the user made."""
    return _messages() if tensor.device.type == "cpu" else None


@contextmanager
def _connected() -> Iterator[None]:
    """What the connection says when a process is gone becomes ``ProcessFailedError``."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessFailedError(f"another process is gone, or does not do the same as process {dist.get_rank()}: {error}") from error
