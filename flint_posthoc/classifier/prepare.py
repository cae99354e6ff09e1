"""From a model and a first batch to everything that the other rooms ask of the classifier."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ..arrays import Images, ImageShape
from ..errors import ClassNamesError, ConfigurationError
from ..words import with_notes
from .adapter import ModelAdapter, Normalization, Suggestion, kind_of
from .preflight import PROBABILITIES, PreflightRecord, preflight
from .taps import frozen
from .view import ClassifierView, check_class_ids, model_dtype

log = logging.getLogger("flint_posthoc")
LOOKED_AT = 64  # of the first images, for their range
BEYOND, NARROW, DOZEN = 0.1, 0.6, 12  # what is no rounding beyond [0, 1], what is little of it, and of how many images that can be said


@dataclass(frozen=True, kw_only=True)
class ClassifierRequest:
    """What the user asked for; ``None`` leaves the answer to the adapter or to the data."""

    model: nn.Module
    adapter: ModelAdapter
    layers: tuple[str, ...] | None
    classes: tuple[int, ...] | None
    class_names: tuple[str, ...] | None
    normalization: Normalization | None
    output_kind: str | None = None


@dataclass(frozen=True, kw_only=True)
class PreparedClassifier:
    """What a dry run over a first batch settled.

    Attributes:
        image_shape: (channels, height, width) of the images.
        reason: why these layers, in words; empty where the user named them.  good_layers: what they were chosen from.
        notes: what every result has to say: an estimated pixel range, a restricted f.
    """

    view: ClassifierView
    image_shape: ImageShape
    class_names: tuple[str, ...]
    normalization: Normalization
    record: PreflightRecord
    reason: str
    notes: tuple[str, ...]
    good_layers: tuple[str, ...] = ()

    def __str__(self) -> str:
        return with_notes([str(self.record), self.reason] if self.reason else [str(self.record)], self.notes)


def prepare(request: ClassifierRequest, images: Images) -> PreparedClassifier:
    """Dry runs over ``images`` (B, channels, H, W): suggested layers where none were named, layouts, classes, pixel range.

    Raises:
        LayerError: a layer is never reached or has no map form, or none could be suggested.
        ClassNamesError, ClassSelectionError: names or ``classes`` do not fit the number of outputs.
        ClassifierOutputError: no finite (B, C) logits come out.
        ConfigurationError: the normalisation is of another number of channels, or there is no such output kind.
    """
    model, adapter = request.model, request.adapter
    native = images.to(model_dtype(model))
    suggestion = Suggestion(request.layers, "") if request.layers else _suggested(model, adapter, native)
    record = preflight(model, suggestion.layers, native, adapter=adapter)
    for warning in record.warnings:
        log.warning("%s", warning)
    kind = kind_of(request.output_kind, adapter, model, record.num_classes)
    num_classes = kind.class_logits(torch.zeros(1, record.num_classes)).shape[1]
    class_ids = None if request.classes is None else check_class_ids(request.classes, num_classes)
    view = ClassifierView(model, adapter, record.layouts, kind, num_classes, class_ids)
    names = _class_names(request, view)
    normalization = request.normalization or adapter.normalization(model) or _estimated(images)
    normalization.denormalize(images)  # refuses another number of channels
    return PreparedClassifier(
        view=view,
        image_shape=(images.shape[1], images.shape[2], images.shape[3]),
        class_names=names,
        normalization=normalization,
        record=record,
        reason=suggestion.reason,
        notes=_notes(view, normalization, record),
        good_layers=suggestion.good,
    )


def _suggested(model: nn.Module, adapter: ModelAdapter, images: Images) -> Suggestion:
    with frozen(model):
        suggestion = adapter.suggest_layers(model, images)
    log.info("layers=%s suggested: %s", list(suggestion.layers), suggestion.reason)
    return suggestion


def _class_names(request: ClassifierRequest, view: ClassifierView) -> tuple[str, ...]:
    names, wanted = request.class_names, view.num_classes
    if names is not None:
        if len(names) != wanted:
            explained = "" if view.class_ids is None else f" in classes= ({view.num_outputs} outputs in all)"
            raise ClassNamesError(f"{len(names)} class names for {wanted} classes{explained}")
        return names
    known = request.adapter.class_names(request.model)
    if known is None or len(known) != view.num_outputs:  # names from before its head was replaced
        known = tuple(f"class {index}" for index in range(view.num_outputs))
    return tuple(known) if view.class_ids is None else tuple(known[index] for index in view.class_ids)


def _estimated(images: Images) -> Normalization:
    low, high = images.amin(dim=(0, 2, 3)), images.amax(dim=(0, 2, 3))
    return Normalization.from_range(low.tolist(), high.tolist())


def _notes(view: ClassifierView, normalization: Normalization, record: PreflightRecord) -> tuple[str, ...]:
    notes = [PROBABILITIES] if PROBABILITIES in record.warnings else []
    if normalization.estimated:
        notes.append("the pixel range was estimated from the data (pass normalization=Normalization(mean, std) to set it)")
    if view.class_ids is not None:
        notes.append(f"the classifier is explained restricted to {len(view.class_ids)} of its {view.num_outputs} classes")
    return tuple(notes)


def range_notes(request: ClassifierRequest, assumed: Normalization, images: Images) -> tuple[str, ...]:
    """What results have to say where real ``images`` (B, channels, H, W) are no pixels in [0, 1] by what its family says.

    Of photographs by the dozen some are dark and some bright: where they fill little of the range, another normalisation made them.
    """
    if request.normalization is not None or assumed.estimated:
        return ()
    pixels = assumed.denormalize(images[:LOOKED_AT])
    low, high = float(pixels.min()), float(pixels.max())
    narrow = len(images) >= DOZEN and high - low < NARROW
    if not (narrow or low < -BEYOND or high > 1 + BEYOND):
        return ()
    return (
        f"by the assumed normalisation the pixels of the first images lie between {low:.2f} and {high:.2f}, not in 0 to 1: were they "
        "normalised otherwise? normalization=Normalization(mean, std) sets it",
    )


def as_names(given: Iterable[str] | Mapping[int, str] | None) -> tuple[str, ...] | None:
    """Class names in their order. Raises ``ConfigurationError`` for a single word, and for a dict that leaves positions out."""
    if isinstance(given, str):
        raise ConfigurationError(f"class_names must be one name a class, got the single word {given!r}")
    if isinstance(given, Mapping):
        if set(given) != set(range(len(given))):
            raise ConfigurationError(f"class_names as a dict needs the keys 0 to {len(given) - 1}, got {list(given)[:10]}")
        given = [given[position] for position in range(len(given))]
    return None if given is None else tuple(map(str, given))


def synthetic_images(shape: ImageShape, device: torch.device) -> Images:
    """Two images of seeded noise of the right shape, for a dry run before there is data."""
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).to(device)
