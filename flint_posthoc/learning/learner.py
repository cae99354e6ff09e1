"""What a post-hoc fit learns: the interpreter itself, or a narrow twin that reads wide taps in principal components."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from ..interpreter.attributes import TapReader
from ..interpreter.interpreter import Interpreter
from .batches import LearningBatch
from .caching.components import Components, TapComponents


class Learner:
    """``module`` learns; ``finish`` brings what it learnt into ``interpreter``, which then gives the same answers on the channels.

    With 1 × 1 kernels a tap is read place by place by a linear map, so a map of its components is one of its channels too.
    """

    def __init__(self, interpreter: Interpreter, components: Components | None) -> None:
        self._interpreter, self._components = interpreter, components
        self.module = interpreter if components is None else _twin(interpreter, components)

    def reads(self, batch: LearningBatch) -> LearningBatch:
        """A batch of f's channels as ``module`` reads it."""
        return batch if self._components is None else batch.mapped(self._components.project)

    @torch.no_grad()
    def finish(self) -> None:
        """Multiply the kernels out."""
        if self._components is None:
            return
        network, learnt = self._interpreter.attribute_network, self.module.attribute_network
        readers = zip(network.taps, learnt.taps, self._components.taps, strict=True)
        for reader, narrow, tap in readers:
            _multiply_out(reader, narrow, tap)  # type: ignore[arg-type]
        others = {name: value for name, value in self.module.state_dict().items() if not name.startswith("attribute_network.taps.")}
        self._interpreter.load_state_dict(others, strict=False)


def _twin(interpreter: Interpreter, components: Components) -> Interpreter:
    network, config = interpreter.attribute_network, interpreter.config
    widths = (tap.basis.shape[1] for tap in components.taps)
    shapes = tuple((width, *shape[1:]) for width, shape in zip(widths, network.reduced_shapes, strict=True))
    attributes = replace(network.config, standardize=False)  # components are of standardised channels
    sizes = interpreter.num_attributes, interpreter.num_classes
    return Interpreter(shapes, interpreter.image_shape, *sizes, replace(config, attributes=attributes)).to(network.linear.weight.device)


def _multiply_out(reader: TapReader, narrow: TapReader, tap: TapComponents) -> None:
    kernel: nn.Conv2d = narrow.convolution
    rotation = (tap.scale * tap.basis.T).to(kernel.weight)
    reader.learnt_as(
        torch.einsum("mrij,rc->mcij", kernel.weight, rotation),
        kernel.bias,  # type: ignore[arg-type]
        tap.mean.to(rotation),
        tap.deviation.to(rotation),
    )
