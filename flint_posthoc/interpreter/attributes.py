"""Ψ: the small network that reads the tapped activations and names J attributes in them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arrays import SMALL_IMAGE, Activations, Attributes, Maps, MapShape
from ..errors import ConfigurationError, ImageShapeError
from ..measures import area_resize

COARSE, FINE = 8, 16  # sides of grids; taps of more places than the coarse one stand before layers that may tell neighbours apart
HIDDEN_CHANNELS, READ = 64, 4096  # maps of a convolution, fewer where a tap would give the linear layers more numbers than this


def grid_side(side: int, limit: int) -> int:
    """The side of the pooled grid: ``side`` divided by the smallest whole number that brings it to ``limit`` or less, rounded up.

    >>> [grid_side(side, 8) for side in (7, 8, 13, 14, 28, 56, 1)]
    [7, 8, 7, 7, 7, 8, 1]
    """
    return -(-side // -(-side // limit))


@dataclass(frozen=True)
class AttributeNetworkConfig:
    """The shape of Ψ.

    Attributes:
        hidden_channels: maps of each convolution (64 in the paper's networks); ``None``: 64, or fewer where the linear layers read many
            places of them.
        tap_kernel_size: side of the kernel that reads each tap, odd (3 in the paper; 1 is up to nine times cheaper on wide taps).
        merge_kernel_size: side of the kernel that reads all taps together, odd; "auto": 3 for images of up to 64 pixels, none where their
            grid is finer than 8 × 8, and 1 for larger ones, whose late layers have seen the surroundings of a place; ``None``: no such
            convolution (the paper's LeNet variant).
        max_grid: taps whose maps are larger are first pooled by area to at most this side, which is what an activation cache stores;
            "auto": 8, and 16 for images of up to 64 pixels whose taps are all larger than 8 × 8; ``None``: as they are (the paper).
        max_channels: taps with more channels are learnt from in so many principal components of their first images, which is what an
            activation cache stores; the kernels are multiplied out afterwards. ``None``: in all channels (the paper).
        pool_size: side of the grid that the linear layers read (3 in the paper's networks); ``None``: 4 for images of up to 64 pixels,
            where a place in the image means something, all of a grid finer than 8 × 8, and 1 for larger ones, photographs whose objects
            stand anywhere.
        hidden_units: width of a linear layer with ReLU before the last one; ``None``: no such layer (the paper).
        strided: larger taps reach the smallest tap's grid by a strided convolution (the paper) instead of by pooling behind it.
        standardize: whether each tapped channel is shifted and scaled by its mean and deviation on the first batch of the fit.
        dropout: on what the last linear layer reads, while training.
    """

    hidden_channels: int | None = None
    tap_kernel_size: int = 1
    merge_kernel_size: int | str | None = "auto"
    max_grid: int | str | None = "auto"
    max_channels: int | None = 256
    pool_size: int | None = None
    hidden_units: int | None = 256
    strided: bool = False
    standardize: bool = True
    dropout: float = 0.1

    def __post_init__(self) -> None:
        grid = None if self.max_grid == "auto" else self.max_grid
        sizes = (self.hidden_channels, self.hidden_units, self.pool_size, grid, self.max_channels)
        if any(size is not None and (not isinstance(size, int) or size < 1) for size in sizes):
            raise ConfigurationError(f"hidden_channels, hidden_units, pool_size, max_grid and max_channels must be at least 1, got {self}")
        kernel_sizes = (self.tap_kernel_size, 1 if self.merge_kernel_size in (None, "auto") else self.merge_kernel_size)
        if any(not isinstance(size, int) or size < 1 or size % 2 == 0 for size in kernel_sizes):
            raise ConfigurationError(f"kernel sizes must be odd and positive, got {self.tap_kernel_size} and {self.merge_kernel_size}")
        if not 0 <= self.dropout < 1:
            raise ConfigurationError(f"dropout must be in [0, 1), got {self.dropout}")

    @property
    def learns_components(self) -> bool:
        """Whether the kernels that read the taps can be learnt in principal components: linear maps of standardised channels."""
        return self.max_channels is not None and self.standardize and self.tap_kernel_size == 1 and not self.strided

    def resolved(self, tap_shapes: tuple[MapShape, ...], image_side: int) -> AttributeNetworkConfig:
        """With sizes in place of "auto", and of ``pool_size=None``, for such taps and images whose longer side has so many pixels."""
        small = image_side <= SMALL_IMAGE
        fine = small and all(max(shape[1:]) > COARSE for shape in tap_shapes)
        grid = (FINE if fine else COARSE) if self.max_grid == "auto" else self.max_grid
        fine = fine and grid is not None and int(grid) > COARSE
        kernel, pool = (None, FINE) if fine else (3, 4) if small else (1, 1)
        merge = kernel if self.merge_kernel_size == "auto" else self.merge_kernel_size
        return replace(self, max_grid=grid, merge_kernel_size=merge, pool_size=self.pool_size or pool)

    def maps_for(self, places: int) -> int:
        """``hidden_channels``, where the linear layers read so many places of them."""
        return self.hidden_channels or max(1, min(HIDDEN_CHANNELS, READ // places))


def _convolution(channels: int, maps: int, kernel_size: int, stride: tuple[int, int] = (1, 1)) -> nn.Conv2d:
    return nn.Conv2d(channels, maps, kernel_size, stride=stride, padding=kernel_size // 2)


_CONSTANT = 1e-30  # a channel that deviates less does not vary: products with the reciprocal leave float32's range


def channel_statistics(maps: Maps) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel, each (C,); the deviation of a channel that never varies is given as 1."""
    deviation, mean = torch.std_mean(maps.float(), dim=(0, 2, 3), correction=0)
    return mean, torch.where(deviation > (1e-6 * deviation.max()).clamp_min(_CONSTANT), deviation, 1)


class TapReader(nn.Module):
    """A convolution over one tap whose channels are first shifted and scaled by a fixed amount, read off the first batch of a fit.

    No batch norm: nothing moves afterwards. With a 1 × 1 kernel the affine map costs nothing, being folded into the kernel.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, channels: int, maps: int, kernel_size: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.convolution = _convolution(channels, maps, kernel_size, stride)
        self.activation = nn.ReLU()  # a module of its own, as are all of Ψ's: guided backpropagation sees no functional ones
        self.register_buffer("shift", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    @torch.no_grad()
    def standardize(self, maps: Maps) -> None:
        """Take over mean and deviation of each channel of ``maps``; channels that never vary keep scale 1."""
        mean, deviation = channel_statistics(maps)
        self.shift.copy_(mean)
        self.scale.copy_(1 / deviation)

    @torch.no_grad()
    def learnt_as(self, kernel: Tensor, bias: Tensor, mean: Tensor, deviation: Tensor) -> None:
        """Take over a kernel (maps, C, 1, 1) that was learnt on channels of this mean and deviation, each (C,)."""
        self.convolution.weight.copy_(kernel)
        self.convolution.bias.copy_(bias)  # type: ignore[union-attr]
        self.shift.copy_(mean)
        self.scale.copy_(1 / deviation)

    def forward(self, maps: Maps) -> Maps:
        """(B, C, h, w) → ReLU of the convolution of the standardised channels."""
        scale, shift = self.scale.view(1, -1, 1, 1), self.shift.view(1, -1, 1, 1)
        if self.convolution.kernel_size != (1, 1):
            return self.activation(self.convolution((maps - shift) * scale))
        weight = self.convolution.weight * scale
        bias: Tensor = self.convolution.bias - (weight * shift).sum(dim=(1, 2, 3))  # type: ignore[operator]
        if self.convolution.stride != (1, 1):
            return self.activation(F.conv2d(maps, weight, bias, stride=self.convolution.stride))
        return self.activation(F.linear(maps.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2))


class AttributeNetwork(nn.Module):
    """Φ(x) = Ψ(f_I(x)) ≥ 0: a convolution a tap, aligned and concatenated, a merging convolution, pooling, two linear layers, ReLU.

    Args:
        tap_shapes: (channels, height, width) of each tapped layer in canonical form, in forward order.
        num_attributes: J.
        image_side: pixels of the longer side of an image.
    """

    def __init__(
        self,
        tap_shapes: tuple[MapShape, ...],
        num_attributes: int,
        config: AttributeNetworkConfig = AttributeNetworkConfig(),
        *,
        image_side: int = SMALL_IMAGE,
    ) -> None:
        super().__init__()
        if num_attributes < 1:
            raise ConfigurationError(f"num_attributes must be at least 1, got {num_attributes}")
        self.config = config = config.resolved(tap_shapes, image_side)
        self.tap_shapes = tap_shapes
        self.reduced_shapes = tuple(self._reduced(shape) for shape in tap_shapes)
        self.grid = (min(shape[1] for shape in self.reduced_shapes), min(shape[2] for shape in self.reduced_shapes))
        pool = config.pool_size or FINE
        self.pool = (min(pool, self.grid[0]), min(pool, self.grid[1]))
        hidden = config.maps_for(self.pool[0] * self.pool[1])
        self.taps = nn.ModuleList(TapReader(shape[0], hidden, config.tap_kernel_size, self._stride(shape)) for shape in self.reduced_shapes)
        width = hidden * len(tap_shapes)
        self.merge = None if config.merge_kernel_size is None else _convolution(width, hidden, int(config.merge_kernel_size))
        self.merge_activation = nn.ReLU()
        pooled = (width if self.merge is None else hidden) * self.pool[0] * self.pool[1]
        self.mix = nn.Identity() if config.hidden_units is None else nn.Sequential(nn.Linear(pooled, config.hidden_units), nn.ReLU())
        self.linear = nn.Linear(config.hidden_units or pooled, num_attributes)
        self.activation = nn.ReLU()

    def _stride(self, shape: MapShape) -> tuple[int, int]:
        return (max(1, round(shape[1] / self.grid[0])), max(1, round(shape[2] / self.grid[1]))) if self.config.strided else (1, 1)

    def _reduced(self, shape: MapShape) -> MapShape:
        limit = self.config.max_grid
        return shape if limit is None else (shape[0], grid_side(shape[1], int(limit)), grid_side(shape[2], int(limit)))

    def reduced(self, activations: Activations) -> Activations:
        """The activations at the resolution Ψ works on (area pooling; nothing learnt): what an activation cache stores. Idempotent.

        Raises:
            ImageShapeError: the maps are not those of the images that the interpreter was made for.
        """
        return tuple(
            self._reduce_tap(maps, *shapes)
            for maps, shapes in zip(activations, zip(self.tap_shapes, self.reduced_shapes, strict=True), strict=True)
        )

    @staticmethod
    def _reduce_tap(maps: Tensor, full: MapShape, reduced: MapShape) -> Tensor:
        if tuple(maps.shape[1:]) == reduced:
            return maps
        if tuple(maps.shape[1:]) != full:
            raise ImageShapeError(
                f"a tapped layer gave maps of shape {tuple(maps.shape[1:])}, the interpreter was made for {full}: images of another size?"
            )
        return area_resize(maps, reduced[1:])

    def features(self, activations: Activations) -> Tensor:
        """What the last linear layer reads: (B, hidden_units), or without that layer the pooled maps, flat."""
        maps = [area_resize(read(tap), self.grid) for read, tap in zip(self.taps, self.reduced(activations), strict=True)]
        together = torch.cat(maps, dim=1)
        merged = together if self.merge is None else self.merge_activation(self.merge(together))
        mixed: Tensor = self.mix(area_resize(merged, self.pool).flatten(1))
        return mixed

    def preactivations(self, activations: Activations) -> Attributes:
        """φ before its ReLU: what AM+PI climbs while an attribute is silent."""
        return self.linear(F.dropout(self.features(activations), self.config.dropout, self.training))

    def forward(self, activations: Activations) -> Attributes:
        return self.activation(self.preactivations(activations))

    @torch.no_grad()
    def initialize_from(self, activations: Activations, bias: float) -> None:
        """Data-dependent initialisation on a first batch: standardised taps, pre-activations of mean ``bias`` and deviation 1.

        A unit of a final ReLU that is silent for all data gets no gradient from any term; started like this none is silent.
        """
        if self.config.standardize:
            for reader, tap in zip(self.taps, self.reduced(activations), strict=True):
                reader.standardize(tap)  # type: ignore[operator]
        self.restart_units(torch.ones(self.linear.out_features, dtype=torch.bool, device=self.linear.weight.device), activations, bias)

    @torch.no_grad()
    def restart_units(self, units: Tensor, activations: Activations, bias: float) -> None:
        """Give the flagged units (J,) fresh random weights whose pre-activations have mean ``bias`` and deviation 1 on ``activations``.

        Where these do not vary (a single image) there is no deviation to scale to, and torch's own initialisation stays.
        """
        fresh = nn.Linear(self.linear.in_features, self.linear.out_features).to(self.linear.weight)
        features = self.features(activations)
        deviation, mean = torch.std_mean(F.linear(features, fresh.weight).float(), dim=0, correction=0)
        varies = deviation > 1e-5 * mean.abs()
        scale = torch.where(varies, 1 / torch.where(varies, deviation, 1), 1)
        self.linear.weight[units] = (fresh.weight * scale[:, None])[units]
        self.linear.bias[units] = (bias - mean * scale)[units]
