"""One long file in segments: where it may be cut, and the work on each segment.

A file is cut at key frames, found by demuxing alone. Each segment is worked on twice, anywhere:
``find_segment`` finds faces and reads them, beginning some seconds early so that tracks and
smoothing have settled where the segment begins; ``draw_segment`` covers, re-makes, paints and
encodes, once ``join.stitch`` has given every track its number in the whole file, since that number
is painted too. The price is decoding twice. ``join.join`` makes the outputs.

``steps`` makes tasks of a batch of all that, and ``join.run_split`` does it without one.

What a cut may go wrong in is checked, not assumed: the frames that two neighbours both decoded are
compared to the bit, and every segment must have the pictures that the plan counted on.
"""

from __future__ import annotations

import json
import math
import tempfile
import zlib
from bisect import bisect_left, bisect_right
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from io import TextIOWrapper
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import av

from streamface.app import Run
from streamface.atomic import sink_error
from streamface.batch.job import Auto
from streamface.batch.packets import PacketSink, delay_of
from streamface.decode import IMAGE_FORMATS, MediaSource, ReadOptions
from streamface.errors import SplitError
from streamface.records import frame_record, read_faces
from streamface.settings import SYNTH, detect_every
from streamface.sinks import plan_outputs
from streamface.sources import find_inputs, open_source
from streamface.storage import opened, store_for, under
from streamface.track import CALM_FACTOR, FULL_EVERY, MOST_GAP_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from fractions import Fraction

    from streamface.app import Nets
    from streamface.frame import Face, Frame, Packet
    from streamface.records import Json
    from streamface.settings import Settings
    from streamface.sources import Input, Source

WARM_UP_S: Final = 5.0
"""Worked on before a segment begins: a track waits 1.5 s for a face, a cover lingers for 1 s,
smoothing has a time constant of 0.25 s, and a gender has had its first five looks after 1 s."""
# What --split auto cuts into: long enough that the warm-up is a few per cent of the work.
_SHORTEST_S: Final = 120.0
_LONGEST_S: Final = 900.0
# A seek may land late where a container has no index; then it is tried from further ahead.
_SEEK_BACK_S: Final = (0.0, 1.0, 5.0, 30.0)


@dataclass(frozen=True, slots=True)
class Segment:
    """The frames of one stretch, by their presentation times in ticks."""

    number: int
    start_pts: int
    end_pts: int | None
    """The first frame that is not its own; None: it reaches to the end."""
    first: int
    """How many pictures the file has before ``start_pts``."""
    pictures: int
    warm_pts: int
    """The first frame that is worked on, though not written."""
    warm_first: int
    """How many pictures the file has before ``warm_pts``."""
    key_pts: int | None
    """The key frame that decoding begins at; None: at the beginning of the file."""

    def holds(self, pts: int) -> bool:
        """Whether a frame is the segment's own."""
        return pts >= self.start_pts and (self.end_pts is None or pts < self.end_pts)


@dataclass(frozen=True, slots=True)
class SegmentPlan:
    """How a file is cut; what its tasks need to know, and can be pickled."""

    settings: Settings
    time_base: Fraction
    segments: tuple[Segment, ...]
    """In order; together they are the whole file."""
    warnings: tuple[str, ...] = ()
    """What is wrong with the file, and does not keep it from being cut."""

    duration_s: float = 0.0
    """From the first picture to the end of the last."""

    @property
    def pictures(self) -> int:
        """How many pictures the file has."""
        return sum(segment.pictures for segment in self.segments)


@dataclass(frozen=True, slots=True)
class Whole:
    """A file that is not cut."""

    reason: str
    is_short: bool = False
    """Whether nobody would expect it to be cut."""


@dataclass(frozen=True, slots=True)
class Found:
    """What ``find_segment`` leaves: rows in the folder, and how to check the seams."""

    number: int
    header: dict[str, Json]
    pictures: int
    """Own ones that were decoded, before ``vid_stride``."""
    digests: dict[int, int]
    """CRC-32 of the decoded planes, by time: of the warm-up, and of the next segment's."""
    damage: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Drawn:
    """What ``draw_segment`` leaves: packets in the folder."""

    number: int
    delay: int
    """How many pictures are decoded before the first is shown."""
    models: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the nets that drew, by name."""


def auto_seconds(duration_s: float, workers: int, files_left: int) -> float | None:
    """Return how long segments shall be, or None: whole.

    A file is cut where workers would have nothing to do otherwise and it is long enough that each
    of them gets two minutes. Two segments for each worker even out what some of them take longer.
    """
    idle = workers - files_left
    if idle < 1 or duration_s < 2 * _SHORTEST_S:
        return None
    return min(_LONGEST_S, max(_SHORTEST_S, duration_s / (2 * workers)))


def _length(cut: float | Auto, duration_s: float) -> float | None:
    """Return how long segments of a file shall be, or None where it is too short for two."""
    if isinstance(cut, Auto):
        return auto_seconds(duration_s, cut.workers, cut.files_left)
    # The last segment may be half as long as the others.
    return cut if duration_s >= 1.5 * cut else None


# -- planning


@dataclass(frozen=True, slots=True)
class _Table:
    """The pictures of a file as its packets have them."""

    time_base: Fraction
    times: Sequence[int]
    """Presentation times in ticks, sorted."""
    keys: Sequence[int]
    """Those of key frames, sorted."""
    rate: float
    """Nominal pictures a second."""
    warnings: tuple[str, ...]

    @property
    def duration_s(self) -> float:
        """From the first picture to the end of the last."""
        if not self.times:
            return 0.0
        return float((self.times[-1] - self.times[0]) * self.time_base) + 1 / self.rate


_SHORT: Final = Whole("it is too short", is_short=True)


def plan(
    settings: Settings, cut: float | Auto, *, warm_up_s: float = WARM_UP_S
) -> SegmentPlan | Whole:
    """Return how to cut the source of ``settings``, or why not.

    cut: into segments of about so many seconds, or where that helps. Reads the file once, without
    decoding, unless it is too short. Raises SourceError where it cannot be opened.
    """
    if not isinstance(cut, Auto) and cut <= 0:
        raise ValueError(f"seconds must be positive, got {cut}")
    if len(settings.sources) > 1 or len(settings.outputs) > 1:
        return Whole("only one file at a time is cut, for one output")
    inputs = find_inputs(settings.sources[0])
    reason = _unfit(settings, inputs)
    if reason:
        return Whole(reason, is_short=inputs[0].kind == "demo")
    table = _read_table(inputs[0], cut)
    if isinstance(table, Whole):
        return table
    seconds = _length(cut, table.duration_s)
    if seconds is None:
        return _SHORT
    cuts = _cuts(table, seconds)
    if not cuts:
        return Whole(f"it has no key frame to cut it at {seconds:g} s and more from both ends")
    warm_up = round(warm_up_s / table.time_base)
    segments = tuple(
        _segments(table, cuts, warm_up, _period(settings, table.rate / settings.vid_stride))
    )
    return SegmentPlan(settings, table.time_base, segments, table.warnings, table.duration_s)


def _unfit(settings: Settings, inputs: Sequence[Input]) -> str:
    """Return why a run with these settings is not cut, whatever its file; "" where it may be."""
    part = settings.start_s or settings.end_s is not None or settings.max_frames is not None
    secret = settings.anonymize == SYNTH and settings.seed is None
    is_one = len(inputs) == 1 and inputs[0].kind in {"file", "url", "object"}
    pushed = any(isinstance(output, str) for output in settings.outputs)
    reasons = (
        (not is_one, "only one file at a time is cut"),
        (part, "only a part of it is asked for"),
        (settings.simulate_live, "a simulated camera has no segments"),
        (secret, "--anonymize synth without --seed draws everybody from one secret"),
        (not settings.outputs and not settings.data, "nothing is written"),
        (pushed, "a stream to a server is no file to join"),
        (settings.segment_s is not None, "a recording in pieces is no file to join"),
        (settings.is_watched, "somebody watches it"),
    )
    return next((reason for holds, reason in reasons if holds), "")


def _read_table(what: Input, cut: float | Auto) -> _Table | Whole:
    """Return the times and key frames of a file, or why it is not cut."""
    read: list[_PacketTable] = []

    def make(*arguments: Any, **options: Any) -> MediaSource:
        read.append(_PacketTable(*arguments, **options))
        return read[0]

    with closing(open_source(what, ReadOptions(), make=make)):
        return read[0].table(cut)


class _PacketTable(MediaSource):
    """Reads the packets of the pictures, and decodes the first of them only."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._noted: list[tuple[int | None, int | None, bool]] = []
        self._hidden = 0
        super().__init__(*arguments, **options)

    def _demux(self) -> Iterator[Packet]:
        for packet in super()._demux():
            if packet.stream is self._video and packet.size:
                self._hidden += packet.is_discard  # by an edit list
                if not packet.is_discard:
                    self._noted.append((packet.pts, packet.dts, packet.is_keyframe))
            yield packet

    def table(self, cut: float | Auto) -> _Table | Whole:
        if self.info.is_live or self.info.is_image or self._container.format.name in IMAGE_FORMATS:
            return Whole("it is no file of many pictures", is_short=self.info.is_image)
        frames, rate = self.info.frames, float(self.info.rate)
        # Half as long again, for an estimate: what is short must not be read twice.
        if frames is not None and _length(cut, 1.5 * frames / rate) is None:
            return _SHORT
        for _ in self._demux_safely():
            pass
        reason = self.damage.ended_early or self._unsafe()
        if reason:
            return Whole(reason)
        times = sorted(pts for pts, _, _ in self._noted if pts is not None)
        keys = sorted(pts for pts, _, is_key in self._noted if is_key and pts is not None)
        self._discarded = self._hidden
        self._check_complete(len(times))
        return _Table(self.info.time_base, times, keys, rate, tuple(self.damage.lines()))

    def _unsafe(self) -> str:
        """Return what in the times of the packets does not allow a cut; "" if nothing does."""
        shown = sorted(pts for pts, _, _ in self._noted if pts is not None)
        decoding = [dts for _, dts, _ in self._noted if dts is not None]
        if len(shown) < len(self._noted):
            return "its pictures carry no times of their own"
        if any(b < a for a, b in pairwise(decoding)):
            return "its times jump back"
        if any(a == b for a, b in pairwise(shown)):
            return "some of its pictures carry the same time"
        return ""


def _cuts(table: _Table, seconds: float) -> list[int]:
    """Return key frames that lie at least ``seconds`` after each other and before the end."""
    if not table.times:
        return []
    length = max(1, round(seconds / table.time_base))
    cuts: list[int] = []
    last = table.times[0]
    for key in table.keys:
        if key >= last + length and table.times[-1] - key >= length // 2:
            cuts.append(key)
            last = key
    return cuts


def _period(settings: Settings, rate: float) -> int:
    """Return after how many pictures a tracker that sees nothing new does the same again.

    A whole run searches and looks at some frames and not at others, counted from its beginning.
    A segment that begins a multiple of this later mostly does so at the same ones: of 1,337 labels
    of a clip without a cut 2 differ then, instead of 38.
    """
    calm = min(CALM_FACTOR * detect_every(settings), math.ceil(CALM_FACTOR * MOST_GAP_S * rate))
    return FULL_EVERY * max(1, calm) * settings.vid_stride


def _segments(table: _Table, cuts: Sequence[int], warm_up: int, period: int) -> Iterator[Segment]:
    times = table.times
    starts = [times[0], *cuts]
    for number, start in enumerate(starts):
        end = starts[number + 1] if number + 1 < len(starts) else None
        first = bisect_left(times, start)
        last = len(times) if end is None else bisect_left(times, end)
        warm_first = bisect_left(times, start - warm_up)
        warm_first -= warm_first % period
        warm = times[warm_first]
        # The last key frame but one: under intra refresh a key frame only begins to mend the
        # picture, which is whole when the next one comes.
        at = bisect_right(table.keys, warm) - 2
        key = table.keys[at] if at > 0 else None  # before the second there is nothing to skip
        yield Segment(number, start, end, first, last - first, warm, warm_first, key)


# -- reading a segment


class SegmentSource(MediaSource):
    """The frames of a segment, of what comes before it and, if need be, of what comes after.

    What is known of the source is as ``MediaSource`` tells it of the whole. Frames are numbered as
    in the whole; sound is left out.
    """

    def __init__(
        self,
        *arguments: Any,
        segment: Segment,
        until_pts: int | None,
        digest: Callable[[int], bool],
        **options: Any,
    ) -> None:
        """until_pts: where to stop; None: at the end. digest: whether to, by a frame's time."""
        super().__init__(*arguments, **options)
        self.digests: dict[int, int] = {}
        self.pictures = 0
        """The segment's own ones so far, before ``vid_stride``."""
        self._segment = segment
        self._until_pts = until_pts
        self._digest = digest
        self._copied = ()

    def __iter__(self) -> Iterator[Frame]:
        stride = self._options.vid_stride
        before = -(-self._segment.warm_first // stride)
        for frame in super().__iter__():
            frame.index += before
            if self._digest(frame.pts):
                self.digests[frame.pts] = _digest(frame)
            yield frame

    def _wanted(self) -> Iterator[tuple[av.VideoFrame, int]]:
        segment, stride = self._segment, self._options.vid_stride
        number, self._seen = segment.warm_first, 0
        for decoded in self._from_key():
            pts = decoded.pts
            if pts is None or pts < segment.warm_pts:
                continue  # needed by others only, or a picture whose own references lie before
            if self._until_pts is not None and pts >= self._until_pts:
                return
            self.damage.damaged_frames += decoded.is_corrupt
            pts = self._clock.next(pts)
            self.pictures += segment.holds(pts)
            if number % stride == 0:
                yield decoded, pts
            number += 1

    def _from_key(self) -> Iterator[av.VideoFrame]:
        first, self._first = self._first, None
        key = self._segment.key_pts
        if key is not None:
            for back_s in _SEEK_BACK_S:
                if self._seek_to(key, round(back_s / self.info.time_base)):
                    first = None
                    yield from self._decoded
                    return
            raise SplitError(
                f"the key frame at {float(key * self.info.time_base):.3f} s cannot be sought"
            )
        if first is not None:
            yield first
        del first
        yield from self._decoded

    def _seek_to(self, key: int, back: int) -> bool:
        """Go to a key frame that is not after ``key``; return whether one was met."""
        start = self._video.start_time
        target = key - back if start is None else max(start, key - back)
        try:
            self._container.seek(target, stream=self._video, backward=True)
        except av.FFmpegError:
            return False
        self._packets = self._container.demux(self._video)
        for packet in self._demux_safely():
            if packet.size and packet.is_keyframe and packet.pts is not None:
                self._packets = chain((packet,), self._packets)
                self._decoded = self._decode()
                return bool(packet.pts <= key)
        return False

    def _check_complete(self, position_end: int) -> None:
        """Leave it to ``join.stitch``, which knows how many pictures there must be."""


def _digest(frame: Frame) -> int:
    crc = 0
    for plane in (frame.planes.y, frame.planes.u, frame.planes.v):
        crc = zlib.crc32(plane.data, crc)
    return crc


# -- the two tasks


def rows_at(folder: str, number: int, *, stitched: bool = False) -> str:
    """Return where the rows of a segment lie: as found, or with their numbers in the file."""
    return under(folder, f"{'rows' if stitched else 'found'}-{number:05}.jsonl")


def packets_at(folder: str, number: int) -> str:
    """Return where the encoded pictures of a segment lie."""
    return under(folder, f"drawn-{number:05}.packets")


@contextmanager
def room_for(room: Path | None) -> Iterator[Path]:
    """Give a folder for unfinished files: the one that somebody has, or one of our own."""
    if room is not None:
        yield room
        return
    with tempfile.TemporaryDirectory(prefix="streamface-") as scratch:
        yield Path(scratch)


def find_segment(
    plan: SegmentPlan,
    number: int,
    folder: str,
    nets: Nets | None = None,
    room: Path | None = None,
) -> Found:
    """Find and read the faces of one segment; leave its rows in ``folder`` (a path or a URL).

    nets: kept open for the next one. room: for unfinished files. Raises StreamfaceError; done
    twice, the second result stands.
    """
    segment = plan.segments[number]
    follows = plan.segments[number + 1 :]

    def is_shared(pts: int) -> bool:
        return pts < segment.start_pts or bool(follows and pts >= follows[0].warm_pts)

    opener = _Opener(segment, segment.end_pts, is_shared)
    settings = replace(
        plan.settings,
        output=None,
        data={},
        # Drawing comes later, but what is drawn decides how often faces are searched for.
        detect_every=detect_every(plan.settings),
        anonymize=None,
        reenact=None,
    )
    with room_for(room) as scratch:
        rows = scratch / "found.jsonl"
        with Run(settings, opener=opener, nets=nets) as run:
            header = run.header()
            _write_rows(run, rows)
        target = rows_at(folder, number)
        store_for(target).publish(rows, target, overwrite=True)
    source = opener.source
    return Found(number, header, source.pictures, source.digests, tuple(source.damage.lines()))


def _write_rows(run: Run, path: Path) -> None:
    """Run, and write what was found unrounded: what is drawn of it must not differ."""
    name = run.playlist.inputs[0].name
    try:
        with (
            path.open("w", encoding="utf-8", newline="\n") as file,
            closing(run.frames()) as frames,
        ):
            for frame in frames:
                file.write(json.dumps(frame_record(frame, name, exact=True)) + "\n")
    except OSError as exc:
        raise sink_error(path, exc) from exc


def draw_segment(
    plan: SegmentPlan,
    number: int,
    folder: str,
    nets: Nets | None = None,
    room: Path | None = None,
) -> Drawn:
    """Cover, re-make, paint and encode one segment, whose rows were stitched.

    Leaves its packets in ``folder``. nets, room: as for ``find_segment``. Raises StreamfaceError.
    """
    segment, settings = plan.segments[number], plan.settings
    until_pts = segment.end_pts
    if until_pts is not None and settings.anonymize is not None:
        until_pts += round(settings.look_ahead_s / plan.time_base) + 1
    opener = _Opener(segment, until_pts, lambda _pts: False)
    output = target_of(plan)
    known = KnownFaces(_rows_between(plan, folder, segment.warm_pts, until_pts))
    with room_for(room) as scratch:
        drawn = scratch / f"drawn{output.suffix}"
        chosen = replace(settings, output=drawn, data={}, tasks=(), overwrite=True)
        to_sink = partial(PacketSink, is_own=segment.holds)
        with Run(chosen, opener=opener, find=known, to_sink=to_sink, nets=nets) as run:
            run.execute()
            models = run.model_hashes()
        with drawn.open("rb") as file:
            delay = delay_of(file)
        target = packets_at(folder, number)
        store_for(target).publish(drawn, target, overwrite=True)
    return Drawn(number, delay, models)


def target_of(plan: SegmentPlan) -> Path:
    """Return the video that the joined segments become. Raises SplitError where none is wanted."""
    output = next(iter(plan.settings.outputs), None)
    if not isinstance(output, Path):
        raise SplitError("no video is wanted of these segments")
    (target,) = plan_outputs(output, find_inputs(plan.settings.sources[0]))
    return target


class _Opener:
    """Opens the source of a run as one segment of it, and remembers it."""

    def __init__(
        self, segment: Segment, until_pts: int | None, digest: Callable[[int], bool]
    ) -> None:
        self._make = partial(SegmentSource, segment=segment, until_pts=until_pts, digest=digest)

    def __call__(self, *arguments: Any, **options: Any) -> Source:
        def make(*inner: Any, **more: Any) -> MediaSource:
            self.source = self._make(*inner, **more)
            return self.source

        return open_source(*arguments, make=make, **options)


class KnownFaces:
    """A stage that gives frames the faces that were found in them before."""

    name = "find"
    max_batch = 1

    def __init__(self, rows: Iterable[tuple[int, tuple[Face, ...]]]) -> None:
        """rows: time and faces of every frame that will come, and of others, in order."""
        self._rows = iter(rows)

    def process(self, items: Sequence[Frame]) -> Sequence[Frame]:
        """Give every frame its faces. Raises SplitError for a frame that no row tells of."""
        for frame in items:
            pts, faces = next((row for row in self._rows if row[0] >= frame.pts), (None, ()))
            if pts != frame.pts:
                raise SplitError(f"the frame at {frame.time_s:.3f} s was not there at first")
            frame.faces = faces
        return items

    def finish(self) -> Sequence[Frame]:
        """Nothing is held back."""
        return ()

    def close(self) -> None:
        """Nothing is held."""


def read_rows(location: str) -> Iterator[dict[str, Any]]:
    """Yield the records of a file of rows."""
    with TextIOWrapper(opened(location), encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _rows_between(
    plan: SegmentPlan, folder: str, from_pts: int, until_pts: int | None
) -> Iterator[tuple[int, tuple[Face, ...]]]:
    """Yield time and faces of the frames of a stretch, from all segments that it touches."""
    for segment in plan.segments:
        begins = until_pts is None or segment.start_pts < until_pts
        if begins and (segment.end_pts is None or segment.end_pts > from_pts):
            for record in read_rows(rows_at(folder, segment.number, stitched=True)):
                yield record["pts"], read_faces(record)
