"""Images between images: where a classifier is sure of all that it has learnt from, they show what it does where it is not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from .errors import BatchFormatError, ConfigurationError
from .loading import is_map_style, parts_of


class WithMixtures(Dataset[Any]):
    """A data set of single images, followed by mixtures λx + (1 - λ)x' of them, for ``fit``.

    A network that knows its training data by heart answers it as the labels do, and an interpreter that learns from these answers learns
    the labels. On mixtures its answers are its own (mixup, Zhang et al. 2018, as Beyer et al. 2022 distil with it). A mixture is labelled,
    where the data is, as the image that it holds more of.

    Args:
        data: items are images (channels, H, W), pairs (image, label), or dicts as Hugging Face data sets give them.
        copies: mixtures an image, at least 1; the pass of the classifier becomes so much longer.
        seed: of partners and shares. Item i is the same whenever it is read.

    Raises:
        BatchFormatError: ``data`` is no data set of single items, or of other items.  ConfigurationError: ``copies`` < 1.
    """

    def __init__(self, data: Any, *, copies: int = 1, seed: int = 0) -> None:
        if not is_map_style(data):
            raise BatchFormatError(f"mixtures are made of a data set of single images (a loader's .dataset); got {type(data).__name__}")
        if copies < 1:
            raise ConfigurationError(f"copies must be at least 1, got {copies}")
        source = Generator().manual_seed(seed)
        self.data, mixtures = data, copies * len(data)
        self._partners = torch.randint(len(data), (mixtures,), generator=source)
        self._shares = 0.5 + 0.5 * torch.rand(mixtures, generator=source)

    def __len__(self) -> int:
        return len(self.data) + len(self._partners)

    def __getitem__(self, index: int) -> Any:
        if index < 0:
            index += len(self)
        image, label = self._item(index % len(self.data))
        if index >= len(self.data):
            place = index - len(self.data)
            other, share = self._item(int(self._partners[place]))[0], float(self._shares[place])
            image = share * image + (1 - share) * other
        return image if label is None else (image, label)

    def _item(self, index: int) -> tuple[Tensor, Any]:
        parts = parts_of(self.data[index])
        if parts is None or not isinstance(parts[0], Tensor) or not parts[0].is_floating_point():
            raise BatchFormatError(f"mixtures are made of images as the classifier takes them, floating point; item {index} is none")
        return parts
