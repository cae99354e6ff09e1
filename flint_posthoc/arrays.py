"""Axis-named tensor types and the shape of an image, declared once.

The types are checked under pytest only (jaxtyping's import hook with beartype). Letters bind across the arguments of one
function: two ``b`` are the same number.
"""

from typing import TypeAlias

from jaxtyping import Bool, Float, Int
from torch import Tensor

ImageShape: TypeAlias = tuple[int, int, int]  # (channels, height, width)
MapShape: TypeAlias = tuple[int, int, int]  # the same of one tap in canonical form
SMALL_IMAGE = 64  # pixels of the longer side; above it images are taken for photographs

Images: TypeAlias = Float[Tensor, "b image_channels height width"]
Reconstructions: TypeAlias = Float[Tensor, "b image_channels rows columns"]  # d(Φ(x)), at the decoder's resolution
Maps: TypeAlias = Float[Tensor, "b _ _ _"]  # one tap's activations in canonical form; several taps are untied on purpose
Activations: TypeAlias = tuple[Maps, ...]  # f_I(x), one entry a tapped layer, in the order of `layers`
Attributes: TypeAlias = Float[Tensor, "b attributes"]  # Φ(x)
Logits: TypeAlias = Float[Tensor, "b classes"]
Contributions: TypeAlias = Float[Tensor, "b attributes"]  # α_{j,c,x} for one class c an image
Relevance: TypeAlias = Float[Tensor, "b attributes"]  # r_{j,x}
Weight: TypeAlias = Float[Tensor, "classes attributes"]  # W
Bias: TypeAlias = Float[Tensor, " classes"]  # b
ClassIndex: TypeAlias = Int[Tensor, " b"]
PerImage: TypeAlias = Float[Tensor, " b"]
PerImageFlag: TypeAlias = Bool[Tensor, " b"]
PerAttributeFlag: TypeAlias = Bool[Tensor, " attributes"]
Members: TypeAlias = Bool[Tensor, "b classes"]  # which classes an image counts under
Scalar: TypeAlias = Float[Tensor, ""]


def is_photograph(image_shape: ImageShape) -> bool:
    """Whether images of this shape are taken for photographs, and not for small images."""
    return max(image_shape[1:]) > SMALL_IMAGE
