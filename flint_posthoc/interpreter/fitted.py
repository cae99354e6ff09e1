"""A fitted interpreter with the classifier it explains: everything that explaining, judging and saving need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..arrays import Activations, Attributes, Images, ImageShape, Logits, PerImageFlag
from ..classifier.adapter import Normalization
from ..classifier.view import ClassifierView, OpenView
from ..data import Batch, Data, batches, look_at
from ..errors import ConfigurationError, NonFiniteResultError
from ..labels import Labels
from ..memory import Halving, at_once
from ..precision import autocast
from ..splitting import Part
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


@dataclass(frozen=True, kw_only=True)
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
    image_shape: ImageShape
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

    def require_one_label(self, measure: str) -> None:
        """Raises ``ConfigurationError`` where an image may have several labels: ``measure`` counts classes of which an image has one."""
        if not self.view.kind.one_label:
            raise ConfigurationError(f"{measure} needs one class an image; of a multi-label classifier it is not defined")

    def look_at(self, data: Data, labels: Labels = "optional") -> None:
        """Raise now what reading the first batch would raise: before a long pass over something else."""
        look_at(data, self.image_shape, self.view.num_classes, self.view.labels(labels))

    def attributes_and_logits(self, activations: Activations) -> tuple[Attributes, Logits]:
        """Φ(x) and g's logits: f runs as the caller wants it, in autocast or not; g is no part of that."""
        with autocast(self.device, False):
            return self.interpreter.attributes_and_logits(activations)

    def redrawn(self, attributes: Attributes) -> Images:
        """d(Φ(x)) as pixels, [0, 1] up to the decoder's error, (B, channels, h, w) at its resolution; no part of autocast either."""
        with autocast(self.device, False):
            return self.normalization.denormalize(self.interpreter.decoder(attributes))

    @torch.no_grad()
    def read(self, data: Data, labels: Labels = "optional") -> Iterator[ReadBatch]:
        """One pass of f and g over ``data``, in f's own precision. On a CPU, and where the memory is short, a batch comes in parts."""
        halving = Halving("explaining", at_once(self.image_shape, self.device))
        with self.view.frozen() as run:
            for batch in self.batches(data, labels):
                yield from halving.parts(partial(self._read, batch, run), len(batch.images))

    def read_own(self, part: Part) -> Iterator[ReadBatch]:
        """The same over this process's part of data; nothing where that is empty."""
        return iter(()) if part.empty else self.read(part.data)

    @torch.no_grad()
    def read_together(self, images: Tensor) -> ReadBatch:
        """The same of one batch, in one piece, without the activations, which are the largest part of it."""
        parts = [part._replace(activations=()) for part in self.read([images])]
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _read(self, whole: Batch, run: OpenView, part: slice) -> ReadBatch:
        batch = Batch(whole.images[part], None if whole.labels is None else whole.labels[part])
        passed = run(batch.images)
        attributes, logits = self.attributes_and_logits(passed.activations)
        finite = logits.isfinite().all(dim=1) & attributes.isfinite().all(dim=1)
        if not finite.all():
            raise NonFiniteResultError(f"the interpreter's answer is not finite for {int((~finite).sum())} of {len(logits)} images")
        agrees = self.view.kind.agreement(passed.logits, logits) & passed.inside
        return ReadBatch(
            images=batch.images,
            labels=batch.labels,
            activations=passed.activations,
            attributes=attributes,
            classifier_logits=passed.logits,
            interpreter_logits=logits,
            inside=passed.inside,
            agrees=agrees,
        )


def _joined(parts: Sequence[ReadBatch]) -> ReadBatch:
    def together(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    labels = None if parts[0].labels is None else together("labels")
    names = ("images", "attributes", "classifier_logits", "interpreter_logits", "inside", "agrees")
    return ReadBatch(labels=labels, activations=(), **{name: together(name) for name in names})
