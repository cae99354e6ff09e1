"""Ψ and f as LRP has to meet them: nothing but layers that it has rules for, between reshapes."""

from __future__ import annotations

import copy
from collections.abc import Container
from typing import Any

import torch
from torch import Tensor, nn

from ...arrays import Activations
from ...classifier.recording import is_leaf
from ...interpreter.attributes import AttributeNetwork, TapReader
from .scores import PixelScores


def unfold(network: PixelScores) -> None:
    """Put Ψ in plain layers in the place of Ψ."""
    network.attribute_network = LayeredAttributeNetwork(network.attribute_network).eval().requires_grad_(False)  # type: ignore[arg-type]


class LayeredReader(nn.Module):
    """A ``TapReader`` as plain layers: its fixed shift and scale folded into a convolution or put into a batch norm."""

    def __init__(self, reader: TapReader) -> None:
        super().__init__()
        source = reader.convolution
        self.standardize: nn.Module | None = None
        self.convolution = copy.deepcopy(source)
        if source.kernel_size == (1, 1):
            weight = source.weight * reader.scale.view(1, -1, 1, 1)
            bias = torch.zeros(len(weight)).to(weight) if source.bias is None else source.bias
            self.convolution.weight = nn.Parameter(weight)
            self.convolution.bias = nn.Parameter(bias - (weight[:, :, 0, 0] @ reader.shift))
        else:
            self.standardize = _fixed_norm(reader.shift, reader.scale)
        self.activation = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        standardized = maps if self.standardize is None else self.standardize(maps)
        return self.activation(self.convolution(standardized))


def _fixed_norm(shift: Tensor, scale: Tensor) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(len(shift), eps=0.0).to(shift)
    norm.running_mean, norm.running_var, norm.weight = shift.clone(), torch.ones_like(shift), nn.Parameter(scale.clone())
    return norm


class LayeredAttributeNetwork(nn.Module):
    """Ψ once more with the same outputs, every step between its reshapes an ``nn`` layer of its own, as LRP needs it."""

    def __init__(self, network: AttributeNetwork) -> None:
        super().__init__()
        shapes = zip(network.tap_shapes, network.reduced_shapes, strict=True)
        self.reduce = nn.ModuleList(_pool(full[1:], reduced[1:]) for full, reduced in shapes)
        self.taps = nn.ModuleList(LayeredReader(reader) for reader in network.taps)  # type: ignore[arg-type]
        read = [self._read_shape(network, index) for index in range(len(network.taps))]
        self.align = nn.ModuleList(_pool(shape, network.grid) for shape in read)
        self.merge = nn.Sequential() if network.merge is None else nn.Sequential(copy.deepcopy(network.merge), nn.ReLU())
        self.pool = _pool(network.grid, network.pool)
        self.mix = nn.Sequential() if isinstance(network.mix, nn.Identity) else copy.deepcopy(network.mix)
        self.linear, self.activation = copy.deepcopy(network.linear), nn.ReLU()

    @staticmethod
    @torch.no_grad()
    def _read_shape(network: AttributeNetwork, index: int) -> tuple[int, ...]:
        return tuple(network.taps[index](torch.zeros(1, *network.reduced_shapes[index]).to(network.linear.weight)).shape[2:])

    def preactivations(self, activations: Activations) -> Tensor:
        """φ before its ReLU."""
        steps = zip(self.reduce, self.taps, self.align, activations, strict=True)
        together = torch.cat([align(read(reduce(maps))) for reduce, read, align, maps in steps], dim=1)
        return self.linear(self.mix(self.pool(self.merge(together)).flatten(1)))

    def forward(self, activations: Activations) -> Tensor:
        return self.activation(self.preactivations(activations))


def _pool(size: tuple[int, ...], target: tuple[int, ...]) -> nn.Module:
    return nn.Sequential() if tuple(size) == tuple(target) else nn.AdaptiveAvgPool2d((target[0], target[1]))


class _Unseen(nn.Module):
    """Runs a module that LRP shall not find among the leaves; the child is there so that this is no leaf itself."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.hidden, self.child = (module,), nn.Dropout(0.0)

    def forward(self, *arguments: Any) -> Any:
        return self.hidden[0](*arguments)


def hide(module: nn.Module, rules: Container[type]) -> None:
    """Put the leaves of ``module`` that there is no rule for out of LRP's sight. For copies only."""
    for name, child in module.named_children():
        if not is_leaf(child):
            hide(child, rules)
        elif type(child) not in rules:
            setattr(module, name, _Unseen(child))
