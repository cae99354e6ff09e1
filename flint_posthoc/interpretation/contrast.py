"""The decoder with and without an attribute: d(Φ(x)) beside d(Φ(x) without φ_j) (paper, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..arrays import Images, PerImage, Reconstructions
from ..canvas import Figure, with_notes_below
from ..figures import contrast_rows
from ..interpreter.fitted import FittedInterpreter
from ..words import with_notes
from .targets import attribute_of_each


@dataclass(frozen=True)
class Contrast:
    """What the decoder draws with an attribute, and without it. Pixels in [0, 1] up to the decoder's error, at its resolution.

    Attributes:
        attributes: (B,), the attribute of each image.  activation: (B,) φ_j(x); where it is 0 both pictures are the same.
        image: x itself, (B, channels, H, W).  whole: d(Φ(x)).  without: d(Φ(x)) with φ_j = 0, both (B, channels, h, w).
    """

    attributes: Tensor
    activation: PerImage
    image: Images
    whole: Reconstructions
    without: Reconstructions
    notes: tuple[str, ...] = ()

    @property
    def difference(self) -> Reconstructions:
        """What the attribute adds: ``whole`` - ``without``, signed."""
        return self.whole - self.without

    def __str__(self) -> str:
        changes = self.difference.abs().flatten(1).amax(dim=1).tolist()
        rows = zip(self.attributes.tolist(), self.activation.tolist(), changes, strict=True)
        lines = [f"φ{attribute} at {activation:.2f} changes a pixel by up to {change:.2f}" for attribute, activation, change in rows]
        return with_notes([f"Contrast of {len(lines)} images: what the decoder draws because of an attribute", *lines], self.notes)

    def plot(self) -> Figure:
        """One row an image: x, d(Φ(x)), the same without the attribute, and the difference."""
        pictures = (self.image, self.whole, self.without, self.difference)
        titles = [f"φ{attribute}" for attribute in self.attributes.tolist()]
        figure = contrast_rows([[*row] for row in zip(*(part.cpu().numpy() for part in pictures), strict=True)], titles)
        return with_notes_below(figure, self.notes)


@torch.no_grad()
def contrast(fitted: FittedInterpreter, images: Tensor, attributes: int | Sequence[int] | Tensor) -> Contrast:
    """d(Φ(x)) with and without one attribute an image.

    Args:
        images: (B, channels, H, W) as the classifier sees them.
        attributes: one for all images, or one each.

    Raises:
        ConfigurationError: an attribute that does not exist, or another number of them than images. ImageShapeError.
    """
    batch = fitted.read_together(images)
    chosen = attribute_of_each(attributes, len(batch.images), fitted.interpreter.num_attributes).to(batch.attributes.device)
    silenced = batch.attributes.scatter(1, chosen[:, None], 0.0)
    whole, without = map(fitted.redrawn, (batch.attributes, silenced))
    activation = batch.attributes.gather(1, chosen[:, None])[:, 0]
    return Contrast(chosen, activation, fitted.normalization.denormalize(batch.images), whole, without, fitted.notes)
