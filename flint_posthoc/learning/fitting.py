"""One fit from beginning to end: where the mini-batches come from, the interpreter's start, the loop, the checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from ..arrays import is_photograph
from ..classifier.preflight import PROBABILITIES
from ..classifier.prepare import PreparedClassifier
from ..classifier.view import model_dtype
from ..data import augments, is_one_shot, seed_global_states
from ..errors import ClassifierOutputError, ConfigurationError
from ..interpreter.interpreter import Interpreter
from ..precision import autocast, lowered
from ..processes import is_main, require_same
from ..storage import fingerprint
from .batches import LearningBatch, Preparation, Survey
from .caching.cache import CachedBatches
from .checkpoint import FitCheckpoint, alone_in
from .history import AccuracyAccount, FitHistory
from .joint import FreshPasses, JointBatches, accuracy_of, frozen_parts
from .learner import Learner
from .presets import FlintConfig
from .request import FitRequest
from .sources import initial_activations, reading_of, source_of, validation_of, warn_small_batches, warn_unshuffled
from .trainer import BatchSource, Trainer

REFINE_RATE = 0.5  # of the learning rate, once f is done: at the full one g forgets what it had


class FitResult(NamedTuple):
    """What a fit gives: the interpreter, what the data was, and how it went."""

    interpreter: Interpreter
    survey: Survey
    history: FitHistory


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
    config = config.chosen(photographs=is_photograph(prepared.image_shape), joint=request.joint)
    seed_global_states(config.settings.seed)
    interpreter = new_interpreter(prepared, num_attributes, config).to(device)
    preparation = preparation_for(interpreter, prepared, device, request.precision, joint=request.joint)
    with alone_in(request.checkpoint_dir if is_main() else None):  # of several processes the main one writes
        history, survey = (_by_design if request.joint else _post_hoc)(interpreter, preparation, prepared, config, request)
    if config.interpreter.centre_head and prepared.view.kind.shift_invariant:
        interpreter.centre_head()
    return FitResult(interpreter.eval().requires_grad_(False), survey, history)


def _post_hoc(
    interpreter: Interpreter, preparation: Preparation, prepared: PreparedClassifier, config: FlintConfig, request: FitRequest
) -> tuple[FitHistory, Survey]:
    with source_of(preparation, request, config, interpreter.num_attributes) as (source, survey):
        learner = Learner(interpreter, source.components)
        learner.module.initialize_from(initial_activations(source))
        if preparation.bfloat16:
            learner.module.to(memory_format=torch.channels_last)
        validation = validation_of(preparation, request, learner.reads)
        trainer = _trainer(learner.module, prepared, source, survey, config, request, validation, bfloat16=preparation.bfloat16)
        history = trainer.fit(resume=request.resume)
        learner.finish()
        return _noted(history, source), survey


def _noted(history: FitHistory, source: BatchSource) -> FitHistory:
    note = _note(source)
    return dataclasses.replace(history, notes=(*history.notes, note)) if note else history


def _note(source: BatchSource) -> str | None:
    """What is to be said of where the activations were kept."""
    return source.cache.note if isinstance(source, CachedBatches) else None


def _by_design(
    interpreter: Interpreter, preparation: Preparation, prepared: PreparedClassifier, config: FlintConfig, request: FitRequest
) -> tuple[FitHistory, Survey]:
    """f, in training mode and with parameters that ask for gradients, learns beside the interpreter."""
    if PROBABILITIES in prepared.record.warnings:
        raise ClassifierOutputError(f"{PROBABILITIES}: L_pred and L_of would take a second softmax or sigmoid of it")
    if is_one_shot(request.data) or (request.validation is not None and is_one_shot(request.validation)):
        raise ConfigurationError("joint=True reads the data in every epoch, but this iterator can be read only once; use a DataLoader")
    model, preparation = prepared.view.model, preparation._replace(labels="targets", max_channels=None)  # components change with f
    survey = reading_of(preparation, request).survey()
    warn_unshuffled(request.data)
    warn_small_batches(survey.images // survey.batches, interpreter.num_attributes)
    source = JointBatches(preparation, request.data, config.joint, survey.batches)
    notes = _start(interpreter, source, request)
    judged = request.data if request.validation is None else request.validation
    _, before = accuracy_of(preparation, judged)
    validation = None if request.validation is None else FreshPasses(partial(preparation.passes, request.validation))
    trainer = _trainer(interpreter, prepared, source, survey, config, request, validation, model)
    history = trainer.fit(resume=request.resume)
    if config.joint.refine_steps:
        history = history.followed_by(_refine(interpreter, preparation, prepared, config, request))
    samples, after = accuracy_of(preparation, judged)
    account = AccuracyAccount("training" if request.validation is None else "validation", samples, before, after)
    frozen = frozen_parts(model)
    notes += (f"{len(frozen)} parameters were frozen and stayed as they are: {', '.join(frozen[:5])}",) if frozen else ()
    return dataclasses.replace(history, notes=(*history.notes, *notes), account=account), survey


def _refine(
    interpreter: Interpreter, preparation: Preparation, prepared: PreparedClassifier, config: FlintConfig, request: FitRequest
) -> FitHistory:
    """The interpreter learns on, f as it will be used: frozen, in evaluation mode. All loss weights stay as the schedule left them."""
    rate = REFINE_RATE * config.settings.peak
    settings = dataclasses.replace(config.settings, epochs=None, max_steps=config.joint.refine_steps, learning_rate=rate)
    config = dataclasses.replace(config, settings=settings, schedule=config.schedule_of(joint=True).at_its_end())
    cache = "off" if augments(request.data) else "auto"
    seed_global_states(settings.seed)  # of a shuffling loader's order in the cache: an interrupted fit gets here by another way
    request = dataclasses.replace(request, first_pass=request.data, cache=cache, checkpoint_dir=None, resume=False, joint=False)
    with source_of(preparation, request, config, interpreter.num_attributes) as (source, survey):
        validation = validation_of(preparation, request, lambda batch: batch)
        notes = () if settings.revive_after is None else _restart_silent(interpreter, source)
        trainer = _trainer(interpreter, prepared, source, survey, config, request, validation, bfloat16=preparation.bfloat16)
        history = _noted(trainer.fit(), source)
        return dataclasses.replace(history, notes=(*history.notes, *notes))


@torch.no_grad()
def _restart_silent(interpreter: Interpreter, source: BatchSource) -> tuple[str, ...]:
    """Begin attributes anew that no image activates any more: f moved away from them while it learnt. What is to be said of it."""
    interpreter.eval()
    fired = torch.zeros(interpreter.num_attributes, dtype=torch.bool, device=interpreter.head.weight.device)
    for batch in source.epoch(-1):
        fired |= (interpreter.explain(tuple(maps.float() for maps in batch.activations))[0] > 0).any(dim=0)
    if fired.all():
        return ()
    interpreter.restart(~fired, initial_activations(source))
    return (f"{int((~fired).sum())} of {len(fired)} attributes had fallen silent while the classifier learnt, and were begun anew",)


def _start(interpreter: Interpreter, source: JointBatches, request: FitRequest) -> tuple[str, ...]:
    """From an earlier fit where it has the same shapes, else from data; and what to say of it."""
    if request.start is not None and request.start.config == interpreter.config and _sizes(request.start) == _sizes(interpreter):
        interpreter.load_state_dict(request.start.state_dict())
        return ("the interpreter started from an earlier fit of this explainer",)
    interpreter.initialize_from(initial_activations(source))
    return ()


def _sizes(interpreter: Interpreter) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in interpreter.state_dict().items()}


def _trainer(
    interpreter: Interpreter,
    prepared: PreparedClassifier,
    source: BatchSource,
    survey: Survey,
    config: FlintConfig,
    request: FitRequest,
    validation: Iterable[LearningBatch] | None,
    classifier: nn.Module | None = None,
    bfloat16: bool = False,
) -> Trainer:
    identity = _identity(prepared, interpreter.num_attributes, config, survey, request.joint)
    note = _note(source)
    identity |= {"cache": note} if note else {}  # other precisions and orders end elsewhere
    identity |= {"components": source.components.digest} if isinstance(source, CachedBatches) and source.components else {}
    require_same("classifier, settings and data of a fit", identity)
    told = survey.mean_image if isinstance(source, CachedBatches) else None  # live images may be augmented, and never the same
    return Trainer(
        interpreter,
        prepared.view.kind,
        source,
        settings=config.settings,
        weights=config.weights,
        schedule=config.schedule_of(joint=classifier is not None),
        validation=validation,
        checkpoint=None if request.checkpoint_dir is None else FitCheckpoint(request.checkpoint_dir, identity, told),
        show_progress=request.progress,
        classifier=classifier,
        joint=config.joint,
        bfloat16=bfloat16,
    )


def new_interpreter(prepared: PreparedClassifier, num_attributes: int, config: FlintConfig) -> Interpreter:
    """An untrained interpreter for this classifier; its weights come from the global random state."""
    view = prepared.view
    return Interpreter(view.tap_shapes, prepared.image_shape, num_attributes, view.num_classes, config.interpreter)


def preparation_for(
    interpreter: Interpreter, prepared: PreparedClassifier, device: torch.device, precision: str = "auto", *, joint: bool = False
) -> Preparation:
    """How batches reach ``interpreter``; "auto" lowers the pass of a frozen f over photographs, where that pays."""
    automatic = is_photograph(prepared.image_shape) and not joint
    bfloat16 = lowered(precision, device, model_dtype(prepared.view.model), automatic=automatic)
    network = interpreter.attribute_network
    components = network.config.max_channels if network.config.learns_components else None
    resolution = interpreter.decoder.resolution
    return Preparation(prepared.view, network.reduced, resolution, prepared.image_shape, device, max_channels=components, bfloat16=bfloat16)


def _identity(prepared: PreparedClassifier, num_attributes: int, config: FlintConfig, survey: Survey, joint: bool) -> dict[str, Any]:
    """What a checkpoint must share with the fit that goes on from it."""
    own_loss = config.joint.prediction_loss
    told = dataclasses.asdict(dataclasses.replace(config, joint=dataclasses.replace(config.joint, prediction_loss=None)))
    return {
        "classifier": fingerprint(prepared.view.model),
        "layers": list(prepared.view.layers),
        "class_ids": list(prepared.view.class_ids or ()),
        "image_shape": list(prepared.image_shape),
        "num_attributes": num_attributes,
        "images": survey.images,
        "batches": survey.batches,
        "config": told,
        "joint": joint,
        "prediction_loss": getattr(own_loss, "__qualname__", type(own_loss).__qualname__),
    }
