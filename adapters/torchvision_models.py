"""torchvision's classifiers. Nothing of torchvision is imported until class names are asked for."""

from __future__ import annotations

from typing import Any

from torch import nn

from flint_posthoc.arrays import ImageShape
from flint_posthoc.classifier.adapter import Crop, Normalization

from .torch_module import TorchModuleAdapter, comes_from, image_channels, output_width

IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class TorchvisionAdapter(TorchModuleAdapter):
    """``torchvision.models``. What published weights expect an instance does not tell: it is ImageNet's normalisation and 224 of 256 pixels
    for most, and what ``model.transforms = weights.transforms()`` says where somebody has set that, as the command line does.
    """

    name = "torchvision"
    priority = 10

    def matches(self, model: nn.Module) -> bool:
        return comes_from(model, "torchvision.models.")

    def normalization(self, model: nn.Module) -> Normalization | None:
        told, channels = _transforms(model), image_channels(model)
        known = IMAGENET if told is None else Normalization(tuple(told.mean), tuple(told.std))
        return known if channels in (None, len(known.mean)) else None

    def input_size(self, model: nn.Module) -> ImageShape | None:
        """Square: what the model was built for, else what its transforms cut, else the usual size."""
        told = _transforms(model)
        usual = 299 if type(model).__name__ == "Inception3" else 224
        size = getattr(model, "image_size", usual if told is None else told.crop_size[0])
        return (image_channels(model) or 3, size, size)

    def crop(self, model: nn.Module) -> Crop:
        """What the transforms cut out of what they scale to; without any 224 of 256 pixels, as most published weights are judged."""
        told = _transforms(model)
        return Crop(224 / 256) if told is None else Crop(min(1.0, told.crop_size[0] / told.resize_size[0]), told.interpolation.value)

    def class_names(self, model: nn.Module) -> tuple[str, ...] | None:
        """ImageNet's, for a classifier of a thousand classes."""
        if output_width(model) != 1000:
            return None
        from torchvision.models import ResNet18_Weights

        return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])

    def prefix_tokens(self, model: nn.Module) -> int | None:
        return 1 if type(model).__name__ == "VisionTransformer" else None


def _transforms(model: nn.Module) -> Any:
    """torchvision's ``ImageClassification``, or ``None``."""
    told = getattr(model, "transforms", None)
    return told if hasattr(told, "crop_size") else None
