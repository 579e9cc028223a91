"""Blend a re-made face onto one plane of the frame that it was cut from."""

from __future__ import annotations

from math import ceil, floor
from typing import TYPE_CHECKING, Final

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamface.frame import PlaneU8

_BITS: Final = 24
"""Bits of a fixed-point coordinate below the point: a step added 8000 times is 1/4000 off."""
_ONE: Final = 1 << _BITS
_STANDS_STILL: Final = 1e-9
"""Field samples a pixel below which a coordinate counts as constant along a row."""

# Steele, Lea and Flood (2014), splitmix64: neighbouring rows get unrelated numbers.
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX: Final = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@njit(cache=True, nogil=True)
def _row_start(row: int, start: int) -> np.uint64:
    """Return where in the table of noise a row begins, before it is cut to the table's length."""
    mixed = (np.uint64(start) * _GOLDEN + np.uint64(row)) * _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX[0]
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX[1]
    return np.uint64(mixed ^ (mixed >> np.uint64(31)))


@njit(cache=True, nogil=True)
def _span(step: float, zero: float, limit: float, columns: tuple[int, int]) -> tuple[int, int]:
    """Return those of the half-open columns for which 0 <= step * column + zero <= limit."""
    first, last = columns
    if abs(step) < _STANDS_STILL:
        return (first, last) if 0.0 <= zero <= limit else (first, first)
    a, b = -zero / step, (limit - zero) / step
    # Clamped as floats: far outside, they would not fit an integer.
    begin = ceil(min(max(min(a, b), float(first)), float(last)))
    end = floor(min(max(a, b, first - 1.0), last - 1.0)) + 1
    return begin, max(begin, end)


# contract: multiplying and adding in one instruction is a fifth faster, and rounds once less.
@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _blend_line(  # noqa: PLR0917 - a kernel takes plain arrays
    line: PlaneU8,
    at: tuple[float, float],
    step: tuple[float, float],
    gain: NDArray[np.float32],
    offset: NDArray[np.float32],
    grain: NDArray[np.float32],
    noise: NDArray[np.float32],
    start: np.uint64,
) -> None:
    """Do what blend_field says to a (N,) stretch of a row.

    at: (x, y) in the field of its first pixel, sample centres at integers. step: (x, y) from one
    pixel to the next.

    What is written depends linearly on the fields, so the four samples around a pixel are each
    applied to it and the results are weighed: where all four leave it as it is, so does the sum,
    to the bit.
    """
    height, width = gain.shape
    gains, offsets, grains = gain.reshape(-1), offset.reshape(-1), grain.reshape(-1)
    x, y = round(at[0] * _ONE), round(at[1] * _ONE)
    x_step, y_step = round(step[0] * _ONE), round(step[1] * _ONE)
    # A hair before the last sample, so that there is always one more to the right and below.
    x_last, y_last = max(((width - 1) << _BITS) - 1, 0), max(((height - 1) << _BITS) - 1, 0)
    right, below = np.uint64(min(1, width - 1)), np.uint64(width * min(1, height - 1))
    fraction = np.float32(1.0 / _ONE)
    noisy = len(noise) > 0
    wrap, k = np.uint64(max(len(noise), 1) - 1), start
    for i in range(len(line)):
        inside_x, inside_y = min(max(x, 0), x_last), min(max(y, 0), y_last)
        # Unsigned, for which numba need not ask whether an index counts from the end.
        a = np.uint64((inside_y >> _BITS) * width + (inside_x >> _BITS))
        b, c = a + right, a + below
        d = c + right
        fx = np.float32(np.int32(inside_x & (_ONE - 1))) * fraction
        fy = np.float32(np.int32(inside_y & (_ONE - 1))) * fraction
        old = np.float32(line[i])
        new_a, new_b = old * gains[a] + offsets[a], old * gains[b] + offsets[b]
        new_c, new_d = old * gains[c] + offsets[c], old * gains[d] + offsets[d]
        if noisy:
            drawn = noise[k & wrap]
            k += np.uint64(1)
            new_a, new_b = new_a + drawn * grains[a], new_b + drawn * grains[b]
            new_c, new_d = new_c + drawn * grains[c], new_d + drawn * grains[d]
        top = new_a + fx * (new_b - new_a)
        bottom = new_c + fx * (new_d - new_c)
        value = min(max(top + fy * (bottom - top), np.float32(0)), np.float32(255))
        line[i] = np.uint8(np.int32(value + np.float32(0.5)))
        x += x_step
        y += y_step


@njit(cache=True, nogil=True)
def blend_field(  # noqa: PLR0917 - a kernel takes plain arrays
    plane: PlaneU8,
    to_field: NDArray[np.float64],
    area: tuple[int, int, int, int],
    gain: NDArray[np.float32],
    offset: NDArray[np.float32],
    grain: NDArray[np.float32],
    noise: NDArray[np.float32],
    start: int,
) -> None:
    """Turn every pixel that lies in the field into old * gain + offset + grain * noise.

    plane: (H, W) uint8, changed. to_field: (2, 3), pixels of the plane to those of the field, for
    both of which centres lie at integer + 0.5. area: (x0, y0, x1, y1), half-open and inside the
    plane; no pixel outside it is touched. gain, offset, grain: (h, w) float32, C-contiguous, read
    bilinearly. noise: (n,) float32, of which every row takes a run that begins at a place mixed
    from ``start`` and the row; n is a power of two, or 0 where grain is not to be read at all.
    """
    height, width = gain.shape
    step = (to_field[0, 0], to_field[1, 0])
    for row in range(area[1], area[3]):
        x = to_field[0, 0] * 0.5 + to_field[0, 1] * (row + 0.5) + to_field[0, 2]
        y = to_field[1, 0] * 0.5 + to_field[1, 1] * (row + 0.5) + to_field[1, 2]
        first, last = _span(step[0], x, width, (area[0], area[2]))
        first, last = _span(step[1], y, height, (first, last))
        at = (x + step[0] * first - 0.5, y + step[1] * first - 0.5)
        begin = _row_start(row, start)
        _blend_line(plane[row, first:last], at, step, gain, offset, grain, noise, begin)
