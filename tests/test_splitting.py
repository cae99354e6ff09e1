"""Which process reads which images: each image once, in the order of one process; what would count images twice is refused."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from spawning import PROCESSES, Found, in_processes
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, TensorDataset

from flint_posthoc.data import batches
from flint_posthoc.errors import DataError
from flint_posthoc.processes import rank, share, size
from flint_posthoc.splitting import num_batches, own_part, own_slices

IMAGES = 23


def numbered(count: int = IMAGES, first: int = 0) -> Tensor:
    """Images (count, 1, 2, 2), each filled with its number."""
    return torch.arange(first, first + count).float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()


class MapStyle(Dataset[Tensor]):
    def __len__(self) -> int:
        return 3 * IMAGES

    def __getitem__(self, index: int) -> Tensor:
        return numbered(1, index)[0]


class Stream(IterableDataset[Tensor]):
    """Batches of 4; with ``divided`` a process's own ones."""

    def __init__(self, divided: bool) -> None:
        self.divided = divided

    def __iter__(self) -> Iterator[Tensor]:
        parts = numbered().split(4)
        yield from (parts[rank() :: size()] if self.divided else parts)


class Grouped:
    """A batch sampler of the user's own: batches of different sizes, the last items first."""

    def __iter__(self) -> Iterator[list[int]]:
        yield from ([22, 21, 20], list(range(10, 20)), list(range(10)))


class Sharding:
    """A sampler that gives each process other items, as distributed ones do."""

    def __len__(self) -> int:
        return IMAGES // size()

    def __iter__(self) -> Iterator[int]:
        return iter(range(rank(), IMAGES, size()))


def loader(**settings: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(numbered()), **({"batch_size": 4} | settings))


DATA = {
    "tensor": numbered,
    "list": lambda: list(numbered().split(4)),
    "dicts": lambda: [{"pixel_values": part, "labels": torch.zeros(len(part), dtype=torch.int64)} for part in numbered().split(4)],
    "map-style": MapStyle,
    "loader": loader,
    "shuffling": lambda: loader(shuffle=True),
    "workers": lambda: loader(shuffle=True, num_workers=1),
    "drop_last": lambda: loader(drop_last=True),
    "grouped": lambda: DataLoader(TensorDataset(numbered()), batch_sampler=Grouped()),
    "batches": lambda: DataLoader(numbered().split(4), batch_size=None, shuffle=True),  # type: ignore[arg-type]
    "stream": lambda: Stream(divided=True),
    "few": lambda: numbered(1),
}


def read(data: Any) -> list[list[int]]:
    """The numbers of the images in each batch, as read with one random state."""
    torch.manual_seed(3 + 100 * rank())
    return [batch.images[:, 0, 0, 0].long().tolist() for batch in batches(data, device="cpu")]


def parts(folder: Path) -> Any:
    torch.manual_seed(3 + 100 * rank())
    found = {}
    for name, make in DATA.items():
        torch.manual_seed(3 + 100 * rank())
        part = own_part(make())
        found[name] = (part.first, [] if part.empty else [number for batch in read_on(part.data) for number in batch])
    return found


def read_on(data: Any) -> list[list[int]]:
    return [batch.images[:, 0, 0, 0].long().tolist() for batch in batches(data, device="cpu")]


def slices(folder: Path) -> Any:
    return {name: read(own_slices(make())) for name, make in DATA.items() if name not in ("stream", "few")}


def counted(folder: Path) -> Any:
    return {name: num_batches(make()) for name, make in DATA.items()}


def repeating(folder: Path) -> Any:
    return own_part(loader(sampler=DistributedSampler(TensorDataset(numbered()))))


def sharding(folder: Path) -> Any:
    return own_part(loader(sampler=Sharding()))


def undivided(folder: Path) -> Any:
    return read_on(own_part(Stream(divided=False)).data)


def different(folder: Path) -> Any:
    return own_part(numbered(IMAGES, first=rank()))


def of_other_lengths(folder: Path) -> Any:
    return own_part(loader() if rank() else DataLoader(TensorDataset(numbered(9)), batch_size=4))


@pytest.fixture(scope="module")
def found() -> Found:
    return in_processes(parts, slices, counted, repeating, sharding, undivided, different, of_other_lengths)


def alone(name: str) -> list[list[int]]:
    return read(DATA[name]())


@pytest.mark.parametrize("name", [name for name in DATA if name != "stream"])
def test_each_process_reads_a_part_and_together_they_read_what_one_does(found: Found, name: str) -> None:
    own = [told[name] for told in found["parts"]]
    together = [number for _, numbers in own for number in numbers]
    assert together == [number for batch in alone(name) for number in batch]
    for process, (first, _) in enumerate(own):
        assert first in (None, sum(len(numbers) for _, numbers in own[:process]))


@pytest.mark.parametrize("name", ["tensor", "map-style", "loader", "shuffling", "drop_last"])
def test_parts_differ_by_one_image_at_most(found: Found, name: str) -> None:
    lengths = [len(told[name][1]) for told in found["parts"]]
    assert max(lengths) - min(lengths) <= 1


def test_a_stream_is_the_processes_own_part(found: Found) -> None:
    first, second = (told["stream"] for told in found["parts"])
    assert sorted(first[1] + second[1]) == list(range(IMAGES))
    assert first[0] is second[0] is None


@pytest.mark.parametrize("name", [name for name in DATA if name not in ("stream", "few")])
def test_slices_of_a_batch_make_that_batch(found: Found, name: str) -> None:
    own, whole = [told[name] for told in found["slices"]], alone(name)
    for place, batch in enumerate(whole):
        assert [number for told in own for number in (told[place] if place < len(told) else [])] == batch or len(batch) < PROCESSES
    assert sorted(number for told in own for batch in told for number in batch) == sorted(number for batch in whole for number in batch)


def test_batches_are_counted_without_a_pass(found: Found) -> None:
    counts = found["counted"][0]
    for name, count in counts.items():
        assert count is None if name in ("stream", "grouped") else count == len(alone(name))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("repeating", "has a DistributedSampler, which repeats images"),
        ("sharding", "the loader's Sharding gives every process other items"),
        ("undivided", "each of 2 processes reads the same first images from its Stream"),
        ("different", "the processes were given different data"),
        ("of_other_lengths", "the number of items of the data set must be the same in all 2 processes"),
    ],
)
def test_data_that_would_count_twice_or_be_lost_is_refused_in_every_process(found: Found, case: str, message: str) -> None:
    for error in found[case]:
        assert message in str(error)
        assert isinstance(error, DataError if case != "of_other_lengths" else ValueError)


def test_one_process_reads_data_as_it_is() -> None:
    data: Iterable[Any] = loader()
    assert own_part(data).data is data
    assert own_slices(data) is data
    assert [share(7), size()] == [range(7), 1]
