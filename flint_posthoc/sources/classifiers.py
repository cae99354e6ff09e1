"""Classifiers by name, and files of weights. Nothing but weights is read from those."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArtifactError, ConfigurationError
from ..storage import read_tensors

ARCHIVE_KEYS = ("state_dict", "model_state_dict", "model")  # under which training scripts keep the weights
PREFIXES = ("module.", "_orig_mod.")  # that DataParallel and torch.compile put before every name


def build_classifier(name: str, weights: Path | None = None, arguments: Mapping[str, Any] | None = None) -> nn.Module:
    """The classifier that ``name`` stands for, in evaluation mode.

    Args:
        name: timm:NAME, torchvision:NAME, transformers:NAME or package.module:factory.
        weights: a file for it; without one the families of the first three kinds fetch their published weights.
        arguments: what the factory is called with.

    Raises:
        ConfigurationError: there is no such classifier. ArtifactError: the weights cannot be read or do not fit.
    """
    kind, _, rest = name.partition(":")
    if not rest:
        expected = ", ".join(f"{family}:NAME" for family in FAMILIES)
        raise ConfigurationError(f"{name!r} names no classifier; expected {expected} or package.module:factory")
    arguments = arguments or {}
    model = _from_family(kind, rest, weights is None, arguments) if kind in FAMILIES else _from_factory(kind, rest, arguments)
    if not isinstance(model, nn.Module):
        raise ConfigurationError(f"{name} gave a {type(model).__qualname__}; expected a torch.nn.Module")
    if weights is not None:
        load_weights(model, weights)
    return model.eval()


def _from_timm(name: str, published: bool, arguments: dict[str, Any]) -> Any:
    import timm

    return timm.create_model(name, **{"pretrained": published, **arguments})


def _from_torchvision(name: str, published: bool, arguments: dict[str, Any]) -> Any:
    from torchvision.models import get_model, get_model_weights

    model, weights = get_model(name, **{"weights": "DEFAULT" if published else None, **arguments}), get_model_weights(name)
    model.transforms = weights.DEFAULT.transforms()  # what they expect, which an instance does not tell; the adapter reads it
    return model


def _from_transformers(name: str, published: bool, arguments: dict[str, Any]) -> Any:
    from transformers import AutoConfig, AutoModelForImageClassification

    if published:
        return AutoModelForImageClassification.from_pretrained(name, **arguments)
    return AutoModelForImageClassification.from_config(AutoConfig.from_pretrained(name, **arguments))


FAMILIES: dict[str, Callable[[str, bool, dict[str, Any]], Any]] = {
    "timm": _from_timm,
    "torchvision": _from_torchvision,
    "transformers": _from_transformers,
}


def _from_family(family: str, name: str, published: bool, arguments: Mapping[str, Any]) -> Any:
    try:
        return FAMILIES[family](name, published, dict(arguments))
    except Exception as error:  # each library has its own ways to say: no such model, no network, wrong arguments
        raise ConfigurationError(f"{family}:{name} cannot be had: {type(error).__name__}: {error}") from error


def _from_factory(module_name: str, factory_name: str, arguments: Mapping[str, Any]) -> Any:
    if "" not in sys.path:
        sys.path.insert(0, "")  # the user's own modules are where the command is called, as with python -m
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        families = ", ".join(FAMILIES)
        raise ConfigurationError(f"cannot import {module_name!r}: {error}; expected a module or one of {families}") from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise ConfigurationError(f"module {module_name!r} has no function or class {factory_name!r}")
    try:
        return factory(**arguments)
    except Exception as error:  # the user's own code
        raise ConfigurationError(f"{module_name}:{factory_name} failed: {type(error).__name__}: {error}") from error


def load_weights(model: nn.Module, file: Path) -> None:
    """Copy the weights in ``file`` (safetensors, or what ``torch.load(weights_only=True)`` accepts) into ``model``.

    Raises:
        ArtifactError: the file cannot be read safely, or its names or shapes are not the model's.
    """
    stored = _plain_names(_tensors_in(_read_weights(file)))
    wanted = model.state_dict()
    missing = sorted(name for name in wanted.keys() - stored.keys() if not name.endswith("num_batches_tracked"))
    unexpected = sorted(stored.keys() - wanted.keys())
    if missing or unexpected:
        raise ArtifactError(
            f"{file} does not fit the classifier: {len(missing)} weights are missing{_first(missing)}, "
            f"{len(unexpected)} have no place{_first(unexpected)}"
        )
    try:
        model.load_state_dict(stored, strict=False)
    except RuntimeError as error:
        raise ArtifactError(f"{file} does not fit the classifier: {error}") from error


def _first(names: Sequence[str]) -> str:
    return f" ({', '.join(islice(names, 3))}{', …' if len(names) > 3 else ''})" if names else ""


def _read_weights(file: Path) -> Any:
    if not file.is_file():
        raise ArtifactError(f"{file} is no file of weights")
    if file.suffix == ".safetensors":
        return read_tensors(file).tensors
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises almost anything
        reason = str(error).strip().partition("\n")[0]
        raise ArtifactError(f"{file} cannot be read as weights alone (nothing else is loaded, for safety): {reason}") from error


def _tensors_in(stored: Any) -> dict[str, Tensor]:
    """The state dict in what a training script saved."""
    while isinstance(stored, Mapping):
        inner = next((stored[key] for key in ARCHIVE_KEYS if isinstance(stored.get(key), Mapping)), None)
        if inner is None:
            return {str(name): value for name, value in stored.items() if isinstance(value, Tensor)}
        stored = inner
    raise ArtifactError(f"the file of weights holds a {type(stored).__qualname__}; expected names with tensors")


def _plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = list(tensors)
    for prefix in PREFIXES:
        if names and all(name.startswith(prefix) for name in names):
            names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, tensors.values(), strict=True))
