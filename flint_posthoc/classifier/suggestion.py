"""Which layers to tap when the user names none: one forward and one backward pass find out, so that it holds for families nobody listed.

A good layer is a bottleneck (every path from the image to the logits runs through its output), its maps reach the logits (the patch
tokens of a ViT's last block do not), and linear layers and something non-linear follow, so that an interpreter has something to find.
The deepest good layer is taken, and before it, in the second half of the net, the last good one that is two linear layers away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ..arrays import Images, Logits
from ..errors import LayerError, UnmappableActivationError
from .adapter import ModelAdapter, Suggestion, TapLayout
from .recording import Recording, forward, is_leaf, recorded, two_samples
from .taps import frozen

BLOCK = 0.25  # of all linear layers: what holds more is no block but the body of the net, and its name says nothing
APART = 2  # linear layers between the two taps: one convolution apart, the second would say nearly the same
HALF = 0.5  # of the linear layers: what comes before shows edges and colours, which the deeper tap makes use of already
STRETCH = 2.0  # how far a map's aspect may be from the image's: what is further off is a list of windows or heads and no map
LATE = 0.75  # a tap with a whole non-linear layer after it is preferred as long as this share of the linear layers comes before it
MERELY_COPIED = "every path to the logits runs through it, but only linear layers follow: the interpreter may merely copy them"
PARTLY_SEEN = "its maps reach the logits, but other paths lead around it: the interpreter sees only part of what decides"


@dataclass(frozen=True)
class _Candidate:
    """One tensor with spatial or token extent that passed through the net.

    names: the module that put it out, then the containers that passed it on; position: how many operators had run;
    edge: its place in the autograd graph; is_block: whether one of the modules has layers of its own.
    """

    names: tuple[str, ...]
    is_block: bool
    layout: TapLayout
    position: int
    edge: GradientEdge


class _CandidateSearch:
    """Collects the candidates of one forward pass, in order."""

    def __init__(self, model: nn.Module, images: Images, adapter: ModelAdapter) -> None:
        self._model, self._adapter, self._images = model, adapter, images
        self._names: list[list[str]] = []
        self._found: list[tuple[TapLayout, int, GradientEdge]] = []
        self._places: dict[GradientEdge, int] = {}

    def run(self) -> tuple[Recording, Logits]:
        """One forward pass with a graph from the logits to the images."""
        copied = self._images.clone()  # a classifier may write into it, and nobody may into a leaf
        with recorded(self._model, self._observe) as self._recording:
            logits = self._adapter.logits(forward(self._model, copied))
        return self._recording, logits

    def candidates(self) -> list[_Candidate]:
        """Those that a module put out which runs only once."""
        once = [tuple(name for name in names if self._recording.calls[name] == 1) for names in self._names]
        return [_Candidate(names, self._is_block(names[-1]), *found) for names, found in zip(once, self._found, strict=True) if names]

    def _is_block(self, name: str) -> bool:
        return not is_leaf(self._model.get_submodule(name))

    def _observe(self, name: str, module: nn.Module, output: Any) -> None:
        layout = self._layout(name, module, output)
        tensor = None if layout is None else self._adapter.raw(output, layout.item)
        if layout is None or tensor is None or not tensor.requires_grad:
            return
        edge = get_gradient_edge(tensor)
        place = self._places.setdefault(edge, len(self._found))
        if place == len(self._found):
            self._names.append([name])
            self._found.append((layout, self._recording.position, edge))
        elif place == len(self._found) - 1 and not is_leaf(module):
            self._names[place].append(name)  # a container passes its last child's output on; an Identity is no second layer

    def _layout(self, name: str, module: nn.Module, output: Any) -> TapLayout | None:
        try:
            layout = self._adapter.layout(name, output, self._images, self._model)
        except UnmappableActivationError:
            return None
        resampled = type(module).__name__.startswith("Adaptive")
        return layout if layout.height * layout.width > 1 and not resampled and not self._stretched(layout) else None

    def _stretched(self, layout: TapLayout) -> bool:
        """Whether a map is too far off the image's aspect; those of a signal, one row, are as long as they are."""
        height, width = self._images.shape[2:]
        aspect = layout.width * height / (layout.height * width)
        return min(height, width) > 1 and abs(math.log(aspect)) > math.log(STRETCH)


def suggest(model: nn.Module, images: Images, adapter: ModelAdapter) -> Suggestion:
    """One or two layers of ``model`` in forward order, and why. Deterministic; the model is left as it was.

    Raises:
        LayerError: if no layer with extent reaches the logits.
        ImageShapeError, ClassifierOutputError: if the model cannot take the images, or returns no logits.
    """
    with frozen(model), torch.inference_mode(False), torch.enable_grad():
        sample = two_samples(images).detach().clone().requires_grad_()
        survey = _CandidateSearch(model, sample, adapter)
        recording, logits = survey.run()
        followed = [candidate for candidate in survey.candidates() if recording.linear_between(candidate.position)]
        reaching = _reaching(followed, logits, adapter)
        return _Choice(reaching, recording, lambda *edges: _bypassed(edges, logits, sample)).suggestion()


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
        if gradient is not None and bool(adapter.canonical(gradient, replace(candidate.layout, item=0)).isnan().any())
    ]


def _bypassed(edges: Sequence[GradientEdge], logits: Logits, images: Tensor) -> bool:
    """Whether the logits still depend on the images when the graph is cut at ``edges``."""
    cut = {(edge.node, edge.output_nr) for edge in edges}
    waiting, seen = [logits.grad_fn], {logits.grad_fn}
    while waiting:
        node = waiting.pop()
        if getattr(node, "variable", None) is images:
            return True
        for following, output in node.next_functions if node is not None else ():
            if following is not None and following not in seen and (following, output) not in cut:
                seen.add(following)
                waiting.append(following)
    return False


class _Choice:
    """What to take of the candidates, in forward order, whose maps reach the logits."""

    def __init__(self, reaching: Sequence[_Candidate], recording: Recording, bypassed: Callable[..., bool]) -> None:
        self._reaching, self._recording, self._bypassed = reaching, recording, bypassed
        self._linear_layers = recording.linear_between(0)

    def suggestion(self) -> Suggestion:
        """From the first of these groups that is not empty; its words say what had to be given up. Raises ``LayerError``."""
        bottlenecks = [candidate for candidate in self._reaching if not self._bypassed(candidate.edge)]
        blocks = [candidate for candidate in self._reaching if candidate.is_block]
        groups: tuple[tuple[Sequence[_Candidate], Callable[[_Candidate], bool], str], ...] = (
            (bottlenecks, self._is_late, "every path to the logits runs through it, and whole non-linear layers follow"),
            (bottlenecks, self._is_half_way, "every path to the logits runs through it, and something non-linear follows"),
            (blocks, self._is_half_way, PARTLY_SEEN),
            (bottlenecks, self._is_followed, "every path to the logits runs through it, but it lies in the first half of the net"),
            (bottlenecks, bool, MERELY_COPIED),
            (self._reaching, bool, PARTLY_SEEN),
        )
        for candidates, condition, words in groups:
            fitting = [candidate for candidate in candidates if condition(candidate)]
            if fitting:
                return replace(self._with_second(fitting[-1], candidates, words), good=self._good(candidates))
        raise LayerError(
            "found no layer with spatial or token extent that reaches the logits; pass layers=[...] with names as in model.named_modules() "
            "(quantised layers, reentrant checkpointing and torch.no_grad() in the model hide what lies before them)"
        )

    def _good(self, candidates: Sequence[_Candidate]) -> tuple[str, ...]:
        """What could be read instead: of blocks, where the net has some, else of all layers, those with something non-linear behind."""
        followed = [candidate for candidate in candidates if self._is_followed(candidate)]
        blocks = [candidate for candidate in followed if candidate.is_block]
        return tuple(dict.fromkeys(map(self._name, blocks or followed)))

    def _share(self, candidate: _Candidate) -> float:
        """Of the linear layers, how many come before."""
        return self._recording.linear_between(0, candidate.position) / max(1, self._linear_layers)

    def _is_deep(self, candidate: _Candidate) -> bool:
        return self._share(candidate) >= HALF

    def _is_followed(self, candidate: _Candidate) -> bool:
        return self._recording.nonlinear_after(candidate.position)

    def _is_half_way(self, candidate: _Candidate) -> bool:
        return self._is_deep(candidate) and self._is_followed(candidate)

    def _is_late(self, candidate: _Candidate) -> bool:
        return self._share(candidate) >= LATE and self._recording.learned_nonlinearity_after(candidate.position)

    def _with_second(self, deepest: _Candidate, candidates: Sequence[_Candidate], words: str) -> Suggestion:
        """``deepest`` and, in the second half of the net, the layer that closes the way around it or the last one far enough before it."""
        name = self._name(deepest)
        told = f"{name} ({self._described(deepest)}) is the deepest good layer: {words}"
        outside = [candidate for candidate in candidates if not candidate.names[0].startswith(f"{name}.")]
        closing = self._closing(deepest, outside)
        if closing is not None:
            first = self._name(closing)
            return Suggestion((first, name), f"{told}; together with {first} ({self._described(closing)}) it sees every path")
        deep = [candidate for candidate in outside if self._is_deep(candidate)]
        for apart in (APART, 1):
            earlier = [candidate for candidate in deep if self._recording.linear_between(candidate.position, deepest.position) >= apart]
            if earlier:
                first = self._name(earlier[-1])
                reason = f"{told}; {first} ({self._described(earlier[-1])}) is the last good one before it that differs enough"
                return Suggestion((first, name), reason)
        return Suggestion((name,), f"{told}; no good one before it in the second half of the net differs enough")

    def _closing(self, deepest: _Candidate, candidates: Sequence[_Candidate]) -> _Candidate | None:
        """The last one that closes the ways around ``deepest``, where there are some, and has ways around it too: another stream."""
        if not self._bypassed(deepest.edge):
            return None
        streams = (other for other in reversed(candidates) if self._bypassed(other.edge) and not self._bypassed(other.edge, deepest.edge))
        return next(streams, None)

    def _described(self, candidate: _Candidate) -> str:
        layout = candidate.layout
        return f"{layout.channels} x {layout.height} x {layout.width}, {self._share(candidate):.0%} of the linear layers before it"

    def _name(self, candidate: _Candidate) -> str:
        """The outermost name that stands for a block and not for most of the net."""
        most = BLOCK * self._linear_layers
        blocks = [name for name in candidate.names if self._recording.linear_between(*self._recording.spans[name]) <= most]
        return blocks[-1] if blocks else candidate.names[0]
