"""Data sets by name, and pictures as the classifier wants them."""

from __future__ import annotations

import contextlib
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset, default_collate, get_worker_info

from ..arrays import ImageShape
from ..classifier.adapter import WHOLE, Crop, Normalization
from ..errors import DataError, EmptyDataError, FlintWarning, UnreadablePictureError

LOOKED_AT = 8  # pictures, to see whether all are grey
WHITE = 2**16 - 1  # of a picture in 16 bits
PIXELS = 2**27  # of a picture, at most: more would be unpacked into gigabytes
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")  # what the library knows beyond these may start programs (EPS)
_UNREADABLE = (  # what it raises for damaged files, beside its own kinds
    OSError, SyntaxError, ValueError, LookupError, TypeError, ArithmeticError, EOFError, struct.error, zlib.error, MemoryError,
    Image.DecompressionBombError,
)  # fmt: skip
SPLIT_FOLDERS = {"train": ("train", "training"), "test": ("test", "val", "valid", "validation")}


@dataclass(frozen=True)
class ImageForm:
    """How a picture becomes the classifier's input.

    Attributes:
        shape: (channels, height, width), of which pictures of another size get cut and scaled. ``None``: they stay as they are.
        crop: what is left of those.
        channels: 1 or 3, of pictures whose size stays as it is. ``None``: as many as each of them has.
    """

    normalization: Normalization
    shape: ImageShape | None = None
    crop: Crop = WHOLE
    channels: int | None = None

    def __call__(self, picture: Image.Image) -> Tensor:
        """The picture as a normalised tensor (channels, height, width).

        Raises ``UnreadablePictureError`` for a picture of 32 bits or floats a channel, no value of which is known to be white.
        """
        picture = _in_eight_bits(picture)
        grey = (self.shape[0] if self.shape else self.channels or _channels(picture)) == 1
        picture = picture.convert("L" if grey else "RGB")
        if self.shape is not None and (picture.height, picture.width) != self.shape[1:]:
            border = (1 - self.crop.share) / 2
            picture = ImageOps.fit(picture, (self.shape[2], self.shape[1]), _resampling(self.crop.interpolation), bleed=border)
        pixels = torch.from_numpy(np.array(picture, dtype=np.float32) / 255)
        return self.normalization.normalize((pixels[None] if grey else pixels.permute(2, 0, 1))[None])[0]


def _channels(picture: Image.Image) -> int:
    return 1 if picture.mode in ("1", "L") else 3


def _resampling(name: str) -> Image.Resampling:
    """Of that name; bilinear for what Pillow does not have (timm's "random")."""
    return Image.Resampling.__members__.get(name.upper(), Image.Resampling.BILINEAR)


def _in_eight_bits(picture: Image.Image) -> Image.Image:
    """A grey picture of 16 bits in 8, which Pillow would cut off at 255; others as they are."""
    if not picture.mode.startswith(("I", "F")):
        return picture
    values = np.asarray(picture)
    if picture.mode == "F" or values.min() < 0 or values.max() > WHITE:  # mode I holds 16 bits too, of PGM files for one
        raise UnreadablePictureError(
            f"a picture of mode {picture.mode} with values from {values.min()} to {values.max()}, none of which is known to be white; "
            "expected 8 or 16 bits a channel"
        )
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


@runtime_checkable
class LabelledPictures(Protocol):
    """A data set of (picture, label) whose labels count ``classes``."""

    classes: Sequence[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Image.Image, int]: ...


def most_channels(pictures: LabelledPictures) -> int:
    """3, or 1 where those that are looked at, spread over ``pictures``, are all grey. Those that cannot be read tell nothing."""
    count, found = len(pictures), {1}
    for index in sorted({place * (count - 1) // (LOOKED_AT - 1) for place in range(LOOKED_AT)} if count else ()):
        with contextlib.suppress(*_UNREADABLE):
            found.add(_channels(_in_eight_bits(pictures[index][0])))
    return max(found)


class InOrder:
    """``source`` with its labels counting ``classes``, the same names in another order."""

    def __init__(self, source: LabelledPictures, classes: Sequence[str]) -> None:
        self.source, self.classes = source, classes
        self._places = [classes.index(name) for name in source.classes]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        picture, label = self.source[index]
        return picture, self._places[label]


class PictureDataset(Dataset[Any]):
    """``source`` as tensors: (image, label), or the image alone where the labels are not the explained classes."""

    def __init__(self, source: LabelledPictures, form: ImageForm, *, labelled: bool) -> None:
        self.source, self.form, self.labelled = source, form, labelled

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        try:
            picture, label = self.source[index]
            image = self.form(picture)
        except _UNREADABLE as error:
            raise UnreadablePictureError(f"picture {index} of the data cannot be read: {_reason(error)}") from error
        return (image, label) if self.labelled else image

    def collate(self, items: Sequence[Any]) -> Any:
        """A batch of them."""
        return default_collate(list(items))


class ReadablePictures(PictureDataset):
    """The same without the pictures that cannot be read, for a loader whose ``collate_fn`` is ``collate``.

    Attributes:
        skipped: what was said of each, by its index; of a loader with worker processes it stays empty, and they warn instead.
    """

    def __init__(self, source: LabelledPictures, form: ImageForm, *, labelled: bool) -> None:
        super().__init__(source, form, labelled=labelled)
        self.skipped: dict[int, str] = {}

    def __getitem__(self, index: int) -> Any:
        try:
            return super().__getitem__(index)
        except UnreadablePictureError as error:
            if get_worker_info() is not None:
                warnings.warn(f"left out: {error}", FlintWarning, stacklevel=2)
            self.skipped[index] = str(error)
            return None

    def collate(self, items: Sequence[Any]) -> Any:
        """A batch of those that could be read; a batch without images where there is none."""
        readable = [item for item in items if item is not None]
        return super().collate(readable) if readable else torch.empty(0, *(self.form.shape or (1, 1, 1)))


def open_picture(path: str | Path) -> Image.Image:
    """The picture in a file of one of the ``FORMATS``. Raises ``UnreadablePictureError``, of too many pixels before they are unpacked."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # PIXELS is the limit here
            with Image.open(path, formats=FORMATS) as picture:
                if picture.width * picture.height > PIXELS:
                    raise UnreadablePictureError(f"{path} has {picture.width} × {picture.height} pixels; at most {PIXELS:,} are read")
                return picture.copy()
    except UnreadablePictureError:
        raise
    except IsADirectoryError as error:
        raise UnreadablePictureError(f"{path} is a folder; name the pictures in it, as in {path}/*.png") from error
    except _UNREADABLE as error:
        raise UnreadablePictureError(f"{path} cannot be read as a picture: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__)[:300]


def open_data(name: str, split: str) -> LabelledPictures:
    """The pictures of a data set.

    Args:
        name: a folder with one folder of pictures a class (perhaps below train/ and val/ or test/), or "digits", or "mnist" or
            "fashion_mnist" as torchvision keeps them in ./data, with another folder after a colon: "mnist:FOLDER".
        split: "train" or "test", where the data has both.

    Raises:
        DataError: there is no such data, or it cannot be had.
    """
    known, _, root = name.partition(":")
    return DATA_SETS[known](split, Path(root or "data")) if known in DATA_SETS else _folder(Path(name), split)


def _folder(folder: Path, split: str) -> LabelledPictures:
    from torchvision.datasets import ImageFolder

    if not folder.is_dir():
        raise DataError(f"{str(folder)!r} is neither a folder of pictures nor one of {', '.join(DATA_SETS)}")
    divided = {part.name for parts in SPLIT_FOLDERS.values() for part in map(folder.joinpath, parts) if part.is_dir()}
    inside = next((folder / part for part in SPLIT_FOLDERS[split] if part in divided), None)
    if divided and inside is None:
        raise DataError(f"{folder} is divided into {', '.join(sorted(divided))}; expected one of {', '.join(SPLIT_FOLDERS[split])} in it")
    try:
        found: LabelledPictures = ImageFolder(inside or folder, loader=open_picture)
    except FileNotFoundError as error:
        raise EmptyDataError(f"{inside or folder} holds no folders of pictures, one a class: {error}") from error
    return found


def _torchvision_data(name: str) -> Callable[[str, Path], LabelledPictures]:
    def opened(split: str, root: Path) -> LabelledPictures:
        """Fetched if it is not there."""
        from torchvision import datasets

        try:
            found: LabelledPictures = getattr(datasets, name)(root, train=split == "train", download=True)
        except (OSError, RuntimeError) as error:
            raise DataError(f"{name} is not below {root} and cannot be fetched: {error}") from error
        return found

    return opened


class _Digits:
    def __init__(self, split: str) -> None:
        from ..demo.digits import CLASS_NAMES, NORMALIZATION, digits

        images, labels = getattr(digits(), split).tensors
        self._pixels = (NORMALIZATION.denormalize(images)[:, 0] * 255).round().to(torch.uint8).numpy()
        self._labels: list[int] = labels.tolist()
        self.classes: Sequence[str] = CLASS_NAMES

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self._pixels[index]), self._labels[index]


DATA_SETS: dict[str, Callable[[str, Path], LabelledPictures]] = {
    "digits": lambda split, root: _Digits(split),
    "mnist": _torchvision_data("MNIST"),
    "fashion_mnist": _torchvision_data("FashionMNIST"),
}
