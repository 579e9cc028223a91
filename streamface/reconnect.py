"""Live sources that come back: after a lost connection, a stall, an unplugged camera.

A thread of its own opens and reads; whoever iterates never waits on the network, and ``stop`` is
heeded at once. What FFmpeg is waiting for ends with the time-outs it was opened with, so ``close``
takes no longer than those.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, Literal

import av

from streamface.decode import Damage, ReadOptions
from streamface.errors import SourceError
from streamface.frame import Colour, Frame
from streamface.network import Backoff
from streamface.pixels import fitted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamface.decode import MediaSource, StreamInfo
    from streamface.frame import Packet, Planes
    from streamface.network import NetworkOptions

_log = logging.getLogger(__name__)

EventKind = Literal["lost", "failed", "back", "changed", "ended", "gave up"]

# The reader waits for whoever iterates rather than piling up frames nobody takes.
_IN_HAND: Final = 2
_EVENTS_KEPT: Final = 100
# Pictures that were on their way when a stall began come at once when it ends: so long they are
# taken for that, after it for a sender that goes on where it stopped.
_CATCHING_UP_S: Final = 1.0
# A connection that held so long was a good one: the next attempt after it comes soon. One that did
# not is given a little more time each time, but it did work: a source that comes and goes shall not
# be away for longer than it is there.
_LASTED_S: Final = 1.0
_FLAPPING_DELAY_S: Final = 2.0
# Neither jitter nor a burst: the sender's clock was set.
_JUMP_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class SourceEvent:
    """Something that happened to a live source."""

    kind: EventKind
    at: datetime
    """In UTC."""
    source: str
    """Its name, credentials masked."""
    text: str
    """One line for a person; credentials masked."""


def open_lasting(
    once: Callable[[ReadOptions], MediaSource],
    name: str,
    options: ReadOptions,
    network: NetworkOptions,
    *,
    on_event: Callable[[SourceEvent], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> MediaSource | ReconnectingSource:
    """Open a source that, if it has no end of its own, comes back after it is lost.

    once: opens it, from the given options on. sleep: stands in for the clock in tests. Raises
    SourceError where the first attempt fails, unless that is to be repeated.
    """
    backoff = Backoff()
    while True:
        try:
            first = once(options)
            break
        except SourceError as exc:
            if not network.wait_for_first:
                raise
            _log.warning("%s; trying again", exc)
            sleep(backoff.delay_s())
    if not first.info.is_live:
        return first
    # A second connection begins where the stream is then; what to leave out is counted here.
    again = ReadOptions(vid_stride=options.vid_stride)
    return ReconnectingSource(
        first, lambda: once(again), options, network, name=name, on_event=on_event
    )


class _Handoff:
    """Items from the thread that reads to the one that iterates; every wait ends with ``stop``.

    The lock may be taken again by the thread that holds it, so that a signal handler may stop.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: deque[_Item] = deque()
        self.stopped = False
        self.ended = False
        self.error: Exception | None = None

    def put(self, item: _Item) -> bool:
        """Append an item, waiting for room; False where nobody wants it any more."""
        with self._changed:
            self._changed.wait_for(lambda: self.stopped or len(self._items) < _IN_HAND)
            if not self.stopped:
                self._items.append(item)
                self._changed.notify_all()
            return not self.stopped

    def get(self, at_most_s: float | None) -> _Item | None:
        """Return the next item; None where the time is over or no more will come."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.stopped or self.ended or bool(self._items), at_most_s
            )
            if self.stopped or not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def pause(self, seconds: float) -> bool:
        """Wait; False where the wait was cut short by ``stop``."""
        with self._changed:
            return not self._changed.wait_for(lambda: self.stopped, seconds)

    def end(self, error: Exception | None = None) -> None:
        """Say that nothing more will come."""
        with self._changed:
            self.ended, self.error = True, error
            self._changed.notify_all()

    def stop(self) -> None:
        """Wake everybody: nothing more is wanted."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()


@dataclass(slots=True)
class _Link:
    """One connection, and how its times and streams lie to those of the first one."""

    info: StreamInfo
    streams: dict[int, Any] = field(default_factory=dict)
    """The output's template for each of its audio and subtitle streams, by their index."""
    first_pts: int | None = None
    origin: int = 0
    """Where ``first_pts`` lies, in ticks of the first connection."""
    offset_s: Fraction = Fraction(0)
    """What is added to every time of this connection."""


@dataclass(frozen=True, slots=True)
class _Item:
    link: _Link
    frame: Frame | None
    packets: tuple[Packet, ...] = ()


class ReconnectingSource:
    """A live source over as many connections as it takes. It satisfies ``sources.Source``.

    Times go on in the first connection's time base, strictly increasing, a gap as long as it was.
    Pictures of another size, shape or colour are fitted into the first one's. While nothing comes,
    made-up frames (``Frame.held``) go through the pipeline like any other: the last picture again,
    so faces stay where they were, or a card, on which there are none.

    A stream that turns out to have an end when it is opened again (an HLS playlist that was
    closed) is over. After the last attempt allowed, the source ends, ``gave_up`` is set and
    ``damage`` says why; what was recorded so far is whole.
    """

    def __init__(
        self,
        first: MediaSource,
        reopen: Callable[[], MediaSource],
        options: ReadOptions,
        network: NetworkOptions,
        *,
        name: str,
        on_event: Callable[[SourceEvent], None] | None = None,
        backoff: Backoff | None = None,
        pause: Callable[[float], bool] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """backoff, pause, now: stand in for chance and the clock in tests.

        pause: waits so many seconds; False where it was stopped meanwhile. on_event is called in
        the threads of this source.
        """
        self._events: deque[SourceEvent] = deque(maxlen=_EVENTS_KEPT)
        self.gave_up = False
        """Whether the source was lost for good."""
        self._name = name
        self._reopen = reopen
        self._options = options
        self._network = network
        self._on_event = on_event
        self._backoff = backoff or Backoff(rng=random.Random())  # noqa: S311 - jitter, no secret
        self._handoff = _Handoff()
        self._pause = pause or self._handoff.pause
        self._now = now
        self._parking, parked = _park(first)
        self.info: StreamInfo = replace(first.info, copied=parked)
        self._damage = Damage()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        """Over the source that is open now: it is read, shown again and closed by two threads."""
        self._source: MediaSource | None = first
        self._held: Planes | None = None
        self._lost_at: datetime | None = None
        self._told_shape = (self.info.size_px, self.info.sample_aspect)
        self._begin()

    def _begin(self) -> None:
        """Set what the iterating thread alone knows."""
        self._count = 0
        self._first_pts: int | None = None
        self._last_pts = 0
        self._true_pts = 0
        self._true_s = 0.0
        self._due_s = 0.0
        self._late_since_s: float | None = None
        self._bridging = False
        self._colour = Colour()
        self._card: tuple[datetime, Planes] | None = None
        self._carried: list[Packet] = []
        self._packet_times: dict[int, Fraction] = {}

    @property
    def events(self) -> list[SourceEvent]:
        """What happened lately, oldest first."""
        return list(self._events)

    @property
    def damage(self) -> Damage:
        """That of all connections, and of the gaps between them."""
        total = Damage()
        total.add(self._damage)
        source = self._source
        if source is not None:
            total.add(source.damage)
        return total

    @property
    def tail_packets(self) -> tuple[Packet, ...]:
        """Packets after the last frame, once iteration ended."""
        return tuple(self._carried)

    def stop(self) -> None:
        """End iteration now, whatever it waits for. For any thread, and for a signal handler."""
        self._handoff.stop()

    def close(self) -> None:
        """Stop, and wait until the connection is closed: at most as long as its time-outs."""
        self.stop()
        if self._thread is not None:
            self._thread.join()
        else:
            self._retire()
        self._parking.close()

    # -- the thread that reads

    def _feed(self) -> None:
        try:
            self._feed_all()
        except Exception as exc:  # noqa: BLE001 - raised again in the thread that iterates
            self._handoff.end(exc)
        finally:
            self._retire()
            self._handoff.end(self._handoff.error)

    def _feed_all(self) -> None:
        source = self._source
        while source is not None:
            began_s = self._now()
            self._pump(source)
            if self._handoff.stopped or not source.exhausted:
                return
            lasted = self._now() - began_s >= _LASTED_S
            self._backoff.reset(0.0 if lasted else _FLAPPING_DELAY_S)
            reason = source.damage.ended_early or "the stream ended"
            source.damage.ended_early = ""
            source = None
            self._retire()
            source = self._come_back(reason)

    def _pump(self, source: MediaSource) -> None:
        """Hand on everything that comes over one connection."""
        link = _Link(source.info, _match(source.info.copied, self.info.copied))
        pace = _Pace() if source.in_bursts else None
        for frame in source:
            if pace is not None:
                early_s = pace.early_s(frame.time_s, self._now())
                if early_s > 0 and not self._pause(early_s):
                    return
                frame.captured_s = self._now()
            if not self._handoff.put(_Item(link, frame, frame.packets)):
                return
        self._handoff.put(_Item(link, None, source.tail_packets))

    def _retire(self) -> None:
        """Close the connection, keeping its last picture and what went wrong with it."""
        with self._lock:
            source, self._source = self._source, None
            if source is None:
                return
            if self._network.on_gap != "skip":
                self._hold_last_of(source)
            self._damage.add(source.damage)
            source.close()

    def _come_back(self, reason: str) -> MediaSource | None:
        """Open the source again, however often that takes; None where it is over."""
        lost_s, lost_at = self._now(), datetime.now(UTC)
        self._lost_at = lost_at
        self._damage.gaps += 1
        self._tell("lost", f"lost: {reason}")
        attempts = 0
        while self._network.reconnect is None or attempts < self._network.reconnect:
            attempts += 1
            if not self._pause(self._backoff.delay_s()):
                return None
            try:
                source = self._reopen()
            except SourceError as exc:
                self._tell("failed", f"attempt {attempts}: {exc}")
                continue
            return self._take_over(source, lost_s, attempts)
        self.gave_up = True
        tried = f"; not back after {attempts} attempt(s)" if attempts else ""
        self._damage.ended_early = f"lost at {lost_at:%H:%M:%S} UTC: {reason}{tried}"
        self._tell("gave up", self._damage.ended_early)
        return None

    def _take_over(self, source: MediaSource, lost_s: float, attempts: int) -> MediaSource | None:
        if not source.info.is_live:
            source.close()
            self._tell("ended", "the stream is over")
            return None
        away_s = self._now() - lost_s
        self._damage.away_s += away_s
        with self._lock:
            self._source, self._lost_at = source, None
        tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        self._tell("back", f"back after {away_s:.1f} s and {tries}")
        self._tell_changes(source.info)
        return source

    def _tell_changes(self, info: StreamInfo) -> None:
        (width, height), (full_w, full_h) = info.size_px, self.info.size_px
        shape = (info.size_px, info.sample_aspect)
        if shape != self._told_shape:
            self._told_shape = shape
            size = f"pictures are now {width}x{height}"
            self._tell("changed", f"{size}; fitted into {full_w}x{full_h}")

    def _tell(self, kind: EventKind, text: str) -> None:
        event = SourceEvent(kind, datetime.now(UTC), self._name, text)
        self._events.append(event)
        level = logging.WARNING if kind in ("lost", "gave up") else logging.INFO
        _log.log(level, "%s: %s", self._name, text)
        if self._on_event is not None:
            self._on_event(event)

    # -- the thread that iterates

    def __iter__(self) -> Iterator[Frame]:
        if self._thread is not None:
            raise ValueError("a ReconnectingSource can be iterated once")
        self._thread = threading.Thread(target=self._feed, name="streamface-source")
        self._thread.start()
        try:
            while self._options.max_frames is None or self._count < self._options.max_frames:
                item = self._handoff.get(self._patience_s())
                if item is None and (self._handoff.ended or self._handoff.stopped):
                    break
                frame = self._made_up() if item is None else self._fit_in(item)
                if frame is not None and self._is_past_end(frame):
                    break
                if frame is not None:
                    yield frame
            if self._handoff.error is not None:
                raise self._handoff.error
        finally:
            self.stop()

    def _patience_s(self) -> float | None:
        """Return how long to wait for a picture before one is made up."""
        if self._network.on_gap == "skip" or self._first_pts is None:
            return None
        return max(0.0, self._due_s - self._now())

    def _is_past_end(self, frame: Frame) -> bool:
        end_s, first_pts = self._options.end_s, self._first_pts
        if end_s is None or first_pts is None:
            return False
        return (frame.pts - first_pts) * self.info.time_base >= Fraction(end_s)

    def _made_up(self) -> Frame | None:
        """Return a frame for the moment, as no picture came."""
        now_s = self._now()
        self._due_s = now_s + float(1 / self.info.rate)
        planes = self._stand_in()
        if planes is None:
            return None
        self._bridging = True
        self._damage.held_frames += 1
        pts = max(self._last_pts + 1, self._true_pts + self._ticks(now_s - self._true_s))
        frame = Frame(
            stream=self._stream,
            index=self._count,
            pts=pts,
            time_base=self.info.time_base,
            planes=planes,
            duration=self._ticks(float(1 / self.info.rate)),
            captured_s=now_s,
            held=True,
        )
        return self._count_in(frame)

    def _stand_in(self) -> Planes | None:
        with self._lock:
            lost_at = self._lost_at
            if self._held is None and self._source is not None:
                self._hold_last_of(self._source)
            held = self._held
        if self._network.on_gap == "slate" and lost_at is not None:
            return _copy(self._slate(lost_at))
        return None if held is None else _copy(held)

    def _hold_last_of(self, source: MediaSource) -> None:
        picture = source.last_picture()
        if picture is not None:
            self._held = self._fit(picture, source.info)

    def _slate(self, lost_at: datetime) -> Planes:
        if self._card is None or self._card[0] != lost_at:
            from streamface.slate import draw_slate

            note = f"no picture since {lost_at:%H:%M:%S} UTC"
            card = draw_slate(self.info.size_px, self._colour, self._name, note)
            self._card = (lost_at, card)
        return self._card[1]

    def _fit_in(self, item: _Item) -> Frame | None:
        """Put what came in its place: None where that has been filled already."""
        link, frame = item.link, item.frame
        if frame is None:
            self._carry(link, item.packets)
            return None
        if link.first_pts is None:
            self._anchor(link, frame)
        pts = self._place(link, frame.pts)
        if self._has_jumped(pts, frame):
            self._damage.times_moved += 1
            self._anchor(link, frame)
            pts = self._place(link, frame.pts)
        if self._first_pts is not None and pts <= self._last_pts:
            if self._bridging and self._is_catching_up(frame):
                self._damage.late_frames += 1
                self._carry(link, item.packets)
                return None
            if self._bridging:
                self._anchor(link, frame)
            pts = max(self._last_pts + 1, self._place(link, frame.pts))
        self._carry(link, item.packets)
        self._late_since_s, self._bridging = None, False
        with self._lock:
            if self._source is not None:  # else what is held is later than this frame
                self._held = None
        planes = self._fit(frame.planes, link.info)
        if planes.size_px != frame.planes.size_px:
            self._damage.rescaled_frames += 1
        packets, self._carried = tuple(self._carried), []
        self._true_pts, self._true_s = pts, frame.captured_s
        self._due_s = frame.captured_s + self._network.hold_after_s
        duration = round(frame.duration * link.info.time_base / self.info.time_base)
        return self._count_in(
            replace(
                frame,
                index=self._count,
                pts=pts,
                time_base=self.info.time_base,
                planes=planes,
                duration=duration,
                packets=packets,
            )
        )

    def _count_in(self, frame: Frame) -> Frame:
        if self._first_pts is None:
            self._first_pts, self._stream = frame.pts, frame.stream
            self._colour = frame.planes.colour
        self._count += 1
        self._last_pts = frame.pts
        return frame

    def _anchor(self, link: _Link, frame: Frame) -> None:
        """Let a frame lie as much after the last true one as it came after it."""
        link.first_pts = frame.pts
        if self._first_pts is None:
            link.origin = frame.pts
        else:
            away = self._ticks(frame.captured_s - self._true_s)
            link.origin = max(self._last_pts + 1, self._true_pts + away)
        link.offset_s = link.origin * self.info.time_base - frame.pts * link.info.time_base

    def _place(self, link: _Link, pts: int) -> int:
        assert link.first_pts is not None, "frames are placed once the first one is"
        since = (pts - link.first_pts) * link.info.time_base
        return link.origin + round(since / self.info.time_base)

    def _has_jumped(self, pts: int, frame: Frame) -> bool:
        if self._first_pts is None:
            return False
        played_s = float((pts - self._true_pts) * self.info.time_base)
        return abs(played_s - (frame.captured_s - self._true_s)) > _JUMP_S

    def _is_catching_up(self, frame: Frame) -> bool:
        if self._late_since_s is None:
            self._late_since_s = frame.captured_s
        return frame.captured_s - self._late_since_s < _CATCHING_UP_S

    def _ticks(self, seconds: float) -> int:
        return max(1, round(Fraction(seconds) / self.info.time_base))

    def _fit(self, planes: Planes, info: StreamInfo) -> Planes:
        if self._first_pts is None:  # the very first frame says how the others shall be
            return planes
        stretch = info.sample_aspect / self.info.sample_aspect
        return fitted(planes, self.info.size_px, self._colour, stretch)

    def _carry(self, link: _Link, packets: tuple[Packet, ...]) -> None:
        """Move packets to our time line; those that would go back in it are left out."""
        for packet in packets:
            stream = link.streams.get(packet.stream_index)
            when = packet.dts if packet.dts is not None else packet.pts
            if stream is None or not packet.time_base or when is None or link.first_pts is None:
                self._damage.lost_packets += 1
                continue
            base = Fraction(packet.time_base.numerator, packet.time_base.denominator)
            ticks = round(link.offset_s / base)
            time = (when + ticks) * base
            if link.offset_s and time <= self._packet_times.get(stream.index, time - 1):
                self._damage.lost_packets += 1
                continue
            self._packet_times[stream.index] = time
            packet.pts = None if packet.pts is None else packet.pts + ticks
            packet.dts = None if packet.dts is None else packet.dts + ticks
            packet.stream = stream
            self._carried.append(packet)


@dataclass(slots=True)
class _Pace:
    """Says when pictures that come too early are due, by their own times."""

    _ahead_s: float | None = None
    """How far the pictures' times lie ahead of the clock."""

    def early_s(self, time_s: float, now_s: float) -> float:
        """Return how long to wait with a picture; one that is late moves all that follow."""
        early_s = 0.0 if self._ahead_s is None else time_s - self._ahead_s - now_s
        if self._ahead_s is None or not 0 < early_s < _JUMP_S * 3:
            self._ahead_s, early_s = time_s - now_s, 0.0
        return early_s


def _copy(planes: Planes) -> Planes:
    """Return planes of its own for whoever draws on them."""
    from streamface.frame import Planes as Picture

    copied = Picture.allocate(planes.size_px, planes.colour)
    copied.y[:], copied.u[:], copied.v[:] = planes.y, planes.u, planes.v
    return copied


def _park(source: MediaSource) -> tuple[Any, tuple[Any, ...]]:
    """Return copies of the streams that a sink copies from, which outlive their connection.

    PyAV's streams die with their container; those of an output that is never written do not.
    """
    parking = av.open("parking", "w", format="null")
    copied = [each for each in source.info.copied if each.codec_context is not None]
    return parking, tuple(parking.add_stream_from_template(each) for each in copied)


def _match(copied: tuple[Any, ...], parked: tuple[Any, ...]) -> dict[int, Any]:
    """Return which of the first connection's streams goes on in which of this one's."""
    free = list(parked)
    found = {}
    for stream in copied:
        like = next((each for each in free if _kind(each) == _kind(stream)), None)
        if like is not None:
            free.remove(like)
            found[stream.index] = like
    return found


def _kind(stream: Any) -> tuple[Any, ...]:
    context = stream.codec_context
    rate = getattr(context, "sample_rate", None)
    layout = getattr(context, "layout", None)
    return stream.type, context.codec.canonical_name, rate, layout and layout.name
