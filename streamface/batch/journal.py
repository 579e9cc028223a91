"""The journal of a batch: lines that are only ever appended, on a disk or in a bucket.

On a disk a line is there when ``append`` returns; a line that a kill or a full disk cut short can
only be the last one, and is dropped when the journal is read again. In a bucket nothing can be
appended to, so lines are kept until ``flush`` and go up in pieces: the last piece is written anew,
longer each time, until it is large enough and another begins.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from streamface.atomic import sink_error
from streamface.storage import LASTING, NothingThere, opened, store_for, under

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

_log = logging.getLogger(__name__)

Record: TypeAlias = "dict[str, Any]"

_PIECE_BYTES: Final = 1 << 18
"""Of a piece in a bucket: what is sent again with each flush is half of it in the mean."""


class Journal(Protocol):
    """Remembers records in order. Belongs to one thread. Raises SinkError, SourceError."""

    scratch: Path
    """A file that may be written over, fit to be published beside the outputs."""

    def records(self) -> Iterator[Record]:
        """Yield what was written so far; once, before anything is appended."""
        ...

    def append(self, record: Mapping[str, object], *, durable: bool) -> None:
        """Take a record. durable: so that it outlives a power cut, too, once flushed."""
        ...

    def flush(self) -> None:
        """Return when all that was appended outlives a kill."""
        ...

    def rewrite(self, lines: Iterable[str]) -> None:
        """Keep these lines only."""
        ...

    def close(self) -> None:
        """Let go; what was not flushed may be lost."""
        ...


class FileJournal:
    """A file of lines, each whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Always of one name, since one batch at a time is at work: what a killed one left of it is
        # written over.
        self.scratch = path.with_name("unfinished-table")
        self._open()

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        try:
            self._descriptor = os.open(self.path, flags, 0o666)
            self._size = os.fstat(self._descriptor).st_size
        except OSError as exc:
            raise sink_error(self.path, exc) from exc

    def records(self) -> Iterator[Record]:
        """Yield what was written so far, and cut off what is left of an unfinished line."""
        whole = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                try:
                    record = json.loads(line)
                except ValueError:
                    # A power cut can leave what was never written: what is lost is done again.
                    _log.warning("%s: a damaged line was left out", self.path)
                    continue
                yield record
        if whole != self._size:
            os.ftruncate(self._descriptor, whole)
            self._size = whole

    def append(self, record: Mapping[str, object], *, durable: bool) -> None:
        """Write a line."""
        line = (json.dumps(record) + "\n").encode()
        try:
            written = os.write(self._descriptor, line)
            if written != len(line):  # the disk was full in the middle of it: the rest says why
                os.write(self._descriptor, line[written:])
            if durable:
                os.fsync(self._descriptor)
        except OSError as exc:
            os.ftruncate(self._descriptor, self._size)
            raise sink_error(self.path, exc) from exc
        self._size += len(line)

    def flush(self) -> None:
        """Do nothing: a line is with the system when ``append`` returns."""

    def rewrite(self, lines: Iterable[str]) -> None:
        """Write another file and let it take the journal's place."""
        try:
            with self.scratch.open("wb") as file:
                file.writelines(f"{line}\n".encode() for line in lines)
                file.flush()
                os.fsync(file.fileno())
            os.close(self._descriptor)
            self._descriptor = -1
            self.scratch.replace(self.path)
        except OSError as exc:
            self.scratch.unlink(missing_ok=True)
            raise sink_error(self.path, exc) from exc
        self._open()

    def close(self) -> None:
        """Close the file; nothing is held back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class StoreJournal:
    """Pieces below a URL, those of each batch under a number of its own.

    Whoever writes must be the only one; ``is_ours`` is asked before each piece.
    """

    def __init__(
        self, folder: str, scratch: Path, is_ours: Callable[[], None] = lambda: None
    ) -> None:
        """is_ours: raises SinkError where somebody else has taken over."""
        self._folder = folder
        self._store = store_for(folder, LASTING)
        self._is_ours = is_ours
        self._found = self._pieces()
        self._session = 1 + max((_session_of(each) for each in self._found), default=0)
        # Two that took the same number all the same must not replace each other's pieces.
        self._mark = secrets.token_hex(4)
        self._number = 0
        self._piece: list[bytes] = []
        self._is_dirty = False
        self.scratch = scratch

    def _pieces(self) -> list[str]:
        try:
            return sorted(each.location for each in self._store.list(self._folder))
        except NothingThere:
            return []

    def records(self) -> Iterator[Record]:
        """Yield the records of all pieces, oldest first."""
        for location in self._found:
            with opened(location) as file:
                for line in file:
                    yield json.loads(line)

    def append(self, record: Mapping[str, object], *, durable: bool) -> None:  # noqa: ARG002 - a bucket is
        """Keep a line for the next ``flush``."""
        self._piece.append((json.dumps(record) + "\n").encode())
        self._is_dirty = True

    def flush(self) -> None:
        """Write the piece, with what was appended to it."""
        if not self._is_dirty:
            return
        self._is_ours()
        data = b"".join(self._piece)
        self._store.write(self._location(), data)
        self._is_dirty = False
        if len(data) >= _PIECE_BYTES:
            self._number += 1
            self._piece = []
        else:
            self._piece = [data]

    def _location(self) -> str:
        return under(self._folder, f"{self._session:06}-{self._mark}-{self._number:06}.jsonl")

    def rewrite(self, lines: Iterable[str]) -> None:
        """Write pieces under the next number, then remove all others.

        Killed between the two, records stand twice, and say the same.
        """
        self.flush()
        old = self._pieces()
        self._session, self._number, self._piece = self._session + 1, 0, []
        size = 0
        for line in lines:
            self._piece.append(f"{line}\n".encode())
            self._is_dirty = True
            size += len(self._piece[-1])
            if size >= _PIECE_BYTES:
                self.flush()
                size = 0
        self.flush()
        for location in old:
            self._store.delete(location)

    def close(self) -> None:
        """Remove the scratch file."""
        self.scratch.unlink(missing_ok=True)


def _session_of(location: str) -> int:
    number = location.rpartition("/")[2].partition("-")[0]
    return int(number) if number.isdecimal() else 0
