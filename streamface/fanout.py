"""Several outputs of one source, and outputs that nobody waits for.

``FanOut`` hands every frame to several sinks. ``QueuedSink`` gives a sink a thread and a short
queue of its own, so that an encoder or a disk that is slow for a while costs its own file some
frames and the live picture nothing.
"""

from __future__ import annotations

import copy
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from streamface.errors import SinkError
from streamface.pipeline import Cancelled, Channel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from streamface.frame import Frame, Packet
    from streamface.sinks import Sink

QUEUED_FRAMES: Final = 8
"""A quarter of a second at 30 fps; at 1080p 25 MB a sink that has fallen behind."""


class QueuedSink:
    """A sink in a thread of its own, for live sources: ``write`` never waits.

    Where the sink does not keep up the oldest waiting frame is left out of it and counted; sound
    and subtitles that rode on it go on with the next. The sink's first error is raised by the next
    ``write``, or by ``close``. Frames are shared: nobody may change their planes any more.
    """

    def __init__(
        self,
        sink: Sink,
        name: str,
        *,
        capacity: int = QUEUED_FRAMES,
        on_written: Callable[[Frame], None] | None = None,
        on_drop: Callable[[int], None] | None = None,
    ) -> None:
        """on_written: called in the sink's thread after each frame. on_drop: with their number."""
        self.dropped = 0
        """Frames that this sink did not get."""
        self._sink = sink
        self._on_written = on_written
        self._on_drop = on_drop
        self._waiting: Channel[Frame] = Channel(capacity)
        self._error: BaseException | None = None
        self._tail: tuple[Packet, ...] | None = None
        self._thread = threading.Thread(target=self._work, name=f"streamface-sink-{name}")

    @property
    def warnings(self) -> list[str]:
        """The sink's own; there may be more after ``close``."""
        return self._sink.warnings

    def write(self, frame: Frame) -> None:
        """Take a frame; never waits. Raises the error that the sink died of."""
        if self._thread.ident is None:  # only now somebody knows of us who would end it
            self._thread.start()
        try:
            # The caller's frame loses its packets once it is written; this one keeps them.
            dropped = self._waiting.put_newest(copy.copy(frame), bequeath_packets)
        except Cancelled:
            self._thread.join()
            assert self._error is not None
            raise self._error from None
        if dropped:
            self.dropped += dropped
            if self._on_drop is not None:
                self._on_drop(dropped)

    def _work(self) -> None:
        try:
            while batch := self._waiting.get_many(1):
                for frame in batch:
                    self._sink.write(frame)
                    if self._on_written is not None:
                        self._on_written(frame)
            if self._tail is not None:
                self._sink.close(self._tail)
        except Cancelled:
            pass
        except BaseException as exc:  # noqa: BLE001 - raised again where somebody listens
            self._error = exc
            self._waiting.cancel()

    def begin_close(self, tail_packets: Sequence[Packet] = ()) -> None:
        """Let the sink's thread write what waits and close the sink; ``close`` waits for that.

        Finishing a large file can take seconds, for which other streams must not wait.
        """
        self._tail = tuple(tail_packets)
        if self._thread.ident is None:
            self._thread.start()
        self._waiting.close()

    @property
    def is_over(self) -> bool:
        """Whether ``close`` would not wait, once it has begun."""
        return not self._thread.is_alive()

    def close(self, tail_packets: Sequence[Packet] = ()) -> None:
        """Write what waits, then close the sink. Raises its error."""
        if self._tail is None:
            self.begin_close(tail_packets)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def abort(self) -> None:
        """Leave out what waits, and abort the sink."""
        self._waiting.cancel()
        if self._thread.ident is not None:
            self._thread.join()
        self._sink.abort()


class FanOut:
    """Several sinks as one.

    With ``on_failure`` a sink that fails is aborted, told and left out, and the others go on;
    ``write`` raises once none is left. Without it, as for files, the first error is raised.
    """

    def __init__(
        self, sinks: Sequence[Sink], *, on_failure: Callable[[SinkError], None] | None = None
    ) -> None:
        self._all = list(sinks)
        self._sinks = list(sinks)
        self._on_failure = on_failure

    @property
    def warnings(self) -> list[str]:
        """Those of all; there may be more after ``close``."""
        return [line for sink in self._all for line in sink.warnings]

    def write(self, frame: Frame) -> None:
        """Write one frame to each. Raises SinkError."""
        frames = [frame]
        for packets in _copies(frame.packets, len(self._sinks) - 1):
            frames.append(copy.copy(frame))
            frames[-1].packets = packets
        for sink, own in zip(list(self._sinks), frames, strict=True):
            with self._without(sink):
                sink.write(own)

    def begin_close(self, tail_packets: Sequence[Packet] = ()) -> None:
        """Let those that have threads of their own begin to close, as ``QueuedSink`` does."""
        tails = [tail_packets, *_copies(tail_packets, len(self._sinks) - 1)]
        for sink, own in zip(self._sinks, tails, strict=True):
            if isinstance(sink, QueuedSink):
                sink.begin_close(own)

    @property
    def is_over(self) -> bool:
        """Whether ``close`` would not wait, once it has begun."""
        return all(sink.is_over for sink in self._sinks if isinstance(sink, QueuedSink))

    def close(self, tail_packets: Sequence[Packet] = ()) -> None:
        """Finish each. Raises SinkError."""
        tails = [tail_packets, *_copies(tail_packets, len(self._sinks) - 1)]
        for sink, own in zip(list(self._sinks), tails, strict=True):
            with self._without(sink):
                sink.close(own)
        self._sinks.clear()

    @contextmanager
    def _without(self, sink: Sink) -> Iterator[None]:
        """Go on without a sink that fails, if others are left and somebody is told."""
        try:
            yield
        except SinkError as exc:
            if self._on_failure is None:
                raise
            self._sinks.remove(sink)
            sink.abort()
            if not self._sinks:
                raise
            self._on_failure(exc)

    def abort(self) -> None:
        """Remove what each has written."""
        for sink in self._sinks:
            sink.abort()
        self._sinks.clear()


def bequeath_packets(dropped: Frame, heir: Frame) -> None:
    """Let sound that rode on a dropped frame go on with the next one, in its order."""
    heir.packets = (*dropped.packets, *heir.packets)


def _copies(packets: Sequence[Packet], count: int) -> list[tuple[Packet, ...]]:
    """Return copies, made before any sink gets the packets: a muxer rewrites what it is given."""
    return [tuple(_copy(packet) for packet in packets) for _ in range(count)]


def _copy(packet: Packet) -> Packet:
    import av

    twin: Packet = av.Packet(bytes(packet))
    twin.stream = packet.stream
    twin.time_base = packet.time_base
    twin.pts, twin.dts, twin.duration = packet.pts, packet.dts, packet.duration
    twin.is_keyframe = packet.is_keyframe
    return twin
