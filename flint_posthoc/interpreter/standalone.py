"""g as the final model: images in, the interpreter's logits out, with everything of f behind the deepest tap removed."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..arrays import Images, Logits
from ..classifier.taps import frozen, tapped
from .fitted import FittedInterpreter


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

    Layers of f that the truncated pass never calls are replaced by ``nn.Identity``, so that their parameters are gone.
    """

    def __init__(self, fitted: FittedInterpreter) -> None:
        super().__init__()
        self.classifier = copy.deepcopy(fitted.view.model)
        self.attribute_network = copy.deepcopy(fitted.interpreter.attribute_network)
        self.head = copy.deepcopy(fitted.interpreter.head)
        self._view = fitted.view
        self.eval()
        sample = torch.zeros(1, *fitted.image_shape, device=fitted.device)
        with frozen(self.classifier), torch.no_grad():
            before = (_parameters(self.classifier), _flops(self.classifier, sample))
            self._cut(sample)
            self.savings = Savings(before[0], _parameters(self), before[1], _flops(self, sample))

    def forward(self, images: Images) -> Logits:
        with tapped(self.classifier, self._view.adapter, self._view.layouts) as run:
            activations = run.activations(images)
        logits: Tensor = self.head(self.attribute_network(tuple(maps.float() for maps in activations)))
        return logits

    def _cut(self, sample: Tensor) -> None:
        called: set[nn.Module] = set()
        leaves = [module for module in self.classifier.modules() if not list(module.children())]
        handles = [leaf.register_forward_hook(lambda module, *_: called.add(module)) for leaf in leaves]
        try:
            self(sample)
        finally:
            for handle in handles:
                handle.remove()
        _drop(self.classifier, {id(leaf) for leaf in leaves if leaf not in called})


def _drop(module: nn.Module, unused: set[int]) -> None:
    for name, child in module.named_children():
        if id(child) in unused and list(child.parameters()):
            setattr(module, name, nn.Identity())
        else:
            _drop(child, unused)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _flops(module: nn.Module, sample: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        module(sample)
    return int(counter.get_total_flops())
