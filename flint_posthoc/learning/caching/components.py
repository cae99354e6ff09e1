"""Wide taps in few principal components: what a cache stores of them, what is learnt from, and the way back to the channels."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from ...arrays import Activations, Maps, MapShape
from ...interpreter.attributes import channel_statistics
from ...processes import copy_from_main, gather, gather_rows, rank
from ...storage import tensors_digest
from ..batches import LearningBatch

IMAGES = 1024  # whose places tell the components, at most
PLACES = 8192  # of these images, at most
_NAMES = ("mean", "deviation", "basis", "kept")


class TapComponents(NamedTuple):
    """The principal components of one tap's standardised channels, scaled to variance 1 on average over the channels' worth of them.

    Attributes:
        mean, deviation: of each channel (C,).
        basis: (C, R), orthonormal columns; R = C without a rotation for a tap that is not wide.
        kept: share of the channels' variance that the components hold.
    """

    mean: Tensor
    deviation: Tensor
    basis: Tensor
    kept: Tensor

    @classmethod
    def of(cls, maps: Maps, count: int) -> TapComponents:
        """From maps (n, C, h, w): the ``count`` largest, or all channels as they are where there are no more."""
        mean, deviation = channel_statistics(maps)
        channels = len(mean)
        if channels <= count:
            return cls(mean, deviation, torch.eye(channels, device=mean.device), torch.ones((), device=mean.device))
        standard = (_places(maps).float() - mean) / deviation
        values, vectors = _eigh(standard.T @ standard / len(standard))
        kept = values[-count:].sum() / values.sum() if values.sum() > 0 else values.new_ones(())
        return cls(mean, deviation, vectors[:, -count:].flip(1).contiguous(), kept)

    @property
    def scale(self) -> float:
        """By which components are multiplied: a sum over R of them then varies as one over C channels."""
        return math.sqrt(self.basis.shape[1] / self.basis.shape[0])

    @property
    def kernel(self) -> Tensor:
        """(R, C): components are this times the channels less their mean."""
        return self.scale * (self.basis / self.deviation[:, None]).T

    def project(self, maps: Maps) -> Maps:
        """(n, C, h, w) → (n, R, h, w)."""
        kernel = self.kernel.to(maps)
        found = torch.addmm(-(kernel @ self.mean.to(maps)), _places(maps), kernel.T)  # of a place side by side, as the loop reads them
        return found.unflatten(0, (len(maps), *maps.shape[2:])).permute(0, 3, 1, 2)

    def restore(self, maps: Maps) -> Maps:
        """(n, R, h, w) → (n, C, h, w): the channels, less what the components do not hold."""
        back = (self.basis * self.deviation[:, None] / self.scale).to(maps)
        return (back @ maps.flatten(2) + self.mean.to(maps)[:, None]).unflatten(2, maps.shape[2:])


@dataclass(frozen=True)
class Components:
    """Those of every tap."""

    taps: tuple[TapComponents, ...]

    @classmethod
    def of(cls, activations: Activations, count: int) -> Components:
        """From f's maps of some images."""
        return cls(tuple(TapComponents.of(maps, count) for maps in activations))

    def project(self, activations: Activations) -> Activations:
        """Channels → components."""
        return tuple(tap.project(maps) for tap, maps in zip(self.taps, activations, strict=True))

    def restore(self, activations: Activations) -> Activations:
        """Components → channels."""
        return tuple(tap.restore(maps) for tap, maps in zip(self.taps, activations, strict=True))

    def tensors(self) -> dict[str, Tensor]:
        """To be kept in a file."""
        told = ((place, tap) for place, tap in enumerate(self.taps))
        return {f"{place}.{name}": getattr(tap, name).cpu() for place, tap in told for name in _NAMES}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], maps: Sequence[MapShape]) -> Components:
        """The inverse of ``tensors``, for taps that are stored with these shapes. Raises ``KeyError``, ``ValueError``."""
        taps = tuple(TapComponents(*(tensors[f"{place}.{name}"] for name in _NAMES)) for place in range(len(maps)))
        for tap, shape in zip(taps, maps, strict=True):
            channels = len(tap.mean) if tap.mean.dim() == 1 else 0
            shapes = (tap.deviation.shape, tap.basis.shape, tap.kept.shape)
            if shapes != ((channels,), (channels, shape[0]), ()) or not all(value.isfinite().all() for value in tap):
                raise ValueError(
                    f"components of shapes {[tuple(value.shape) for value in tap]} do not belong to {shape[0]} stored channels"
                )
        return cls(taps)

    @property
    def digest(self) -> str:
        """SHA-256 (hex): a fit that has learnt in these components can go on in no others."""
        return tensors_digest(self.tensors().items())

    @property
    def note(self) -> str:
        """How much is kept."""
        wide = (tap for tap in self.taps if tap.basis.shape[1] < tap.basis.shape[0])
        said = (f"{tap.basis.shape[1]:,} of {tap.basis.shape[0]:,} ({float(tap.kept):.1%} of their variance)" for tap in wide)
        return "of the channels of each wide tap the principal components were kept: " + ", ".join(said)


def in_components(passes: Iterator[LearningBatch], max_channels: int | None) -> tuple[Components | None, Iterator[LearningBatch]]:
    """The components that the first images of ``passes`` tell, and all of it in them; ``None`` and as it is where no tap is wider."""
    first = next(passes, None)
    if first is None or max_channels is None or all(maps.shape[1] <= max_channels for maps in first.activations):
        return None, passes if first is None else chain([first], passes)
    begun = [first]
    while sum(len(batch.logits) for batch in begun) < IMAGES and (batch := next(passes, None)) is not None:
        begun.append(batch)
    components = Components.of(tuple(map(_told_by, zip(*(batch.activations for batch in begun), strict=True))), max_channels)
    copy_from_main(value for tap in components.taps for value in tap)
    return components, (batch.mapped(components.project) for batch in chain(begun, passes))


def _told_by(parts: tuple[Tensor, ...]) -> Tensor:
    """Places (P, C, 1, 1) spread evenly over a tap's maps of the first images of all processes; ``parts`` are this one's batches."""
    area, counts = parts[0].shape[2] * parts[0].shape[3], gather(sum(map(len, parts)))
    total = area * min(sum(counts), IMAGES)
    chosen = torch.linspace(0, total - 1, min(total, PLACES), dtype=torch.float64).round().long()
    first, found = area * sum(counts[: rank()]), []
    for part in parts:
        here = chosen[(chosen >= first) & (chosen < first + area * len(part))] - first
        found.append(_places(part).index_select(0, here.to(part.device)))
        first += area * len(part)
    return gather_rows(torch.cat(found))[:, :, None, None]


def _eigh(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors as columns; in float64 where float32 finds none, as it happens with few places a channel."""
    with contextlib.suppress(torch.linalg.LinAlgError):  # type: ignore[attr-defined]  # public, though its stubs do not say so
        values, vectors = torch.linalg.eigh(covariance)
        if values.isfinite().all() and vectors.isfinite().all():
            return values, vectors
    values, vectors = torch.linalg.eigh(covariance.double())
    return values.to(covariance), vectors.to(covariance)


def _places(maps: Maps) -> Tensor:
    """(n, C, h, w) → (n · h · w, C)."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)
