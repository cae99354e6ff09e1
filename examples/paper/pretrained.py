"""The classifier of CUB-200-2011: torchvision's ResNet18, which has seen ImageNet."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torchvision.models import ResNet18_Weights, resnet18

from flint_posthoc.errors import ConfigurationError


def imagenet_resnet18(num_classes: int, *, weights: ResNet18_Weights | None = ResNet18_Weights.IMAGENET1K_V1) -> nn.Module:
    """With batch norm, for images of 224 pixels, and with a new last layer.

    Args:
        weights: what it starts from, fetched once into torch's folder of checkpoints; ``None``: from nothing.

    Raises:
        ConfigurationError: the weights are not there and cannot be fetched.
    """
    model = resnet18()
    if weights is not None:
        model.load_state_dict(_fetched(weights))
    model.fc = nn.Linear(model.fc.in_features, num_classes)
    return model


def _fetched(weights: ResNet18_Weights) -> dict[str, torch.Tensor]:
    try:
        return weights.get_state_dict(check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        place = Path(torch.hub.get_dir()) / "checkpoints"
        raise ConfigurationError(
            f"{weights.url} cannot be fetched: {error}. Put the file into {place}, or pass weights=None to start from nothing"
        ) from error
