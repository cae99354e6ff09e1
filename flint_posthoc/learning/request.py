"""What a fit is asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data import Data
from ..errors import ConfigurationError
from ..interpreter.interpreter import Interpreter
from ..precision import PRECISIONS
from .cache_policy import CACHES
from .caching.cache import ActivationCache


@dataclass(frozen=True, kw_only=True)
class FitRequest:
    """What ``FlintExplainer.fit`` was asked, checked.

    Attributes:
        data: to be read in later epochs, where nothing is cached.  first_pass: the same data, begun.
        cache: "auto", "memory", "disk", "off", or an ``ActivationCache`` that was built before; of a frozen f.
        checkpoint_dir: where the state after every epoch is kept.  resume: whether to go on from there.
        joint: whether f learns too.  start: an interpreter to begin with.
        precision: of f's pass and of learning from it: "float32", "bfloat16", or "auto" (bfloat16 for photographs, where it pays).
    """

    data: Data
    first_pass: Iterable[Any]
    validation: Data | None = None
    cache: str | ActivationCache = "auto"
    checkpoint_dir: str | Path | None = None
    resume: bool = False
    progress: bool = True
    joint: bool = False
    start: Interpreter | None = None
    precision: str = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.cache, ActivationCache) and self.cache not in CACHES:
            raise ConfigurationError(f"cache must be one of {sorted(CACHES)} or an ActivationCache, got {self.cache!r}")
        if isinstance(self.cache, ActivationCache) and self.joint:
            raise ConfigurationError(f"with joint=True the classifier changes, so {self.cache} is of no use; name a way, {sorted(CACHES)}")
        if self.precision not in PRECISIONS:
            raise ConfigurationError(f"precision must be one of {PRECISIONS}, got {self.precision!r}")
        if self.resume and self.checkpoint_dir is None:
            raise ConfigurationError("resume=True needs checkpoint_dir, the folder that holds the checkpoint")
