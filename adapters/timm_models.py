"""timm's classifiers, which carry their data configuration with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from flint_posthoc.arrays import Images, ImageShape
from flint_posthoc.classifier.adapter import Crop, Normalization, TapLayout
from flint_posthoc.errors import UnmappableActivationError

from .torch_module import TorchModuleAdapter, comes_from, image_channels


class TimmAdapter(TorchModuleAdapter):
    """``timm.models``: normalisation, size and labels from ``pretrained_cfg``, layouts from ``num_prefix_tokens`` and ``output_fmt``."""

    name = "timm"
    priority = 10

    def matches(self, model: nn.Module) -> bool:
        return comes_from(model, "timm.models.")

    def normalization(self, model: nn.Module) -> Normalization | None:
        """``mean`` and ``std`` of the configuration, where the model still takes that many channels."""
        told = _configuration(model)
        if "mean" not in told or "std" not in told or _channels(model) not in (None, len(told["mean"])):
            return None
        return Normalization(tuple(told["mean"]), tuple(told["std"]))

    def input_size(self, model: nn.Module) -> ImageShape | None:
        """The size that the patch embedding was built for, else that of the published weights."""
        told = _configuration(model).get("input_size")
        height, width = getattr(getattr(model, "patch_embed", None), "img_size", None) or (told[1:] if told else (0, 0))
        return (_channels(model) or 3, height, width) if height else None

    def crop(self, model: nn.Module) -> Crop:
        """``crop_pct`` and ``interpolation`` of the configuration."""
        told = _configuration(model)
        return Crop(told.get("crop_pct") or 1.0, told.get("interpolation") or "bilinear")

    def class_names(self, model: nn.Module) -> tuple[str, ...] | None:
        """``label_names`` of the configuration, else those of ImageNet-1k where its tag names that, if there is one a class."""
        told = _configuration(model)
        names = told.get("label_names") or (_imagenet_names() if _of_imagenet(told) else None)
        if isinstance(names, Mapping):  # by number, or by words for it
            names = [names[key] for key in sorted(names, key=int)]
        return tuple(names) if names and len(names) == getattr(model, "num_classes", None) else None

    def prefix_tokens(self, model: nn.Module) -> int | None:
        count = getattr(model, "num_prefix_tokens", None)
        return count if isinstance(count, int) else None

    def layout(self, layer: str, output: Any, images: Images, model: nn.Module) -> TapLayout:
        """As any module's. Hiera's tokens stand in another order until its last pooling."""
        if _unrolled(model, layer):
            raise UnmappableActivationError(f"layer {layer!r} has its tokens in the order of poolings to come; tap a later one")
        return super().layout(layer, output, images, model)

    def channels_last(self, model: nn.Module) -> bool:
        return str(getattr(model, "output_fmt", "")).endswith("NHWC")


def _channels(model: nn.Module) -> int | None:
    """Of the images, by the first convolution, which may have been replaced, or stand behind a rearrangement of k × k pixels."""
    told, first = getattr(model, "in_chans", None), image_channels(model)
    fits = isinstance(told, int) and (first is None or first in {told * side**2 for side in range(1, 17)})
    return told if fits else first


def _unrolled(model: nn.Module, layer: str) -> bool:
    """Whether this block of a Hiera, or what is in it, comes before one of its poolings."""
    schedule, block = getattr(getattr(model, "reroll", None), "schedule", {}), re.match(r"blocks\.(\d+)(\.?)", layer)
    if not schedule or block is None:
        return False
    poolings_left, _ = schedule[max(0, int(block[1]) - bool(block[2]))]  # in a block that pools, what comes first is not pooled yet
    return bool(poolings_left)


def _of_imagenet(told: Mapping[str, Any]) -> bool:
    """Whether the weights were last trained on ImageNet-1k: tags are words such as a1_in1k or in21k_ft_in1k."""
    return told.get("num_classes") == 1000 and "in1k" in str(told.get("tag")).split("_")


def _imagenet_names() -> list[str]:
    from timm.data.imagenet_info import ImageNetInfo

    known = ImageNetInfo("imagenet-1k")
    return [known.index_to_description(index) for index in range(known.num_classes())]


def _configuration(model: nn.Module) -> Mapping[str, Any]:
    told = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    return told if isinstance(told, Mapping) else {}
