"""d: from attributes back to an image, at a capped resolution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from ..arrays import SMALL_IMAGE, Attributes, Images
from ..errors import ConfigurationError

LIMIT = 32  # pixels of a reconstruction's longest side
SMALL_MAPS, HIDDEN_UNITS = (16,), 256  # what draws small images, and photographs


def decoder_resolution(height: int, width: int, limit: int | None = None) -> tuple[int, int]:
    """The (height, width) at which images are reconstructed: the image's own where it is small, else its aspect within ``limit``.

    >>> decoder_resolution(28, 28), decoder_resolution(224, 224), decoder_resolution(64, 48)
    ((28, 28), (32, 32), (32, 24))
    """
    longest = max(height, width)
    scale = min(1.0, (limit or LIMIT) / longest)
    return max(1, round(height * scale)), max(1, round(width * scale))


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of d: a linear layer to small maps, then transposed convolutions, each doubling the side; or two linear layers.

    Attributes:
        base_channels: maps of the first linear layer's output (2 in the paper's LeNet variant).
        channels: maps after each doubling but the last, which gives the image's channels (``(8,)`` in the paper's LeNet variant).
            ``None``: ``(16,)`` for images up to 64 pixels; for photographs, whose reconstruction shares no edges with them, no maps but a
            hidden layer of 256 units, which costs less (``python -m examples.weights.lengths`` measures it).
        max_side: the longest side of a reconstruction; ``None``: 32.
        final_relu: a ReLU on the reconstruction (the authors' LeNet variant); wrong for normalised images, whose black is negative.
    """

    base_channels: int = 16
    channels: tuple[int, ...] | None = None
    max_side: int | None = None
    final_relu: bool = False

    def __post_init__(self) -> None:
        if self.base_channels < 1 or any(count < 1 for count in self.channels or ()) or (self.max_side is not None and self.max_side < 1):
            raise ConfigurationError(f"decoder sizes must be at least 1, got {self}")


class Decoder(nn.Module):
    """d(Φ(x)) in the classifier's normalised pixel space, (B, image channels, height, width) at ``resolution``."""

    def __init__(
        self,
        num_attributes: int,
        image_channels: int,
        resolution: tuple[int, int],
        config: DecoderConfig = DecoderConfig(),
        *,
        image_side: int = SMALL_IMAGE,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        channels = SMALL_MAPS if config.channels is None and image_side <= SMALL_IMAGE else config.channels
        if channels is None:
            self.base, layers = (HIDDEN_UNITS,), _linear((image_channels, *resolution))
        else:
            doublings = len(channels) + 1
            self.base = (config.base_channels, *(-(-side // 2**doublings) for side in resolution))
            layers = _doubling((config.base_channels, *channels, image_channels))
        self.linear = nn.Linear(num_attributes, math.prod(self.base))
        self.upsample = nn.Sequential(*layers, *([nn.ReLU()] if config.final_relu else []))

    def forward(self, attributes: Attributes) -> Images:
        maps = self.upsample(self.linear(attributes).view(-1, *self.base))
        return maps[:, :, : self.resolution[0], : self.resolution[1]]


def _linear(shape: tuple[int, int, int]) -> list[nn.Module]:
    return [nn.ReLU(), nn.Linear(HIDDEN_UNITS, math.prod(shape)), nn.Unflatten(1, shape)]


def _doubling(widths: tuple[int, ...]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1), nn.ReLU()]
    return layers[:-1]
