"""The networks and interpreters that the tables are about: each is made once, kept in a folder, and read from there afterwards."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from examples.paper import classifiers
from examples.paper.datasets import Pictures, batches, shuffled, validation_split
from examples.paper.tasks import Task
from examples.results import some
from flint_posthoc import ActivationCache, FlintConfig, FlintExplainer
from flint_posthoc.mixtures import WithMixtures
from flint_posthoc.storage import read_json, read_tensors, write_json, write_tensors


def name_of(base: str, *, images: int | None, epochs: int | None, validation: bool) -> str:
    """``base``, and what sets the validation split and quick tries apart from the whole experiment."""
    tries = (("validation", validation), (f"{epochs}-epochs", epochs), (f"{images}-images", images))
    return "-".join([base, *(words for words, asked in tries if asked)])


class Fits:
    """Everything that was learnt for one task.

    Args:
        folder: where it is kept, one folder a seed and fit.
        images: learn from and judge on about so many images only, for a quick try.  epochs: likewise.
        validation: judge on every sixth training image, and learn from the others: for choosing settings.

    Attributes:
        key: of the task, the split and the quick try; names what is kept.
    """

    def __init__(
        self,
        task: Task,
        data: Path,
        folder: Path,
        *,
        images: int | None = None,
        epochs: int | None = None,
        validation: bool = False,
    ) -> None:
        self.key = name_of(task.key, images=images, epochs=epochs, validation=validation)
        self.task, self.data, self.folder = task, data, folder / self.key
        self.images, self.epochs, self.validation = images, epochs or task.epochs, validation
        self._caches: dict[int, ActivationCache] = {}

    @cached_property
    def pictures(self) -> Pictures:
        return self.task.pictures(self.data)

    @cached_property
    def train(self) -> DataLoader:
        """The training images in order."""
        return batches(some(self._parts[0], self.images))

    @cached_property
    def mixed(self) -> DataLoader:
        """The same, and as many mixtures of them."""
        return batches(WithMixtures(self.train.dataset))

    @cached_property
    def test(self) -> DataLoader:
        """The images to judge on, in order: of the test, or of the validation split."""
        return batches(some(self._parts[1], self.images))

    @cached_property
    def _parts(self) -> tuple[Dataset, Dataset]:
        return validation_split(self.pictures) if self.validation else (self.pictures.train, self.pictures.test)

    def shuffled(self, batch_size: int | None = None) -> DataLoader:
        """Mini-batches to train f with; ``None``: of the task's size."""
        return shuffled(self.train.dataset, batch_size or self.task.batch_size, flips=self.pictures.flips)

    def minutes(self, seed: int, name: str) -> float:
        """What a fit took; of one that is there."""
        return float(read_json(self._place(seed, name) / "made.json")["minutes"])

    def base(self, seed: int) -> nn.Module:
        """BASE-f: the classifier alone."""
        place = self._place(seed, "base")
        model = self._fresh(seed)

        def make() -> None:
            classifiers.train(model, self.task, self.shuffled(), epochs=self.epochs)
            write_tensors(place / "model.safetensors", model.state_dict())

        self._once(place, make)
        model.load_state_dict(read_tensors(place / "model.safetensors").tensors)
        return model.eval()

    def post_hoc(
        self,
        seed: int,
        *,
        name: str = "post-hoc",
        config: FlintConfig | None = None,
        num_attributes: int | None = None,
        base_seed: int | None = None,
        mixtures: bool = False,
    ) -> FlintExplainer:
        """An interpreter of the BASE-f of ``base_seed`` (``None``: of ``seed``); ``name`` tells fits of one seed apart.

        ``mixtures``: learnt from mixtures of the training images too.
        """
        place = self._place(seed, name)
        base = seed if base_seed is None else base_seed
        explain = self._explainer(self.base(base), config, num_attributes)

        def make() -> None:
            if mixtures:
                explain.fit(self.mixed, seed=seed)
            else:
                explain.fit(self.train, seed=seed, cache=self._cache(base, explain))
            explain.save_pretrained(place / "interpreter")

        self._once(place, make)
        return FlintExplainer.from_pretrained(place / "interpreter", self.base(base))

    def by_design(
        self, seed: int, *, name: str = "joint", config: FlintConfig | None = None, num_attributes: int | None = None
    ) -> FlintExplainer:
        """FLINT-f and FLINT-g, learnt together from where BASE-f of this seed started."""
        place = self._place(seed, name)

        def make() -> None:
            explain = self._explainer(self._fresh(seed), config, num_attributes)
            explain.joint = True
            known, loader = place / "checkpoint", self.shuffled(explain.config.settings.batch_size)
            explain.fit(
                loader, epochs=self.epochs, seed=seed, precision=classifiers.precision(), checkpoint_dir=known, resume=any(known.glob("*"))
            )
            explain.save_pretrained(place / "interpreter")
            shutil.rmtree(known)

        self._once(place, make)
        return FlintExplainer.from_pretrained(place / "interpreter", self._fresh(seed), load_classifier=True)

    def _fresh(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return self.task.network()

    def _explainer(self, model: nn.Module, config: FlintConfig | None, num_attributes: int | None) -> FlintExplainer:
        return FlintExplainer(
            model,
            layers=self.task.layers,
            num_attributes=num_attributes or self.task.num_attributes,
            class_names=self.pictures.class_names,
            normalization=self.pictures.normalization,
            config=config or self.task.config(),
        )

    def _cache(self, seed: int, explain: FlintExplainer) -> ActivationCache | str:
        """f's activations for Ψ of the default grid are read once for all fits of a seed; another Ψ reads its own."""
        if explain.config.interpreter != FlintConfig().interpreter:
            return "auto"
        if seed not in self._caches:
            self._caches = {seed: explain.cache(self.train)}
        return self._caches[seed]

    def _place(self, seed: int, name: str) -> Path:
        return self.folder / f"seed-{seed}" / name

    def _once(self, place: Path, make: Callable[[], None]) -> None:
        if (place / "made.json").exists():
            return
        place.mkdir(parents=True, exist_ok=True)
        print(f"making {place}", flush=True)
        started = time.time()
        make()
        write_json(place / "made.json", {"minutes": (time.time() - started) / 60, "threads": torch.get_num_threads()})
