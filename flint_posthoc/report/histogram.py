"""How often does an attribute fire, and how strongly? Histograms over a stream of any length, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..arrays import Attributes

BINS = 32  # a power of two, so that neighbouring bins merge in pairs


@dataclass(frozen=True)
class ActivationHistogram:
    """Of one attribute.

    Attributes:
        counts: images in each of ``BINS`` bins of equal width over (0, ``upper``); a bin holds its lower edge.
        upper: above every activation seen, a power of two; 0 where the attribute never fired.
        silent: images on which φ_j = 0.
    """

    counts: tuple[int, ...]
    upper: float
    silent: int

    @property
    def fired(self) -> int:
        """Images on which the attribute fires."""
        return sum(self.counts)

    @property
    def share_fired(self) -> float:
        """The same as a share of all images, in [0, 1]."""
        return self.fired / max(1, self.fired + self.silent)


class HistogramReading:
    """Histograms of J attributes while batches go by; memory O(J · bins).

    A range is a power of two. Where a larger activation comes it doubles, and bins merge in pairs: powers of two are exact in
    floating point, so that the result does not depend on the order of images.
    """

    def __init__(self, num_attributes: int) -> None:
        self._counts = torch.zeros(num_attributes, BINS, dtype=torch.int64)
        self._exponents: Tensor | None = None  # (J,): the range of attribute j ends at 2 ** exponents[j]
        self._silent = torch.zeros(num_attributes, dtype=torch.int64)

    def add(self, attributes: Attributes) -> None:
        """The activations of one more batch."""
        values = attributes.detach().cpu().double()
        self._silent += (values <= 0).sum(dim=0)
        self._widen(torch.frexp(values.amax(dim=0))[1].long(), values.amax(dim=0) > 0)
        exponents = self._exponents if self._exponents is not None else torch.zeros(values.shape[1], dtype=torch.int64)
        bins = (values * torch.pow(2.0, -exponents.double()) * BINS).nan_to_num(0).long().clamp(0, BINS - 1)
        self._counts.scatter_add_(1, bins.T, (values > 0).long().T)

    def _widen(self, exponents: Tensor, fired: Tensor) -> None:
        """Ranges that reach 2 ** ``exponents`` where an attribute ``fired``."""
        lowest = torch.iinfo(torch.int32).min
        needed = torch.where(fired, exponents, lowest)
        known = torch.full_like(needed, lowest) if self._exponents is None else self._exponents
        self._exponents = torch.maximum(known, needed)
        doublings = torch.where(known > lowest, self._exponents - known, 0).clamp(max=BINS.bit_length())
        places = torch.arange(BINS).expand_as(self._counts) >> doublings[:, None]
        self._counts = torch.zeros_like(self._counts).scatter_add_(1, places, self._counts)

    def result(self) -> tuple[ActivationHistogram, ...]:
        """One histogram an attribute."""
        exponents = [] if self._exponents is None else self._exponents.tolist()
        rows = zip(self._counts.tolist(), exponents or [0] * len(self._counts), self._silent.tolist(), strict=True)
        return tuple(ActivationHistogram(tuple(row), 2.0**exponent if any(row) else 0.0, silent) for row, exponent, silent in rows)
