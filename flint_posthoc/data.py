"""Batches from any loader, checked once, and what can be told about a data set without going through it.

Data is any iterable of images (B, C, H, W), of (images, labels) or of dicts as Hugging Face loaders give them; one of these
by itself is one batch; a map-style data set of single images (C, H, W) is read in order, 64 at a time, and so is an ``IterableDataset``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from .arrays import Images, ImageShape
from .errors import (
    BatchFormatError,
    EmptyDataError,
    FlintWarning,
    ImageShapeError,
    LabelRangeError,
    NonFinitePixelsError,
)
from .labels import LABEL_POLICIES, Labels, other_classes, warn_left_out
from .loading import ALLOWED, changed_loader, collate, describe, images_in, is_map_style, is_one_batch, iterable, parts_of, readable
from .loading import Data as Data
from .randomness import preserved_random_state

AUGMENTATION_SAMPLES = 8
_RANDOM_SAMPLERS = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


@dataclass(frozen=True)
class Batch:
    """Images as the classifier sees them, float32 and finite, and their labels where the data has them: classes, or (on request) shares."""

    images: Images
    labels: Int64[Tensor, " b"] | Float[Tensor, "b classes"] | None


def batches(
    data: Data,
    *,
    device: torch.device | str,
    image_shape: ImageShape | None = None,
    num_classes: int | None = None,
    labels: Labels = "optional",
) -> Iterator[Batch]:
    """Every batch of ``data``, checked, on ``device``; batches without a single image are passed over.

    Args:
        image_shape: (C, H, W) of every image; ``None``: the first batch decides.
        num_classes: labels must be in [0, num_classes); ``None``: they must not be negative.
            Where the data set names another number of classes, as a folder of ten beside an ImageNet classifier, its labels are left
            out, and refused as "required" ones and "targets".
        labels: "required": classes. "targets": one-hot and soft ones (B, num_classes) too. "counted": those too, or none; other (B, n) are
            left out, with one warning a pass. "optional": the same, each row of shares as its largest class. "label_sets": 0 or 1 for each
            image and class (B, num_classes). "ignored": none is looked at.

    Raises:
        EmptyDataError, BatchFormatError, ImageShapeError, NonFinitePixelsError, MissingLabelsError, LabelRangeError; each but the first
        names the batch, counted from 0.
    """
    expected, empty, warned = image_shape, True, False
    labels = _own_labels(data, num_classes, labels)
    for index, item in enumerate(readable(iterable(data))):
        place = f"batch {index}"
        raw_images, raw_labels = _unpack(item, place)
        if not (raw_images.dim() == 4 and len(raw_images) == 0):
            images = _checked_images(raw_images, expected, place)
            empty = False
            expected = (images.shape[1], images.shape[2], images.shape[3])
            checked = LABEL_POLICIES[labels](raw_labels, len(images), num_classes, place)
            if labels in ("counted", "optional") and checked is None and raw_labels is not None and not warned:
                warn_left_out(raw_labels, num_classes, place)
                warned = True
            yield Batch(images.to(device), None if checked is None else checked.to(device))
    if empty:
        raise EmptyDataError(f"the data ({type(data).__name__}) holds no images")


def _own_labels(data: Data, num_classes: int | None, labels: Labels) -> Labels:
    """What may be made of labels, which may count other classes. Raises ``LabelRangeError`` where they are needed and do."""
    named = None if num_classes is None else folders_of(data)
    if named in (None, num_classes):
        return labels
    if labels in ("required", "targets"):
        raise LabelRangeError(other_classes(named, num_classes))
    if labels in ("counted", "optional"):
        warnings.warn(f"labels are left out: {other_classes(named, num_classes)}", FlintWarning, stacklevel=3)
        return "ignored"
    return labels


def folders_of(data: Data) -> int | None:
    """How many classes a data set as torchvision's counts its labels by; ``None`` where it does not say, or changes them."""
    whole = data.data if isinstance(data, FirstPass) else data
    source = whole.dataset if isinstance(whole, DataLoader) else whole
    while isinstance(source, Subset):
        source = source.dataset
    names = getattr(source, "classes", None)
    return len(names) if isinstance(names, list | tuple) and getattr(source, "target_transform", None) is None else None


def look_at(data: Data, image_shape: ImageShape, num_classes: int, labels: Labels = "optional") -> None:
    """Raise now whatever ``batches`` would raise for the first batch; what can be read only once is left alone.

    The global random state stays as it is.
    """
    if not is_one_shot(data):
        with preserved_random_state():
            next(batches(data, device="cpu", image_shape=image_shape, num_classes=num_classes, labels=labels))


class FirstPass:
    """One pass over ``data`` whose first batch can be looked at before: nothing is read twice. Iterate it once.

    Raises ``EmptyDataError`` for data without a batch, and for its first batch whatever ``batches`` raises.
    """

    def __init__(self, data: Data) -> None:
        self.data, self._rest = data, readable(iterable(data))
        self._head = list[Any]()
        for item in self._rest:
            self._head.append(item)
            if len(_unpack(item, f"batch {len(self._head) - 1}")[0]):
                break
        self.images = next(batches(self._head, device="cpu", labels="ignored")).images

    def labels(self, num_classes: int, labels: Labels) -> Tensor:
        """Those of the first batch. Raises ``MissingLabelsError``, ``LabelRangeError`` or ``BatchFormatError`` where it has none."""
        known = _own_labels(self.data, num_classes, labels)
        return next(batches(self._head, device="cpu", num_classes=num_classes, labels=known)).labels  # type: ignore[return-value]

    def __iter__(self) -> Iterator[Any]:
        yield from self._head
        yield from self._rest


def is_one_shot(data: Data) -> bool:
    """Whether ``data`` can be read only once, as generators can."""
    return isinstance(data, Iterator)


def num_images(data: Data, *, dropped: bool = False) -> int | None:
    """The number of images in one pass, where it is known without a pass; a stream's is what it says of itself.

    ``dropped``: with those that a loader leaves out of an incomplete last batch.
    """
    if isinstance(data, DataLoader):
        return _num_images_of_loader(data, dropped)
    if is_one_batch(data):
        return images_in(data)
    if isinstance(data, list | tuple):
        return sum(map(images_in, data)) or None
    return len(data) if is_map_style(data) else None


def augments(data: Data) -> bool:
    """Whether images differ from one reading to the next, told from eight items spread over an indexable data set, each read twice.

    ``False`` for data that cannot be indexed, or not at these places: what cannot be read there is never asked for, or said in the pass.
    A loader's ``collate_fn`` takes part, and where it has workers one of them reads: a data set may keep open what it read in a process.
    The global random state stays as it is.
    """
    source: Any = data.dataset if isinstance(data, DataLoader) else data
    if not is_map_style(source) or not len(source):
        return False
    positions = np.linspace(0, len(source) - 1, min(AUGMENTATION_SAMPLES, len(source))).astype(int).tolist()
    try:
        with preserved_random_state():
            parts = [_unpack(part, "what was read twice")[0] for part in _read_twice(data, source, positions)]
    except Exception:
        return False
    half = len(parts) // 2
    return not all(torch.equal(one, other) for one, other in zip(parts[:half], parts[half:], strict=True))


def shuffles(data: Data) -> bool | None:
    """Whether the order of images is a random one; ``None`` where that cannot be told."""
    if isinstance(data, DataLoader):
        return _is_random(_item_sampler(data))
    return False if is_one_batch(data) or is_map_style(data) else None


def _read_twice(data: Data, source: Any, positions: list[int]) -> Iterable[Any]:
    """These items of ``source``, and then the same again: a batch each time, or each by itself where a loader's items are batches."""
    if not isinstance(data, DataLoader):
        return [collate([source[position] for position in positions]) for _ in range(2)]
    order = {"sampler": [*positions, *positions]} if data.batch_sampler is None else {"batch_sampler": [positions, positions]}
    return changed_loader(data, 0, **order, num_workers=min(data.num_workers, 1), persistent_workers=False)


def _unpack(item: Any, place: str) -> tuple[Tensor, Any]:
    """The images and the raw labels, if any, of one batch."""
    parts = parts_of(item)
    if parts is None or not isinstance(parts[0], Tensor):
        raise BatchFormatError(f"{place} is a {describe(item)}; expected {ALLOWED}")
    return parts


def _checked_images(images: Tensor, expected: ImageShape | None, place: str) -> Tensor:
    shape = tuple(images.shape)
    if images.dim() != 4:
        hint = (
            "; one image goes as image[None], signals (B, C, L) as (B, C, 1, L) with a module around the classifier that takes the axis out"
            * (images.dim() == 3)
        )
        raise ImageShapeError(f"{place}: images have shape {shape}, of rank {images.dim()}; expected rank 4, (B, C, H, W){hint}")
    if expected is not None and shape[1:] != tuple(expected):
        what = "channels" if shape[1] != expected[0] else "pixels"
        raise ImageShapeError(f"{place}: images have shape {shape}, with other {what} than expected: (B, {', '.join(map(str, expected))})")
    if not images.is_floating_point():
        raise BatchFormatError(
            f"{place}: images are {images.dtype}; expected floating point, converted and normalised as the classifier expects"
        )
    if not images.sum().isfinite() and not (finite := images.isfinite()).all():  # a sum is cheap, and may overflow
        spoilt = int((~finite).flatten(1).any(dim=1).sum())
        raise NonFinitePixelsError(
            f"{place}: {int((~finite).sum())} pixels in {spoilt} of {len(images)} images are NaN or infinite; expected finite pixels"
        )
    return images.float()


def _item_sampler(loader: DataLoader[Any]) -> Sampler[Any] | Iterable[Any] | None:
    """What decides which single items a loader reads in which order; ``None`` where that is the user's own code."""
    batching = loader.batch_sampler
    return batching.sampler if type(batching) is BatchSampler and not isinstance(loader.dataset, IterableDataset) else None


def _is_random(sampler: Sampler[Any] | Iterable[Any] | None) -> bool | None:
    if isinstance(sampler, _RANDOM_SAMPLERS):
        return True
    return False if isinstance(sampler, SequentialSampler) else getattr(sampler, "shuffle", None)


def _num_images_of_loader(loader: DataLoader[Any], dropped: bool) -> int | None:
    if isinstance(loader.dataset, IterableDataset):
        said = len(loader.dataset) if loader.batch_size and isinstance(loader.dataset, Sized) else None
        return said // loader.batch_size * loader.batch_size if said and loader.batch_size and loader.drop_last and not dropped else said
    sampler, batching = _item_sampler(loader), loader.batch_sampler
    if not isinstance(sampler, Sized) or not isinstance(batching, BatchSampler):
        return None
    return len(sampler) // batching.batch_size * batching.batch_size if batching.drop_last and not dropped else len(sampler)
