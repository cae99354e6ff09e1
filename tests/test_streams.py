"""Data that can only be gone through: single samples or batches, of known or unknown length, true or not; and loaders that break."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import small
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from flint_posthoc.data import batches, num_images
from flint_posthoc.errors import DataError, FlintWarning, ImageShapeError
from flint_posthoc.loading import BATCH_SIZE


class Samples(IterableDataset[Any]):
    """Single samples as Hugging Face data sets stream them, dicts; ``said``: the length that it tells."""

    def __init__(self, count: int, said: int | None = None) -> None:
        self.count = count
        if said is not None:
            self.__class__ = type("Sized", (Samples,), {"__len__": lambda stream: said})

    def __iter__(self) -> Iterator[Any]:
        for index, image in enumerate(small.images(self.count)):
            yield {"pixel_values": image, "label": index % small.CLASSES}


class Pairs(Samples):
    """(image, class) as webdataset gives them."""

    def __iter__(self) -> Iterator[Any]:
        return ((sample["pixel_values"], sample["label"]) for sample in super().__iter__())


class Batches(Samples):
    """Batches, as a stream that batches by itself gives them."""

    def __iter__(self) -> Iterator[Any]:
        yield from small.images(self.count).split(10)


@pytest.mark.parametrize(("stream", "sizes"), [(Samples, [64, 64, 2]), (Pairs, [64, 64, 2]), (Batches, [10] * 13)])
def test_single_samples_are_put_together_and_batches_stay(stream: Any, sizes: list[int]) -> None:
    assert BATCH_SIZE == 64
    found = list(batches(stream(130), device="cpu"))
    assert [len(batch.images) for batch in found] == sizes
    torch.testing.assert_close(torch.cat([batch.images for batch in found]), small.images(130))
    if stream is not Batches:
        assert torch.cat([batch.labels for batch in found if batch.labels is not None]).tolist() == [i % small.CLASSES for i in range(130)]


@pytest.mark.parametrize("stream", [Samples(40), Samples(40, said=40), DataLoader(Samples(40), batch_size=8), Batches(40)])
def test_a_stream_is_learnt_from_and_judged_as_the_same_images_are(stream: Any) -> None:
    explain = small.explainer()
    explain.fit(stream, progress=False)
    evaluation = explain.evaluate(stream)
    assert evaluation.samples == 40
    assert evaluation.fidelity == explain.evaluate(small.images(40)).fidelity


@pytest.mark.parametrize(("said", "drop_last", "number"), [(None, False, None), (43, False, 43), (43, True, 40)])
def test_the_length_of_a_stream_is_what_it_says(said: int | None, drop_last: bool, number: int | None) -> None:
    assert num_images(DataLoader(Samples(43, said), batch_size=8, drop_last=drop_last)) == number


@pytest.mark.parametrize("cache", ["memory", "disk", "off"])
def test_a_stream_that_ends_early_is_used_as_far_as_it_goes_and_says_so(cache: str) -> None:
    explain = small.explainer()
    with pytest.warns(FlintWarning, match="was said to hold 100 images and ended after 24; these are what is used"):
        history = explain.fit(DataLoader(Samples(24, said=100), batch_size=8), cache=cache, epochs=2, progress=False)
    assert history[-1].steps == 6


class Sizes(Dataset[Tensor]):
    """Images of two sizes; a worker that reads the last one may be killed instead."""

    def __init__(self, killed: bool = False) -> None:
        self.killed = killed

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        if self.killed and index == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(2, small.SIDE, small.SIDE + (index == 7 and not self.killed))


@pytest.mark.parametrize("data", [Sizes(), DataLoader(Sizes(), batch_size=4), DataLoader(Sizes(), batch_size=4, num_workers=1)])
def test_images_of_varying_size_are_refused(data: Any) -> None:
    with pytest.raises(ImageShapeError, match=r"varying size|different sizes"):
        small.explainer().fit(data, progress=False)


def test_a_worker_that_is_killed_ends_the_pass_with_a_word() -> None:
    explain = small.explainer()
    with pytest.raises(DataError, match="a worker of the loader died in the middle of a pass"):
        explain.fit(DataLoader(Sizes(killed=True), batch_size=4, num_workers=1), cache="memory", progress=False)
