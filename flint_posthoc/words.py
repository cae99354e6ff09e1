"""How results are told: lines and tables in text, and plain JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

MISSING = "-"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text under their heads, the first one to the left and the others to the right."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    aligned = [
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    return "\n".join(line.rstrip() for line in aligned)


def with_notes(parts: Iterable[str], notes: Iterable[str]) -> str:
    """``parts`` one under the other, and under them each of the notes, what a reader has to know besides."""
    return "\n".join([*parts, *(f"note: {note}" for note in notes)])


def percent(share: float | None) -> str:
    """A share in [0, 1] in words; "-" where it is unknown."""
    return MISSING if share is None or math.isnan(share) else f"{100 * share:.2f} %"


def number(value: float | None, digits: int = 2) -> str:
    """A number in words; "-" where it is unknown."""
    return MISSING if value is None or math.isnan(value) else f"{value:.{digits}f}"


def in_bytes(count: int) -> str:
    """A size in words."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}


_PLAIN: dict[type, Callable[[Any], Any]] = {
    Tensor: lambda value: plain(value.tolist()),
    Mapping: lambda value: {str(key): plain(part) for key, part in value.items()},
    float: lambda value: value if math.isfinite(value) else None,
    str: str,
}


def plain(value: Any) -> Any:
    """``value`` in JSON types: dataclasses and named tuples as dicts, tensors as lists; what is not finite is ``None``."""
    if dataclasses.is_dataclass(value):
        return _fields(value)
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    for kind, convert in _PLAIN.items():
        if isinstance(value, kind):
            return convert(value)
    return [plain(part) for part in value] if isinstance(value, Sequence) else value
