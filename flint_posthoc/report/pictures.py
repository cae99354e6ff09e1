"""Pictures that travel inside the page: encoded once, however often they are shown."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .palette import BLUE, ORANGE, Colour

SMALL = 64  # pixels: images up to this size are shown as they are, pixel by pixel
CARD, THUMB = 160, 128  # pixels of the longer side of a photograph, on a card and elsewhere
MAP = 128  # of a map of where an attribute looks
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

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        self.pixelated = max(image_shape[1:]) <= SMALL
        self._encode: Callable[[Image.Image], tuple[str, bytes]] = _png if self.pixelated else _webp
        self._pictures: dict[str, Picture] = {}

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """All, in the order in which they came."""
        return tuple(self._pictures.values())

    def add(self, pixels: Tensor, side: int = CARD) -> Picture:
        """A picture (channels, height, width) of [0, 1] pixels, shrunk so that no side is longer than ``side`` pixels.

        One channel is grey, three are colours; of other numbers the mean is shown. Values outside [0, 1] are clipped, NaN is black.
        """
        image = as_image(pixels)
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        kind, content = self._encode(image)
        digest = hashlib.sha256(content).hexdigest()
        if digest not in self._pictures:
            uri = f"data:{kind};base64,{base64.b64encode(content).decode()}"
            self._pictures[digest] = Picture(f"picture-{len(self._pictures)}", *image.size, uri)
        return self._pictures[digest]


def as_image(pixels: Tensor) -> Image.Image:
    """(channels, height, width) in [0, 1] as 8-bit grey or RGB."""
    clipped = pixels.detach().float().cpu().nan_to_num(0).clamp(0, 1)
    shown = clipped if len(clipped) == 3 else clipped.mean(dim=0, keepdim=True)
    array = shown.mul(255).round().byte().permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array if len(shown) == 3 else array[..., 0])


def heat_over(pixels: Tensor, heat: Tensor) -> Tensor:
    """A signed map in [-1, 1] (h, w) over a faded image (channels, H, W), as (3, H, W): blue speaks for, orange against."""
    size = (pixels.shape[1], pixels.shape[2])
    resized = F.interpolate(heat.detach().float().cpu()[None, None], size, mode="bilinear", align_corners=False)[0]
    grey = pixels.detach().float().cpu().nan_to_num(0).clamp(0, 1).mean(dim=0, keepdim=True)
    return _tint((0.45 * grey + 0.5).expand(3, -1, -1), resized)


def signed_picture(values: Tensor) -> Tensor:
    """Signed values (channels, H, W), summed over channels, on white as (3, H, W): blue where positive, orange where negative."""
    total = values.detach().float().cpu().nan_to_num(0).sum(dim=0, keepdim=True)
    peak = float(total.abs().max())
    return _tint(torch.ones(3, *total.shape[1:]), total / peak if peak > 0 else total)


def _tint(ground: Tensor, heat: Tensor) -> Tensor:
    strength = heat.nan_to_num(0).clamp(-1, 1).abs().sqrt()
    colour = torch.where(heat >= 0, _pixel(BLUE), _pixel(ORANGE))
    return ground * (1 - strength) + colour * strength


def _pixel(colour: Colour) -> Tensor:
    return torch.tensor(colour).view(3, 1, 1) / 255
