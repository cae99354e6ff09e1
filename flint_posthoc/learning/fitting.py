"""One fit from beginning to end: where the mini-batches come from, the interpreter's start, the loop, the checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ..classifier.preflight import PROBABILITIES
from ..classifier.prepare import PreparedClassifier
from ..classifier.view import model_dtype
from ..data import Data, augments, is_one_shot, seed_global_states, shuffles
from ..errors import ClassifierOutputError, ConfigurationError, EmptyDataError, FlintWarning
from ..interpreter.attributes import SMALL_IMAGE
from ..interpreter.interpreter import Interpreter
from ..precision import PRECISIONS, autocast, lowered
from ..processes import gather, gather_rows, in_step, is_main, require_same, size
from ..splitting import num_batches, own_part
from ..storage import fingerprint
from .batches import LearningBatch, LiveBatches, Preparation, Survey
from .caching.cache import ActivationCache, CachedBatches
from .checkpoint import FitCheckpoint, alone_in
from .history import AccuracyAccount, FitHistory
from .joint import FreshPasses, JointBatches, accuracy_of, frozen_parts
from .keeping import CACHES, Reading, held, kept
from .learner import Learner
from .presets import FlintConfig
from .trainer import BatchSource, Trainer

REFINE_RATE = 0.5  # of the learning rate, once f is done: at the full one g forgets what it had
INITIAL_IMAGES = 1024  # that the data-dependent initialisation looks at, at most


@dataclass(frozen=True)
class FitRequest:
    """What ``FlintExplainer.fit`` was asked, checked.

    Attributes:
        data: to be read in later epochs, where nothing is cached.  first_pass: the same data, begun.
        cache: "auto", "memory", "disk", "off", or an ``ActivationCache`` that was built before.
        checkpoint_dir: where the state after every epoch is kept.  resume: whether to go on from there.
        joint: whether f learns too.  start: an interpreter to begin with.
        precision: of f's pass and of learning from it: "float32", "bfloat16", or "auto" (bfloat16 for photographs, where it pays).
    """

    data: Data
    first_pass: Iterable[Any]
    validation: Data | None = None
    cache: str | ActivationCache = "auto"
    checkpoint_dir: str | Path | None = None
    resume: bool = False
    progress: bool = True
    joint: bool = False
    start: Interpreter | None = None
    precision: str = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.cache, ActivationCache) and self.cache not in CACHES:
            raise ConfigurationError(f"cache must be one of {sorted(CACHES)} or an ActivationCache, got {self.cache!r}")
        if self.precision not in PRECISIONS:
            raise ConfigurationError(f"precision must be one of {PRECISIONS}, got {self.precision!r}")
        if self.joint and size() > 1:
            raise ConfigurationError(
                f"joint=True trains the classifier, which {size()} processes do not share here; fit in one process, or train it first "
                "(DistributedDataParallel) and fit with joint=False"
            )
        if self.resume and self.checkpoint_dir is None:
            raise ConfigurationError("resume=True needs checkpoint_dir, the folder that holds the checkpoint")


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
    photographs = max(prepared.image_shape[1:]) > SMALL_IMAGE and not request.joint
    config = dataclasses.replace(config, settings=config.settings.chosen(photographs=photographs))
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
    with _source(preparation, request, config, interpreter.num_attributes) as (source, survey):
        learner = Learner(interpreter, source.components)
        learner.module.initialize_from(_initial_activations(source))
        if preparation.bfloat16:
            learner.module.to(memory_format=torch.channels_last)
        validation = _validation(preparation, request, learner.reads)
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
    survey = _reading(preparation, request).survey()
    _warn_unshuffled(request.data)
    _warn_small_batches(survey.images // survey.batches, interpreter.num_attributes)
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
    with _source(preparation, request, config, interpreter.num_attributes) as (source, survey):
        validation = _validation(preparation, request, lambda batch: batch)
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
    interpreter.restart(~fired, _initial_activations(source))
    return (f"{int((~fired).sum())} of {len(fired)} attributes had fallen silent while the classifier learnt, and were begun anew",)


def _validation(
    preparation: Preparation, request: FitRequest, reads: Callable[[LearningBatch], LearningBatch]
) -> Iterable[LearningBatch] | None:
    """What f says of this process's part of the validation data, as the learner ``reads`` it; kept where the memory has the room."""
    if request.validation is None:
        return None
    part = own_part(request.validation)

    def passes() -> Iterator[LearningBatch]:
        found = iter(()) if part.empty else preparation.passes(part.data)
        return (reads(batch)._replace(target=batch.target[:0]) for batch in found)  # judging redraws nothing

    found = held(passes(), at_any_price=is_one_shot(request.validation))
    if not any(gather(found is None or len(found))):
        raise EmptyDataError("the validation data holds no images")
    return FreshPasses(passes) if found is None else found


def _start(interpreter: Interpreter, source: JointBatches, request: FitRequest) -> tuple[str, ...]:
    """From an earlier fit where it has the same shapes, else from data; and what to say of it."""
    if request.start is not None and request.start.config == interpreter.config and _sizes(request.start) == _sizes(interpreter):
        interpreter.load_state_dict(request.start.state_dict())
        return ("the interpreter started from an earlier fit of this explainer",)
    interpreter.initialize_from(_initial_activations(source))
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
    photographs = max(prepared.image_shape[1:]) > SMALL_IMAGE
    bfloat16 = lowered(precision, device, model_dtype(prepared.view.model), automatic=photographs and not joint)
    network = interpreter.attribute_network
    components = network.config.max_channels if network.config.learns_components else None
    resolution = interpreter.decoder.resolution
    return Preparation(prepared.view, network.reduced, resolution, prepared.image_shape, device, max_channels=components, bfloat16=bfloat16)


def _initial_activations(source: BatchSource) -> tuple[torch.Tensor, ...]:
    """The first mini-batches of the order before the first epoch, enough of them to standardise by."""
    parts: list[tuple[torch.Tensor, ...]] = []
    for batch, _ in in_step(source.epoch(-1), LearningBatch.images, LearningBatch.none):
        parts.append(tuple(gather_rows(maps.float()) for maps in batch.activations))
        if sum(len(part[0]) for part in parts) >= INITIAL_IMAGES:
            break
    return tuple(torch.cat(tap) for tap in zip(*parts, strict=True))


@contextlib.contextmanager
def _source(
    preparation: Preparation, request: FitRequest, config: FlintConfig, num_attributes: int
) -> Iterator[tuple[CachedBatches | LiveBatches, Survey]]:
    """Mini-batches for as long as this lasts, and what one pass told of the data."""
    batch_size, reading = config.settings.batch_for(num_attributes), _reading(preparation, request)
    with kept(request.cache, reading) as cache:
        if cache is None:
            _warn_unshuffled(request.data)
            survey = reading.survey()
            per_epoch = _live_steps(request.data, survey)
            survey = survey.over_all()
            _warn_small_batches(survey.images // per_epoch, num_attributes)
            yield LiveBatches(preparation, request.data, per_epoch), survey
            return
        cache.check(preparation)
        _warn_small_batches(min(batch_size, len(cache)), num_attributes)
        narrow, bfloat16 = preparation.max_channels is not None, preparation.bfloat16
        seed, device = config.settings.seed, preparation.device
        yield CachedBatches(cache, batch_size, seed, device, in_components=narrow, bfloat16=bfloat16), cache.survey()


def _live_steps(data: Data, survey: Survey) -> int:
    """Mini-batches of one pass, each shared by all processes."""
    return survey.batches if size() == 1 else num_batches(data) or max(gather(survey.batches))


def _reading(preparation: Preparation, request: FitRequest) -> Reading:
    return Reading(preparation, request.data, request.first_pass, request.progress)


def _warn_small_batches(batch_size: int, num_attributes: int) -> None:
    if batch_size < 2 * num_attributes:
        consequence = "at batch size 1 the entropies cancel" if batch_size == 1 else "the diversity entropy sees too few images a batch"
        warnings.warn(
            f"mini-batches of {batch_size} for {num_attributes} attributes: {consequence}; use at least {2 * num_attributes}",
            FlintWarning,
            stacklevel=2,
        )


def _warn_unshuffled(data: Data) -> None:
    if shuffles(data) is False:
        warnings.warn(
            "the data is read in the same order in every epoch; shuffle it, or the diversity entropy sees one class at a time",
            FlintWarning,
            stacklevel=2,
        )


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
