"""Another network on the images that f and g are judged on: its logits over the explained classes, and no trace on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from torch import nn

from ..arrays import Images, Logits
from ..classifier.adapter import find_adapter, model_device
from ..classifier.taps import frozen, unwrap
from ..classifier.view import model_dtype
from ..errors import ConfigurationError
from ..interpreter.fitted import FittedInterpreter

Rival: TypeAlias = Callable[[Images], Logits]


@contextmanager
def rival(model: nn.Module, fitted: FittedInterpreter, name: str, instead: str) -> Iterator[Rival]:
    """``model`` in evaluation mode, in its own precision: images to logits over the explained classes, float32, on the CPU.

    Args:
        model: has the classifier's outputs, of which the explained ones are taken, or only the explained ones. One logit is f's kind's.
        name: what messages call it.  instead: what to pass in place of f itself.

    Raises:
        ConfigurationError: ``model`` is f itself, or (from the pass) gives another number of classes.
    """
    model = unwrap(model)
    view, adapter = fitted.view, find_adapter(model)
    if model is view.model:
        raise ConfigurationError(f"{name} is the explained classifier itself; pass {instead}")

    def answer(images: Images) -> Logits:
        """One pass, its outputs checked."""
        logits = adapter.logits(model(images.to(model_device(model), model_dtype(model), copy=True))).float().cpu()
        if logits.shape[1] == 1:
            logits = view.kind.class_logits(logits)
        if logits.shape[1] not in (view.num_outputs, view.num_classes):
            raise ConfigurationError(
                f"{name} gives {logits.shape[1]} classes, the explained classifier {view.num_outputs}, "
                f"of which {view.num_classes} are explained"
            )
        return view.restrict(logits) if logits.shape[1] == view.num_outputs else logits

    with frozen(model):
        yield answer
