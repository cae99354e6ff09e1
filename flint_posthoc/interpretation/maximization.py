"""AM+PI: what does an attribute detect? Activation maximisation with partial initialisation (paper, section 4.2).

Starting from a darkened image x₀ on which attribute j is strong, gradient ascent draws what the attribute wants to see more of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from ..arrays import Attributes, Images, PerImage, PerImageFlag
from ..canvas import Figure, as_arrays, with_notes_below
from ..classifier.adapter import Normalization
from ..classifier.view import OpenView, model_dtype
from ..errors import ConfigurationError
from ..figures import under_images
from ..interpreter.fitted import FittedInterpreter
from ..memory import Halving
from ..precision import autocast, lowered
from ..words import with_notes
from .ascent import TINY_IMAGE, MaximizationSettings, Objective, Units, ascend, preset_for, total_variation
from .targets import attribute_of_each

_SMALLEST = 1e-6
MOVES = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))  # corners of what is seen of an image padded by one pixel: itself, and a step each way


def as_delivered(images: Images, normalization: Normalization) -> Images:
    """Pixels as a person gets them: clamped to [0, 1] and rounded to 8 bits."""
    return (normalization.denormalize(images).clamp(0, 1) * 255).round() / 255


def shifted(pixels: Images) -> list[Images]:
    """The image, and it moved by one pixel in each direction, its edge repeated: five images; of a tiny one the image alone."""
    height, width = pixels.shape[2:]
    if min(height, width) < TINY_IMAGE:
        return [pixels]
    padded = torch.nn.functional.pad(pixels, (1, 1, 1, 1), mode="replicate")
    return [padded[:, :, down : down + height, right : right + width] for down, right in MOVES]


@dataclass(frozen=True)
class Maximization:
    """Pictures of attributes. φ_j afterwards is that of the picture as a person gets it: clamped, 8 bits, median over shifts of one pixel.

    Attributes:
        attributes: (B,), the attribute of each picture.
        start: x₀ (B, channels, H, W) in [0, 1].  pixels: the pictures, 8-bit values in [0, 1].
        initial: Φ(x₀) (B, J).  final: Φ of the pictures (B, J), the median over five shifts.
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
    notes: tuple[str, ...] = ()

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
        heading = "An image, and what its attribute wants to see more of (AM+PI)"
        return with_notes_below(under_images(as_arrays(self.start), as_arrays(self.pixels), titles, heading=heading), self.notes)

    def __str__(self) -> str:
        lines = [f"Maximization of {len(self)} pictures: {int(self.rose.sum())} rose above the image they started from"]
        return with_notes([*lines, *(self.title(index) for index in range(len(self)))], self.notes)


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
    halving = Halving("drawing attributes from", settings.batch_size)
    drawn = list(halving.parts(lambda part: _maximize(fitted, checked.images[part], chosen[part], settings, start), len(chosen)))
    names = [name for name in Maximization.__dataclass_fields__ if name not in ("objective", "settings", "notes")]
    joined = {name: torch.cat([getattr(part, name) for part in drawn]) for name in names}
    return Maximization(**joined, objective=torch.cat([part.objective for part in drawn], dim=1), settings=settings, notes=fitted.notes)


def _maximize(fitted: FittedInterpreter, images: Images, attributes: Tensor, settings: MaximizationSettings, start: str) -> Maximization:
    normalization = fitted.normalization
    with fitted.view.frozen() as run, torch.inference_mode(False), torch.enable_grad():
        images, attributes = images.detach().clone(), attributes.clone()  # out of the caller's inference mode
        bfloat16 = lowered(settings.precision, fitted.device, model_dtype(fitted.view.model))
        read = partial(_preactivations, fitted, run, bfloat16)
        with torch.no_grad():
            before = read(images)
        units = _units(before, images, attributes) if settings.relative else Units(*(torch.ones_like(before[:, 0]) for _ in range(2)))
        objective = Objective(read, attributes, units, normalization, settings.variation_allowance)
        climbed = ascend(objective, STARTS[start](images, normalization, settings), normalization, settings)
        pixels = as_delivered(climbed.images, normalization)
        with torch.no_grad():
            seen = torch.stack([read(normalization.normalize(moved)).relu() for moved in shifted(pixels)])
            after = seen.sort(dim=0).values[(len(seen) - 1) // 2]  # the median, which CUDA does not compute deterministically
    shown = normalization.denormalize(images)
    variations = total_variation(shown), total_variation(pixels)
    return Maximization(attributes, shown, pixels, before.relu(), after, *variations, climbed.objective, settings)


def _preactivations(fitted: FittedInterpreter, run: OpenView, bfloat16: bool, images: Images) -> Attributes:
    """Of Ψ, f perhaps in bfloat16; Ψ takes no part in that, nor in the caller's autocast."""
    with autocast(fitted.device, bfloat16):
        activations = run.activations(images.clone(memory_format=torch.channels_last))  # contiguous() leaves grey images as they are
    with autocast(fitted.device, False):
        return fitted.interpreter.attribute_network.preactivations(activations)


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
