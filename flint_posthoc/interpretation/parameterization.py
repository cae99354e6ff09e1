"""How the picture that activation maximisation draws is written down: as pixels (the paper), or as decorrelated frequencies.

A parameterisation turns images, as the classifier sees them, into the tensor that the optimiser moves, and back. Every image is its own:
nothing mixes rows, so that pictures drawn in one batch are those drawn one at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ..arrays import Images, ImageShape
from ..classifier.adapter import Normalization

_EDGE = 0.02  # pixels this close to 0 or 1 start a little inside: the logit of 0 and 1 is infinite
# Ohta, Kanade and Sakai (1980): luminance, red against blue and green against both are nearly uncorrelated in natural images; the rows are
# these directions, scaled to their usual deviations.
_OPPONENT = torch.tensor([[1.0, 1.0, 1.0], [0.35, 0.0, -0.35], [-0.12, 0.24, -0.12]], dtype=torch.float64) / 3**0.5


class Parameterization(Protocol):
    """Made for images of one size."""

    def encode(self, images: Images) -> Tensor:
        """What the optimiser moves, a row an image."""
        ...

    def decode(self, parameters: Tensor) -> Images:
        """The images, differentiable."""
        ...


class Pixels:
    """The image itself: the paper's."""

    def __init__(self, shape: ImageShape, normalization: Normalization) -> None:
        pass

    def encode(self, images: Images) -> Tensor:
        return images.clone()

    def decode(self, parameters: Tensor) -> Images:
        return parameters


class Fourier:
    """Frequencies weighted by 1/f, colours decorrelated, squeezed into [0, 1] by a logistic function (Olah, Mordvintsev and Schubert,
    "Feature Visualization", 2017): steps of one length change coarse structure more than pixel noise, and no pixel leaves its range.
    """

    def __init__(self, shape: ImageShape, normalization: Normalization) -> None:
        self._size, self._normalization = shape[1:], normalization
        rows, columns = torch.fft.fftfreq(shape[1])[:, None], torch.fft.rfftfreq(shape[2])[None]
        scale = 1 / (rows.square() + columns.square()).sqrt().clamp_min(1 / max(shape[1:]))
        scale = scale / scale.square().mean().sqrt()  # a step of one moves pixels by about one deviation
        self._scale = torch.stack([scale, scale], dim=-1)  # of real and imaginary parts: written out, vector instructions multiply by it
        self._colours = (_OPPONENT if shape[0] == 3 else torch.eye(shape[0], dtype=torch.float64)).T

    def encode(self, images: Images) -> Tensor:
        pixels = self._normalization.denormalize(images).clamp(_EDGE, 1 - _EDGE)
        mixed = _mixed(self._colours.inverse(), pixels.logit())
        return torch.view_as_real(torch.fft.rfft2(mixed, norm="ortho")) / self._scale.to(pixels)

    def decode(self, parameters: Tensor) -> Images:
        spectrum = torch.view_as_complex((parameters * self._scale.to(parameters)).contiguous())
        mixed = torch.fft.irfft2(spectrum, s=self._size, norm="ortho")
        return self._normalization.normalize(_mixed(self._colours, mixed).sigmoid())


def _mixed(colours: Tensor, images: Images) -> Images:
    """Each pixel's channels times a matrix; much cheaper than ``einsum``, which moves the channels last."""
    return (colours.to(images) @ images.flatten(2)).view_as(images)


PARAMETERIZATIONS: dict[str, Callable[[ImageShape, Normalization], Parameterization]] = {"pixels": Pixels, "fourier": Fourier}
