"""What stands in an output already, so that a batch knows what it need not do."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Protocol

from streamface.batch.home import in_store
from streamface.errors import SourceError
from streamface.storage import LocalStore, NothingThere, store_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamface.storage import Stored


class Outputs(Protocol):
    """Sizes of the files that stand in an output. Belongs to one thread."""

    def size_bytes(self, location: str) -> int | None:
        """Return the size of a file, or None where there is none."""
        ...

    def close(self) -> None:
        """Let go of what is held."""
        ...


def outputs_of(output: str) -> Outputs:
    """Return what knows the files of an output. Raises SourceError where a store does not say."""
    return StoredOutputs(output) if in_store(output) else LocalOutputs()


class LocalOutputs:
    """Asks the file system."""

    def __init__(self) -> None:
        self._store = LocalStore()

    def size_bytes(self, location: str) -> int | None:
        """Return the size as it is now."""
        try:
            return self._store.fingerprint(location).size_bytes
        except SourceError:
            return None

    def close(self) -> None:
        """Nothing is held."""


class StoredOutputs:
    """Asks a store once, by listing it: a thousand names a request instead of one.

    So it knows the sizes of when the batch began. That is enough: each source is looked at once, by
    the one who has the lease. The names are in a temporary SQLite file.
    """

    def __init__(self, output: str) -> None:
        self._index = sqlite3.connect("")
        self._index.execute(
            "CREATE TABLE files (location TEXT PRIMARY KEY, size INTEGER) WITHOUT ROWID"
        )
        self._index.executemany(
            "INSERT OR REPLACE INTO files VALUES (?, ?)",
            ((each.location, each.fingerprint.size_bytes) for each in _all(output)),
        )

    def size_bytes(self, location: str) -> int | None:
        """Return the size as it was when the batch began."""
        query = "SELECT size FROM files WHERE location = ?"
        row = self._index.execute(query, (location,)).fetchone()
        return None if row is None else int(row[0])

    def close(self) -> None:
        """Drop the index."""
        self._index.close()


def _all(output: str) -> Iterator[Stored]:
    try:
        # With its slash it cannot be taken for the name of an object.
        yield from store_for(output).list(f"{output.rstrip('/')}/")
    except NothingThere:
        return
