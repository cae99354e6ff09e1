"""Options that several commands share: which classifier, what of it is read, which fitted interpreter."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.data import DataLoader

from ..arrays import ImageShape
from ..classifier.adapter import Crop, Normalization, find_adapter
from ..errors import ClassNamesError, ConfigurationError, FlintWarning
from ..explainer import FlintExplainer
from ..learning.presets import FlintConfig
from .classifiers import build_classifier
from .pictures import ImageForm, InOrder, LabelledPictures, PictureDataset, ReadablePictures, most_channels

AS_THEY_ARE = Normalization((0.0,), (1.0,))
LISTS: dict[str, tuple[type, str]] = {  # options that take several values, and what they mean
    "layers": (str, "layers to read, as in model.named_modules(); without it the adapter suggests some"),
    "classes": (int, "the classifier's outputs to explain, if not all; the folders of pictures then stand in this order"),
    "mean": (float, "the classifier's normalisation of pixels in [0, 1], one value a channel, where its family does not tell"),
    "std": (float, "see mean"),
    "size": (int, "of an image: side, or height and width, or channels, height and width, where the classifier's family does not tell"),
    "images": (Path, "files of pictures"),
}


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions:
    """Which classifier.

    Args:
        model: timm:NAME, torchvision:NAME, transformers:NAME or package.module:factory.
        weights: file of its weights, where they are not the published ones: safetensors, or what torch.load reads as weights alone.
        model_args: what the factory is called with, as JSON or YAML, for example '{"num_classes": 10}'.
        device: cpu, cuda, …; without it a GPU where there is one.
        crop: share of a picture's shorter side that the classifier is shown, where it is not what its family's published weights take.
    """

    model: str
    weights: Path | None = None
    model_args: dict[str, Any] | None = None
    device: str | None = None
    crop: float | None = None

    def build(self) -> nn.Module:
        """The classifier in evaluation mode."""
        return build_classifier(self.model, self.weights, self.model_args)

    def place(self) -> str:
        """Where to work."""
        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")

    def crop_of(self, model: nn.Module) -> Crop:
        """What ``model``, made by ``build``, is shown of a picture."""
        crop = find_adapter(model).crop(model)
        return crop if self.crop is None else replace(crop, share=self.crop)


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """What of a classifier is read, and what its pictures are.

    Args:
        output_kind: what its outputs mean, where its family does not tell or says otherwise.
    """

    layers: list[str] | None = None
    classes: list[int] | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    size: list[int] | None = None
    output_kind: Literal["categorical", "multilabel", "binary"] | None = None

    def form(self, classifier: ClassifierOptions, model: nn.Module, pictures: LabelledPictures | None) -> ImageForm:
        """How ``pictures`` become the classifier's input: by the options, else by what the adapter knows, else in colour if any has one."""
        adapter = find_adapter(model)
        told = None if self.mean is None and self.std is None else Normalization(tuple(self.mean or ()), tuple(self.std or ()))
        normalization = told or adapter.normalization(model)
        if normalization is None:
            missing = "no normalisation is known for this classifier: it gets pixels in [0, 1] as they are (--mean and --std set it)"
            warnings.warn(missing, FlintWarning, stacklevel=2)
        shape = self._told_shape() or adapter.input_size(model)
        channels = None if shape or not pictures else most_channels(pictures)
        return ImageForm(normalization or AS_THEY_ARE, shape, classifier.crop_of(model), channels)

    def _told_shape(self) -> ImageShape | None:
        if self.size is None:
            return None
        channels = 3 if self.mean is None else len(self.mean)
        numbers = {1: (channels, *self.size * 2), 2: (channels, *self.size), 3: tuple(self.size)}.get(len(self.size), (0, 0, 0))
        if min(numbers) < 1:
            raise ConfigurationError(f"size takes a side, height and width, or channels, height and width, got {self.size}")
        return numbers[0], numbers[1], numbers[2]

    def explainer(
        self,
        model: nn.Module,
        form: ImageForm,
        pictures: LabelledPictures | None,
        *,
        device: str,
        num_attributes: int | None = None,
        config: FlintConfig | None = None,
    ) -> FlintExplainer:
        """Not fitted yet. Classes that the adapter cannot name are called as the folders are, where there are as many."""
        shape = form.shape or (pictures and tuple(form(pictures[0][0]).shape))
        if not shape:
            raise ConfigurationError("the size of an image is not known for this classifier; give --size or --data")
        build = partial(
            FlintExplainer,
            model,
            layers=self.layers,
            classes=self.classes,
            normalization=form.normalization,
            input_size=(shape[0], shape[1], shape[2]),
            num_attributes=num_attributes,
            config=config,
            output_kind=self.output_kind,
            device=device,
        )
        if pictures is None or find_adapter(model).class_names(model) is not None:
            return build()
        try:
            return build(class_names=pictures.classes)
        except ClassNamesError:
            return build()


@dataclass(frozen=True, kw_only=True)
class SavedOptions:
    """Which fitted interpreter.

    Args:
        interpreter: folder that fit has written, or the name of a repository on the Hugging Face hub.
        allow_other_classifier: insist on a classifier that is not the one it was fitted to.
        load_classifier: give the classifier the weights that it learnt beside the interpreter, and that were saved with that.
    """

    interpreter: str
    allow_other_classifier: bool = False
    load_classifier: bool = False

    def load(self, classifier: ClassifierOptions) -> tuple[FlintExplainer, ImageForm]:
        """The saved explainer, and how pictures become its input."""
        explainer = FlintExplainer.from_pretrained(
            self.interpreter,
            classifier.build(),
            device=classifier.place(),
            allow_other_classifier=self.allow_other_classifier,
            load_classifier=self.load_classifier,
        )
        fitted = explainer.fitted
        if fitted.normalization.estimated and not fitted.normalization.changes_nothing:
            raise ConfigurationError(
                f"{self.interpreter} was fitted without normalization=, its pixel range was estimated: how files become the classifier's "
                "input is not known"
            )
        return explainer, ImageForm(fitted.normalization, fitted.image_shape, classifier.crop_of(explainer.model))


@dataclass(frozen=True, kw_only=True)
class LoadingOptions:
    """How pictures are read.

    Args:
        batch_size: pictures that the classifier gets at once.
        workers: processes that read pictures while the classifier works; 0: it waits for them.
        skip_unreadable: leave out pictures that cannot be read and say which, rather than stopping at the first.
    """

    batch_size: int = 64
    workers: int = 0
    skip_unreadable: bool = False

    def loader(self, pictures: LabelledPictures, form: ImageForm, names: Sequence[str], *, shuffle: bool = False) -> DataLoader[Any]:
        """Batches of ``pictures``, labelled by the explained classes: by name, or in their order; else without labels, and a warning."""
        if self.batch_size < 1 or self.workers < 0:
            raise ConfigurationError(f"batch_size must be at least 1 and workers at least 0, got {self.batch_size} and {self.workers}")
        labelled = len(pictures.classes) == len(names)
        if not labelled:
            told = f"the data has {len(pictures.classes)} classes, {len(names)} are explained (--classes chooses them)"
            warnings.warn(f"labels are left out: {told}", FlintWarning, stacklevel=2)
        elif sorted(pictures.classes) == sorted(names):
            pictures = InOrder(pictures, names)
        elif not names[0].startswith("class "):  # what stands for a name that is not known
            told = f"{pictures.classes[0]!r} for {names[0]!r}, …"
            warnings.warn(f"the folders are not called as the classes are and are taken in order: {told}", FlintWarning, stacklevel=2)
        kind = ReadablePictures if self.skip_unreadable else PictureDataset
        data = kind(pictures, form, labelled=labelled)
        return DataLoader(data, self.batch_size, shuffle=shuffle, num_workers=self.workers, collate_fn=data.collate)
