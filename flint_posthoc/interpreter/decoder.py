"""d: from attributes back to an image, at a capped resolution."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from ..arrays import Attributes, Images
from ..errors import ConfigurationError
from .attributes import SMALL_IMAGE

SMALL_LIMIT, LARGE_LIMIT = 32, 56  # longest side of a reconstruction of small images, of larger ones (docs/method.md)


def decoder_resolution(height: int, width: int, limit: int | None = None) -> tuple[int, int]:
    """The (height, width) at which images are reconstructed: the image's own where it is small, else its aspect within ``limit``.

    >>> decoder_resolution(28, 28), decoder_resolution(224, 224), decoder_resolution(64, 48)
    ((28, 28), (56, 56), (32, 24))
    """
    longest = max(height, width)
    limit = limit or (SMALL_LIMIT if longest <= SMALL_IMAGE else LARGE_LIMIT)
    scale = min(1.0, limit / longest)
    return max(1, round(height * scale)), max(1, round(width * scale))


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of d: a linear layer to small maps, then transposed convolutions, each doubling the side.

    Attributes:
        base_channels: maps of the linear layer's output (2 in the paper's LeNet variant).
        channels: maps after each doubling but the last, which gives the image's channels (``(8,)`` in the paper's LeNet variant).
        max_side: the longest side of a reconstruction; ``None``: 32 for images up to 64 pixels, else 56.
        final_relu: a ReLU on the reconstruction (the authors' LeNet variant); wrong for normalised images, whose black is negative.
    """

    base_channels: int = 16
    channels: tuple[int, ...] = (16,)
    max_side: int | None = None
    final_relu: bool = False

    def __post_init__(self) -> None:
        if self.base_channels < 1 or any(count < 1 for count in self.channels) or (self.max_side is not None and self.max_side < 1):
            raise ConfigurationError(f"decoder sizes must be at least 1, got {self}")


class Decoder(nn.Module):
    """d(Φ(x)) in the classifier's normalised pixel space, (B, image channels, height, width) at ``resolution``."""

    def __init__(
        self, num_attributes: int, image_channels: int, resolution: tuple[int, int], config: DecoderConfig = DecoderConfig()
    ) -> None:
        super().__init__()
        self.resolution = resolution
        doublings = len(config.channels) + 1
        self.base = (config.base_channels, *(-(-side // 2**doublings) for side in resolution))
        self.linear = nn.Linear(num_attributes, self.base[0] * self.base[1] * self.base[2])
        widths = (config.base_channels, *config.channels, image_channels)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1), nn.ReLU()]
        self.upsample = nn.Sequential(*layers[: None if config.final_relu else -1])

    def forward(self, attributes: Attributes) -> Images:
        maps = self.upsample(self.linear(attributes).view(-1, *self.base))
        return maps[:, :, : self.resolution[0], : self.resolution[1]]
