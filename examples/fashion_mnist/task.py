"""A third party's FashionMNIST network, functional activations and all, and its data."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.datasets import FashionMNIST

from flint_posthoc import Normalization

CLASS_NAMES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
NORMALIZATION = Normalization((0.1307,), (0.3081,))
VALIDATION = 10_000  # of the training images, for choosing settings


class Classifier(nn.Module):
    """The checkpoint's network, as its author wrote it: no ReLU modules."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.fc1, self.fc2 = nn.Linear(800, 500), nn.Linear(500, 10)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, 28, 28) → (B, 10)."""
        maps = F.max_pool2d(F.relu(self.conv1(images)), 2)
        maps = F.max_pool2d(F.relu(self.conv2(maps)), 2)
        return self.fc2(F.relu(self.fc1(maps.flatten(1))))


def classifier(data: Path) -> Classifier:
    """With the third party's weights."""
    model = Classifier()
    model.load_state_dict(torch.load(data / "checkpoints" / "fashion_mnist_cnn.pt", map_location="cpu", weights_only=True))
    return model.eval()


def images(data: Path, *, train: bool) -> TensorDataset:
    """Images, normalised as the network expects, with labels."""
    raw = FashionMNIST(data, train=train)
    return TensorDataset(NORMALIZATION.normalize(raw.data[:, None].float() / 255), raw.targets)


def loader(dataset: Dataset) -> DataLoader:
    return DataLoader(dataset, batch_size=500)


def validation_split(data: Path) -> tuple[DataLoader, DataLoader]:
    """The training images without, and only, the last ``VALIDATION`` of them."""
    pixels, labels = images(data, train=True).tensors
    parts = (slice(0, -VALIDATION), slice(-VALIDATION, None))
    return tuple(DataLoader(TensorDataset(pixels[part], labels[part]), batch_size=500) for part in parts)  # type: ignore[return-value]
