"""What others wrote is read or refused by an error of ours, in bounded memory, and opens nothing else."""

import sys
from pathlib import Path

import pytest
from hostile import CORPUS, Targets, attack
from hypothesis import given, settings
from hypothesis import strategies as st

from flint_posthoc import storage
from flint_posthoc.errors import DamagedArtifactError

sys.path.append(str(Path(__file__).resolve().parent.parent))


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Targets:
    return Targets(tmp_path_factory.mktemp("templates"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("attacks")


@pytest.mark.parametrize("line", CORPUS.read_text().split())
def test_inputs_that_once_reached_something_new_are_read_or_refused(targets: Targets, place: Path, line: str) -> None:
    attack(targets, bytes.fromhex(line), place)


@given(st.binary(min_size=8, max_size=48))
@settings(max_examples=60)
def test_spoilt_artefacts_caches_and_checkpoints_are_read_or_refused(targets: Targets, place: Path, data: bytes) -> None:
    attack(targets, data, place)


def test_what_is_not_spoilt_is_read(targets: Targets, tmp_path: Path) -> None:
    for target in targets.every:
        target.read(target.template)


def test_the_watch_of_the_fuzzer_sees_what_is_opened_elsewhere(tmp_path: Path) -> None:
    from examples.mishaps.fuzz import Watch

    (tmp_path / "inside").mkdir()
    watch = Watch()
    with watch.reading(tmp_path / "inside"):
        (tmp_path / "inside" / "file").write_text("")
        (tmp_path / "written").write_text("")
        Path("/etc/hostname").exists()
        with open("/etc/hostname", "rb"):
            pass
    (tmp_path / "later").write_text("")
    assert watch.outside == [f"open: {tmp_path / 'written'}", "open: /etc/hostname"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "gives one name twice"),
        ('{"a": {"b": 1, "b": 1}}', "gives one name twice"),
        ('{"a": ' + "9" * 40 + "}", "a whole number of 40 digits, at most 20 are read"),
        ('{"a": [' + "[]," * storage.JSON_ITEMS + "[]]}", f"more than {storage.JSON_ITEMS} values"),
    ],
)
def test_json_that_no_writer_of_ours_makes_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(DamagedArtifactError, match=message):
        storage.read_json(tmp_path / "file")


def test_a_header_that_claims_too_much_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb") as file:
        file.write((storage.HEADER_LIMIT + 1).to_bytes(8, "little"))
        file.truncate(2**30)
    with pytest.raises(DamagedArtifactError, match="its header claims 16777217 bytes, at most 16777216 are read"):
        storage.read_tensors(tmp_path / "file")
