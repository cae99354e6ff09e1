"""Where bfloat16 pays, and the context that uses it."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from .errors import ConfigurationError

PRECISIONS = ("auto", "float32", "bfloat16")
FUSED = ("cpu", "cuda", "mps")  # devices with an Adam of one kernel


def bfloat16_pays(device: torch.device) -> bool:
    """Whether this device multiplies bfloat16 matrices in hardware: CUDA from Ampere on, CPUs with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # from torch 2.10 on
        return False
    known = torch.cpu.get_capabilities()
    return bool(known.get("amx_bf16", False) or known.get("avx512_bf16", False))


def lowered(precision: str, device: torch.device, dtype: torch.dtype, *, automatic: bool = True) -> bool:
    """Whether ``precision`` means bfloat16 for a classifier of ``dtype``: "auto" does where it is ``automatic`` and pays.

    Raises:
        ConfigurationError: an unknown precision, or bfloat16 for a classifier that is neither in float32 nor in bfloat16.
    """
    if precision not in PRECISIONS:
        raise ConfigurationError(f"precision must be one of {PRECISIONS}, got {precision!r}")
    if precision == "bfloat16" and dtype not in (torch.float32, torch.bfloat16):
        raise ConfigurationError(f"precision='bfloat16' lowers a float32 classifier; this one is {dtype}")
    return precision == "bfloat16" or (precision == "auto" and automatic and dtype is torch.float32 and bfloat16_pays(device))


def autocast(device: torch.device, enabled: bool = True) -> AbstractContextManager[object]:
    """A context in which convolutions and matrix products run in bfloat16, or not enabled do not, whatever the contexts around it say.

    Without autocast's cache of lowered weights: that is emptied when the outermost context ends, so that a fit inside another one would go
    on with the weights of its first step.
    """
    dtype = torch.bfloat16 if enabled else None  # of an autocast that f itself enters, the device's own
    return torch.autocast(device.type, dtype, enabled=enabled, cache_enabled=False)
