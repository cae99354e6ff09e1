"""SqueezeNet 1.0 with a third party's ImageNet weights, explained on ten of its thousand classes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.models import squeezenet1_0

CLASSES = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)  # in ImageNet-1k, in the order of the folders
CLASS_NAMES = (
    "tench",
    "English springer",
    "cassette player",
    "chain saw",
    "church",
    "French horn",
    "garbage truck",
    "gas pump",
    "golf ball",
    "parachute",
)
VALIDATION_EVERY = 6  # every sixth training image is for choosing settings


def classifier(data: Path) -> nn.Module:
    """With the third party's weights."""
    model = squeezenet1_0()
    model.load_state_dict(torch.load(data / "checkpoints" / "squeezenet1_0_imagenet.pt", map_location="cpu", weights_only=True))
    return model.eval()


def images(data: Path, *, train: bool) -> ImageFolder:
    """Normalised photographs; a label is a position in ``CLASSES``."""
    normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return ImageFolder(str(data / "imagenette" / ("train" if train else "val")), transforms.Compose([transforms.ToTensor(), normalize]))


def loader(dataset: Dataset) -> DataLoader:
    return DataLoader(dataset, batch_size=50, num_workers=1)


def validation_split(data: Path) -> tuple[DataLoader, DataLoader]:
    """The training images without, and only, every sixth of them."""
    dataset = images(data, train=True)
    held_out = range(0, len(dataset), VALIDATION_EVERY)
    rest = [index for index in range(len(dataset)) if index % VALIDATION_EVERY]
    return loader(Subset(dataset, rest)), loader(Subset(dataset, held_out))
