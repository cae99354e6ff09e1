"""Where the mini-batches of a fit come from, and those that it is judged on."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator

import torch

from ..data import Data, is_one_shot, shuffles
from ..errors import EmptyDataError, FlintWarning
from ..processes import gather, gather_rows, in_step, size
from ..splitting import num_batches, own_part
from .batches import BatchReader, DataSummary, LearningBatch, LiveBatches
from .cache_policy import PendingPass, held, kept
from .caching.cache import CachedBatches
from .joint import FreshPasses
from .presets import FlintConfig
from .request import FitRequest
from .trainer import BatchSource

INITIAL_IMAGES = 1024  # that the data-dependent initialisation looks at, at most


@contextlib.contextmanager
def source_of(
    reader: BatchReader, request: FitRequest, config: FlintConfig, num_attributes: int
) -> Iterator[tuple[CachedBatches | LiveBatches, DataSummary]]:
    """Mini-batches for as long as this lasts, and what one pass told of the data."""
    batch_size, reading = config.settings.batch_for(num_attributes), reading_of(reader, request)
    with kept(request.cache, reading) as cache:
        if cache is None:
            warn_unshuffled(request.data)
            summary = reading.summary()
            per_epoch = live_steps(request.data, summary)
            summary = summary.over_all()
            warn_small_batches(summary.images // per_epoch, num_attributes)
            yield LiveBatches(reader, request.data, per_epoch), summary
            return
        warn_small_batches(min(batch_size, len(cache)), num_attributes)
        narrow, bfloat16 = reader.max_channels is not None, reader.bfloat16
        seed, device = config.settings.seed, reader.device
        yield CachedBatches(cache, batch_size, seed, device, in_components=narrow, bfloat16=bfloat16), cache.summary()


def live_steps(data: Data, summary: DataSummary) -> int:
    """Mini-batches of one pass, each shared by all processes."""
    return summary.batches if size() == 1 else num_batches(data) or max(gather(summary.batches))


def reading_of(reader: BatchReader, request: FitRequest) -> PendingPass:
    """One pass over the data of a fit."""
    return PendingPass(reader, request.data, request.first_pass, request.progress)


def warn_small_batches(batch_size: int, num_attributes: int) -> None:
    """Where the diversity entropy would see too few images."""
    if batch_size < 2 * num_attributes:
        consequence = "at batch size 1 the entropies cancel" if batch_size == 1 else "the diversity entropy sees too few images a batch"
        warnings.warn(
            f"mini-batches of {batch_size} for {num_attributes} attributes: {consequence}; use at least {2 * num_attributes}",
            FlintWarning,
            stacklevel=2,
        )


def warn_unshuffled(data: Data) -> None:
    """Where mini-batches would be the same in every epoch."""
    if shuffles(data) is False:
        warnings.warn(
            "the data is read in the same order in every epoch; shuffle it, or the diversity entropy sees one class at a time",
            FlintWarning,
            stacklevel=2,
        )


def validation_of(
    reader: BatchReader, request: FitRequest, reads: Callable[[LearningBatch], LearningBatch]
) -> Iterable[LearningBatch] | None:
    """What f says of this process's part of the validation data, as the learner ``reads`` it; kept where the memory has the room."""
    if request.validation is None:
        return None
    fresh = fresh_passes(reader, request.validation)

    def passes() -> Iterator[LearningBatch]:
        return (reads(batch)._replace(target=batch.target[:0]) for batch in fresh)  # judging redraws nothing

    found = held(passes(), at_any_price=is_one_shot(request.validation))
    if not any(gather(found is None or len(found))):
        raise EmptyDataError("the validation data holds no images")
    return FreshPasses(passes) if found is None else found


def fresh_passes(reader: BatchReader, data: Data) -> FreshPasses:
    """What f says of this process's part of ``data``, anew each time."""
    part = own_part(data)
    return FreshPasses(lambda: iter(()) if part.empty else reader.passes(part.data))


def initial_activations(source: BatchSource) -> tuple[torch.Tensor, ...]:
    """The first mini-batches of the order before the first epoch, enough of them to standardise by."""
    parts: list[tuple[torch.Tensor, ...]] = []
    for batch, _ in in_step(source.epoch(-1), LearningBatch.images, LearningBatch.none):
        parts.append(tuple(gather_rows(maps.float()) for maps in batch.activations))
        if sum(len(part[0]) for part in parts) >= INITIAL_IMAGES:
            break
    return tuple(torch.cat(tap) for tap in zip(*parts, strict=True))
