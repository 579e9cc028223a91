"""What a batch remembers: a journal of one JSON line a file, and the table made of it.

The journal is only ever appended to. The line of a file that is done or has failed is on the disk
when ``finish`` returns; a line that a kill or a full disk cut short can only be the last one, and
is dropped when the journal is opened again. Memory does not grow with the number of files: the
newest line of each is looked up in a temporary SQLite file, built from the journal, gone with the
process.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self, TypeAlias

from streamface.atomic import sink_error
from streamface.records import to_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from streamface.batch.job import Task, TaskResult

_log = logging.getLogger(__name__)

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

Record: TypeAlias = "dict[str, Any]"


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


class Journal:
    """Appends lines to a file, each whole or not at all. Raises SinkError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        try:
            self._descriptor = os.open(path, flags, 0o666)
            self._size = os.fstat(self._descriptor).st_size
        except OSError as exc:
            raise sink_error(path, exc) from exc

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
        """Write a line. durable: so that it outlives a power cut, too."""
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

    def close(self) -> None:
        """Close the file; nothing is held back."""
        os.close(self._descriptor)


class Manifest:
    """What is known of every file of a batch. Belongs to one thread. Raises SinkError."""

    def __init__(self, path: Path, work: str) -> None:
        """Read the journal at ``path``, or begin one.

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
        self._path = path
        self._journal = Journal(path)
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

    def finish(self, result: TaskResult, status: str) -> None:
        """Note what became of a file; on the disk when this returns."""
        task = result.task
        self._add(
            {
                "is": "end",
                "key": task.key,
                "source": task.source,
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
        with self._whole(self._path) as file:
            for table in ("works", "last"):
                rows = self._index.execute(f"SELECT line FROM {table}")  # noqa: S608 - our own names
                file.writelines(f"{line}\n".encode() for (line,) in rows)
        self._journal.close()
        self._journal = Journal(self._path)
        self._lines = kept[0]

    def export(self, folder: Path) -> Path:
        """Write the table as ``manifest.parquet``, or ``manifest.jsonl`` where pyarrow is missing.

        Returns its path; an older one of the other kind is removed, since it would be out of date.
        """
        parquet, jsonl = folder / "manifest.parquet", folder / "manifest.jsonl"
        if importlib.util.find_spec("pyarrow") is None:
            self._export_jsonl(jsonl)
            parquet.unlink(missing_ok=True)
            return jsonl
        self._export_parquet(parquet)
        jsonl.unlink(missing_ok=True)
        return parquet

    def _rows(self) -> Iterator[Record]:
        query = self._index.execute("SELECT work, line FROM works")
        works = {work: json.loads(line) for work, line in query}
        for record in self._newest():
            about = works.get(record["work"], {})
            row = {**record, "options": about.get("options"), "version": about.get("version")}
            for name in ("outputs", "warnings", "models", "options"):
                row[name] = json.dumps(row[name])
            yield {name: to_json(row[name]) for name in COLUMNS}

    def _export_jsonl(self, path: Path) -> None:
        with self._whole(path) as file:
            file.writelines(f"{json.dumps(row)}\n".encode() for row in self._rows())

    def _export_parquet(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
        schema = pa.schema([pa.field(name, types[kind]) for name, kind in COLUMNS.items()])
        rows = self._rows()
        with (
            self._whole(path) as file,
            pq.ParquetWriter(file, schema, compression="zstd") as writer,
        ):
            while group := list(islice(rows, _ROW_GROUP_ROWS)):
                writer.write_table(pa.Table.from_pylist(group, schema))

    @contextmanager
    def _whole(self, target: Path) -> Iterator[BinaryIO]:
        """Give a file that takes the target's place when it is complete. Raises SinkError."""
        # Always of one name, since one batch at a time is at work: what a killed one left of it is
        # written over.
        new = self._path.with_name("unfinished-table")
        try:
            with new.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            new.replace(target)
        except OSError as exc:
            new.unlink(missing_ok=True)
            raise sink_error(target, exc) from exc

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
