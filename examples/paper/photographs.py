"""Pictures in folders, in whichever of several layouts they lie, and how f sees those that are read one by one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset, Subset
from torchvision.transforms import Compose, RandomCrop, RandomHorizontalFlip

from flint_posthoc import Normalization
from flint_posthoc.errors import DataError
from flint_posthoc.sources.pictures import ImageForm, LabelledPictures, PictureDataset, open_data, open_picture

PADDING = 8  # black pixels around a training photograph, out of which a square is cut (the authors' programme)


class Layout(NamedTuple):
    """One way in which a data set lies on disk: ``open(folder, part)`` reads its "train" or its "test"."""

    folder: Path
    holds: str
    open: Callable[[Path, str], LabelledPictures]


def opened(name: str, layouts: Sequence[Layout], origin: str) -> tuple[LabelledPictures, LabelledPictures]:
    """Training and test pictures, from the first layout that is there.

    Raises:
        DataError: no layout is there, or its two parts do not show the same classes.
    """
    found = next((layout for layout in layouts if layout.folder.is_dir()), None)
    if found is None:
        expected = " or ".join(f"{layout.folder} with {layout.holds}" for layout in layouts)
        raise DataError(f"{name} is not there; expected {expected}. It can be had at {origin}")
    train, test = (found.open(found.folder, part) for part in ("train", "test"))
    if list(train.classes) != list(test.classes):
        only = sorted(set(train.classes) ^ set(test.classes))
        raise DataError(
            f"{found.folder}: training and test pictures must show the same classes; in one of them only: {', '.join(only[:5])}"
        )
    return train, test


def class_folders(folder: Path, part: str) -> LabelledPictures:
    """``part/class/picture``."""
    return open_data(str(folder / part), part)


class PublishedCub:
    """CUB-200-2011 as it is published: numbered tables of pictures, classes and parts beside a folder of pictures.

    Raises:
        DataError: a table is missing, or the tables do not fit each other.
    """

    def __init__(self, folder: Path, part: str) -> None:
        wanted = {"train": "1", "test": "0"}[part]
        try:
            files, labels, parts, classes = (_table(folder / f"{name}.txt") for name in TABLES)
            self.classes: Sequence[str] = tuple(classes.values())
            self.items = [(folder / "images" / files[key], int(labels[key]) - 1) for key in files if parts[key] == wanted]
        except (OSError, KeyError, ValueError) as error:
            raise DataError(f"{folder} does not hold the published tables {', '.join(TABLES)}: {type(error).__name__}: {error}") from error

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, label = self.items[index]
        return open_picture(path), label


TABLES = ("images", "image_class_labels", "train_test_split", "classes")


def _table(path: Path) -> dict[str, str]:
    """The lines of a table by their number."""
    numbered = (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return {number: entry.strip() for number, entry in numbered}


def readable(name: str) -> str:
    """A class name without its number.

    >>> readable("001.Black_footed_Albatross"), readable("aquarium_fish")
    ('Black footed Albatross', 'aquarium fish')
    """
    return re.sub(r"^\d+\.", "", name).replace("_", " ")


def in_memory(source: LabelledPictures, side: int) -> tuple[Tensor, Tensor]:
    """All pixels in [0, 1], (n, 3, side, side), and labels. Raises ``DataError`` for pictures of another size."""
    pictures, labels = zip(*(source[index] for index in range(len(source))), strict=True)
    sizes = {picture.size for picture in pictures} - {(side, side)}
    if sizes:
        raise DataError(f"pictures of {sorted(sizes)[0]} pixels; expected {side} × {side}")
    pixels = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255, torch.tensor(labels)


class Moved:
    """``source`` scaled to cover a square, and on each reading moved in it by up to ``PADDING`` pixels; half of it mirrored."""

    def __init__(self, source: LabelledPictures, side: int) -> None:
        self.source, self.classes, self.side = source, source.classes, side
        self.move = Compose([RandomCrop(side, padding=PADDING), RandomHorizontalFlip()])

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        picture, label = self.source[index]
        return self.move(ImageOps.fit(picture.convert("RGB"), (self.side, self.side), Image.Resampling.BILINEAR)), label


class Photographs(PictureDataset):
    """Pictures that are read when they are asked for: scaled to cover a square, cut at the centre and normalised."""

    def __init__(self, source: LabelledPictures, normalization: Normalization, side: int) -> None:
        super().__init__(source, ImageForm(normalization, (3, side, side)), labelled=True)
        self.side = side

    def augmented(self) -> PictureDataset:
        """The same as f learns from them."""
        return PictureDataset(Moved(self.source, self.side), self.form, labelled=True)


def as_learnt_from(dataset: Dataset) -> Dataset:
    """``dataset`` with its photographs augmented; whatever else it holds stays as it is."""
    if isinstance(dataset, Subset):
        return Subset(as_learnt_from(dataset.dataset), dataset.indices)
    return dataset.augmented() if isinstance(dataset, Photographs) else dataset
