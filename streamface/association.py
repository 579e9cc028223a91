"""Which face of this frame is which face of the frames before: pure association, no pictures."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from streamface.geometry import area, centre_and_size, iou

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from streamface.flow import Patch, Step
    from streamface.frame import Box, Face, PointsF32

    Look = NDArray[np.float32]

# A flowed and a detected box that overlap this much show the same face at the same place, so that
# the difference is noise of the detector, and is smoothed.
AGREEING_IOU: Final = 0.6
# Of the detections from the default threshold of 0.6 on, two in three false ones score less than
# this, and one in twenty-five right ones (detection set, faces from 20 px).
SURE_SCORE: Final = 0.75
# A pace is a running mean with this time constant: a face hidden by another is first dragged along.
PACE_S: Final = 0.2
# A face that comes back is at most this much larger or smaller than it was.
MOST_GROWTH: Final = 1.67


@dataclass(frozen=True, slots=True)
class TrackSettings:
    """How long and how far a track reaches. Times are seconds, so frame rates do not matter."""

    coast_s: float = 1.5
    """An id waits this long for a face that is out of sight before it ends."""
    unconfirmed_s: float = 0.6
    """Flow alone carries a face this long after detections began to miss it."""
    least_iou: float = 0.25
    """Overlap of predicted and detected box that makes them one face."""
    reach: float = 0.8
    """A face that was lost may come back this many of its sizes away, growing with time."""
    smoothing: float = 0.35
    """Share of the flowed box in a box that detection and flow agree on, against jitter."""


@dataclass(slots=True)
class Track:
    """One face over time. Boxes are not clipped: half a face at the edge keeps its size."""

    track_id: int
    box: Box
    landmarks: PointsF32
    score: float
    detected_s: float
    """When a detection last confirmed it."""
    seen_s: float
    """When detection or flow last saw it."""
    hits: int = 1
    visible: bool = True
    """Whether it is reported: seen in this frame."""
    velocity: tuple[float, float] = (0.0, 0.0)
    """Pixels a second, by the last two frames."""
    pace: tuple[float, float] = (0.0, 0.0)
    """Pixels a second, over the last quarter of a second or so."""
    anchor: Box = (0.0, 0.0, 0.0, 0.0)
    """Its box when a detection last confirmed it, and its pace then."""
    anchor_pace: tuple[float, float] = (0.0, 0.0)
    look: Look | None = None
    patch: Patch | None = None

    def hide(self) -> None:
        """Stop following and reporting it; its id waits."""
        self.visible = False
        self.patch = None

    @property
    def weak(self) -> bool:
        """Whether the detector was not sure of it: backs of heads score up to 0.7."""
        return self.score < SURE_SCORE

    @property
    def held(self) -> bool:
        """Whether it is reported only by its momentum, because flow lost it."""
        return self.visible and self.patch is None

    def move(self, step: Step, time_s: float) -> None:
        """Go where flow saw it go."""
        gap = time_s - self.seen_s
        old, new = centre_and_size(self.box), centre_and_size(step.box)
        self.velocity = (new[0] - old[0]) / gap, (new[1] - old[1]) / gap
        share = 1 - math.exp(-gap / PACE_S)
        x, y = self.pace
        self.pace = x + share * (self.velocity[0] - x), y + share * (self.velocity[1] - y)
        self.box, self.landmarks, self.patch = step.box, step.landmarks, step.patch
        self.seen_s = time_s

    def hold(self, shift_px: tuple[float, float]) -> None:
        """Move on by momentum, half of which is lost, until a detection decides."""
        x, y = shift_px
        self.patch = None
        self.velocity = self.velocity[0] / 2, self.velocity[1] / 2
        self.box = self.box[0] + x, self.box[1] + y, self.box[2] + x, self.box[3] + y
        self.landmarks = self.landmarks + np.array((x, y), np.float32)

    def confirm(self, box: Box, landmarks: PointsF32, score: float, time_s: float) -> None:
        """Take what a detection says, and remember where and how fast that was."""
        self.box, self.landmarks, self.score = box, landmarks, score
        self.anchor, self.anchor_pace = box, self.pace
        self.detected_s = self.seen_s = time_s
        self.visible = True
        self.hits += 1

    def distance_px(self, x: float, y: float, time_s: float) -> float:
        """Return how far a point is from where the face may be by now.

        While it is followed that is where it is. Once hidden it may have stopped where it was last
        confirmed (flow slides onto whatever hid it, so what came later counts for nothing), have
        gone on as fast as it went then, or anything between.
        """
        if self.visible:
            here = centre_and_size(self.box)
            return math.hypot(x - here[0], y - here[1])
        start = centre_and_size(self.anchor)
        gap = time_s - self.detected_s
        way = self.anchor_pace[0] * gap, self.anchor_pace[1] * gap
        to = x - start[0], y - start[1]
        length = way[0] ** 2 + way[1] ** 2
        along = (to[0] * way[0] + to[1] * way[1]) / length if length > 0 else 0.0
        along = min(max(along, 0.0), 1.0)
        return math.hypot(to[0] - along * way[0], to[1] - along * way[1])


class Tracker:
    """Gives faces of successive frames stable ids. Knows nothing of pictures."""

    def __init__(
        self, settings: TrackSettings | None = None, *, ids: Iterator[int] | None = None
    ) -> None:
        """Start without tracks. ids: where new ids come from, shared by trackers of one run."""
        self.settings = settings or TrackSettings()
        self.tracks: list[Track] = []
        self._ids = ids if ids is not None else itertools.count(1)

    def update(
        self,
        faces: Sequence[Face],
        time_s: float,
        *,
        looks: Sequence[Look | None] | None = None,
        least_px: float = 0.0,
    ) -> list[Track]:
        """Match detected faces with tracks; return the track of each face, in their order.

        looks: appearance of each face, if known. least_px: a track smaller than this may go
        unfound without being doubted, for the detector could not have seen it.
        """
        self.forget(time_s)
        looks = looks or [None] * len(faces)
        pairs = self._match(faces, looks, time_s)
        taken = set(pairs.values())
        for i, track in enumerate(self.tracks):
            if i not in taken:
                self._miss(track, time_s, least_px)
        for i, face in enumerate(faces):
            if i not in pairs:
                pairs[i] = len(self.tracks)
                self.tracks.append(self._begin(face, time_s))
            else:
                self._confirm(self.tracks[pairs[i]], face, time_s)
        matched = [self.tracks[pairs[i]] for i in range(len(faces))]
        for track, look in zip(matched, looks, strict=True):
            if look is not None:
                track.look = look if track.look is None else _mix(track.look, look)
        self._hide_doubles(matched)
        return matched

    def forget(self, time_s: float) -> None:
        """End the tracks that have been out of sight for too long."""
        s = self.settings
        self.tracks = [t for t in self.tracks if time_s - t.seen_s <= s.coast_s]

    def end_all(self) -> None:
        """End every track: what comes next is another shot."""
        self.tracks.clear()

    def _begin(self, face: Face, time_s: float) -> Track:
        track_id = next(self._ids)
        box, landmarks = face.box_px, face.landmarks_px
        return Track(track_id, box, landmarks, face.score, time_s, time_s, anchor=box)

    def _confirm(self, track: Track, face: Face, time_s: float) -> None:
        box, landmarks = face.box_px, face.landmarks_px
        if not track.visible:
            track.velocity = track.pace = (0.0, 0.0)
        elif iou(track.box, box) > AGREEING_IOU:
            share = self.settings.smoothing
            box = _blend(box, track.box, share)
            landmarks = _blend_points(landmarks, track.landmarks, share)
        track.confirm(box, landmarks, face.score, time_s)

    def _miss(self, track: Track, time_s: float, least_px: float) -> None:
        """Doubt a track that no detection matched."""
        x0, y0, x1, y1 = track.box
        unconfirmed_s = time_s - track.detected_s
        # What was seen once, and what never looked much like a face, was most likely none.
        doubtful = track.weak or track.hits < 2 or unconfirmed_s > self.settings.unconfirmed_s
        if track.held or (doubtful and min(x1 - x0, y1 - y0) >= least_px):
            track.hide()

    def _hide_doubles(self, matched: Sequence[Track]) -> None:
        """Stop following what slid onto a face that another track was matched with."""
        for track in self.tracks:
            if not track.visible or any(track is other for other in matched):
                continue
            if any(_covered(track.box, other.box) > 0.5 for other in matched):
                track.hide()

    def _match(
        self, faces: Sequence[Face], looks: Sequence[Look | None], time_s: float
    ) -> dict[int, int]:
        """Return track indices by face index: best pairs first, followed tracks before lost."""
        pairs: dict[int, int] = {}
        free = set(range(len(self.tracks)))
        for rate in (self._overlap, self._return):
            rated = sorted(
                (-value, i, j)
                for i, face in enumerate(faces)
                if i not in pairs
                for j in free
                if (value := rate(self.tracks[j], face, looks[i], time_s)) > 0
            )
            for _, i, j in rated:
                if i not in pairs and j in free:
                    pairs[i] = j
                    free.remove(j)
        return pairs

    def _overlap(self, track: Track, face: Face, look: Look | None, _time_s: float) -> float:
        """Rate a pair by overlap where the track is followed; 0 if it is none."""
        if not track.visible:
            return 0.0
        overlap = iou(track.box, face.box_px)
        return (
            overlap + 0.5 * _likeness(track.look, look)
            if overlap > self.settings.least_iou
            else 0.0
        )

    def _return(self, track: Track, face: Face, look: Look | None, time_s: float) -> float:
        """Rate a pair by distance, size and likeness where the track was out of sight."""
        before = track.box if track.visible else track.anchor
        size, new_size = math.sqrt(max(area(before), 1e-6)), math.sqrt(max(area(face.box_px), 1e-6))
        x, y, _, _ = centre_and_size(face.box_px)
        distance = track.distance_px(x, y, time_s) / max(size, new_size)
        reach = self.settings.reach * (1 + time_s - track.detected_s)
        if distance > reach or max(size, new_size) > MOST_GROWTH * min(size, new_size):
            return 0.0
        # What comes back at once, just where it must, may look half hidden; what comes back late
        # or elsewhere must look like it: 90 % of the same faces seconds later correlate by 0.5 or
        # more, and 6 % of other people's.
        doubt = distance / reach + (time_s - track.detected_s) / self.settings.coast_s
        certainty = _likeness(track.look, look) - 0.6 * doubt + 0.3
        return certainty if certainty > 0 else 0.0


def _covered(box: Box, other: Box) -> float:
    """Return how much of the smaller box the two share, 0..1."""
    shared = (
        max(box[0], other[0]),
        max(box[1], other[1]),
        min(box[2], other[2]),
        min(box[3], other[3]),
    )
    return area(shared) / max(min(area(box), area(other)), 1e-6)


def _blend(box: Box, other: Box, share: float) -> Box:
    """Return box, moved by a share of the way to other."""
    a, b, c, d = ((1 - share) * x + share * y for x, y in zip(box, other, strict=True))
    return a, b, c, d


def _blend_points(points: PointsF32, other: PointsF32, share: float) -> PointsF32:
    """Return points, moved by a share of the way to others."""
    return points + np.float32(share) * (other - points)


def _likeness(a: Look | None, b: Look | None) -> float:
    """Return the correlation of two looks, -1..1; 1 where one is unknown."""
    return 1.0 if a is None or b is None else float(a @ b)


def _mix(old: Look, new: Look) -> Look:
    """Return a look that follows changes of pose and light over a few detections."""
    mixed = 0.6 * old + 0.4 * new
    return (mixed / max(float(np.linalg.norm(mixed)), 1e-6)).astype(np.float32)
