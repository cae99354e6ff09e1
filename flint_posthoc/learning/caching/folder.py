"""The folder that a cache on disk stands in: one writer at a time, room enough, and nothing of others touched."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ...errors import ArtifactError, DiskSpaceError, FolderInUseError
from ...locking import locked
from ...storage import cannot_write
from .manifest import NAME, SUMMARY_NAME

LOCK_NAME = "cache.lock"
RESERVE = 64 * 2**20  # bytes that are left to others
PREFIX, OWNER_NAME = "flint-posthoc-cache-", "owner.lock"  # of temporary folders
_OURS = re.compile(
    rf"shard-\d{{5}}\.safetensors|{re.escape(SUMMARY_NAME)}|\.({re.escape(NAME)}|{re.escape(SUMMARY_NAME)})\.[0-9a-f]{{8}}\.tmp"
)
_IN_MEMORY = ("tmpfs", "ramfs")


def remove_cache(folder: Path) -> None:
    """Remove the files of a cache, whole or half-written, its manifest first; other files stay. Raises ``ArtifactError``."""
    with writing(folder):
        (folder / NAME).unlink(missing_ok=True)
        for path in folder.iterdir():
            if _OURS.fullmatch(path.name):
                path.unlink()


def occupied_bytes(folder: Path) -> int:
    """What ``remove_cache`` would give back."""
    with writing(folder):
        return sum(path.lstat().st_size for path in folder.iterdir() if _OURS.fullmatch(path.name))


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What the system says while we write becomes ``DiskSpaceError`` or ``ArtifactError``."""
    try:
        yield
    except ArtifactError:
        raise
    except OSError as error:
        raise cannot_write(folder, error) from error


def free_bytes(folder: Path) -> int:
    """What may still be written there."""
    return max(0, shutil.disk_usage(folder).free - RESERVE)


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raise ``DiskSpaceError`` unless ``needed`` bytes are free."""
    free = free_bytes(folder)
    if needed > free:
        raise DiskSpaceError(
            f"{what} need {needed:,} bytes ({needed / 2**30:.1f} GiB), the disk of {folder} has {free:,} ({free / 2**30:.1f} GiB) free"
        )


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is removed afterwards, whatever happens; those that killed processes left behind are removed before."""
    place = temporary_place()
    for folder in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # somebody else's, in use, or just gone
            _remove_abandoned(folder)
    with contextlib.ExitStack() as stack:
        yield _owned(place, stack)


def _owned(place: Path, stack: contextlib.ExitStack) -> Path:
    """A new folder with a lock that lasts as long as ``stack``. Until it is locked others take it for left over: then another one."""
    while True:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=PREFIX, dir=place, ignore_cleanup_errors=True)))
        try:
            stack.enter_context(locked(folder / OWNER_NAME, "keeps a cache in"))
            return folder
        except FolderInUseError:
            continue
        except ArtifactError:
            if folder.exists():
                raise


def _remove_abandoned(folder: Path) -> None:
    """Remove it where its owner is gone. Raises ``OSError`` where it is not, or where it is not ours."""
    if folder.is_symlink():
        return
    if not any(folder.iterdir()):  # killed before it was locked
        folder.rmdir()
        return
    with open(folder / OWNER_NAME, "rb") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)


def temporary_place() -> Path:
    """Where temporary caches go: TMPDIR or the system's folder for temporary files, or /var/tmp where that one is in memory."""
    usual, other = Path(tempfile.gettempdir()), Path("/var/tmp")
    return other if in_memory(usual) and "TMPDIR" not in os.environ and os.access(other, os.W_OK) and not in_memory(other) else usual


def in_memory(folder: Path) -> bool:
    """Whether what is written there takes memory rather than disk, as far as this system tells."""
    try:
        lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return False
    place = folder.resolve()
    mounts = [(len(parts[1]), parts[2]) for parts in lines if place.is_relative_to(parts[1])]
    return max(mounts, default=(0, ""))[1] in _IN_MEMORY
