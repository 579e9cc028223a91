"""Locks that end with the process that holds them, however that ends.

The system keeps them for an open file; so a lock that can be taken tells that its owner is dead, on
whatever machine it ran, without process numbers that may be somebody else's by now.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from typing import TYPE_CHECKING, Final

from streamface.atomic import sink_error

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)

_HELD: Final = frozenset({errno.EACCES, errno.EAGAIN, errno.EDEADLK})
_NO_LOCKS: Final = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP})


class FileLock:
    """A lock on a file that is made for it; held from ``take`` to ``free`` or the process's end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Take the lock and return True, or False where somebody holds it.

        Raises SinkError where the file cannot be made. Some network file systems have no locks;
        there it is told, and taken for granted that nobody else is at work.
        """
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as exc:
            raise sink_error(self.path, exc) from exc
        try:
            _lock(descriptor)
        except OSError as exc:
            if exc.errno in _HELD:
                os.close(descriptor)
                return False
            if exc.errno not in _NO_LOCKS:
                os.close(descriptor)
                raise sink_error(self.path, exc) from exc
            _log.warning(
                "%s: no locks on this file system; let one process at a time use it", self.path
            )
        if not _is_at(self.path, descriptor):  # its last owner removed it meanwhile
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def free(self, *, remove: bool = False) -> None:
        """Let go; does nothing where it is not held. remove: the file too, before."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        there, ours = path.stat(), os.fstat(descriptor)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
