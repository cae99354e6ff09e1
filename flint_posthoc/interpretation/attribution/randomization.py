"""A network that has learnt nothing: layers of a copy of h, Ψ and f randomised in turn, from the score down to the pixels.

Seed of the idea: Adebayo et al., "Sanity checks for saliency maps" (2018), who draw each layer anew from its initialisation. Which one
that was a trained model does not say, and initialisations that belong to training let activations fade or grow without bounds over a deep
frozen network. Here each tensor of weights keeps its values and loses their order (a random permutation), so that mean, deviation and
tails stay as learnt; f's batch norms and the fixed standardisation of Ψ's taps take new statistics from the images, which keeps
activations in scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ...arrays import Images
from ...classifier.recording import ParametersRead
from ...classifier.taps import hooked, tapped
from ...classifier.view import model_dtype
from ...interpreter.fitted import FittedInterpreter
from .scores import ScoreFunction, attribute_scores, classifier_scores, copied, interpreter_scores, open_scores


@dataclass(frozen=True)
class LayerGroup:
    """Layers that are randomised together, named by the last of them. ``whole``: with it a whole part is."""

    name: str
    layers: tuple[nn.Module, ...]
    whole: bool


def randomized(
    fitted: FittedInterpreter, images: Images, score: ScoreFunction, *, most: int, seed: int
) -> Iterator[tuple[LayerGroup, FittedInterpreter]]:
    """(stage, interpreter) with one stage more randomised each time, in copies of h, Ψ and f; f and ``fitted`` stay as they are.

    The same copy is yielded each time: use it before going on.

    Args:
        images: what batch norms take their new statistics from.
        score: which layers it depends on; h is left out of the attributes' stages, h and Ψ of f's logits'.
        most: stages that each part (h, Ψ and f, or f behind and up to the taps) is grouped into at most.
    """
    copy = copied(fitted)
    generator = torch.Generator().manual_seed(seed)
    for part, layers in _parts(copy, images, score):
        for stage in _grouped(part, layers, most):
            for layer in stage.layers:
                _permute(layer, generator)
            _recalibrate(copy, images)
            yield stage, copy


Layers: TypeAlias = Sequence[tuple[str, nn.Module]]


def _parts(fitted: FittedInterpreter, images: Images, score: ScoreFunction) -> list[tuple[str, Layers]]:
    """What the score depends on, from the score to the pixels."""
    tapped_part = _classifier_layers(fitted, images, attribute_scores)
    parts: list[tuple[str, Layers]] = [("h", [("", fitted.interpreter.head)])] if score is interpreter_scores else []
    if score is classifier_scores:
        seen = {module for _, module in tapped_part}
        behind = [layer for layer in _classifier_layers(fitted, images, score) if layer[1] not in seen]
        return [("f", behind), ("f", tapped_part)] if behind else [("f", tapped_part)]
    return [*parts, ("Ψ", _psi_layers(fitted)), ("f", tapped_part)]


def _psi_layers(fitted: FittedInterpreter) -> Layers:
    """Ψ's layers with weights, from φ down to the taps."""
    layers = [(name, module) for name, module in fitted.interpreter.attribute_network.named_modules() if _own_parameters(module)]
    order = ("linear", "mix", "merge", "taps")
    return sorted(layers, key=lambda layer: order.index(layer[0].split(".")[0]))


def _classifier_layers(fitted: FittedInterpreter, images: Images, score: ScoreFunction) -> Layers:
    """f's layers with weights that the score's pass calls, or whose weights another layer reads in it; the last one first."""
    used: dict[str, nn.Module] = {}
    weighted = {name: module for name, module in fitted.view.model.named_modules() if _own_parameters(module)}
    owners = {id(parameter): name for name, module in weighted.items() for parameter in _own_parameters(module)}

    def note(name: str, *_: object) -> None:
        used.setdefault(name, weighted[name])

    def read(parameter: nn.Parameter) -> None:
        if id(parameter) in owners:
            note(owners[id(parameter)])

    hooks = ((module.register_forward_pre_hook, partial(note, name)) for name, module in weighted.items())
    with open_scores(fitted, score) as network, hooked(hooks), ParametersRead(read):
        network(images[:1])
    return list(used.items())[::-1]


def _own_parameters(module: nn.Module) -> list[nn.Parameter]:
    return list(module.parameters(recurse=False))


def _grouped(part: str, layers: Layers, most: int) -> list[LayerGroup]:
    """At most so many stages of about equally many layers."""
    count = min(most, len(layers))
    bounds = [round(index * len(layers) / count) for index in range(count + 1)] if count else []
    groups = [layers[start:end] for start, end in pairwise(bounds)]
    return [
        LayerGroup(f"{part} to {group[-1][0]}".removesuffix(" to "), tuple(module for _, module in group), group is groups[-1])
        for group in groups
    ]


@torch.no_grad()
def _permute(layer: nn.Module, generator: torch.Generator) -> None:
    for parameter in _own_parameters(layer):
        order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
        parameter.copy_(parameter.flatten()[order].view_as(parameter))


class _OwnBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Takes its statistics in this process alone, of maps of any rank."""

    def _check_input_dim(self, input: Tensor) -> None:
        return


@torch.no_grad()
def _recalibrate(fitted: FittedInterpreter, images: Tensor) -> None:
    """New statistics for the copy's batch norms, then for the taps that Ψ standardises."""
    view, network = fitted.view, fitted.interpreter.attribute_network
    norms = [module for module in view.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    view.model.eval()
    for norm in norms:
        if isinstance(norm, nn.SyncBatchNorm):
            norm.__class__ = _OwnBatchNorm  # type: ignore[assignment]  # of the copy: other processes are no part of this
        norm.train().reset_running_stats()
        norm.momentum = None  # the plain mean over what they see
    with tapped(view.model, view.adapter, view.layouts) as run:
        several = images if len(images) > 1 else torch.cat([images, images.flip(3)])  # batch norms refuse a single value a channel
        pixels = several.to(model_dtype(view.model))
        run(pixels.clone())  # f may write into it
        view.model.eval()
        activations = tuple(maps.float() for maps in run.activations(pixels.clone()))
    if network.config.standardize:
        for reader, maps in zip(network.taps, network.reduced(activations), strict=True):
            reader.standardize(maps)  # type: ignore[operator]
