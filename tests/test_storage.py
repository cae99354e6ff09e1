"""Files are whole or absent, damaged ones are named, and fingerprints see every bit of a classifier."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from flint_posthoc import storage
from flint_posthoc.errors import ArtifactError, DamagedArtifactError, DiskSpaceError, NotAnArtifactError

TENSORS = {
    "half": torch.arange(6, dtype=torch.bfloat16).view(2, 3),
    "scalar": torch.tensor(3),
    "none": torch.empty(0, 4),
    "flags": torch.tensor([True, False]),
}


def written(folder: Path, content: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(content)
    return path


def test_json_comes_back(tmp_path: Path) -> None:
    value = {"numbers": [1, 2.5, None, True], "Φ": {"nested": "‘text’ \n <b>"}}
    storage.write_json(tmp_path / "a.json", value)
    assert storage.read_json(tmp_path / "a.json") == value
    assert os.listdir(tmp_path) == ["a.json"]


def test_tensors_and_metadata_come_back_to_the_bit(tmp_path: Path) -> None:
    storage.write_tensors(tmp_path / "a.safetensors", TENSORS, {"kind": "test"})
    stored = storage.read_tensors(tmp_path / "a.safetensors")
    assert stored.metadata == {"kind": "test"}
    assert stored.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        torch.testing.assert_close(stored.tensors[name], tensor, rtol=0, atol=0)


def test_tensors_that_share_memory_or_are_not_contiguous_can_be_written(tmp_path: Path) -> None:
    base = torch.rand(4, 3, requires_grad=True)
    views = {"base": base, "transposed": base.T, "part": base[1:], "again": base}
    storage.write_tensors(tmp_path / "a", views)
    for name, tensor in storage.read_tensors(tmp_path / "a").tensors.items():
        torch.testing.assert_close(tensor, views[name].detach())


def test_a_file_that_was_read_may_change_under_the_tensors(tmp_path: Path) -> None:
    path = tmp_path / "a"
    storage.write_tensors(path, {"a": torch.ones(4096)})
    tensors = storage.read_tensors(path).tensors
    path.write_bytes(bytes(path.stat().st_size))
    assert tensors["a"].sum() == 4096


def test_files_get_the_permissions_of_ordinary_files(tmp_path: Path) -> None:
    storage.write_bytes(tmp_path / "ours", b"")
    storage.write_tensors(tmp_path / "tensors", TENSORS)
    (tmp_path / "ordinary").touch()
    assert {path.stat().st_mode for path in tmp_path.iterdir()} == {(tmp_path / "ordinary").stat().st_mode}


@pytest.mark.parametrize(
    "write",
    [
        lambda path: storage.write_bytes(path, b"new"),
        lambda path: storage.write_json(path, {}),
        lambda path: storage.write_tensors(path, TENSORS),
    ],
)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]
) -> None:
    path = written(tmp_path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskSpaceError, match=r"file cannot be written, the disk is full: .*No space left"):
        write(path)
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_bytes() == b"old"


def test_an_interrupted_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        storage.write_bytes(tmp_path / "a", b"new")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", [{"a": float("nan")}, {"a": float("inf")}, {"a": object()}, {"a": "\ud800"}])
def test_what_is_no_json_is_not_written(tmp_path: Path, value: dict[str, object]) -> None:
    with pytest.raises(ArtifactError, match=r"a\.json: what was to be written is no JSON"):
        storage.write_json(tmp_path / "a.json", value)
    assert os.listdir(tmp_path) == []


def test_writing_below_a_file_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be written"):
        storage.write_tensors(written(tmp_path, b"") / "below", TENSORS)


def test_tensors_of_a_kind_that_the_format_does_not_have_are_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="these tensors cannot be written"):
        storage.write_tensors(tmp_path / "a", {"a": torch.zeros(2, dtype=torch.complex128)})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged"),
        (b'{"a": 1', "is damaged"),
        (b"\xff\xfe\xfa", "is damaged"),
        (b"[1, 2]", "expected a JSON object, got list"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": -Infinity}', "-Infinity is no JSON number"),
        (b'{"a": 1e999}', "1e999 is no JSON number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is damaged"),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "nested deeper than 64"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "is damaged"),
    ],
)
def test_damaged_json_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DamagedArtifactError, match=message) as caught:
        storage.read_json(written(tmp_path, content))
    assert str(tmp_path / "file") in str(caught.value)


def test_json_may_be_nested_as_deep_as_allowed(tmp_path: Path) -> None:
    nested = json.loads("[" * (storage.JSON_DEPTH - 1) + "7" + "]" * (storage.JSON_DEPTH - 1))
    storage.write_json(tmp_path / "a", {"a": nested})
    assert storage.read_json(tmp_path / "a") == {"a": nested}


READERS: list[Callable[[Path, int], object]] = [storage.read_json, storage.read_tensors]


@pytest.mark.parametrize("read", READERS)
def test_size_limits_are_held_before_reading(tmp_path: Path, read: Callable[[Path, int], object]) -> None:
    with pytest.raises(DamagedArtifactError, match="is too large: 11 bytes, at most 10 are read"):
        read(written(tmp_path, b'{"a": 1234}'), 10)


@pytest.mark.parametrize("read", READERS)
def test_what_is_missing_or_no_file_is_a_typed_error(tmp_path: Path, read: Callable[[Path, int], object]) -> None:
    with pytest.raises(NotAnArtifactError, match="nowhere does not exist"):
        read(tmp_path / "nowhere", 10)
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(DamagedArtifactError, match="expected a regular file"):
            read(path, 10)


def lying(header: object, body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        (2**63).to_bytes(8, "little") + b"{}",
        lying([]),
        lying({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}}, bytes(8)),
        lying({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),
        lying({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(9)),
        lying({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}}),
        lying({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}, bytes(8)),
        lying({"a": {"dtype": "PICKLE", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
        lying({"__metadata__": {"a": 1}}),
    ],
)
def test_truncated_and_lying_tensor_files_are_named(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DamagedArtifactError, match="file is damaged"):
        storage.read_tensors(written(tmp_path, content))


@given(st.data())
def test_no_damage_to_a_tensor_file_escapes_the_typed_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("damaged") / "file"
    storage.write_tensors(path, TENSORS, {"kind": "test"})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(DamagedArtifactError):
        assert all(isinstance(tensor, Tensor) for tensor in storage.read_tensors(path).tensors.values())


def test_folders_that_are_no_artefacts_say_so(tmp_path: Path) -> None:
    assert storage.artifact_folder(str(tmp_path)) == tmp_path
    with pytest.raises(NotAnArtifactError, match="nowhere does not exist; expected a folder"):
        storage.artifact_folder(tmp_path / "nowhere")
    with pytest.raises(NotAnArtifactError, match="file is a file; expected a folder"):
        storage.artifact_folder(written(tmp_path, b""))


def test_a_folder_to_write_into_is_made_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a" / "b"
    assert storage.writable_folder(folder) == folder
    assert storage.writable_folder(folder).is_dir()
    file = written(tmp_path, b"")
    for path in (file, file / "below"):
        with pytest.raises(ArtifactError, match="cannot be made a folder to write into"):
            storage.writable_folder(path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ArtifactError, match="b is not writable"):
        storage.writable_folder(folder)


class Odd(nn.Module):
    """Parameters and buffers of many kinds, on purpose no real network."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 48).view(2, 3, 2, 4))
        self.short = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        self.register_buffer("turns", torch.tensor([1 + 2j, 3 - 1j]).conj())
        self.register_buffer("steps", torch.tensor(7))
        self.register_buffer("empty", torch.empty(0, 2))
        self.register_buffer("table", torch.zeros(2, 2), persistent=False)
        self.register_buffer("means", torch.zeros(1, 3, 1, 1), persistent=False)
        self.register_buffer("nothing", None)


class Other(Odd):
    """The same state in another class."""


def flip(tensor: Tensor) -> None:
    """Change one bit."""
    with torch.no_grad():
        tensor.resolve_conj().view(-1).view(torch.uint8)[-1] ^= 1


def test_a_fingerprint_is_stable_and_is_what_it_always_was() -> None:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0]]))
        model.bias.zero_()
    assert storage.fingerprint(model) == "e90b2d63673d59ff620169fe03bc4afc2cf80bdcf1ea645418f26a1535aff858"
    assert storage.fingerprint(Odd()) == storage.fingerprint(Odd())


def test_a_fingerprint_does_not_see_flags_layout_or_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    before = storage.fingerprint(Odd())
    model = Odd().eval().requires_grad_(requires_grad=False)
    model.weight.data = model.weight.data.contiguous(memory_format=torch.channels_last)
    assert storage.fingerprint(model) == before
    monkeypatch.setattr(storage, "_CHUNK", 5)
    assert storage.fingerprint(model) == before


@pytest.mark.parametrize("name", ["weight", "short", "steps"])
def test_a_fingerprint_sees_every_bit(name: str) -> None:
    model = Odd()
    flip(getattr(model, name))
    assert storage.fingerprint(model) != storage.fingerprint(Odd())


def change_complex(model: Odd) -> None:
    model.turns = model.turns + 1j


def change_shape(model: Odd) -> None:
    model.weight.data = model.weight.data.view(2, 3, 4, 2)


def change_type(model: Odd) -> None:
    model.steps = model.steps.int()


def change_name(model: Odd) -> None:
    model.register_parameter("renamed", model.short)
    del model.short


@pytest.mark.parametrize("change", [change_complex, change_shape, change_type, change_name])
def test_a_fingerprint_sees_values_shapes_types_and_names(change: Callable[[Odd], None]) -> None:
    model = Odd()
    change(model)
    assert storage.fingerprint(model) != storage.fingerprint(Odd())


def test_a_fingerprint_does_not_see_what_no_checkpoint_holds() -> None:
    model = Odd()
    model.table = torch.zeros(5, 5)  # grown in a forward pass
    assert storage.fingerprint(model) == storage.fingerprint(Odd())


def test_a_fingerprint_sees_a_normalisation_that_no_checkpoint_holds() -> None:
    model = Odd()
    model.means = model.means + 0.5
    assert storage.fingerprint(model) != storage.fingerprint(Odd())


def test_a_fingerprint_sees_the_class() -> None:
    assert storage.fingerprint(Odd()) != storage.fingerprint(Other())
