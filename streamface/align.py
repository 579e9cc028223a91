"""Five-point alignment: the similarity between a face's landmarks and a model's template; pose."""

from __future__ import annotations

import cmath
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamface.frame import PointsF32

_NOSE_DOWN: Final = 0.59
"""Where between eyes (0) and mouth (1) the nose of a face that looks straight ahead stands."""
_TURNED_MOST: Final = 0.6
_NODS_MOST: Final = 0.3


def similarity(source: PointsF32, target: PointsF32) -> NDArray[np.float64]:
    """Return the (2, 3) float64 M that minimises sum |M @ (source, 1) - target|^2.

    M rotates, scales evenly and shifts; it never mirrors. The closed form is Umeyama's (1991)
    written with complex numbers. Raises ValueError if points are not (K, 2) with K >= 2, are not
    finite, or if those of ``source`` all coincide.
    """
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 2 or len(source) < 2:
        raise ValueError(
            f"landmarks must be two equal (K, 2) arrays, not {source.shape}, {target.shape}"
        )
    # Plain complex numbers: for five points they are three times as fast as arrays.
    a = [complex(x, y) for x, y in source.tolist()]
    b = [complex(x, y) for x, y in target.tolist()]
    centre_a, centre_b = sum(a) / len(a), sum(b) / len(b)
    spread = sum(abs(p - centre_a) ** 2 for p in a)
    turn = sum((p - centre_a).conjugate() * q for p, q in zip(a, b, strict=True))
    turn = turn / spread if spread > 0 else complex("nan")
    shift = centre_b - turn * centre_a
    if not (cmath.isfinite(turn) and cmath.isfinite(shift)) or turn == 0:
        raise ValueError(f"landmarks do not span a face: {source.tolist()}")
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def invert(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (2, 3) inverse of a (2, 3) affine map."""
    (a, b, x), (c, d, y) = matrix.tolist()
    det = a * d - b * c
    a, b, c, d = d / det, -b / det, -c / det, a / det
    return np.array([[a, b, -a * x - b * y], [c, d, -c * x - d * y]])


def transform(matrix: NDArray[np.float64], points: PointsF32) -> PointsF32:
    """Return (K, 2) float32 points mapped by a (2, 3) affine map."""
    return (points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


def pose(landmarks_px: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (..., 2) float32 of (..., 5, 2) landmarks: how far a head is turned, and nods.

    Both are where the nose stands off its place in a face that looks straight ahead, in distances
    between eyes and mouth, which turning a head changes least: to the picture's right as the
    upright face has it (-0.6 to 0.6; a head turned by half shows about 0.3), and down (-0.3 to
    0.3). However the face lies in the picture, and however large it is, they stay.
    """
    eyes = landmarks_px[..., :2, :].mean(-2)
    down = landmarks_px[..., 3:, :].mean(-2) - eyes
    nose = landmarks_px[..., 2, :] - eyes
    size = np.maximum((down**2).sum(-1), 1e-6)
    turned = (nose[..., 0] * down[..., 1] - nose[..., 1] * down[..., 0]) / size
    nods = (nose * down).sum(-1) / size - _NOSE_DOWN
    return np.stack(
        (
            np.clip(turned, -_TURNED_MOST, _TURNED_MOST),
            np.clip(nods, -_NODS_MOST, _NODS_MOST),
        ),
        -1,
    ).astype(np.float32)
