"""One fit from beginning to end: where the mini-batches come from, the interpreter's start, the loop, the checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..arrays import is_photograph
from ..classifier.preflight import PROBABILITIES
from ..classifier.prepare import PreparedClassifier
from ..classifier.view import model_dtype
from ..data import FirstPass, augments, is_one_shot
from ..errors import ClassifierOutputError, ConfigurationError
from ..interpreter.interpreter import Interpreter
from ..precision import autocast, lowered
from ..processes import gather, is_main, require_same
from ..randomness import seed_global_states
from ..splitting import own_part
from ..storage import fingerprint
from .batches import BatchReader, DataSummary, LearningBatch, LiveBatches
from .caching.cache import CachedBatches
from .checkpoint import FitCheckpoint, alone_in
from .fit_data import (
    fresh_passes,
    initial_activations,
    live_steps,
    reading_of,
    source_of,
    validation_of,
    warn_small_batches,
    warn_unshuffled,
)
from .history import AccuracyChange, FitHistory
from .joint import JointBatches, accuracy_of, frozen_parts
from .learner import Learner
from .presets import FlintConfig
from .request import FitRequest
from .trainer import BatchSource, Trainer


class FitResult(NamedTuple):
    """What a fit gives: the interpreter, what the data was, and how it went."""

    interpreter: Interpreter
    summary: DataSummary
    history: FitHistory

    def after(self, joint: FitResult) -> FitResult:
        """With the history of the fit in which f became what it is."""
        history, first = joint.history.followed_by(self.history), len(joint.history)
        told = f"once the classifier was done, an interpreter was fitted to it anew: epochs {first} to {len(history) - 1}"
        return self._replace(history=dataclasses.replace(history, notes=(*history.notes, told)))


@contextlib.contextmanager
def learning_mode(device: torch.device) -> Iterator[None]:
    """Gradients, float32 and no autocast but a fit's own, whatever the caller's mode is. To be used where the caller's modes are kept."""
    torch.set_default_dtype(torch.float32)
    with torch.inference_mode(False), torch.enable_grad(), autocast(device, False):
        yield


def fit(prepared: PreparedClassifier, num_attributes: int, config: FlintConfig, request: FitRequest, device: torch.device) -> FitResult:
    """Learn (Ψ, h, d) for the frozen classifier, or with the classifier. The global random state is reseeded: call it where that is kept.

    Raises:
        DataError, TrainingDivergedError, ConfigurationError: see ``FlintExplainer.fit``.
    """
    chosen = config.chosen(photographs=is_photograph(prepared.image_shape), joint=request.joint)
    seed_global_states(chosen.settings.seed)
    interpreter = new_interpreter(prepared, num_attributes, chosen).to(device)
    reader = batch_reader_for(interpreter, prepared, device, request.precision, joint=request.joint)
    with alone_in(request.checkpoint_dir if is_main() else None):  # of several processes the main one writes
        result = _Fit(interpreter, reader, prepared, chosen, request).run()
        if request.joint and chosen.joint.refit_steps:
            afterwards = _refit_request(request, chosen.settings.seed)
            return fit(prepared, num_attributes, _refit_config(config), afterwards, device).after(result)
    if chosen.interpreter.centre_head and prepared.view.kind.shift_invariant:
        interpreter.centre_head()
    interpreter.eval().requires_grad_(False)
    return result


def _refit_config(config: FlintConfig) -> FlintConfig:
    """For the interpreter that is fitted in the end: of f as it will be used, frozen and in evaluation mode."""
    return dataclasses.replace(config, settings=dataclasses.replace(config.settings, epochs=None, max_steps=config.joint.refit_steps))


def _refit_request(request: FitRequest, seed: int) -> FitRequest:
    """As if nothing had gone before: a shuffling loader's order hangs on the global state."""
    seed_global_states(seed)
    cache = "off" if any(gather(augments(request.data))) else request.cache
    first_pass = FirstPass(own_part(request.data).needed())
    return dataclasses.replace(request, first_pass=first_pass, cache=cache, checkpoint_dir=None, resume=False, joint=False)


@dataclass(frozen=True)
class _Fit:
    """One fit: what learns, how images reach it, from which classifier, with which settings, and what else was asked."""

    interpreter: Interpreter
    reader: BatchReader
    prepared: PreparedClassifier
    config: FlintConfig
    request: FitRequest

    def run(self) -> FitResult:
        """Whichever was asked for."""
        if not self.request.joint:
            return self.post_hoc()
        reader = self.reader._replace(labels="targets", max_channels=None)  # components change with f
        return dataclasses.replace(self, reader=reader).by_design()

    def post_hoc(self) -> FitResult:
        """The interpreter learns from a frozen f, from the beginning."""
        with self.source() as (source, summary):
            learner = Learner(self.interpreter, source.components)
            learner.module.initialize_from(initial_activations(source))
            if self.reader.bfloat16:
                learner.module.to(memory_format=torch.channels_last)
            validation = validation_of(self.reader, self.request, learner.reads)
            history = self.trainer(learner.module, source, summary, validation).fit(resume=self.request.resume)
            learner.finish()
            return FitResult(self.interpreter, summary, _noted(history, source))

    def by_design(self) -> FitResult:
        """f, in training mode and with parameters that ask for gradients, learns beside the interpreter."""
        request, reader = self.request, self.reader
        self.check_by_design()
        summary = reading_of(reader, request).summary()
        per_epoch, summary = live_steps(request.data, summary), summary.over_all()
        warn_unshuffled(request.data)
        warn_small_batches(summary.images // per_epoch, self.interpreter.num_attributes)
        source = JointBatches(reader, request.data, self.config.joint, per_epoch)
        notes = _start(self.interpreter, source, request)
        judged = request.data if request.validation is None else request.validation
        _, before = accuracy_of(reader, judged)
        validation = None if request.validation is None else fresh_passes(reader, request.validation)
        history = self.trainer(self.interpreter, source, summary, validation).fit(resume=request.resume)
        samples, after = accuracy_of(reader, judged)
        account = AccuracyChange("training" if request.validation is None else "validation", samples, before, after)
        frozen = frozen_parts(self.prepared.view.model)
        notes += (f"{len(frozen)} parameters were frozen and stayed as they are: {', '.join(frozen[:5])}",) if frozen else ()
        notes += _absent(self.prepared, summary)
        history = dataclasses.replace(history, notes=(*history.notes, *notes), account=account)
        return FitResult(self.interpreter, summary, history)

    def check_by_design(self) -> None:
        """Raises for what is good enough for a post-hoc fit only."""
        if PROBABILITIES in self.prepared.record.warnings:
            raise ClassifierOutputError(f"{PROBABILITIES}: L_pred and L_of would take a second softmax or sigmoid of it")
        if is_one_shot(self.request.data) or (self.request.validation is not None and is_one_shot(self.request.validation)):
            raise ConfigurationError("joint=True reads the data in every epoch, but this iterator can be read only once; use a DataLoader")

    def source(self) -> contextlib.AbstractContextManager[tuple[CachedBatches | LiveBatches, DataSummary]]:
        """Mini-batches for a frozen f."""
        return source_of(self.reader, self.request, self.config, self.interpreter.num_attributes)

    def trainer(
        self, learner: Interpreter, source: BatchSource, summary: DataSummary, validation: Iterable[LearningBatch] | None
    ) -> Trainer:
        """Of ``learner``, and by design of f, both in float32 then."""
        joint, folder, identity = self.request.joint, self.request.checkpoint_dir, self.identity(source, summary)
        require_same("classifier, settings and data of a fit", identity)
        told = summary.mean_image if isinstance(source, CachedBatches) else None  # live images may be augmented, and never the same
        return Trainer(
            learner,
            self.prepared.view.kind,
            source,
            settings=self.config.settings,
            weights=self.config.weights,
            schedule=self.config.schedule_of(joint=joint),
            validation=validation,
            checkpoint=None if folder is None else FitCheckpoint(folder, identity, told),
            show_progress=self.request.progress,
            classifier=self.prepared.view.model if joint else None,
            joint=self.config.joint,
            bfloat16=self.reader.bfloat16 and not joint,
        )

    def identity(self, source: BatchSource, summary: DataSummary) -> dict[str, Any]:
        """What a checkpoint must share with the fit that goes on from it."""
        own_loss, view = self.config.joint.prediction_loss, self.prepared.view
        learning = dataclasses.replace(self.config.joint, prediction_loss=None, refit_steps="auto")  # the refit comes afterwards
        told = dataclasses.asdict(dataclasses.replace(self.config, joint=learning))
        note = _note(source)
        components = source.components if isinstance(source, CachedBatches) else None
        return {
            "classifier": fingerprint(view.model),
            "layers": list(view.layers),
            "class_ids": list(view.class_ids or ()),
            "image_shape": list(self.prepared.image_shape),
            "num_attributes": self.interpreter.num_attributes,
            "images": summary.images,
            "batches": summary.batches,
            "config": told,
            "joint": self.request.joint,
            "prediction_loss": getattr(own_loss, "__qualname__", type(own_loss).__qualname__),
            **({"judged": True} if self.request.joint and self.request.validation is not None else {}),  # which chooses the epoch
            **({"cache": note} if note else {}),  # other precisions and orders end elsewhere
            **({"components": components.digest} if components else {}),
        }


def _noted(history: FitHistory, source: BatchSource) -> FitHistory:
    note = _note(source)
    return dataclasses.replace(history, notes=(*history.notes, note)) if note else history


def _note(source: BatchSource) -> str | None:
    """What is to be said of where the activations were kept."""
    return source.cache.note if isinstance(source, CachedBatches) else None


def _start(interpreter: Interpreter, source: JointBatches, request: FitRequest) -> tuple[str, ...]:
    """From an earlier fit where it has the same shapes, else from data; and what to say of it."""
    if request.start is not None and request.start.config == interpreter.config and _sizes(request.start) == _sizes(interpreter):
        interpreter.load_state_dict(request.start.state_dict())
        return ("the interpreter beside which f learnt started from an earlier fit of this explainer",)
    interpreter.initialize_from(initial_activations(source))
    return ()


def _absent(prepared: PreparedClassifier, summary: DataSummary) -> tuple[str, ...]:
    """That there are classes which f could not learn of."""
    absent = [name for name, count in zip(prepared.class_names, summary.class_counts, strict=True) if not count]
    if not absent or not prepared.view.kind.one_label:
        return ()
    return (f"no image of {len(absent)} of {len(summary.class_counts)} classes was there to learn from: {', '.join(absent[:5])}",)


def _sizes(interpreter: Interpreter) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in interpreter.state_dict().items()}


def new_interpreter(prepared: PreparedClassifier, num_attributes: int, config: FlintConfig) -> Interpreter:
    """An untrained interpreter for this classifier; its weights come from the global random state."""
    view = prepared.view
    return Interpreter(view.tap_shapes, prepared.image_shape, num_attributes, view.num_classes, config.interpreter)


def batch_reader_for(
    interpreter: Interpreter, prepared: PreparedClassifier, device: torch.device, precision: str = "auto", *, joint: bool = False
) -> BatchReader:
    """How batches reach ``interpreter``; "auto" lowers the pass of a frozen f over photographs, where that pays."""
    automatic = is_photograph(prepared.image_shape) and not joint
    bfloat16 = lowered(precision, device, model_dtype(prepared.view.model), automatic=automatic)
    network = interpreter.attribute_network
    components = network.config.max_channels if network.config.learns_components else None
    resolution = interpreter.decoder.resolution
    return BatchReader(prepared.view, network.reduced, resolution, prepared.image_shape, device, max_channels=components, bfloat16=bfloat16)
