"""Faces of successive frames: when to search for them, and when to follow those that are known.

``FaceTracker`` joins the detector, optical flow, the watch for scene cuts and association; it is
what the pipeline uses.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from streamface.association import Tracker, TrackSettings
from streamface.flow import FaceFlow
from streamface.frame import Face
from streamface.geometry import area, clip_box
from streamface.shots import ShotWatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamface.detect import YuNetDetector
    from streamface.frame import CoveredBy, Planes

__all__ = ["FaceTracker", "TrackSettings", "TrackStats", "Tracker"]

# A detection is due after this long whatever detect_every says: at 10 fps faces move far a frame.
MOST_GAP_S: Final = 0.3
# Times may repeat or be out of order by a little in damaged files; more is another place in time.
MOST_STEP_BACK_S: Final = 0.5
# While nothing stirs but the faces that are followed, detections are this many times rarer.
CALM_FACTOR: Final = 3
# Every so many-th detection searches at the detector's full size, the others at half of it, which
# costs a quarter. Half size sees all faces but small ones, and those do not come suddenly near.
FULL_EVERY: Final = 5
# Half of a small size would see next to nothing.
LEAST_QUICK_SIZE: Final = 320
# A face shorter than this in a half-size search may be missed without being doubted.
QUICK_LEAST_PX: Final = 16
# What a search missed must still look this much like the face that was found, -1..1: 98 % of the
# faces that are followed rightly do.
LEAST_LIKENESS: Final = 0.6


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


class FaceTracker:
    """Faces of successive frames of one stream, by detection, flow and association."""

    def __init__(
        self,
        detector: YuNetDetector,
        *,
        detect_every: int = 4,
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
        self._source_s = self._time_s = self._detected_s = -math.inf
        self._step_s = 1 / 30
        self._since_detection = 0
        self._since_full = 0

    def update(self, planes: Planes, time_s: float) -> tuple[Face, ...]:
        """Return the faces of the next frame, with ids, boxes clipped to it, best score first.

        time_s: presentation time. Tracking starts afresh where the size changes or the time jumps
        back; a time that merely repeats counts as one frame later.
        """
        if planes.size_px != self._size_px or time_s < self._source_s - MOST_STEP_BACK_S:
            self.reset()
        time_s = self._tick(time_s)
        cut = self._shots.is_cut(planes)
        if cut:
            self.stats.cuts += 1
            self._tracker.end_all()
        first = self._size_px is None or cut
        urgent = self._follow(planes, time_s)
        self._size_px, self._time_s = planes.size_px, time_s
        self._since_detection += 1
        if first or self._is_due(time_s, urgent=urgent):
            self._detect(planes, time_s, full=first)
        else:
            self.stats.flowed += 1
            self._tracker.forget(time_s)
        return self._report(planes.size_px, time_s)

    def _tick(self, time_s: float) -> float:
        """Return the tracker's own time, which always grows."""
        step_s = time_s - self._source_s
        self._source_s = time_s
        if math.isinf(self._time_s):
            return time_s
        if step_s > 0:
            self._step_s = step_s
        return self._time_s + self._step_s

    def _is_due(self, time_s: float, *, urgent: bool) -> bool:
        frames, seconds = self._since_detection, time_s - self._detected_s
        if urgent and frames >= self.detect_every // 2:
            return True
        if frames < self.detect_every and seconds < MOST_GAP_S:
            return False
        if frames >= CALM_FACTOR * self.detect_every or seconds >= CALM_FACTOR * MOST_GAP_S:
            return True
        known = [track.box for track in self._tracker.tracks if track.visible]
        return self.detect_every == 1 or self._shots.has_stirred(known)

    def _follow(self, planes: Planes, time_s: float) -> bool:
        """Move every followed track into this frame; return whether one asks for a search soon."""
        gap = time_s - self._time_s
        for track in self._tracker.tracks:
            if not track.visible:
                continue
            shift = track.velocity[0] * gap, track.velocity[1] * gap
            step = None
            if track.patch is not None:
                step = self._flow.follow(track.patch, planes, track.box, track.landmarks, shift)
            if step is None:
                track.hold(shift)
                continue
            track.move(step, time_s)
        return any(t.held or (t.visible and t.weak and t.hits < 2) for t in self._tracker.tracks)

    def _detect(self, planes: Planes, time_s: float, *, full: bool) -> None:
        whole = self._detector.imgsz
        full = full or self.detect_every == 1 or self._since_full >= FULL_EVERY - 1
        imgsz = whole if full else max(whole // 2, min(whole, LEAST_QUICK_SIZE))
        self._since_full = 0 if full else self._since_full + 1
        faces = self._detector.detect(planes, imgsz, clip=False)
        self.stats.detections += 1
        self.stats.full += full
        self._shots.mark_searched()
        self._detected_s, self._since_detection = time_s, 0
        patches = [self._flow.look(planes, face.box_px) for face in faces]
        looks = [
            None if patch is None else self._flow.portrait(patch, face.landmarks_px)
            for patch, face in zip(patches, faces, strict=True)
        ]
        least_px = 0.0 if full else QUICK_LEAST_PX * max(planes.size_px) / imgsz
        tracks = self._tracker.update(faces, time_s, looks=looks, least_px=least_px)
        for track, patch in zip(tracks, patches, strict=True):
            track.patch = patch
        self._hide_strayed(time_s)

    def _hide_strayed(self, time_s: float) -> None:
        """Stop following what the search missed and what no longer looks like the face it was."""
        for track in self._tracker.tracks:
            if track.detected_s == time_s or track.patch is None or track.look is None:
                continue
            look = self._flow.portrait(track.patch, track.landmarks)
            if float(look @ track.look) < LEAST_LIKENESS:
                track.hide()

    def _report(self, size_px: tuple[int, int], time_s: float) -> tuple[Face, ...]:
        faces = []
        for track in self._tracker.tracks:
            box = clip_box(track.box, size_px)
            if not track.visible or area(box) < 1:
                continue
            how: CoveredBy = "detection" if track.detected_s == time_s else "tracking"
            faces.append(Face(box, track.landmarks.copy(), track.score, track.track_id, how))
        return tuple(sorted(faces, key=lambda face: (-face.score, face.track_id)))
