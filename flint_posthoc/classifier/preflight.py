"""A dry run over two images that says what was found at the tapped layers, prints well and warns in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..arrays import Images, ImageShape, Logits
from ..errors import ClassifierOutputError, LayerNotReachedError, UnmappableActivationError
from ..words import in_bytes
from .adapter import ModelAdapter, TapLayout, find_adapter
from .recording import Recording, forward, is_leaf, recorded, two_samples
from .taps import check_device, frozen, layer_not_reached, resolve_layers, unwrap

PROBABILITIES = "the output looks like probabilities already; pass a classifier that returns logits (before softmax or sigmoid)"


@dataclass(frozen=True)
class TapRecord:
    """What one tapped layer puts out; ``raw_shape`` without the batch, ``bytes_per_image`` of its maps."""

    layer: str
    module_type: str
    raw_shape: tuple[int, ...]
    layout: TapLayout
    bytes_per_image: int


@dataclass(frozen=True)
class PreflightRecord:
    """What a dry run found. ``str()`` prints it as a table with its warnings.

    Attributes:
        activation_modules: calls of activation modules on the way from the image to the deepest tap, by type.
        functional_activations: activations on that way that no module made, so that hooks do not see them.
        shared_modules: layers without sub-layers that run more than once in one pass.
        working_bytes_per_image: a rough estimate of what one forward pass needs beside parameters and taps.
    """

    taps: tuple[TapRecord, ...]
    num_classes: int
    image_shape: ImageShape
    activation_modules: Mapping[str, int]
    functional_activations: int
    shared_modules: tuple[str, ...]
    parameters: int
    parameter_bytes: int
    working_bytes_per_image: int
    warnings: tuple[str, ...]

    @property
    def layouts(self) -> tuple[TapLayout, ...]:
        return tuple(tap.layout for tap in self.taps)

    def memory(self, batch_size: int) -> int:
        """Estimated bytes for one pass of f over ``batch_size`` images, taps included."""
        per_image = self.working_bytes_per_image + sum(tap.bytes_per_image for tap in self.taps)
        return self.parameter_bytes + batch_size * per_image

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("layer", "module", "puts out", "read as", "maps", "an image")]
        rows += [_row(tap) for tap in self.taps]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*table, *self._facts(), *(f"warning: {warning}" for warning in self.warnings)])

    def _facts(self) -> list[str]:
        found = [f"{count} {name}" for name, count in self.activation_modules.items()]
        activations = ", ".join(found) or "no modules"
        size = f"{self.parameters:,} parameters of {in_bytes(self.parameter_bytes)}"
        return [
            f"images {_shape(self.image_shape)}, {self.num_classes} classes, {size}",
            f"activations up to the deepest tap: {activations}, {self.functional_activations} functional (hooks do not see those)",
            f"run more than once: {', '.join(self.shared_modules) or 'none'}",
            f"estimated memory of a pass: {in_bytes(self.memory(1))} for one image, {in_bytes(self.memory(64))} for 64",
        ]


def preflight(model: nn.Module, layers: Sequence[str], sample_images: Images, *, adapter: ModelAdapter | None = None) -> PreflightRecord:
    """Run two of ``sample_images`` through the frozen ``model`` and record what the ``layers`` put out.

    Raises:
        UnsupportedClassifierError, DevicePlacementError, LayerError: if the model or a layer cannot be read.
        ImageShapeError: if the model cannot take images of this shape.
        ClassifierOutputError: if it returns no finite logits (B, C).
    """
    model = unwrap(model)
    device = check_device(model)
    layers = resolve_layers(model, layers)
    adapter = adapter or find_adapter(model)
    with frozen(model), torch.inference_mode(False), torch.no_grad():
        images = two_samples(sample_images).to(device).clone()
        run = _DryRun(model, adapter, layers, images)
        logits = run.logits()
    return _record(model, run, logits)


class _DryRun:
    """One observed forward pass: the last output of each tap, where in the pass it came, and whether it was written over."""

    def __init__(self, model: nn.Module, adapter: ModelAdapter, layers: tuple[str, ...], images: Images) -> None:
        self.layers, self.images, self._model, self._adapter = layers, images, model, adapter
        self._tapped = {id(model.get_submodule(layer)): layer for layer in layers}
        self._seen: dict[str, tuple[Any, tuple[int, ...], int]] = {}  # output, its tensors' versions, position
        self.recording: Recording

    def logits(self) -> Logits:
        """Run; the logits, checked."""
        with recorded(self._model, self._observe) as self.recording:
            output = forward(self._model, self.images)
        logits = self._adapter.logits(output)
        if len(logits) != len(self.images) or logits.shape[1] < 1:
            raise ClassifierOutputError(
                f"the classifier returned {tuple(logits.shape)} for {len(self.images)} images; allowed are logits (B, C), one row an image"
            )
        if not bool(logits.isfinite().all()):
            raise ClassifierOutputError(
                f"the classifier's logits {tuple(logits.shape)} are not finite; are its weights loaded and its inputs normalised?"
            )
        return logits

    @property
    def deepest(self) -> int:
        """The position of the deepest tap."""
        return max(position for _, _, position in self._seen.values())

    def in_order(self) -> list[str]:
        """The layers as the pass comes to them; those that it never comes to last."""
        return sorted(self.layers, key=lambda layer: self._seen[layer][2] if layer in self._seen else math.inf)

    def tap(self, layer: str) -> TapRecord:
        """What was found at ``layer``. Raises ``LayerNotReachedError``, ``UnmappableActivationError``."""
        if layer not in self._seen:
            raise LayerNotReachedError(layer_not_reached(layer))
        output, versions, _ = self._seen[layer]
        found = self._adapter.layout(layer, output, self.images, self._model)
        raw = self._adapter.raw(output, found.item)
        if raw is None:
            raise UnmappableActivationError(f"layer {layer!r} put out a {type(output).__qualname__} without tensors")
        layout = replace(found, layer=layer, calls=self._calls(layer), overwritten=raw._version != versions[found.item])
        size = layout.channels * layout.height * layout.width * raw.element_size()
        return TapRecord(layer, type(self._model.get_submodule(layer)).__name__, _without_batch(raw, layout), layout, size)

    def _calls(self, layer: str) -> int:
        module = self._model.get_submodule(layer)
        return next(self.recording.calls[name] for name, other in self._model.named_modules() if other is module)

    def _observe(self, name: str, module: nn.Module, output: Any) -> None:
        if id(module) in self._tapped:
            versions = tuple(tensor._version for tensor in self._adapter.tensors(output))
            self._seen[self._tapped[id(module)]] = (output, versions, self.recording.position)


def _without_batch(raw: Tensor, layout: TapLayout) -> tuple[int, ...]:
    batch = 1 if layout.form == "tokens_first" else 0
    return tuple(size for axis, size in enumerate(raw.shape) if axis != batch)


def _record(model: nn.Module, run: _DryRun, logits: Logits) -> PreflightRecord:
    taps = tuple(run.tap(layer) for layer in run.in_order())
    recording, parameters = run.recording, tuple(model.parameters())
    leaves = {name for name, module in model.named_modules() if is_leaf(module)}
    return PreflightRecord(
        taps=taps,
        num_classes=logits.shape[1],
        image_shape=(run.images.shape[1], run.images.shape[2], run.images.shape[3]),
        activation_modules=dict(Counter(name for position, name in recording.activation_calls if position <= run.deepest)),
        functional_activations=sum(operator.functional for operator in recording.operators[: run.deepest]),
        shared_modules=tuple(name for name, calls in recording.calls.items() if calls > 1 and name in leaves),
        parameters=sum(parameter.numel() for parameter in parameters),
        parameter_bytes=sum(parameter.nbytes for parameter in parameters),
        working_bytes_per_image=2 * recording.largest // len(run.images),
        warnings=(*_tap_warnings(taps), *_classifier_warnings(run, logits)),
    )


def _tap_warnings(taps: Sequence[TapRecord]) -> list[str]:
    warnings = []
    for tap in taps:
        layout = tap.layout
        if layout.height * layout.width == 1:
            warnings.append(f"{tap.layer} puts out a pooled or flat vector: its attributes have no place in the image")
        if layout.calls > 1:
            warnings.append(f"{tap.layer} runs {layout.calls} times in one pass: the output of the last call is taken")
        if layout.overwritten:
            warnings.append(f"{tap.layer}'s output is overwritten in place by a later operation: what it put out is taken, as a copy")
    return warnings


def _classifier_warnings(run: _DryRun, logits: Logits) -> list[str]:
    warnings = []
    if not run.recording.nonlinear_after(run.deepest):
        warnings.append(
            "only linear layers lie between the deepest tap and the logits: the interpreter would merely copy them; tap an earlier layer"
        )
    if _are_probabilities(run.recording, logits.float()):
        warnings.append(PROBABILITIES)
    return warnings


def _are_probabilities(recording: Recording, logits: Logits) -> bool:
    """Rows of several that sum to 1, or all of them in [0, 1] and made by a sigmoid."""
    if not bool(((logits >= 0) & (logits <= 1)).all()):
        return False
    summed = logits.shape[1] > 1 and torch.allclose(logits.sum(dim=1), torch.ones(len(logits), device=logits.device), atol=1e-3)
    return summed or recording.ends_with("sigmoid")


def _row(tap: TapRecord) -> tuple[str, ...]:
    layout = tap.layout
    form = f"{layout.form}, {layout.prefix} prefix" if layout.prefix else layout.form
    maps = _shape((layout.channels, layout.height, layout.width))
    return tap.layer, tap.module_type, _shape(tap.raw_shape), form, maps, in_bytes(tap.bytes_per_image)


def _shape(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))
