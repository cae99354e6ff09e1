"""The paper's data sets as tensors or folders, each with the split that it was judged on and one for choosing settings."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torchvision.datasets import CIFAR100, MNIST, FashionMNIST

from examples.paper.photographs import Layout, Photographs, PublishedCub, as_learnt_from, class_folders, in_memory, opened, readable
from flint_posthoc import Normalization
from flint_posthoc.errors import DataError
from flint_posthoc.sources.pictures import LabelledPictures

VALIDATION_SHARE = 6  # every sixth training image, for choosing settings
BATCH_SIZE, BATCH_SIZE_LARGE = 500, 50  # where nothing learns; of images above 64 pixels


@dataclass(frozen=True)
class Pictures:
    """One data set: images as the classifier sees them, with labels.

    Attributes:
        train, test: as published.  flips: training images may be mirrored (photographs see to that themselves).
    """

    name: str
    class_names: tuple[str, ...]
    normalization: Normalization
    train: Dataset
    test: Dataset
    flips: bool = False


def _grey(name: str, class_names: Sequence[str], train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> Pictures:
    """From uint8 (n, 28, 28) with labels; normalised by the mean and deviation of the training pixels."""
    pixels = train[0].float() / 255
    normalization = Normalization((float(pixels.mean()),), (float(pixels.std()),))
    parts = (TensorDataset(normalization.normalize(images[:, None].float() / 255), labels.long()) for images, labels in (train, test))
    return Pictures(name, tuple(class_names), normalization, *parts)


def mnist(data: Path) -> Pictures:
    """60,000 and 10,000 digits."""
    train, test = (MNIST(data, train=part) for part in (True, False))
    return _grey("MNIST", list("0123456789"), (train.data, train.targets), (test.data, test.targets))


def fashion_mnist(data: Path) -> Pictures:
    """60,000 and 10,000 pieces of clothing."""
    train, test = (FashionMNIST(data, train=part) for part in (True, False))
    return _grey("FashionMNIST", [name.lower() for name in train.classes], (train.data, train.targets), (test.data, test.targets))


def quickdraw(data: Path) -> Pictures:
    """Ten classes of 2,400 and 600 drawings (the paper has 8,000 and 2,000 of ten classes that it does not name)."""
    with np.load(data / "quickdraw.npz") as archive:
        drawings = {name: torch.from_numpy(archive[name].reshape(-1, 28, 28)) for name in sorted(archive.files)}

    def part(rows: slice) -> tuple[Tensor, Tensor]:
        chosen = [images[rows] for images in drawings.values()]
        return torch.cat(chosen), torch.arange(len(chosen)).repeat_interleave(len(chosen[0]))

    return _grey("QuickDraw", list(drawings), part(slice(0, 2400)), part(slice(2400, 3000)))


def cifar10(data: Path) -> Pictures:
    """50,000 and 10,000 photographs, here as JPEG files in archives: harder than the lossless ones."""
    names, train = _archive(data / "cifar10_jpeg" / "train.tar.gz")
    _, test = _archive(data / "cifar10_jpeg" / "test.tar.gz")
    normalization = Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    parts = (TensorDataset(normalization.normalize(images.float() / 255), labels) for images, labels in (train, test))
    return Pictures("CIFAR-10 (JPEG)", names, normalization, *parts, flips=True)


def _archive(path: Path) -> tuple[tuple[str, ...], tuple[Tensor, Tensor]]:
    """Class names, images (n, 3, 32, 32) and labels of ``part/class/number.jpg`` in a tar file."""
    found: list[tuple[str, Tensor]] = []
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile():
                content = archive.extractfile(member)
                picture = Image.open(BytesIO(content.read())).convert("RGB")  # type: ignore[union-attr]
                found.append((Path(member.name).parent.name, torch.from_numpy(np.array(picture)).permute(2, 0, 1)))
    names = tuple(sorted({name for name, _ in found}))
    return names, (torch.stack([image for _, image in found]), torch.tensor([names.index(name) for name, _ in found]))


def cifar100(data: Path) -> Pictures:
    """50,000 and 10,000 photographs of 100 classes: as torchvision keeps them (it checks what it unpickles), or in folders."""
    layouts = (
        Layout(data / "cifar-100-python", "the python version, as torchvision keeps it", _python_version),
        Layout(data / "cifar100", "{train,test}/<class>/*.png", class_folders),
    )
    train, test = opened("CIFAR-100", layouts, "https://www.cs.toronto.edu/~kriz/cifar.html")
    normalization = Normalization((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
    read = (in_memory(part, side=32) for part in (train, test))
    parts = (TensorDataset(normalization.normalize(pixels), labels) for pixels, labels in read)
    return Pictures("CIFAR-100", tuple(map(readable, train.classes)), normalization, *parts, flips=True)


def _python_version(folder: Path, part: str) -> LabelledPictures:
    try:
        return CIFAR100(folder.parent, train=part == "train")
    except RuntimeError as error:
        raise DataError(f"{folder} is not whole: {error}") from error


def cub200(data: Path, side: int = 224) -> Pictures:
    """5,994 and 5,794 photographs of 200 kinds of birds, read when they are asked for; the bounding boxes take no part.

    The authors squeeze whole pictures into the square; here they keep their aspect and lose their ends.
    """
    layouts = (
        Layout(data / "CUB_200_2011", "images/ and its tables, as published", PublishedCub),
        Layout(data / "cub200", "{train,test}/<class>/*.jpg", class_folders),
    )
    train, test = opened("CUB-200-2011", layouts, "https://www.vision.caltech.edu/datasets/cub_200_2011/")
    normalization = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # ImageNet's, as the pretrained network expects
    parts = (Photographs(part, normalization, side) for part in (train, test))
    return Pictures("CUB-200-2011", tuple(map(readable, train.classes)), normalization, *parts)


DATASETS: dict[str, Callable[[Path], Pictures]] = {
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "quickdraw": quickdraw,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "cub200": cub200,
}


def validation_split(pictures: Pictures) -> tuple[Dataset, Dataset]:
    """Training images without, and only, every sixth of them: settings are chosen on these and never on test images."""
    chosen = torch.arange(len(pictures.train)) % VALIDATION_SHARE == 0  # type: ignore[arg-type]
    learnt, judged = (Subset(pictures.train, part.nonzero().flatten().tolist()) for part in (~chosen, chosen))
    return learnt, judged


def batches(dataset: Dataset) -> DataLoader:
    """In order."""
    side = max(dataset[0][0].shape[1:])
    return DataLoader(dataset, batch_size=BATCH_SIZE if side <= 64 else BATCH_SIZE_LARGE)


def shuffled(dataset: Dataset, batch_size: int, *, flips: bool) -> DataLoader:
    """Mini-batches to learn from, in an order of their own in each epoch, half of them mirrored where ``flips``; photographs also moved."""
    collate = mirrored if flips else None
    return DataLoader(as_learnt_from(dataset), batch_size=batch_size, shuffle=True, drop_last=True, collate_fn=collate)


def mirrored(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """A batch in which each image is mirrored with probability one half."""
    images, labels = (torch.stack(column) for column in zip(*items, strict=True))
    coin = torch.rand(len(images), 1, 1, 1) < 0.5
    return torch.where(coin, images.flip(-1), images), labels
