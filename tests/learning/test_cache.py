"""f sees each image once; what it saw is the same as without a cache; augmentation is noticed; reuse over fits is checked."""

import errno
import math
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import oracles
import pytest
import small
import torch
from models import left_alone
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from flint_posthoc import FlintExplainer, Normalization
from flint_posthoc.errors import (
    ClassifierMismatchError,
    ConfigurationError,
    DiskSpaceError,
    EmptyDataError,
    FlintWarning,
    MemoryExhaustedError,
)
from flint_posthoc.learning import cache_policy
from flint_posthoc.learning.batches import DataSummary, LearningBatch
from flint_posthoc.learning.caching import shards
from flint_posthoc.learning.caching.cache import ActivationCache, CachedBatches
from flint_posthoc.learning.caching.layout import columns_of
from flint_posthoc.learning.caching.order import windows
from flint_posthoc.learning.caching.rows import RowsInMemory
from flint_posthoc.learning.checkpoint import FitCheckpoint
from flint_posthoc.learning.trainer import Trainer
from flint_posthoc.storage import write_tensors

PLAIN = Normalization((0.0, 0.0), (1.0, 1.0))


class Counted(Dataset[tuple[Tensor, int]]):
    """A data set that counts how often each item is read, with random augmentation on request."""

    def __init__(self, count: int = 40, noise: float = 0.0) -> None:
        self.pixels, self.noise, self.reads = small.images(count), noise, [0] * count

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.reads[index] += 1
        return self.pixels[index] + self.noise * torch.randn(self.pixels[index].shape), index % small.CLASSES


def batched(data: Dataset[Any], **settings: Any) -> DataLoader[Any]:
    return DataLoader(data, **({"batch_size": 8, "shuffle": True} | settings))


@pytest.mark.parametrize("cache", ["auto", "memory", "disk"])
@pytest.mark.parametrize("wrap", [lambda data: data, batched], ids=["data set", "loader"])
def test_caching_reads_the_data_once_beside_eight_items_that_are_probed(cache: str, wrap: Any) -> None:
    data = Counted()
    small.explainer().fit(wrap(data), cache=cache, epochs=3, progress=False)
    assert sorted(data.reads) == [1] * 32 + [3] * 8  # eight items are read twice more to see whether they change


def test_a_data_set_of_fewer_than_eight_items_is_no_obstacle() -> None:
    data = Counted(6)
    small.explainer().fit(data, batch_size=6, progress=False)
    assert data.reads == [3] * 6


def test_without_a_cache_f_reads_the_data_in_every_epoch() -> None:
    data = Counted()
    small.explainer().fit(batched(data), cache="off", epochs=3, progress=False)
    assert min(data.reads) >= 3


def test_f_runs_once_an_image_where_its_activations_are_cached() -> None:
    explain = small.explainer()
    explain.fit(small.images(), progress=False)
    small.Tiny.seen = 0
    explain.fit(small.images(40), epochs=5, progress=False)
    assert small.Tiny.seen <= 40 + 4  # a dry run over two images before, for the estimate of the pixel range


def test_data_that_can_be_read_only_once_is_enough() -> None:
    explain = small.explainer()
    explain.fit(small.generated(small.images()), progress=False)
    assert small.weights(explain) == small.weights(small.fitted(data=list(small.generated(small.images()))))


def test_data_that_can_be_read_only_once_cannot_do_without_a_cache() -> None:
    with pytest.raises(ConfigurationError, match="can be read only once; use cache='memory' or a DataLoader"):
        small.explainer().fit(small.generated(small.images()), cache="off", progress=False)


@pytest.mark.parametrize("cache", ["auto", "memory", "disk"])
def test_augmentation_is_noticed_and_never_cached(cache: str) -> None:
    data = Counted(noise=0.1)
    with pytest.warns(FlintWarning, match="other pixels when read twice"):
        small.explainer().fit(batched(data), cache=cache, epochs=3, progress=False)
    assert min(data.reads) >= 3


@pytest.mark.parametrize("freezes", ["cache", "selection", "compare_layers"])
def test_a_cache_that_is_asked_for_keeps_one_reading_of_augmented_data_and_says_so(freezes: str) -> None:
    explain, data = small.explainer(), batched(Counted(noise=0.1))
    with pytest.warns(FlintWarning, match=r"other pixels when read twice \(augmentation\), which this cache freezes as they come"):
        {
            "cache": lambda: explain.cache(data, progress=False),
            "selection": lambda: explain.selection(data, [2], folds=2, progress=False),
            "compare_layers": lambda: explain.compare_layers(data, [["conv2"]], folds=2, progress=False),
        }[freezes]()


def test_too_little_room_anywhere_is_said_and_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_policy, "free_memory", lambda: 1000)
    monkeypatch.setattr(cache_policy, "free_bytes", lambda folder: 1000)
    data = Counted()
    with pytest.warns(FlintWarning, match=r"the activations of 40 images need .* and on disk .* are free in"):
        small.explainer().fit(batched(data), epochs=3, progress=False)
    assert min(data.reads) >= 3


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary caches go."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)  # what it found before
    return tmp_path


def test_too_little_memory_is_met_by_the_disk(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    monkeypatch.setattr(cache_policy, "free_memory", lambda: 1000)
    monkeypatch.setattr(cache_policy, "in_memory", lambda folder: False)
    data = Counted()
    history = small.explainer().fit(batched(data), epochs=3, progress=False)
    assert sorted(data.reads) == [1] * 32 + [3] * 8
    assert history.notes == ("activations were kept on disk, in float16",)
    assert not list(temporary.iterdir())


def test_validation_that_does_not_fit_the_memory_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    counted, settings = Counted(), {"epochs": 3, "cache": "memory", "progress": False}
    held = small.explainer().fit(small.images(), validation=counted.pixels, **settings)
    monkeypatch.setattr(cache_policy, "free_memory", lambda: 1000)
    with pytest.warns(FlintWarning, match="the classifier runs over it after every epoch"):
        again = small.explainer().fit(small.images(), validation=batched(counted), **settings)
    assert min(counted.reads) >= 3
    assert [record.validation_fidelity for record in again] == [record.validation_fidelity for record in held]


class Endless(IterableDataset):
    """Never says how many images it has."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        while True:
            yield small.images(1)[0]


@pytest.mark.parametrize("once", [False, True])
def test_a_stream_of_unknown_length_fills_its_share_of_the_free_memory_at_most(monkeypatch: pytest.MonkeyPatch, once: bool) -> None:
    monkeypatch.setattr(cache_policy, "free_memory", lambda: 2**20)
    loader = DataLoader(Endless(), batch_size=10)
    with pytest.raises(MemoryExhaustedError, match=r"of the first [\d,]+ images fill the 0.0 GiB .* did not say how many"):
        small.explainer().fit(iter(loader) if once else loader, progress=False)


def test_a_disk_that_is_memory_does_not_help(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    monkeypatch.setattr(cache_policy, "free_memory", lambda: 1000)
    monkeypatch.setattr(cache_policy, "in_memory", lambda folder: True)
    with pytest.warns(FlintWarning, match="the classifier runs in every epoch instead"):
        small.explainer().fit(batched(Counted()), epochs=1, progress=False)


@pytest.mark.parametrize("error", [RuntimeError("half-way"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("learning", [False, True], ids=["while caching", "while learning"])
def test_a_temporary_folder_goes_whatever_happens(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, learning: bool
) -> None:
    explain = small.explainer(normalization=PLAIN)
    seen = []

    def broken(*_: Any, **__: Any) -> Any:
        seen.extend(path.name for path in temporary.glob("*/*"))
        raise error

    def data() -> Iterator[Tensor]:
        yield from small.images(24).split(8)
        if not learning:
            broken()

    if learning:
        monkeypatch.setattr(Trainer, "fit", broken)
    with left_alone(explain.model), pytest.raises(type(error)):
        explain.fit(data(), cache="disk", progress=False)
    assert ("manifest.json" if learning else "cache.lock") in seen
    assert not list(temporary.iterdir())


def test_a_full_disk_leaves_the_classifier_as_it_was(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    explain = small.explainer(normalization=PLAIN)
    monkeypatch.setattr(shards, "SHARD_BYTES", 2000)
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with left_alone(explain.model), pytest.raises(DiskSpaceError, match="is full"):
        explain.fit(small.loader(small.images()), cache="disk", progress=False)
    assert not list(temporary.iterdir())


def test_from_disk_in_float32_a_fit_is_the_one_from_memory_in_the_same_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pixels = small.tiny(), small.images(200)
    kept, in_memory = small.explainer(model).cache(pixels, folder=tmp_path, precision="float32", progress=False), small.explainer(model)
    opened = ActivationCache.open(tmp_path)
    assert (len(opened), opened.nbytes) == (len(kept), kept.nbytes)
    assert same(everything(opened), everything(in_memory.cache(pixels, progress=False)))
    from_disk = small.explainer(model)
    from_disk.fit(pixels, cache=opened, progress=False)
    monkeypatch.setattr(RowsInMemory, "order", property(lambda rows: partial(windows, rows.layout.row_bytes)))
    in_memory.fit(pixels, cache="memory", progress=False)
    assert small.weights(from_disk) == small.weights(in_memory)
    torch.testing.assert_close(from_disk.fitted.class_means, in_memory.fitted.class_means)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_is_close_and_half_the_size(precision: str) -> None:
    explain, pixels = small.explainer(), small.images()
    exact, half = explain.cache(pixels, progress=False), explain.cache(pixels, precision=precision, progress=False)
    kept_exactly = len(exact) * (4 * small.CLASSES + 8)
    assert half.nbytes - kept_exactly == (exact.nbytes - kept_exactly) / 2
    near, true = everything(half), everything(exact)
    assert torch.equal(near.logits, true.logits)
    assert torch.equal(near.classes, true.classes)
    assert all(tap.dtype == torch.float32 for tap in near.activations)
    for one, other in zip((*near.activations, near.target), (*true.activations, true.target), strict=True):
        torch.testing.assert_close(one, other, rtol=2**-8, atol=1e-6)
    assert half.part(torch.arange(5)).precision == precision
    assert half.note == f"activations were kept in memory, in {precision}"


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"precision of a cache must be one of \['auto', 'float32', .*got 'float8'"):
        small.explainer().cache(small.images(), precision="float8", progress=False)


def test_a_fit_from_disk_that_broke_off_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    model, pixels, state = small.tiny(), small.images(), tmp_path / "state"
    cache = small.explainer(model).cache(pixels, folder=tmp_path / "cache", progress=False)

    def fit(cache: ActivationCache | str, **settings: Any) -> FlintExplainer:
        explain = small.explainer(model)
        explain.fit(pixels, cache=cache, epochs=4, progress=False, **settings)
        return explain

    save, saved = FitCheckpoint.save, []

    def save_twice(*arguments: Any) -> None:
        save(*arguments)
        saved.append(1)
        if len(saved) == 2:
            raise KeyboardInterrupt

    with patch.object(FitCheckpoint, "save", save_twice), pytest.raises(KeyboardInterrupt):
        fit(cache, checkpoint_dir=state)
    with pytest.raises(ClassifierMismatchError, match=r"cache \(saved 'activations were kept on disk, in float16', now None\)"):
        fit("memory", checkpoint_dir=state, resume=True)
    resumed, unbroken = fit(ActivationCache.open(tmp_path / "cache"), checkpoint_dir=state, resume=True), fit(cache)
    assert resumed.history == unbroken.history
    assert small.weights(resumed) == small.weights(unbroken)


def test_with_and_without_a_cache_a_fit_is_the_same() -> None:
    pixels = small.images(24)  # one mini-batch, so that its order does not matter

    def fit(cache: str) -> Any:
        explain = small.explainer()
        explain.fit(small.loader(pixels, batch_size=24), batch_size=24, max_steps=10, cache=cache, progress=False)
        return explain

    live, cached = fit("off"), fit("memory")
    for one, other in zip(live.history, cached.history, strict=True):
        assert one.steps == other.steps
        for name in ("loss", "output_fidelity", "kl_divergence", "input_fidelity", "entropy", "mean_entropy", "l1"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-5)
    torch.testing.assert_close(live.fitted.class_means, cached.fitted.class_means)


def test_a_cache_serves_several_fits_and_gives_what_the_data_gives() -> None:
    pixels = small.images()
    cache = small.explainer().cache(pixels, progress=False)
    assert len(cache) == len(pixels)
    assert cache.nbytes == len(pixels) * (4 * (4 * 4 * 4 + 6 * 3 * 3 + small.CLASSES + 2 * 10 * 10) + 8)
    model = small.tiny()
    for num_attributes in (2, 3):
        from_data = small.fitted(model, pixels, num_attributes=num_attributes)
        from_cache = small.explainer(model, num_attributes=num_attributes)
        small.Tiny.seen = 0
        from_cache.fit(pixels, cache=cache, progress=False)
        assert small.Tiny.seen <= 4
        assert small.weights(from_cache) == small.weights(from_data)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"model": small.tiny(1)}, ClassifierMismatchError, "made with another classifier"),
        ({"layers": ["conv2"]}, ConfigurationError, "the activation cache holds"),
        ({"classes": [0, 2]}, ConfigurationError, "the activation cache holds"),
        ({"config": None}, ConfigurationError, "the activation cache holds"),
    ],
)
def test_a_cache_of_something_else_is_refused(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    cache = small.explainer().cache(small.images(), progress=False)
    with pytest.raises(error, match=message):
        small.explainer(**({"model": small.tiny()} | changed)).fit(small.images(), cache=cache, progress=False)


def test_a_cache_of_other_classes_of_the_same_number_is_refused() -> None:
    model = small.tiny()
    cache = small.explainer(model, classes=[0, 1]).cache(small.images(), progress=False)
    with pytest.raises(ConfigurationError, match="the activation cache holds"):
        small.explainer(model, classes=[2, 3]).fit(small.images(), cache=cache, progress=False)


def test_a_cache_of_more_images_than_the_data_is_refused_and_of_fewer_said() -> None:
    """The rest may be what the fit is judged on."""
    explain, pixels = small.explainer(), small.images()
    cache = explain.cache(pixels, progress=False)
    with pytest.raises(ConfigurationError, match="the activation cache holds 48 images, the data 40: a fit learns from all"):
        explain.fit(pixels[:40], cache=cache, progress=False)
    explain.fit(pixels[:40], cache=cache.part(torch.arange(40)), progress=False)
    with pytest.warns(FlintWarning, match="the activation cache holds 40 images, the data 48; what is learnt from"):
        explain.fit(pixels, cache=cache.part(torch.arange(40)), progress=False)


def test_a_misspelt_cache_is_told_what_there_is() -> None:
    with pytest.raises(ConfigurationError, match=r"cache must be one of \['auto', 'disk', 'memory', 'off'\]"):
        small.explainer().fit(small.images(), cache="memry", progress=False)


def cached(count: int, batch_size: int, seed: int) -> tuple[ActivationCache, CachedBatches]:
    cache = small.explainer().cache(small.images(count), progress=False)
    return cache, CachedBatches(cache, batch_size, seed, torch.device("cpu"))


def everything(cache: ActivationCache) -> LearningBatch:
    return cache.select(torch.arange(len(cache)))


def same(one: LearningBatch, other: LearningBatch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(columns_of(one), columns_of(other), strict=True))


def order(batches: CachedBatches, epoch: int) -> list[float]:
    return [float(value) for batch in batches.epoch(epoch) for value in batch.logits[:, 0]]


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    cache, batches = cached(32, 8, 0)
    first = order(batches, 0)
    torch.manual_seed(123)
    assert order(batches, 0) == first
    assert order(CachedBatches(cache, 8, 0, torch.device("cpu")), 0) == first
    assert order(batches, 1) != first
    assert order(CachedBatches(cache, 8, 1, torch.device("cpu")), 0) != first
    assert sorted(first) == sorted(everything(cache).logits[:, 0].tolist())


@pytest.mark.parametrize(("count", "batch_size", "sizes"), [(32, 8, [8] * 4), (31, 8, [8] * 3), (5, 8, [5])])
def test_all_mini_batches_are_whole(count: int, batch_size: int, sizes: list[int]) -> None:
    _, batches = cached(count, batch_size, 0)
    assert [len(batch.logits) for batch in batches.epoch(0)] == sizes
    assert batches.batches_per_epoch == len(sizes)


def test_a_row_of_the_cache_holds_what_belongs_to_one_image() -> None:
    cache, batches = cached(20, 5, 0)
    stored = everything(cache)
    rows = {float(stored.logits[index, 0]): index for index in range(20)}
    for batch in batches.epoch(3):
        index = [rows[float(value)] for value in batch.logits[:, 0]]
        assert torch.equal(batch.target, stored.target[index])
        assert all(torch.equal(tap, whole[index]) for tap, whole in zip(batch.activations, stored.activations, strict=True))


@pytest.mark.parametrize("labelled", [True, False])
def test_class_means_are_the_loops(labelled: bool) -> None:
    model, pixels = small.tiny(), small.images(40)
    classes = small.labels(model, pixels) if labelled else model(pixels).argmax(dim=1)
    classes[classes == 2] = 1  # a class that is never seen
    data = [(pixels[:17], classes[:17]), (pixels[17:], classes[17:])] if labelled else [pixels]
    means = small.explainer(model).cache(data, progress=False).summary().class_means
    if labelled:
        for c in range(small.CLASSES):
            members = [image for image, k in zip(oracles.rows(pixels), classes.tolist(), strict=True) if k == c or c == 2]
            flat = [oracles.flattened(image) for image in members]
            expected = [math.fsum(column) / len(flat) for column in zip(*flat, strict=True)]
            assert means[c].flatten().tolist() == pytest.approx(expected, abs=1e-5)
    else:
        predicted = model(pixels).argmax(dim=1)
        torch.testing.assert_close(means[0], pixels[predicted == 0].mean(dim=0))


def test_a_post_hoc_fit_takes_soft_labels_and_does_without_those_that_are_none() -> None:
    model, pixels = small.tiny(), small.images(40)
    classes = small.labels(model, pixels)
    hard, soft, none = (small.explainer(model) for _ in range(3))
    hard.fit([(pixels, classes)], validation=[(pixels, classes)], max_steps=1, progress=False)
    mixed = 0.8 * torch.eye(small.CLASSES)[classes] + 0.2 / small.CLASSES
    soft.fit([(pixels, mixed)], validation=[(pixels, mixed)], max_steps=1, progress=False)
    assert torch.equal(soft.fitted.class_means, hard.fitted.class_means)
    with pytest.warns(FlintWarning, match="labels are .* no shares of 4 classes; they are not looked at"):
        none.fit([(pixels, torch.ones(40, 9))], max_steps=1, progress=False)
    assert torch.equal(none.fitted.class_means, small.fitted(model, pixels).fitted.class_means)


OTHERS = {
    "other images": lambda pixels: small.images(seed=9),
    "prepared otherwise": lambda pixels: pixels * 0.2 - 1,
    "in a list": lambda pixels: list((pixels + 0.1).split(16)),
    "through a loader": lambda pixels: DataLoader(pixels.flip(3), batch_size=16, shuffle=True),
}


@pytest.mark.parametrize("others", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("precision", ["memory", "float32", "float16", "bfloat16"])
def test_a_cache_of_other_data_is_refused(others: Any, precision: str, tmp_path: Path) -> None:
    explain, pixels = small.explainer(), small.images()
    on_disk = {} if precision == "memory" else {"folder": tmp_path / "cache", "precision": precision}
    cache = explain.cache(pixels, progress=False, **on_disk)
    if on_disk:
        cache = ActivationCache.open(tmp_path / "cache")
    with pytest.raises(ConfigurationError, match="8 of the first 8 are not in it"):
        explain.fit(others(pixels), cache=cache, progress=False)
    for own in (pixels, list(pixels.split(7)), DataLoader(pixels, batch_size=16, shuffle=True)):
        explain.fit(own, cache=cache, max_steps=1, progress=False)


def test_a_cache_written_by_an_earlier_version_knows_no_marks_and_is_read(tmp_path: Path) -> None:
    explain, pixels = small.explainer(), small.images()
    with patch("flint_posthoc.learning.caching.disk.write_tensors", lambda path, tensors: write_tensors(path, _without_marks(tensors))):
        explain.cache(pixels, folder=tmp_path, progress=False)
    cache = ActivationCache.open(tmp_path)
    assert cache.rows.marks is None
    explain.fit(pixels, cache=cache, max_steps=1, progress=False)


def _without_marks(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if name != "marks"}


def test_a_summary_of_nothing_is_refused() -> None:
    with pytest.raises(EmptyDataError, match="nothing to learn from"):
        DataSummary.of([], 3)


def test_a_loader_that_drops_an_incomplete_batch_may_learn_from_a_cache_of_all() -> None:
    explain, pixels = small.explainer(), small.images()
    cache = explain.cache(pixels, progress=False)
    explain.fit(DataLoader(pixels, batch_size=10, drop_last=True), cache=cache, progress=False)
    with pytest.raises(ConfigurationError, match="the activation cache holds 48 images, the data 30"):
        explain.fit(DataLoader(pixels[:39], batch_size=10, drop_last=True), cache=cache, progress=False)
