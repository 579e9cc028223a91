"""Cover faces so that nobody can be told, and rather cover too much than too little.

A detector misses: a face that walks in is found a few frames late, a turned head is lost for a
while. So frames are held back a little, and a track is covered from before it was first seen until
after it was last seen, and wherever it was lost in between.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

import numpy as np

from streamface.memory import StreamMemory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from streamface.frame import Box, Face, Frame, Planes, PlaneU8

CoverMode: TypeAlias = Literal["blur", "pixelate", "solid"]

# The head that is left to see has this many cells across, whatever the resolution: too few for a
# person or a face recogniser, enough to see where somebody looks.
_CELLS: Final = 8
_FEATHER: Final = 0.12  # of the radius, outside of what must be covered
SOLID_YUV: Final = (60, 128, 128)
"""The colour of ``solid``: a dark grey, the same in every colour space."""
_VELOCITY_S: Final = 0.3  # over which a track's velocity is taken
_GROWTH_PER_S: Final = 0.5  # of its size: how fast the place of an unseen face becomes unsure
_ELLIPSE: Final = 1.2  # of the box around the head: an ellipse inside it would cut its corners
_TOP: Final = 1.5  # hair reaches further above a face box than ears beside it
_TIME_SLACK_S: Final = 1e-6  # times in seconds are rounded
_HELD_BYTES: Final = 512 * 1024 * 1024
_TRACKS_TOLD: Final = 1000  # of which the frames without a sighting are counted one by one


@dataclass(frozen=True, slots=True)
class CoverSettings:
    """How faces are covered."""

    mode: CoverMode = "blur"
    margin: float = 0.35
    """Share of the face box added on every side, half as much again on top."""
    look_ahead_s: float = 1.0
    """How long before a face was first seen its place is covered; 0 for live sources, since frames
    are held back for as long."""
    linger_s: float = 1.0
    """How long after a face was last seen its place stays covered."""


@dataclass(slots=True)
class CoverTally:
    """What was covered so far."""

    seen: int = 0
    """Face-frames covered where the tracker saw them."""
    drawn: int = 0
    """Of these, the ones that somebody else was drawn over; the others are blurred."""
    unseen: Counter[int] = field(default_factory=Counter)
    """Frames in which a track was covered without being seen, by track id; of tracks beyond number,
    those with most."""
    unseen_elsewhere: int = 0
    """The same, summed over the others."""
    cut_short: bool = False
    """Whether large frames left room for less look-ahead than was asked for."""

    def count_unseen(self, track_id: int) -> None:
        """Count a frame in which a track was covered without being seen."""
        self.unseen[track_id] += 1
        if len(self.unseen) > 2 * _TRACKS_TOLD:
            kept = Counter(dict(self.unseen.most_common(_TRACKS_TOLD)))
            self.unseen_elsewhere += self.unseen.total() - kept.total()
            self.unseen = kept


@dataclass(slots=True)
class _Track:
    """Where a face was seen: times and boxes, in order."""

    times_s: list[float] = field(default_factory=list)
    boxes: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, time_s: float, box: Box) -> None:
        self.times_s.append(time_s)
        self.boxes.append(np.array(box, np.float64))

    def forget_before(self, time_s: float) -> None:
        """Drop sightings that no later frame needs: all but the last ones before ``time_s``."""
        keep = max(0, bisect_right(self.times_s, time_s - _VELOCITY_S) - 1)
        del self.times_s[:keep], self.boxes[:keep]

    def at(self, time_s: float, settings: CoverSettings) -> tuple[list[NDArray[np.float64]], bool]:
        """Return where the face may be at a time, and whether it was seen there."""
        after = bisect_right(self.times_s, time_s)
        before = after - 1
        if before >= 0 and self.times_s[before] == time_s:
            return [self.boxes[before]], True
        if before >= 0 and after < len(self.times_s):
            share = (time_s - self.times_s[before]) / (self.times_s[after] - self.times_s[before])
            gap_s = min(time_s - self.times_s[before], self.times_s[after] - time_s)
            between = (1 - share) * self.boxes[before] + share * self.boxes[after]
            return [_grown(between, gap_s * _GROWTH_PER_S)], False
        if before >= 0:
            elapsed_s = time_s - self.times_s[before]
            reach_s = settings.linger_s
            near = bisect_right(self.times_s, self.times_s[before] - _VELOCITY_S)
            other = min(near, before)
        else:
            before = 0
            elapsed_s = self.times_s[0] - time_s
            reach_s = settings.look_ahead_s
            near = bisect_right(self.times_s, self.times_s[0] + _VELOCITY_S) - 1
            other = max(near, 0)
        if elapsed_s > reach_s:
            return [], False
        edge = self.boxes[before]
        places = [_grown(edge, elapsed_s * _GROWTH_PER_S)]
        span_s = abs(self.times_s[before] - self.times_s[other])
        if span_s > 0:  # it may have stopped there, or gone on as it moved
            moved = edge + (edge - self.boxes[other]) * (elapsed_s / span_s)
            if moved[2] > moved[0] and moved[3] > moved[1]:
                places.append(_grown(moved, elapsed_s * _GROWTH_PER_S))
        return places, False


@dataclass(slots=True)
class _Stream:
    """What is held back of a stream, and where its faces were seen."""

    held: deque[Frame] = field(default_factory=deque)
    tracks: dict[int, _Track] = field(default_factory=dict)


class Drawer(Protocol):
    """Whoever draws other people over faces (``remake.StandIns``)."""

    def draw(self, frame: Frame, faces: Sequence[Face]) -> set[int]:
        """Draw over faces; return the track ids of those that nothing is left to see of."""


class Cover:
    """A stage that holds frames back for the look-ahead and covers every face on their planes.

    Streams whose frames come in turn need a look-ahead of 0: what is held of one stream is let go
    when a frame of another comes.
    """

    name = "cover"
    max_batch = 1

    def __init__(self, settings: CoverSettings, drawer: Drawer | None = None) -> None:
        """drawer: draws over the faces that were seen; what it leaves out is covered."""
        self.tally = CoverTally()
        self._drawer = drawer
        self._settings = settings
        self._streams = StreamMemory(_Stream)
        self._newest: int | None = None

    def process(self, items: Sequence[Frame]) -> Sequence[Frame]:
        """Take frames in; return those whose look-ahead is over, covered."""
        out: list[Frame] = []
        for frame in items:
            if frame.stream != self._newest:
                out += self.finish()
                self._newest = frame.stream
            stream = self._streams.of(frame)
            for face in frame.faces:
                track = stream.tracks.setdefault(face.track_id, _Track())
                track.add(frame.time_s, face.box_px)
            stream.held.append(frame)
            while stream.held and self._is_due(stream.held, frame):
                out.append(self._release(stream))
        return out

    def finish(self) -> Sequence[Frame]:
        """Return what was held back, covered."""
        return [
            self._release(stream)
            for stream in self._streams.values()
            for _ in range(len(stream.held))
        ]

    def close(self) -> None:
        """Let go of the frames."""
        self._streams.clear()

    def _is_due(self, held: deque[Frame], newest: Frame) -> bool:
        first = held[0]
        if newest.time_s - first.time_s >= self._settings.look_ahead_s - _TIME_SLACK_S:
            return True
        too_much = len(held) * first.planes.y.size * 3 // 2 > _HELD_BYTES
        self.tally.cut_short |= too_much
        return too_much

    def _release(self, stream: _Stream) -> Frame:
        frame = stream.held.popleft()
        time_s = frame.time_s
        drawn = self._drawer.draw(frame, frame.faces) if self._drawer is not None else set()
        self.tally.drawn += len(drawn)
        for track_id, track in list(stream.tracks.items()):
            places, seen = track.at(time_s, self._settings)
            for place in () if seen and track_id in drawn else places:
                cover(frame.planes, with_margin(place, self._settings.margin), self._settings.mode)
            if seen:
                self.tally.seen += 1
            elif places:
                self.tally.count_unseen(track_id)
            track.forget_before(time_s)
            if time_s - track.times_s[-1] > self._settings.linger_s:
                del stream.tracks[track_id]
        return frame


def with_margin(box: NDArray[np.float64], margin: float) -> NDArray[np.float64]:
    """Return the (4,) box of a head around a (4,) face box."""
    width, height = box[2] - box[0], box[3] - box[1]
    sides = np.array((-width, -_TOP * height, width, height))
    return np.asarray(box + margin * sides, np.float64)


def cover(planes: Planes, box: NDArray[np.float64], mode: CoverMode) -> None:
    """Cover the ellipse around a (4,) box, in pixels of the picture, in place."""
    centre = (box[:2] + box[2:]) / 2
    radii = np.maximum((box[2:] - box[:2]) / 2 * _ELLIPSE, 1.0)
    for plane, scale, solid in zip(
        (planes.y, planes.u, planes.v), (1.0, 0.5, 0.5), SOLID_YUV, strict=True
    ):
        _cover_plane(plane, centre * scale, radii * scale, mode, solid)


def _cover_plane(
    plane: PlaneU8,
    centre: NDArray[np.float64],
    radii: NDArray[np.float64],
    mode: CoverMode,
    solid: int,
) -> None:
    import cv2

    from streamface.kernels.cover import cell_means, lay_ellipse

    height, width = plane.shape
    feather = _FEATHER if mode == "blur" else 0.0
    low = np.floor(centre - radii * (1 + feather)).astype(int)
    high = np.ceil(centre + radii * (1 + feather)).astype(int) + 1
    x0, y0 = max(0, int(low[0])), max(0, int(low[1]))
    x1, y1 = min(width, int(high[0])), min(height, int(high[1]))
    if x0 >= x1 or y0 >= y1:
        return
    wide, high = x1 - x0, y1 - y0
    if mode == "solid":
        over = np.full((high, wide), solid, np.uint8)
    else:
        cell_px = np.maximum(2 * radii / _CELLS, 1)
        cells = (max(1, round(wide / cell_px[0])), max(1, round(high / cell_px[1])))
        how = cv2.INTER_NEAREST if mode == "pixelate" else cv2.INTER_LINEAR
        means = cell_means(plane, (x0, y0, x1, y1), *cells)
        over = cv2.resize(means, (wide, high), interpolation=how)
    (x, y), (across, down) = centre.tolist(), radii.tolist()
    lay_ellipse(plane, over, (x0, y0), (x, y), (across, down), feather)


def _grown(box: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Return the box with ``share`` of its size added on every side."""
    by = share * np.array((box[2] - box[0], box[3] - box[1]))
    return np.concatenate((box[:2] - by, box[2:] + by))
