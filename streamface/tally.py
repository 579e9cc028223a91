"""What a run has done so far, in memory that does not grow however long it lasts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from streamface.pipeline import LatencyHistogram, RecentAges

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamface.frame import Frame

_IDS_KNOWN: Final = 512


class DistinctIds(Collection[int]):
    """Counts different track ids, which are given out in increasing order.

    Remembers the highest ones only: exact unless a track is first seen after hundreds of later
    ones. Iterating gives those that are remembered.
    """

    def __init__(self) -> None:
        self._count = 0
        self._highest: set[int] = set()
        self._floor: int | None = None

    def add(self, number: int) -> None:
        """Count an id, unless it was counted before."""
        if number in self._highest or (self._floor is not None and number < self._floor):
            return
        self._count += 1
        self._highest.add(number)
        if len(self._highest) > 2 * _IDS_KNOWN:
            kept = sorted(self._highest)[-_IDS_KNOWN:]
            self._floor, self._highest = kept[0], set(kept)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._highest))

    def __contains__(self, number: object) -> bool:
        return number in self._highest


@dataclass(slots=True)
class StreamTally:
    """The same of one of the live streams of a run."""

    name: str
    frames: int = 0
    face_frames: int = 0
    """Faces summed over frames."""
    faces_now: int = 0
    first_s: float | None = None
    """Monotonic clock when its first frame was written."""
    has_ended: bool = False
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    """From the capture of its frames until each output had them."""
    ages: RecentAges = field(default_factory=RecentAges)
    """The same of the last seconds."""

    def end(self) -> None:
        """Note that no frame of it will follow."""
        self.has_ended, self.faces_now = True, 0


@dataclass(slots=True)
class Tally:
    """What a run has done so far; written by the thread that writes, read by anybody."""

    frames: int = 0
    face_frames: int = 0
    """Faces summed over frames."""
    faces_now: int = 0
    tracks: DistinctIds = field(default_factory=DistinctIds)
    labels: Counter[str] = field(default_factory=Counter)
    """Emotion labels, counted once a face and frame."""
    stream: int = 0
    stream_frames: int = 0
    time_s: float = 0.0
    started_s: float = field(default_factory=time.monotonic)
    ended_s: float | None = None
    streams: dict[int, StreamTally] = field(default_factory=dict)
    """Of a live source, or of each of several at once, by number, from its first frame on."""
    lowered: str = ""
    """What a live run does less of at present because it could not keep up; "" for nothing."""

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first frame was asked for."""
        return (self.ended_s or time.monotonic()) - self.started_s

    @property
    def fps(self) -> float:
        """Frames written per second of wall time."""
        return self.frames / self.elapsed_s if self.elapsed_s > 0 else 0.0

    def begin(self, stream: int) -> None:
        """Note that frames of another stream follow."""
        self.stream, self.stream_frames = stream, 0

    def count(self, frame: Frame) -> None:
        """Add one written frame."""
        self.frames += 1
        self.stream_frames += 1
        self.time_s = frame.time_s
        self.face_frames += 0 if frame.held else len(frame.faces)
        for face in () if frame.held else frame.faces:  # one that is held was counted before
            self.tracks.add(face.track_id)
            if face.emotion is not None:
                self.labels[face.emotion.label] += 1
        stream = self.streams.get(frame.stream)
        if stream is not None:
            stream.frames += 1
            stream.face_frames += 0 if frame.held else len(frame.faces)
            stream.faces_now = len(frame.faces)
            stream.first_s = time.monotonic() if stream.first_s is None else stream.first_s
        # Each of several streams has its share of the faces that are there now.
        streams = self.streams.values()
        self.faces_now = sum(s.faces_now for s in streams) if streams else len(frame.faces)
