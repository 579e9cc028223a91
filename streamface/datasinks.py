"""Write results as data: JSON lines, CSV, Parquet and WebVTT, each whole or not at all.

All sinks have one shape (``DataSink``) and one constructor: ``path`` (None is stdout), ``header``
(from ``records.header``) and ``overwrite``. It opens the file under a temporary name; ``close``
gives it its final one, ``abort`` removes it. A sink that raises has removed it already.

Constructors raise UsageError where the file exists and ``overwrite`` is false, and SinkError
where it cannot be created.
"""

from __future__ import annotations

import csv
import heapq
import json
import os
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TextIO, TypeAlias

from streamface import records
from streamface.atomic import AtomicPath, sink_error
from streamface.errors import SinkError, UsageError
from streamface.frame import EMOTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from streamface.frame import Emotion, Frame
    from streamface.records import Cell, Json

# A row group is what a Parquet writer holds in memory: 4096 faces are 2 to 3 MB of Python values.
_ROW_GROUP_ROWS: Final = 4096

# Captions that are held in memory, some 10 MB, before they go to a temporary file.
_CUES_HELD: Final = 50_000
_Cue: TypeAlias = tuple[int, int, str]

# How long a lone frame is shown when nothing tells its duration.
_LONE_FRAME_S: Final = 1 / 30


class DataSink(Protocol):
    """Takes frames in order and writes what they say."""

    def write(self, frame: Frame, source: str) -> None:
        """Write one frame; ``source`` names its stream. Raises SinkError."""

    def close(self) -> None:
        """Finish the file and give it its final name. Raises SinkError."""

    def abort(self) -> None:
        """Remove what was written; does nothing after ``close``."""


def open_data_sink(
    kind: str,
    target: str,
    header: Mapping[str, Json],
    *,
    overwrite: bool = False,
    shift_s: float = 0.0,
) -> DataSink:
    """Open the sink of one kind (jsonl, csv, parquet, vtt); "-" as target is stdout, for jsonl.

    shift_s: how much earlier the video is that captions go with. Raises UsageError, SinkError.
    """
    if target == "-" and kind != "jsonl":
        raise UsageError(f"--save-{kind} cannot go to stdout; only --save-jsonl - can")
    path = None if target == "-" else Path(target)
    if kind == "vtt":
        return VttSink(path, header, overwrite=overwrite, shift_s=shift_s)
    kinds: dict[str, type[JsonlSink | CsvSink | ParquetSink]] = {
        "jsonl": JsonlSink,
        "csv": CsvSink,
        "parquet": ParquetSink,
    }
    if kind not in kinds:
        raise UsageError(f"unknown kind of data '{kind}'; use jsonl, csv, parquet, vtt")
    return kinds[kind](path, header, overwrite=overwrite)


class _TextOutput:
    """UTF-8 text to an atomic file, or line by line to stdout where ``path`` is None."""

    def __init__(self, path: Path | None, *, overwrite: bool) -> None:
        self._atomic: AtomicPath | None = None
        self._file: TextIO = sys.stdout
        if path is None:
            return
        atomic = AtomicPath(path, overwrite=overwrite)
        try:
            self._file = atomic.temporary.open("w", encoding="utf-8", newline="\n")
        except OSError as exc:
            atomic.discard()
            raise sink_error(path, exc) from exc
        self._atomic = atomic

    def write(self, text: str) -> int:
        try:
            if self._atomic is None:
                encoding = self._file.encoding or "utf-8"  # the terminal's, whatever that is
                text = text.encode(encoding, "backslashreplace").decode(encoding)
            written = self._file.write(text)
            if self._atomic is None:
                self._file.flush()  # whoever reads along sees each line at once
        except OSError as exc:
            raise self._failed(exc) from exc
        return written

    def close(self) -> None:
        if self._atomic is None:
            return
        try:
            self._file.close()
        except OSError as exc:
            raise self._failed(exc) from exc
        self._atomic.publish()

    def abort(self) -> None:
        if self._atomic is None:
            return
        with suppress(OSError):  # what could not be flushed goes away with the rest
            self._file.close()
        self._atomic.discard()

    def _failed(self, cause: OSError) -> SinkError:
        if self._atomic is not None:
            self.abort()
            return sink_error(self._atomic.target, cause)
        if isinstance(cause, BrokenPipeError):
            _silence_stdout()
            return SinkError("cannot write to stdout: its reader has gone")
        return SinkError(f"cannot write to stdout: {cause.strerror or cause}")


def _silence_stdout() -> None:
    """Point stdout at the null device, or Python complains of the pipe once more at exit."""
    with suppress(OSError, ValueError):  # replaced by an object without a descriptor
        descriptor = sys.stdout.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, descriptor)
        os.close(null)


class JsonlSink:
    """JSON lines: the header, then one line a frame, with or without faces."""

    def __init__(
        self, path: Path | None, header: Mapping[str, Json], *, overwrite: bool = False
    ) -> None:
        self._output = _TextOutput(path, overwrite=overwrite)
        self._write_line(header)

    def write(self, frame: Frame, source: str) -> None:
        """Write one frame; ``source`` names its stream. Raises SinkError."""
        self._write_line(records.frame_record(frame, source))

    def _write_line(self, record: Mapping[str, Json]) -> None:
        self._output.write(json.dumps(record, allow_nan=False) + "\n")

    def close(self) -> None:
        """Finish the file and give it its final name. Raises SinkError."""
        self._output.close()

    def abort(self) -> None:
        """Remove what was written; does nothing after ``close``."""
        self._output.abort()


class CsvSink:
    """CSV after RFC 4180: a line of column names, then one row a face; an empty cell is unknown."""

    def __init__(
        self,
        path: Path | None,
        header: Mapping[str, Json],  # noqa: ARG002 - a CSV file has no place for it
        *,
        overwrite: bool = False,
    ) -> None:
        self._output = _TextOutput(path, overwrite=overwrite)
        self._writer = csv.writer(self._output, lineterminator="\n")
        self._writer.writerow(records.COLUMNS)

    def write(self, frame: Frame, source: str) -> None:
        """Write one frame's faces; ``source`` names its stream. Raises SinkError."""
        self._writer.writerows(records.face_rows(frame, source))

    def close(self) -> None:
        """Finish the file and give it its final name. Raises SinkError."""
        self._output.close()

    def abort(self) -> None:
        """Remove what was written; does nothing after ``close``."""
        self._output.abort()


class ParquetSink:
    """Parquet: one row a face, typed and nullable, zstd; the header in the file's metadata.

    Needs pyarrow; raises UsageError without it or for stdout, since Parquet ends with an index
    that a pipe cannot deliver whole.
    """

    def __init__(
        self, path: Path | None, header: Mapping[str, Json], *, overwrite: bool = False
    ) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as exc:
            raise UsageError(
                "writing Parquet needs pyarrow; run pip install 'streamface[parquet]'"
            ) from exc
        if path is None:
            raise UsageError("Parquet cannot be written to stdout; name a file")
        types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
        self._pa = pa
        self._schema = pa.schema(
            [pa.field(name, types[kind]) for name, kind in records.COLUMNS.items()],
            metadata={
                "streamface.schema": records.SCHEMA,
                "streamface.header": json.dumps(header, allow_nan=False),
            },
        )
        self._rows: list[tuple[Cell, ...]] = []
        self._atomic = AtomicPath(path, overwrite=overwrite)
        try:
            # A file of ours: Arrow's own hides the reason of a failed write in its message.
            self._file = self._atomic.temporary.open("wb")
        except OSError as exc:
            self._atomic.discard()
            raise sink_error(path, exc) from exc
        self._writer = pq.ParquetWriter(self._file, self._schema, compression="zstd")

    def write(self, frame: Frame, source: str) -> None:
        """Take one frame's faces; ``source`` names its stream. Raises SinkError."""
        self._rows.extend(records.face_rows(frame, source))
        if len(self._rows) >= _ROW_GROUP_ROWS:
            try:
                self._flush()
            except (OSError, self._pa.ArrowException) as exc:
                self.abort()
                raise sink_error(self._atomic.target, exc) from exc

    def _flush(self) -> None:
        columns = zip(*self._rows, strict=True)
        arrays = [
            self._pa.array(cells, field.type)
            for cells, field in zip(columns, self._schema, strict=True)
        ]
        self._writer.write_table(self._pa.Table.from_arrays(arrays, schema=self._schema))
        self._rows.clear()

    def close(self) -> None:
        """Finish the file and give it its final name. Raises SinkError."""
        try:
            if self._rows:
                self._flush()
            self._writer.close()
            self._file.close()
        except (OSError, self._pa.ArrowException) as exc:
            self.abort()
            raise sink_error(self._atomic.target, exc) from exc
        self._atomic.publish()

    def abort(self) -> None:
        """Remove what was written; does nothing after ``close``."""
        for part in (self._writer, self._file):
            with suppress(OSError, self._pa.ArrowException):
                part.close()
        self._atomic.discard()


@dataclass(slots=True)
class _Span:
    """A track and the label it keeps, over consecutive frames."""

    track_id: int
    label: str
    start_s: float
    end_s: float = 0.0
    prob_sum: float = 0.0
    frames: int = 0

    def cue(self) -> _Cue:
        """Return (start in ms, end in ms, payload)."""
        start_ms = max(0, round(self.start_s * 1000))
        who = f"#{self.track_id}" if self.track_id >= 0 else "face"
        what = self.label
        if what in EMOTIONS:
            what += f" ({100 * self.prob_sum / self.frames:.0f} %)"
        payload = f"<v {_escaped(who)}>{_escaped(what)}"
        return start_ms, max(start_ms + 1, round(self.end_s * 1000)), payload


@dataclass(slots=True)
class _Timeline:
    """The spans of one source that are still open, and how far its frames have come."""

    spans: dict[int, _Span] = field(default_factory=dict)
    now_s: float | None = None
    step_s: float = _LONE_FRAME_S

    def advance(self, now_s: float) -> None:
        """Let every open span reach up to the new frame: the one before was shown until now."""
        if self.now_s is not None and now_s > self.now_s:
            self.step_s = now_s - self.now_s
        self.now_s = now_s
        for span in self.spans.values():
            span.end_s = now_s


class VttSink:
    """WebVTT: one cue for each stretch of frames over which a track keeps its label.

    A cue ends where its last frame does, says ``<v #3>happy (87 %)`` (the mean smoothed
    probability) and is held until ``close``, since cues must stand in the order of their starts;
    of a run that goes on for weeks they are held in temporary files, each sorted.
    Time before 0 cannot be written: such cues start at 0, or are left out where they end there.
    ``shift_s`` is taken off every time, for a track that shall go with a video cut from its source.
    """

    def __init__(
        self,
        path: Path | None,
        header: Mapping[str, Json],
        *,
        overwrite: bool = False,
        shift_s: float = 0.0,
    ) -> None:
        self._shift_s = shift_s
        self._output = _TextOutput(path, overwrite=overwrite)
        self._output.write(f"WEBVTT\n\nNOTE {header.get('schema', records.SCHEMA)}\n")
        self._timelines: dict[str, _Timeline] = {}
        self._cues: list[_Cue] = []
        self._sorted: list[TextIO] = []

    def write(self, frame: Frame, source: str) -> None:
        """Take one frame; ``source`` names its stream."""
        timeline = self._timelines.setdefault(source, _Timeline())
        now_s = frame.time_s - self._shift_s
        timeline.advance(now_s)
        before, timeline.spans = timeline.spans, {}
        for position, face in enumerate(frame.faces):
            if face.emotion is None:
                continue
            key = face.track_id if face.track_id >= 0 else -1 - position
            label = face.emotion.label
            span = before.get(key)
            if span is None or span.label != label:
                span = _Span(face.track_id, label, now_s)
            else:
                del before[key]
            span.prob_sum += _label_prob(face.emotion)
            span.frames += 1
            timeline.spans[key] = span
        self._finish(before)

    def _finish(self, spans: dict[int, _Span]) -> None:
        self._cues.extend(span.cue() for span in spans.values() if span.end_s > 0)
        if len(self._cues) >= _CUES_HELD:
            self._put_away()

    def _put_away(self) -> None:
        """Move the cues that are held into a temporary file. Raises SinkError."""
        try:
            file = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - until close
            self._sorted.append(file)
            file.writelines(f"{start}\t{end}\t{said}\n" for start, end, said in sorted(self._cues))
            file.flush()
        except OSError as exc:
            self.abort()
            raise SinkError(f"cannot keep captions: {exc.strerror or exc}") from exc
        self._cues.clear()

    def close(self) -> None:
        """Write the cues and give the file its final name. Raises SinkError."""
        for timeline in self._timelines.values():
            if timeline.now_s is not None:
                timeline.advance(timeline.now_s + timeline.step_s)
            self._finish(timeline.spans)
            timeline.spans = {}
        try:
            for cue in heapq.merge(*map(_cues_in, self._sorted), sorted(self._cues)):
                start_ms, end_ms, payload = cue
                times = f"{_timestamp(start_ms)} --> {_timestamp(end_ms)}"
                self._output.write(f"\n{times}\n{payload}\n")
            self._output.close()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        for file in self._sorted:
            with suppress(OSError):
                file.close()
        self._sorted.clear()

    def abort(self) -> None:
        """Remove what was written; does nothing after ``close``."""
        self._let_go()
        self._output.abort()


def _cues_in(file: TextIO) -> Iterator[_Cue]:
    """Yield the cues that were put away in a file."""
    file.seek(0)
    for line in file:
        start_ms, end_ms, payload = line.rstrip("\n").split("\t")
        yield int(start_ms), int(end_ms), payload


def _label_prob(emotion: Emotion) -> float:
    if emotion.label not in EMOTIONS:
        return 0.0
    return float(emotion.smoothed[EMOTIONS.index(emotion.label)])


def _timestamp(time_ms: int) -> str:
    seconds, milliseconds = divmod(time_ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}.{milliseconds:03}"


def _escaped(text: str) -> str:
    """Return ``text`` fit for a cue: no markup, no line break, no arrow."""
    flat = " ".join(text.split())
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
