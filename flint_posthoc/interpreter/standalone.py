"""g as the final model: images in, the interpreter's logits out, with everything of f behind the deepest tap removed."""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..arrays import Images, Logits
from ..classifier.copying import copy_of
from ..classifier.recording import ParametersRead, is_leaf
from ..classifier.taps import frozen, hooked, tapped
from ..classifier.view import model_dtype
from ..errors import UnsupportedClassifierError
from .fitted import FittedInterpreter

# Hooks stand on a classifier during a pass: of all threads, and of DataParallel's replicas, one passes at a time. None waits for a fit.
_PASSING = threading.RLock()


@dataclass(frozen=True)
class Savings:
    """What the interpreter as the final model saves: parameters, and floating-point operations for one image."""

    classifier_parameters: int
    interpreter_parameters: int
    classifier_flops: int
    interpreter_flops: int

    def __str__(self) -> str:
        parameters = self.interpreter_parameters / max(1, self.classifier_parameters)
        flops = self.interpreter_flops / max(1, self.classifier_flops)
        return (
            f"{self.interpreter_parameters:,} parameters instead of {self.classifier_parameters:,} ({parameters:.1%}), "
            f"{self.interpreter_flops:,} FLOPs an image instead of {self.classifier_flops:,} ({flops:.1%})"
        )


class InterpreterClassifier(nn.Module):
    """A copy of f up to the deepest tap with Ψ and h behind it, in evaluation mode. The user's own classifier is not touched.

    In the place of layers of f that the truncated pass neither calls nor reads stand ``Cut`` ones, so that their parameters are gone.
    """

    _images_as: Tensor
    _maps_as: Tensor

    def __init__(self, fitted: FittedInterpreter) -> None:
        super().__init__()
        self.classifier = copy_of(fitted.view.model)
        self.attribute_network = copy.deepcopy(fitted.interpreter.attribute_network)
        self.head = copy.deepcopy(fitted.interpreter.head)
        self._adapter, self._layouts = fitted.view.adapter, fitted.view.layouts
        for name, dtype in (("_images_as", model_dtype(self.classifier)), ("_maps_as", self.head.weight.dtype)):
            self.register_buffer(name, torch.empty(0, dtype=dtype), persistent=False)  # a cast goes along, as does a replica
        self.eval().requires_grad_(False)
        sample = torch.zeros(1, *fitted.image_shape, device=fitted.device, dtype=self._images_as.dtype)
        with frozen(self.classifier), torch.no_grad():
            before, unused = (_parameters(self.classifier), _flops(self.classifier, sample)), self._unused(sample)
        _cut(self.classifier, unused)  # outside ``frozen``, which would put it all back
        with frozen(self.classifier), torch.no_grad():
            self.savings = Savings(before[0], _parameters(self), before[1], _flops(self, sample))

    def forward(self, images: Images) -> Logits:
        """g's logits (B, C), float32 unless it was cast, of images as f takes them. Threads may share it.

        Raises ``UnsupportedClassifierError`` under ``torch.export``, which cannot follow a pass that ends at a layer.
        """
        if torch.compiler.is_exporting():
            raise UnsupportedClassifierError("torch.export cannot follow a pass that ends in the middle of f; use torch.jit.trace")
        with _PASSING, tapped(self.classifier, self._adapter, self._layouts) as run:
            activations = run.activations(images.to(self._images_as.dtype))
        logits: Tensor = self.head(self.attribute_network(tuple(maps.to(self._maps_as.dtype) for maps in activations)))
        return logits

    def _unused(self, sample: Tensor) -> set[int]:
        """The ids of f's leaves that the pass up to the deepest tap never calls, and whose parameters nobody else reads in it."""
        called: set[nn.Module] = set()
        read: set[int] = set()
        leaves = [module for module in self.classifier.modules() if is_leaf(module)]
        hooks = ((leaf.register_forward_hook, lambda module, *_: called.add(module)) for leaf in leaves)
        with hooked(hooks), ParametersRead(lambda parameter: read.add(id(parameter))):
            self(sample)
        return {id(leaf) for leaf in leaves if leaf not in called and not read & set(map(id, leaf.parameters()))}


class Cut(nn.Identity):
    """In the place of a layer that is never called. It keeps that one's settings, which a forward may read: how wide it is, its epsilon."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        vars(self).update({name: value for name, value in vars(layer).items() if not name.startswith("_")})


def _cut(module: nn.Module, unused: set[int]) -> None:
    for name, child in module.named_children():
        if id(child) in unused and list(child.parameters()):
            setattr(module, name, Cut(child))
        else:
            _cut(child, unused)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _flops(module: nn.Module, sample: Tensor) -> int:
    from torch.utils.flop_counter import FlopCounterMode  # brings in triton, a quarter of a second

    with FlopCounterMode(display=False) as counter:
        module(sample)
    return int(counter.get_total_flops())
