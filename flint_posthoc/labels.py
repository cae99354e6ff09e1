"""Labels as loaders give them: checked, and read as one class an image or as shares of the classes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .errors import BatchFormatError, FlintWarning, LabelRangeError, MissingLabelsError
from .loading import describe

Labels: TypeAlias = Literal["optional", "counted", "required", "targets", "label_sets", "ignored"]


def class_of(labels: Tensor) -> Tensor:
    """The class (b,) that each image counts under: the label, of a soft one the largest share, of several the first."""
    return labels if labels.dim() == 1 else labels.argmax(dim=1)


def _optional_labels(labels: Any, count: int, num_classes: int | None, place: str) -> Tensor | None:
    counted = _counted_labels(labels, count, num_classes, place)
    return None if counted is None else class_of(counted)


def _required_labels(labels: Any, count: int, num_classes: int | None, place: str) -> Tensor:
    if labels is None:
        raise MissingLabelsError(f"{place} has no labels, and they are needed here; expected (images, labels) or a dict with 'labels'")
    classes = _integers(labels)
    if classes is not None and tuple(classes.shape) == (count, 1):  # as a loss of one logit wants them
        classes = classes[:, 0]
    if classes is None or tuple(classes.shape) != (count,):
        raise BatchFormatError(f"{place}: labels are {describe(labels)}; expected one integer class an image, shape ({count},)")
    outside = classes[(classes < 0) | (classes >= (num_classes or torch.iinfo(torch.int64).max))]
    if len(outside):
        allowed = "0 or more" if num_classes is None else f"0 to {num_classes - 1}"
        seen = f"{len(outside)} of {count} labels, the first is {int(outside[0])}"
        raise LabelRangeError(f"{place}: labels that are no class of the classifier ({seen}); expected {allowed}")
    return classes


def _targets(labels: Any, count: int, num_classes: int | None, place: str) -> Tensor | None:
    """Classes (b,) as int64, or shares (b, num_classes) as float32 whose rows are not negative and sum to 1."""
    shares = labels if isinstance(labels, Tensor | np.ndarray) and labels.ndim == 2 and labels.shape[1] != 1 else None
    if shares is None:
        return _required_labels(labels, count, num_classes, place)
    wide = torch.as_tensor(shares).float()
    if tuple(wide.shape) != (count, num_classes) or bool((wide < 0).any()) or not bool(((wide.sum(dim=1) - 1).abs() < 1e-3).all()):
        raise BatchFormatError(
            f"{place}: soft labels are {describe(labels)}; expected shape ({count}, {num_classes}), no negative share, rows that sum to 1"
        )
    return wide


def _label_sets(labels: Any, count: int, num_classes: int | None, place: str) -> Tensor:
    """(b, num_classes), float32 in [0, 1]: of each image and label whether it has it."""
    if labels is None:
        raise MissingLabelsError(f"{place} has no labels, and they are needed here; expected (images, labels) or a dict with 'labels'")
    sets = torch.as_tensor(labels).float() if isinstance(labels, Tensor | np.ndarray) else torch.empty(0)
    if tuple(sets.shape) != (count, num_classes) or not bool(((sets >= 0) & (sets <= 1)).all()):
        raise BatchFormatError(
            f"{place}: labels of a multi-label classifier are {describe(labels)}; expected shape ({count}, {num_classes}), "
            "1 where the image has the label and 0 where it has not"
        )
    return sets


def _counted_labels(labels: Any, count: int, num_classes: int | None, place: str) -> Tensor | None:
    """As ``_targets``, but ``None`` for rows that are no shares of the classes: other classes, or several labels an image."""
    try:
        return None if labels is None else _targets(labels, count, num_classes, place)
    except BatchFormatError:
        if getattr(labels, "ndim", 1) == 2 and len(labels) == count:
            return None
        raise


def warn_left_out(labels: Any, num_classes: int | None, place: str) -> None:
    """Say that these are no labels of the classifier's classes."""
    warnings.warn(
        f"{place}: labels are {describe(labels)} and no shares of {num_classes} classes; they are not looked at, and images count under "
        "the class that the classifier gives them",
        FlintWarning,
        stacklevel=2,
    )


def other_classes(named: int | None, num_classes: int | None) -> str:
    """That labels count other classes, and what to do about it."""
    return (
        f"the data set has {named} classes, {num_classes} are explained. FlintExplainer(model, classes=[…]) explains those of the data, in "
        "their order; a target_transform makes its labels positions among the explained ones"
    )


def _ignored_labels(labels: Any, count: int, num_classes: int | None, place: str) -> None:
    return None


LABEL_POLICIES: dict[str, Callable[[Any, int, int | None, str], Tensor | None]] = {
    "optional": _optional_labels,
    "counted": _counted_labels,
    "required": _required_labels,
    "targets": _targets,
    "label_sets": _label_sets,
    "ignored": _ignored_labels,
}


def _integers(labels: Any) -> Tensor | None:
    """Labels as int64, ``None`` where they are no whole numbers. Losses of one logit want them as floats."""
    if isinstance(labels, list | tuple) and not all(isinstance(label, int | float | np.number | Tensor) for label in labels):
        return None
    tensor = torch.as_tensor(labels) if isinstance(labels, Tensor | np.ndarray | list | tuple) else None
    if tensor is None or tensor.is_complex() or (tensor.is_floating_point() and not bool((tensor == tensor.round()).all())):
        return None
    return tensor.long()
