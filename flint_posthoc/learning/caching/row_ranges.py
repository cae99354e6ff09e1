"""Which rows of a cache a process has in hand, where several share one. Rows are numbered as one process would have read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...errors import ArtifactError, NotAnArtifactError
from ...processes import gather, rank, share, size
from .manifest import NAME


@dataclass(frozen=True)
class RowRange:
    """Rows ``first`` to ``stop`` - 1 of ``total`` are this process's to read; row ``origin`` is the first one of those it keeps."""

    first: int
    stop: int
    total: int
    origin: int

    @classmethod
    def of_whole(cls, rows: int) -> RowRange:
        """Of a cache that each process has all of: an equal share."""
        own = share(rows)
        return cls(own.start, own.stop, rows, 0)

    @classmethod
    def of_part(cls, rows: int) -> RowRange:
        """Of a cache of which each process keeps ``rows`` of its own, by rank. For all processes."""
        counts = gather(rows)
        first = sum(counts[: rank()])
        return cls(first, first + rows, sum(counts), first)

    def own(self, numbers: Tensor) -> Tensor:
        """Those of ``numbers`` that are this process's, as numbers of the rows that it keeps; order stays."""
        if (self.first, self.stop, self.origin) == (0, self.total, 0):
            return numbers
        return numbers[(numbers >= self.first) & (numbers < self.stop)] - self.origin


def part_folder(folder: Path) -> Path:
    """Where this process keeps its part of a cache that is written into ``folder``: there itself where it is the only one.

    Raises ``ArtifactError`` where one process left a whole cache there, or several left their parts: nobody could tell which to open.
    """
    if size() == 1:
        if any(folder.glob("part-*-of-*")):
            raise ArtifactError(f"{folder} holds parts of an activation cache of several processes; name another folder, or remove them")
        return folder
    if (folder / NAME).exists():
        raise ArtifactError(f"{folder} holds an activation cache of one process; name another folder, or remove it")
    return folder / f"part-{rank():05}-of-{size():05}"


def found_folder(folder: Path) -> tuple[Path, bool]:
    """Where the cache in ``folder`` stands for this process, and whether it is a part. For all processes.

    Raises ``NotAnArtifactError`` where it was written by another number of processes.
    """
    part = folder / f"part-{rank():05}-of-{size():05}"
    if all(gather(part.is_dir())):
        return part, True
    written = sorted(path.name for path in folder.glob("part-*-of-*"))
    if written and not (folder / NAME).exists():
        raise NotAnArtifactError(
            f"{folder} holds an activation cache in parts ({', '.join(written[:3])} …); open it with as many processes as wrote it, "
            f"not with {size()}"
        )
    return folder, False
