"""Area-averaged small pictures straight from the planes, and the grid that scene cuts show on.

Averaging over the exact, fractional footprint of each small pixel is what keeps small faces: point
sampling or bilinear reading aliases at the factors of 2 to 12 that the detector needs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    from streamface.frame import ImageU8, Planes, PlaneU8

    F32: TypeAlias = NDArray[np.float32]
    U32: TypeAlias = NDArray[np.uint32]


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_rows(plane: PlaneU8, top: float, bottom: float, total: F32) -> None:
    """Put the sum of the rows of the interval top..bottom, fractions weighed, into total."""
    first = int(top)
    last = min(math.ceil(bottom), plane.shape[0])
    weight = np.float32(min(bottom, first + 1.0) - top)
    line = plane[first]
    for x in range(total.size):
        total[x] = weight * np.float32(line[x])
    row = first + 1
    # Two whole rows at a time halve the traffic to total; only the last row can be a fraction.
    while row + 2 < last:
        line, below = plane[row], plane[row + 1]
        for x in range(total.size):
            total[x] += np.float32(np.int32(line[x]) + np.int32(below[x]))
        row += 2
    while row < last:
        line, weight = plane[row], np.float32(min(1.0, bottom - row))
        for x in range(total.size):
            total[x] += weight * np.float32(line[x])
        row += 1


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_columns(  # noqa: PLR0917 - a kernel takes plain arrays
    total: F32, step: float, first: U32, weights: F32, gain: float, out: F32
) -> None:
    """Put gain times the weighed sums of the columns of total into out.

    Whole steps of 2 and 4 (720p to 640 and 320) have loops of fixed stride, which vectorise.
    """
    g = np.float32(gain)
    if step == 2.0:
        for i in range(out.size):
            out[i] = g * (total[2 * i] + total[2 * i + 1])
        return
    if step == 4.0:
        for i in range(out.size):
            j = 4 * i
            out[i] = g * ((total[j] + total[j + 1]) + (total[j + 2] + total[j + 3]))
        return
    weight = weights[0]
    for i in range(out.size):
        out[i] = g * weight[i] * total[first[i]]
    for k in range(1, weights.shape[0]):
        weight, shifted = weights[k], total[k:]
        for i in range(out.size):
            out[i] += g * weight[i] * shifted[first[i]]


@njit(cache=True, nogil=True, error_model="numpy")
def _to_byte(value: np.float32) -> np.uint8:
    inside = max(value, np.float32(0))
    return np.uint8(np.int32(min(inside, np.float32(255))))


@njit(cache=True, nogil=True, error_model="numpy")
def _colour_line(y: F32, u: F32, v: F32, m: F32, out: NDArray[np.uint8]) -> None:
    """Put BGR of one line into out, (3 w,); m is Colour.to_rgb, whose two zeros are skipped."""
    half = np.float32(0.5)
    for i in range(y.size):
        luma = m[0, 0] * y[i]
        out[3 * i] = _to_byte(luma + m[2, 1] * u[i] + (m[2, 3] + half))
        out[3 * i + 1] = _to_byte(luma + m[1, 1] * u[i] + m[1, 2] * v[i] + (m[1, 3] + half))
        out[3 * i + 2] = _to_byte(luma + m[0, 2] * v[i] + (m[0, 3] + half))


@njit(cache=True, nogil=True, error_model="numpy")
def shrink_to_bgr(  # noqa: PLR0917 - a kernel takes plain arrays
    y: PlaneU8,
    u: PlaneU8,
    v: PlaneU8,
    to_rgb: F32,
    first: tuple[U32, U32],
    weights: tuple[F32, F32],
    sums: F32,
    lines: F32,
    out: ImageU8,
) -> None:
    """Average the planes down into a BGR picture.

    y: (H, W). u, v: (ceil(H / 2), ceil(W / 2)). to_rgb: (3, 4) of Colour.to_rgb. first, weights:
    column_taps of luma and of chroma. sums: (3, W) and lines: (3, w), overwritten. out: (h, w, 3)
    with 1 <= h <= H and 1 <= w <= W, overwritten.
    """
    height, width = y.shape
    rows, columns = out.shape[0], out.shape[1]
    step_y, step_x = height / rows, width / columns
    half_w = u.shape[1]
    sum_y, sum_u, sum_v = sums[0, :width], sums[1, :half_w], sums[2, :half_w]
    flat = out.reshape(rows, 3 * columns)
    for j in range(rows):
        top, bottom = j * step_y, min((j + 1) * step_y, float(height))
        _sum_rows(y, top, bottom, sum_y)
        _sum_rows(u, top / 2, bottom / 2, sum_u)
        _sum_rows(v, top / 2, bottom / 2, sum_v)
        gain = 1 / ((bottom - top) * step_x)
        _sum_columns(sum_y, step_x, first[0], weights[0], gain, lines[0])
        _sum_columns(sum_u, step_x / 2, first[1], weights[1], 4 * gain, lines[1])
        _sum_columns(sum_v, step_x / 2, first[1], weights[1], 4 * gain, lines[2])
        _colour_line(lines[0], lines[1], lines[2], to_rgb, flat[j])


@njit(cache=True, nogil=True, error_model="numpy")
def block_mean(  # noqa: PLR0917 - a kernel takes plain arrays
    y: PlaneU8, x0: int, y0: int, block: int, sums: F32, out: PlaneU8
) -> None:
    """Average block x block pixels of luma, from (x0, y0) on, into each pixel of a small plane.

    y: (H, W), which contains every block. sums: at least (W,), overwritten. out: (h, w),
    overwritten.
    """
    rows, columns = out.shape
    gain = np.float32(1 / (block * block))
    total = sums[: columns * block]
    for j in range(rows):
        if block == 1:
            out[j] = y[y0 + j, x0 : x0 + columns]
            continue
        top = y0 + j * block
        _sum_rows(y[:, x0 : x0 + columns * block], float(top), float(top + block), total)
        for i in range(columns):
            value = np.float32(0)
            for x in range(i * block, i * block + block):
                value += total[x]
            out[j, i] = _to_byte(gain * value + np.float32(0.5))


# Each cell of the grid is the mean of this many samples a side: enough against noise, and
# microseconds at any resolution.
GRID_SAMPLES = 8


@njit(cache=True, nogil=True, error_model="numpy")
def luma_grid(y: PlaneU8, out: F32) -> None:
    """Put the mean luma of each cell of a coarse grid into out.

    y: (H, W). out: (rows, columns) float32, overwritten. Samples of a frame that has fewer pixels
    than the grid has samples repeat pixels.
    """
    height, width = y.shape
    rows, columns = out.shape
    for j in range(rows):
        for i in range(columns):
            total = 0
            for a in range(GRID_SAMPLES):
                row = (2 * (j * GRID_SAMPLES + a) + 1) * height // (2 * rows * GRID_SAMPLES)
                line = y[row]
                for b in range(GRID_SAMPLES):
                    at = (2 * (i * GRID_SAMPLES + b) + 1) * width // (2 * columns * GRID_SAMPLES)
                    total += line[at]
            out[j, i] = total / (GRID_SAMPLES * GRID_SAMPLES)


def column_taps(size: int, step: float, count: int) -> tuple[U32, F32]:
    """Return which columns, and how much of each, make up each of count averaged columns.

    size: number of columns of the source; step: columns of it per averaged column. Returns first,
    (count,) uint32, and weights, (taps, count) float32, the overlap of column first + k with the
    footprint; first + taps never passes the end.
    """
    left = np.arange(count) * step
    right = np.minimum(left + step, size)
    taps = min(size, max(1, int(np.max(np.ceil(right - 1e-9) - np.floor(left + 1e-9)))))
    first = np.minimum(np.floor(left + 1e-9), size - taps)
    cells = first + np.arange(taps)[:, None]
    weights = np.minimum(right, cells + 1) - np.maximum(left, cells)
    return first.astype(np.uint32), np.maximum(weights, 0).astype(np.float32)


class Shrinker:
    """Shrinks planes to BGR; keeps its buffers and tables for as long as the sizes stay.

    The returned picture belongs to the shrinker and is overwritten by the next call.
    """

    def __init__(self) -> None:
        self._sizes: tuple[tuple[int, int], tuple[int, int]] | None = None

    def __call__(self, planes: Planes, size_px: tuple[int, int]) -> ImageU8:
        """Return a (h, w, 3) uint8 BGR picture of size_px (w, h), not above the frame's own."""
        if self._sizes != (planes.size_px, size_px):
            self._prepare(planes, size_px)
        shrink_to_bgr(
            planes.y,
            planes.u,
            planes.v,
            planes.colour.to_rgb(),
            self._first,
            self._weights,
            self._sums,
            self._lines,
            self._out,
        )
        return self._out

    def _prepare(self, planes: Planes, size_px: tuple[int, int]) -> None:
        (width, height), (columns, rows) = planes.size_px, size_px
        if not (1 <= columns <= width and 1 <= rows <= height):
            raise ValueError(f"cannot shrink {width}x{height} to {columns}x{rows}")
        luma = column_taps(width, width / columns, columns)
        chroma = column_taps(planes.u.shape[1], width / columns / 2, columns)
        self._first, self._weights = (luma[0], chroma[0]), (luma[1], chroma[1])
        self._sums = np.empty((3, width), np.float32)
        self._lines = np.empty((3, columns), np.float32)
        self._out = np.empty((rows, columns, 3), np.uint8)
        self._sizes = planes.size_px, size_px
