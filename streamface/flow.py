"""Moves faces from one frame to the next by sparse optical flow, at a cost of tenths of a ms.

Each face is followed in a small patch of luma around it, shrunk so that the face is about 60 px
whatever the resolution. Pyramidal Lucas-Kanade (Bouguet, 2001) moves a few points of the face
forwards and back again (Kalal et al., "Forward-Backward Error", 2010); those that return vote for
one similarity transform, which moves box and landmarks together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from streamface.geometry import apply_similarity, centre_and_size, fit_similarity, move_box

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamface.frame import Box, Planes, PlaneU8, PointsF32

# Shorter side of a face in its patch: at least this, and less than twice this.
_FACE_PX: Final = 40
# Room around the box on every side, as a share of it: how far a face may move in one frame.
_MARGIN: Final = 0.5
_LEAST_MARGIN_PX: Final = 12
_WINDOW: Final = (13, 13)
_LEVELS: Final = 2
# A point that does not come back to within this many patch pixels followed something else.
_RETURN_PX: Final = 1.0
_LEAST_POINTS: Final = 6
_LEAST_SHARE: Final = 0.4
# Side of the small upright face by which faces are told apart; eyes to mouth is half of it.
_PORTRAIT_PX: Final = 12
# Frames are at most a tenth of a second apart; faces do not grow or turn faster than this.
_MOST_SCALING: Final = 1.25
_MOST_TURN_RAD: Final = 0.5


@dataclass(frozen=True, slots=True)
class Patch:
    """A shrunken piece of one frame's luma: pixel (0, 0) covers block x block pixels at x0, y0."""

    luma: PlaneU8
    x0: int
    y0: int
    block: int

    def to_patch(self, points: PointsF32) -> PointsF32:
        """Return (K, 2) points of the frame in OpenCV's patch pixels (centres at integers)."""
        moved: PointsF32 = ((points - (self.x0, self.y0)) / self.block - 0.5).astype(np.float32)
        return moved

    def to_frame(self, points: PointsF32) -> PointsF32:
        """Return (K, 2) patch points in pixels of the frame."""
        moved: PointsF32 = ((points + 0.5) * self.block + (self.x0, self.y0)).astype(np.float32)
        return moved


@dataclass(frozen=True, slots=True)
class Step:
    """Where a face went, and the patch to follow it from next time."""

    box: Box
    landmarks: PointsF32
    patch: Patch
    kept_frac: float
    """Share of the points that moved along, 0..1."""


class FaceFlow:
    """Follows faces; holds only buffers, so one instance serves many faces of one thread."""

    def __init__(self) -> None:
        # OpenCV costs start-up time that `import streamface` must not pay.
        import cv2  # noqa: PLC0415

        from streamface.kernels.shrink import block_mean  # noqa: PLC0415

        self._cv2 = cv2
        self._block_mean = block_mean
        self._sums = np.empty(0, np.float32)

    def look(self, planes: Planes, box: Box) -> Patch | None:
        """Take the patch around a box, in pixels of the frame; None if the box is outside it."""
        x, y, width, height = centre_and_size(box)
        block = max(1, int(min(width, height) // _FACE_PX))
        margins = (max(_MARGIN * side, _LEAST_MARGIN_PX * block) for side in (width, height))
        size = [
            int((side + 2 * m) / block) for side, m in zip((width, height), margins, strict=True)
        ]
        corner = (x - size[0] * block / 2, y - size[1] * block / 2)
        low = [max(0, round(c)) for c in corner]
        high = [
            min(limit, round(c) + n * block)
            for limit, c, n in zip(planes.size_px, corner, size, strict=True)
        ]
        size = [(b - a) // block for a, b in zip(low, high, strict=True)]
        if min(size) < _WINDOW[0]:
            return None
        return self._cut(planes, low[0], low[1], block, (size[0], size[1]))

    def follow(
        self,
        patch: Patch,
        planes: Planes,
        box: Box,
        landmarks: PointsF32,
        shift_px: tuple[float, float],
    ) -> Step | None:
        """Return where the face of a patch is in the next frame, or None if it was lost.

        box, landmarks: where it was in the frame of the patch. shift_px: expected motion, to look
        in the right place. Both frames have the same size.
        """
        height, width = patch.luma.shape
        limits = planes.size_px[0] - width * patch.block, planes.size_px[1] - height * patch.block
        x0 = min(max(0, patch.x0 + round(shift_px[0])), limits[0])
        y0 = min(max(0, patch.y0 + round(shift_px[1])), limits[1])
        if min(limits) < 0:
            return None
        new = self._cut(planes, x0, y0, patch.block, (width, height))
        start = _points(box, landmarks)
        here = patch.to_patch(start)
        inside = ((here >= 1) & (here < (width - 2, height - 2))).all(axis=1)
        start, here = start[inside], here[inside]
        if len(here) < _LEAST_POINTS:
            return None
        there, good = self._move(patch.luma, new.luma, here)
        share = float(good.mean())
        if good.sum() < _LEAST_POINTS or share < _LEAST_SHARE:
            return None
        matrix, weights = fit_similarity(start[good], new.to_frame(there[good]))
        share *= float((weights > 0).mean())
        if share < _LEAST_SHARE or not _plausible(matrix):
            return None
        moved = move_box(matrix, box)
        again = self.look(planes, moved) if _off_centre(new, moved) else new
        if again is None:
            return None
        return Step(moved, apply_similarity(matrix, landmarks), again, share)

    def portrait(self, patch: Patch, landmarks: PointsF32) -> NDArray[np.float32]:
        """Return the upright inner face as a vector of mean 0 and length 1, to compare faces by.

        landmarks: the five points in pixels of the frame. Upright means: eyes above mouth.
        """
        eyes, mouth = landmarks[:2].mean(axis=0), landmarks[3:].mean(axis=0)
        centre = patch.to_patch((eyes + mouth)[None] / 2)[0]
        down = (mouth - eyes) / patch.block * (2 / _PORTRAIT_PX)
        across = np.array([down[1], -down[0]])
        middle = (_PORTRAIT_PX - 1) / 2
        matrix = np.array([across, down]).T
        matrix = np.column_stack([matrix, centre - matrix @ (middle, middle)])
        flags = self._cv2.INTER_LINEAR | self._cv2.WARP_INVERSE_MAP
        size = (_PORTRAIT_PX, _PORTRAIT_PX)
        picture = self._cv2.warpAffine(
            patch.luma, matrix, size, flags=flags, borderMode=self._cv2.BORDER_REPLICATE
        )
        vector = picture.astype(np.float32).ravel()
        vector -= vector.mean()
        vector /= max(float(np.linalg.norm(vector)), 1e-6)
        return vector

    def _cut(self, planes: Planes, x0: int, y0: int, block: int, size: tuple[int, int]) -> Patch:
        if self._sums.size < planes.size_px[0]:
            self._sums = np.empty(planes.size_px[0], np.float32)
        luma = np.empty((size[1], size[0]), np.uint8)
        self._block_mean(planes.y, x0, y0, block, self._sums, luma)
        return Patch(luma, x0, y0, block)

    def _move(
        self, old: PlaneU8, new: PlaneU8, points: PointsF32
    ) -> tuple[PointsF32, NDArray[np.bool_]]:
        """Return the (K, 2) moved points and which of them came back."""
        there, forward = self._lucas_kanade(old, new, points)
        back, backward = self._lucas_kanade(new, old, there)
        error = np.abs(back - points).max(axis=1)
        return there, forward & backward & (error < _RETURN_PX)

    def _lucas_kanade(
        self, old: PlaneU8, new: PlaneU8, points: PointsF32
    ) -> tuple[PointsF32, NDArray[np.bool_]]:
        moved, found, _ = self._cv2.calcOpticalFlowPyrLK(
            old,
            new,
            points.reshape(-1, 1, 2),
            np.empty(0, np.float32),
            winSize=_WINDOW,
            maxLevel=_LEVELS,
            criteria=(self._cv2.TERM_CRITERIA_EPS | self._cv2.TERM_CRITERIA_COUNT, 10, 0.03),
        )
        return np.asarray(moved, np.float32).reshape(-1, 2), np.asarray(found).ravel() == 1


def _points(box: Box, landmarks: PointsF32) -> PointsF32:
    """Return the points to follow: the landmarks and a 4 x 4 grid over the inner face."""
    x, y, width, height = centre_and_size(box)
    steps = (-0.36, -0.12, 0.12, 0.36)
    grid = [(x + a * width, y + b * height) for b in steps for a in steps]
    return np.concatenate([landmarks, np.array(grid, np.float32)]).astype(np.float32)


def _plausible(matrix: NDArray[np.float64]) -> bool:
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    turn = abs(float(np.arctan2(matrix[1, 0], matrix[0, 0])))
    return 1 / _MOST_SCALING < scale < _MOST_SCALING and turn < _MOST_TURN_RAD


def _off_centre(patch: Patch, box: Box) -> bool:
    """Return whether a box has left the middle of a patch or outgrown it."""
    x, y, width, height = centre_and_size(box)
    shorter = min(width, height)
    rows, columns = patch.luma.shape
    middle = patch.x0 + columns * patch.block / 2, patch.y0 + rows * patch.block / 2
    off = max(abs(middle[0] - x) / width, abs(middle[1] - y) / height)
    too_small = patch.block > 1 and shorter / patch.block < 0.8 * _FACE_PX
    return off > 0.15 or shorter / patch.block > 2.4 * _FACE_PX or too_small
