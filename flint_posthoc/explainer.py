"""``FlintExplainer``: the facade. It only wires the rooms."""

from __future__ import annotations

import copy
import dataclasses
import operator
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, SupportsIndex

import torch
from torch import nn

from .arrays import Images
from .artifact import SavedExplainer, load, load_trained_classifier, save
from .classifier.adapter import ModelAdapter, Normalization, find_adapter
from .classifier.prepare import ClassifierRequest, PreparedClassifier, as_names, prepare, range_notes, synthetic_images
from .classifier.taps import check_device, no_trace, resolve_layers, trainable, unchanged_on_error, unwrap
from .data import Data, FirstPass, is_one_shot, look_at, num_images
from .errors import ClassifierOutputError, ConfigurationError, DevicePlacementError, FlintWarning, ImageShapeError, NotFitted
from .evaluation.layer_choice import LayerComparison, compare_layers
from .evaluation.selection import Selection, SizeScore, check_sizes, sweep_sizes
from .explanations import Explanations
from .hub import local_folder, upload
from .interpreter.fitted import FittedInterpreter
from .interpreter.interpreter import Interpreter
from .learning.batches import BatchReader
from .learning.cache_policy import PendingPass, disk_to_fill, memory_to_fill, own_images, warned_of_augmentation
from .learning.caching.cache import ActivationCache
from .learning.caching.folder import temporary_folder
from .learning.caching.layout import bytes_per_image
from .learning.defaults import automatic_num_attributes
from .learning.fitting import batch_reader_for, fit, learning_mode, new_interpreter
from .learning.history import FitHistory
from .learning.losses import LossWeights
from .learning.presets import FlintConfig
from .learning.request import FitRequest
from .learning.schedule import LossSchedule
from .memory import said_in_words
from .processes import alone, from_main, is_main, together
from .randomness import preserved_random_state, seed_global_states
from .splitting import own_part
from .storage import fingerprint, weights_stamp

_SHORT_OF_MEMORY = partial(said_in_words, "the fit", "keep activations on disk (cache='disk'), tap later layers, or read smaller batches")
JOINT_NOTE = "the classifier was trained together with an interpreter"
OTHER_WEIGHTS = "the classifier has other weights now than those that its interpreter was fitted to: fit again, or load them back"


class FlintExplainer(Explanations):
    """Makes an image classifier explain itself in J learned attributes.

    Args:
        model: any ``nn.Module`` that maps images (B, channels, H, W) to logits (B, C). It stays frozen, bit for bit.
        layers: names of the layers to read, as in ``model.named_modules()``; ``None``: the adapter suggests.
        num_attributes: J; ``None``: 25 for up to ten classes, 2.5 a class beyond, at most 256.
        class_names: of the explained classes, in their order, or a dict from the position of each (``id2label``).
        classes: outputs of the classifier to explain, if not all; class axes and labels are then positions in it.
        normalization: how [0, 1] pixels became the classifier's input; ``None``: the adapter's, or estimated from the data, as results say.
        input_size: (channels, height, width); ``None``: the adapter's, or the first batch decides.
        device: where to work; ``None``: where the model is. Another one moves the model.
        joint: train the classifier too (by design); may be set later, and then starts from the fitted interpreter.
        adapter: what to know of the model's family; ``None``: the installed adapter that matches.
        config: sizes, loss weights, schedule and optimisation; presets are such values.
        output_kind: "categorical", "binary" (one logit) or "multilabel" (a sigmoid a label); ``None``: by adapter; one output is binary.

    Raises:
        UnsupportedClassifierError, DevicePlacementError: the model cannot be read, or stands in two places.
        LayerError: a layer is unknown, named twice, never reached or has no map form.
        ConfigurationError: J < 1, class names of the wrong number, classes that do not exist.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        layers: Sequence[str] | None = None,
        num_attributes: SupportsIndex | None = None,
        class_names: Iterable[str] | Mapping[int, str] | None = None,
        classes: Iterable[SupportsIndex] | None = None,
        normalization: Normalization | None = None,
        input_size: Sequence[int] | None = None,
        device: torch.device | str | None = None,
        joint: bool = False,
        adapter: ModelAdapter | None = None,
        config: FlintConfig | None = None,
        output_kind: str | None = None,
    ) -> None:
        self.model = unwrap(model)
        self.device = check_device(self.model)
        self.num_attributes = None if num_attributes is None else operator.index(num_attributes)
        if self.num_attributes is not None and self.num_attributes < 1:
            raise ConfigurationError(f"num_attributes must be at least 1, got {num_attributes}")
        self.adapter = adapter or find_adapter(self.model)
        self.joint, self.config = joint, config or FlintConfig()
        self._request = ClassifierRequest(
            model=self.model,
            adapter=self.adapter,
            layers=None if layers is None else resolve_layers(self.model, layers),
            classes=None if classes is None else tuple(map(operator.index, classes)),
            class_names=as_names(class_names),
            normalization=normalization,
            output_kind=output_kind,
        )
        self._prepared: PreparedClassifier | None = None
        self._saved: SavedExplainer | None = None
        self._stamp, self._altered = weights_stamp(self.model), False  # since the fit
        if device is not None:
            self.to(device)
        self._prepare_early(input_size)

    def _prepare_early(self, input_size: Sequence[int] | None) -> None:
        if input_size is not None and not (isinstance(input_size, Sequence) and len(input_size) == 3 and min(input_size) > 0):
            raise ConfigurationError(f"input_size must be (channels, height, width), got {input_size!r}")
        shape = self.adapter.input_size(self.model) if input_size is None else (input_size[0], input_size[1], input_size[2])
        if shape is None:
            return
        try:
            self._prepare(synthetic_images(shape, self.device))
        except ImageShapeError:
            if input_size is not None:
                raise  # the adapter's word is a guess that the first batch corrects; the user's is not

    def _prepare(self, images: Images) -> PreparedClassifier:
        known = self._prepared
        if known is not None and known.image_shape == tuple(images.shape[1:]) and not known.normalization.estimated:
            return known
        self._prepared = prepare(self._request, images.to(self.device))  # an estimated pixel range has to be that of this data
        return self._prepared

    # ---- what is there ----

    @property
    def saved(self) -> SavedExplainer:
        """What a fit or an artefact gave. Raises ``NotFitted`` before ``fit`` or ``from_pretrained``."""
        if self._saved is None:
            raise NotFitted("this FlintExplainer has no interpreter yet; call fit(data), or FlintExplainer.from_pretrained(folder, model)")
        return self._saved

    @property
    def fitted(self) -> FittedInterpreter:
        """The fitted interpreter with its classifier; it says so, and warns, where that has other weights by now. Raises ``NotFitted``."""
        fitted, stamp = self.saved.fitted, weights_stamp(self.model)
        if stamp != self._stamp and not any(parameter.is_meta for parameter in self.model.parameters()):
            self._stamp, self._altered = stamp, fingerprint(self.model) != self.saved.classifier
            if self._altered:
                warnings.warn(OTHER_WEIGHTS, FlintWarning, stacklevel=3)
        return dataclasses.replace(fitted, notes=(*fitted.notes, OTHER_WEIGHTS)) if self._altered else fitted

    @property
    def interpreter(self) -> Interpreter:
        """Ψ, h and d as one ``nn.Module``."""
        return self.fitted.interpreter

    @property
    def history(self) -> FitHistory:
        """Of the last fit."""
        return self.saved.history

    @property
    def layers(self) -> tuple[str, ...] | None:
        """The tapped layers; ``None`` while they wait for a first batch to be suggested."""
        if self._saved is not None:
            return self._saved.fitted.view.layers
        return self._request.layers if self._prepared is None else self._prepared.view.layers

    @property
    def preflight(self) -> PreparedClassifier | None:
        """What a dry run found, with the reason for suggested layers; ``None`` before the size of an image is known."""
        return self._prepared

    def __repr__(self) -> str:
        state = (
            "not fitted" if self._saved is None else f"{self.interpreter.num_attributes} attributes, {len(self.fitted.class_names)} classes"
        )
        return f"FlintExplainer({type(self.model).__name__}, layers={self.layers}, {state})"

    def to(self, device: torch.device | str) -> FlintExplainer:
        """Move classifier and interpreter. Raises ``DevicePlacementError`` where the device is not to be had."""
        try:
            self.model.to(device)
        except (RuntimeError, AssertionError) as error:
            self.model.to(self.device)  # it may have got half-way
            raise DevicePlacementError(f"cannot move the classifier to {device!r}: {error}") from error
        self.device = check_device(self.model)
        if self._saved is not None:
            known = self._saved.fitted
            interpreter, means = known.interpreter.to(self.device), known.class_means.to(self.device)
            moved = dataclasses.replace(known, interpreter=interpreter, class_means=means)
            self._saved = dataclasses.replace(self._saved, fitted=moved)
        return self

    # ---- learning ----

    def fit(
        self,
        data: Data,
        *,
        validation: Data | None = None,
        epochs: SupportsIndex | None = None,
        max_steps: SupportsIndex | str = "auto",
        batch_size: SupportsIndex | None = None,
        learning_rate: float | None = None,
        weights: LossWeights | None = None,
        schedule: LossSchedule | None = None,
        seed: SupportsIndex | None = None,
        cache: str | ActivationCache = "auto",
        precision: str = "auto",
        checkpoint_dir: str | Path | None = None,
        resume: bool = False,
        progress: bool = True,
    ) -> FitHistory:
        """Learn the interpreter of the frozen classifier; labels are not needed. With ``joint`` the classifier learns too, in place.

        Args:
            data: any iterable of images, of (images, labels) or of dicts as Hugging Face loaders give; images as the classifier sees them.
                Labels, hard or soft, say of which class's mean image an image is a part; without them f says it.
            validation: the same, to judge each epoch by.
            epochs, max_steps: how long; where neither is given as long as the config says, by default what the size of the data asks for.
            batch_size, learning_rate, weights, schedule, seed: the config's, where ``None``.
            cache: where the activations of the frozen f are kept: "memory", "disk" (in half precision, in a temporary folder), "off" (f
                runs in every epoch), "auto" (the first of these that has the room), or one built before.
            precision: of f's pass and of learning from it: "float32", "bfloat16" (as autocast does it; of f's training too), or "auto":
                bfloat16 for a frozen float32 classifier of photographs, on hardware that multiplies it; weights stay in float32.
            checkpoint_dir: where the state after every epoch is kept. resume: go on from there.

        Raises:
            DataError: empty or malformed data, or with ``joint=True`` labels that are missing or out of range.
            TrainingDivergedError: a loss term became NaN. ConfigurationError: settings out of range.
        """
        length = {"epochs": _whole(epochs), "max_steps": _whole(max_steps)} if epochs is not None or max_steps != "auto" else {}
        settings = dataclasses.replace(self.config.settings, **length)
        settings = _given(settings, batch_size=batch_size, learning_rate=learning_rate, seed=seed)
        config = _given(self.config, settings=settings, weights=weights, schedule=schedule)
        with together(), _SHORT_OF_MEMORY(), trainable(self.model) if self.joint else no_trace(self.model), learning_mode(self.device):
            seed_global_states(settings.seed)  # of a shuffling loader too
            first_pass = FirstPass(own_part(data).needed())
            request = FitRequest(
                data=data,
                first_pass=first_pass,
                validation=validation,
                cache=cache,
                checkpoint_dir=checkpoint_dir,
                resume=resume,
                progress=progress and is_main(),
                joint=self.joint,
                start=None if self._saved is None else self._saved.fitted.interpreter,
                precision=precision,
            )
            first_images = from_main(lambda: first_pass.images)
            prepared = self._prepare(first_images)
            notes = (*prepared.notes, *range_notes(self._request, prepared.normalization, first_images))
            read = prepared.view.labels("targets" if self.joint else "counted")
            if self.joint:
                labels = first_pass.labels(prepared.view.num_classes, read)
                config.joint.check(prepared.view.kind, labels.to(self.device), prepared.view.num_classes)
            if validation is not None and validation is not data:  # whose first batch was looked at; a loader's workers begin anew
                look_at(validation, prepared.image_shape, prepared.view.num_classes, read)
            num_attributes = self.num_attributes or automatic_num_attributes(prepared.view.num_classes)
            result = fit(prepared, num_attributes, config, request, self.device)
        fitted = FittedInterpreter(
            view=prepared.view,
            interpreter=result.interpreter,
            image_shape=prepared.image_shape,
            normalization=prepared.normalization,
            class_names=prepared.class_names,
            class_means=result.summary.class_means.to(self.device),
            notes=(*notes, JOINT_NOTE) if self.joint else notes,
            joint=self.joint,
        )
        self._saved = SavedExplainer(fitted, result.history, self.config, fingerprint(self.model))
        self._stamp, self._altered = weights_stamp(self.model), False
        return result.history

    def cache(
        self, data: Data, *, folder: str | Path | None = None, precision: str = "auto", overwrite: bool = False, progress: bool = True
    ) -> ActivationCache:
        """f's activations over ``data``, read exactly once, for several fits: ``explain.fit(data, cache=explain.cache(data))``.

        Eight items are read twice more, and a warning says where their pixels differ (augmentation), of which the cache keeps one reading.

        Args:
            folder: where to keep them, for other processes too (``ActivationCache.open(folder)``); ``None``: in memory.
            precision: in which they are kept: "float16", "bfloat16", "float32" (f runs in it too), or "auto" (as f runs in memory, half
                on disk).
            overwrite: replace a whole cache that stands in ``folder``.

        Raises:
            DataError: empty or malformed data.  DiskSpaceError: not enough room.
            ArtifactError: ``folder`` cannot be written, or holds a whole cache.  ConfigurationError: an unknown precision.
        """
        with together(), _SHORT_OF_MEMORY(), no_trace(self.model), learning_mode(self.device):
            first_pass = FirstPass(own_part(data).needed())
            prepared = self._prepare(from_main(lambda: first_pass.images))
            reader = self._reader(prepared, "float32" if precision == "float32" else "auto")
            images = own_images(data)
            warned_of_augmentation(data, "this cache freezes as they come. Pass data without augmentation, or fit(data, cache='off')")
            reading = PendingPass(reader, data, first_pass, progress and is_main())
            return ActivationCache.build(
                reader, reading.passes("activations"), folder=folder, precision=precision, images=images, overwrite=overwrite
            )

    @preserved_random_state()
    def selection(
        self, data: Data, sizes: Iterable[SupportsIndex], *, folds: int = 3, seed: SupportsIndex = 0, progress: bool = True
    ) -> Selection:
        """How many attributes? Cross-validated fits of each size on activations that f gave once, and the smallest size that is enough.

        The activations are kept in memory where there is room for them and for those of all folds but one, else in a temporary folder.

        Raises:
            DataError; ConfigurationError: sizes below 1 or twice, fewer than two folds.
        """
        wanted = tuple(map(operator.index, sizes))
        check_sizes(wanted, folds, num_images(data))
        with alone(), ExitStack() as stack:
            folder = stack.enter_context(temporary_folder()) if self._better_on_disk(data, copies=2) else None
            cache = self.cache(data, folder=folder, progress=progress)
            prepared: PreparedClassifier = self._prepared  # type: ignore[assignment]  # the cache has just prepared it
            return sweep_sizes(prepared, cache, wanted, config=self.config, folds=folds, seed=operator.index(seed), device=self.device)

    def _better_on_disk(self, data: Data, copies: int) -> bool:
        """Whether there is room for f's activations over ``data`` on disk, and none for so many copies in memory."""
        images = num_images(data)
        if images is None or is_one_shot(data):
            return False
        reader = self._reader(self._prepare(FirstPass(data).images))
        in_memory, on_disk = (images * bytes_per_image(reader, precision) for precision in ("float32", "auto"))
        return copies * in_memory > memory_to_fill() and on_disk <= disk_to_fill()

    def _reader(self, prepared: PreparedClassifier, precision: str = "auto") -> BatchReader:
        """How batches become what a fit learns from, which no number of attributes changes."""
        return batch_reader_for(new_interpreter(prepared, 1, self.config), prepared, self.device, precision)

    @preserved_random_state()
    def compare_layers(
        self, data: Data, choices: Sequence[Sequence[str]] | None = None, *, folds: int = 3, seed: SupportsIndex = 0, progress: bool = True
    ) -> LayerComparison:
        """Which layers? Cross-validated fits on each choice, which f gives once, beside what is suggested.

        Args:
            choices: layers to read together, in each; ``None``: every good layer, then the best of them with each of the next four.

        Raises:
            DataError; LayerError: an unknown layer; ConfigurationError: fewer than two folds, or data that can be read only once.
        """
        if is_one_shot(data):
            raise ConfigurationError("each choice of layers reads the data once, but this iterator can be read only once; use a DataLoader")
        check_sizes([1], folds, num_images(data))
        wanted = None if choices is None else [resolve_layers(self.model, choice) for choice in choices]
        free = self._twin(None)._prepare(FirstPass(data).images)
        size = self.num_attributes or automatic_num_attributes(free.view.num_classes)

        def measured(layers: tuple[str, ...]) -> SizeScore:
            return self._twin(layers).selection(data, [size], folds=folds, seed=seed, progress=progress).scores[0]

        return compare_layers(measured, free.view.layers, free.good_layers, wanted, folds)

    def _twin(self, layers: tuple[str, ...] | None) -> FlintExplainer:
        """An unfitted twin that reads these layers; ``None``: suggested ones."""
        twin = copy.copy(self)
        twin._request, twin._prepared, twin._saved = dataclasses.replace(self._request, layers=layers), None, None
        return twin

    # ---- keeping ----

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write interpreter, settings and f's fingerprint into ``folder`` (JSON and safetensors, a few hundred kilobytes) and return it.

        Of several processes the main one writes, and all wait for it.

        Raises:
            NotFitted; ArtifactError where the folder cannot be written.
        """
        with together():
            return save(folder, self.saved) if is_main() else Path(folder)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        model: nn.Module,
        *,
        device: torch.device | str | None = None,
        adapter: ModelAdapter | None = None,
        allow_other_classifier: bool = False,
        load_classifier: bool = False,
    ) -> FlintExplainer:
        """A saved explainer beside the classifier that it was fitted to, with its ``config`` but for a ``prediction_loss``.

        Args:
            model: that classifier. With ``load_classifier`` a module of the same architecture, which gets the weights of the joint fit.
            folder: written by ``save_pretrained``, or the name of a repository on the Hugging Face hub.
            allow_other_classifier: insist on a classifier of another fingerprint; explanations, figures and reports then say so.

        Raises:
            NotAnArtifactError, DamagedArtifactError, ClassifierMismatchError.
        """
        module = unwrap(model)
        adapter = adapter or find_adapter(module)
        path = local_folder(folder)
        with unchanged_on_error(module) if load_classifier else nullcontext():
            if load_classifier:
                load_trained_classifier(path, module)
            with no_trace(module):
                saved = load(path, module, adapter, check_device(module), insist=allow_other_classifier)
            fitted = saved.fitted
            explainer = cls(
                module,
                layers=fitted.view.layers,
                num_attributes=fitted.interpreter.num_attributes,
                class_names=fitted.class_names,
                classes=fitted.view.class_ids,
                normalization=None if fitted.normalization.estimated else fitted.normalization,
                adapter=adapter,
                config=saved.config,
                output_kind=fitted.view.kind.name,
            )
            explainer._saved = saved
            with suppress(ImageShapeError, ClassifierOutputError):  # of noise, which says nothing of real images
                explainer._prepare(synthetic_images(fitted.image_shape, explainer.device))
            return explainer if device is None else explainer.to(device)

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload what ``save_pretrained`` writes to the Hugging Face hub and return its address."""
        with together():
            return from_main(lambda: upload(self.saved, repo_id, private, token))


def _given(config: Any, **changes: Any) -> Any:
    return dataclasses.replace(config, **{name: _whole(value) for name, value in changes.items() if value is not None})


def _whole(value: Any) -> Any:
    """A whole number of any library as Python's; anything else as it is."""
    return operator.index(value) if isinstance(value, SupportsIndex) else value
