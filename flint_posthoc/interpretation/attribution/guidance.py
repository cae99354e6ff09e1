"""What lies on the path from pixels to a score: which rectifiers guided backpropagation would guide, and what DeepLIFT and LRP cannot see.

Captum's hooks sit on modules and on the tensors that enter them, and say nothing where they miss. So one forward pass is recorded as
Captum would run it (a clone before each rectifier), and its autograd graph is walked from the score back to the pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.utils._pytree import tree_leaves

from ...arrays import Images
from ...classifier.recording import is_leaf, is_zero
from ...classifier.taps import hooked
from .scores import PixelScores

CLASSIFIER = "classifier."  # how the names of f's layers start in a ``PixelScores``

RECTIFIERS = {  # what autograd calls an activation that takes a ReLU's place, and what people call it
    "Relu": "functional ReLU",
    "Hardtanh": "ReLU6 or Hardtanh",
    "Gelu": "GELU",
    "Silu": "SiLU",
    "Mish": "Mish",
    "Hardswish": "Hardswish",
    "LeakyRelu": "LeakyReLU",
    "Elu": "ELU, SELU or CELU",
    "PreluKernel": "PReLU",
    "RreluWithNoise": "RReLU",
    "Softplus": "Softplus",
    "Threshold": "Threshold",
    "Clamp": "clamp",
    "ClampMin": "clamp",
    "Maximum": "maximum",
    "Softshrink": "Softshrink",
    "Hardshrink": "Hardshrink",
    "LogSigmoid": "LogSigmoid",
    "Abs": "absolute value",
}
OPERATORS = {  # autograd's names of what is no activation
    "moves values": """
        View UnsafeView ReshapeAlias Alias Permute Transpose T Unsqueeze Squeeze Expand Slice Select Split SplitWithSizes Unbind Cat Stack
        Clone ToCopy Index Roll Flip AsStrided PixelShuffle Unfold Im2Col Gather IndexSelect ConstantPadNd""",
    "multiplies": "Mul Div Mm Bmm Addmm Addbmm Baddbmm Mv Dot Linear Convolution",  # linear with one operand on the path
    "adds": """
        Add Sub Rsub Neg Mean Sum AvgPool2D AdaptiveAvgPool2D MkldnnAdaptiveAvgPool2D UpsampleBilinear2D UpsampleNearest2D UpsampleBicubic2D
        ReflectionPad2D ReplicationPad2D NativeBatchNorm CudnnBatchNorm MiopenBatchNorm MkldnnConvolution MkldnnLinear""",
}
SHAPES, PRODUCTS, SUMS = (frozenset(names.split()) for names in OPERATORS.values())


@dataclass(frozen=True)
class Step:
    """One operator on the path.

    Attributes:
        operator: autograd's name without "Backward0", for example "Relu".
        layer: the leaf module that ran it, "" for a functional one.  module: that module.
        factors: how many of its operands depend on the pixels.
        foreign: whether its derivative is somebody's own autograd function.
    """

    operator: str
    layer: str
    module: nn.Module | None
    factors: int
    foreign: bool

    @property
    def linear(self) -> bool:
        """Whether hooks on modules may miss it."""
        return self.operator in SHAPES | SUMS or (self.operator in PRODUCTS and self.factors < 2)

    def __str__(self) -> str:
        own = f"{type(self.module).__name__} {self.layer.removeprefix(CLASSIFIER)!r}" if self.module else "a functional operation"
        return f"{self.operator} in {own}"


@dataclass(frozen=True)
class PixelPath:
    """What lies between pixels and score.

    Attributes:
        calls: how often each leaf module ran, off the path too.
        shared: the modules of which an input tensor also feeds something else on the path.
        altered: the network computes something else when its rectifiers get clones: one overwrites a tensor in place that is used again.
    """

    steps: tuple[Step, ...]
    calls: Counter[str]
    shared: frozenset[str]
    altered: bool

    @property
    def guided(self) -> int:
        """How many rectifiers of f are ``nn.ReLU`` modules, which Captum guides."""
        return sum(_is_guided(step) and step.layer.startswith(CLASSIFIER) for step in self.steps)

    @property
    def unguided(self) -> Counter[str]:
        """The other rectifiers on the path, by what people call them."""
        words = (_unguided_word(step) for step in self.steps if not _is_guided(step))
        return Counter(word for word in words if word)

    @property
    def rectifiers_shared(self) -> list[str]:
        """The guided rectifiers at which Captum's hook also catches the gradient of a way around them, in order of the graph."""
        layers = dict.fromkeys(step.layer for step in self.steps if _is_guided(step))
        return [layer.removeprefix(CLASSIFIER) for layer in layers if layer in self.shared]


def _is_guided(step: Step) -> bool:
    return step.operator == "Relu" and isinstance(step.module, nn.ReLU)


def _unguided_word(step: Step) -> str | None:
    return f"custom function {step.operator}" if step.foreign else RECTIFIERS.get(step.operator)


Edge: TypeAlias = tuple[Node, int]


class _Call:
    """One call of a leaf module: the edges that its inputs came in by, and the edge of the first one's clone."""

    def __init__(self, name: str, module: nn.Module, inputs: list[Tensor]) -> None:
        self.name, self.module = name, module
        self.inputs = [_edge(tensor) for tensor in inputs]


def _edge(tensor: Tensor) -> Edge:
    edge: GradientEdge = get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def _tracked(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor) and value.requires_grad]


class _Tracer:
    """Which leaf module ran which autograd node."""

    def __init__(self) -> None:
        self.owner: dict[Node, _Call] = {}
        self.calls: list[_Call] = []

    def enter(self, name: str, module: nn.Module, arguments: Any) -> Any:
        """A forward pre-hook: remembers the inputs, and puts a clone in front of what may rectify in place, as Captum does."""
        self.calls.append(_Call(name, module, _tracked(arguments)))
        cloned = isinstance(module, nn.ReLU) or getattr(module, "inplace", False)
        return (arguments[0].clone(), *arguments[1:]) if cloned and arguments and isinstance(arguments[0], Tensor) else None

    def leave(self, module: nn.Module, arguments: Any, output: Any) -> None:
        """A forward hook: the nodes between the inputs and the output are this call's. Leaves do not nest, so the last call is meant."""
        call = self.calls[-1]
        starts = {node for node, _ in call.inputs}
        waiting = [_edge(tensor)[0] for tensor in _tracked(output)]
        while waiting:
            node = waiting.pop()
            if node not in starts and node not in self.owner:
                self.owner[node] = call
                waiting += [following for following, _ in node.next_functions if following is not None]

    @contextmanager
    def on(self, network: nn.Module) -> Iterator[None]:
        """Hooks on every leaf of ``network``."""
        leaves = [(name, module) for name, module in network.named_modules() if is_leaf(module)]
        registrations: list[tuple[Callable[..., Any], Callable[..., Any]]] = []
        for name, module in leaves:
            registrations += [(module.register_forward_pre_hook, partial(self.enter, name)), (module.register_forward_hook, self.leave)]
        with hooked(registrations):
            yield


def trace(network: PixelScores, images: Images) -> PixelPath:
    """The path from ``images`` (one is enough) to the scores of ``network``, by two forward passes with gradients."""
    tracer, pixels = _Tracer(), images.detach().clone().requires_grad_(True)
    torch.manual_seed(0)  # for what is random in f even now; the caller's state is kept
    plain = network(pixels).detach()
    torch.manual_seed(0)
    with tracer.on(network):
        scores = network(pixels)
    nodes = _walk(_edge(scores)[0])
    altered = not torch.allclose(scores, plain, rtol=1e-3, atol=1e-5 * float(plain.abs().max()))
    steps = [_step(node, tracer.owner.get(node)) for node in nodes]
    return PixelPath(tuple(steps), Counter(call.name for call in tracer.calls), _shared(nodes, tracer), altered)


def _walk(start: Node) -> list[Node]:
    """Every node from ``start`` to the pixels, which are the only leaf that asks for gradients."""
    seen, waiting = {start: None}, [start]
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is not None and node not in seen:
                seen[node] = None
                waiting.append(node)
    return [node for node in seen if node.name() != "torch::autograd::AccumulateGrad"]


def _step(node: Node, call: _Call | None) -> Step:
    name = node.name().split("::")[-1].rstrip("0123456789").removesuffix("Backward")
    if name.endswith("BatchNorm") and getattr(node, "_saved_training", False):
        name = "InstanceNorm"  # with the statistics of the image itself
    if name.startswith("Clamp") and not is_zero(getattr(node, "_saved_min", None)):
        name = "Bound"  # for example that of a norm in F.normalize: no rectifier
    factors = sum(following is not None for following, _ in node.next_functions)  # x * x has two
    foreign = isinstance(node, torch.autograd.function.BackwardCFunction)
    return Step(name, call.name if call else "", call.module if call else None, factors, foreign)


def _shared(nodes: list[Node], tracer: _Tracer) -> frozenset[str]:
    """The modules with an input edge that leads, on the path, into something else than the same call of the module."""
    takers: dict[Edge, set[Any]] = {}
    for node in nodes:
        for following, number in node.next_functions:
            if following is not None:
                takers.setdefault((following, number), set()).add(tracer.owner.get(node, node))
    return frozenset(call.name for call in tracer.calls for edge in call.inputs if takers.get(edge, set()) - {call})
