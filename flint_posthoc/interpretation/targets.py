"""Which attribute or class each image is asked about, checked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ConfigurationError


def attribute_of_each(attributes: int | Sequence[int] | Tensor, images: int, num_attributes: int) -> Tensor:
    """One attribute an image (B,), int64 on the CPU, from one for all or one each. Raises ``ConfigurationError``."""
    return one_of_each(attributes, images, num_attributes, "attribute")


def one_of_each(wanted: int | Sequence[int] | Tensor, images: int, limit: int, what: str) -> Tensor:
    """``wanted`` as (B,), int64 on the CPU, each in [0, ``limit``).

    Raises:
        ConfigurationError: no whole numbers, another number of them than images, or one that does not exist.
    """
    numbers = torch.as_tensor(wanted).cpu()
    if numbers.is_floating_point() or numbers.dtype == torch.bool or numbers.shape not in ((), (images,)):
        raise ConfigurationError(
            f"expected one {what} as a whole number or {images} of them, one an image; got {numbers.dtype} of shape {tuple(numbers.shape)}"
        )
    outside = sorted({number for number in numbers.flatten().tolist() if not 0 <= number < limit})
    if outside:
        raise ConfigurationError(f"there is no {what} {', '.join(map(str, outside))}; expected 0 to {limit - 1}")
    return numbers.long().expand(images)
