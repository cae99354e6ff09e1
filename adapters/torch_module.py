"""The general adapter: answers for any ``nn.Module`` by looking at what its layers put out. Families override what they know better."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from flint_posthoc.arrays import Images, ImageShape, Logits
from flint_posthoc.classifier.adapter import ModelAdapter, Normalization, Suggestion, TapLayout, first_tensor
from flint_posthoc.classifier.suggestion import suggest
from flint_posthoc.errors import ClassifierOutputError, UnmappableActivationError

MAX_PREFIX_TOKENS = 10  # class, distillation and eight registers: no published family has more
ALLOWED = (
    "allowed are (B, C, H, W), (B, H, W, C), (B, N, C), (N, B, C), (B, C, H*W) and (B, C), of floating point, B images first or second"
)
CHANNELS_FIRST = (
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.BatchNorm2d,
    nn.GroupNorm,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
)

CHANNELS_FIRST_1D = (
    nn.Conv1d,
    nn.ConvTranspose1d,
    nn.BatchNorm1d,
    nn.InstanceNorm1d,
    nn.MaxPool1d,
    nn.AvgPool1d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveMaxPool1d,
)
_WIDTHS = ("out_channels", "num_features")

# How each form becomes maps; `tokens` lose their prefix first.
_TO_MAPS: dict[str, Callable[[Tensor, TapLayout], Tensor]] = {
    "maps": lambda raw, layout: raw,
    "maps_last": lambda raw, layout: raw.permute(0, 3, 1, 2),
    "tokens": lambda raw, layout: raw[:, layout.prefix :].transpose(1, 2).unflatten(2, (layout.height, layout.width)),
    "tokens_first": lambda raw, layout: raw[layout.prefix :].permute(1, 2, 0).unflatten(2, (layout.height, layout.width)),
    "maps_flat": lambda raw, layout: raw.unflatten(2, (layout.height, layout.width)),
    "vector": lambda raw, layout: raw[:, :, None, None],
}


def described(output: Any) -> str:
    """A shape in words, for messages."""
    tensor = first_tensor(output)
    if tensor is None:
        return f"a {type(output).__qualname__} without tensors"
    inside = "" if tensor is output else f" (first tensor of a {type(output).__qualname__})"
    return f"{tuple(tensor.shape)} of {tensor.dtype}{inside}"


def comes_from(model: nn.Module, package: str) -> bool:
    """Whether the model's class, or one that it extends, is defined in ``package``."""
    return any(f"{kind.__module__}.".startswith(package) for kind in type(model).__mro__)


def image_channels(model: nn.Module) -> int | None:
    """How many channels the first convolution takes."""
    return next((module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d)), None)


def output_width(model: nn.Module) -> int | None:
    """How many outputs the last linear layer or convolution has."""
    last = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1:]
    return next((module.out_features if isinstance(module, nn.Linear) else module.out_channels for module in last), None)


def token_grid(tokens: int, aspect: float) -> tuple[int, int]:
    """The largest (height, width) of about ``aspect`` = width / height whose product is at most ``tokens``; (0, 0) if there is none.

    What is longer than there are tokens is a signal: one row of them all.
    """
    if aspect > max(1, tokens):
        return 1, tokens
    grids = ((height, round(height * aspect)) for height in range(1, tokens + 1))
    return max(((height, width) for height, width in grids if 0 < height * width <= tokens), default=(0, 0))


def _split_tokens(tokens: int, aspect: float, known_prefix: int | None) -> tuple[int, int, int]:
    """(prefix, height, width): the known prefix or none where the rest fills a grid; else, where none is known, what is left over."""
    for prefix in (known_prefix or 0, 0):
        height, width = token_grid(tokens - prefix, aspect)
        if height and height * width == tokens - prefix:
            return prefix, height, width
    height, width = token_grid(tokens, aspect) if known_prefix is None else (0, 0)
    return tokens - height * width, height, width


def _channels_first(layer: str, raw: Tensor, model: nn.Module) -> bool:
    """Whether ``raw``, which fits as (B, N, C) and as (B, C, N), is the latter: by the layer, or by the widths that the model has."""
    if any(isinstance(module, CHANNELS_FIRST_1D) for module in list(model.get_submodule(layer).modules())[-2:]):  # and its norm
        return True
    modules = list(model.modules())
    first = {getattr(module, name, None) for module in modules if isinstance(module, CHANNELS_FIRST_1D) for name in _WIDTHS}
    last = {module.normalized_shape[-1] for module in modules if isinstance(module, nn.LayerNorm)}
    last |= {module.out_features for module in modules if isinstance(module, nn.Linear)}
    return raw.shape[1] in first and raw.shape[2] not in last


class TorchModuleAdapter(ModelAdapter):
    """Any ``nn.Module`` whose forward takes images and returns logits, alone, first in a tuple, or as ``logits`` in a dict.

    Small points to override: ``prefix_tokens`` and ``channels_last``, where a family knows them.
    """

    name = "torch"
    priority = 0

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, nn.Module)

    def logits(self, output: Any) -> Logits:
        """The first tensor of the answer, or its ``logits``, if it is (B, C) of floating point."""
        tensor = self.raw(output)
        if tensor is None or tensor.dim() != 2 or not tensor.is_floating_point():
            raise ClassifierOutputError(
                f"the classifier returned {described(output)}; allowed are float logits (B, C), alone, in a tuple or as 'logits' in a dict"
            )
        return tensor

    def layout(self, layer: str, output: Any, images: Images, model: nn.Module) -> TapLayout:
        """By the output's shape: which dimension is the batch, and which two have the image's aspect. Of several tensors the first fit."""
        for item, tensor in enumerate(self.tensors(output)):
            readable = tensor.is_floating_point() and tensor.numel() > 0
            finder = self._finders().get(tensor.dim()) if readable else None
            layout = finder(layer, tensor, images, model) if finder else None
            if layout is not None:
                return replace(layout, item=item)
        raise UnmappableActivationError(
            f"no maps can be made of layer {layer!r}: for images {tuple(images.shape)} it puts out {described(output)}; {ALLOWED}"
        )

    def canonical(self, output: Any, layout: TapLayout) -> Tensor:
        """A view where that is possible. Raises ``UnmappableActivationError`` where ``output`` is not what ``layout`` describes."""
        raw = self.raw(output, layout.item)
        try:
            maps = _TO_MAPS[layout.form](raw, layout)  # type: ignore[arg-type]
        except (RuntimeError, IndexError, TypeError) as error:
            raise self._misfit(output, layout) from error
        if maps.shape[1:] != (layout.channels, layout.height, layout.width):
            raise self._misfit(output, layout)
        return maps

    def suggest_layers(self, model: nn.Module, images: Images) -> Suggestion:
        return suggest(model, images, self)

    def normalization(self, model: nn.Module) -> Normalization | None:
        return None

    def input_size(self, model: nn.Module) -> ImageShape | None:
        return None

    def class_names(self, model: nn.Module) -> tuple[str, ...] | None:
        return None

    def prefix_tokens(self, model: nn.Module) -> int | None:
        """How many tokens stand before those of the image; ``None`` if the number of tokens has to tell."""
        return None

    def channels_last(self, model: nn.Module) -> bool:
        """Whether 4-D outputs that could be read either way are (B, H, W, C)."""
        return False

    @staticmethod
    def _misfit(output: Any, layout: TapLayout) -> UnmappableActivationError:
        expected = f"{layout.form} of {layout.channels} channels, {layout.height} x {layout.width} and {layout.prefix} prefix tokens"
        return UnmappableActivationError(
            f"layer {layout.layer!r} put out {described(output)}, where preflight had found {expected}; use images of one size"
        )

    def _finders(self) -> dict[int, Callable[[str, Tensor, Images, nn.Module], TapLayout | None]]:
        return {2: self._vector, 3: self._tokens, 4: self._maps}

    def _vector(self, layer: str, raw: Tensor, images: Images, model: nn.Module) -> TapLayout | None:
        return TapLayout(layer, "vector", raw.shape[1], 1, 1) if raw.shape[0] == len(images) else None

    def _maps(self, layer: str, raw: Tensor, images: Images, model: nn.Module) -> TapLayout | None:
        batch, first, second, last = raw.shape
        if batch != len(images):
            return None
        if isinstance(model.get_submodule(layer), CHANNELS_FIRST):
            return TapLayout(layer, "maps", first, second, last)
        wanted = math.log(images.shape[3] / images.shape[2])
        as_first, as_last = abs(math.log(last / second) - wanted), abs(math.log(second / first) - wanted)
        if as_last < as_first or (as_last == as_first and self.channels_last(model)):
            return TapLayout(layer, "maps_last", last, first, second)
        return TapLayout(layer, "maps", first, second, last)

    def _tokens(self, layer: str, raw: Tensor, images: Images, model: nn.Module) -> TapLayout | None:
        batch, aspect = len(images), images.shape[3] / images.shape[2]
        if batch not in raw.shape[:2]:
            return None
        form, tokens = ("tokens", raw.shape[1]) if raw.shape[0] == batch else ("tokens_first", raw.shape[0])
        found = None
        prefix, height, width = _split_tokens(tokens, aspect, self.prefix_tokens(model))
        if height and prefix <= MAX_PREFIX_TOKENS:
            found = TapLayout(layer, form, raw.shape[2], height, width, prefix=prefix)
        prefix, height, width = _split_tokens(raw.shape[2], aspect, None)
        if form == "tokens" and prefix == 0 and (found is None or _channels_first(layer, raw, model)):
            return TapLayout(layer, "maps_flat", raw.shape[1], height, width)
        return found
