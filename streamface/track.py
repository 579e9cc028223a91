"""Stable ids for faces, and the decision when to detect and when to follow.

``Tracker`` is pure association: faces of one frame against known tracks. ``FaceTracker`` adds the
detector, optical flow and scene cuts, and is what the pipeline uses.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from streamface.flow import FaceFlow
from streamface.frame import Face
from streamface.geometry import area, centre_and_size, clip_box, iou

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from streamface.detect import YuNetDetector
    from streamface.flow import Patch
    from streamface.frame import Box, CoveredBy, Planes, PointsF32

    Look = NDArray[np.float32]


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
    least_likeness: float = 0.35
    """A face that comes back must resemble the lost one this much, -1..1."""
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
    """Pixels a second."""
    look: Look | None = None
    patch: Patch | None = None

    def hide(self) -> None:
        """Stop following and reporting it; its id waits."""
        self.visible = False
        self.patch = None

    def drift(self, seconds: float) -> tuple[float, float]:
        """Return the expected motion in pixels; it dies down, for faces seldom go straight on."""
        reach = 0.15 * (1 - math.exp(-seconds / 0.15))
        return self.velocity[0] * reach, self.velocity[1] * reach


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
        self.forget(time_s)
        return matched

    def forget(self, time_s: float) -> None:
        """End the tracks that have been out of sight for too long."""
        s = self.settings
        self.tracks = [t for t in self.tracks if time_s - t.seen_s <= s.coast_s]

    def end_all(self) -> None:
        """End every track: what comes next is another shot."""
        self.tracks.clear()

    def _begin(self, face: Face, time_s: float) -> Track:
        return Track(next(self._ids), face.box_px, face.landmarks_px, face.score, time_s, time_s)

    def _confirm(self, track: Track, face: Face, time_s: float) -> None:
        gap = time_s - track.detected_s
        if track.visible and iou(track.box, face.box_px) > 0.6:
            share = self.settings.smoothing
            track.box = _blend(face.box_px, track.box, share)
            track.landmarks = ((1 - share) * face.landmarks_px + share * track.landmarks).astype(
                np.float32
            )
        else:
            if not track.patch and gap > 0:
                track.velocity = (0.0, 0.0)
            track.box, track.landmarks = face.box_px, face.landmarks_px
        track.score, track.detected_s, track.seen_s = face.score, time_s, time_s
        track.visible = True
        track.hits += 1

    def _miss(self, track: Track, time_s: float, least_px: float) -> None:
        """Doubt a track that no detection matched."""
        if min(track.box[2] - track.box[0], track.box[3] - track.box[1]) < least_px:
            return
        # One sight that nothing confirmed was most likely no face.
        if track.hits < 2 or time_s - track.detected_s > self.settings.unconfirmed_s:
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
        x, y, width, height = centre_and_size(track.box)
        dx, dy = track.drift(time_s - track.seen_s) if not track.visible else (0.0, 0.0)
        u, v, new_width, new_height = centre_and_size(face.box_px)
        size = math.sqrt(max(width * height, 1e-6))
        ratio = math.sqrt(max(new_width * new_height, 1e-6)) / size
        distance = math.hypot(u - x - dx, v - y - dy) / (size * max(1.0, ratio))
        gap = time_s - track.seen_s
        reach = self.settings.reach * (1 + gap)
        likeness = _likeness(track.look, look)
        if distance > reach or not 0.6 < ratio < 1.67 or likeness < self.settings.least_likeness:
            return 0.0
        return 2 - distance / reach + likeness


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


def _motion(before: Box, after: Box) -> tuple[float, float]:
    a, b = centre_and_size(before), centre_and_size(after)
    return b[0] - a[0], b[1] - a[1]


def _likeness(a: Look | None, b: Look | None) -> float:
    """Return the correlation of two looks, -1..1; 1 where one is unknown."""
    return 1.0 if a is None or b is None else float(a @ b)


def _mix(old: Look, new: Look) -> Look:
    """Return a look that follows changes of pose and light over a few detections."""
    mixed = 0.6 * old + 0.4 * new
    return (mixed / max(float(np.linalg.norm(mixed)), 1e-6)).astype(np.float32)


# A detection is due after this long whatever detect_every says: at 10 fps faces move far a frame.
MOST_GAP_S: Final = 0.3
# Every so many-th detection searches at the detector's full size, the others at half of it, which
# costs a quarter. Half size sees all faces but small ones, and those do not come suddenly near.
FULL_EVERY: Final = 4
# A face shorter than this in the searched picture may be missed without being doubted.
QUICK_LEAST_PX: Final = 16


@dataclass(slots=True)
class TrackStats:
    """What a FaceTracker did so far, in frames."""

    detections: int = 0
    """Frames that were searched for faces, at half or full size."""
    full: int = 0
    """Those of them that were searched at the detector's full size."""
    flowed: int = 0
    """Frames where faces only moved by optical flow."""
    cuts: int = 0
    """Scene cuts."""

    def summary(self) -> dict[str, int]:
        """Return the counts by name."""
        return asdict(self)


class ShotWatch:
    """Notices scene cuts on a coarse grid of mean luma, in about 20 us a frame.

    A cut changes the grid much *and* leaves nothing of its pattern; a flash, a fade or a moving
    camera keep one of the two.
    """

    LEAST_CHANGE: Final = 12.0
    """Mean absolute change of the grid, of 255, below which nothing is a cut."""
    MOST_CORRELATION: Final = 0.6

    def __init__(self) -> None:
        from streamface.kernels.shrink import luma_grid  # noqa: PLC0415 - numba loads slowly

        self._fill = luma_grid
        self._old = np.zeros((14, 24), np.float32)
        self._new = np.zeros((14, 24), np.float32)
        self._known = False

    def reset(self) -> None:
        """Forget the last frame."""
        self._known = False

    def is_cut(self, planes: Planes) -> bool:
        """Return whether this frame begins another shot than the one before."""
        self._fill(planes.y, self._new)
        cut = self._known and self._differs()
        self._old, self._new, self._known = self._new, self._old, True
        return cut

    def _differs(self) -> bool:
        if float(np.abs(self._new - self._old).mean()) < self.LEAST_CHANGE:
            return False
        a, b = self._new - self._new.mean(), self._old - self._old.mean()
        power = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
        return float((a * b).sum()) < self.MOST_CORRELATION * max(power, 1e-6)


class FaceTracker:
    """Faces of successive frames of one stream, by detection, flow and association."""

    def __init__(
        self,
        detector: YuNetDetector,
        *,
        detect_every: int = 5,
        settings: TrackSettings | None = None,
        ids: Iterator[int] | None = None,
    ) -> None:
        """Join a detector with a fresh tracker. detect_every: frames from detection to detection.

        ids: where new ids come from (itertools.count(1) shared by the streams of one run).
        """
        if detect_every < 1:
            raise ValueError(f"detect_every must be at least 1, not {detect_every}")
        self.detect_every = detect_every
        self.stats = TrackStats()
        self._detector = detector
        self._tracker = Tracker(settings, ids=ids)
        self._flow = FaceFlow()
        self._shots = ShotWatch()
        self.reset()

    def reset(self) -> None:
        """Forget all faces and the last frame; ids go on counting."""
        self._tracker.end_all()
        self._shots.reset()
        self._size_px: tuple[int, int] | None = None
        self._time_s = -math.inf
        self._detected_s = -math.inf
        self._since_detection = 0
        self._since_full = 0

    def update(self, planes: Planes, time_s: float) -> tuple[Face, ...]:
        """Return the faces of the next frame, with ids, boxes clipped to it, best score first.

        time_s: presentation time, which grows from frame to frame; if it does not, or the size
        changes, tracking starts afresh.
        """
        if planes.size_px != self._size_px or time_s <= self._time_s:
            self.reset()
        cut = self._shots.is_cut(planes)
        if cut:
            self.stats.cuts += 1
            self._tracker.end_all()
        first = self._size_px is None or cut
        lost = self._follow(planes, time_s)
        self._size_px, self._time_s = planes.size_px, time_s
        self._since_detection += 1
        if first or self._is_due(time_s, lost=lost):
            self._detect(planes, time_s, full=first)
        else:
            self.stats.flowed += 1
            self._tracker.forget(time_s)
        return self._report(planes.size_px, time_s)

    def _is_due(self, time_s: float, *, lost: bool) -> bool:
        if self._since_detection >= self.detect_every:
            return True
        if time_s - self._detected_s >= MOST_GAP_S:
            return True
        return lost and self._since_detection >= self.detect_every // 2

    def _follow(self, planes: Planes, time_s: float) -> bool:
        """Move every followed track into this frame; return whether one was lost."""
        lost = False
        for track in self._tracker.tracks:
            if track.patch is None:
                track.visible = False
                continue
            gap = time_s - self._time_s
            shift = track.velocity[0] * gap, track.velocity[1] * gap
            step = self._flow.follow(track.patch, planes, track.box, track.landmarks, shift)
            if step is None:
                track.hide()
                lost = True
                continue
            x, y = _motion(track.box, step.box)
            track.velocity = x / gap, y / gap
            track.box, track.landmarks, track.patch = step.box, step.landmarks, step.patch
            track.seen_s = time_s
        return lost

    def _detect(self, planes: Planes, time_s: float, *, full: bool) -> None:
        quick = self._detector.imgsz // 2
        full = full or self.detect_every == 1 or self._since_full >= FULL_EVERY - 1
        imgsz = self._detector.imgsz if full else quick
        self._since_full = 0 if full else self._since_full + 1
        faces = self._detector.detect(planes, imgsz, clip=False)
        self.stats.detections += 1
        self.stats.full += full
        self._detected_s, self._since_detection = time_s, 0
        patches = [self._flow.look(planes, face.box_px) for face in faces]
        looks = [
            None if patch is None else self._look(patch, face.landmarks_px)
            for patch, face in zip(patches, faces, strict=True)
        ]
        least_px = QUICK_LEAST_PX * max(planes.size_px) / imgsz
        tracks = self._tracker.update(faces, time_s, looks=looks, least_px=least_px)
        for track, patch in zip(tracks, patches, strict=True):
            track.patch = patch

    def _look(self, patch: Patch, landmarks: PointsF32) -> Look:
        return self._flow.portrait(patch, landmarks)

    def _report(self, size_px: tuple[int, int], time_s: float) -> tuple[Face, ...]:
        faces = []
        for track in self._tracker.tracks:
            box = clip_box(track.box, size_px)
            if not track.visible or area(box) < 1:
                continue
            how: CoveredBy = "detection" if track.detected_s == time_s else "tracking"
            faces.append(Face(box, track.landmarks.copy(), track.score, track.track_id, how))
        return tuple(sorted(faces, key=lambda face: (-face.score, face.track_id)))
