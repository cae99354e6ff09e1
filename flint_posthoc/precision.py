"""Where bfloat16 pays, and the context that uses it."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from .errors import ConfigurationError

PRECISIONS = ("auto", "float32", "bfloat16")


def bfloat16_pays(device: torch.device) -> bool:
    """Whether this device multiplies bfloat16 matrices in hardware: CUDA from Ampere on, CPUs with AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # from torch 2.10 on
        return False
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def lowered(precision: str, device: torch.device, *, automatic: bool) -> bool:
    """Whether ``precision`` means bfloat16: where it says so, or for "auto" where it is ``automatic`` and pays on this device.

    Raises:
        ConfigurationError: an unknown precision.
    """
    if precision not in PRECISIONS:
        raise ConfigurationError(f"precision must be one of {PRECISIONS}, got {precision!r}")
    return precision == "bfloat16" or (precision == "auto" and automatic and bfloat16_pays(device))


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """A context in which convolutions and matrix products run in ``precision``; "auto": bfloat16 where it pays.

    Raises:
        ConfigurationError: an unknown precision.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=lowered(precision, device, automatic=True))
