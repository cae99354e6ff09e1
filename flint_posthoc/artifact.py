"""Save and load a fitted explainer: a folder with one JSON and one safetensors file; nothing unpickles."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .classifier.adapter import OUTPUT_KINDS, ModelAdapter, Normalization, TapLayout
from .classifier.taps import resolve_layers
from .classifier.view import ClassifierView, check_class_ids
from .errors import ArtifactError, ClassifierMismatchError, DamagedArtifactError, FlintWarning, LayerError, NotAnArtifactError
from .interpreter.fitted import FittedInterpreter
from .interpreter.interpreter import Interpreter, InterpreterConfig
from .learning.history import FitHistory
from .learning.presets import FlintConfig
from .locking import locked
from .storage import (
    TENSORS_LIMIT,
    artifact_folder,
    cannot_write,
    existing_file,
    file_digest,
    fingerprint,
    parse_json,
    read_json,
    read_tensors,
    record,
    remove_left_over,
    writable_folder,
    write_json,
    write_tensors,
)

JSON_NAME, TENSORS_NAME, CLASSIFIER_NAME, LOCK_NAME = "flint.json", "interpreter.safetensors", "classifier.safetensors", "save.lock"
INTERPRETER_LIMIT = 2 * 2**30  # bytes
FORMAT = 1
_STAYED_AS_IT_WAS = "Load the checkpoint it was fitted to, or pass allow_other_classifier=True and take what comes"
_PASS_ADAPTER = "Pass the first one as adapter=, or allow_other_classifier=True and take what comes"
_LEARNT_TOO = (
    "That one learnt beside the interpreter and was saved with it: pass load_classifier=True (--load-classifier), and this model gets its "
    "weights"
)


@dataclass(frozen=True)
class SavedExplainer:
    """What an artefact holds; f itself only where it learnt beside the interpreter (``fitted.joint``).

    Attributes:
        config: the explainer's own, which the next fit starts from; what a fit was given by keyword is not in it.
        classifier: f's fingerprint when the interpreter was fitted to it, whatever became of f since.
    """

    fitted: FittedInterpreter
    history: FitHistory
    config: FlintConfig
    classifier: str


def save(folder: str | Path, saved: SavedExplainer) -> Path:
    """Write the artefact and return its folder, which at any moment holds the whole old one or the whole new one.

    New tensors wait beside the old ones until the JSON file, which knows their digests, has been replaced.

    Raises:
        FolderInUseError: another process saves into it.  ArtifactError: the folder cannot be made or written to.
        ClassifierMismatchError: f learnt beside the interpreter, would be saved with it, and was changed since.
    """
    path = writable_folder(folder)
    fitted, identity = saved.fitted, saved.classifier
    if fitted.joint and fingerprint(fitted.view.model) != identity:
        raise ClassifierMismatchError(
            "the classifier learnt beside its interpreter and has other weights now, to which that was not fitted; "
            "save before you train on, load its weights of then, or fit again"
        )
    tensors = {f"interpreter.{name}": value for name, value in fitted.interpreter.state_dict().items()}
    files = {TENSORS_NAME: tensors | {"class_means": fitted.class_means}}
    if fitted.joint:
        files[CLASSIFIER_NAME] = fitted.view.model.state_dict()
    with locked(path / LOCK_NAME, "saves an interpreter into"):
        _settle(path)
        try:
            for name, content in files.items():
                write_tensors(_waiting(path / name), content, {"classifier": identity})
            digests = {name: file_digest(_waiting(path / name)) for name in files}
            classifier = {"fingerprint": identity, "type": type(fitted.view.model).__qualname__, "joint": fitted.joint}
            taught = digests.get(CLASSIFIER_NAME) or _still_there(path / CLASSIFIER_NAME, identity)
            classifier |= {"trained": bool(taught), "file": taught}
            write_json(path / JSON_NAME, _description(saved) | {"classifier": classifier, "tensors": digests[TENSORS_NAME]})
        finally:
            _settle(path)
    return path


def _still_there(file: Path, identity: str) -> str | None:
    """The digest of the weights of this very classifier, which an earlier fit taught and saved here; ``None`` where there are none."""
    try:
        return file_digest(file) if file.exists() and read_tensors(file).metadata.get("classifier") == identity else None
    except ArtifactError:
        return None  # a file of somebody else's


def _waiting(path: Path) -> Path:
    """Where a file stands until the JSON file speaks of it."""
    return path.with_name(f"{path.name}.new")


def _settle(path: Path) -> None:
    """Bring the waiting files that the JSON file speaks of to their places, and remove the others: those of a save that broke off."""
    try:
        told = _digests(read_json(path / JSON_NAME))
    except ArtifactError:
        told = {}
    for name in (TENSORS_NAME, CLASSIFIER_NAME):
        waiting = _waiting(path / name)
        try:
            remove_left_over(waiting)
            if waiting.exists() and file_digest(waiting) == told.get(name):
                os.replace(waiting, path / name)
            waiting.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(path / name, error) from error


def _digests(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Of the files that belong to this JSON file; of a classifier in an artefact of earlier versions none is told."""
    classifier = stored.get("classifier")
    return {TENSORS_NAME: stored.get("tensors"), CLASSIFIER_NAME: classifier.get("file") if isinstance(classifier, dict) else None}


def _file_of(path: Path, digest: Any, limit: int) -> Path:
    """``path``, or what waits to take its place, whichever has this digest. Raises ``NotAnArtifactError``, ``DamagedArtifactError``."""
    for file in [file for file in (path, _waiting(path)) if file.exists()] or [path]:
        if file_digest(existing_file(file, limit)) == digest:
            return file
    raise DamagedArtifactError(f"{path.parent} is damaged: {JSON_NAME} and {path.name} do not belong together, or one of them was altered")


def _description(saved: SavedExplainer) -> dict[str, Any]:
    fitted, view = saved.fitted, saved.fitted.view
    return {
        "format": FORMAT,
        "made_by": "flint_posthoc",
        "adapter": view.adapter.name,
        "output_kind": view.kind.name,
        "num_outputs": view.num_outputs,
        "class_ids": view.class_ids,
        "class_names": fitted.class_names,
        "image_shape": fitted.image_shape,
        "num_attributes": fitted.interpreter.num_attributes,
        "layouts": [dataclasses.asdict(layout) for layout in view.layouts],
        "interpreter": dataclasses.asdict(fitted.interpreter.config),
        "normalization": dataclasses.asdict(fitted.normalization),
        "notes": fitted.notes,
        "history": saved.history.to_dict(),
        **_settings(saved.config),
    }


def _settings(config: FlintConfig) -> dict[str, Any]:
    """What the artefact tells of ``config`` beside its sizes: nothing, with a warning, where that could not be read again."""
    try:
        told = parse_json(json.dumps(config.to_dict(), allow_nan=False))
        FlintConfig.from_dict(told)
    except (TypeError, ValueError) as error:
        _warn(f"these settings cannot be saved, and a fit of what is loaded will start from the defaults: {error}")
        return {}
    if config.joint.prediction_loss is not None:
        _warn("a prediction_loss is not saved; pass it again before a fit of what is loaded, or L_pred is the cross entropy")
    return {"config": {name: part for name, part in told.items() if name != "interpreter"}}


def _warn(message: str) -> None:
    warnings.warn(message, FlintWarning, stacklevel=2)


def _read(folder: str | Path) -> tuple[Path, dict[str, Any]]:
    """The folder and its JSON object. Raises ``NotAnArtifactError``, ``DamagedArtifactError``."""
    path = artifact_folder(folder)
    if not (path / JSON_NAME).exists():
        raise NotAnArtifactError(f"{path} holds no {JSON_NAME}; expected a folder written by FlintExplainer.save_pretrained")
    stored = read_json(path / JSON_NAME)
    if stored.get("format") != FORMAT:
        raise DamagedArtifactError(f"{path / JSON_NAME} is of format {str(stored.get('format'))[:50]}; this version reads format {FORMAT}")
    return path, stored


def load(folder: str | Path, model: nn.Module, adapter: ModelAdapter, device: torch.device, *, insist: bool = False) -> SavedExplainer:
    """Read an artefact for ``model``.

    Args:
        insist: take it although ``model`` is not the classifier that it was fitted to; every result then says so.

    Raises:
        NotAnArtifactError: the folder holds none.
        DamagedArtifactError: a file is truncated, altered, too large or of an unknown version.
        ClassifierMismatchError: it was fitted to another classifier.
    """
    path, stored = _read(folder)
    tensors = read_tensors(_file_of(path / TENSORS_NAME, stored.get("tensors"), INTERPRETER_LIMIT))
    try:
        identity = fingerprint(model)
        other = [*_other_classifier(path, stored["classifier"], model, identity), *_other_adapter(path, stored["adapter"], adapter)]
        if other and not insist:
            raise ClassifierMismatchError(". ".join(other[0]))
        layouts = tuple(_layout(layout) for layout in _list(stored["layouts"]))
        _check_layers(model, layouts, other)
        notes = tuple(note for note, _ in other)
        return _rebuild(stored, tensors.tensors, model, adapter, device, layouts, notes, identity)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise DamagedArtifactError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def load_trained_classifier(folder: str | Path, model: nn.Module) -> None:
    """Give ``model`` the weights that a joint fit left, in place.

    Raises:
        NotAnArtifactError: the folder holds none, because its fit left the classifier as it was.
        DamagedArtifactError: they do not fit the model.
    """
    path, stored_json = _read(folder)
    digest, path = _digests(stored_json)[CLASSIFIER_NAME], path / CLASSIFIER_NAME
    classifier = stored_json.get("classifier")
    if not (isinstance(classifier, dict) and classifier.get("trained")):
        raise NotAnArtifactError(f"{path.parent} holds no {CLASSIFIER_NAME}: only a fit with joint=True saves the classifier")
    stored = read_tensors(path if digest is None else _file_of(path, digest, TENSORS_LIMIT)).tensors
    wanted = {name: (value.shape, value.dtype) for name, value in model.state_dict().items()}
    found = {name: (value.shape, value.dtype) for name, value in stored.items()}
    if wanted != found:
        different = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
        raise DamagedArtifactError(f"{path} does not fit this {type(model).__qualname__}: {', '.join(different[:5])} differ")
    model.load_state_dict(stored)


def _other_classifier(path: Path, stored: Mapping[str, str], model: nn.Module, identity: str) -> list[tuple[str, str]]:
    """What to say, and to advise, where a ``model`` of this fingerprint is not the one that the interpreter was fitted to."""
    if identity == stored["fingerprint"]:
        return []
    told = (
        f"{path} was fitted to another classifier: a {stored['type']} with fingerprint {stored['fingerprint'][:12]}…, "
        f"this is a {type(model).__qualname__} with {identity[:12]}…"
    )
    return [(told, _LEARNT_TOO if stored.get("trained") else _STAYED_AS_IT_WAS)]


def _other_adapter(path: Path, stored: str, adapter: ModelAdapter) -> list[tuple[str, str]]:
    """The same where another adapter would read the classifier: its layers otherwise, and perhaps another head."""
    if stored == adapter.name:
        return []
    return [(f"{path} was fitted through the adapter {stored!r}, and this classifier is read by {adapter.name!r}", _PASS_ADAPTER)]


def _check_layers(model: nn.Module, layouts: tuple[TapLayout, ...], other: list[tuple[str, str]]) -> None:
    """Layers that another classifier does not have are its own matter: the artefact is whole."""
    try:
        resolve_layers(model, [layout.layer for layout in layouts])
    except LayerError as error:
        if not other:
            raise
        raise ClassifierMismatchError(f"{other[0][0]}, which has not the layers that were read: {error}") from error


def _rebuild(
    stored: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    model: nn.Module,
    adapter: ModelAdapter,
    device: torch.device,
    layouts: tuple[TapLayout, ...],
    notes: tuple[str, ...],
    identity: str,
) -> SavedExplainer:
    num_outputs, num_attributes = _sizes([stored["num_outputs"], stored["num_attributes"]], 2)
    class_ids = None if stored["class_ids"] is None else check_class_ids(_ints(stored["class_ids"]), num_outputs)
    view = ClassifierView(model, adapter, layouts, OUTPUT_KINDS[stored["output_kind"]], num_outputs, class_ids)
    image_shape, config = _sizes(stored["image_shape"], 3), record(InterpreterConfig, stored["interpreter"])
    with torch.device("meta"):  # sizes that the file only claims cost no memory
        interpreter = Interpreter(view.tap_shapes, image_shape, num_attributes, view.num_classes, config)
    _check_numbers(tensors)
    parts = {name.removeprefix("interpreter."): value for name, value in tensors.items() if name.startswith("interpreter.")}
    interpreter.load_state_dict(parts, assign=True)
    names, class_means = _texts(stored["class_names"]), tensors["class_means"]
    if len(names) != view.num_classes or class_means.shape != (view.num_classes, image_shape[0], *interpreter.decoder.resolution):
        raise ValueError(
            f"{len(names)} class names and class means of shape {tuple(class_means.shape)} do not fit {view.num_classes} classes"
        )
    fitted = FittedInterpreter(
        view=view,
        interpreter=interpreter.to(device).eval().requires_grad_(False),
        image_shape=image_shape,
        normalization=record(Normalization, stored["normalization"]),
        class_names=names,
        class_means=class_means.to(device),
        notes=(*_texts(stored["notes"]), *notes),
        joint=bool(stored["classifier"].get("joint", stored["classifier"].get("trained", False))),
    )
    settings = FlintConfig.from_dict(stored.get("config", {}))  # earlier versions saved none
    return SavedExplainer(fitted, FitHistory.from_dict(stored["history"]), dataclasses.replace(settings, interpreter=config), identity)


def _check_numbers(tensors: Mapping[str, torch.Tensor]) -> None:
    unusable = [name for name, value in tensors.items() if value.dtype is not torch.float32 or not value.isfinite().all()]
    if unusable:
        raise ValueError(f"expected finite float32 tensors, these are not: {unusable[:5]}")


def _layout(stored: Any) -> TapLayout:
    layout = record(TapLayout, stored)
    _sizes([layout.channels, layout.height, layout.width, layout.calls, layout.prefix + 1], 5)
    return layout


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, got {str(value)[:100]}")
    return value


def _sizes(values: Any, count: int) -> Any:
    if len(_list(values)) != count or not all(type(value) is int and 0 < value <= 2**20 for value in values):
        raise ValueError(f"expected {count} sizes between 1 and {2**20}, got {str(values)[:100]}")
    return tuple(values)


def _ints(values: Any) -> tuple[int, ...]:
    if not all(type(value) is int for value in _list(values)):
        raise TypeError(f"expected whole numbers, got {str(values)[:100]}")
    return tuple(values)


def _texts(values: Any) -> tuple[str, ...]:
    if not all(type(value) is str for value in _list(values)):
        raise TypeError(f"expected texts, got {str(values)[:100]}")
    return tuple(values)
