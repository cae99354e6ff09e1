"""The only code that touches the user's model: frozen or trainable for a while, read at its tapped layers, and left without a trace."""

from __future__ import annotations

import difflib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from ..arrays import Activations, Images, Logits
from ..errors import (
    DevicePlacementError,
    DuplicateLayerError,
    LayerError,
    LayerNotReachedError,
    UnknownLayerError,
    UnsupportedClassifierError,
)
from ..threads import TURN
from .adapter import ModelAdapter, TapLayout, model_device
from .state import ModuleState, ProcessState, TensorState


def unwrap(model: Any) -> nn.Module:
    """The module whose layers can be read: what ``torch.compile``, ``DataParallel`` or ``DistributedDataParallel`` was given.

    Raises:
        UnsupportedClassifierError: for what is no ``nn.Module`` instance, and for modules whose inner layers cannot be read.
    """
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) or isinstance(
        getattr(model, "_orig_mod", None), nn.Module
    ):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module
    refusal = _refusal(model)
    if refusal:
        raise UnsupportedClassifierError(f"cannot read the layers of {_described(model)}: {refusal}")
    return model


def _described(model: Any) -> str:
    return f"the class {model.__qualname__}" if isinstance(model, type) else f"a {type(model).__module__}.{type(model).__qualname__}"


def _refusal(model: Any) -> str:
    """Why ``model`` cannot be explained and what to pass instead; empty if it can."""
    if isinstance(model, type):
        return "expected an instance of torch.nn.Module; call the class to make one"
    if isinstance(model, torch.export.ExportedProgram) or (isinstance(model, fx.GraphModule) and not _calls_modules(model)):
        return "an exported programme calls operators, not layers; pass the torch.nn.Module that it was exported from"
    if not isinstance(model, nn.Module):
        return "expected a torch.nn.Module; wrap a function that calls one in a module whose forward returns its logits"
    if isinstance(model, torch.jit.ScriptModule):
        return "scripted and traced modules run no hooks; pass the torch.nn.Module that they were made from"
    sharded = [type(module).__name__ for module in model.modules() if type(module).__module__.startswith("torch.distributed.fsdp")]
    if sharded or any(type(parameter).__module__.startswith("torch.distributed.tensor") for parameter in model.parameters()):
        return "its weights are sharded over processes; gather them (get_model_state_dict with full_state_dict=True) into the plain module"
    lazy = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if is_lazy(tensor)]
    if lazy:
        return f"{lazy[0]!r} has no shape yet; run one batch through the lazy module first"
    if any(parameter.is_inference() for parameter in model.parameters()):
        return "its weights were made in torch.inference_mode(), through which no gradient flows; make it outside (torch.no_grad() will do)"
    return ""


def _calls_modules(model: fx.GraphModule) -> bool:
    return any(node.op == "call_module" and node.target != "_guards_fn" for node in model.graph.nodes)  # export adds a module of guards


def check_device(model: nn.Module) -> torch.device:
    """The one device that holds all parameters and buffers.

    Raises:
        DevicePlacementError: if they stand on several devices, or on ``meta``, without values.
    """
    found = Counter(str(tensor.device) for tensor in (*model.parameters(), *model.buffers()))
    if len(found) > 1:
        places = ", ".join(f"{count} on {device}" for device, count in sorted(found.items()))
        raise DevicePlacementError(
            f"the classifier's parameters and buffers stand on several devices ({places}); move it to one: model.to(device)"
        )
    if "meta" in found:
        raise DevicePlacementError("the classifier's parameters stand on the meta device and have no values; load its weights first")
    return model_device(model)


def resolve_layers(model: nn.Module, layers: Sequence[str]) -> tuple[str, ...]:
    """``layers`` as a tuple, after checking that each names another module of ``model``.

    Raises:
        UnknownLayerError: with the nearest names that exist.
        DuplicateLayerError: if two of them are the same module.
        LayerError: if there is none, or the classifier itself is meant.
    """
    if isinstance(layers, str) or not all(isinstance(layer, str) for layer in layers):
        raise LayerError(f"layers must be a list of names as in model.named_modules(), for example ['layer3', 'layer4.0']; got {layers!r}")
    if not layers:
        raise LayerError("no layer was named; name at least one, or pass layers=None to let the adapter suggest")
    modules = dict(model.named_modules(remove_duplicate=False))
    seen: dict[nn.Module, str] = {}
    for layer in layers:
        _check_name(layer, modules)
        if modules[layer] in seen:
            raise DuplicateLayerError(f"layers {seen[modules[layer]]!r} and {layer!r} are the same module; name each once")
        seen[modules[layer]] = layer
    return tuple(layers)


def _check_name(layer: str, modules: dict[str, nn.Module]) -> None:
    if layer == "":
        raise LayerError("'' is the classifier itself, whose output is the logits; name one of its layers")
    if layer not in modules:
        names = [name for name in modules if name]
        nearest = difflib.get_close_matches(layer, names, n=5, cutoff=0.4) or names[:5]
        raise UnknownLayerError(
            f"the classifier has no layer {layer!r}; nearest names: {', '.join(map(repr, nearest)) or 'none, it has no layers'}"
        )


@contextmanager
def no_trace(model: nn.Module) -> Iterator[nn.Module]:
    """Leave model and process as they were found, whether the body returns or raises.

    Kept are every module's attributes (flags, hooks, ``forward``), buffers and other tensors with their values, each parameter's
    ``requires_grad`` and ``grad``, grad mode, default dtype, backend flags and the global random state. Parameter values are not copied:
    ``frozen`` keeps optimisers away from them. Other threads wait: what they kept meanwhile would be the body's.
    """
    with _kept(model):
        yield model


@contextmanager
def _kept(model: nn.Module) -> Iterator[ModuleState]:
    with TURN:
        process, modules = ProcessState(), ModuleState(model)
        tensors = TensorState(modules.written_tensors())
        with _put_back(process, tensors, modules):
            yield modules


@contextmanager
def _put_back(*states: ProcessState | ModuleState | TensorState) -> Iterator[None]:
    """Restore each on the way out, the last one first; one that fails keeps none of the others from it."""
    with ExitStack() as stack:
        for state in states:
            stack.callback(state.restore)
        yield


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """``no_trace`` with the model in evaluation mode and no parameter asking for gradients."""
    with _kept(model) as state:
        if any(module.training for module in state.modules):
            model.eval()
        for parameter in state.parameters:
            parameter.requires_grad_(False)
        yield model


@contextmanager
def trainable(model: nn.Module) -> Iterator[nn.Module]:
    """The model in training mode, for ``joint=True``: parameters and buffers keep their new values, the rest is left as it was found.

    A classifier without any parameter that asks for gradients is unfrozen; of a partly frozen one the frozen parts stay in evaluation
    mode. If the body raises, the starting parameters and buffers are restored as well.
    """
    with TURN:
        process, modules = ProcessState(), ModuleState(model)
        start = TensorState([*modules.parameters, *modules.written_tensors()])
        with _put_back(process, modules):
            try:
                _unfreeze(modules.parameters)
                _train(model)
                yield model
                modules.keep_tensors()
            except BaseException:
                start.restore()
                raise


@contextmanager
def unchanged_on_error(model: nn.Module) -> Iterator[None]:
    """Parameters and buffers get their values back if the body raises."""
    start = TensorState([*model.parameters(), *model.buffers()])
    try:
        yield
    except BaseException:
        start.restore()
        raise


def _unfreeze(parameters: Sequence[Tensor]) -> None:
    learnable = [parameter for parameter in parameters if parameter.is_floating_point() or parameter.is_complex()]
    all_frozen = not any(parameter.requires_grad for parameter in learnable)
    for parameter in learnable:
        parameter.grad = None  # the user's gradients are put back afterwards and must not be added to
        if all_frozen:
            parameter.requires_grad_(True)


def _train(model: nn.Module) -> None:
    model.train()
    for part in model.modules():
        asking = [parameter.requires_grad for parameter in part.parameters()]
        if asking and not any(asking):
            part.eval()  # frozen: its batch norms and its dropout too


@contextmanager
def hooked(registrations: Iterable[tuple[Callable[..., Any], Callable[..., Any]]]) -> Iterator[None]:
    """Call each ``register(hook)`` of (register, hook) and remove all hooks on the way out, also when a registration fails half-way."""
    with ExitStack() as stack:
        for register, hook in registrations:
            stack.callback(register(hook).remove)
        yield


@dataclass(frozen=True)
class ClassifierPass:
    """One pass of f: logits (B, C) and f_I(x), canonical maps (B, channels, H, W), one entry a tapped layer."""

    logits: Logits
    activations: Activations


class _DeepestTapReached(BaseException):
    """Ends a forward pass once every tap has been read. No ``Exception``, so that the model's own ``except Exception`` lets it through."""


class _Capture:
    """What the taps saw in one forward pass of this thread; another one may run the classifier for its own ends meanwhile."""

    def __init__(self, adapter: ModelAdapter, layouts: Sequence[TapLayout]) -> None:
        self._adapter, self._layouts = adapter, layouts
        self._maps: list[Tensor | None] = [None] * len(layouts)
        self._missing = [layout.calls for layout in layouts]
        self._thread = threading.get_ident()

    def keep(self, tap: int, module: nn.Module, arguments: Any, output: Any) -> None:
        """A forward hook, once the number of its tap is given: keeps the output of the last call."""
        if threading.get_ident() != self._thread:
            return
        layout = self._layouts[tap]
        self._missing[tap] -= 1
        if self._missing[tap] <= 0:
            maps = self._adapter.canonical(output, layout)
            self._maps[tap] = maps.clone() if layout.overwritten else maps

    def stop(self, module: nn.Module, arguments: Any, output: Any) -> None:
        """A forward hook that ends the pass at the last call of the deepest tap."""
        if threading.get_ident() == self._thread and all(missing <= 0 for missing in self._missing):
            raise _DeepestTapReached

    def activations(self, images: Images) -> Activations:
        """The maps, in the order of the layouts. Raises ``LayerNotReachedError``, and ``LayerError`` where ``images`` get no gradient."""
        for layout, missing in zip(self._layouts, self._missing, strict=True):
            if missing == layout.calls:
                raise LayerNotReachedError(layer_not_reached(layout.layer))
            if missing > 0:
                raise LayerNotReachedError(
                    f"layer {layout.layer!r} ran {layout.calls - missing} times in this pass, {layout.calls} times in preflight"
                )
        found = tuple(maps for maps in self._maps if maps is not None)
        if images.requires_grad and torch.is_grad_enabled() and not any(maps.requires_grad for maps in found):
            layers = ", ".join(layout.layer for layout in self._layouts)
            raise LayerError(
                f"no gradient comes from {layers} back to the images: quantised layers, reentrant checkpointing or torch.no_grad() in the "
                "model cut it off; switch that off to draw or attribute"
            )
        return found


def layer_not_reached(layer: str) -> str:
    """The words of ``LayerNotReachedError``."""
    return f"layer {layer!r} exists but the classifier's forward pass never calls it (in evaluation mode); name a layer that is called"


class TappedClassifier:
    """A classifier that also tells what its tapped layers put out. Grad mode, device and precision are the caller's."""

    def __init__(self, model: nn.Module, adapter: ModelAdapter, layouts: Sequence[TapLayout]) -> None:
        self._model, self._adapter, self._layouts = model, adapter, tuple(layouts)
        self._modules = [model.get_submodule(layout.layer) for layout in layouts]

    def __call__(self, images: Images) -> ClassifierPass:
        """The whole forward pass. Raises ``LayerNotReachedError``, ``UnmappableActivationError``, ``ClassifierOutputError``."""
        capture = _Capture(self._adapter, self._layouts)
        with hooked(self._captures(capture)):
            output = self._model(images)
        return ClassifierPass(self._adapter.logits(output), capture.activations(images))

    def activations(self, images: Images) -> Activations:
        """The forward pass up to the deepest tap; same bits as those of the whole pass."""
        capture = _Capture(self._adapter, self._layouts)
        stops = [(module.register_forward_hook, capture.stop) for module in self._modules]
        with suppress(_DeepestTapReached), hooked([*self._captures(capture), *stops]):
            self._model(images)
        return capture.activations(images)

    def _captures(self, capture: _Capture) -> list[tuple[Callable[..., Any], Callable[..., Any]]]:
        return [(module.register_forward_hook, partial(capture.keep, tap)) for tap, module in enumerate(self._modules)]


@contextmanager
def tapped(model: nn.Module, adapter: ModelAdapter, layouts: Sequence[TapLayout]) -> Iterator[TappedClassifier]:
    """A ``TappedClassifier`` over the layers of ``layouts``. Hooks are on the model only while it runs; nesting is fine."""
    resolve_layers(model, [layout.layer for layout in layouts])
    with uncompiled(model):
        yield TappedClassifier(model, adapter, layouts)


def uncompiled(model: nn.Module) -> AbstractContextManager[Any]:
    """A context in which compiled parts of ``model`` run eagerly: compiled code skips hooks, silently."""
    compiled = any(hasattr(module, "_orig_mod") or module._compiled_call_impl is not None for module in model.modules())
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()
