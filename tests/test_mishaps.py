"""What happens to long jobs: kills, Ctrl-C, full disks, bad data, clocks that go back, and calls that were wrong from the start."""

import contextlib
import datetime
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from models import left_alone
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from flint_posthoc import FlintExplainer, artifact, storage
from flint_posthoc.artifact import CLASSIFIER_NAME, JSON_NAME, TENSORS_NAME
from flint_posthoc.errors import (
    ClassifierOutputError,
    ConfigurationError,
    DamagedArtifactError,
    DiskSpaceError,
    FlintError,
    FolderInUseError,
    NotAnArtifactError,
    NotFitted,
)
from flint_posthoc.learning.checkpoint import FILE_NAME, LOCK_NAME
from flint_posthoc.locking import locked

ROOT = Path(__file__).resolve().parent.parent
KILLS, BAD_CALLS = 12, 48


def python(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}
    command = [sys.executable, "-W", "ignore", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=900, **options)


# ---- kills ----


def test_jobs_that_are_killed_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    ran = python("-m", "examples.mishaps.kills", "--kills", str(KILLS), "--seed", "7", "--results", str(tmp_path))
    assert ran.returncode == 0, (tmp_path / "results.md").read_text() if (tmp_path / "results.md").exists() else ran.stderr
    found = storage.read_json(tmp_path / "results.json")
    assert found["failures"] == []
    assert sum(count["killed"] for count in found["jobs"].values()) == KILLS


@pytest.fixture(scope="module")
def versions() -> tuple[FlintExplainer, FlintExplainer]:
    """Two joint fits: their classifiers differ too."""
    found = []
    for seed in (0, 1):
        model = small.tiny()
        found.append(small.explainer(model, joint=True))
        labels = small.labels(model, small.images())
        found[-1].fit(small.loader(small.images(), labels), seed=seed, max_steps=2, progress=False)
    return found[0], found[1]


@pytest.mark.parametrize("step", range(12))
def test_a_save_that_stops_at_any_step_leaves_the_old_one_or_the_new_one_whole(
    versions: tuple[FlintExplainer, FlintExplainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Interpreter and classifier belong together, whichever of the two it is."""
    old, new = versions
    old.save_pretrained(tmp_path)
    before, left = os.replace, [step]

    class Stopped(BaseException):
        pass

    def stop(*arguments: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Stopped
        before(*arguments)

    def stop_here(call: Callable[..., Any]) -> Callable[..., Any]:
        def stopping(*arguments: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Stopped
            return call(*arguments)

        return stopping

    with monkeypatch.context() as patch, contextlib.suppress(Stopped):
        patch.setattr(os, "replace", stop)
        patch.setattr(os, "fsync", stop_here(os.fsync))
        patch.setattr(artifact, "_settle", stop_here(artifact._settle))
        new.save_pretrained(tmp_path)
    model = small.tiny()
    found = FlintExplainer.from_pretrained(tmp_path, model, load_classifier=True)
    whole = [version for version in versions if small.weights(version) == small.weights(found)]
    assert len(whole) == 1
    assert storage.fingerprint(model) == storage.fingerprint(whole[0].model)
    new.save_pretrained(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([JSON_NAME, TENSORS_NAME, CLASSIFIER_NAME])


def test_a_joint_artefact_that_does_not_load_leaves_the_classifier_as_it_was(
    versions: tuple[FlintExplainer, FlintExplainer], tmp_path: Path
) -> None:
    folder = versions[0].save_pretrained(tmp_path)
    (folder / TENSORS_NAME).write_bytes((folder / TENSORS_NAME).read_bytes()[:-8])
    model = small.tiny()
    with left_alone(model), pytest.raises(DamagedArtifactError):
        FlintExplainer.from_pretrained(folder, model, load_classifier=True)
    os.replace(versions[1].save_pretrained(tmp_path / "other") / CLASSIFIER_NAME, folder / CLASSIFIER_NAME)
    with left_alone(model), pytest.raises(DamagedArtifactError, match=r"classifier.safetensors do not belong together"):
        FlintExplainer.from_pretrained(folder, model, load_classifier=True)


def test_what_a_killed_writer_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    for name in (".file.01234567.tmp", ".file.89abcdef.tmp", ".file.xyz.tmp", ".other.01234567.tmp"):
        (tmp_path / name).touch()
    with open(tmp_path / ".file.89abcdef.tmp", "wb") as living:
        storage.fcntl.flock(living, storage.fcntl.LOCK_EX)
        storage.write_bytes(tmp_path / "file", b"content")
    assert sorted(os.listdir(tmp_path)) == [".file.89abcdef.tmp", ".file.xyz.tmp", ".other.01234567.tmp", "file"]


# ---- two at once ----


HOLDER = """
import sys, time
from pathlib import Path
from flint_posthoc.locking import locked
import os
with locked(Path(sys.argv[1]), "fits into"):
    if len(sys.argv) > 2 and os.fork() == 0:  # as a loader's worker, which outlives its parent
        time.sleep(30)
    print(os.getpid(), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("worker", [[], ["worker"]], ids=["alone", "with a worker"])
def test_a_second_fit_in_a_folder_is_refused_by_name_until_the_first_process_ends(tmp_path: Path, worker: list[str]) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / LOCK_NAME), *worker]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True)
    assert first.stdout is not None
    try:
        owner = first.stdout.readline().strip()
        explain = small.explainer()
        with left_alone(explain.model), pytest.raises(FolderInUseError, match=rf"process {owner} on .* fits into {tmp_path}; where that"):
            explain.fit(small.images(), checkpoint_dir=tmp_path, progress=False)
        first.kill()
        first.wait()
        explain.fit(small.images(), checkpoint_dir=tmp_path, progress=False)
        assert os.listdir(tmp_path) == [FILE_NAME]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        first.stdout.close()


def test_a_lock_is_not_given_back_by_a_forked_child(tmp_path: Path) -> None:
    with locked(tmp_path / "lock", "works in"):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(FolderInUseError, match=rf"process {os.getpid()} on .* works in"), locked(tmp_path / "lock", "works in"):
            pass
    assert os.listdir(tmp_path) == []


# ---- Ctrl-C, data and classifiers that fail half-way ----


class Broken:
    """Batches that end in an error."""

    shuffle = True

    def __init__(self, error: BaseException, after: int) -> None:
        self.error, self.after = error, after

    def __iter__(self) -> Iterator[Tensor]:
        yield from small.images().split(8)[: self.after]
        raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("the disk of pictures is gone"), ValueError("a bad picture")])
@pytest.mark.parametrize("cache", ["memory", "disk", "off"])
def test_where_the_data_breaks_off_the_last_fit_stands_and_nothing_stays(
    error: BaseException, cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    explain = small.explainer()
    with left_alone(explain.model), pytest.raises(type(error)):
        explain.fit(Broken(error, 3), cache=cache, checkpoint_dir=tmp_path / "checkpoint", progress=False)
    with pytest.raises(NotFitted):
        explain(small.images(2))
    assert [name for name in os.listdir(tmp_path) if name.startswith("flint")] == []
    assert os.listdir(tmp_path / "checkpoint") == []
    explain.fit(small.images(), progress=False)
    kept = small.weights(explain)
    with left_alone(explain.model), pytest.raises(type(error)):
        explain.fit(Broken(error, 3), cache=cache, progress=False)
    assert small.weights(explain) == kept


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell starts what it runs in the background deaf to Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_in_the_middle_of_a_fit_can_be_resumed(tmp_path: Path) -> None:
    explain = small.explainer()
    checkpoint = tmp_path / FILE_NAME

    def interrupt() -> None:
        while not checkpoint.exists():
            time.sleep(0.01)
        signal.raise_signal(signal.SIGINT)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    with left_alone(explain.model), pytest.raises(KeyboardInterrupt):
        explain.fit(small.images(), epochs=100_000, checkpoint_dir=tmp_path, progress=False)
    watcher.join()
    assert os.listdir(tmp_path) == [FILE_NAME]
    assert '"epoch"' in storage.read_tensors(checkpoint).metadata["history"]


class Spoilt(small.Tiny):
    """Logits that are finite, from a layer that is not."""

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.conv1(images)
        self.conv2(torch.nn.functional.max_pool2d(hidden, 2).masked_fill(images[:, :1, :1, :1] > self.above, float("nan")))
        return self.fc(torch.nn.functional.adaptive_avg_pool2d(hidden, (2, 3)).flatten(1))

    above = 1e9


def test_nan_in_a_tapped_layer_is_refused_by_name_though_the_logits_are_finite() -> None:
    model = Spoilt().eval()
    explain = small.fitted(model)
    model.above = float(small.images(8)[:, 0, 0, 0].median())
    with left_alone(model), pytest.raises(ClassifierOutputError, match=r"layer 'conv2' is not finite for 4 of 8 images"):
        explain(small.images(8))
    with left_alone(model), pytest.raises(ClassifierOutputError, match="is not finite for"):
        small.explainer(model, input_size=(small.CHANNELS, small.SIDE, small.SIDE)).fit(small.images(), progress=False)


# ---- disks, clocks, places ----


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: a disk that is full."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


WRITERS: dict[str, Callable[[FlintExplainer, Path], object]] = {
    "save": lambda explain, folder: explain.save_pretrained(folder),
    "cache": lambda explain, folder: explain.cache(small.images(), folder=folder, progress=False),
    "checkpoint": lambda explain, folder: small.explainer(explain.model).fit(small.images(), checkpoint_dir=folder, progress=False),
    "report": lambda explain, folder: explain.report(folder / "report.html", small.images(), budget_seconds=0, progress=False),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_is_full_is_said_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    explain = small.fitted()
    with left_alone(explain.model), largest_file(1000), pytest.raises(DiskSpaceError, match="the disk is full"):
        WRITERS[name](explain, tmp_path)
    assert os.listdir(tmp_path) == []
    WRITERS[name](explain, tmp_path)


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_fails_keeps_what_was_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    explain = small.fitted()
    if name == "cache":
        return  # a whole cache is replaced on request alone, and then removed first
    WRITERS[name](explain, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(FlintError):
        WRITERS[name](explain, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_clock_that_goes_back_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def course(folder: Path) -> tuple[Any, ...]:
        explain = small.explainer()
        explain.fit(small.images(), epochs=2, cache="disk", checkpoint_dir=folder / "fit", progress=False)
        explain.fit(small.images(), epochs=2, cache="disk", checkpoint_dir=folder / "fit", resume=True, progress=False)
        explain.save_pretrained(folder / "saved")
        explain.report(folder / "report.html", small.images(), budget_seconds=0, progress=False)
        return small.weights(explain), explain.history, (folder / "saved" / TENSORS_NAME).read_bytes()

    expected = course(tmp_path / "first") if (tmp_path / "first").mkdir() is None else None
    clock = iter(range(2_000_000_000, 0, -100_000))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    (tmp_path / "second").mkdir()
    assert course(tmp_path / "second") == expected


GERMAN = """
import locale, sys
class Comma(str): pass
conventions = dict(locale.localeconv(), decimal_point=",", thousands_sep=".")
locale.localeconv = lambda: conventions
import small
explain = small.fitted()
explain.save_pretrained(sys.argv[1])
print(explain(small.images(3)).describe(0), explain.history[-1])
"""


def test_the_place_changes_nothing(tmp_path: Path) -> None:
    """Another language, a decimal comma, no UTF-8, and times on the other side of the world."""
    places = (
        {"LC_ALL": "C.UTF-8", "TZ": "UTC"},
        {"LC_ALL": "de_DE.ISO-8859-1", "LANG": "de_DE", "TZ": "Pacific/Kiritimati", "PYTHONUTF8": "0"},
    )
    found = []
    for number, place in enumerate(places):
        environment = os.environ | place | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))), "PYTHONIOENCODING": "utf-8"}
        command = [sys.executable, "-c", GERMAN, str(tmp_path / str(number))]
        ran = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=600)
        saved = storage.read_json(tmp_path / str(number) / JSON_NAME)
        for record in saved["history"]["records"]:
            del record["seconds"]
        found.append((ran.stdout, saved, (tmp_path / str(number) / TENSORS_NAME).read_bytes()))
    assert found[0] == found[1]
    assert datetime.datetime.now()  # the process itself is where it was


# ---- the same again ----


def fitted_from(loader: Any, cache: str) -> FlintExplainer:
    explain = small.explainer()
    explain.fit(loader, cache=cache, epochs=2, progress=False)
    return explain


@pytest.mark.parametrize("cache", ["memory", "off"])
def test_two_fits_with_one_seed_are_the_same_to_the_bit_whatever_the_number_of_workers(cache: str) -> None:
    def learnt(workers: int) -> tuple[Any, ...]:
        data = TensorDataset(small.images())
        loader = DataLoader(data, batch_size=8, shuffle=True, num_workers=workers, persistent_workers=False)
        torch.rand(workers + 1)  # whatever was drawn before
        explain = fitted_from(loader, cache)
        return small.weights(explain), explain.history

    first = learnt(0)
    assert all(learnt(workers) == first for workers in (0, 1, 2))


# ---- wrong from the start ----


def test_bad_calls_are_refused_before_any_pass_over_the_data(tmp_path: Path) -> None:
    ran = python("-m", "examples.mishaps.bad_calls", "--results", str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    found = storage.read_json(tmp_path / "results.json")["refusals"]
    assert len(found) == BAD_CALLS
    assert max(refusal["seconds"] for refusal in found) < 20


def test_a_classifier_that_was_never_saved_is_not_loaded(tmp_path: Path) -> None:
    explain = small.fitted()
    folder = explain.save_pretrained(tmp_path)
    with left_alone(explain.model), pytest.raises(NotAnArtifactError, match="only a fit with joint=True"):
        FlintExplainer.from_pretrained(folder, explain.model, load_classifier=True)


def test_folds_that_cannot_be_are_refused_before_the_data_is_read() -> None:
    with pytest.raises(ConfigurationError, match="folds must be at least 2"):
        small.explainer().selection(Broken(OSError(), 0), [1, 2], folds=1, progress=False)
