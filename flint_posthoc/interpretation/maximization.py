"""AM+PI: what does an attribute detect? Activation maximisation with partial initialisation (paper, section 4.2; DESIGN.md part 3).

Starting from a darkened image x₀ on which attribute j is strong, gradient ascent on

    λ_φ φ_j(x) - λ_tv TV(x) - λ_bo Bo(x)

draws what the attribute wants to see more of. Any number of (image, attribute) pairs climb as one batch; their gradients do not mix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from ..arrays import Attributes, Images, PerImage, PerImageFlag
from ..classifier.adapter import Normalization
from ..errors import ConfigurationError
from ..figures import Figure, as_arrays, maximization_rows
from ..interpreter.fitted import FittedInterpreter
from ..precision import PRECISIONS, autocast
from .parameterization import PARAMETERIZATIONS
from .targets import attribute_of_each

Climb: TypeAlias = Callable[[Images], Attributes]  # pre-activations (B, J) of Ψ, differentiable
START_SPACES = ("pixels", "normalised")
_SMALLEST = 1e-6


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
        precision: of f while climbing: "auto" (bfloat16 where that pays), "float32" or "bfloat16"; φ_j is measured in f's own.
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
GREY = MaximizationSettings((Stage(300, 2.0, 20.0, 0.0),), 0.1, 50, 0.6, variation_allowance=1.4, jitter=1, parameterization="fourier")
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
SMALL_IMAGE = 64  # pixels of the longer side up to which an image is no photograph


def preset_for(image_shape: tuple[int, int, int]) -> MaximizationSettings:
    """Our settings for images of this (channels, height, width)."""
    if max(image_shape[1:]) > SMALL_IMAGE:
        return PHOTOGRAPH
    return GREY if image_shape[0] == 1 else COLOUR


# ---- the terms of the objective, one value an image ----


def total_variation(images: Images) -> PerImage:
    """Mean absolute difference of neighbouring pixels, both directions added, over all channels."""
    down, right = images.diff(dim=2).abs(), images.diff(dim=3).abs()
    return sum((part.mean(dim=(1, 2, 3)) for part in (down, right) if part.numel()), start=images.new_zeros(len(images)))


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


def ascend(
    climb: Climb, start: Images, attributes: Tensor, units: Units, normalization: Normalization, settings: MaximizationSettings
) -> Climbed:
    """The climb itself, from ``start`` (B, channels, H, W); knows no classifier.

    While φ_j(x) = 0 its ReLU has no gradient, so the pre-activation of Ψ is climbed; where φ_j fires the two are the same.
    """
    code = PARAMETERIZATIONS[settings.parameterization]((start.shape[1], start.shape[2], start.shape[3]), normalization)
    low, high = (normalization.normalize(torch.full_like(start[:1], edge)) for edge in (0.0, 1.0))
    moved = code.encode(start).requires_grad_(True)
    optimizer = torch.optim.Adam([moved], lr=settings.learning_rate)
    shifts = jitter_shifts(settings)
    history = []
    for step, stage in enumerate(settings.stage_of_step):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * 0.5 ** (step // settings.halve_every)
        images = code.decode(moved)
        activation = climb(images.roll(shifts[step], dims=(2, 3)) if settings.jitter else images).gather(1, attributes[:, None])[:, 0]
        objective = (
            stage.activation * activation / units.activation
            - stage.total_variation * (total_variation(images) / units.variation - settings.variation_allowance).clamp_min(0)
            - stage.bounds * bounds(images, low, high)
        )
        moved.grad = torch.autograd.grad(-objective.sum(), moved)[0]
        optimizer.step()
        history.append(objective.detach())
    return Climbed(code.decode(moved.detach()), torch.stack(history))


def jitter_shifts(settings: MaximizationSettings) -> list[tuple[int, int]]:
    """(down, right) of each step, the same for every image and every batch."""
    generator = torch.Generator().manual_seed(settings.seed)
    drawn = torch.randint(-settings.jitter, settings.jitter + 1, (len(settings.stage_of_step), 2), generator=generator)
    return [(down, right) for down, right in drawn.tolist()]


def as_delivered(images: Images, normalization: Normalization) -> Images:
    """Pixels as a person gets them: clamped to [0, 1] and rounded to 8 bits."""
    return (normalization.denormalize(images).clamp(0, 1) * 255).round() / 255


def shifted(pixels: Images) -> list[Images]:
    """The image moved by at most one pixel along each axis, its edge repeated: nine images."""
    padded = torch.nn.functional.pad(pixels, (1, 1, 1, 1), mode="replicate")
    height, width = pixels.shape[2:]
    return [padded[:, :, down : down + height, right : right + width] for down in range(3) for right in range(3)]


# ---- on a fitted interpreter ----


@dataclass(frozen=True)
class Maximization:
    """Pictures of attributes. φ_j afterwards is that of the picture as a person gets it: clamped, 8 bits, median over shifts of one pixel.

    Attributes:
        attributes: (B,), the attribute of each picture.
        start: x₀ (B, channels, H, W) in [0, 1].  pixels: the pictures, 8-bit values in [0, 1].
        initial: Φ(x₀) (B, J).  final: Φ of the pictures (B, J), the median over nine shifts.
        initial_variation, final_variation: (B,) TV in units of [0, 1] pixels.
        objective: (steps, B).
    """

    attributes: Tensor
    start: Images
    pixels: Images
    initial: Attributes
    final: Attributes
    initial_variation: PerImage
    final_variation: PerImage
    objective: Float[Tensor, "steps b"]
    settings: MaximizationSettings

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def initial_activation(self) -> PerImage:
        """φ_j(x₀), (B,)."""
        return self.initial.gather(1, self.attributes[:, None])[:, 0]

    @property
    def final_activation(self) -> PerImage:
        """φ_j of the picture, (B,)."""
        return self.final.gather(1, self.attributes[:, None])[:, 0]

    @property
    def rose(self) -> PerImageFlag:
        """(B,), where the attribute ended above φ_j(x₀). Other pictures failed, and say so."""
        return self.final_activation > self.initial_activation

    def gain_ranks(self, scale: Tensor) -> Tensor:
        """(B,) the place, from 1, of φ_j's gain among those of all attributes, each gain in units of ``scale`` (J,)."""
        gains = (self.final - self.initial) / scale
        return 1 + (gains > gains.gather(1, self.attributes[:, None])).sum(dim=1)

    def title(self, index: int) -> str:
        """How far the attribute of picture ``index`` rose, in words."""
        before, after = float(self.initial_activation[index]), float(self.final_activation[index])
        verdict = "" if self.rose[index] else ", did not rise"
        return f"φ{int(self.attributes[index])}: {before:.2f} → {after:.2f}{verdict}"

    def plot(self) -> Figure:
        """x₀ above the picture drawn from it, a column each."""
        titles = [self.title(index) for index in range(len(self))]
        return maximization_rows(as_arrays(self.start), as_arrays(self.pixels), titles)

    def __str__(self) -> str:
        lines = [f"Maximization of {len(self)} pictures: {int(self.rose.sum())} rose above the image they started from"]
        return "\n".join(lines + [self.title(index) for index in range(len(self))])


def maximize(
    fitted: FittedInterpreter,
    images: Tensor,
    attributes: int | Sequence[int] | Tensor,
    *,
    settings: MaximizationSettings | None = None,
    start: str = "image",
) -> Maximization:
    """Draw what each attribute detects, each from an image of its own.

    Args:
        images: x₀ (B, channels, H, W) as the classifier sees them, best exemplars of the attributes.
        attributes: one for all images, or one each.
        settings: ``None``: our preset for images of this size.
        start: "image" (partial initialisation) or "noise", for comparison; units are those of x₀ all the same.

    Raises:
        ConfigurationError: an attribute that does not exist, another number of them than images, another word. ImageShapeError, DataError.
    """
    settings = settings or preset_for(fitted.image_shape)
    if start not in STARTS:
        raise ConfigurationError(f"start must be one of {sorted(STARTS)}, got {start!r}")
    (checked,) = fitted.batches([images])
    chosen = attribute_of_each(attributes, len(checked.images), fitted.interpreter.num_attributes).to(fitted.device)
    parts = zip(checked.images.split(settings.batch_size), chosen.split(settings.batch_size), strict=True)
    drawn = [_maximize(fitted, part, wanted, settings, start) for part, wanted in parts]
    names = [name for name in Maximization.__dataclass_fields__ if name not in ("objective", "settings")]
    joined = {name: torch.cat([getattr(part, name) for part in drawn]) for name in names}
    return Maximization(**joined, objective=torch.cat([part.objective for part in drawn], dim=1), settings=settings)


def _maximize(fitted: FittedInterpreter, images: Images, attributes: Tensor, settings: MaximizationSettings, start: str) -> Maximization:
    normalization, network = fitted.normalization, fitted.interpreter.attribute_network
    with fitted.view.frozen() as run, torch.inference_mode(False), torch.enable_grad():
        images = images.clone()  # out of the caller's inference mode

        def exactly(seen: Images) -> Attributes:
            return network.preactivations(run.activations(seen))

        def climb(seen: Images) -> Attributes:
            with autocast(fitted.device, settings.precision):
                activations = run.activations(seen.contiguous(memory_format=torch.channels_last))
            return network.preactivations(activations)

        with torch.no_grad():
            before = exactly(images)
        units = _units(before, images, attributes) if settings.relative else Units(*(torch.ones_like(before[:, 0]) for _ in range(2)))
        climbed = ascend(climb, STARTS[start](images, normalization, settings), attributes, units, normalization, settings)
        pixels = as_delivered(climbed.images, normalization)
        with torch.no_grad():
            after = torch.stack([exactly(normalization.normalize(moved)).relu() for moved in shifted(pixels)]).median(dim=0).values
    shown = normalization.denormalize(images)
    variations = total_variation(shown), total_variation(pixels)
    return Maximization(attributes, shown, pixels, before.relu(), after, *variations, climbed.objective, settings)


def _units(before: Attributes, images: Images, attributes: Tensor) -> Units:
    """φ_j(x₀) and TV(x₀); where the attribute is silent on x₀ its pre-activation tells the scale."""
    activation = before.gather(1, attributes[:, None])[:, 0].abs()
    return Units(activation.clamp_min(_SMALLEST), total_variation(images).clamp_min(_SMALLEST))


def _from_image(images: Images, normalization: Normalization, settings: MaximizationSettings) -> Images:
    """The darkened image: scaled in pixel space and then normalised (0.1 x of a normalised image is grey, not low intensity)."""
    if settings.start_space == "normalised":
        return images * settings.start_scale
    return normalization.normalize(normalization.denormalize(images) * settings.start_scale)


def _from_noise(images: Images, normalization: Normalization, settings: MaximizationSettings) -> Images:
    """Weak uniform noise around the middle grey, one pattern for every picture, so that a batch draws what single runs draw."""
    generator = torch.Generator().manual_seed(settings.seed)
    noise = torch.rand(images.shape[1:], generator=generator).to(images)
    return normalization.normalize((0.5 + 0.1 * (noise - 0.5)).expand_as(images).clone())


STARTS: dict[str, Callable[[Images, Normalization, MaximizationSettings], Images]] = {"image": _from_image, "noise": _from_noise}
