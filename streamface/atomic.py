"""Write a file beside its final name and let it appear there whole, or not at all."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

from streamface.errors import SinkError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

_CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL


def sink_error(target: Path, cause: BaseException) -> SinkError:
    """Return the one-line error that says why ``target`` could not be written."""
    reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return SinkError(f"cannot write {target}: {' '.join(str(reason).split())}")


class AtomicPath:
    """A path that becomes ``target`` in one step, once what was written to it is complete.

    Construction checks all that can be known up front and creates the empty temporary file (with
    the permissions any new file gets). It lies in the same folder, since only a rename within one
    file system is atomic, and keeps the extension, since FFmpeg picks its muxer by it.

    An existing device or pipe (/dev/null, a FIFO) is written to directly: there is nothing to
    rename. A symbolic link stays, and the file that it points to is replaced.

    Raises UsageError where ``target`` exists and ``overwrite`` is false, and SinkError where it
    is a folder or its folder is missing or cannot be written.
    """

    def __init__(self, target: Path, *, overwrite: bool = False) -> None:
        self.target = target
        self.overwrite = overwrite
        self._final = target
        self._settled = False
        if target.is_dir():
            raise SinkError(f"cannot write {target}: it is a folder")
        exists = target.exists()
        if exists and not target.is_file():
            self.temporary = target
            self._settled = True
            return
        if exists and not overwrite:
            raise UsageError(f"{target} exists; pass --overwrite to replace it")
        try:
            self._final = target.resolve()
        except (OSError, RuntimeError) as exc:  # RuntimeError: a link to itself, before 3.13
            raise SinkError(f"cannot write {target}: its link leads nowhere") from exc
        self.temporary = self._create()

    def _create(self) -> Path:
        # 32 characters of the stem keep the name below every file system's limit.
        name = f".{self._final.stem[:32]}.{secrets.token_hex(4)}.part{self._final.suffix}"
        temporary = self._final.with_name(name)
        if not temporary.parent.is_dir():
            raise SinkError(f"cannot write {self.target}: its folder does not exist")
        try:
            os.close(os.open(temporary, _CREATE_FLAGS, 0o666))
        except OSError as exc:
            raise sink_error(self.target, exc) from exc
        return temporary

    def publish(self) -> None:
        """Give the finished, closed file its final name; a second call does nothing.

        Raises SinkError, and removes the temporary file, where that fails or where (without
        ``overwrite``) another file has taken the name in the meantime.
        """
        if self._settled:
            return
        claimed = False
        try:
            if not self.overwrite:
                self._claim_name()
                claimed = True
            self.temporary.replace(self._final)
        except OSError as exc:
            self.discard()
            if claimed:
                self._final.unlink(missing_ok=True)
            if isinstance(exc, FileExistsError):
                raise SinkError(
                    f"cannot write {self.target}: another file appeared there meanwhile; "
                    "pass --overwrite to replace it"
                ) from exc
            raise sink_error(self.target, exc) from exc
        self._settled = True

    def _claim_name(self) -> None:
        """Take the final name, or raise FileExistsError: a plain rename would clobber silently.

        An exclusively created empty file works on every file system, unlike a hard link; the
        rename over it follows at once.
        """
        os.close(os.open(self._final, _CREATE_FLAGS, 0o666))

    def discard(self) -> None:
        """Remove the temporary file; does nothing after ``publish`` or a first ``discard``."""
        if self._settled:
            return
        self._settled = True
        try:
            self.temporary.unlink(missing_ok=True)
        except OSError as exc:
            raise sink_error(self.target, exc) from exc
