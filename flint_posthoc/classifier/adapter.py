"""What a model family must tell the plugin: its logits, its layouts, its normalisation, its good layers. And what its outputs mean."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from importlib.metadata import entry_points
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arrays import ClassIndex, Images, ImageShape, Logits, Members, PerImage, PerImageFlag, Scalar
from ..errors import ClassifierOutputError, ConfigurationError, UnsupportedClassifierError
from ..labels import class_of

ENTRY_POINTS = "flint_posthoc.adapters"


@dataclass(frozen=True)
class Normalization:
    """How pixels in [0, 1] become what the classifier sees: ``(pixels - mean) / std``, one value a channel (or one for all).

    ``estimated`` says that it was read off the data (``Normalization.from_range``) and not told by the model or the user.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    estimated: bool = False

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            given = getattr(self, name)
            object.__setattr__(self, name, tuple(map(float, given if isinstance(given, Iterable) else (given,))))
        if len(self.mean) != len(self.std) or not self.mean:
            raise ConfigurationError(f"Normalization needs one mean and one std a channel, got {len(self.mean)} and {len(self.std)}")
        if not all(value > 0 for value in self.std):
            raise ConfigurationError(f"Normalization's std must be positive, got {self.std}")
        if not all(abs(value) < 1e12 for value in (*self.mean, *self.std)) or min(self.std) < 1e-12:
            raise ConfigurationError(f"Normalization's mean and std must be numbers that pixels can be scaled by, got {self}")

    @classmethod
    def from_range(cls, low: Sequence[float], high: Sequence[float]) -> Normalization:
        """The estimate for unknown data: each channel's range [low, high] stands for [0, 1]; data inside [0, 1] is taken as it is."""
        if min(low) >= 0 and max(high) <= 1:
            return cls((0.0,) * len(low), (1.0,) * len(low), estimated=True)
        scale = [1.0 / max(top - bottom, 1e-6) for bottom, top in zip(low, high, strict=True)]
        return cls(tuple(-bottom * s for bottom, s in zip(low, scale, strict=True)), tuple(scale), estimated=True)

    @property
    def changes_nothing(self) -> bool:
        """Whether the classifier sees the pixels in [0, 1] themselves."""
        return set(self.mean) == {0.0} and set(self.std) == {1.0}

    def normalize(self, pixels: Images) -> Images:
        """From [0, 1] pixels to the classifier's input."""
        mean, std = self._like(pixels)
        return (pixels - mean) / std

    def denormalize(self, images: Images) -> Images:
        """From the classifier's input to [0, 1] pixels (not clamped)."""
        mean, std = self._like(images)
        return images * std + mean

    def _like(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if len(self.mean) not in (1, images.shape[1]):
            raise ConfigurationError(
                f"Normalization has {len(self.mean)} channels, images of shape {tuple(images.shape)} have {images.shape[1]}"
            )
        return tuple(images.new_tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))  # type: ignore[return-value]


@dataclass(frozen=True)
class Crop:
    """What a classifier is shown of a picture of another size: its middle, scaled.

    Attributes:
        share: of the shorter side, in (0, 1]; 224 of 256 pixels are 0.875.
        interpolation: one of Pillow's, by name, such as "bilinear" or "bicubic".
    """

    share: float = 1.0
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigurationError(f"the share of a picture that is shown must be in (0, 1], got {self.share}")


WHOLE = Crop()


@runtime_checkable
class OutputKind(Protocol):
    """What the classifier's logits mean. Nothing else in the code asks which kind it is."""

    @property
    def name(self) -> str: ...

    @property
    def shift_invariant(self) -> bool:
        """Whether adding one number to all logits of an image changes nothing, so that h may be stored class-centred."""
        ...

    @property
    def one_label(self) -> bool:
        """Whether an image has one class, so that labels are class numbers."""
        ...

    def class_logits(self, outputs: Tensor) -> Logits:
        """One logit a class from the classifier's outputs."""
        ...

    def members(self, logits: Logits) -> Members:
        """Which classes each image counts under."""
        ...

    def cross_entropy(self, target_logits: Logits, logits: Logits) -> PerImage:
        """H(p_target, p), natural logarithm, one value an image: equation L_of of the paper in the order -Σ p_f log p_g."""
        ...

    def entropy(self, logits: Logits) -> PerImage:
        """The floor of ``cross_entropy``: H(p, p)."""
        ...

    def prediction(self, logits: Logits) -> ClassIndex:
        """The class that is explained unless another one is asked for."""
        ...

    def decisions(self, logits: Logits) -> Tensor:
        """What is decided of each image: its class (B, 1), or of each label whether it has that (B, C)."""
        ...

    def wanted(self, labels: Tensor) -> Tensor:
        """The decisions that the labels ask for."""
        ...

    def agreement(self, first: Logits, second: Logits) -> PerImageFlag:
        """Where two sets of logits lead to the same decisions."""
        ...

    def right(self, logits: Logits, labels: Tensor) -> PerImageFlag:
        """Where the decisions are what the labels say."""
        ...

    def label_loss(self, logits: Logits, labels: Tensor, weight: Tensor | None = None, smoothing: float = 0.0) -> Scalar:
        """L_pred, used with ``joint=True`` only; ``weight``: one number a class."""
        ...


class _Deciding:
    """Images are decided alike, or rightly, where all that is decided of them is."""

    def agreement(self: OutputKind, first: Logits, second: Logits) -> PerImageFlag:
        return (self.decisions(first) == self.decisions(second)).all(dim=1)

    def right(self: OutputKind, logits: Logits, labels: Tensor) -> PerImageFlag:
        return (self.decisions(logits) == self.wanted(labels)).all(dim=1)


@dataclass(frozen=True)
class Categorical(_Deciding):
    """One class of C: softmax over (B, C) logits."""

    name: str = "categorical"
    shift_invariant: bool = True
    one_label: bool = True

    def class_logits(self, outputs: Tensor) -> Logits:
        return outputs

    def members(self, logits: Logits) -> Members:
        return F.one_hot(logits.argmax(dim=1), logits.shape[1]).bool()

    def cross_entropy(self, target_logits: Logits, logits: Logits) -> PerImage:
        return -(target_logits.softmax(dim=1) * logits.log_softmax(dim=1)).sum(dim=1)

    def entropy(self, logits: Logits) -> PerImage:
        return self.cross_entropy(logits, logits)

    def prediction(self, logits: Logits) -> ClassIndex:
        return logits.argmax(dim=1)

    def decisions(self, logits: Logits) -> Tensor:
        return self.prediction(logits)[:, None]

    def wanted(self, labels: Tensor) -> Tensor:
        return class_of(labels)[:, None]

    def label_loss(self, logits: Logits, labels: Tensor, weight: Tensor | None = None, smoothing: float = 0.0) -> Scalar:
        return F.cross_entropy(logits, labels, weight, label_smoothing=smoothing)


@dataclass(frozen=True)
class Binary(Categorical):
    """One logit z for yes against no: two classes with the logits -z/2 and z/2, whose softmax is (1 - sigmoid(z), sigmoid(z))."""

    name: str = "binary"

    def class_logits(self, outputs: Tensor) -> Logits:
        if outputs.shape[1] != 1:
            raise ClassifierOutputError(f"a binary classifier has one output, this one gave {tuple(outputs.shape)}")
        return torch.cat([-outputs / 2, outputs / 2], dim=1)


@dataclass(frozen=True)
class Multilabel(_Deciding):
    """C labels, each with a sigmoid of its own, of which an image may have several or none; L_of and L_pred are summed over them.

    Decisions agree, and are right, where all labels are. Explained unless another one is asked for: the label with the largest logit.
    """

    name: str = "multilabel"
    shift_invariant: bool = False
    one_label: bool = False

    def class_logits(self, outputs: Tensor) -> Logits:
        return outputs

    def members(self, logits: Logits) -> Members:
        return logits > 0

    def cross_entropy(self, target_logits: Logits, logits: Logits) -> PerImage:
        return F.binary_cross_entropy_with_logits(logits, target_logits.sigmoid(), reduction="none").sum(dim=1)

    def entropy(self, logits: Logits) -> PerImage:
        return self.cross_entropy(logits, logits)

    def prediction(self, logits: Logits) -> ClassIndex:
        return logits.argmax(dim=1)

    def decisions(self, logits: Logits) -> Tensor:
        return logits > 0

    def wanted(self, labels: Tensor) -> Tensor:
        return labels > 0.5

    def label_loss(self, logits: Logits, labels: Tensor, weight: Tensor | None = None, smoothing: float = 0.0) -> Scalar:
        smoothed = labels.to(logits) * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, smoothed, weight, reduction="none").sum(dim=1).mean()


OUTPUT_KINDS: dict[str, OutputKind] = {kind.name: kind for kind in (Categorical(), Binary(), Multilabel())}


def kind_of(name: str | None, adapter: ModelAdapter, model: nn.Module, outputs: int) -> OutputKind:
    """The kind called ``name``, else what the adapter says; a classifier with one output is binary. Raises ``ConfigurationError``."""
    if name is not None and name not in OUTPUT_KINDS:
        raise ConfigurationError(f"output_kind must be one of {', '.join(OUTPUT_KINDS)}, got {name!r}")
    kind = adapter.output_kind(model) if name is None else OUTPUT_KINDS[name]
    return OUTPUT_KINDS["binary"] if outputs == 1 and kind.name == "categorical" else kind


@dataclass(frozen=True)
class TapLayout:
    """How one layer's raw output becomes maps (B, channels, H, W). Found once by ``preflight``, then applied to every batch.

    ``form`` is one of "maps" (B, C, H, W), "maps_last" (B, H, W, C), "maps_flat" (B, C, H*W), "tokens" (B, N, C), "tokens_first" (N, B, C),
    "vector" (B, C).
    ``prefix`` counts class, distillation and register tokens, which have no place in the image and are left out.
    ``calls`` is how often the layer fires in one forward pass (the last call is taken); ``overwritten`` says that a later
    in-place operation writes into its output, so that a copy has to be taken; ``item`` is the place of the tensor among several.
    """

    layer: str
    form: str
    channels: int
    height: int
    width: int
    prefix: int = 0
    calls: int = 1
    overwritten: bool = False
    item: int = 0


@dataclass(frozen=True)
class Suggestion:
    """The layers an adapter would tap, in forward order, and why, in words; ``good``: all that it chose from, where it tells."""

    layers: tuple[str, ...]
    reason: str
    good: tuple[str, ...] = ()


MAIN_KEYS = ("logits", "last_hidden_state")  # under which a dict or a dataclass keeps what it is about


def tensors_in(output: Any) -> tuple[Tensor, ...]:
    """The tensors inside what a module returned, in order; those under ``MAIN_KEYS`` of a dict or dataclass come first."""
    if isinstance(output, Tensor):
        return (output,)
    if is_dataclass(output) and not isinstance(output, Mapping | type):
        output = {entry.name: getattr(output, entry.name) for entry in fields(output)}
    if isinstance(output, Mapping):
        main = [output[key] for key in MAIN_KEYS if key in output]
        output = [*main, *(value for key, value in output.items() if key not in MAIN_KEYS)]
    return tuple(tensor for value in output for tensor in tensors_in(value)) if isinstance(output, list | tuple) else ()


def first_tensor(output: Any) -> Tensor | None:
    """The tensor that stands for ``output``."""
    return next(iter(tensors_in(output)), None)


class ModelAdapter(abc.ABC):
    """What a model family must tell. Subclass ``flint_posthoc.adapters.torch_module.TorchModuleAdapter``, which answers for any
    ``nn.Module``, and override what differs; register it in the entry point group ``flint_posthoc.adapters`` or pass it as ``adapter=``.

    Attributes:
        priority: of all adapters that match a model the one with the highest is taken (0 the general one, 10 the families that ship here).
    """

    name: str = "abstract"
    priority: int = 20

    @abc.abstractmethod
    def matches(self, model: nn.Module) -> bool:
        """Whether this adapter knows the family of ``model``. Must not import the family's library."""

    def tensors(self, output: Any) -> tuple[Tensor, ...]:
        """The tensors in what a layer or the model returned; the first one of the model's stands for it."""
        return tensors_in(output)

    def raw(self, output: Any, item: int = 0) -> Tensor | None:
        """One of ``tensors``; ``None`` where there are not so many."""
        return next(iter(self.tensors(output)[item:]), None)

    @abc.abstractmethod
    def logits(self, output: Any) -> Logits:
        """The (B, C) logits in what ``model(images)`` returned. Raises ``ClassifierOutputError``."""

    @abc.abstractmethod
    def layout(self, layer: str, output: Any, images: Images, model: nn.Module) -> TapLayout:
        """How ``output``, the raw output of ``layer`` for ``images``, becomes maps. Raises ``UnmappableActivationError``."""

    @abc.abstractmethod
    def canonical(self, output: Any, layout: TapLayout) -> Tensor:
        """``output`` as maps (B, channels, H, W), by a layout found earlier. Raises ``UnmappableActivationError`` where it does not fit."""

    @abc.abstractmethod
    def suggest_layers(self, model: nn.Module, images: Images) -> Suggestion:
        """Good layers to tap: with spatial or token extent, never the head, the logits or a pooled vector. Raises ``LayerError``."""

    @abc.abstractmethod
    def normalization(self, model: nn.Module) -> Normalization | None:
        """How the model's input was normalised in training, where the model says so."""

    @abc.abstractmethod
    def input_size(self, model: nn.Module) -> ImageShape | None:
        """(channels, height, width) of an image, where the model says so."""

    def crop(self, model: nn.Module) -> Crop:
        """How pictures were cut and scaled when the model was judged, where that is known; else all of the middle square."""
        return WHOLE

    @abc.abstractmethod
    def class_names(self, model: nn.Module) -> tuple[str, ...] | None:
        """Names of the C classes, where the model knows them."""

    def output_kind(self, model: nn.Module) -> OutputKind:
        """What the logits mean."""
        return OUTPUT_KINDS["categorical"]


def find_adapter(model: nn.Module) -> ModelAdapter:
    """The installed adapter of highest priority that matches ``model`` (entry points of group ``flint_posthoc.adapters``)."""
    matching = [adapter for adapter in (entry.load()() for entry in entry_points(group=ENTRY_POINTS)) if adapter.matches(model)]
    if not matching:
        raise UnsupportedClassifierError(
            f"no installed adapter knows what to do with a {type(model).__module__}.{type(model).__qualname__}; expected a torch.nn.Module "
            "(is flint_posthoc installed rather than only on the path?)"
        )
    return max(matching, key=lambda adapter: adapter.priority)


def model_device(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer; the CPU for a model without any."""
    return next((tensor.device for source in (model.parameters(), model.buffers()) for tensor in source), torch.device("cpu"))
