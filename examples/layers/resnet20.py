"""The CIFAR-10 ResNet-20 of a third party: He et al.'s network with parameter-free shortcuts (option A)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from examples.paper.datasets import Pictures, cifar10
from flint_posthoc import Normalization

NORMALIZATION = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Block(nn.Module):
    """Two convolutions beside a shortcut that drops every second place and pads channels with zeros where the shape changes."""

    def __init__(self, channels: int, maps: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, maps, 3, stride, 1, bias=False), nn.BatchNorm2d(maps)
        self.conv2, self.bn2 = nn.Conv2d(maps, maps, 3, 1, 1, bias=False), nn.BatchNorm2d(maps)
        self.stride, self.padding = stride, (maps - channels) // 2

    def forward(self, maps: Tensor) -> Tensor:
        """(B, channels, h, w) → (B, maps, h / stride, w / stride)."""
        shortcut = F.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(maps))))) + shortcut)


def _stage(channels: int, maps: int, stride: int) -> nn.Sequential:
    return nn.Sequential(Block(channels, maps, stride), Block(maps, maps, 1), Block(maps, maps, 1))


class ResNet20(nn.Module):
    """Three stages of three blocks, 16, 32 and 64 maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = _stage(16, 16, 1), _stage(16, 32, 2), _stage(32, 64, 2)
        self.linear = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 32, 32) → (B, 10)."""
        maps = F.relu(self.bn1(self.conv1(images)))
        return self.linear(self.layer3(self.layer2(self.layer1(maps))).mean(dim=(2, 3)))


def classifier(data: Path) -> ResNet20:
    """With the third party's weights."""
    stored = torch.load(data / "checkpoints" / "resnet20-12fca82f.th", map_location="cpu", weights_only=True)["state_dict"]
    model = ResNet20()
    model.load_state_dict({name.removeprefix("module."): value for name, value in stored.items()})
    return model.eval()


def pictures(data: Path) -> Pictures:
    """CIFAR-10, normalised as this network expects."""
    known = cifar10(data)
    train, test = (_normalized(part, known.normalization) for part in (known.train, known.test))
    return dataclasses.replace(known, normalization=NORMALIZATION, train=train, test=test)


def _normalized(part: Dataset, otherwise: Normalization) -> TensorDataset:
    images, labels = part.tensors  # type: ignore[attr-defined]
    return TensorDataset(NORMALIZATION.normalize(otherwise.denormalize(images)), labels)
