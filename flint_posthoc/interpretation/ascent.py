"""Gradient ascent on an attribute: settings, presets, the objective and the climb (paper, section 4.2; docs/method.md).

    λ_φ φ_j(x) - λ_tv TV(x) - λ_bo Bo(x)

Any number of (image, attribute) pairs climb as one batch; their gradients do not mix. Nothing here knows a classifier.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..arrays import Attributes, Images, ImageShape, PerImage, is_photograph
from ..classifier.adapter import Normalization
from ..errors import ConfigurationError
from ..precision import FUSED, PRECISIONS
from .parameterization import PARAMETERIZATIONS

Climb: TypeAlias = Callable[[Images], Attributes]  # pre-activations (B, J) of Ψ, differentiable
START_SPACES = ("pixels", "normalised")


@dataclass(frozen=True)
class Stage:
    """A stretch of the climb with weights of its own: λ_φ ``activation``, λ_tv ``total_variation``, λ_bo ``bounds``."""

    steps: int
    activation: float
    total_variation: float
    bounds: float

    def __post_init__(self) -> None:
        if self.steps < 1 or min(self.activation, self.total_variation, self.bounds) < 0:
            raise ConfigurationError(f"a stage needs at least one step and weights that are not negative, got {self}")


@dataclass(frozen=True)
class MaximizationSettings:
    """How pictures are drawn.

    Attributes:
        stages: one after the other.
        learning_rate: of Adam; halved every ``halve_every`` steps.
        start_scale: x starts at this multiple of x₀, scaled in "pixels" or in "normalised" space (``start_space``).
        relative: measure φ_j in units of φ_j(x₀) and TV in units of TV(x₀), so that one set of weights fits every attribute and image.
        variation_allowance: TV counts only beyond this; in units of TV(x₀) where ``relative``.
        jitter: each step sees the image moved by up to so many pixels, circularly, along both axes.
        parameterization: "pixels" or "fourier".
        batch_size: pairs that climb together.
        precision: of f while climbing and measuring: "auto" (bfloat16 where that pays), "float32" or "bfloat16".
        seed: of the jitter and of a start from noise.
    """

    stages: tuple[Stage, ...]
    learning_rate: float = 0.05
    halve_every: int = 50
    start_scale: float = 0.1
    start_space: str = "pixels"
    relative: bool = True
    variation_allowance: float = 0.0
    jitter: int = 0
    parameterization: str = "pixels"
    batch_size: int = 64
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.stages or self.batch_size < 1 or self.halve_every < 1 or self.jitter < 0:
            raise ConfigurationError(f"needed are stages, a batch size and halve_every of at least 1, and a jitter of at least 0: {self}")
        if not (self.learning_rate > 0 and 0 <= self.start_scale <= 1):
            raise ConfigurationError(f"learning_rate must be positive and start_scale in [0, 1], got {self}")
        words = ((self.start_space, START_SPACES), (self.parameterization, tuple(PARAMETERIZATIONS)), (self.precision, PRECISIONS))
        for word, allowed in words:
            if word not in allowed:
                raise ConfigurationError(f"expected one of {allowed}, got {word!r} in {self}")

    @property
    def stage_of_step(self) -> list[Stage]:
        """The stage of each step of the climb."""
        return [stage for stage in self.stages for _ in range(stage.steps)]


PAPER = MaximizationSettings((Stage(300, 2.0, 6.0, 10.0),), relative=False)
GREY = MaximizationSettings(
    (Stage(300, 2.0, 20.0, 0.0),),
    learning_rate=0.1,
    halve_every=50,
    start_scale=0.6,
    variation_allowance=1.4,
    jitter=1,
    parameterization="fourier",
)
COLOUR = replace(GREY, jitter=2)
PHOTOGRAPH = replace(
    GREY,
    stages=(Stage(64, 2.0, 40.0, 0.0),),
    halve_every=32,
    start_scale=0.5,
    variation_allowance=1.3,
    jitter=16,
    batch_size=16,
    precision="auto",
)
PRESETS: dict[str, MaximizationSettings] = {"paper": PAPER, "grey": GREY, "colour": COLOUR, "photograph": PHOTOGRAPH}
TINY_IMAGE = 10  # pixels of the shorter side below which one pixel is too large a part of the picture to move it by


def preset_for(image_shape: ImageShape) -> MaximizationSettings:
    """Our settings for images of this (channels, height, width)."""
    if is_photograph(image_shape):
        return PHOTOGRAPH
    settings = GREY if image_shape[0] == 1 else COLOUR
    return replace(settings, jitter=0) if min(image_shape[1:]) < TINY_IMAGE else settings


# ---- the terms of the objective, one value an image ----


def total_variation(images: Images) -> PerImage:
    """Mean absolute difference of neighbouring pixels, both directions added, over all channels."""
    return _TotalVariation.apply(images)


class _TotalVariation(torch.autograd.Function):
    """Autograd would write ten times as many images on the way back, which beside a light f is a tenth of the climb."""

    @staticmethod
    def forward(images: Images) -> PerImage:
        """The value itself."""
        found = images.new_zeros(len(images))
        for dim in _directions(images):
            found += images.diff(dim=dim).abs_().mean(dim=(1, 2, 3))
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Images], output: PerImage) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: PerImage) -> Images:
        """Each pixel is pulled towards its neighbours, by as much whatever the distance."""
        (images,) = ctx.saved_tensors
        found = torch.zeros_like(images)
        for dim in _directions(images):
            steps = images.diff(dim=dim)
            pull = steps.sign_().mul_((gradient / steps[0].numel()).view(-1, 1, 1, 1))
            found.narrow(dim, 1, pull.shape[dim]).add_(pull)
            found.narrow(dim, 0, pull.shape[dim]).sub_(pull)
        return found


def _directions(images: Images) -> list[int]:
    """Down and right, where there is a neighbour."""
    return [dim for dim in (2, 3) if images.shape[dim] > 1]


def bounds(images: Images, low: Tensor, high: Tensor) -> PerImage:
    """Mean distance of pixels outside [``low``, ``high``], one bound a channel."""
    return ((low - images).clamp_min(0) + (images - high).clamp_min(0)).mean(dim=(1, 2, 3))


class Units(NamedTuple):
    """What one unit of φ_j and of TV is, for each image."""

    activation: PerImage
    variation: PerImage


class Climbed(NamedTuple):
    """Where the climb ended, and the objective on the way."""

    images: Images
    objective: Float[Tensor, "steps b"]


class Objective:
    """λ_φ φ_j(x) - λ_tv TV(x) - λ_bo Bo(x), one value an image.

    While φ_j(x) = 0 its ReLU has no gradient, so the pre-activation of Ψ is climbed; where φ_j fires the two are the same.
    """

    def __init__(self, climb: Climb, attributes: Tensor, units: Units, normalization: Normalization, allowance: float) -> None:
        self._climb, self._attributes, self._units = climb, attributes, units
        self._normalization, self._allowance = normalization, allowance

    def __call__(self, images: Images, stage: Stage, shift: tuple[int, int] = (0, 0)) -> PerImage:
        """At ``images``, whose attributes are read after a circular ``shift`` (down, right)."""
        activation = self._climb(images.roll(shift, dims=(2, 3))).gather(1, self._attributes[:, None])[:, 0]
        roughness = (total_variation(images) / self._units.variation - self._allowance).clamp_min(0)
        gain = stage.activation * activation / self._units.activation - stage.total_variation * roughness
        return gain - stage.bounds * self._outside(images) if stage.bounds else gain

    def _outside(self, images: Images) -> PerImage:
        low, high = (self._normalization.normalize(torch.full_like(images[:1, :, :1, :1], edge)) for edge in (0.0, 1.0))
        return bounds(images, low, high)


def ascend(objective: Objective, start: Images, normalization: Normalization, settings: MaximizationSettings) -> Climbed:
    """The climb itself, from ``start`` (B, channels, H, W)."""
    code = PARAMETERIZATIONS[settings.parameterization]((start.shape[1], start.shape[2], start.shape[3]), normalization)
    moved = code.encode(start).requires_grad_(True)
    optimizer = torch.optim.Adam([moved], lr=settings.learning_rate, fused=moved.device.type in FUSED)
    history = []
    for step, (stage, shift) in enumerate(zip(settings.stage_of_step, jitter_shifts(settings), strict=True)):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * 0.5 ** (step // settings.halve_every)
        value = objective(code.decode(moved), stage, shift)
        moved.grad = torch.autograd.grad(-value.sum(), moved)[0]
        optimizer.step()
        history.append(value.detach())
    return Climbed(code.decode(moved.detach()), torch.stack(history))


def jitter_shifts(settings: MaximizationSettings) -> list[tuple[int, int]]:
    """(down, right) of each step, the same for every image and every batch."""
    generator = torch.Generator().manual_seed(settings.seed)
    drawn = torch.randint(-settings.jitter, settings.jitter + 1, (len(settings.stage_of_step), 2), generator=generator)
    return [(down, right) for down, right in drawn.tolist()]
