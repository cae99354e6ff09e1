"""Which layers to tap when the user names none: one forward and one backward pass find out, so that it holds for families nobody listed.

A good layer is a bottleneck (every path from the image to the logits runs through its output), its maps reach the logits (the patch
tokens of a ViT's last block do not), and linear layers and something non-linear follow, so that an interpreter has something to find.
The deepest good layer is taken, and before it the last good one that is two linear layers away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ..arrays import Images, Logits
from ..errors import LayerError, UnmappableActivationError
from .adapter import ModelAdapter, Suggestion, TapLayout
from .recording import Recording, forward, recorded, two_samples
from .taps import frozen

BLOCK = 0.25  # of all linear layers: what holds more is no block but the body of the net, and its name says nothing
APART = 2  # linear layers between the two taps: one convolution apart, the second would say nearly the same
LATE = 0.75  # a tap with a whole non-linear layer after it is preferred as long as this share of the linear layers comes before it


@dataclass(frozen=True)
class _Candidate:
    """One tensor with spatial or token extent that passed through the net.

    names: the module that put it out, then the containers that passed it on; position: how many operators had run;
    edge: its place in the autograd graph.
    """

    names: tuple[str, ...]
    layout: TapLayout
    position: int
    edge: GradientEdge


class _Survey:
    """Collects the candidates of one forward pass, in order."""

    def __init__(self, model: nn.Module, images: Images, adapter: ModelAdapter) -> None:
        self._model, self._adapter, self._images = model, adapter, images
        self._names: list[list[str]] = []
        self._found: list[tuple[TapLayout, int, GradientEdge]] = []
        self._last: tuple[Tensor, int] | None = None

    def run(self) -> tuple[Recording, Logits]:
        """One forward pass with a graph from the logits to the images."""
        with recorded(self._model, self._observe) as self._recording:
            logits = self._adapter.logits(forward(self._model, self._images))
        return self._recording, logits

    def candidates(self) -> list[_Candidate]:
        """Those that a module put out which runs only once."""
        once = [tuple(name for name in names if self._recording.calls[name] == 1) for names in self._names]
        return [_Candidate(names, *found) for names, found in zip(once, self._found, strict=True) if names]

    def _observe(self, name: str, module: nn.Module, output: Any) -> None:
        tensor = self._adapter.raw(output)
        if tensor is None or not tensor.requires_grad:
            return
        if self._last is not None and self._last[0] is tensor and self._last[1] == tensor._version:
            if any(True for _ in module.children()):  # a container passes its last child's output on; an Identity is no second layer
                self._names[-1].append(name)
            return
        layout = self._layout(name, module, output)
        if layout is not None:
            self._last = tensor, tensor._version
            self._names.append([name])
            self._found.append((layout, self._recording.position, get_gradient_edge(tensor)))

    def _layout(self, name: str, module: nn.Module, output: Any) -> TapLayout | None:
        try:
            layout = self._adapter.layout(name, output, self._images, self._model)
        except UnmappableActivationError:
            return None
        resampled = type(module).__name__.startswith("Adaptive")
        return layout if layout.height * layout.width > 1 and not resampled else None


def suggest(model: nn.Module, images: Images, adapter: ModelAdapter) -> Suggestion:
    """One or two layers of ``model`` in forward order, and why. Deterministic; the model is left as it was.

    Raises:
        LayerError: if no layer with extent reaches the logits.
        ImageShapeError, ClassifierOutputError: if the model cannot take the images, or returns no logits.
    """
    with frozen(model), torch.inference_mode(False), torch.enable_grad():
        sample = two_samples(images).detach().clone().requires_grad_()
        survey = _Survey(model, sample, adapter)
        recording, logits = survey.run()
        followed = [candidate for candidate in survey.candidates() if recording.linear_between(candidate.position)]
        reaching = _reaching(followed, logits, adapter)
        bottlenecks = [candidate for candidate in reaching if not _bypassed(candidate.edge, logits, sample)]
    return _choose(reaching, bottlenecks, recording)


def _reaching(candidates: Sequence[_Candidate], logits: Logits, adapter: ModelAdapter) -> list[_Candidate]:
    """Those whose maps, without prefix tokens, have a path to the logits."""
    if not candidates or not logits.requires_grad:
        return []
    # NaN spreads along every path, through weights that are zero too (some families start their heads so), and nowhere else
    infected = torch.full_like(logits, torch.nan)
    edges = [candidate.edge for candidate in candidates]
    gradients = torch.autograd.grad([logits], edges, [infected], allow_unused=True, retain_graph=True)
    return [
        candidate
        for candidate, gradient in zip(candidates, gradients, strict=True)
        if gradient is not None and bool(adapter.canonical(gradient, candidate.layout).isnan().any())
    ]


def _bypassed(edge: GradientEdge, logits: Logits, images: Tensor) -> bool:
    """Whether the logits still depend on the images when the graph is cut at ``edge``."""
    waiting, seen = [logits.grad_fn], {logits.grad_fn}
    while waiting:
        node = waiting.pop()
        if getattr(node, "variable", None) is images:
            return True
        for following, output in node.next_functions if node is not None else ():
            if following is not None and following not in seen and (following, output) != (edge.node, edge.output_nr):
                seen.add(following)
                waiting.append(following)
    return False


def _choose(reaching: Sequence[_Candidate], bottlenecks: Sequence[_Candidate], recording: Recording) -> Suggestion:
    """The first of these groups that is not empty gives the layers; its words say what had to be given up."""
    late = LATE * recording.linear_between(0)

    def deep_enough(candidate: _Candidate) -> bool:
        return recording.learned_nonlinearity_after(candidate.position) and recording.linear_between(0, candidate.position) >= late

    def interesting(candidate: _Candidate) -> bool:
        return recording.nonlinear_after(candidate.position)

    def anything(candidate: _Candidate) -> bool:
        return True

    groups: tuple[tuple[Sequence[_Candidate], Callable[[_Candidate], bool], str], ...] = (
        (bottlenecks, deep_enough, "every path to the logits runs through it, and whole non-linear layers follow"),
        (bottlenecks, interesting, "every path to the logits runs through it, and something non-linear follows"),
        (
            bottlenecks,
            anything,
            "every path to the logits runs through it, but only linear layers follow: the interpreter may merely copy them",
        ),
        (reaching, anything, "its maps reach the logits, but other paths lead around it: the interpreter sees only part of what decides"),
    )
    for candidates, condition, words in groups:
        fitting = [candidate for candidate in candidates if condition(candidate)]
        if fitting:
            return _with_second(fitting[-1], candidates, recording, words)
    raise LayerError(
        "found no layer with spatial or token extent that reaches the logits; pass layers=[...] with names as in model.named_modules()"
    )


def _with_second(deepest: _Candidate, candidates: Sequence[_Candidate], recording: Recording, words: str) -> Suggestion:
    """``deepest`` and the last candidate far enough before it; where none is, the last one with at least one linear layer between."""
    name = _name(deepest, recording)
    outside = [candidate for candidate in candidates if not candidate.names[0].startswith(f"{name}.")]
    for apart in (APART, 1):
        earlier = [candidate for candidate in outside if recording.linear_between(candidate.position, deepest.position) >= apart]
        if earlier:
            first = _name(earlier[-1], recording)
            return Suggestion(
                (first, name), f"{name} is the deepest good layer: {words}; {first} is the last good one before it that differs enough"
            )
    return Suggestion((name,), f"{name} is the deepest good layer: {words}; none before it differs enough")


def _name(candidate: _Candidate, recording: Recording) -> str:
    """The outermost name that stands for a block and not for most of the net."""
    most = BLOCK * recording.linear_between(0)
    blocks = [name for name in candidate.names if recording.linear_between(*recording.spans[name]) <= most]
    return blocks[-1] if blocks else candidate.names[0]
