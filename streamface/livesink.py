"""A sink in a thread of its own, so that it cannot hold up whoever writes to it."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from streamface.errors import SinkError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamface.frame import Frame, Packet
    from streamface.sinks import Sink

# A second of video: what a burst of key frames or the change of a segment takes at most.
_WAITING: Final = 30


class LiveSink:
    """Hands frames to another sink from a bounded queue; ``write`` never waits.

    Where the sink does not keep up, the oldest frame that waits is dropped, its sound goes on with
    the next one, and ``dropped`` counts it. The planes of a frame are shared with whoever else got
    it: nobody may draw on them afterwards.

    An error of the sink is raised by the next ``write`` or by ``close``, once; what comes later is
    dropped. ``close`` writes what waits, however long that takes the sink; ``abort`` does not.
    """

    def __init__(self, sink: Sink, *, waiting: int = _WAITING) -> None:
        """Start the thread. waiting: how many frames may wait."""
        if waiting < 1:
            raise ValueError(f"waiting must be at least 1, got {waiting}")
        self.sink = sink
        self.dropped = 0
        self.written = 0
        self._waiting = waiting
        self._frames: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._ending = False
        self._aborted = False
        self._error: Exception | None = None
        self._told = False
        self._thread = threading.Thread(target=self._work, name="streamface-sink")
        self._thread.start()

    @property
    def warnings(self) -> list[str]:
        """The sink's own, and how many frames it missed."""
        missed = [f"{self.dropped} frames dropped: the output did not keep up"]
        return [*self.sink.warnings, *(missed if self.dropped else [])]

    def write(self, frame: Frame) -> None:
        """Let a frame be written soon. Raises SinkError where the sink has failed."""
        self._raise_error()
        # A frame of its own: the caller may take the packets off his.
        frame = replace(frame)
        with self._changed:
            if self._error is not None or self._ending:
                self.dropped += 1
                return
            if len(self._frames) >= self._waiting:
                oldest = self._frames.popleft()
                self.dropped += 1
                heir = self._frames[0] if self._frames else frame
                heir.packets = (*oldest.packets, *heir.packets)
            self._frames.append(frame)
            self._changed.notify_all()

    def _raise_error(self) -> None:
        error = self._error
        if error is not None and not self._told:
            self._told = True
            if isinstance(error, SinkError):
                raise SinkError(str(error)) from error
            raise error

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._frames or self._ending)
                if self._aborted or not self._frames:
                    return
                frame = self._frames.popleft()
            try:
                self.sink.write(frame)
                self.written += 1
            except Exception as exc:  # noqa: BLE001 - raised again in the thread that writes
                with self._changed:
                    self._error = exc
                    self.dropped += 1 + len(self._frames)
                    self._frames.clear()
                return

    def _end(self, *, aborted: bool) -> None:
        with self._changed:
            self._ending = True
            if aborted:
                self._aborted = True
            self._changed.notify_all()
        self._thread.join()

    def close(self, tail_packets: Sequence[Packet] = ()) -> None:
        """Write what waits and finish. Raises SinkError."""
        self._end(aborted=False)
        if self._error is not None:
            self.sink.abort()
            self._raise_error()
            return
        self.sink.close(tail_packets)

    def abort(self) -> None:
        """Give up what waits and what was written."""
        self._end(aborted=True)
        self.sink.abort()
