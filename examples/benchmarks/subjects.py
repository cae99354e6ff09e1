"""What the benchmarks run on: classifiers and images in memory. Speed hangs on shapes, so weights are random where none are at hand."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from examples.fashion_mnist import task as fashion_mnist
from examples.imagenette import task as imagenette
from examples.results import some
from flint_posthoc import FlintExplainer

BATCH = 32


@dataclass(frozen=True)
class Subject:
    """A classifier with images.

    Attributes:
        images: how many, unless asked otherwise.  explained: what its explainer is told.
    """

    network: Callable[[argparse.Namespace], nn.Module]
    pixels: Callable[[argparse.Namespace, int], Tensor]
    images: int = 1000
    explained: dict[str, Any] = field(default_factory=dict)

    def model(self, options: argparse.Namespace) -> nn.Module:
        """In evaluation mode, always the same."""
        torch.manual_seed(0)
        return self.network(options).eval()

    def loader(self, options: argparse.Namespace) -> DataLoader:
        """All images in memory, without labels."""
        return DataLoader(TensorDataset(self.pixels(options, options.images or self.images)), batch_size=BATCH)

    def explainer(self, options: argparse.Namespace, model: nn.Module, **changed: Any) -> FlintExplainer:
        """Unfitted, J = 64."""
        return FlintExplainer(model, **{"num_attributes": 64, **self.explained, **changed})


def _noise(side: int, channels: int = 3) -> Callable[[argparse.Namespace, int], Tensor]:
    return lambda options, count: torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(0))


def _photographs(options: argparse.Namespace, count: int) -> Tensor:
    return _first(imagenette.images(options.data, train=True), count)


def _clothes(options: argparse.Namespace, count: int) -> Tensor:
    return _first(fashion_mnist.images(options.data, train=True), count)


def _first(dataset: Dataset, count: int) -> Tensor:
    """``count`` images, spread over the data."""
    return torch.stack([image for image, _ in islice(some(dataset, count), count)])  # type: ignore[arg-type]


SUBJECTS = {
    "ResNet-50": Subject(lambda options: torchvision.models.resnet50(), _noise(224)),
    "ViT-Small": Subject(lambda options: timm.create_model("vit_small_patch16_224"), _noise(224)),
    "SqueezeNet": Subject(
        lambda options: imagenette.classifier(options.data),
        _photographs,
        3000,
        {"classes": imagenette.CLASSES, "class_names": imagenette.CLASS_NAMES},
    ),
    "LeNet": Subject(lambda options: fashion_mnist.classifier(options.data), _clothes, 10_000, {"layers": ["conv2"], "num_attributes": 25}),
}
