"""Segments of one file into what one run would have written.

``stitch`` gives tracks their numbers in the whole file: two neighbours saw the same frames before
their seam, and faces that overlap there are one track. ``join`` puts the encoded pictures into one
file without encoding again, with the sound, subtitles, chapters and metadata of the source, and
the rows into the data files. Where anything does not fit, SplitError says what.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import chain, count
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import av

from streamface.app import read_options, video_options
from streamface.atomic import sink_error
from streamface.batch.packets import encoder_of, read_header, read_pictures
from streamface.batch.split import (
    draw_segment,
    find_segment,
    packets_at,
    read_rows,
    room_for,
    rows_at,
    target_of,
)
from streamface.datasinks import open_data_sink
from streamface.decode import MediaSource, fraction
from streamface.errors import SplitError
from streamface.frame import Colour, Frame, Planes
from streamface.geometry import iou
from streamface.records import read_faces
from streamface.sinks import VideoSink
from streamface.sources import find_inputs, open_source, redacted
from streamface.storage import opened, store_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from fractions import Fraction
    from pathlib import Path

    from streamface.batch.packets import Picture
    from streamface.batch.split import Drawn, Found, Segment, SegmentPlan
    from streamface.decode import StreamInfo
    from streamface.encode import VideoOptions
    from streamface.frame import Box, Packet
    from streamface.records import Json

# Two trackers that follow one face agree by much more, and two faces by much less.
_LEAST_IOU: Final = 0.5


@dataclass(frozen=True, slots=True)
class Stitched:
    """What all segments say together."""

    header: dict[str, Json]
    frames: int
    faces: int
    """Faces summed over frames."""
    tracks: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Joined:
    """What was made of a file."""

    frames: int
    faces: int
    tracks: int
    warnings: tuple[str, ...]
    models: dict[str, str]
    """SHA-256 of all nets, by name."""


# -- tracks


_Sightings: TypeAlias = dict[int, list[tuple[int, tuple[float, float, float, float]]]]
"""Track and box of every face, by the time of its frame."""


def match_tracks(before: _Sightings, after: _Sightings) -> dict[int, int]:
    """Return which track of ``after`` is which of ``before``, by frames that both saw.

    The pair that overlaps most over all frames goes first; each track is matched once.
    """
    overlaps: Counter[tuple[int, int]] = Counter()
    for pts, faces in after.items():
        for new, new_box in faces:
            for old, old_box in before.get(pts, ()):
                overlap = iou(old_box, new_box)
                if overlap > _LEAST_IOU:
                    # Hundredths: sums of whole numbers do not depend on their order.
                    overlaps[old, new] += round(100 * overlap)
    pairs: dict[int, int] = {}
    for (old, new), _ in sorted(overlaps.items(), key=lambda item: (-item[1], item[0])):
        if new not in pairs and old not in pairs.values():
            pairs[new] = old
    return pairs


@dataclass(slots=True)
class _Numbering:
    """The numbers that tracks of one segment get in the whole file."""

    known: dict[int, int]
    new: Iterator[int] | None
    """Where further numbers come from; None: they stay, as in the first segment."""

    def of(self, track_id: int) -> int:
        if track_id not in self.known:
            self.known[track_id] = track_id if self.new is None else next(self.new)
        return self.known[track_id]


@dataclass(slots=True)
class _Stitcher:
    plan: SegmentPlan
    folder: str
    frames: int = 0
    faces: int = 0
    tracks: set[int] = field(default_factory=set)
    shared: _Sightings = field(default_factory=dict)
    """What the last segment saw in the frames that the next one begins with."""

    def add(self, segment: Segment, scratch: Path) -> None:
        """Write the rows of the next segment with their numbers in the file."""
        rows = read_rows(rows_at(self.folder, segment.number))
        numbering = _Numbering({}, None)
        if segment.number:
            own, warm_up = self._warmed(rows, segment)
            numbering.known = match_tracks(self.shared, warm_up)
            numbering.new = count(max(self.tracks, default=0) + 1)
        else:
            own = rows
        follows = self.plan.segments[segment.number + 1 :]
        self.shared = {}
        try:
            with scratch.open("w", encoding="utf-8", newline="\n") as file:
                for record in own:
                    self._renumber(record, numbering)
                    if follows and record["pts"] >= follows[0].warm_pts:
                        self.shared[record["pts"]] = _sightings(record)
                    file.write(json.dumps(record) + "\n")
        except OSError as exc:
            raise sink_error(scratch, exc) from exc
        target = rows_at(self.folder, segment.number, stitched=True)
        store_for(target).publish(scratch, target, overwrite=True)

    def _warmed(
        self, rows: Iterator[dict[str, Any]], segment: Segment
    ) -> tuple[Iterator[dict[str, Any]], _Sightings]:
        """Take off the rows of the warm-up; return the others, and who was seen in it."""
        warm_up: _Sightings = {}
        for record in rows:
            if record["pts"] >= segment.start_pts:
                return chain((record,), rows), warm_up
            warm_up[record["pts"]] = _sightings(record)
        return iter(()), warm_up

    def _renumber(self, record: dict[str, Any], numbering: _Numbering) -> None:
        record["frame"] = self.frames
        self.frames += 1
        self.faces += len(record["faces"])
        for face in record["faces"]:
            if face["track_id"] is not None:
                face["track_id"] = numbering.of(face["track_id"])
                self.tracks.add(face["track_id"])


def _sightings(record: Mapping[str, Any]) -> list[tuple[int, Box]]:
    faces = (face for face in record["faces"] if face["track_id"] is not None)
    return [(face["track_id"], tuple(face["box"])) for face in faces]


def stitch(
    plan: SegmentPlan, found: Sequence[Found], folder: str, room: Path | None = None
) -> Stitched:
    """Check the seams and number frames and tracks through; leave the rows in ``folder``.

    found: of every segment, in order. room: for unfinished files. Raises SplitError where a cut
    changed what was decoded.
    """
    _check_seams(plan, found)
    stitcher = _Stitcher(plan, folder)
    with room_for(room) as scratch:
        for segment in plan.segments:
            stitcher.add(segment, scratch / "rows.jsonl")
    damage = [f"{line} (segment {each.number})" for each in found for line in each.damage]
    return Stitched(
        found[0].header,
        stitcher.frames,
        stitcher.faces,
        len(stitcher.tracks),
        (*damage, *plan.warnings),
    )


def _check_seams(plan: SegmentPlan, found: Sequence[Found]) -> None:
    if [each.number for each in found] != [segment.number for segment in plan.segments]:
        raise ValueError("found must be of every segment of the plan, in order")
    for segment, each, after in zip(plan.segments, found, [*found[1:], None], strict=True):
        if plan.settings.vid_stride > 1 and each.pictures != segment.pictures:
            raise SplitError(
                f"segment {segment.number} has {each.pictures} pictures in {segment.pictures} "
                "packets, so that nobody knows which ones --vid-stride means"
            )
        if each.header != found[0].header:
            raise SplitError(
                f"segment {segment.number} was worked on by another version or with other models"
            )
        if after is None:
            continue
        seam = plan.segments[after.number]
        early = {pts: crc for pts, crc in after.digests.items() if pts < seam.start_pts}
        late = {pts: crc for pts, crc in each.digests.items() if pts >= seam.warm_pts}
        differ = [pts for pts in early.keys() | late.keys() if early.get(pts) != late.get(pts)]
        if differ:
            raise SplitError(
                f"the picture at {float(min(differ) * plan.time_base):.3f} s is decoded otherwise "
                "when decoding begins at a key frame before it"
            )


# -- pictures and sound


class JoinSink(VideoSink):
    """Writes a file as ``VideoSink`` does, of pictures that are encoded already."""

    def __init__(self, target: Path, info: StreamInfo, options: VideoOptions) -> None:
        super().__init__(target, info, options)
        header = self._encoding.stream.codec_context.extradata
        self.encoder = encoder_of(target.suffix, info, options, header)
        """What this sink's own encoder would be; the pictures' must be equal."""

    def add(self, packet: Packet) -> None:
        """Add a packet of sound or subtitles. Raises SinkError."""
        with self._named():
            self._encoding.mux_packets([packet])

    def add_picture(self, picture: Picture, dts: int) -> None:
        """Add the next picture in decoding order. Raises SinkError."""
        packet: Any = av.Packet(picture.data)
        packet.stream = self._encoding.stream
        packet.time_base = self._encoding.info.time_base
        packet.pts, packet.dts, packet.duration = picture.pts, dts, picture.duration
        packet.is_keyframe = picture.is_key
        with self._named():
            self._encoding.container.mux_one(packet)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError, ValueError) as exc:
            raise sink_error(self._file.target, exc) from exc

    def _encode(self, picture: av.VideoFrame | None) -> None:
        """Do nothing at the end: the encoder was only opened for its header."""


def _join_video(plan: SegmentPlan, drawn: Sequence[Drawn], folder: str) -> list[str]:
    """Write the video; return what could not be carried over."""
    (what,) = find_inputs(plan.settings.sources[0])
    delay = max(each.delay for each in drawn)
    with closing(open_source(what, read_options(plan.settings))) as source:
        if not isinstance(source, MediaSource):
            raise TypeError(f"{what.name} has no packets")
        sink = JoinSink(target_of(plan), source.info, video_options(plan.settings))
        try:
            others = _Others(source.copied_packets() if sink.copies else iter(()))
            earlier: list[int] = []
            for segment in plan.segments:
                location = packets_at(folder, segment.number)
                _check_encoder(location, segment, sink.encoder)
                times = [*earlier, *sorted(each.pts for each in _pictures(location))]
                for picture, dts in _in_time(_pictures(location), times, len(earlier), delay):
                    for packet in others.until(dts * plan.time_base):
                        sink.add(packet)
                    sink.add_picture(picture, dts)
                earlier = times[-delay:] if delay else []
            for packet in others.until(None):
                sink.add(packet)
            _check_whole(source)
            sink.close()
        except BaseException:
            sink.abort()
            raise
        return sink.warnings


def _check_whole(source: MediaSource) -> None:
    if source.damage.ended_early:  # planning read it to its end
        raise SplitError(f"its sound: {source.damage.ended_early}")


def _check_encoder(location: str, segment: Segment, wanted: dict[str, Any]) -> None:
    with opened(location) as file:
        encoder = read_header(file)
    differing = [name for name, value in wanted.items() if encoder.get(name) != value]
    if differing:
        raise SplitError(
            f"segment {segment.number} was encoded with another {' and '.join(differing)} "
            "than the file has"
        )


def _pictures(location: str) -> Iterator[Picture]:
    with opened(location) as file:
        read_header(file)
        yield from read_pictures(file)


def _in_time(
    pictures: Iterator[Picture], times: Sequence[int], first: int, delay: int
) -> Iterator[tuple[Picture, int]]:
    """Yield the pictures of a segment with their decoding times, as encoders give them.

    A picture is decoded when the one ``delay`` places before it, in order of presentation, is
    shown; the first ones as much before as that is after the beginning. times: presentation times
    of the segment, sorted, after those of the ``first`` pictures before it, at most ``delay``.
    """
    for number, picture in enumerate(pictures, start=first):
        if number >= delay:
            dts = times[number - delay]
        else:
            lead = times[min(delay, len(times) - 1)] - times[0]
            dts = times[number] - lead
        if dts > picture.pts:
            raise SplitError("the encoder reorders pictures further than it says")
        yield picture, dts


class _Others:
    """Packets of sound and subtitles, handed out as far as the pictures have come."""

    def __init__(self, packets: Iterator[Packet]) -> None:
        self._packets = packets
        self._next = next(packets, None)

    def until(self, time_s: Fraction | None) -> Iterator[Packet]:
        """Yield those up to a time; None: all that are left."""
        while self._next is not None and (time_s is None or _time_of(self._next) <= time_s):
            packet, self._next = self._next, None
            yield packet
            self._next = next(self._packets, None)


def _time_of(packet: Packet) -> Fraction:
    when = packet.dts if packet.dts is not None else packet.pts
    return (when or 0) * fraction(packet.time_base)


# -- all of it


def join(plan: SegmentPlan, stitched: Stitched, drawn: Sequence[Drawn], folder: str) -> Joined:
    """Make the outputs that the settings of the plan ask for, of what lies in ``folder``.

    drawn: of every segment, in order; none where no video is wanted. Raises SplitError where the
    pictures were not encoded alike, SinkError where an output cannot be written; an output is
    whole or absent.
    """
    settings = plan.settings
    warnings: list[str] = []
    header = dict(stitched.header)
    # Finding knows nothing of what is drawn; whoever reads the data shall.
    drawing: dict[str, Json] = {"anonymize": settings.anonymize, "reenact": settings.reenact}
    header["options"] = _part(header, "options") | drawing
    if settings.output is not None:
        if [each.number for each in drawn] != [segment.number for segment in plan.segments]:
            raise ValueError("drawn must be of every segment of the plan, in order")
        warnings += _join_video(plan, drawn, folder)
        header["models"] = {**_part(header, "models"), **drawn[0].models}
    _join_data(plan, header, folder)
    name = redacted(settings.sources[0])
    lines = tuple(f"{name}: {line}" for line in (*warnings, *stitched.warnings))
    models = {name: str(sha256) for name, sha256 in _part(header, "models").items()}
    return Joined(stitched.frames, stitched.faces, stitched.tracks, lines, models)


def _part(header: Mapping[str, Json], name: str) -> dict[str, Json]:
    part = header[name]
    if not isinstance(part, dict):
        raise SplitError(f"the rows of the segments have no {name} in their header")
    return part


def _join_data(plan: SegmentPlan, header: dict[str, Json], folder: str) -> None:
    nothing = Planes.allocate((1, 1), Colour())
    with ExitStack() as undo:
        sinks = []
        for kind, target in plan.settings.data.items():
            sink = open_data_sink(kind, target, header, overwrite=plan.settings.overwrite)
            undo.callback(sink.abort)
            sinks.append(sink)
        for segment in plan.segments if sinks else ():
            for row in read_rows(rows_at(folder, segment.number, stitched=True)):
                faces = read_faces(row)
                frame = Frame(0, row["frame"], row["pts"], plan.time_base, nothing, faces=faces)
                for sink in sinks:
                    sink.write(frame, row["source"])
        for sink in sinks:
            sink.close()
        undo.pop_all()


def clear(plan: SegmentPlan, folder: str) -> None:
    """Remove what lies between the steps, as far as it is there. Raises SinkError."""
    for segment in plan.segments:
        number = segment.number
        for location in (
            rows_at(folder, number),
            rows_at(folder, number, stitched=True),
            packets_at(folder, number),
        ):
            store_for(location).delete(location)


def run_split(plan: SegmentPlan, folder: str, each: Callable[..., Iterable[Any]] = map) -> Joined:
    """Do a planned file; ``folder`` (a path or a URL that all workers reach) holds what is between.

    each: ``map``, or what runs its calls elsewhere and several at once: it is given
    ``find_segment`` or ``draw_segment`` and three sequences of arguments of one length, all of
    which can be pickled, and returns the results in that order. Raises SplitError where the
    segments do not fit together: then the file must be done whole.
    """
    numbers = range(len(plan.segments))
    plans, folders = [plan] * len(numbers), [folder] * len(numbers)
    found = list(each(find_segment, plans, numbers, folders))
    stitched = stitch(plan, found, folder)
    wants_video = plan.settings.output is not None
    drawn = list(each(draw_segment, plans, numbers, folders)) if wants_video else []
    joined = join(plan, stitched, drawn, folder)
    clear(plan, folder)
    return joined
