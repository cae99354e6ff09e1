"""f run on from other tapped activations, and the activations that are left when an attribute, or an atom of a dictionary, is taken out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..arrays import Activations, Attributes, Maps, Weight
from ..classifier.adapter import ModelAdapter, TapLayout
from ..classifier.taps import hooked
from ..classifier.view import ClassifierView
from ..data import Data
from ..errors import UnmappableActivationError
from ..interpreter.fitted import FittedInterpreter, ReadBatch
from ..measures import area_resize
from .dictionaries import Factorisation, learn_readout
from .gathering import add_up

STEPS = 10  # towards activations without an attribute
RESCALED = 5  # times that the length of a random move is put right
RIDGE = 0.1  # of the attributes' mean variance: correlated attributes share what goes with both, instead of opposite patterns
POSITIONS = 16  # of each image that an NMF dictionary is learnt from, at most

Removed = Bool[Tensor, "b attributes"]


# ---- the rest of f ----


@contextmanager
def replaced(view: ClassifierView, activations: Activations) -> Iterator[None]:
    """While open, every tapped layer of f puts out ``activations`` (B, channels, H, W) instead of its own; the hooks go on the way out.

    To be used inside ``view.frozen()``, for passes over B images. What f computes from the taps onwards follows; tokens that have no place
    in the image (a class token) stay as f computes them. Of a layer that runs several times the last output is replaced, the one read.

    Raises:
        UnmappableActivationError: while f runs: a layer's output cannot be written to in its canonical form.
    """
    hooks = [_Replacement(view.adapter, layout, maps) for layout, maps in zip(view.layouts, activations, strict=True)]
    modules = [view.model.get_submodule(layout.layer) for layout in view.layouts]
    with hooked((module.register_forward_hook, hook) for module, hook in zip(modules, hooks, strict=True)):
        yield


class _Replacement:
    """A forward hook that answers in the layer's place, at its last call of each pass."""

    def __init__(self, adapter: ModelAdapter, layout: TapLayout, maps: Maps) -> None:
        self._adapter, self._layout, self._maps, self._calls = adapter, layout, maps, 0

    def __call__(self, module: nn.Module, arguments: Any, output: Any) -> Any:
        self._calls += 1
        return output if self._calls % self._layout.calls else self._answer(output)

    def _answer(self, output: Any) -> Any:
        """A copy of ``output`` with other maps in it; f's own tensors are not written to."""
        copied = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, output)
        item = self._layout.item
        raw, place = self._adapter.raw(copied, item), self._adapter.canonical(copied, self._layout)
        if raw is self._adapter.raw(output, item) or raw is None or place.untyped_storage().data_ptr() != raw.untyped_storage().data_ptr():
            raise UnmappableActivationError(
                f"layer {self._layout.layer!r} puts out a {type(output).__qualname__}, which cannot be written to in the form "
                f"{self._layout.form!r}; allowed are tensors, alone or in tuples, lists and dicts"
            )
        place.copy_(self._maps)
        return copied


# ---- what is taken out ----


@runtime_checkable
class Dictionary(Protocol):
    """J numbers an image, read linearly, each of which can be taken out of the tapped activations."""

    @property
    def weight(self) -> Weight:
        """(C, J): contributions of a number are it times its weight."""
        ...

    def codes(self, activations: Activations) -> Attributes:
        """(B, J) ≥ 0."""
        ...

    def without(self, activations: Activations, removed: Removed) -> Activations:
        """The activations with the flagged numbers of each image taken out."""
        ...


def lowest(maps: Maps) -> Tensor:
    """(B, 1, 1, 1): 0, or what an image itself has below: ablated maps stay where f's own are."""
    return maps.amin(dim=(1, 2, 3), keepdim=True).clamp(max=0)


class PatternAblation:
    """Φ at the taps. φ_j's direction is its least-squares pattern: what of the tapped maps goes with it, the other attributes held fixed.

    The maps, averaged over each cell of the grid that Ψ's last layers read, are taken for Σ_j φ_j(x) D_j and a rest that stays; taking φ_j
    out subtracts φ_j(x) D_j all over the cell. Maps never fall below 0, or below what the image has. A pattern says what varies with an
    attribute, its gradient what it is read from (Haufe et al., 2014).
    """

    def __init__(self, fitted: FittedInterpreter, patterns: tuple[Tensor, ...]) -> None:
        self._reading, self._patterns = GradientAblation(fitted), patterns
        self.weight = self._reading.weight

    def codes(self, activations: Activations) -> Attributes:
        return self._reading.codes(activations)

    def without(self, activations: Activations, removed: Removed) -> Activations:
        """Less the flagged attributes' patterns, as strong as the attributes are."""
        strength = self.codes(activations) * removed
        parts = [torch.einsum("bj,jchw->bchw", strength, pattern) for pattern in self._patterns]
        taps = zip(activations, parts, strict=True)
        return tuple(torch.maximum(maps - F.interpolate(part, maps.shape[2:]), lowest(maps)) for maps, part in taps)


@dataclass(frozen=True)
class _PatternSums:
    """Additive: Σ_x of [1, φ]ᵀ [1, φ] and, for each tap, of [1, φ]ᵀ [pooled maps] (1 + J, channels, h, w), float64."""

    attributes: Tensor
    maps: tuple[Tensor, ...]

    @classmethod
    def of(cls, batch: ReadBatch, grid: tuple[int, int]) -> _PatternSums:
        """Of one batch, its maps averaged over the cells of a grid at most so fine."""
        design = torch.cat([torch.ones(len(batch.images), 1, device=batch.images.device), batch.attributes], dim=1).double()
        pooled = [area_resize(maps, (min(grid[0], maps.shape[2]), min(grid[1], maps.shape[3]))) for maps in batch.activations]
        return cls(design.T @ design, tuple((design.T @ tap.flatten(1).double()).unflatten(1, tap.shape[1:]) for tap in pooled))

    def __add__(self, other: _PatternSums) -> _PatternSums:
        return _PatternSums(self.attributes + other.attributes, tuple(one + two for one, two in zip(self.maps, other.maps, strict=True)))

    def solve(self) -> tuple[Tensor, ...]:
        """(J, channels, h, w) of each tap: the ridge is a tenth of the attributes' mean variance, and none for the intercept."""
        images = self.attributes[0, 0]
        variance = self.attributes.diagonal()[1:] / images - (self.attributes[0, 1:] / images).square()
        ridge = torch.full_like(self.attributes[0], float(RIDGE * images * variance.mean().clamp_min(1e-12)))
        ridge[0] = 0
        penalised = self.attributes + ridge.diag()
        return tuple(torch.linalg.solve(penalised, tap.flatten(1))[1:].float().unflatten(1, tap.shape[1:]) for tap in self.maps)


def learn_patterns(fitted: FittedInterpreter, data: Data) -> PatternAblation:
    """The patterns D_j (J, channels, h, w) of each tap by ridge regression of the pooled maps on Φ, in one pass and bounded memory.

    Duplicates share a pattern, and an attribute that never varies has none. Raises ``DataError``.
    """
    grid = fitted.interpreter.attribute_network.pool
    sums = (_PatternSums.of(batch, grid) for batch in fitted.read(data))
    return PatternAblation(fitted, add_up(sums, "there are no patterns to learn").solve())


class GradientAblation:
    """Φ at the taps. φ_j's direction is its gradient by the tapped maps, all taps together.

    Taking out a set S goes the least way to where all φ_j of S are 0, by steps of Craig's method on E = ½ Σ_S φ_j²:
    a ← a - 2E ∇E/‖∇E‖². For one attribute of a linear Ψ this is a single step, a - φ_j v/‖v‖² with v = ∇φ_j; Ψ is not linear, so there are
    ten. Maps never fall below 0, or below what the image has. The least way may be one that f has never met and does not mind.
    """

    def __init__(self, fitted: FittedInterpreter) -> None:
        self._network, self.weight = fitted.interpreter.attribute_network, fitted.interpreter.head.weight.detach()

    def codes(self, activations: Activations) -> Attributes:
        with torch.no_grad():
            attributes: Tensor = self._network(activations)
        return attributes

    def without(self, activations: Activations, removed: Removed) -> Activations:
        """The nearest activations found on which the flagged φ_j are 0."""
        floors = [lowest(maps) for maps in activations]
        with torch.inference_mode(False), torch.enable_grad():
            current, flags = [maps.detach().clone() for maps in activations], removed.clone()
            for _ in range(STEPS):
                current = [torch.maximum(maps, floor) for maps, floor in zip(self._step(current, flags), floors, strict=True)]
        return tuple(current)

    def _step(self, current: list[Tensor], removed: Removed) -> list[Tensor]:
        leaves = [maps.detach().requires_grad_() for maps in current]
        energy = (self._network(tuple(leaves)) * removed).square().sum(dim=1) / 2
        gradients = torch.autograd.grad(energy.sum(), leaves)
        norm = sum((gradient.flatten(1).square().sum(dim=1) for gradient in gradients), torch.zeros_like(energy))
        length = torch.where(norm > 0, 2 * energy / norm.clamp_min(1e-30), 0).detach().view(-1, 1, 1, 1)
        return [maps - length * gradient for maps, gradient in zip(current, gradients, strict=True)]


class AtomAblation:
    """A non-negative factorisation of the deepest tap's maps, place by place: a place's channels are a mixture of J atoms (as in CRAFT).

    An image's number is the mean of its mixture over places, and a read-out learns f's answer from that; taking an atom out subtracts its
    part at every place.
    """

    def __init__(self, factorisation: Factorisation, weight: Weight) -> None:
        self._factorisation, self.weight = factorisation, weight

    def codes(self, activations: Activations) -> Attributes:
        return _mixtures(self._factorisation, activations[-1]).mean(dim=1).to(activations[-1].device)

    def without(self, activations: Activations, removed: Removed) -> Activations:
        """The deepest tap's maps less the flagged atoms' parts, what is negative in them left; the other taps as they are."""
        maps = activations[-1]
        parts = (_mixtures(self._factorisation, maps) * removed.cpu()[:, None]) @ self._factorisation.atoms
        subtracted = parts.transpose(1, 2).reshape(maps.shape).to(maps.device)
        return (*activations[:-1], (maps.clamp(min=0) - subtracted).clamp(min=0) + maps.clamp(max=0))


def _mixtures(factorisation: Factorisation, maps: Maps) -> Tensor:
    """(B, places, J) on the CPU."""
    places = _places(maps)
    return factorisation(places.flatten(0, 1)).unflatten(0, places.shape[:2])


def _places(maps: Maps) -> Tensor:
    """(B, places, channels) ≥ 0 on the CPU."""
    return maps.clamp(min=0).flatten(2).transpose(1, 2).cpu()


def learn_atoms(fitted: FittedInterpreter, data: Data, seed: int) -> AtomAblation:
    """A dictionary of J atoms of the deepest tap from 16 places of each image of ``data``, which is read twice. Raises ``DataError``."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.cat([_some(_places(batch.activations[-1]), generator) for batch in fitted.read(data)])
    factorisation = Factorisation(rows, fitted.interpreter.num_attributes, seed)
    seen = [(_mixtures(factorisation, batch.activations[-1]).mean(dim=1), batch.classifier_logits.cpu()) for batch in fitted.read(data)]
    codes, logits = map(torch.cat, zip(*seen, strict=True))
    return AtomAblation(factorisation, learn_readout(codes, logits, fitted.view.kind).weight.to(fitted.device))


def _some(places: Tensor, generator: torch.Generator) -> Tensor:
    """(B · places chosen, channels)."""
    chosen = torch.rand(places.shape[:2], generator=generator).argsort(dim=1)[:, :POSITIONS]
    return places.gather(1, chosen[..., None].expand(-1, -1, places.shape[2])).flatten(0, 1)


# ---- controls ----


def moved_at_random(activations: Activations, altered: Activations, generator: torch.Generator) -> Activations:
    """``activations`` moved as far as to ``altered``, tap by tap and image by image, in a random direction; never below ``lowest``."""
    move: Callable[[Tensor, Tensor], Tensor] = partial(_moved, generator=generator)
    return tuple(move(maps, other) for maps, other in zip(activations, altered, strict=True))


def _moved(maps: Tensor, other: Tensor, generator: torch.Generator) -> Tensor:
    floor, noise = lowest(maps), torch.randn(maps.shape, generator=generator).to(maps)
    noise = torch.where(maps <= floor, noise.abs(), noise)  # what lies on the floor can only rise
    wanted, moved = _length(other - maps), maps
    scale = wanted / _length(noise)
    for _ in range(RESCALED):  # a step that the floor cuts short is made longer
        moved = torch.maximum(maps + noise * scale, floor)
        scale = scale * wanted / _length(moved - maps).clamp_min(1e-30)
    return moved


def _length(maps: Tensor) -> Tensor:
    return maps.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
