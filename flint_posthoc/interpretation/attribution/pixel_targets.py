"""What is attributed to pixels: an attribute, or a class logit of g or f, one an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ...arrays import Images
from ...errors import ConfigurationError
from ...interpreter.fitted import FittedInterpreter
from ..targets import attribute_of_each, one_of_each
from .scores import ScoreFunction, attribute_scores, classifier_scores, interpreter_scores

LOGITS: dict[str, ScoreFunction] = {"interpreter": interpreter_scores, "classifier": classifier_scores}
KINDS: dict[ScoreFunction, str] = {
    attribute_scores: "attributes",
    interpreter_scores: "class logits of the interpreter",
    classifier_scores: "class logits of the classifier",
}

Wanted: TypeAlias = int | Sequence[int] | Tensor  # one for all images, or one each


@dataclass(frozen=True)
class Target:
    """What is attributed: one column (B,) of a score an image."""

    score: ScoreFunction
    columns: Tensor
    words: tuple[str, ...]

    @property
    def kind(self) -> str:
        """What the columns are, in words."""
        return KINDS[self.score]


def target_of_each(fitted: FittedInterpreter, images: int, attribute: Wanted | None, class_index: Wanted | None, of: str) -> Target:
    """The attribute or class of each of so many images, checked.

    Raises:
        ConfigurationError: both or none of them, one that does not exist, another number of them than images, an unknown ``of``.
    """
    if (attribute is None) == (class_index is None):
        raise ConfigurationError("say what to attribute to pixels: either attribute= or class_index=, one for all images or one each")
    if of not in LOGITS:
        raise ConfigurationError(f"of must be one of {', '.join(map(repr, LOGITS))}, got {of!r}")
    if attribute is not None:
        columns = attribute_of_each(attribute, images, fitted.interpreter.num_attributes)
        return Target(attribute_scores, columns, tuple(f"φ{column}" for column in columns.tolist()))
    columns = one_of_each(class_index, images, fitted.view.num_classes, "class")  # type: ignore[arg-type]
    words = tuple(f"class {fitted.class_names[column]!r} of the {of}" for column in columns.tolist())
    return Target(LOGITS[of], columns, words)


def checked_images(fitted: FittedInterpreter, images: Tensor) -> Images:
    """``images`` as the classifier sees them, checked: a copy that autograd takes, also of images made in inference mode.

    Raises:
        ImageShapeError, NonFinitePixelsError, EmptyDataError.
    """
    batch = next(fitted.batches([images]))
    with torch.inference_mode(False):
        return batch.images.clone()
