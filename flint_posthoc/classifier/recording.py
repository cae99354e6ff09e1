"""A dry run under observation: which modules fired, what they put out, and which operators ran in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..arrays import Images
from ..errors import FlintError, ImageShapeError
from .taps import hooked, uncompiled

_KINDS: dict[str, frozenset[str]] = {
    kind: frozenset(names.split())
    for kind, names in {
        "activation": """
            relu relu6 gelu silu mish hardswish hardtanh hardsigmoid leaky_relu elu selu celu prelu _prelu_kernel rrelu rrelu_with_noise
            softplus sigmoid tanh log_sigmoid_forward glu threshold softshrink hardshrink erf clamp clamp_min""",
        "selection": """
            max_pool2d max_pool2d_with_indices mkldnn_max_pool2d adaptive_max_pool2d fractional_max_pool2d amax max maximum softmax _softmax
            _scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention
            _scaled_dot_product_cudnn_attention _scaled_dot_product_fused_attention_overrideable _scaled_dot_product_attention_math
            _native_multi_head_attention _transformer_encoder_layer_fwd""",
        "linear": """
            convolution _convolution addmm mm linear mkldnn_linear _native_multi_head_attention _transformer_encoder_layer_fwd""",
    }.items()
}


@dataclass(frozen=True)
class Operator:
    """One operator of interest and the innermost module that ran it.

    ``kinds`` holds "activation", "selection" (max-pooling, softmax, attention: not linear either) or "linear" (a convolution or matrix
    product with weights); a fused transformer layer is several of them.
    """

    kinds: frozenset[str]
    module: nn.Module
    name: str

    @property
    def nonlinear(self) -> bool:
        return not self.kinds.isdisjoint(("activation", "selection"))

    @property
    def functional(self) -> bool:
        """Whether it is an activation that no activation module made, so that hooks on modules do not see it."""
        return "activation" in self.kinds and not is_activation_module(self.module)


def is_leaf(module: nn.Module) -> bool:
    """Whether it holds no other module."""
    return not any(True for _ in module.children())


def is_activation_module(module: nn.Module) -> bool:
    """A leaf that can do nothing but activate: torch's own, and any other one without parameters."""
    own = type(module).__module__ == "torch.nn.modules.activation" and not isinstance(module, nn.MultiheadAttention)
    return own or (is_leaf(module) and not any(True for _ in module.parameters()))


Observer: TypeAlias = Callable[[str, nn.Module, Any], None]  # told (name, module, output) as each call of a named module ends


class Recording:
    """What happened in one forward pass, in order; the number of ``operators`` so far is a position in it.

    Attributes:
        calls: how often each named module ran; spans: the positions between which it did, the last time.
        activation_calls: (position, type name) of each run of an activation module.
        largest: bytes of the largest tensor that an operator made.
    """

    def __init__(self, model: nn.Module) -> None:
        self.operators: list[Operator] = []
        self.calls: Counter[str] = Counter()
        self.activation_calls: list[tuple[int, str]] = []
        self.largest = 0
        self.spans: dict[str, tuple[int, int]] = {}
        self._running: list[tuple[nn.Module, int]] = [(model, 0)]

    @property
    def position(self) -> int:
        return len(self.operators)

    def nonlinear_after(self, position: int) -> bool:
        """Whether anything but linear layers ran after ``position``."""
        return any(operator.nonlinear for operator in self.operators[position:])

    def ends_with(self, name: str) -> bool:
        """Whether the last of the operators is called so."""
        return bool(self.operators) and self.operators[-1].name == name

    def linear_between(self, start: int, end: int | None = None) -> int:
        """How many convolutions and matrix products ran from position ``start`` to ``end``."""
        return sum("linear" in operator.kinds for operator in self.operators[start:end])

    def learned_nonlinearity_after(self, position: int) -> bool:
        """Whether a linear layer and, after it, something non-linear ran after ``position``."""
        rest = self.operators[position:]
        first = next((index for index, operator in enumerate(rest) if "linear" in operator.kinds), len(rest))
        return self.nonlinear_after(position + first)

    def enter(self, module: nn.Module, arguments: Any) -> None:
        """A forward pre-hook."""
        self._running.append((module, self.position))

    def leave(self, name: str, observer: Observer, module: nn.Module, arguments: Any, output: Any) -> None:
        """A forward hook, once its first two arguments are given: the module's name and who else wants to know."""
        _, start = self._running.pop()
        self.spans[name] = start, self.position
        self.calls[name] += 1
        last = self.operators[-1] if self.operators else None
        if last is not None and last.module is module and "activation" in last.kinds and not last.functional:
            self.activation_calls.append((self.position, type(module).__name__))
        observer(name, module, output)

    def note(self, operator: str, made_bytes: int) -> None:
        """One operator of the dispatcher, by its name without namespace and trailing underscore."""
        kinds = frozenset(kind for kind, names in _KINDS.items() if operator in names)
        if kinds:
            self.operators.append(Operator(kinds, self._running[-1][0], operator))
        self.largest = max(self.largest, made_bytes)


class _Dispatch(TorchDispatchMode):
    """Tells a ``Recording`` of every operator."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self._recording = recording

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._recording.note(_operator_name(func, args), _made_bytes(args, result))
        return result


def _operator_name(func: Any, args: tuple[Any, ...]) -> str:
    name: str = func._schema.name.split("::")[-1]
    if name.startswith("clamp") and (len(args) < 2 or not is_zero(args[1])):
        return "clamp that is no ReLU"  # for example the lower bound of a norm in F.normalize
    return name.removesuffix("_")


def is_zero(bound: Any) -> bool:
    """Whether a bound of ``clamp`` makes a ReLU of it; bounds may be tensors, which do not."""
    return isinstance(bound, int | float) and bound == 0


def _made_bytes(args: tuple[Any, ...], result: Any) -> int:
    """Bytes of the first tensor that came out, unless it is a view of one that went in."""
    made = result[0] if isinstance(result, tuple | list) and result else result
    if not isinstance(made, Tensor) or made.layout is not torch.strided:
        return 0
    storage = made.untyped_storage().data_ptr()
    viewed = any(isinstance(arg, Tensor) and arg.layout is torch.strided and arg.untyped_storage().data_ptr() == storage for arg in args)
    return 0 if viewed else made.nbytes


@contextmanager
def recorded(model: nn.Module, observer: Observer) -> Iterator[Recording]:
    """A ``Recording`` of the forward pass in the body; ``observer`` is told every call of a named module."""
    recording = Recording(model)
    registrations: list[tuple[Callable[..., Any], Callable[..., Any]]] = []
    for name, module in model.named_modules():
        if name:
            registrations += [
                (module.register_forward_pre_hook, recording.enter),
                (module.register_forward_hook, partial(recording.leave, name, observer)),
            ]
    with uncompiled(model), hooked(registrations), _Dispatch(recording):
        yield recording


def two_samples(images: Images) -> Float[Tensor, "2 image_channels height width"]:
    """Two images, the first one twice if there is only one: enough to see which dimension is the batch."""
    return images[:2] if len(images) > 1 else images[:1].repeat(2, 1, 1, 1)


def forward(model: nn.Module, images: Images) -> Any:
    """``model(images)``. Raises ``ImageShapeError`` where the model cannot take images of this shape; other errors pass."""
    try:
        return model(images)
    except (FlintError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        raise ImageShapeError(
            f"the classifier's forward pass fails on images of shape {tuple(images.shape)}, {images.dtype}: {error}"
        ) from error


class ParametersRead(TorchFunctionMode):
    """Tells ``seen`` of every parameter that an operation reads: attention modules, for one, read those of layers that they never call."""

    def __init__(self, seen: Callable[[nn.Parameter], object]) -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, nn.Parameter):
                self._seen(value)
        return func(*args, **(kwargs or {}))
