"""What a batch remembers: a journal of one JSON line a file, and the table made of it.

The line of a file that is done or has failed outlives a kill when ``flush`` returns. Memory does
not grow with the number of files: the newest line of each is looked up in a temporary SQLite file,
built from the journal, gone with the process.
"""

from __future__ import annotations

import importlib.util
import json
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from streamface.atomic import sink_error
from streamface.records import to_json
from streamface.sources import redacted
from streamface.storage import store_for, under

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from streamface.batch.job import Task, TaskResult
    from streamface.batch.journal import Journal, Record
    from streamface.storage import Store

DONE: Final = "done"
FAILED: Final = "failed"
SET_ASIDE: Final = "set aside"
"""Of a file that killed its worker twice."""

COLUMNS: Final[dict[str, type[int | float | str]]] = {
    "source": str,
    "fingerprint": str,
    "status": str,
    "error_kind": str,
    "error": str,
    "frames": int,
    "faces": int,
    "tracks": int,
    "duration_s": float,
    "seconds": float,
    "machine": str,
    "tries": int,
    "outputs": str,
    "warnings": str,
    "models": str,
    "options": str,
    "version": str,
    "work": str,
    "finished": str,
}
"""Columns of the table, one row a file; outputs, warnings, models and options hold JSON."""

_ROW_GROUP_ROWS: Final = 4096
# A journal is written anew when this share of its lines is of no more use.
_USELESS_SHARE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Known:
    """What became of a file when it was last tried."""

    record: Record

    @property
    def is_done(self) -> bool:
        """Whether its outputs were published."""
        return bool(self.record["status"] == DONE)

    def matches(self, fingerprint: str, work: str) -> bool:
        """Whether it was this very file, with these options, models and version."""
        return bool(self.record["fingerprint"] == fingerprint and self.record["work"] == work)

    @property
    def outputs(self) -> Mapping[str, int]:
        """Place of each output to its size in bytes."""
        return dict(self.record["outputs"])


class Manifest:
    """What is known of every file of a batch. Belongs to one thread. Raises SinkError."""

    def __init__(self, journal: Journal, work: str) -> None:
        """Read the journal, which is closed with the manifest.

        work: what ``job.work_id`` says of the batch that goes on now.
        """
        self.work = work
        # An empty name is SQLite's for a temporary file: it keeps to its cache until that is full.
        self._index = sqlite3.connect("")
        self._index.executescript(
            "CREATE TABLE last (key BLOB PRIMARY KEY, line TEXT) WITHOUT ROWID;"
            "CREATE TABLE ours (target BLOB PRIMARY KEY) WITHOUT ROWID;"
            "CREATE TABLE claimed (target BLOB PRIMARY KEY, key BLOB) WITHOUT ROWID;"
            "CREATE TABLE works (work TEXT PRIMARY KEY, line TEXT) WITHOUT ROWID;"
        )
        self._lines = 0
        self._journal = journal
        for record in self._journal.records():
            self._remember(record)

    # -- asking

    def last(self, key: str) -> Known | None:
        """Return what became of a file when it was last tried, if it was."""
        row = self._index.execute("SELECT line FROM last WHERE key = ?", (_blob(key),)).fetchone()
        return Known(json.loads(row[0])) if row else None

    def is_ours(self, target: str) -> bool:
        """Whether a batch has begun to write that output: then it may be replaced."""
        found = self._index.execute("SELECT 1 FROM ours WHERE target = ?", (_blob(target),))
        return found.fetchone() is not None

    def claim(self, targets: Iterable[str], key: str) -> str | None:
        """Note whose outputs those are; return whose one of them was before in this batch."""
        for target in targets:
            query = "SELECT key FROM claimed WHERE target = ?"
            owner = self._index.execute(query, (_blob(target),)).fetchone()
            if owner is not None:
                return _text(owner[0])
            row = (_blob(target), _blob(key))
            self._index.execute("INSERT INTO claimed VALUES (?, ?)", row)
        return None

    def failed(self) -> Iterator[Record]:
        """Yield the newest record of each file that is not done."""
        return (record for record in self._newest() if record["status"] != DONE)

    def _newest(self) -> Iterator[Record]:
        for (line,) in self._index.execute("SELECT line FROM last ORDER BY key"):
            yield json.loads(line)

    # -- writing

    def describe(self, options: Mapping[str, object], version: str) -> None:
        """Note once what this batch's ``work`` stands for."""
        known = self._index.execute("SELECT 1 FROM works WHERE work = ?", (self.work,))
        if known.fetchone() is None:
            record = {"is": "work", "work": self.work, "options": options, "version": version}
            self._add(record, durable=False)

    def begin(self, task: Task) -> None:
        """Note that outputs of a file may appear from now on."""
        if all(self.is_ours(target) for target in task.targets.values()):
            return
        record = {"is": "begun", "key": task.key, "targets": list(task.targets.values())}
        self._add(record, durable=False)

    def flush(self) -> None:
        """Return when all that was noted outlives a kill."""
        self._journal.flush()

    def finish(self, result: TaskResult, status: str) -> None:
        """Note what became of a file."""
        task = result.task
        self._add(
            {
                "is": "end",
                "key": task.key,
                "source": redacted(task.source),
                "fingerprint": task.fingerprint,
                "work": self.work,
                "status": status,
                "error_kind": result.kind,
                "error": result.line or None,
                "frames": result.frames,
                "faces": result.faces,
                "tracks": result.tracks,
                "duration_s": round(result.duration_s, 6),
                "seconds": round(result.seconds, 3),
                "machine": result.machine,
                "tries": task.tries + task.deaths + task.losses + 1,
                "targets": dict(task.targets),
                "outputs": dict(result.outputs),
                "warnings": list(result.warnings),
                "models": dict(result.models),
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            },
            durable=True,
        )

    def _add(self, record: Record, *, durable: bool) -> None:
        self._journal.append(record, durable=durable)
        self._remember(record)

    def _remember(self, record: Record) -> None:
        self._lines += 1
        index, kind = self._index, record["is"]
        if kind == "work":
            line = json.dumps(record)
            index.execute("INSERT OR REPLACE INTO works VALUES (?, ?)", (record["work"], line))
            return
        if kind == "end":
            row = (_blob(record["key"]), json.dumps(record))
            index.execute("INSERT OR REPLACE INTO last VALUES (?, ?)", row)
        # Of a list the elements, of a dict by kind the values.
        targets = record["targets"]
        for target in targets.values() if isinstance(targets, dict) else targets:
            index.execute("INSERT OR IGNORE INTO ours VALUES (?)", (_blob(target),))

    # -- the end

    def compact(self) -> None:
        """Write the journal anew if most of it is of no more use."""
        (kept,) = self._index.execute("SELECT (SELECT COUNT(*) FROM last) + COUNT(*) FROM works")
        if self._lines * (1 - _USELESS_SHARE) <= kept[0]:
            return
        self._journal.rewrite(
            line
            for table in ("works", "last")
            for (line,) in self._index.execute(f"SELECT line FROM {table}")  # noqa: S608 - our own names
        )
        self._lines = kept[0]

    def export(self, folder: str) -> str:
        """Write the table as ``manifest.parquet``, or ``manifest.jsonl`` where pyarrow is missing.

        Returns its place; an older one of the other kind is removed, since it would be out of date.
        """
        parquet, jsonl = under(folder, "manifest.parquet"), under(folder, "manifest.jsonl")
        store = store_for(folder)
        if importlib.util.find_spec("pyarrow") is None:
            self._export(self._write_jsonl, jsonl, store)
            store.delete(parquet)
            return jsonl
        self._export(self._write_parquet, parquet, store)
        store.delete(jsonl)
        return parquet

    def _export(self, write: Callable[[Path], None], place: str, store: Store) -> None:
        scratch = self._journal.scratch
        try:
            write(scratch)
            store.publish(scratch, place, overwrite=True)
        except OSError as exc:
            raise sink_error(Path(place), exc) from exc
        finally:
            scratch.unlink(missing_ok=True)

    def _rows(self) -> Iterator[Record]:
        query = self._index.execute("SELECT work, line FROM works")
        works = {work: json.loads(line) for work, line in query}
        for record in self._newest():
            about = works.get(record["work"], {})
            row = {**record, "options": about.get("options"), "version": about.get("version")}
            for name in ("outputs", "warnings", "models", "options"):
                row[name] = json.dumps(row[name])
            yield {name: to_json(row[name]) for name in COLUMNS}

    def _write_jsonl(self, path: Path) -> None:
        with path.open("wb") as file:
            file.writelines(f"{json.dumps(row)}\n".encode() for row in self._rows())

    def _write_parquet(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
        schema = pa.schema([pa.field(name, types[kind]) for name, kind in COLUMNS.items()])
        rows = self._rows()
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            while group := list(islice(rows, _ROW_GROUP_ROWS)):
                writer.write_table(pa.Table.from_pylist(group, schema))

    def close(self) -> None:
        """Close the journal and drop the index."""
        self._journal.close()
        self._index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _blob(text: str) -> bytes:
    """Return a name as SQLite takes it, also where it is no UTF-8."""
    return text.encode("utf-8", "surrogateescape")


def _text(blob: bytes) -> str:
    return blob.decode("utf-8", "surrogateescape")
