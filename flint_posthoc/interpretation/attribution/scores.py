"""From pixels to the numbers that are attributed to them, as one module whose layers can be hooked: images → Φ(x), or g's or f's logits."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ...arrays import Activations, Images
from ...classifier.copying import copy_of
from ...classifier.taps import frozen
from ...classifier.view import OpenView
from ...errors import AttributionError, UnsupportedClassifierError
from ...interpreter.fitted import FittedInterpreter
from ...precision import autocast


class PixelScores(nn.Module):
    """Images (B, channels, H, W) → scores (B, S), one column an attribute or a class.

    f, Ψ and h are submodules, so that whoever walks over the modules finds their layers; the pass stops at the deepest tap where it can.
    ``maps`` are the places where Ψ takes over each tap in canonical form (B, channels, h, w).
    """

    def __init__(self, run: OpenView, fitted: FittedInterpreter, score: ScoreFunction) -> None:
        super().__init__()
        self.classifier: nn.Module = fitted.view.model
        self.attribute_network: nn.Module = fitted.interpreter.attribute_network
        self.head: nn.Module = fitted.interpreter.head
        self.maps = nn.ModuleList(nn.Identity() for _ in fitted.view.layouts)
        self.run, self._score = run, score

    def activations(self, images: Images) -> Activations:
        """f_I(x)."""
        return tuple(place(taps) for place, taps in zip(self.maps, self.run.activations(images), strict=True))

    def forward(self, images: Images) -> Tensor:
        return self._score(self, images)


ScoreFunction: TypeAlias = Callable[[PixelScores, Images], Tensor]


def attribute_scores(network: PixelScores, images: Images) -> Tensor:
    """Φ(x), (B, J)."""
    activations = network.activations(images)
    with autocast(images.device, False):  # f alone takes part in the caller's
        attributes: Tensor = network.attribute_network(activations)
    return attributes


def preactivation_scores(network: PixelScores, images: Images) -> Tensor:
    """Φ(x) before its ReLU, (B, J): where φ_j fires its gradient is the same, where it does not there still is one."""
    activations = network.activations(images)
    with autocast(images.device, False):
        preactivations: Tensor = network.attribute_network.preactivations(activations)  # type: ignore[operator]
    return preactivations


def interpreter_scores(network: PixelScores, images: Images) -> Tensor:
    """g's logits (B, C)."""
    attributes = attribute_scores(network, images)
    with autocast(images.device, False):
        logits: Tensor = network.head(attributes)
    return logits


def classifier_scores(network: PixelScores, images: Images) -> Tensor:
    """f's logits over the explained classes (B, C)."""
    return network.run(images).logits


@contextmanager
def open_scores(fitted: FittedInterpreter, score: ScoreFunction) -> Iterator[PixelScores]:
    """A ``PixelScores`` with gradients to the pixels and to nothing else; f, Ψ and the process are left as they were found."""
    with torch.inference_mode(False), fitted.view.frozen() as run, frozen(fitted.interpreter), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Captum's, of the hooks that it sets; they are gone afterwards
        torch.set_grad_enabled(True)  # put back by ``frozen``
        yield PixelScores(run, fitted, score)


@contextmanager
def open_copy(fitted: FittedInterpreter, score: ScoreFunction) -> Iterator[PixelScores]:
    """The same on copies of f and of the interpreter, for methods that leave attributes on the modules they meet."""
    with open_scores(copied(fitted), score) as network:
        yield network


def copied(fitted: FittedInterpreter) -> FittedInterpreter:
    """``fitted`` with copies of f, Ψ, h and d. Raises ``AttributionError`` for a classifier that cannot be copied."""
    try:
        model = copy_of(fitted.view.model)
    except UnsupportedClassifierError as error:
        raise AttributionError(str(error)) from error
    return replace(fitted, view=replace(fitted.view, model=model), interpreter=copy.deepcopy(fitted.interpreter))
