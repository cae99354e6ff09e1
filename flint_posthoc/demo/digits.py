"""The embedded example: scikit-learn's 1,797 scans of handwritten digits, 8 × 8 pixels each, and a small classifier of them."""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from ..classifier.adapter import Normalization
from ..storage import read_tensors

CHECKPOINT = "digits_classifier.safetensors"
CLASS_NAMES = tuple("0123456789")
NORMALIZATION = Normalization((0.3,), (0.38,))
IMAGE_SHAPE = (1, 8, 8)
TEST_IMAGES = 360  # the last scans, partly of other writers than the first ones


def _block(channels: int, maps: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, maps, 3, padding=1, bias=False), nn.BatchNorm2d(maps), nn.ReLU())


class DigitsClassifier(nn.Module):
    """A small convolutional network: images (B, 1, 8, 8) to logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.block1, self.block2, self.block3 = _block(1, 16), _block(16, 32), _block(32, 48)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Sequential(nn.Linear(48 * 2 * 2, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, 10) of images (B, 1, 8, 8)."""
        maps = self.pool(self.block2(self.block1(images)))
        maps = self.pool(self.block3(maps))
        logits: Tensor = self.head(maps.flatten(1))
        return logits


class DigitsSplit(NamedTuple):
    """Normalised images with their labels; neither the classifier nor the interpreter is trained on ``test``."""

    train: TensorDataset
    test: TensorDataset


def digits() -> DigitsSplit:
    """The scans in scikit-learn's order, the last 360 kept for testing."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    images, labels = NORMALIZATION.normalize(pixels), torch.tensor(bunch.target)
    first, last = slice(None, -TEST_IMAGES), slice(-TEST_IMAGES, None)
    return DigitsSplit(TensorDataset(images[first], labels[first]), TensorDataset(images[last], labels[last]))


def digits_classifier() -> DigitsClassifier:
    """The trained classifier that comes with the package, in evaluation mode."""
    classifier = DigitsClassifier()
    with as_file(files(__package__) / CHECKPOINT) as path:
        classifier.load_state_dict(read_tensors(path).tensors)
    return classifier.eval()
