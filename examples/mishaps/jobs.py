"""Jobs that are killed half-way, on a tiny classifier: what each does, and what has to be true of its folder afterwards.

Each job works in a folder of its own. ``run`` is what the child does until it is killed; ``check`` is what a later user does, and raises
``AssertionError`` where something was lost, is damaged or stays behind. ``check`` runs in another process, after every kill.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from unittest.mock import patch

import small
import torch
from models import left_alone

from flint_posthoc import ActivationCache, FlintExplainer
from flint_posthoc.artifact import JSON_NAME, TENSORS_NAME
from flint_posthoc.errors import NotAnArtifactError
from flint_posthoc.learning import trainer
from flint_posthoc.learning.caching import shards
from flint_posthoc.learning.checkpoint import FILE_NAME
from flint_posthoc.learning.presets import FlintConfig
from flint_posthoc.learning.settings import FitSettings
from flint_posthoc.report.writing import write_report
from flint_posthoc.storage import read_tensors

EPOCHS = 6
CONFIG = FlintConfig(
    interpreter=dataclasses.replace(small.INTERPRETER, head_dropout=0.2, initial_bias=-1.5),
    settings=FitSettings(epochs=EPOCHS, batch_size=8, revive_after=4),
)


class Job(Protocol):
    """Something long that may be killed."""

    def prepare(self, folder: Path) -> None:
        """What is there before."""

    def run(self, folder: Path) -> None:
        """What is killed."""

    def check(self, folder: Path) -> None:
        """Raises ``AssertionError`` unless a later user finds all there is to find, and leaves nothing behind."""


def fitted(folder: Path | None, cache: str, *, resume: bool = False, seed: int = 0) -> FlintExplainer:
    """A fit of six short epochs."""
    explain = small.explainer(config=dataclasses.replace(CONFIG, settings=dataclasses.replace(CONFIG.settings, seed=seed)))
    with patch.object(trainer, "CHECK_EVERY", 3), left_alone(explain.model):
        explain.fit(small.loader(small.images()), cache=cache, checkpoint_dir=folder, resume=resume, progress=False)
    return explain


def same(one: FlintExplainer, other: FlintExplainer) -> bool:
    """Every weight and every record of the history, bit for bit."""
    return small.weights(one) == small.weights(other) and one.history == other.history


@contextlib.contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    """The system's folder for temporary files, for a while."""
    with patch.dict(os.environ, TMPDIR=str(folder)), patch.object(tempfile, "tempdir", None):
        yield


class Fit:
    """A fit with checkpoints ends where an unbroken one ends, whichever moment it was killed at."""

    def __init__(self, cache: str) -> None:
        self.cache, self.unbroken = cache, fitted(None, cache)

    def prepare(self, folder: Path) -> None:
        (folder / "temporary").mkdir()

    def run(self, folder: Path) -> None:
        write = trainer.FitCheckpoint.save

        def noted(checkpoint: Any, *arguments: Any) -> None:
            write(checkpoint, *arguments)
            with open(folder / "whole-epochs", "ab") as notes:
                notes.write(b".")

        with patch.object(trainer.FitCheckpoint, "save", noted), temporary_files_in(folder / "temporary"):
            fitted(folder / "fit", self.cache, resume=True)

    def check(self, folder: Path) -> None:
        notes, checkpoint = folder / "whole-epochs", folder / "fit" / FILE_NAME
        noted = len(notes.read_bytes()) if notes.exists() else 0
        kept = read_tensors(checkpoint).metadata["history"].count('"epoch"') if checkpoint.exists() else 0
        assert noted <= kept <= noted + 1, f"{noted} epochs were whole, {kept} are kept"
        with temporary_files_in(folder / "temporary"):
            resumed = fitted(folder / "fit", self.cache, resume=True)
        assert same(resumed, self.unbroken), "the resumed fit ends elsewhere"
        assert os.listdir(folder / "fit") == [FILE_NAME], os.listdir(folder / "fit")
        assert os.listdir(folder / "temporary") == [], os.listdir(folder / "temporary")


class Cache:
    """A cache on disk is whole or none."""

    def __init__(self) -> None:
        self.explain = small.explainer()
        self.pixels = small.images(640)
        self.expected = self.explain.cache(self.pixels.split(32), precision="float32", progress=False)

    def prepare(self, folder: Path) -> None:
        pass

    def run(self, folder: Path) -> None:
        self._written(folder)

    def _written(self, folder: Path) -> ActivationCache:
        with patch.object(shards, "SHARD_BYTES", 64 * self.expected.rows.layout.row_bytes), left_alone(self.explain.model):
            return self.explain.cache(self.pixels.split(32), folder=folder / "cache", precision="float32", overwrite=True, progress=False)

    def check(self, folder: Path) -> None:
        (folder / "cache").mkdir(exist_ok=True)
        with contextlib.suppress(NotAnArtifactError):
            self._compare(ActivationCache.open(folder / "cache"))
        self._compare(self._written(folder))
        shards_written = [f"shard-{place:05}.safetensors" for place in range(10)]
        assert sorted(os.listdir(folder / "cache")) == ["manifest.json", *shards_written, "summary.safetensors"]

    def _compare(self, found: ActivationCache) -> None:
        every = torch.arange(len(self.expected))
        one, other = found.select(every), self.expected.select(every)
        assert len(found) == len(self.expected), f"{len(found)} images of {len(self.expected)}"
        assert all(map(torch.equal, (*one.activations, *one[1:4]), (*other.activations, *other[1:4]))), "the cache holds something else"


class Save:
    """A folder that is saved into holds one whole interpreter: an old one or a new one."""

    def __init__(self) -> None:
        self.model = small.tiny()
        self.versions = [small.explainer(self.model) for _ in range(3)]
        for seed, explain in enumerate(self.versions):
            explain.fit(small.images(), seed=seed, progress=False)

    def prepare(self, folder: Path) -> None:
        self.versions[0].save_pretrained(folder / "saved")

    def run(self, folder: Path) -> None:
        for explain in self.versions * 4:
            explain.save_pretrained(folder / "saved")

    def check(self, folder: Path) -> None:
        with left_alone(self.model):
            found = FlintExplainer.from_pretrained(folder / "saved", self.model)
        assert any(same(found, version) for version in self.versions), "the interpreter is none of those that were saved"
        self.versions[1].save_pretrained(folder / "saved")
        assert same(FlintExplainer.from_pretrained(folder / "saved", self.model), self.versions[1])
        assert sorted(os.listdir(folder / "saved")) == sorted([JSON_NAME, TENSORS_NAME]), os.listdir(folder / "saved")


class Report:
    """The file of a report is one whole page: the old one or the new one."""

    def __init__(self) -> None:
        self.explain, self.pixels = small.fitted(), small.images()

    def prepare(self, folder: Path) -> None:
        self._write(folder, "first")

    def run(self, folder: Path) -> None:
        for title in ("second", "third"):
            self._write(folder, title)

    def _write(self, folder: Path, title: str) -> None:
        with left_alone(self.explain.model):
            write_report(self.explain.fitted, folder / "report.html", self.pixels, budget_seconds=0, samples=4, title=title, progress=False)

    def check(self, folder: Path) -> None:
        page = (folder / "report.html").read_text(encoding="utf-8")
        title = page.partition("<title>")[2].partition("</title>")[0]
        assert title in ("first", "second", "third"), f"the page is called {title!r}"
        assert page.startswith("<!DOCTYPE html>"), "the page has no beginning"
        assert page.endswith("</html>"), "the page has no end"
        self._write(folder, "fourth")
        assert os.listdir(folder) == ["report.html"], os.listdir(folder)


JOBS: dict[str, Any] = {
    "fit, activations in memory": lambda: Fit("memory"),
    "fit, activations on disk": lambda: Fit("disk"),
    "fit, no cache": lambda: Fit("off"),
    "activation cache": Cache,
    "save": Save,
    "report": Report,
}
