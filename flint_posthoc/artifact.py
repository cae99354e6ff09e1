"""Save and load a fitted explainer: a folder with one JSON and one safetensors file; nothing unpickles."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .classifier.adapter import OUTPUT_KINDS, ModelAdapter, Normalization, TapLayout
from .classifier.view import ClassifierView
from .errors import ClassifierMismatchError, DamagedArtifactError, NotAnArtifactError
from .interpreter.attributes import AttributeNetworkConfig
from .interpreter.decoder import DecoderConfig
from .interpreter.fitted import FittedInterpreter
from .interpreter.interpreter import Interpreter, InterpreterConfig
from .learning.history import FitHistory
from .storage import artifact_folder, file_digest, fingerprint, read_json, read_tensors, writable_folder, write_json, write_tensors

JSON_NAME, TENSORS_NAME, CLASSIFIER_NAME = "flint.json", "interpreter.safetensors", "classifier.safetensors"
FORMAT = 1


@dataclass(frozen=True)
class SavedExplainer:
    """What an artefact holds; f itself only where it learnt beside the interpreter (``fitted.joint``)."""

    fitted: FittedInterpreter
    history: FitHistory


def save(folder: str | Path, saved: SavedExplainer) -> Path:
    """Write the artefact and return its folder. The tensors are written first, and the JSON file knows their digest.

    Raises:
        ArtifactError: the folder cannot be made or written to.
    """
    path = writable_folder(folder)
    fitted = saved.fitted
    tensors = {f"interpreter.{name}": value for name, value in fitted.interpreter.state_dict().items()} | {
        "class_means": fitted.class_means
    }
    identity = fingerprint(fitted.view.model)
    write_tensors(path / TENSORS_NAME, tensors, {"classifier": identity})
    classifier = {"fingerprint": identity, "type": type(fitted.view.model).__qualname__, "trained": fitted.joint}
    if fitted.joint:
        state = fitted.view.model.state_dict()
        write_tensors(
            path / CLASSIFIER_NAME, {name: value.detach().cpu().clone() for name, value in state.items()}, {"classifier": identity}
        )
    write_json(path / JSON_NAME, _description(saved) | {"classifier": classifier, "tensors": file_digest(path / TENSORS_NAME)})
    return path


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
    }


def load(folder: str | Path, model: nn.Module, adapter: ModelAdapter, device: torch.device, *, insist: bool = False) -> SavedExplainer:
    """Read an artefact for ``model``.

    Args:
        insist: take it although ``model`` is not the classifier that it was fitted to; every result then says so.

    Raises:
        NotAnArtifactError: the folder holds none.
        DamagedArtifactError: a file is truncated, altered, too large or of an unknown version.
        ClassifierMismatchError: it was fitted to another classifier.
    """
    path = artifact_folder(folder)
    if not (path / JSON_NAME).exists():
        raise NotAnArtifactError(f"{path} holds no {JSON_NAME}; expected a folder written by FlintExplainer.save_pretrained")
    stored = read_json(path / JSON_NAME)
    if stored.get("format") != FORMAT:
        raise DamagedArtifactError(f"{path / JSON_NAME} is of format {stored.get('format')!r}; this version reads format {FORMAT}")
    tensors = read_tensors(path / TENSORS_NAME)
    if stored.get("tensors") != file_digest(path / TENSORS_NAME):
        raise DamagedArtifactError(f"{path}: {JSON_NAME} and {TENSORS_NAME} do not belong together, or one of them was altered")
    try:
        note = _check_classifier(path, stored["classifier"], model, insist)
        return _rebuild(stored, tensors.tensors, model, adapter, device, note)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if isinstance(error, ClassifierMismatchError | DamagedArtifactError):
            raise
        raise DamagedArtifactError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def load_trained_classifier(folder: str | Path, model: nn.Module) -> None:
    """Give ``model`` the weights that a joint fit left, in place.

    Raises:
        NotAnArtifactError: the folder holds none, because its fit left the classifier as it was.
        DamagedArtifactError: they do not fit the model.
    """
    path = artifact_folder(folder) / CLASSIFIER_NAME
    if not path.exists():
        raise NotAnArtifactError(f"{path.parent} holds no {CLASSIFIER_NAME}: only a fit with joint=True saves the classifier")
    stored = read_tensors(path).tensors
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    found = {name: value.shape for name, value in stored.items()}
    if wanted != found:
        different = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
        raise DamagedArtifactError(f"{path} does not fit this {type(model).__qualname__}: {', '.join(different[:5])} differ")
    model.load_state_dict(stored)


def upload(saved: SavedExplainer, repo_id: str, private: bool, token: str | None) -> str:
    """Bring the artefact to the Hugging Face hub and return its address."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        return str(api.upload_folder(repo_id=repo_id, folder_path=save(folder, saved)))


def local_folder(folder: str | Path) -> Path:
    """``folder``, or where a repository of that name has been brought from the Hugging Face hub. Raises ``NotAnArtifactError``."""
    path = Path(folder)
    if path.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(folder)):
        return path
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(folder), allow_patterns=[JSON_NAME, TENSORS_NAME, CLASSIFIER_NAME]))
    except (OSError, ValueError) as error:  # what the hub raises: no connection, no such repository
        raise NotAnArtifactError(f"{folder} is no folder here, and no repository to be had from the Hugging Face hub: {error}") from error


def _check_classifier(path: Path, stored: Mapping[str, str], model: nn.Module, insist: bool) -> tuple[str, ...]:
    found = fingerprint(model)
    if found == stored["fingerprint"]:
        return ()
    message = (
        f"{path} was fitted to another classifier: a {stored['type']} with fingerprint {stored['fingerprint'][:12]}…, "
        f"this is a {type(model).__qualname__} with {found[:12]}…"
    )
    if not insist:
        raise ClassifierMismatchError(
            f"{message}. Load the checkpoint it was fitted to, or pass allow_other_classifier=True and take what comes"
        )
    return (message,)


def _rebuild(
    stored: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    model: nn.Module,
    adapter: ModelAdapter,
    device: torch.device,
    note: tuple[str, ...],
) -> SavedExplainer:
    layouts = tuple(TapLayout(**layout) for layout in stored["layouts"])
    class_ids = None if stored["class_ids"] is None else tuple(stored["class_ids"])
    view = ClassifierView(model, adapter, layouts, OUTPUT_KINDS[stored["output_kind"]], stored["num_outputs"], class_ids)
    image_shape = _sizes(stored["image_shape"], 3)
    num_attributes, config = _sizes([stored["num_attributes"]], 1)[0], _interpreter_config(stored["interpreter"])
    with torch.device("meta"):  # sizes that the file only claims cost no memory
        interpreter = Interpreter(view.tap_shapes, image_shape, num_attributes, view.num_classes, config)
    _fill(interpreter, {name.removeprefix("interpreter."): value for name, value in tensors.items() if name.startswith("interpreter.")})
    names = tuple(str(name) for name in stored["class_names"])
    class_means = tensors["class_means"]
    if len(names) != view.num_classes or class_means.shape != (view.num_classes, image_shape[0], *interpreter.decoder.resolution):
        raise ValueError(
            f"{len(names)} class names and class means of shape {tuple(class_means.shape)} do not fit {view.num_classes} classes"
        )
    told = stored["normalization"]
    normalization = Normalization(tuple(told["mean"]), tuple(told["std"]), told["estimated"])
    fitted = FittedInterpreter(
        view,
        interpreter.to(device).eval().requires_grad_(False),
        image_shape,
        normalization,
        names,
        class_means.to(device),
        (*map(str, stored["notes"]), *note),
        bool(stored["classifier"].get("trained", False)),
    )
    return SavedExplainer(fitted, FitHistory.from_dict(stored["history"]))


def _fill(interpreter: Interpreter, tensors: Mapping[str, torch.Tensor]) -> None:
    unusable = [name for name, value in tensors.items() if value.dtype is not torch.float32 or not value.isfinite().all()]
    if unusable:
        raise ValueError(f"expected finite float32 tensors, these are not: {unusable}")
    interpreter.load_state_dict(tensors, assign=True)


def _sizes(values: Any, count: int) -> Any:
    if len(values) != count or not all(type(value) is int and 0 < value <= 2**20 for value in values):
        raise ValueError(f"expected {count} sizes between 1 and {2**20}, got {values!r}")
    return tuple(values)


def _interpreter_config(stored: Mapping[str, Any]) -> InterpreterConfig:
    decoder = stored["decoder"]
    channels = None if decoder["channels"] is None else tuple(decoder["channels"])
    parts = {
        "attributes": AttributeNetworkConfig(**stored["attributes"]),
        "decoder": DecoderConfig(**{**decoder, "channels": channels}),
    }
    return InterpreterConfig(**{**stored, **parts})
