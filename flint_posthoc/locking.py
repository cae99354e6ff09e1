"""One process at a time in a folder: a lock that goes with the process that holds it, however that ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from .errors import ArtifactError, FolderInUseError
from .storage import cannot_write

_HELD: set[int] = set()  # descriptors of the locks of this process
_SIGNATURE = re.compile(r"(\d+ \S+)?")


@contextlib.contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """While this lasts no other process holds the lock file ``path``; what one that has died left behind is taken over.

    The system gives a lock back when its process ends, so that neither a number that another process has by now nor a machine that has
    another name by now keeps anybody out. On a file system without locks nobody is kept out.

    Args:
        doing: what is done in the folder meanwhile: "writes a cache into".

    Raises:
        FolderInUseError: another one holds it; the message names it.  ArtifactError: the folder cannot be written.
    """
    try:
        while (descriptor := _acquired(path, doing)) is None:
            pass
    except ArtifactError:
        raise
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield
    finally:
        if descriptor in _HELD:  # not in a forked child
            _HELD.remove(descriptor)
            with contextlib.suppress(OSError):
                path.unlink()
            os.close(descriptor)


def _acquired(path: Path, doing: str) -> int | None:
    """A descriptor that holds the lock; ``None`` where its file has just been removed by who held it."""
    _forget_in_children()
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        free, owner = is_free(descriptor), os.pread(descriptor, 300, 0).decode(errors="replace")
        if not free or not _SIGNATURE.fullmatch(owner):
            who = f"process {owner.replace(' ', ' on ', 1)}" if owner else "another process"
            raise FolderInUseError(f"{who} {doing} {path.parent}; where that is not so, remove {path}")
        if os.fstat(descriptor).st_nlink:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}".encode(), 0)
            _HELD.add(descriptor)
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def is_free(descriptor: int) -> bool:
    """Take the lock on an open file, unless another one has it. True also where the file system knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@cache
def _forget_in_children() -> None:
    """A forked child shares its parent's locks and would keep them beyond its parent's end: loader workers outlive it by seconds."""
    os.register_at_fork(after_in_child=_forget)


def _forget() -> None:
    for descriptor in _HELD:
        os.close(descriptor)
    _HELD.clear()
