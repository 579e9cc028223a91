"""The seam to storage, and the file system behind it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from streamface.atomic import sink_error
from streamface.errors import SourceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OnError: TypeAlias = "Callable[[SourceError], None]"


_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in a store."""

    location: str
    """What the store calls it: a path or a URL."""
    name: str
    """Below what was listed, with slashes."""
    size_bytes: int
    fingerprint: str
    """Changes when the file does; cheap, so not of its content."""


class Store(Protocol):
    """Where files are: a file system, or a bucket."""

    def list(self, folder: str, *, on_error: OnError) -> Iterator[Entry]:
        """Yield the files below a folder, each folder's in the order of their names, lazily.

        on_error is told of folders that cannot be read; the others follow.
        """
        ...

    def size_bytes(self, location: str) -> int | None:
        """Return the size of a file, or None where there is none."""
        ...

    def publish(self, local: Path, location: str) -> None:
        """Move a finished file of this machine to its place, whole and for good. SinkError."""
        ...


def store_for(location: str) -> Store:
    """Return what is in charge of a place. Raises UsageError where nothing is."""
    url = _URL.match(location)
    if url is not None:
        raise UsageError(f"a batch cannot use {url[0]} yet; give a path")
    return LocalStore()


class LocalStore:
    """The file systems of this machine."""

    def list(self, folder: str, *, on_error: OnError, skip: Path | None = None) -> Iterator[Entry]:
        """Yield the files below a folder; links to folders are not followed, hidden files left out.

        skip: a folder that is not entered. Of one folder at a time the names are held in memory.
        """
        root = Path(folder)
        waiting = [root]
        while waiting:
            here = waiting.pop()
            below: list[Path] = []
            try:
                names = _names(here)
            except OSError as exc:
                on_error(SourceError(f"cannot list {here}: {exc.strerror or exc}"))
                continue
            for name in names:
                path = here / name
                if path.is_dir():
                    if not path.is_symlink() and path.resolve() != skip:
                        below.append(path)
                    continue
                entry = entry_of(path, path.relative_to(root).as_posix())
                if entry is not None:
                    yield entry
            waiting += reversed(below)

    def size_bytes(self, location: str) -> int | None:
        """Return the size of a file, or None where there is none."""
        try:
            return Path(location).stat().st_size
        except OSError:
            return None

    def publish(self, local: Path, location: str) -> None:
        """Give a finished file of the same file system its name, and see that it stays there.

        Raises SinkError.
        """
        target = Path(location)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _sync(local)
            local.replace(target)
            _sync(target.parent)
        except OSError as exc:
            raise sink_error(target, exc) from exc


def _names(folder: Path) -> list[str]:
    with os.scandir(folder) as found:
        return sorted(each.name for each in found if not each.name.startswith("."))


def entry_of(path: Path, name: str) -> Entry | None:
    """Return what is known of a file, or None if it is gone or no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    if not path.is_file():
        return None
    return Entry(str(path), name, status.st_size, f"{status.st_size}-{status.st_mtime_ns}")


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
