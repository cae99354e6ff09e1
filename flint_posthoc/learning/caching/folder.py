"""The folder that a cache on disk stands in: one writer at a time, room enough, and nothing of others touched."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ...errors import ArtifactError, DiskSpaceError
from .manifest import NAME, SUMMARY_NAME

LOCK_NAME = "cache.lock"
RESERVE = 64 * 2**20  # bytes that are left to others
PREFIX, OWNER_NAME = "flint-posthoc-cache-", "owner.lock"  # of temporary folders
ABANDONED = 3600.0  # seconds after which one whose owner is gone is removed
PATIENCE = 60.0  # seconds after which a lock without an owner counts as left over
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
    except ArtifactError as error:
        if isinstance(error.__cause__, OSError) and _is_full(error.__cause__):
            raise DiskSpaceError(f"the disk of {folder} is full: {error}") from error
        raise
    except OSError as error:
        if _is_full(error):
            raise DiskSpaceError(f"the disk of {folder} is full: {error}") from error
        raise ArtifactError(f"the activation cache cannot be written into {folder}: {error}") from error


def _is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


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
    _remove_abandoned(place)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=place, ignore_cleanup_errors=True) as name:
        with open(Path(name) / OWNER_NAME, "xb") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX)  # until this process ends, however it ends
            yield Path(name)


def _remove_abandoned(place: Path) -> None:
    for folder in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # somebody else's, in use, or just gone
            if time.time() - folder.lstat().st_mtime > ABANDONED and not folder.is_symlink():
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


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While this lasts no other process writes a cache into ``folder``; the lock of a process that has died is taken over.

    Raises ``ArtifactError`` where another one writes.
    """
    path, descriptor = folder / LOCK_NAME, None
    with writing(folder):
        while descriptor is None:
            descriptor = _new_lock(path)
            if descriptor is None:
                descriptor = _left_over_lock(path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _new_lock(path: Path) -> int | None:
    """``None`` where there is one."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return None
    try:
        return _signed(descriptor)
    except OSError:
        path.unlink()
        raise


def _left_over_lock(path: Path) -> int | None:
    """The existing lock, taken over; ``None`` where it has just gone. Raises ``ArtifactError`` where its owner lives, or may."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # of several that find it, one signs it
        status = os.fstat(descriptor)
        if not status.st_nlink:
            os.close(descriptor)
            return None
        _check_left_over(path, os.pread(descriptor, 300, 0).decode(errors="replace"), status.st_mtime)
        _signed(descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        return descriptor
    except OSError:
        os.close(descriptor)
        raise


def _signed(descriptor: int) -> int:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}".encode(), 0)
    return descriptor


def _check_left_over(path: Path, owner: str, signed: float) -> None:
    pid, _, host = owner.partition(" ")
    if not pid and time.time() - signed > PATIENCE:  # killed between making and signing it
        return
    if pid.isdecimal() and host == socket.gethostname() and not _lives(int(pid)):
        return
    who = f"process {owner.replace(' ', ' on ', 1)}" if pid else "another process"
    raise ArtifactError(f"{who} writes a cache into {path.parent}; where that is not so, remove {path}")


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
