"""A fitted interpreter with the classifier it explains: everything that explaining, judging and saving need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..arrays import Activations, Attributes, Images, Logits, PerImageFlag
from ..classifier.adapter import Normalization
from ..classifier.view import ClassifierView, ViewPass
from ..data import Batch, Data, Labels, batches
from .interpreter import Interpreter


class ReadBatch(NamedTuple):
    """One batch as f and g read it. Logits are over the explained classes."""

    images: Images
    labels: Tensor | None
    activations: Activations
    attributes: Attributes
    classifier_logits: Logits
    interpreter_logits: Logits
    inside: PerImageFlag  # f's unrestricted prediction is one of the explained classes
    agrees: PerImageFlag  # g decides as f does, and f's unrestricted prediction is inside


@dataclass(frozen=True)
class FittedInterpreter:
    """g and d beside f.

    Attributes:
        image_shape: (channels, height, width) of the images that the interpreter was fitted on.
        class_names: of the C explained classes.
        class_means: (C, channels, h, w), the mean training image of each class at the decoder's resolution, as the classifier sees it.
        notes: what every result has to say of itself.
        joint: f learnt beside the interpreter, rather than being left as it was.
    """

    view: ClassifierView
    interpreter: Interpreter
    image_shape: tuple[int, int, int]
    normalization: Normalization
    class_names: tuple[str, ...]
    class_means: Tensor
    notes: tuple[str, ...] = ()
    joint: bool = False

    @property
    def device(self) -> torch.device:
        return self.class_means.device

    @property
    def class_ids(self) -> tuple[int, ...]:
        """The classifier's outputs behind the class axes."""
        return tuple(range(self.view.num_classes)) if self.view.class_ids is None else self.view.class_ids

    def batches(self, data: Data, labels: Labels = "optional") -> Iterator[Batch]:
        """The checked batches of ``data``; labels, where there are any, are positions in the explained classes."""
        read = self.view.labels(labels)
        return batches(data, device=self.device, image_shape=self.image_shape, num_classes=self.view.num_classes, labels=read)

    @torch.no_grad()
    def read(self, data: Data, labels: Labels = "optional") -> Iterator[ReadBatch]:
        """One pass of f and g over ``data``, in f's own precision."""
        with self.view.frozen() as run:
            for batch in self.batches(data, labels):
                yield self._read(batch, run(batch.images))

    def _read(self, batch: Batch, passed: ViewPass) -> ReadBatch:
        attributes, logits = self.interpreter.explain(passed.activations)
        agrees = self.view.kind.agreement(passed.logits, logits) & passed.inside
        return ReadBatch(batch.images, batch.labels, passed.activations, attributes, passed.logits, logits, passed.inside, agrees)
