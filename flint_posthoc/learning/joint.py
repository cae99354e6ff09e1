"""By design: f learns beside the interpreter (Algorithm 1 of the paper). What differs from a post-hoc fit is here; the loop is the same.

f's logits are detached in L_of, its activations are not: L_int shapes what f's hidden layers say, L_pred what f decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..arrays import Images, Logits, Scalar
from ..classifier.adapter import OutputKind
from ..classifier.view import OpenView, ViewPass
from ..data import Batch, Data
from ..errors import BatchFormatError, ClassifierOutputError, ConfigurationError, TrainingDivergedError
from ..memory import Halving, at_once
from ..processes import sum_
from ..splitting import own_part, own_slices
from .batches import BatchReader, LearningBatch

PredictionLoss: TypeAlias = Callable[[Logits, Tensor], Scalar]  # of logits (b, C) and classes (b,), shares or label sets (b, C)


@dataclass(frozen=True)
class JointSettings:
    """How f learns.

    Attributes:
        learning_rate: of f, with the interpreter's schedule; for a trained checkpoint a tenth of what a new network wants.
        weight_decay: of f.
        prediction_weight: of L_pred beside L_int. It keeps f to its labels and leaves the interpreter's own learning as it is; the more of
            it, the nearer f is to a classifier trained alone. 1: the paper.
        label_smoothing, class_weights: of the cross entropy that L_pred is by default; where an image may have several labels, of the
            binary ones, summed over them.
        prediction_loss: L_pred itself, in place of that: (logits (b, C), classes (b,), or shares or label sets (b, C)) → a mean.
        gradient_clip: largest norm of the gradient of f and of that of the interpreter; ``None``: as it is.
        keep_best: with validation data, end with the weights of the epoch whose f and g together were best on it.
        refit_steps: optimiser steps in which, once f is done, an interpreter is fitted to it anew, as a post-hoc fit would: the one beside
            which f learnt followed what it was on the way. "auto": as many as such a fit takes. 0: none, that one stays (the paper).
    """

    learning_rate: float = 1e-3
    weight_decay: float = 5e-4
    prediction_weight: float = 10.0
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | Sequence[float] | Tensor | NDArray[Any] | None = None  # kept as a tuple
    prediction_loss: PredictionLoss | None = None
    gradient_clip: float | None = None
    keep_best: bool = True
    refit_steps: int | str = "auto"

    def __post_init__(self) -> None:
        if self.class_weights is not None:
            object.__setattr__(self, "class_weights", tuple(map(float, self.class_weights)))
        if not (self.learning_rate > 0 and self.weight_decay >= 0 and self.prediction_weight >= 0 and 0 <= self.label_smoothing < 1):
            raise ConfigurationError(f"joint settings need a positive learning_rate, weights >= 0, label_smoothing in [0, 1): {self}")
        if self.refit_steps != "auto" and not (isinstance(self.refit_steps, int) and self.refit_steps >= 0):
            raise ConfigurationError(f"refit_steps must be 'auto' or at least 0, got {self.refit_steps!r}")
        if self.gradient_clip is not None and not self.gradient_clip > 0:
            raise ConfigurationError(f"gradient_clip must be positive or None, got {self.gradient_clip}")
        if self.prediction_loss is not None and (self.label_smoothing or self.class_weights):
            raise ConfigurationError("label_smoothing and class_weights belong to the built-in L_pred; a prediction_loss has its own")
        if self.class_weights is not None and not all(weight >= 0 for weight in self.class_weights):
            raise ConfigurationError(f"class_weights must not be negative, got {self.class_weights}")

    def check(self, kind: OutputKind, labels: Tensor, num_classes: int) -> None:
        """Raises ``ConfigurationError`` where L_pred of such labels is no number, or nothing that f could learn from."""
        if not self.loss(kind, torch.zeros(len(labels), num_classes, device=labels.device, requires_grad=True), labels).requires_grad:
            raise ConfigurationError("what prediction_loss gives has no gradient: is it detached, or computed outside of torch?")

    def loss(self, kind: OutputKind, logits: Logits, labels: Tensor) -> Scalar:
        """L_pred of one mini-batch, before its weight.

        Raises:
            ConfigurationError: class weights of another number, or a ``prediction_loss`` that gives something else than a number.
        """
        if self.prediction_loss is not None:
            return _one_number(self.prediction_loss(logits, labels))
        if self.class_weights is not None and len(self.class_weights) != logits.shape[1]:
            raise ConfigurationError(f"{len(self.class_weights)} class weights for {logits.shape[1]} classes")
        weight = None if self.class_weights is None else logits.new_tensor(self.class_weights)
        return kind.label_loss(logits, labels, weight, self.label_smoothing)


def _one_number(found: Any) -> Scalar:
    if not isinstance(found, Tensor) or found.numel() != 1:
        told = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ConfigurationError(f"prediction_loss must give the mean over the images as a tensor of one number, got {told}")
    return found.reshape(())


class JointBatches:
    """Mini-batches by design: as the user's loader gives them, f in training mode, with the graph through f. Labels are required.

    Of several processes each gives its slices of them.
    """

    def __init__(self, reader: BatchReader, data: Data, settings: JointSettings, batches_per_epoch: int | None) -> None:
        self.reader, self.data, self.settings, self.batches_per_epoch = reader, data, settings, batches_per_epoch

    def epoch(self, number: int) -> Iterator[LearningBatch]:
        """The user's own batches in the user's own order; before the first epoch (number < 0) without a graph, f as it starts."""
        if number < 0:
            yield from self.reader.passes(own_slices(self.data))
            return
        with self.reader.view.live(bfloat16=self.reader.bfloat16) as run:
            for batch in self.reader.read(own_slices(self.data)):
                yield self._learning(batch, run)

    def _learning(self, batch: Batch, run: OpenView) -> LearningBatch:
        reader, labels = self.reader, batch.labels
        passed = _one_pass(run, batch.images)
        loss = self.settings.loss(reader.view.kind, passed.logits, labels)  # type: ignore[arg-type]
        if not loss.requires_grad:
            raise ConfigurationError("no gradient goes from the loss back to the classifier: does its forward run in torch.no_grad()?")
        return reader.learning_batch(batch.images, passed, labels, loss)


def _one_pass(run: OpenView, images: Images) -> ViewPass:
    try:
        return run(images)
    except ClassifierOutputError as error:
        raise TrainingDivergedError(f"while it learnt, {error}; lower the learning rate of JointSettings") from error
    except ValueError as error:
        if len(images) > 1:
            raise
        raise BatchFormatError(f"the classifier cannot learn from a batch of one image ({error}); use drop_last=True") from error


class FreshPasses:
    """Validation for which every epoch runs f anew: by design, where f changes, and where the memory is short."""

    def __init__(self, passes: Callable[[], Iterator[LearningBatch]]) -> None:
        self._passes = passes

    def __iter__(self) -> Iterator[LearningBatch]:
        return self._passes()


@torch.no_grad()
def accuracy_of(reader: BatchReader, data: Data) -> tuple[int, float]:
    """(images, share of them on which f is right over the explained classes), f in evaluation mode, in the fit's precision."""
    images, right, part = 0, 0, own_part(data)
    view, halving = reader.view, Halving("judging", at_once(reader.image_shape, reader.device))
    with view.frozen(bfloat16=reader.bfloat16) as run:
        for batch in () if part.empty else reader.read(part.data):
            hits = halving.parts(partial(_hits, view.kind, run, batch), len(batch.images))
            images, right = images + len(batch.images), right + sum(hits)
    images, right = sum_(torch.tensor([images, right])).tolist()
    return images, right / max(1, images)


def _hits(kind: OutputKind, run: OpenView, batch: Batch, part: slice) -> int:
    return int(kind.right(run(batch.images[part]).logits, batch.labels[part]).sum())  # type: ignore[index]


def learnable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of f that learn. Raises ``ConfigurationError`` for a classifier without any."""
    found = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not found:
        raise ConfigurationError("the classifier has no parameter that could learn; joint=False explains it as it is")
    return found


def frozen_parts(model: nn.Module) -> tuple[str, ...]:
    """Names of the parameters that stay as they are because their user froze them."""
    return tuple(name for name, parameter in model.named_parameters() if not parameter.requires_grad and parameter.is_floating_point())
