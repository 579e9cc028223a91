"""A recording in pieces, each a whole file: a crash or a full disk costs the last one at most."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from streamface.errors import UsageError
from streamface.sinks import VideoSink

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from streamface.decode import StreamInfo
    from streamface.encode import VideoOptions
    from streamface.frame import Frame, Packet

_SHORTEST_S: Final = 1.0


class SegmentSink:
    """Writes NAME-000.mp4, NAME-001.mp4 …; a new file begins every so many seconds of video.

    Each has an encoder of its own, so it begins with a key frame, plays by itself from time 0 and
    gets its name once it is whole. Sound goes to the file that its time belongs to. Finishing a
    file takes a moment: behind a ``fanout.QueuedSink`` nobody waits for it.

    Raises UsageError where the first file exists and may not be replaced; an existing later one is
    an error when its turn comes.
    """

    def __init__(
        self, target: Path, info: StreamInfo, options: VideoOptions, *, seconds: float
    ) -> None:
        if seconds < _SHORTEST_S:
            raise UsageError(f"--segment must be at least {_SHORTEST_S:g} s, got {seconds:g}")
        self.files: list[Path] = []
        """Those begun so far; all but the last are whole."""
        self._target = target
        self._info = info
        self._options = options
        self._length = max(1, round(Fraction(seconds) / info.time_base))
        self._begin_pts: int | None = None
        first = self._open()
        self._sink: VideoSink | None = first
        self.warnings = first.warnings

    def _open(self) -> VideoSink:
        number = len(self.files)
        target = self._target
        path = target.with_name(f"{target.stem}-{number:03d}{target.suffix}")
        sink = VideoSink(path, replace(self._info, chapters=()), self._options)
        self.files.append(path)
        return sink

    def write(self, frame: Frame) -> None:
        """Encode one frame, in a new file if it is time. Raises SinkError."""
        assert self._sink is not None, "nothing is written after the end"
        if self._begin_pts is None:
            self._begin_pts = frame.pts
            self._sink.begin_at(frame.pts)
        elif frame.pts - self._begin_pts >= self._length:
            frame = self._turn_over(frame)
        self._sink.write(frame)

    def _turn_over(self, frame: Frame) -> Frame:
        """Finish a file, with the sound that belongs to it, and begin the next at ``frame``."""
        assert self._sink is not None, "nothing is written after the end"
        before: list[Packet] = []
        after: list[Packet] = []
        for packet in frame.packets:
            when = packet.pts if packet.pts is not None else packet.dts
            late = when is not None and when * packet.time_base >= frame.pts * frame.time_base
            (after if late else before).append(packet)
        sink, self._sink = self._sink, None
        try:
            sink.close(before)
        except BaseException:
            sink.abort()
            raise
        self._begin_pts = frame.pts
        self._sink = self._open()
        self._sink.begin_at(frame.pts)
        return replace(frame, packets=tuple(after))

    def close(self, tail_packets: Sequence[Packet] = ()) -> None:
        """Finish the last file. Raises SinkError."""
        if self._sink is not None:
            self._sink.close(tail_packets)
            self._sink = None

    def abort(self) -> None:
        """Remove the unfinished file; those before it stay."""
        if self._sink is not None:
            self._sink.abort()
            self._sink = None
