"""torchvision's classifiers. Nothing of torchvision is imported until class names are asked for."""

from __future__ import annotations

from torch import nn

from flint_posthoc.classifier.adapter import Crop, Normalization

from .torch_module import TorchModuleAdapter, comes_from, image_channels, output_width

IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class TorchvisionAdapter(TorchModuleAdapter):
    """``torchvision.models``: the published weights take ImageNet's normalisation, and an instance does not tell them from others."""

    name = "torchvision"
    priority = 10

    def matches(self, model: nn.Module) -> bool:
        return comes_from(model, "torchvision.models.")

    def normalization(self, model: nn.Module) -> Normalization | None:
        return IMAGENET if image_channels(model) in (None, 3) else None

    def input_size(self, model: nn.Module) -> tuple[int, int, int] | None:
        size = getattr(model, "image_size", 299 if type(model).__name__ == "Inception3" else 224)
        return (image_channels(model) or 3, size, size)

    def crop(self, model: nn.Module) -> Crop:
        """224 of 256 pixels, as most published weights are judged."""
        return Crop(224 / 256)

    def class_names(self, model: nn.Module) -> tuple[str, ...] | None:
        """ImageNet's, for a classifier of a thousand classes."""
        if output_width(model) != 1000:
            return None
        from torchvision.models import ResNet18_Weights

        return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])

    def prefix_tokens(self, model: nn.Module) -> int | None:
        return 1 if type(model).__name__ == "VisionTransformer" else None
