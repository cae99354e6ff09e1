"""When a method of attribution holds on a network: each function says why it does not, or "" where it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from torch import nn

from .guidance import CLASSIFIER, SHAPES, PixelPath, Step, trace
from .layered import unfold
from .scores import classifier_scores, open_scores
from .settings import Request, baseline_image


def never(request: Request, path: PixelPath) -> str:
    """It holds on every network."""
    return ""


def unguided(request: Request, path: PixelPath) -> str:
    """Guided backpropagation needs a ReLU module for every rectifier of f."""
    kinds = ", ".join(f"{word} ({count}×)" for word, count in sorted(path.unguided.items()))
    if path.altered:
        return "a layer overwrites its input in place and the input is used again, so that Captum's hooks change what the network computes"
    if not path.guided:
        return f"it would be the plain gradient: no ReLU module on the classifier's path, only {kinds or 'linear layers'}"
    return f"it would be guided by half: {path.guided} ReLU modules are, but not {kinds}" if kinds else ""


def _supported(steps: tuple[Step, ...], path: PixelPath, types: Iterable[type], replacing: Iterable[type]) -> str:
    """Why hooks on modules of these types miss something on the path. Those of ``replacing`` put their own in the place of the whole
    gradient of what enters them, and so lose what goes around them.
    """
    types, replacing = set(types), set(replacing)
    seen = {step.layer: step.module for step in steps if type(step.module) in types}
    missed = dict.fromkeys(str(step) for step in steps if type(step.module) not in types)
    reused = [layer for layer in seen if path.calls[layer] > 1]
    shared = [layer for layer in seen if layer in path.shared and type(seen[layer]) in replacing]
    if path.altered:
        return "a layer overwrites its input in place and the input is used again"
    if missed:
        return f"it knows no rule for {_some(missed)}"
    if reused:
        return f"modules that run more than once, which it cannot tell apart: {_some(reused)}"
    return f"the input of these modules also goes around them: {_some(shared)}" if shared else ""


def _some(names: Any) -> str:
    listed = [str(name).removeprefix(CLASSIFIER) for name in names]
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def no_rescale_rule(request: Request, path: PixelPath) -> str:
    """DeepLIFT needs every non-linear step in a module of its own that it has a rule for.

    Captum's rule for max pooling puts back one share a pixel (``max_unpool``), and loses the others where windows overlap.
    """
    from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR

    overlapping = [step.layer for step in path.steps if _windows_overlap(step.module)]
    if overlapping:
        return f"its rule for max pooling loses shares where windows overlap: {_some(overlapping)}"
    return _supported(tuple(step for step in path.steps if not step.linear), path, SUPPORTED_NON_LINEAR, SUPPORTED_NON_LINEAR)


def _windows_overlap(module: nn.Module | None) -> bool:
    if not isinstance(module, nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d):
        return False
    return bool(np.less(module.stride, module.kernel_size).any())  # each is a number, or one a dimension


def lrp_types() -> frozenset[type]:
    """The leaves that Captum's LRP has rules for."""
    from captum.attr._core.lrp import SUPPORTED_LAYERS_WITH_RULES, SUPPORTED_NON_LINEAR_LAYERS

    return frozenset((*SUPPORTED_LAYERS_WITH_RULES, *SUPPORTED_NON_LINEAR_LAYERS))


def no_epsilon_rule(request: Request, path: PixelPath) -> str:
    """LRP-ε needs every step in a layer that it has a rule for, additions too; Ψ is brought into that form."""
    from captum.attr._core.lrp import SUPPORTED_NON_LINEAR_LAYERS

    with open_scores(request.fitted, request.score) as network:
        unfold(network)
        layered = trace(network, baseline_image(request.fitted, request.settings))
    return _supported(
        tuple(step for step in layered.steps if step.operator not in SHAPES), layered, lrp_types(), SUPPORTED_NON_LINEAR_LAYERS
    )


def no_maps(request: Request, path: PixelPath) -> str:
    """Grad-CAM needs maps of several places; those that Ψ reads always are maps."""
    layout = request.layout
    if layout.height * layout.width == 1:
        return f"{layout.layer!r} has a single place, so that every image would be of one colour"
    plain = layout.form == "maps" and layout.calls == 1 and not layout.overwritten
    if request.score is not classifier_scores or plain:
        return ""
    return f"the classifier's logits need a layer that puts out maps (B, channels, H, W) once and keeps them; {layout.layer!r} does not"


def neither(*refusals: Callable[[Request, PixelPath], str]) -> Callable[[Request, PixelPath], str]:
    """The first reason of several."""
    return lambda request, path: next((reason for refusal in refusals if (reason := refusal(request, path))), "")
