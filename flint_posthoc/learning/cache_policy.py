"""Where a fit keeps f's activations: in memory, on disk, or nowhere."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from ..arrays import Images
from ..data import Data, FirstPass, augments, is_one_shot, num_images
from ..errors import ConfigurationError, FlintWarning, MemoryExhaustedError
from ..measures import area_resize
from ..memory import free_memory
from ..processes import gather, local_size, share
from ..splitting import is_stream
from .batches import BatchReader, DataSummary, LearningBatch
from .caching.cache import ActivationCache
from .caching.folder import free_bytes, in_memory, temporary_folder, temporary_place
from .caching.layout import bytes_per_image

COMPARED = 8  # images of the data that are looked for in a cache
MEMORY_SHARE = 0.5  # of the memory that is free, which an automatic cache may fill


class PendingPass(NamedTuple):
    """One pass over the data that is still to be made. ``first_pass``: ``data``, begun."""

    reader: BatchReader
    data: Data
    first_pass: Iterable[Any]
    show_progress: bool

    @property
    def images(self) -> int | None:
        """How many of them this process reads, where that is known."""
        return own_images(self.data)

    def passes(self, what: str) -> Generator[LearningBatch, None, None]:
        """That pass, with a bar named ``what``."""
        return self._shown(self.reader.passes(self.first_pass), what)

    def summary(self) -> DataSummary:
        """What that pass tells of the data; where labels are a must, f has nothing to add and does not run."""
        reader = self.reader
        found = (reader.labelled if reader.labels == "targets" else reader.passes)(self.first_pass)
        return DataSummary.of(self._shown(found, "survey"), reader.view.num_classes)

    def _shown(self, passes: Iterable[LearningBatch], what: str) -> Generator[LearningBatch, None, None]:
        shown = with_progress(passes, what, self.images, self.show_progress)
        return whole_stream(shown, self.images) if is_stream(self.data) else shown

    def cached(self, folder: Path | None = None, room: float = math.inf) -> ActivationCache:
        """That pass, kept. Raises ``MemoryExhaustedError`` where it needs more than ``room`` bytes."""
        passes = within(self.passes("activations"), bytes_per_image(self.reader, "float32"), room)
        return ActivationCache.build(self.reader, passes, folder=folder, images=self.images)


Kept = AbstractContextManager[ActivationCache | None]  # None: f runs in every epoch


def own_images(data: Data) -> int | None:
    """How many images of ``data`` this process reads in one pass, where that is known without one."""
    images = num_images(data)
    return images if images is None or is_stream(data) else len(share(images))


def memory_to_fill() -> float:
    """Bytes that this process may fill with what it keeps."""
    return MEMORY_SHARE * free_memory() / local_size()


def disk_to_fill() -> int:
    """Bytes that this process may fill in a temporary folder; none where those are in memory themselves."""
    place = temporary_place()
    return 0 if in_memory(place) else free_bytes(place) // local_size()


def with_progress(passes: Iterable[LearningBatch], what: str, images: int | None, show: bool) -> Generator[LearningBatch, None, None]:
    """``passes`` with a bar that counts images."""
    with tqdm(total=images, desc=what, unit="image", disable=not show) as bar:
        for batch in passes:
            bar.update(batch.images())
            yield batch


def whole_stream(passes: Iterable[LearningBatch], images: int | None) -> Generator[LearningBatch, None, None]:
    """``passes``; a warning where they end before ``images``, the number that was said."""
    seen = 0
    for batch in passes:
        seen += batch.images()
        yield batch
    if images is not None and seen < images:
        warnings.warn(
            f"the data was said to hold {images:,} images and ended after {seen:,}; these are what is used", FlintWarning, stacklevel=2
        )


def within(passes: Generator[LearningBatch, None, None], image_bytes: int, room: float) -> Generator[LearningBatch, None, None]:
    """``passes`` as long as what is kept of them fits."""
    seen = 0
    with closing(passes):  # now, rather than when the last one who keeps the error forgets it
        for batch in passes:
            seen += batch.images()
            if seen * image_bytes > room:
                raise MemoryExhaustedError(
                    f"the activations of the first {seen:,} images fill the {room / 2**30:.1f} GiB that may be filled, and the data did "
                    "not say how many there are; pass cache='disk'"
                )
            yield batch


def held(passes: Iterable[LearningBatch], *, at_any_price: bool) -> list[LearningBatch] | None:
    """All of ``passes`` in the machine's memory; ``None``, and a warning, where they would fill too much of it."""
    found, room = list[LearningBatch](), memory_to_fill()
    for batch in passes:
        found.append(batch.to(torch.device("cpu")))
        room -= batch.nbytes()
        if room < 0 and not at_any_price:
            told = "f's answers to the validation data do not fit the memory; the classifier runs over it after every epoch"
            warnings.warn(told, FlintWarning, stacklevel=2)
            return None
    return found


def _memory(reading: PendingPass, room: float = math.inf) -> Kept:
    return nullcontext(None if _warned_of_augmentation(reading) else reading.cached(room=room))


@contextmanager
def _disk(reading: PendingPass) -> Iterator[ActivationCache | None]:
    """A cache in a folder that is removed afterwards, whatever happens."""
    if _warned_of_augmentation(reading):
        yield None
        return
    with temporary_folder() as folder:
        yield reading.cached(folder)


def _automatic(reading: PendingPass) -> Kept:
    """Where there is room for all in every process."""
    images = reading.images or 0
    wanted, room = images * bytes_per_image(reading.reader, "float32"), memory_to_fill()
    room = room if reading.images else room / 2  # what comes in unknown number is put together at the end, and is there twice then
    if all(gather(wanted <= room or is_one_shot(reading.data))):
        return _memory(reading, room)
    on_disk, free = images * bytes_per_image(reading.reader, "auto"), disk_to_fill()
    if all(gather(on_disk <= free)):
        return _disk(reading)
    warnings.warn(
        f"the activations of {images:,} images need {wanted / 2**30:.1f} GiB, more than the {room / 2**30:.1f} GiB that may be filled, "
        f"and on disk {on_disk / 2**30:.1f} GiB, more than the {free / 2**30:.1f} GiB that are free in {temporary_place()}; "
        "the classifier runs in every epoch instead",
        FlintWarning,
        stacklevel=2,
    )
    return nullcontext()


def _off(reading: PendingPass) -> Kept:
    if is_one_shot(reading.data):
        raise ConfigurationError(
            "cache='off' reads the data in every epoch, but this iterator can be read only once; use cache='memory' or a DataLoader"
        )
    return nullcontext()


CACHES: dict[str, Callable[[PendingPass], Kept]] = {"auto": _automatic, "memory": _memory, "disk": _disk, "off": _off}


def kept(cache: str | ActivationCache, reading: PendingPass) -> Kept:
    """A context in which the activations of ``reading`` are to be had as ``cache`` says."""
    if not isinstance(cache, ActivationCache):
        return CACHES[cache](reading)
    cache.check(reading.reader)
    if _as_many(cache, reading.data) and isinstance(reading.first_pass, FirstPass):
        _compare_pixels(cache, reading, reading.first_pass.images[:COMPARED])
    return nullcontext(cache)


def _compare_pixels(cache: ActivationCache, reading: PendingPass, images: Images) -> None:
    """Refused are other images, or the same ones prepared otherwise, as far as the first ones tell; what augments is other each time."""
    strangers, asked = cache.strangers(area_resize(images, reading.reader.resolution))
    if strangers and not any(gather(augments(reading.data))):
        raise ConfigurationError(
            f"the activation cache holds other images than the data, or the same ones prepared in another way: {strangers} of the first "
            f"{asked} are not in it. Make one of this data: explain.cache(data)"
        )


def _as_many(cache: ActivationCache, data: Data) -> bool:
    """Whether the cache holds as many images as the data, as far as that is known. A fit learns from all that it holds, whatever data it
    is given: refused where these are more, for fear of test data.
    """
    images = None if is_stream(data) else num_images(data)
    if images is None:
        return False
    if images <= len(cache) <= num_images(data, dropped=True):  # type: ignore[operator]
        return True
    told = f"the activation cache holds {len(cache):,} images, the data {images:,}"
    if images < len(cache):
        raise ConfigurationError(f"{told}: a fit learns from all that the cache holds; take a part of it (cache.part) or one of this data")
    warnings.warn(f"{told}; what is learnt from are those of the cache", FlintWarning, stacklevel=2)
    return False


def _warned_of_augmentation(reading: PendingPass) -> bool:
    so = "a cache would freeze; the classifier runs in every epoch instead. Pass data without augmentation, or cache='off' to say so"
    return warned_of_augmentation(reading.data, so)


def warned_of_augmentation(data: Data, so: str) -> bool:
    """Whether ``data`` augments in any process, of which a warning then says that it does, "which", and what follows from it: ``so``."""
    found = any(gather(augments(data)))
    if found:
        warnings.warn(f"the data gives other pixels when read twice (augmentation), which {so}", FlintWarning, stacklevel=2)
    return found
