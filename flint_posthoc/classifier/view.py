"""The classifier as the rest of the plugin sees it: frozen, tapped, with its logits restricted to the classes being explained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..arrays import Activations, Images, Logits, MapShape, PerImageFlag
from ..errors import ClassifierOutputError, ClassSelectionError, DevicePlacementError
from ..labels import Labels
from ..precision import autocast
from .adapter import ModelAdapter, OutputKind, TapLayout
from .taps import TappedClassifier, frozen, tapped


def check_class_ids(class_ids: tuple[int, ...], num_classes: int) -> tuple[int, ...]:
    """``class_ids`` as they are, if they name at least two different outputs of ``num_classes``. Raises ``ClassSelectionError``."""
    outside = [index for index in class_ids if not 0 <= index < num_classes]
    if outside:
        raise ClassSelectionError(f"classes={outside} are no outputs of a classifier with {num_classes} classes (0 to {num_classes - 1})")
    if len(set(class_ids)) != len(class_ids) or len(class_ids) < 2:
        raise ClassSelectionError(f"classes must name at least two different outputs, each once, got {list(class_ids)}")
    return class_ids


def model_dtype(model: nn.Module) -> torch.dtype:
    """The precision that a classifier works in: that of its first floating-point parameter, or buffer; float32 without any."""
    tensors = (*model.parameters(), *model.buffers())
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)


@dataclass(frozen=True)
class ViewPass:
    """One pass over a batch.

    Attributes:
        logits: f's over the explained classes (B, C).
        inside: (B,), where its unrestricted prediction is one of them.
    """

    activations: Activations
    logits: Logits
    inside: PerImageFlag


class OpenView:
    """A classifier view while its hooks are on."""

    def __init__(self, view: ClassifierView, run: TappedClassifier, bfloat16: bool) -> None:
        self._view, self._run, self._dtype, self._bfloat16 = view, run, model_dtype(view.model), bfloat16
        self._device = next((tensor.device for tensor in (*view.model.parameters(), *view.model.buffers())), None)

    def __call__(self, images: Images) -> ViewPass:
        """A full forward pass; logits and activations come out in float32.

        Raises:
            ClassifierOutputError: logits or activations are not finite, or there are not as many classes as there were.
        """
        self._check_device(images)
        with self._lowered(images):
            result = self._run(self._laid_out(images))
        logits = self._view.kind.class_logits(result.logits.float())
        if logits.shape[1] != self._view.num_outputs:
            raise ClassifierOutputError(
                f"the classifier gives {logits.shape[1]} classes, and gave {self._view.num_outputs} when its explainer was made: "
                "was its head replaced? Make a new explainer for it"
            )
        finite = logits.isfinite().all(dim=1)
        if not finite.all():
            raise ClassifierOutputError(f"the classifier's logits are not finite for {int((~finite).sum())} of {len(images)} images")
        activations = _floats(result.activations)
        for layer, maps in zip(self._view.layers, activations, strict=True):
            if not maps.detach().sum().isfinite() and not maps.isfinite().all():  # a sum is cheap, and may overflow
                spoilt = int((~maps.isfinite()).flatten(1).any(dim=1).sum())
                raise ClassifierOutputError(f"the output of layer {layer!r} is not finite for {spoilt} of {len(images)} images")
        return ViewPass(activations, self._view.restrict(logits), self._view.inside(logits))

    def activations(self, images: Images) -> Activations:
        """The tapped activations alone; the pass stops at the deepest tap."""
        self._check_device(images)
        with self._lowered(images):
            return _floats(self._run.activations(self._laid_out(images)))

    def _check_device(self, images: Images) -> None:
        if self._device is not None and self._device != images.device:
            raise DevicePlacementError(
                f"the classifier moved to {self._device} since its explainer was made for {images.device}; "
                f"explain.to({str(self._device)!r}) moves all of it"
            )

    def _lowered(self, images: Images) -> AbstractContextManager[object]:
        return autocast(images.device) if self._bfloat16 else nullcontext()  # the caller's own autocast stays in force

    def _laid_out(self, images: Images) -> Tensor:
        """A copy: a classifier may write into what it is given, and what it is given is decoded and shown afterwards."""
        return images.clone(memory_format=torch.channels_last) if self._bfloat16 else images.to(self._dtype, copy=True)


@dataclass(frozen=True)
class ClassifierView:
    """f, its tapped layers with their layouts, and which of its outputs are explained.

    Attributes:
        class_ids: the outputs of f that are explained, in the order of all class axes; ``None``: all of them.
    """

    model: nn.Module
    adapter: ModelAdapter
    layouts: tuple[TapLayout, ...]
    kind: OutputKind
    num_outputs: int
    class_ids: tuple[int, ...] | None = None

    @property
    def num_classes(self) -> int:
        """C, of the explained classes."""
        return self.num_outputs if self.class_ids is None else len(self.class_ids)

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(layout.layer for layout in self.layouts)

    @property
    def tap_shapes(self) -> tuple[MapShape, ...]:
        """(channels, height, width) of each tap in canonical form."""
        return tuple((layout.channels, layout.height, layout.width) for layout in self.layouts)

    def restrict(self, logits: Logits) -> Tensor:
        """f's logits over the explained classes."""
        return logits if self.class_ids is None else logits[:, list(self.class_ids)]

    def inside(self, logits: Logits) -> PerImageFlag:
        """Where f's unrestricted prediction is one of the explained classes; of several labels an image none leads outside."""
        if self.class_ids is None or not self.kind.one_label:
            return torch.ones(len(logits), dtype=torch.bool, device=logits.device)
        return torch.isin(self.kind.prediction(logits), torch.tensor(self.class_ids, device=logits.device))

    def labels(self, wanted: Labels) -> Labels:
        """What is read of the labels in data: where an image may have several, all of them if they are targets, else none."""
        if self.kind.one_label:
            return wanted
        return "label_sets" if wanted == "targets" else "ignored"

    @contextmanager
    def frozen(self, *, bfloat16: bool = False) -> Iterator[OpenView]:
        """The classifier in eval mode with its parameters fixed and hooks on the taps; as it was afterwards, whatever happens."""
        with frozen(self.model), tapped(self.model, self.adapter, self.layouts) as run:
            yield OpenView(self, run, bfloat16)

    @contextmanager
    def live(self, *, bfloat16: bool = False) -> Iterator[OpenView]:
        """The classifier as it stands, with hooks on the taps: for training it."""
        with tapped(self.model, self.adapter, self.layouts) as run:
            yield OpenView(self, run, bfloat16)


def _floats(activations: Activations) -> Activations:
    return tuple(maps.float() for maps in activations)
