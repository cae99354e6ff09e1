"""A cache on disk gives back what was written or says why not; it is whole or absent, and reading it takes bounded memory."""

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from flint_posthoc.errors import ArtifactError, DamagedArtifactError, DiskSpaceError, EmptyDataError, FlintWarning, NotAnArtifactError
from flint_posthoc.learning.batches import DataSummary, LearningBatch
from flint_posthoc.learning.caching import folder as folders
from flint_posthoc.learning.caching import order, shards
from flint_posthoc.learning.caching.disk import Origin, StoredCache, open_cache, write_cache
from flint_posthoc.learning.caching.layout import RowLayout, columns_of
from flint_posthoc.learning.caching.manifest import FORMAT, Manifest, StoredFile, seal
from flint_posthoc.learning.caching.rows import RowsInMemory
from flint_posthoc.storage import read_json, write_json

ORIGIN = Origin(("first", "second"), None, "c" * 64)
PACKAGE = Path(shards.__file__).parents[2]  # to be found by other processes
ROWS, CLASSES = 100, 3
RSS_GROWTH = 6 * 2**20  # bytes; ten times the images are 54 MB more


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 30 * 236)  # 30 rows of float32


def batches(rows: int = ROWS, size: int = 7, scale: float = 1.0) -> list[LearningBatch]:
    """Maps (3, 4, 4) and (2, 1, 1), 3 logits, a target (1, 2, 2): 216 bytes a row in float32, and 20 more."""
    source = torch.Generator().manual_seed(rows)
    maps = tuple(scale * torch.randn(rows, *shape, generator=source) for shape in ((3, 4, 4), (2, 1, 1)))
    logits, target = torch.randn(rows, CLASSES, generator=source), torch.randn(rows, 1, 2, 2, generator=source)
    whole = LearningBatch(maps, logits, target, logits.argmax(dim=1))
    return [whole.rows(index) for index in torch.arange(rows).split(size)]


def whole(rows: int = ROWS) -> LearningBatch:
    return batches(rows, rows)[0]


def write(path: Path, passes: Any = None, precision: str = "float32", needed: int = 0, overwrite: bool = False) -> StoredCache:
    stream = iter(batches() if passes is None else passes)
    return write_cache(path, ORIGIN, stream, precision=precision, needed=needed, overwrite=overwrite)


def same(one: LearningBatch, other: LearningBatch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(columns_of(one), columns_of(other), strict=True))


# ---- what comes back ----


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_rows_come_back_to_the_bit_in_any_order(tmp_path: Path, precision: str) -> None:
    written, opened = write(tmp_path, precision=precision).rows, open_cache(tmp_path)
    assert opened.origin == ORIGIN
    stored = whole().stored_as(getattr(torch, precision))
    for rows in (written, opened.rows):
        assert len(rows) == ROWS
        for index in (torch.arange(ROWS), torch.randperm(ROWS), torch.tensor([31, 31, 5, 29, 30]), torch.empty(0, dtype=torch.int64)):
            assert same(rows.select(index), stored.rows(index))
    with pytest.raises(IndexError, match="rows 100 to 100 of a cache of 100 images"):
        written.select(torch.tensor([3, 100]))


def test_a_shard_is_an_ordinary_safetensors_file_of_bounded_size(tmp_path: Path) -> None:
    rows = write(tmp_path, precision="bfloat16").rows
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["manifest.json", *(f"shard-0000{place}.safetensors" for place in range(2)), "summary.safetensors"]
    parts = [load_file(tmp_path / name) for name in names[1:3]]
    assert torch.equal(torch.cat([part["tap.0"] for part in parts]), whole().activations[0].bfloat16())
    assert torch.equal(torch.cat([part["classes"] for part in parts]), whole().classes)
    assert rows.nbytes == sum(column.nbytes for part in parts for column in part.values())


def test_the_summary_is_that_of_the_data(tmp_path: Path) -> None:
    write(tmp_path, precision="float16")
    summary, expected = open_cache(tmp_path).rows.summary(), DataSummary.of(batches(), CLASSES)
    assert (summary.batches, summary.class_counts, summary.images) == (expected.batches, expected.class_counts, ROWS)
    assert torch.equal(summary.class_means, expected.class_means)


def test_a_part_is_a_cache_of_its_own(tmp_path: Path) -> None:
    chosen = torch.randperm(ROWS)[:60].sort().values
    part, expected = write(tmp_path).rows.part(chosen), whole().rows(chosen)
    assert same(part.select(torch.arange(60)), expected)
    assert same(part.part(torch.tensor([7, 3])).select(torch.tensor([1])), expected.rows(torch.tensor([3])))
    in_memory = RowsInMemory.of([expected], "float32").summary()
    assert part.summary().class_counts == in_memory.class_counts
    torch.testing.assert_close(part.summary().class_means, in_memory.class_means)
    assert part.nbytes == 60 * part.layout.row_bytes


def test_an_epoch_gives_the_rows_of_its_order_wherever_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "WINDOW_BATCHES", 3)
    monkeypatch.setattr(order, "WINDOW_BYTES", 1)
    disk, memory = write(tmp_path).rows, RowsInMemory.of(batches(), "float32")
    windows = list(disk.order(ROWS, 8, torch.Generator().manual_seed(3)))
    assert [len(window) for window in windows] == [24, 24, 24, 24, 4]
    found, expected = list(disk.batches(windows, 8)), list(memory.batches(windows, 8))
    assert len(found) == 12
    assert all(map(same, found, expected))
    kept = [batch.target.clone() for batch in disk.batches(windows, 8)]
    assert all(torch.equal(batch.target, target) for batch, target in zip(found, kept, strict=True))  # no memory is handed out twice


@given(st.integers(1, 700), st.integers(1, 40), st.integers(1, 3000), st.integers(0, 5))
def test_windows_hold_every_row_once_in_blocks(rows: int, batch_size: int, row_bytes: int, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "WINDOW_BYTES", 2**16)
        windows = list(order.windows(row_bytes, rows, batch_size, torch.Generator().manual_seed(seed)))
        again = list(order.windows(row_bytes, rows, batch_size, torch.Generator().manual_seed(seed)))
    assert all(map(torch.equal, windows, again))
    assert torch.equal(torch.cat(windows).sort().values, torch.arange(rows))
    for window in windows[:-1]:
        assert len(window) % batch_size == 0
        assert len(window) * row_bytes <= max(2**16, 16 * batch_size * row_bytes)
    for window in windows:
        runs = 1 + int((window.sort().values.diff() != 1).sum())
        assert runs <= len(window) / order.BLOCK + 4


def test_epochs_differ() -> None:
    def first(seed: int) -> Tensor:
        return next(order.windows(100, 500, 10, torch.Generator().manual_seed(seed)))

    assert not torch.equal(first(0), first(1))


# ---- precision ----


@pytest.mark.parametrize(
    ("scale", "precision"), [(1.0, "float16"), (0.0, "float16"), (1e5, "bfloat16"), (4e3, "bfloat16"), (1e-6, "bfloat16")]
)
def test_the_first_batch_decides_which_half_precision(tmp_path: Path, scale: float, precision: str) -> None:
    rows = write(tmp_path, batches(scale=scale), "auto").rows
    assert rows.layout.precision == precision
    read, expected = rows.select(torch.arange(ROWS)), batches(scale=scale, size=ROWS)[0]
    for column, true in zip(columns_of(read.stored_as(torch.float32)), columns_of(expected), strict=True):
        torch.testing.assert_close(column, true, rtol=2**-8, atol=2**-24)


def test_what_is_too_large_for_float16_later_on_is_cut_and_said(tmp_path: Path) -> None:
    passes = batches()
    passes[5].activations[0][2, 0, 0, 0], passes[5].activations[1][1] = -1e6, float("inf")
    with pytest.warns(FlintWarning, match=r"1 activations were too large for torch.float16 and were cut to 65504"):
        rows = write(tmp_path, passes, "auto").rows
    read = rows.select(torch.arange(35, 42))
    assert float(read.activations[0].min()) == -65504
    assert read.activations[1][1].isinf().all()


# ---- whole or absent ----


def failing(after: int, error: BaseException) -> Iterator[LearningBatch]:
    yield from batches()[:after]
    raise error


def nothing_is_left(path: Path) -> None:
    assert [entry.name for entry in path.iterdir()] == ["notes.txt"]
    with pytest.raises(NotAnArtifactError, match=r"holds no whole activation cache: manifest.json is missing"):
        open_cache(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a file of somebody else's."""
    (tmp_path / "notes.txt").write_text("mine")
    return tmp_path


@pytest.mark.parametrize("error", [RuntimeError("half-way"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("after", [0, 1, 9, 15])
def test_where_the_data_breaks_off_nothing_stays(folder: Path, after: int, error: BaseException) -> None:
    with pytest.raises(type(error)):
        write(folder, failing(after, error))
    nothing_is_left(folder)
    write(folder)
    assert len(open_cache(folder).rows) == ROWS


@pytest.mark.parametrize(
    ("number", "error", "message"),
    [
        (errno.ENOSPC, DiskSpaceError, "is full"),
        (errno.EDQUOT, DiskSpaceError, "is full"),
        (errno.EACCES, ArtifactError, "cannot be written"),
    ],
)
@pytest.mark.parametrize("calls", [1, 3, 5, 7])
def test_where_the_disk_fails_nothing_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception], message: str, calls: int
) -> None:
    synced, left = os.fsync, [calls]  # one sync a shard, then two for the class means and two for the manifest

    def fail(descriptor: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise OSError(number, os.strerror(number))
        synced(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(error, match=message):
        write(folder)
    nothing_is_left(folder)


def test_data_without_a_batch_leaves_nothing(folder: Path) -> None:
    with pytest.raises(EmptyDataError, match="nothing to learn from"):
        write(folder, [])
    nothing_is_left(folder)


def test_what_a_kill_left_is_replaced_and_nothing_else_is_touched(folder: Path) -> None:
    for name in ("shard-00000.safetensors", "shard-00007.safetensors", ".manifest.json.0123abcd.tmp", "summary.safetensors"):
        (folder / name).write_text("left over")
    others = ("shard-1.safetensors", "my-shard-00001.safetensors", "manifest.json.bak")
    for name in others:
        (folder / name).write_text("mine")
    write(folder)
    assert len(open_cache(folder).rows) == ROWS
    assert {path.name for path in folder.iterdir()} >= {*others, "notes.txt", "shard-00003.safetensors"}
    assert not (folder / "shard-00007.safetensors").exists()
    assert all((folder / name).read_text() == "mine" for name in (*others, "notes.txt"))


def test_a_whole_cache_is_replaced_on_request_alone(folder: Path) -> None:
    write(folder)
    with pytest.raises(ArtifactError, match=r"holds a whole activation cache of this classifier .* overwrite=True replaces it"):
        write(folder)
    other = ORIGIN._replace(classifier="d" * 64)
    with pytest.raises(ArtifactError, match="of another classifier or other layers"):
        write_cache(folder, other, iter(batches()), precision="auto", needed=0, overwrite=False)
    assert len(open_cache(folder).rows) == ROWS
    write(folder, batches(40), overwrite=True)
    assert len(open_cache(folder).rows) == 40
    assert not (folder / "shard-00003.safetensors").exists()


def test_a_damaged_cache_is_replaced_but_not_one_of_another_format(folder: Path) -> None:
    write(folder)
    with open(folder / "shard-00002.safetensors", "ab") as file:
        file.write(b"1")
    write(folder)
    write_json(folder / "manifest.json", read_json(folder / "manifest.json") | {"format": FORMAT + 1})
    with pytest.raises(ArtifactError, match=r"of another format; overwrite=True replaces it"):
        write(folder)
    with pytest.raises(DamagedArtifactError, match=f"it has format {FORMAT + 1}, this version reads {FORMAT}"):
        open_cache(folder)
    write(folder, overwrite=True)


# ---- room, rights, other writers ----


def test_too_little_room_is_said_before_anything_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=folders.RESERVE + 5000))
    untouched = iter(batches())
    with pytest.raises(DiskSpaceError, match=r"the activations need 10,000 bytes .* has 5,000 .* free"):
        write(folder, untouched, needed=10_000)
    assert len(list(untouched)) == len(batches())
    with pytest.raises(DiskSpaceError, match=r"the next 30 images need 7,\d+ bytes"):  # of data whose length nobody knows
        write(folder)
    nothing_is_left(folder)


def test_the_room_of_what_is_replaced_counts_as_free(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder)
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=folders.RESERVE + 9000))
    write(folder, needed=30_000, overwrite=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ArtifactError, match="is not writable"):
        write(tmp_path)


@pytest.mark.parametrize(
    "owner", [f"{os.getppid()} {socket.gethostname()}", f"{os.getpid()} elsewhere", ""], ids=["lives", "elsewhere", "empty"]
)
def test_a_lock_that_was_left_over_is_taken_over_whatever_process_has_its_number_now(folder: Path, owner: str) -> None:
    lock = folder / folders.LOCK_NAME
    lock.write_text(owner)
    write(folder)
    assert not lock.exists()


def test_a_file_of_others_by_the_name_of_the_lock_stays(folder: Path) -> None:
    (folder / folders.LOCK_NAME).write_text("my own notes")
    with pytest.raises(ArtifactError, match=r"writes a cache into .*; where that is not so, remove .*cache.lock"):
        write(folder)
    assert (folder / folders.LOCK_NAME).read_text() == "my own notes"


def test_the_lock_holds_while_writing(folder: Path) -> None:
    def intruded() -> Iterator[LearningBatch]:
        yield from batches()
        with pytest.raises(ArtifactError, match=f"process {os.getpid()} on .* writes a cache"):
            write(folder)

    write(folder, intruded())
    assert len(open_cache(folder).rows) == ROWS


HOLDER = """
import time
from flint_posthoc.learning.caching.folder import temporary_folder
with temporary_folder() as folder:
    print(folder, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_fit_left_behind_goes_with_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE))
    process = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process, process.stdout:
        held = Path(process.stdout.readline().strip())
        with folders.temporary_folder() as own:
            assert held.exists()  # its owner lives
        process.kill()
    (tmp_path / f"{folders.PREFIX}mine").mkdir()  # without an owner's lock it is not ours
    (tmp_path / f"{folders.PREFIX}mine" / "notes.txt").touch()
    (tmp_path / f"{folders.PREFIX}empty").mkdir()  # its owner was killed before it could sign
    with folders.temporary_folder() as own:
        assert not held.exists()
    assert not own.exists()
    assert [path.name for path in tmp_path.iterdir()] == [f"{folders.PREFIX}mine"]


# ---- damage ----


def test_one_damaged_byte_anywhere_is_found(tmp_path: Path) -> None:
    write(tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 6
    for path in files:
        content = path.read_bytes()
        assert len(open_cache(tmp_path).rows) == ROWS
        for place in (3, 20, len(content) // 2, len(content) - 3):
            if content[place : place + 1].isspace():
                continue  # between the words of the manifest
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            with pytest.raises(DamagedArtifactError, match=r"damaged|manifest"):
                open_cache(tmp_path)
        path.write_bytes(content)


SPOILT: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "truncated": lambda path: os.truncate(path, 1000),
    "empty": lambda path: os.truncate(path, 0),
    "longer": lambda path: os.truncate(path, path.stat().st_size + 1),
    "a link": lambda path: (path.rename(path.with_name("elsewhere")), path.symlink_to(path.with_name("elsewhere"))),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_shard_that_is_not_there_as_it_was_is_found(tmp_path: Path, how: str) -> None:
    rows = write(tmp_path).rows
    SPOILT[how](tmp_path / "shard-00001.safetensors")
    with pytest.raises(DamagedArtifactError, match=r"shard-00001.safetensors is (missing|damaged)"):
        open_cache(tmp_path)
    with pytest.raises(DamagedArtifactError, match=r"shard-00001.safetensors (cannot be read|has changed since the cache was opened)"):
        rows.select(torch.arange(ROWS))


def test_missing_class_means_are_found(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "summary.safetensors").unlink()
    with pytest.raises(DamagedArtifactError, match=r"summary.safetensors is missing"):
        open_cache(tmp_path)


def test_a_cache_that_is_replaced_under_its_reader_is_noticed(tmp_path: Path) -> None:
    rows = write(tmp_path).rows
    write(tmp_path, overwrite=True)
    with pytest.raises(DamagedArtifactError, match="has changed since the cache was opened"):
        rows.select(torch.tensor([0]))


def resealed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Spoil the manifest in a way that its digest does not tell."""
    told = read_json(path / "manifest.json")
    del told["digest"]
    change(told)
    write_json(path / "manifest.json", told | {"digest": seal(told)})


LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a path": lambda told: told["shards"][0].update(file="../shard-00000.safetensors"),
    "an absolute path": lambda told: told["shards"][0].update(file="/etc/passwd"),
    "another shard's name": lambda told: told["shards"][0].update(file="shard-00001.safetensors"),
    "the means elsewhere": lambda told: told["summary"].update(file="../summary.safetensors"),
    "more rows": lambda told: told["shards"][0].update(rows=31),
    "a huge size": lambda told: told["shards"][0].update(bytes=2**49),
    "no rows": lambda told: told["shards"][0].update(rows=0),
    "true rows": lambda told: told["shards"][0].update(rows=True),
    "fewer shards": lambda told: told["shards"].pop(),
    "more images": lambda told: told.update(images=101),
    "huge maps": lambda told: told.update(maps=[[2**20, 2**20, 2**20], [2, 1, 1]]),
    "other maps": lambda told: told.update(maps=[[4, 4, 4], [2, 1, 1]]),
    "no maps": lambda told: told.update(maps=[], layers=[]),
    "more layers": lambda told: told["layers"].append("third"),
    "other classes": lambda told: told.update(classes=4),
    "class ids of others": lambda told: told.update(class_ids=[0, 1]),
    "other counts": lambda told: told.update(class_counts=[100, 1, 0]),
    "another precision": lambda told: told.update(precision="float16"),
    "an unknown precision": lambda told: told.update(precision="float8"),
    "no digest": lambda told: told["shards"][0].update(digest=""),
    "nothing said": lambda told: told.clear(),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_lies_is_refused_before_a_shard_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: str) -> None:
    write(tmp_path)
    resealed(tmp_path, LIES[lie])
    monkeypatch.setattr(shards.ShardReader, "_open", lambda *_: pytest.fail("a shard was opened"))
    with pytest.raises(DamagedArtifactError, match="is no manifest of an activation cache"):
        open_cache(tmp_path)


def test_a_header_that_lies_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "shard-00000.safetensors"
    content = path.read_bytes()
    path.write_bytes((2**62).to_bytes(8, "little") + content[8:])
    resealed(tmp_path, lambda told: told["shards"][0].update(digest=shards.digest_of(path)))
    with pytest.raises(DamagedArtifactError, match="its header is not the one that the manifest asks for"):
        open_cache(tmp_path)


LAYOUT = RowLayout(((1, 2, 2),), 2, (1, 1, 1), "float32")
SHARD = StoredFile(LAYOUT.file_bytes(1), "d" * 64)
WRITTEN = Manifest(
    classifier="a" * 64, layers=("one",), class_ids=None, layout=LAYOUT, data="b" * 64, batches=1, class_counts=(1, 0),
    summary=StoredFile(1, "c" * 64), shards=(SHARD,), shard_rows=(1,),
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["file", "rows", "bytes", "digest"]), inner, max_size=4),
    max_leaves=6,
)


@given(st.sampled_from(sorted(WRITTEN.to_dict())), VALUES, st.sampled_from(["bytes", "rows", "digest", "file"]), st.booleans())
def test_a_manifest_is_understood_or_refused(name: str, value: object, inner: str, deep: bool) -> None:
    told = json.loads(json.dumps(WRITTEN.to_dict()))
    assert Manifest.from_dict(told) == WRITTEN
    told["shards" if deep else name] = [told["shards"][0] | {inner: value}] if deep else value
    told["digest"] = seal({key: entry for key, entry in told.items() if key != "digest"})
    try:
        found = Manifest.from_dict(told)
    except (ValueError, KeyError, TypeError):
        return
    assert found.to_dict() == told
    assert found.nbytes == sum(shard.nbytes for shard in found.shards) < 2**20


# ---- memory ----

EPOCHS = """
import resource, sys
import torch
from pathlib import Path
from flint_posthoc.learning.caching import order, shards
from flint_posthoc.learning.batches import LearningBatch
from flint_posthoc.learning.caching.disk import Origin, open_cache, write_cache

torch.set_num_threads(1)
shards.SHARD_BYTES = order.WINDOW_BYTES = 2**20

def passes(rows):
    for _ in range(rows // 100):
        logits = torch.randn(100, 3)
        yield LearningBatch((torch.randn(100, 8, 16, 16),), logits, torch.randn(100, 1, 8, 8), logits.argmax(dim=1))

def peak(rows):
    folder = Path(sys.argv[1]) / str(rows)
    write_cache(folder, Origin(("one",), None, "c" * 64), passes(rows), precision="float16", needed=0, overwrite=False)
    cache = open_cache(folder).rows
    for number in range(2):
        order = cache.order(rows, 50, torch.Generator().manual_seed(number))
        count = sum(len(batch.logits) for batch in cache.batches(order, 50))
        assert count == rows
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

print(peak(1500), peak(15000))
"""


def test_ten_times_the_images_take_no_more_memory(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(PACKAGE)}
    answer = subprocess.run([sys.executable, "-c", EPOCHS, str(tmp_path)], check=True, env=environment, capture_output=True, timeout=240)
    small, large = map(int, answer.stdout.split())
    assert large - small < RSS_GROWTH


@pytest.mark.parametrize("images", [None, ROWS, ROWS + 7, ROWS - 5])
def test_rows_in_memory_are_those_that_came_however_many_were_announced(images: int | None) -> None:
    kept = RowsInMemory.of(batches(), "float32", images)
    assert len(kept) == ROWS
    assert same(kept.select(torch.arange(ROWS)), whole())


def test_rows_of_known_number_are_written_once_and_keep_their_memory_format(monkeypatch: pytest.MonkeyPatch) -> None:
    last = [
        batch._replace(activations=tuple(tap.contiguous(memory_format=torch.channels_last) for tap in batch.activations))
        for batch in batches()
    ]
    monkeypatch.setattr(LearningBatch, "joined", None)  # which would hold all of it twice
    kept = RowsInMemory.of(last, "float32", ROWS)
    assert all(tap.is_contiguous(memory_format=torch.channels_last) for tap in kept.stored.activations)
