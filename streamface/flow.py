"""Moves faces from one frame to the next by sparse optical flow, at a cost of tenths of a ms.

Each face is followed in a small patch of luma around it, shrunk so that the face is about 50 px
whatever the resolution. Pyramidal Lucas-Kanade (Bouguet, 2001) moves a few points of the face
forwards and back again (Kalal et al., "Forward-Backward Error", 2010); those that return vote for
one similarity transform, which moves box and landmarks together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from streamface.geometry import apply_similarity, centre_and_size, move_box

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamface.frame import Box, Planes, PlaneU8, PointsF32

# Shorter side of a face in its patch: at least this, and less than twice this.
_FACE_PX: Final = 32
# Room around the box on every side, as a share of it: how far a face may move unexpectedly.
_MARGIN: Final = 0.4
_LEAST_MARGIN_PX: Final = 12
_WINDOW: Final = (13, 13)
_LEVELS: Final = 2
# OpenCV's default of 1e-4 gives up faces in the dark.
_LEAST_EIGENVALUE: Final = 1e-5
# A point that does not come back to within this many patch pixels followed something else.
_RETURN_PX: Final = 1.0
_LEAST_POINTS: Final = 6
_LEAST_SHARE: Final = 0.4
# Faces do not grow or turn faster than this in the tenth of a second between two frames.
_MOST_SCALING: Final = 1.25
_MOST_TURN_RAD: Final = 0.5
# Side of the small upright face by which faces are told apart; eyes to mouth is half of it.
_PORTRAIT_PX: Final = 12

_STEPS: Final = (-0.36, -0.12, 0.12, 0.36)
_GRID: Final = np.array([(x, y) for y in _STEPS for x in _STEPS], np.float32)


@dataclass(frozen=True, slots=True)
class Patch:
    """A shrunken piece of one frame's luma: pixel (0, 0) covers block x block pixels at x0, y0."""

    luma: PlaneU8
    x0: int
    y0: int
    block: int

    def to_patch(self, points: PointsF32) -> PointsF32:
        """Return (K, 2) points of the frame in OpenCV's patch pixels (centres at integers)."""
        return (points - self._origin()) * np.float32(1 / self.block)

    def to_frame(self, points: PointsF32) -> PointsF32:
        """Return (K, 2) patch points in pixels of the frame."""
        return points * np.float32(self.block) + self._origin()

    def _origin(self) -> PointsF32:
        half = self.block / 2
        return np.array((self.x0 + half, self.y0 + half), np.float32)


@dataclass(frozen=True, slots=True)
class Step:
    """Where a face went, and the patch to follow it from next time."""

    box: Box
    landmarks: PointsF32
    patch: Patch


class FaceFlow:
    """Follows faces; holds only buffers, so one instance serves many faces of one thread."""

    def __init__(self) -> None:
        # OpenCV and numba cost start-up time that `import streamface` must not pay.
        import cv2

        from streamface.kernels.motion import fit_similarity
        from streamface.kernels.shrink import block_mean

        self._cv2 = cv2
        self._block_mean = block_mean
        self._fit = fit_similarity
        self._sums = np.empty(0, np.float32)
        self._stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 10, 0.03)

    def look(self, planes: Planes, box: Box) -> Patch | None:
        """Take the patch around a box, in pixels of the frame; None if the box is outside it."""
        width, height = planes.size_px
        x, y, box_width, box_height = centre_and_size(box)
        block = max(1, int(min(box_width, box_height) // _FACE_PX))
        least = _LEAST_MARGIN_PX * block
        reach_x = box_width / 2 + max(_MARGIN * box_width, least)
        reach_y = box_height / 2 + max(_MARGIN * box_height, least)
        x0, y0 = max(0, round(x - reach_x)), max(0, round(y - reach_y))
        columns = (min(width, round(x + reach_x)) - x0) // block
        rows = (min(height, round(y + reach_y)) - y0) // block
        if min(columns, rows) < _WINDOW[0]:
            return None
        return self._cut(planes, x0, y0, block, (columns, rows))

    def follow(
        self,
        patch: Patch,
        planes: Planes,
        box: Box,
        landmarks: PointsF32,
        shift_px: tuple[float, float] = (0.0, 0.0),
    ) -> Step | None:
        """Return where the face of a patch is in the next frame, or None if it was lost.

        box, landmarks: where it was in the frame of the patch. shift_px: expected motion, to look
        in the right place. Both frames have the same size.
        """
        new = self._cut_again(patch, planes, shift_px)
        points = _points(box, landmarks)
        for expected in (shift_px, None):
            guess = self._search(patch, new, box) if expected is None else expected
            matrix = self._vote(patch, new, points, guess)
            if matrix is not None:
                moved = move_box(matrix, box)
                again = self.look(planes, moved) if _off_centre(new, moved) else new
                if again is not None:
                    return Step(moved, apply_similarity(matrix, landmarks), again)
        return None

    def portrait(self, patch: Patch, landmarks: PointsF32) -> NDArray[np.float32]:
        """Return the upright inner face as a vector of mean 0 and length 1, to compare faces by.

        landmarks: the five points in pixels of the frame. Upright means: eyes above mouth.
        """
        eyes, mouth = landmarks[:2].mean(axis=0), landmarks[3:].mean(axis=0)
        centre = patch.to_patch((eyes + mouth)[None] / 2)[0]
        down = (mouth - eyes) / patch.block * (2 / _PORTRAIT_PX)
        middle = (_PORTRAIT_PX - 1) / 2
        turn = np.array([(down[1], down[0]), (-down[0], down[1])])
        matrix = np.column_stack([turn, centre - turn @ (middle, middle)])
        picture = self._cv2.warpAffine(
            patch.luma,
            matrix,
            (_PORTRAIT_PX, _PORTRAIT_PX),
            flags=self._cv2.INTER_LINEAR | self._cv2.WARP_INVERSE_MAP,
            borderMode=self._cv2.BORDER_REPLICATE,
        )
        vector = np.asarray(picture, np.float32).ravel()
        vector -= vector.mean()
        vector /= max(float(np.linalg.norm(vector)), 1e-6)
        return vector

    def _cut(self, planes: Planes, x0: int, y0: int, block: int, size: tuple[int, int]) -> Patch:
        if self._sums.size < planes.size_px[0]:
            self._sums = np.empty(planes.size_px[0], np.float32)
        luma = np.empty((size[1], size[0]), np.uint8)
        self._block_mean(planes.y, x0, y0, block, self._sums, luma)
        return Patch(luma, x0, y0, block)

    def _cut_again(self, patch: Patch, planes: Planes, shift_px: tuple[float, float]) -> Patch:
        """Take a patch of the same size and scale, shifted as far as the frame allows."""
        rows, columns = patch.luma.shape
        width, height = planes.size_px
        x0 = min(max(0, patch.x0 + round(shift_px[0])), width - columns * patch.block)
        y0 = min(max(0, patch.y0 + round(shift_px[1])), height - rows * patch.block)
        return self._cut(planes, x0, y0, patch.block, (columns, rows))

    def _vote(
        self, old: Patch, new: Patch, points: PointsF32, shift_px: tuple[float, float]
    ) -> NDArray[np.float64] | None:
        """Return the (2, 3) motion, in pixels of the frame, that the points agree on, if any."""
        here = old.to_patch(points)
        guess = new.to_patch(points + np.array(shift_px, np.float32))
        there, forward = self._lucas_kanade(old.luma, new.luma, here, guess)
        back, backward = self._lucas_kanade(new.luma, old.luma, there, here)
        good = forward & backward & (np.abs(back - here).max(axis=1) < _RETURN_PX)
        least = max(_LEAST_POINTS, _LEAST_SHARE * _inside(here, old.luma.shape))
        kept = int(good.sum())
        if kept < least:
            return None
        matrix, weights = np.empty((2, 3)), np.empty(kept)
        self._fit(points[good], new.to_frame(there[good]), weights, matrix)
        return matrix if (weights > 0).sum() >= least and _plausible(matrix) else None

    def _lucas_kanade(
        self, old: PlaneU8, new: PlaneU8, points: PointsF32, guess: PointsF32
    ) -> tuple[PointsF32, NDArray[np.bool_]]:
        moved, found, _ = self._cv2.calcOpticalFlowPyrLK(
            old,
            new,
            points,
            guess.copy(),
            winSize=_WINDOW,
            maxLevel=_LEVELS,
            criteria=self._stop,
            flags=self._cv2.OPTFLOW_USE_INITIAL_FLOW,
            minEigThreshold=_LEAST_EIGENVALUE,
        )
        return np.asarray(moved, np.float32), np.asarray(found, bool).ravel()

    def _search(self, old: Patch, new: Patch, box: Box) -> tuple[float, float]:
        """Return the shift to where the inner face of the old patch looks most alike in the new."""
        x, y, width, height = centre_and_size(box)
        corners = np.array([(x - width / 3, y - height / 3), (x + width / 3, y + height / 3)])
        limit = np.array([old.luma.shape[1], old.luma.shape[0]])
        low, high = np.clip(np.rint(old.to_patch(corners.astype(np.float32))), 0, limit).astype(int)
        face = old.luma[low[1] : high[1], low[0] : high[0]]
        if min(face.shape) < 4:
            return 0.0, 0.0
        likeness = self._cv2.matchTemplate(new.luma, face, self._cv2.TM_CCOEFF_NORMED)
        _, _, _, best = self._cv2.minMaxLoc(likeness)
        shift = (np.array(best) - low) * old.block
        return float(shift[0] + new.x0 - old.x0), float(shift[1] + new.y0 - old.y0)


def _points(box: Box, landmarks: PointsF32) -> PointsF32:
    """Return the points to follow: the landmarks and a 4 x 4 grid over the inner face."""
    x, y, width, height = centre_and_size(box)
    points = np.empty((len(landmarks) + len(_GRID), 2), np.float32)
    points[: len(landmarks)] = landmarks
    points[len(landmarks) :] = _GRID * np.array((width, height), np.float32)
    points[len(landmarks) :] += np.array((x, y), np.float32)
    return points


def _inside(points: PointsF32, shape: tuple[int, ...]) -> int:
    """Return how many points lie in a patch of (rows, columns)."""
    limit = np.array((shape[1], shape[0]), np.float32)
    return int(((points >= 0) & (points < limit)).all(axis=1).sum())


def _plausible(matrix: NDArray[np.float64]) -> bool:
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    turn = abs(float(np.arctan2(matrix[1, 0], matrix[0, 0])))
    return 1 / _MOST_SCALING < scale < _MOST_SCALING and turn < _MOST_TURN_RAD


def _off_centre(patch: Patch, box: Box) -> bool:
    """Return whether a box has left the middle of a patch or outgrown it."""
    x, y, width, height = centre_and_size(box)
    rows, columns = patch.luma.shape
    middle = patch.x0 + columns * patch.block / 2, patch.y0 + rows * patch.block / 2
    off = max(abs(middle[0] - x) / width, abs(middle[1] - y) / height)
    side = min(width, height) / patch.block
    return off > 0.15 or side > 2.4 * _FACE_PX or (patch.block > 1 and side < 0.8 * _FACE_PX)
