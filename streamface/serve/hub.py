"""Where the pipeline leaves its frames and the page picks them up. Knows nothing of the web."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from streamface.frame import Colour, Frame, Planes
from streamface.records import frame_record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from streamface.pipeline import PipelineStats
    from streamface.records import Json

# Frames whose faces are remembered for readers of records: 8 s at 30 fps. Their pixels are not.
_NOTES: Final = 256
# More streams than any grid shows; the one that has been silent for longest is forgotten.
_MOST_STREAMS: Final = 64
# The frame rate shown is that of the last moments, from at most so many frames.
_RATE_WINDOW_S: Final = 3.0
_RATE_FRAMES: Final = 180
_NO_PIXELS: Final = Planes.allocate((1, 1), Colour())


class Recorder(Protocol):
    """What the page's record button works; called from a thread of the page, one call at a time.

    Both methods return promptly and raise StreamfaceError, whose line the page shows.
    """

    @property
    def recording(self) -> bool:
        """Whether it records now; read from any thread."""

    def start(self) -> None:
        """Begin a recording."""

    def stop(self) -> None:
        """Finish it."""


@dataclass(slots=True, eq=False)
class Note:
    """What one published frame says, without its pixels. Read only."""

    number: int
    """Counts what the hub was given, over all streams, from 1."""
    source: str
    frame: Frame
    """A copy of our own; its planes are one pixel, its packets gone."""
    size_px: tuple[int, int]
    published_s: float
    """Monotonic clock."""
    _record: str | None = None

    def record_json(self) -> str:
        """Return the frame's record as in a JSONL file, made once for all who read it."""
        if self._record is None:
            self._record = json.dumps(frame_record(self.frame, self.source), allow_nan=False)
        return self._record


@dataclass(slots=True)
class Stream:
    """The newest of one stream."""

    note: Note
    planes: Planes
    frames: int = 0
    times_s: deque[float] = field(default_factory=lambda: deque(maxlen=_RATE_FRAMES))

    def fps(self, now_s: float) -> float:
        """Return the frames per second of the last few seconds, 0 where none came."""
        recent = [time_s for time_s in self.times_s if time_s >= now_s - _RATE_WINDOW_S]
        if len(recent) < 2 or recent[-1] <= recent[0]:
            return 0.0
        return (len(recent) - 1) / (recent[-1] - recent[0])


@dataclass(frozen=True, slots=True)
class StreamState:
    """What the page tells of one stream."""

    source: str
    frames: int
    fps: float
    faces: int
    silent_s: float
    """Since its newest frame."""


class LiveHub:
    """Keeps the newest frame of each stream, and what the last few hundred frames said.

    ``publish`` costs the same whatever the frame's size and whoever watches: it keeps references.
    So a frame's planes must not be written to after it was published; the memory of one picture a
    stream is held until the next one comes. Thread-safe.
    """

    def __init__(
        self,
        *,
        stats: Callable[[], PipelineStats] | None = None,
        header: Mapping[str, Json] | None = None,
        recorder: Recorder | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """stats: gives the run's own figures. header: the first line of a JSONL file of this run.

        recorder: what the record button works; without one there is no button. now: stands in for
        the monotonic clock in tests.
        """
        self.stats = stats
        self.header = header
        self.recorder = recorder
        self._now = now
        self._lock = threading.Lock()
        self._streams: dict[int, Stream] = {}
        self._notes: deque[Note] = deque(maxlen=_NOTES)
        self._count = 0
        self._ended = False
        self._wake: Callable[[], None] | None = None

    # -- the pipeline's side

    def publish(self, frame: Frame, source: str) -> None:
        """Take a finished frame; ``source`` names its stream. Never waits for a viewer."""
        now_s = self._now()
        light = Frame(
            frame.stream,
            frame.index,
            frame.pts,
            frame.time_base,
            _NO_PIXELS,
            frame.duration,
            frame.captured_s,
            frame.faces,
        )
        with self._lock:
            self._count += 1
            note = Note(self._count, source, light, frame.planes.size_px, now_s)
            self._notes.append(note)
            stream = self._streams.get(frame.stream)
            if stream is None:
                self._make_room()
                stream = self._streams[frame.stream] = Stream(note, frame.planes)
            stream.note, stream.planes = note, frame.planes
            stream.frames += 1
            stream.times_s.append(now_s)
            wake = self._wake
        if wake is not None:
            wake()

    def _make_room(self) -> None:
        if len(self._streams) >= _MOST_STREAMS:
            silent = min(self._streams, key=lambda key: self._streams[key].note.number)
            del self._streams[silent]

    def forget(self, stream: int) -> None:
        """Show a stream no longer: it ended, and others go on."""
        with self._lock:
            self._streams.pop(stream, None)

    def end(self) -> None:
        """Say that no frame will come any more; the last ones stay to be seen."""
        with self._lock:
            self._ended = True
            wake = self._wake
        if wake is not None:
            wake()

    # -- the page's side

    def listen(self, wake: Callable[[], None] | None) -> None:
        """Have ``wake`` called after each publication, in its thread; None: no longer.

        It must return at once and never raise. Raises ValueError where somebody listens already.
        """
        with self._lock:
            if wake is not None and self._wake is not None:
                raise ValueError("this hub is served already")
            self._wake = wake

    @property
    def ended(self) -> bool:
        """Whether ``end`` was called."""
        return self._ended

    @property
    def count(self) -> int:
        """Frames published so far."""
        return self._count

    def newest(self) -> dict[int, tuple[Note, Planes]]:
        """Return what each stream last showed, by the stream's number."""
        with self._lock:
            return {key: (stream.note, stream.planes) for key, stream in self._streams.items()}

    def since(self, number: int) -> tuple[list[Note], int]:
        """Return the notes after ``number``, oldest first, and how many before them are gone."""
        with self._lock:
            first = self._count - len(self._notes) + 1
            wanted = self._count - max(number, first - 1)
            notes = [self._notes[i] for i in range(len(self._notes) - wanted, len(self._notes))]
        return notes, max(0, first - 1 - number)

    def streams(self) -> dict[int, StreamState]:
        """Return the state of each stream, by its number."""
        now_s = self._now()
        with self._lock:
            return {
                key: StreamState(
                    source=stream.note.source,
                    frames=stream.frames,
                    fps=stream.fps(now_s),
                    faces=len(stream.note.frame.faces),
                    silent_s=now_s - stream.note.published_s,
                )
                for key, stream in sorted(self._streams.items())
            }

    def silent_s(self) -> float | None:
        """Return the seconds since the newest frame of all streams; None before the first."""
        with self._lock:
            return self._now() - self._notes[-1].published_s if self._notes else None
