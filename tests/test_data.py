"""Every form of data gives the same batches, and what is wrong with data is said before it is used."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler, Subset, TensorDataset

from flint_posthoc.data import Batch, FirstPass, augments, batches, is_one_shot, num_images, shuffles
from flint_posthoc.errors import (
    BatchFormatError,
    EmptyDataError,
    FlintWarning,
    ImageShapeError,
    LabelRangeError,
    MissingLabelsError,
    NonFinitePixelsError,
)
from flint_posthoc.randomness import preserved_random_state

IMAGES = torch.arange(10 * 2 * 3 * 4, dtype=torch.float32).view(10, 2, 3, 4) / 240
LABELS = torch.arange(10) % 4


class Pictures(Dataset[Any]):
    """Single images, changed by ``change`` on every reading, with their labels."""

    def __init__(self, change: Callable[[Tensor], Tensor] = lambda image: image, count: int = 10) -> None:
        self.change, self.count, self.read = change, count, list[int]()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.read.append(index)
        return self.change(IMAGES[index % 10]), int(LABELS[index % 10])


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(zip(IMAGES, LABELS, strict=True))


class Rows:
    """A map-style data set that is no torch Dataset, as those of Hugging Face."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": IMAGES[index], "label": int(LABELS[index])}


def collected(data: Any, **settings: Any) -> Batch:
    """All batches as one."""
    parts = list(batches(data, device="cpu", **settings))
    labels = [part.labels for part in parts if part.labels is not None]
    return Batch(torch.cat([part.images for part in parts]), torch.cat(labels) if labels else None)


def pairs(size: int = 4) -> list[tuple[Tensor, Tensor]]:
    return list(zip(IMAGES.split(size), LABELS.split(size), strict=True))


LABELLED: dict[str, Callable[[], Any]] = {
    "pair": lambda: (IMAGES, LABELS),
    "dict": lambda: {"pixel_values": IMAGES, "labels": LABELS},
    "list of pairs": pairs,
    "list of lists": lambda: [list(pair) for pair in pairs()],
    "generator": lambda: iter(pairs()),
    "loader": lambda: DataLoader(TensorDataset(IMAGES, LABELS), batch_size=4),
    "stream loader": lambda: DataLoader(Stream(), batch_size=4),
    "data set": Pictures,
    "rows": Rows,
    "loader of rows": lambda: DataLoader(Rows(), batch_size=3),  # type: ignore[arg-type]
    "dicts": lambda: [{"pixel_values": images, "labels": labels} for images, labels in pairs()],
    "other dicts": lambda: [{"img": images, "label": labels, "id": [0]} for images, labels in pairs()],
    "numpy labels": lambda: [(images, labels.int().numpy()) for images, labels in pairs()],
    "lists of labels": lambda: [(images, labels.tolist()) for images, labels in pairs()],
}
UNLABELLED: dict[str, Callable[[], Any]] = {
    "tensor": lambda: IMAGES,
    "list of tensors": lambda: list(IMAGES.split(4)),
    "singletons": lambda: DataLoader(TensorDataset(IMAGES), batch_size=4),
    "data set": lambda: TensorDataset(IMAGES),
    "no labels": lambda: [(IMAGES, None)],
    "dicts": lambda: [{"images": IMAGES}],
}


@pytest.mark.parametrize("form", LABELLED)
def test_labelled_data_of_every_form_gives_the_same_batches(form: str) -> None:
    whole = collected(LABELLED[form](), image_shape=(2, 3, 4), num_classes=4, labels="required")
    assert torch.equal(whole.images, IMAGES)
    assert whole.labels is not None
    assert whole.labels.dtype == torch.int64
    assert torch.equal(whole.labels, LABELS)
    assert collected(LABELLED[form](), labels="ignored").labels is None


@pytest.mark.parametrize("form", UNLABELLED)
def test_unlabelled_data_of_every_form_gives_the_same_batches(form: str) -> None:
    whole = collected(UNLABELLED[form]())
    assert torch.equal(whole.images, IMAGES)
    assert whole.labels is None
    with pytest.raises(MissingLabelsError, match=r"batch 0 has no labels.*expected \(images, labels\)"):
        collected(UNLABELLED[form](), labels="required")


def test_a_data_set_is_read_in_order_64_at_a_time() -> None:
    pictures = Pictures(count=70)
    assert [len(batch.images) for batch in batches(pictures, device="cpu")] == [64, 6]
    assert pictures.read == list(range(70))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_become_float32(dtype: torch.dtype) -> None:
    whole = collected([IMAGES.to(dtype)])
    assert whole.images.dtype == torch.float32
    torch.testing.assert_close(whole.images, IMAGES.to(dtype).float())


def test_batches_go_to_the_device_asked_for() -> None:
    batch = next(batches(pairs(), device="meta"))
    assert batch.images.device.type == "meta"
    assert batch.labels is not None
    assert batch.labels.device.type == "meta"


def test_batches_without_an_image_are_passed_over() -> None:
    assert torch.equal(collected([IMAGES[:0], IMAGES, IMAGES[:0]]).images, IMAGES)


@pytest.mark.parametrize("data", [[], iter([]), IMAGES[:0], [IMAGES[:0]], TensorDataset(IMAGES[:0])])
def test_data_without_an_image_is_refused(data: Any) -> None:
    with pytest.raises(EmptyDataError, match="holds no images"):
        list(batches(data, device="cpu", image_shape=(2, 3, 4)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (5, "data of type int gives no batches; expected an iterable of images"),
        ("folder", "data of type str gives no batches"),
        ({"x": IMAGES}, "data of type dict gives no batches"),
        ([3], r"batch 0 is a int; expected images \(B, C, H, W\), \(images, labels\), or a dict with 'pixel_values' or 'image'"),
        ([IMAGES.numpy()], r"batch 0 is a ndarray of float32 and shape \(10, 2, 3, 4\)"),
        ([IMAGES, None], "batch 1 is a NoneType"),
        ([(IMAGES, LABELS, LABELS)], r"batch 0 is a tuple of 3 \(Tensor, Tensor, Tensor\)"),
        ([()], "batch 0 is a tuple of 0"),
        ([(LABELS.tolist(), LABELS)], r"batch 0 is a tuple of 2 \(list, Tensor\)"),
        ([{"x": IMAGES}], "batch 0 is a dict of 'x': Tensor"),
        ([{"image": [IMAGES[0]]}], "batch 0 is a dict of 'image': list"),
        (
            [IMAGES.to(torch.uint8)],
            "batch 0: images are torch.uint8; expected floating point, converted and normalised as the classifier expects",
        ),
        ([IMAGES.to(torch.complex64)], "batch 0: images are torch.complex64"),
    ],
)
def test_what_is_no_batch_of_images_is_described(data: Any, message: str) -> None:
    with pytest.raises(BatchFormatError, match=message):
        list(batches(data, device="cpu"))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES[0], r"batch 0: images have shape \(2, 3, 4\), of rank 3; expected rank 4, \(B, C, H, W\); one image goes as image\[None\]"),
        (IMAGES.flatten(1), r"batch 0: images have shape \(10, 24\), of rank 2"),
        (IMAGES[:, :1], r"batch 0: images have shape \(10, 1, 3, 4\), with other channels than expected: \(B, 2, 3, 4\)"),
        (IMAGES[..., :2], r"batch 0: images have shape \(10, 2, 3, 2\), with other pixels than expected: \(B, 2, 3, 4\)"),
    ],
)
def test_images_of_another_shape_are_refused(images: Tensor, message: str) -> None:
    with pytest.raises(ImageShapeError, match=message):
        list(batches([images], device="cpu", image_shape=(2, 3, 4)))


def test_without_an_expectation_the_first_batch_decides() -> None:
    with pytest.raises(ImageShapeError, match=r"batch 1: .* \(10, 2, 3, 2\), with other pixels than expected: \(B, 2, 3, 4\)"):
        list(batches([IMAGES, IMAGES[..., :2]], device="cpu"))


def test_a_data_set_of_images_of_different_sizes_is_refused() -> None:
    sizes = iter(range(1, 5))
    with pytest.raises(ImageShapeError, match="of different sizes"):
        list(batches(Pictures(lambda image: image[..., : next(sizes)], count=3), device="cpu"))


def test_a_data_set_of_no_tensors_is_refused() -> None:
    with pytest.raises(
        BatchFormatError,
        match=r"make no batch: .*Expected images as tensors \(C, H, W\)",
    ):
        list(batches(Pictures(lambda image: object()), device="cpu"))  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_pixels_that_are_no_numbers_are_counted(bad: float) -> None:
    spoilt = IMAGES.clone()
    spoilt[3, 0, 0, :2] = spoilt[5, 1, 2, 3] = bad
    with pytest.raises(NonFinitePixelsError, match="batch 1: 3 pixels in 2 of 10 images are NaN or infinite; expected finite"):
        list(batches([IMAGES, spoilt], device="cpu"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            torch.rand(10),
            r"batch 0: labels are Tensor of torch.float32 .*; expected one integer class an image, shape \(10,\)",
        ),
        (LABELS[:9], r"labels are Tensor of torch.int64 and shape \(9,\)"),
        (LABELS.view(5, 2), r"labels are Tensor of torch.int64 and shape \(5, 2\)"),
        (torch.full((10,), torch.nan), "labels are Tensor of torch.float32"),
        (["cat"] * 10, "labels are list of 10 .str, str, str, str, …."),
        ("cat", "labels are str"),
    ],
)
def test_labels_that_are_no_classes_are_described(labels: Any, message: str) -> None:
    with pytest.raises(BatchFormatError, match=message):
        collected([(IMAGES, labels)], labels="required")
    assert collected([(IMAGES, labels)], labels="ignored").labels is None


def test_counted_labels_may_be_shares_and_other_rows_are_left_out_with_one_warning() -> None:
    shares = torch.eye(4)[LABELS] * 0.7 + 0.3 / 4
    for labels in (shares, shares.numpy(), torch.eye(4)[LABELS].long()):
        whole = collected([(IMAGES, labels)], num_classes=4, labels="counted")
        assert whole.labels is not None
        assert torch.equal(whole.labels.argmax(dim=1), LABELS)
    assert collected([IMAGES], num_classes=4, labels="counted").labels is None
    for rows in (torch.ones(10, 4), shares.repeat(1, 2), torch.ones(10, 3)):
        with pytest.warns(
            FlintWarning, match=r"batch 0: labels are Tensor of .* and no shares of 4 classes; they are not looked at"
        ) as said:
            assert collected([(IMAGES, rows)] * 3, num_classes=4, labels="counted").labels is None
        assert len(said) == 1
    for bad, error in ((LABELS[:9], BatchFormatError), (shares[:9], BatchFormatError), (LABELS + 1, LabelRangeError)):
        with pytest.raises(error):
            collected([(IMAGES, bad)], num_classes=4, labels="counted")


@pytest.mark.parametrize(
    ("change", "classes", "message"),
    [
        (0, 3, r"batch 0: labels that are no class of the classifier \(2 of 10 labels, the first is 3\); expected 0 to 2"),
        (-1, None, r"\(3 of 10 labels, the first is -1\); expected 0 or more"),
    ],
)
def test_labels_out_of_range_are_refused(change: int, classes: int | None, message: str) -> None:
    with pytest.raises(LabelRangeError, match=message):
        collected([(IMAGES, LABELS + change)], num_classes=classes)


@pytest.mark.parametrize("form", [*LABELLED])
def test_a_first_pass_shows_its_first_batch_and_reads_nothing_twice(form: str) -> None:
    once = FirstPass(LABELLED[form]())
    assert torch.equal(once.images, IMAGES[: len(once.images)])
    assert torch.equal(collected(once).images, IMAGES)


def test_a_first_pass_does_not_read_ahead() -> None:
    pictures = Pictures()
    once = FirstPass(DataLoader(pictures, batch_size=4))
    assert pictures.read == [0, 1, 2, 3]
    assert len(list(once)) == 3
    assert pictures.read == list(range(10))


def test_a_first_pass_over_nothing_says_so() -> None:
    with pytest.raises(EmptyDataError, match="holds no images"):
        FirstPass([])


@pytest.mark.parametrize(
    ("data", "expected"), [(iter(pairs()), True), ((pair for pair in pairs()), True), (pairs(), False), (IMAGES, False)]
)
def test_one_shot_data_is_known(data: Any, expected: bool) -> None:
    assert is_one_shot(data) is expected


def test_loaders_are_no_one_shot_data() -> None:
    assert not is_one_shot(DataLoader(Pictures()))
    assert not is_one_shot(DataLoader(Stream()))


SET = TensorDataset(IMAGES, LABELS)


@pytest.mark.parametrize(
    ("data", "number", "shuffled"),
    [
        (IMAGES, 10, False),
        (SET, 10, False),
        (Rows(), 10, False),
        (pairs(), 10, None),
        ([], None, None),
        (iter(pairs()), None, None),
        (Stream(), None, None),
        (DataLoader(SET, batch_size=4), 10, False),
        (DataLoader(SET, batch_size=4, shuffle=True), 10, True),
        (DataLoader(SET, batch_size=4, drop_last=True), 8, False),
        (DataLoader(Subset(SET, [1, 2, 3]), batch_size=2, shuffle=True), 3, True),
        (DataLoader(SET, batch_size=4, sampler=RandomSampler(SET, num_samples=7)), 7, True),
        (DataLoader(SET, batch_size=4, sampler=[3, 1, 4]), 3, None),
        (DataLoader(SET, batch_sampler=BatchSampler(SequentialSampler(SET), 3, drop_last=True)), 9, False),
        (DataLoader(SET, batch_sampler=[[0, 1], [5]]), None, None),
        (DataLoader(pairs(), batch_size=None), None, None),  # type: ignore[arg-type]
        (DataLoader(Stream(), batch_size=4), None, None),
    ],
)
def test_number_and_order_of_images_as_far_as_they_can_be_told(data: Any, number: int | None, shuffled: bool | None) -> None:
    assert num_images(data) == number
    assert shuffles(data) is shuffled
    if number is not None:
        assert len(collected(data).images) == number


def test_the_order_of_a_distributed_sampler_is_what_it_says() -> None:
    for shuffle in (True, False):
        sampler = torch.utils.data.DistributedSampler(SET, num_replicas=2, rank=0, shuffle=shuffle)
        loader = DataLoader(SET, batch_size=2, sampler=sampler)
        assert shuffles(loader) is shuffle
        assert num_images(loader) == 5


NOISES: dict[str, Callable[[Tensor], Tensor]] = {
    "torch": lambda image: image + torch.rand(()),
    "numpy": lambda image: image + np.random.rand(),  # noqa: NPY002
    "python": lambda image: image + random.random(),
    "flips": lambda image: image.flip(2) if torch.rand(()) < 0.5 else image,
}


def mixed(items: list[Any]) -> Any:
    return torch.stack([image for image, _ in items]) * torch.rand(())


@pytest.mark.parametrize("noise", NOISES)
def test_augmentation_is_noticed(noise: str) -> None:
    pictures = Pictures(NOISES[noise])
    assert augments(pictures)
    assert augments(DataLoader(pictures, batch_size=4, shuffle=True))
    assert augments(DataLoader(Subset(pictures, range(9)), batch_size=4))


def test_augmentation_of_whole_batches_is_noticed() -> None:
    assert augments(DataLoader(Pictures(), batch_size=4, collate_fn=mixed))


@pytest.mark.parametrize(
    "data",
    [
        Pictures(),
        Rows(),
        DataLoader(Pictures(), batch_size=4, shuffle=True),
        DataLoader(pairs(), batch_size=None),  # type: ignore[arg-type]
        DataLoader(Stream(), batch_size=4),
        TensorDataset(IMAGES[:0]),
        IMAGES,
        pairs(),
        iter(pairs()),
    ],
)
def test_data_that_stays_the_same_does_not_augment(data: Any) -> None:
    assert not augments(data)


def test_eight_items_spread_over_the_data_set_are_read_twice() -> None:
    pictures = Pictures(count=71)
    augments(pictures)
    assert pictures.read == [0, 10, 20, 30, 40, 50, 60, 70] * 2
    few = Pictures(count=3)
    augments(few)
    assert few.read == [0, 1, 2] * 2


def draws() -> tuple[float, float, float]:
    return float(torch.rand(())), float(np.random.rand()), random.random()  # noqa: NPY002


def failing(image: Tensor) -> Tensor:
    draws()
    raise RuntimeError("broken item")


def test_looking_for_augmentation_leaves_the_global_random_state() -> None:
    with preserved_random_state():
        expected = draws()
    with preserved_random_state():
        augments(Pictures(lambda image: image + sum(draws())))
        assert draws() == expected
    with preserved_random_state():
        assert not augments(Pictures(failing))  # the pass will say it, or never ask for the item
        assert draws() == expected


class OpenedLazily(Dataset):
    """Keeps what it reads from open in the process that first reads, as data sets in one large file do."""

    opened = False

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Tensor:
        self.opened = True
        return torch.full((1, 4, 4), float(index))


@pytest.mark.parametrize("batch_size", [4, None])
def test_what_workers_read_is_read_twice_in_a_worker(batch_size: int | None) -> None:
    data = OpenedLazily()
    assert not augments(DataLoader(data, batch_size=batch_size, num_workers=2))
    assert not data.opened
    assert augments(DataLoader(Pictures(NOISES["torch"]), batch_size=batch_size, num_workers=2))


@pytest.mark.parametrize(
    "labels", [LABELS.float(), LABELS.double().numpy(), LABELS.float().tolist(), LABELS % 2 == 1, LABELS[:, None].float()]
)
def test_whole_numbers_of_any_type_are_classes(labels: Any) -> None:
    assert collected([(IMAGES, labels)], labels="required").labels.tolist() == [int(label) for label in labels]
