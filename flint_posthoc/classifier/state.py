"""What a call must leave as it found it: the user's modules, their tensors and the process's global settings.

Each class here takes a snapshot when made and puts it back on ``restore()``. They are cheap: ``no_trace`` makes them once a public call.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

from ..randomness import RandomState

_HOLDING = (dict, list, set, deque, tuple, Tensor)
_HOLDS_NOTHING = frozenset({bool, int, float, str, type(None)})  # nearly all that a module has beside its dicts
_UNREADABLE = object()


def _attribute(owner: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


_NEWER_PRECISIONS = tuple(
    _attribute(getattr(library, part), "fp32_precision")
    for library in (torch.backends.cudnn, torch.backends.mkldnn)
    for part in ("conv", "matmul")
    if hasattr(library, part)
)
# The older names of a setting stand before the newer ones: writing an older one overwrites the newer ones, not the other way round.
_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    _attribute(torch.backends.cudnn, "enabled"),
    _attribute(torch.backends.cudnn, "benchmark"),
    _attribute(torch.backends.cudnn, "deterministic"),
    _attribute(torch.backends.cudnn, "allow_tf32"),
    _attribute(torch.backends.mkldnn, "enabled"),
    _attribute(torch.backends.mkldnn, "deterministic"),
    _attribute(torch.backends.cuda.matmul, "fp32_precision"),
    _attribute(torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction"),
    _attribute(torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction"),
    *_NEWER_PRECISIONS,
)


def _read(reader: Callable[[], Any]) -> Any:
    """A setting's value; torch refuses to read some while older and newer names contradict each other, and lacks some in older versions."""
    try:
        return reader()
    except (RuntimeError, AttributeError):
        return _UNREADABLE


class ProcessState:
    """Grad mode, default dtype, threads, backend flags, and the global random states."""

    def __init__(self) -> None:
        self._settings = [_read(reader) for reader, _ in _SETTINGS]
        self._random = RandomState()

    def restore(self) -> None:
        """Put everything back; settings that did not change are not written."""
        for (reader, writer), value in zip(_SETTINGS, self._settings, strict=True):
            if value is not _UNREADABLE and _read(reader) not in (value, _UNREADABLE):
                writer(value)
        self._random.restore()


def _fill(container: Any, content: Any) -> None:
    """Make ``container`` hold what ``content`` holds, keeping the object itself."""
    container.clear()
    container.extend(content) if isinstance(container, list | deque) else container.update(content)


def _copied(container: Any) -> Any:
    return dict(container.items()) if isinstance(container, dict) else container.copy()  # a dict of a family's own may not copy itself


def _same(container: Any, content: Any) -> bool:
    """Whether both hold the very same objects in the same order (``==`` would compare tensors)."""
    if len(container) != len(content):
        return False
    if isinstance(container, dict):
        return all(map(is_, container, content)) and all(map(is_, container.values(), content.values()))
    return container == content if isinstance(container, set) else all(map(is_, container, content))


def _held(values: Iterable[Any], known: set[int]) -> list[Any]:
    """Every container and tensor among ``values``, and in what those hold, once; tuples are looked into."""
    found, waiting = [], list(values)
    for value in waiting:
        if type(value) in _HOLDS_NOTHING or not isinstance(value, _HOLDING) or id(value) in known:
            continue
        known.add(id(value))
        if not isinstance(value, tuple):
            found.append(value)
        if not isinstance(value, Tensor) and value:
            waiting.extend(value.values() if isinstance(value, dict) else value)  # and is walked over too
    return found


class ModuleState:
    """The instance attributes of every module, and the content of those that are dicts, lists, sets or deques, one in another too: hooks,
    parameters, buffers, submodules, ``training``, a patched ``forward``, whatever a family keeps beside. And each parameter's
    ``requires_grad`` and ``grad``.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules = list(model.modules())
        self.parameters = _once(parameter for module in self.modules for parameter in module._parameters.values())
        self._attributes = [(module.__dict__, module.__dict__.copy()) for module in self.modules]
        held = _held((value for _, saved in self._attributes for value in saved.values()), set(map(id, self.parameters)))
        self._tensors = [value for value in held if isinstance(value, Tensor)]
        containers = [value for value in held if not isinstance(value, Tensor)]
        self._empty = [container for container in containers if not container]  # nearly all: a module has a dozen dicts for hooks
        self._filled = [(container, _copied(container)) for container in containers if container]
        self._gradients = [(parameter, parameter.requires_grad, parameter.grad) for parameter in self.parameters]

    def written_tensors(self) -> list[Tensor]:
        """Every tensor that a forward pass may write: buffers, and tensors kept as plain attributes or in containers."""
        return self._tensors

    def restore(self) -> None:
        """Put back what changed, in place: the dicts stay the same objects."""
        for attributes, saved in self._attributes:
            if not _same(attributes, saved):
                _fill(attributes, saved)
        for container in self._empty:
            if container:
                container.clear()
        for container, content in self._filled:
            if not _same(container, content):
                _fill(container, content)
        self._restore_gradients()

    def keep_tensors(self) -> None:
        """Take the parameters and buffers that modules hold now as the ones to keep (a model may replace a buffer rather than write it)."""
        tables = {id(saved[name]) for _, saved in self._attributes for name in ("_parameters", "_buffers")}
        self._filled = [(table, table.copy() if id(table) in tables else content) for table, content in self._filled]

    def _restore_gradients(self) -> None:
        for parameter, requires_grad, gradient in self._gradients:
            if parameter.requires_grad is not requires_grad:
                parameter.requires_grad_(requires_grad)
            if parameter.grad is not gradient:
                parameter.grad = gradient


def _once(tensors: Iterable[Tensor | None]) -> list[Tensor]:
    """Each tensor once, without the entries that were declared and left empty."""
    return list({id(tensor): tensor for tensor in tensors if tensor is not None}.values())


def _writable(tensor: Tensor) -> bool:
    """Sparse, unallocated and expanded tensors cannot be written element by element, by nobody: they need no copy."""
    if tensor.layout is not torch.strided or tensor.is_meta:
        return False
    return tensor.is_contiguous() or all(tensor.stride(axis) or tensor.shape[axis] < 2 for axis in range(tensor.dim()))


class TensorState:
    """Copies of tensors' values. ``restore`` writes them through ``.data``, so that an autograd graph of the user's stays usable."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
        for tensor in tensors:
            if _writable(tensor):
                groups[tensor.device, tensor.dtype].append(tensor.data)
        self._groups = [(group, [torch.empty_like(tensor) for tensor in group]) for group in groups.values()]
        for originals, copies in self._groups:
            torch._foreach_copy_(copies, originals)  # one launch a group on an accelerator, where a batch-norm net has hundreds of buffers

    def restore(self) -> None:
        """Write the values back."""
        for originals, copies in self._groups:
            torch._foreach_copy_(originals, copies)
