"""Pictures that travel inside the page: encoded once, however often they are shown."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from ..arrays import ImageShape, is_photograph
from .palette import BLUE, ORANGE

CARD, THUMB = 160, 128  # pixels of the longer side of a photograph, on a card and elsewhere
MAP, PATCHES = 128, 32  # of a map of where an attribute looks; patches of it along a side, since single pixels of a photograph are noise
QUALITY = 72  # of WebP


@dataclass(frozen=True)
class Picture:
    """A picture of the page: ``name`` is its id there, ``width`` and ``height`` are in its own pixels."""

    name: str
    width: int
    height: int
    uri: str


def _png(image: Image.Image) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "image/png", buffer.getvalue()


def _webp(image: Image.Image) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY, method=5)
    return "image/webp", buffer.getvalue()


class PictureBook:
    """The pictures of one page. The same picture is held once: pages show it by its name.

    Args:
        image_shape: (channels, height, width) of the classifier's images, which decides how pictures are kept: small ones exactly, as
            PNG, photographs as WebP.
    """

    def __init__(self, image_shape: ImageShape) -> None:
        self.pixelated = not is_photograph(image_shape)
        self._encode: Callable[[Image.Image], tuple[str, bytes]] = _png if self.pixelated else _webp
        self._pictures: dict[str, Picture] = {}

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """All, in the order in which they came."""
        return tuple(self._pictures.values())

    def add(self, image: Image.Image, side: int = CARD) -> Picture:
        """A picture, shrunk so that no side is longer than ``side`` pixels."""
        small = shrunk(image, side)
        kind, content = self._encode(small)
        digest = hashlib.sha256(content).hexdigest()
        if digest not in self._pictures:
            uri = f"data:{kind};base64,{base64.b64encode(content).decode()}"
            self._pictures[digest] = Picture(f"picture-{len(self._pictures)}", small.width, small.height, uri)
        return self._pictures[digest]


def shrunk(image: Image.Image, side: int, filtering: Image.Resampling = Image.Resampling.LANCZOS) -> Image.Image:
    """``image`` with no side longer than ``side`` pixels."""
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    return image if scale >= 1 else image.resize((width, height), filtering)


def as_image(pixels: Tensor) -> Image.Image:
    """(channels, height, width) of [0, 1] pixels as 8-bit grey or RGB.

    One channel is grey, three are colours; of other numbers the mean is shown. Values outside [0, 1] are clipped, NaN is black.
    """
    clipped = np.nan_to_num(_array(pixels), nan=0.0).clip(0, 1)
    return _from_array(clipped.transpose(1, 2, 0) if len(clipped) == 3 else clipped.mean(axis=0))


def heat_over(pixels: Tensor, heat: Tensor) -> Image.Image:
    """A signed map in [-1, 1] (h, w), as means over patches, over a faded image (channels, H, W): blue speaks for, orange against."""
    ground = np.asarray(shrunk(as_image(pixels).convert("L"), MAP), dtype=np.float32) / 255
    patches = shrunk(Image.fromarray(np.nan_to_num(_array(heat))), PATCHES, Image.Resampling.BOX)
    laid = patches.resize(ground.shape[::-1], Image.Resampling.BICUBIC)
    return _tinted(0.4 * ground + 0.58, _boosted(np.asarray(laid)))


def signed_picture(values: Tensor) -> Image.Image:
    """Signed values (channels, H, W), summed over channels and scaled, on white: blue where positive, orange where negative."""
    total = np.nan_to_num(_array(values)).sum(axis=0)
    peak = float(np.abs(total).max(initial=0))
    return _tinted(np.ones_like(total), total / peak if peak > 0 else total)


def _boosted(heat: np.ndarray) -> np.ndarray:
    """``heat`` scaled so that its strongest hundredth saturates: a few sharp peaks would leave the rest too pale to see."""
    peak = float(np.quantile(np.abs(heat), 0.99))
    return heat / peak if peak > 0 else heat


def _tinted(ground: np.ndarray, heat: np.ndarray) -> Image.Image:
    strength = (np.abs(heat.clip(-1, 1)) ** 0.8)[..., None]
    colour = np.where(heat[..., None] >= 0, np.array(BLUE) / 255, np.array(ORANGE) / 255)
    return _from_array(ground[..., None] * (1 - strength) + colour * strength)


def _array(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()


def _from_array(values: np.ndarray) -> Image.Image:
    return Image.fromarray((255 * values).round().astype(np.uint8))
