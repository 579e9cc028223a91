"""One similarity transform out of the votes of many points."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamface.frame import PointsF32

# Residuals are weighed by Tukey's biweight, 95 % efficient at 4.685 robust standard deviations;
# 1.4826 median absolute deviations are one.
TUKEY = 4.685
MAD_TO_SIGMA = 1.4826
ROUNDS = 4


@njit(cache=True, nogil=True, error_model="numpy")
def _median(values: NDArray[np.float64]) -> float:
    ordered = np.sort(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return float(ordered[middle])
    return float(ordered[middle - 1] + ordered[middle]) / 2


@njit(cache=True, nogil=True, error_model="numpy")
def fit_similarity(
    source: PointsF32,
    target: PointsF32,
    weights: NDArray[np.float64],
    matrix: NDArray[np.float64],
) -> None:
    """Fit translation, rotation and scale that take source to target, outliers weighed down.

    source, target: (K, 2), K >= 1. weights: (K,), 0..1, and matrix: (2, 3), both overwritten by
    the last of ROUNDS re-weighted least-squares rounds. Points all in one place only translate.
    """
    count = source.shape[0]
    residual = np.empty(count)
    # The median motion is the first guess: least squares would start from the outliers.
    cos, sin = 1.0, 0.0
    move_x = _median((target[:, 0] - source[:, 0]).astype(np.float64))
    move_y = _median((target[:, 1] - source[:, 1]).astype(np.float64))
    for _ in range(ROUNDS):
        for i in range(count):
            x, y = source[i, 0], source[i, 1]
            off_x = cos * x - sin * y + move_x - target[i, 0]
            off_y = sin * x + cos * y + move_y - target[i, 1]
            residual[i] = math.hypot(off_x, off_y)
        reach = TUKEY * max(MAD_TO_SIGMA * _median(residual), 1e-3)
        total = x_mean = y_mean = u_mean = v_mean = 0.0
        for i in range(count):
            weights[i] = max(0.0, 1 - (residual[i] / reach) ** 2) ** 2
            total += weights[i]
            x_mean += weights[i] * source[i, 0]
            y_mean += weights[i] * source[i, 1]
            u_mean += weights[i] * target[i, 0]
            v_mean += weights[i] * target[i, 1]
        x_mean, y_mean = x_mean / total, y_mean / total
        u_mean, v_mean = u_mean / total, v_mean / total
        power = along = across = 0.0
        for i in range(count):
            x, y = source[i, 0] - x_mean, source[i, 1] - y_mean
            u, v = target[i, 0] - u_mean, target[i, 1] - v_mean
            power += weights[i] * (x * x + y * y)
            along += weights[i] * (x * u + y * v)
            across += weights[i] * (x * v - y * u)
        cos, sin = (along / power, across / power) if power > 1e-9 else (1.0, 0.0)
        move_x = u_mean - cos * x_mean + sin * y_mean
        move_y = v_mean - sin * x_mean - cos * y_mean
    matrix[0, 0], matrix[0, 1], matrix[0, 2] = cos, -sin, move_x
    matrix[1, 0], matrix[1, 1], matrix[1, 2] = sin, cos, move_y
