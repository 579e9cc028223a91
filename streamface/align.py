"""Five-point alignment: the similarity between a face's landmarks and a model's template."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamface.frame import PointsF32


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
    a = np.ascontiguousarray(source, np.float64).view(np.complex128)[:, 0]
    b = np.ascontiguousarray(target, np.float64).view(np.complex128)[:, 0]
    centre_a, centre_b = complex(a.sum()) / len(a), complex(b.sum()) / len(b)
    a -= centre_a
    spread = float(np.vdot(a, a).real)
    turn = complex(np.vdot(a, b)) / spread if spread > 0 else complex("nan")
    shift = centre_b - turn * centre_a
    if not (np.isfinite(turn) and np.isfinite(shift)) or turn == 0:
        raise ValueError(f"landmarks do not span a face: {source.tolist()}")
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def invert(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (2, 3) inverse of a (2, 3) affine map."""
    inverse = np.linalg.inv(matrix[:, :2])
    return np.column_stack((inverse, -inverse @ matrix[:, 2]))


def transform(matrix: NDArray[np.float64], points: PointsF32) -> PointsF32:
    """Return (K, 2) float32 points mapped by a (2, 3) affine map."""
    return (points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
