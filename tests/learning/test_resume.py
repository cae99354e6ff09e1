"""A fit that was killed and resumed ends where an unbroken one ends, bit for bit; a checkpoint of something else is refused."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import small
import torch
from safetensors import safe_open

from flint_posthoc import FlintExplainer
from flint_posthoc.errors import ClassifierMismatchError, ConfigurationError, DamagedArtifactError, TrainingDivergedError
from flint_posthoc.learning import trainer
from flint_posthoc.learning.checkpoint import FILE_NAME
from flint_posthoc.learning.history import FitHistory
from flint_posthoc.learning.losses import LossWeights
from flint_posthoc.learning.presets import FlintConfig
from flint_posthoc.learning.settings import FitSettings
from flint_posthoc.storage import read_tensors, write_tensors

EPOCHS, RANDOM_KILLS = 4, 2
CONFIG = FlintConfig(
    interpreter=dataclasses.replace(small.INTERPRETER, head_dropout=0.2, initial_bias=-1.5),  # attributes that are often silent
    settings=FitSettings(epochs=EPOCHS, batch_size=8, revive_after=4),
)

KILLER = """
import os, random, signal, time
import torch
torch.set_num_threads({threads})
import test_resume
from flint_posthoc.learning.checkpoint import FitCheckpoint

def fit_in_a_child(folder, kill_after):
    pid = os.fork()
    if pid:
        return pid
    save, saved = FitCheckpoint.save, []
    def save_and_die(self, *arguments):
        save(self, *arguments)
        saved.append(1)
        if len(saved) == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02)
    FitCheckpoint.save = save_and_die
    test_resume.fit(folder, cache={cache!r})
    os._exit(0)

for epoch in range(1, {epochs}):
    _, status = os.waitpid(fit_in_a_child({folder!r} + f"/epoch{{epoch}}", epoch), 0)
    assert os.WTERMSIG(status) == signal.SIGKILL, status
for moment in range({random_kills}):
    pid = fit_in_a_child({folder!r} + f"/moment{{moment}}", 0)
    time.sleep(random.Random(moment).uniform(0.05, 0.4))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""


def fit(folder: Path | str | None, *, cache: str, resume: bool = False, model: Any = None, **changes: Any) -> FlintExplainer:
    explain = small.explainer(model, **({"config": CONFIG} | changes))
    with patch.object(trainer, "CHECK_EVERY", 3):  # so that silent attributes are revived in so short a fit
        explain.fit(small.loader(small.images()), cache=cache, checkpoint_dir=folder, resume=resume, progress=False)
    return explain


@pytest.fixture
def one_thread() -> Iterator[None]:
    """A forked child that uses threads waits for ever for those that its parent had."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("cache", ["memory", "off"])
def test_killed_after_any_epoch_or_at_any_moment_a_resumed_fit_ends_as_an_unbroken_one(tmp_path: Path, cache: str) -> None:
    script = KILLER.format(
        threads=torch.get_num_threads(),
        folder=str(tmp_path),
        cache=cache,
        epochs=EPOCHS,
        random_kills=RANDOM_KILLS,
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(Path(file).parent) for file in (__file__, small.__file__))}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, timeout=240)
    unbroken = fit(None, cache=cache)
    assert any(record.revived for record in unbroken.history)
    for epoch in range(1, EPOCHS):
        folder = tmp_path / f"epoch{epoch}"
        assert (folder / FILE_NAME).exists()
        resumed = fit(folder, cache=cache, resume=True)
        assert [path.name for path in folder.iterdir()] == [FILE_NAME]
        assert resumed.history == unbroken.history
        assert small.weights(resumed) == small.weights(unbroken)
    for moment in range(RANDOM_KILLS):
        resumed = fit(tmp_path / f"moment{moment}", cache=cache, resume=True)
        assert resumed.history == unbroken.history
        assert small.weights(resumed) == small.weights(unbroken)


class Stopped(Exception):
    """Raised from a fit in the middle of an epoch."""


def stopped(folder: Path, after: int, **settings: Any) -> None:
    """A fit that ends with an error ``after`` whole epochs."""
    data, reads = small.loader(small.images()), []

    def limited() -> Any:
        for number, batch in enumerate(data):
            if len(reads) > after + 2 and number == 3:  # the first pass is a summary, the second starts the interpreter
                raise Stopped
            yield batch

    class Limited:
        shuffle = True

        def __iter__(self) -> Any:
            reads.append(1)
            return limited()

    explain = small.explainer(**({"config": CONFIG} | settings))
    with pytest.raises(Stopped), patch.object(trainer, "CHECK_EVERY", 3):
        explain.fit(Limited(), cache="off", checkpoint_dir=folder, progress=False)


def test_an_error_in_the_middle_of_an_epoch_leaves_the_last_whole_one(tmp_path: Path) -> None:
    stopped(tmp_path, 2)
    with safe_open(tmp_path / FILE_NAME, "pt") as opened:
        assert len(json.loads(opened.metadata()["history"])["records"]) == 2
    resumed, unbroken = fit(tmp_path, cache="off", resume=True), fit(None, cache="off")
    assert resumed.history == unbroken.history
    assert small.weights(resumed) == small.weights(unbroken)


def test_a_divergence_leaves_the_last_whole_epoch_behind(tmp_path: Path) -> None:
    fit(tmp_path, cache="memory")
    before = (tmp_path / FILE_NAME).read_bytes()
    explain = small.explainer(config=CONFIG)
    with pytest.raises(TrainingDivergedError):
        explain.fit(small.images(), learning_rate=1e30, checkpoint_dir=tmp_path, progress=False)
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_a_finished_fit_is_resumed_without_another_step(tmp_path: Path) -> None:
    whole = fit(tmp_path, cache="memory")
    before = (tmp_path / FILE_NAME).stat().st_mtime_ns
    again = fit(tmp_path, cache="memory", resume=True)
    assert small.weights(again) == small.weights(whole)
    assert again.history == whole.history
    assert (tmp_path / FILE_NAME).stat().st_mtime_ns == before


def test_without_resume_a_fit_starts_afresh_over_an_old_checkpoint(tmp_path: Path) -> None:
    fit(tmp_path, cache="memory", num_attributes=2)
    assert len(fit(tmp_path, cache="memory").history) == EPOCHS


def test_resuming_where_nothing_was_saved_yet_starts_from_the_beginning(tmp_path: Path) -> None:
    assert small.weights(fit(tmp_path / "new", cache="memory", resume=True)) == small.weights(fit(None, cache="memory"))


def test_resuming_without_a_folder_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="resume=True needs checkpoint_dir"):
        fit(None, cache="memory", resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": dataclasses.replace(CONFIG, weights=LossWeights(beta=0.123))}, "belongs to another fit: config"),
        ({"config": dataclasses.replace(CONFIG, settings=dataclasses.replace(CONFIG.settings, seed=5))}, "belongs to another fit: config"),
        ({"model": small.tiny(1)}, "belongs to another fit: classifier"),
        ({"num_attributes": 2}, "belongs to another fit: num_attributes"),
        ({"layers": ["conv2"]}, "belongs to another fit: layers"),
        ({"classes": [0, 1]}, "belongs to another fit: class_ids"),
    ],
)
def test_a_checkpoint_of_another_fit_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    fit(tmp_path, cache="memory")
    with pytest.raises(ClassifierMismatchError, match=message):
        fit(tmp_path, cache="memory", resume=True, **changes)


def test_a_checkpoint_over_other_data_is_refused(tmp_path: Path) -> None:
    fit(tmp_path, cache="memory")
    explain = small.explainer(config=CONFIG)
    with pytest.raises(ClassifierMismatchError, match=r"belongs to another fit: images \(saved 48, now 40\)"):
        explain.fit(small.images(40), checkpoint_dir=tmp_path, resume=True, progress=False)


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: raw[:5], lambda raw: b"", lambda raw: b"x" * 100])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: Any) -> None:
    fit(tmp_path, cache="memory")
    path = tmp_path / FILE_NAME
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedArtifactError, match=f"{FILE_NAME} is damaged"):
        fit(tmp_path, cache="memory", resume=True)


@pytest.mark.parametrize("lost", ["silent_steps", "module.head.weight", "history", "identity", "optimizer"])
def test_a_checkpoint_that_lacks_something_is_refused(tmp_path: Path, lost: str) -> None:
    fit(tmp_path, cache="memory")
    tensors, metadata = read_tensors(tmp_path / FILE_NAME)
    write_tensors(
        tmp_path / FILE_NAME,
        {name: value for name, value in tensors.items() if name != lost},
        {name: value for name, value in metadata.items() if name != lost},
    )
    with pytest.raises(DamagedArtifactError, match=r"is no (whole )?fit checkpoint"):
        fit(tmp_path, cache="memory", resume=True)


def test_a_checkpoint_without_the_optimisers_state_is_refused(tmp_path: Path) -> None:
    fit(tmp_path, cache="memory")
    tensors, metadata = read_tensors(tmp_path / FILE_NAME)
    kept = {name: value for name, value in tensors.items() if not name.startswith("optimizer.3")}
    write_tensors(tmp_path / FILE_NAME, kept, metadata)
    with pytest.raises(DamagedArtifactError, match="is no whole fit checkpoint"):
        fit(tmp_path, cache="memory", resume=True)


@pytest.mark.parametrize("joint", [False, True])
def test_moments_come_back_in_the_layout_of_their_weights(tmp_path: Path, joint: bool) -> None:
    def explainer() -> FlintExplainer:
        model = small.tiny().to(memory_format=torch.channels_last)
        if joint:
            return FlintExplainer(model, layers=small.LAYERS, num_attributes=3, config=small.CONFIG, joint=True)
        return small.explainer(model)

    def fitted(epochs: int, folder: Path | None, *, resume: bool = False) -> FlintExplainer:
        explain, pixels = explainer(), small.images()
        data = [(part, small.labels(small.tiny(), part)) for part in pixels.split(8)]
        settings = {"seed": 3, "precision": "bfloat16" if not joint else "float32", "progress": False}
        with patch.object(trainer.Trainer, "_save", _stopping_after(epochs)):
            try:
                explain.fit(data, epochs=4, checkpoint_dir=folder, resume=resume, **settings)  # type: ignore[arg-type]
            except KeyboardInterrupt:
                assert epochs < 4
        return explain

    fitted(2, tmp_path)
    resumed, unbroken = fitted(4, tmp_path, resume=True), fitted(4, None)
    assert small.weights(resumed) == small.weights(unbroken)
    assert all(map(torch.equal, resumed.model.parameters(), unbroken.model.parameters()))


def _stopping_after(epochs: int) -> Any:
    save = trainer.Trainer._save

    def stopping(self: trainer.Trainer, history: FitHistory) -> None:
        save(self, history)
        if len(history) == epochs < 4:
            raise KeyboardInterrupt

    return stopping


def test_a_checkpoint_of_other_images_is_refused(tmp_path: Path) -> None:
    def fit_to(pixels: torch.Tensor) -> None:
        small.explainer(small.tiny()).fit(pixels, epochs=2, checkpoint_dir=tmp_path, resume=True, progress=False)

    fit_to(small.images(seed=1))
    with pytest.raises(ClassifierMismatchError, match="belongs to a fit of other images"):
        fit_to(small.images(seed=2))
    fit_to(small.images(seed=1))


def test_of_settings_only_those_that_differ_are_named(tmp_path: Path) -> None:
    explain = small.explainer(small.tiny())
    explain.fit(small.images(), max_steps=6, checkpoint_dir=tmp_path, progress=False)
    with pytest.raises(ClassifierMismatchError, match=r"belongs to another fit: config\.settings\.max_steps \(saved 6, now 12\)\. Fit"):
        explain.fit(small.images(), max_steps=12, checkpoint_dir=tmp_path, resume=True, progress=False)
