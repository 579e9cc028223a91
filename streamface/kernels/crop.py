"""One call from the planes of a frame to an aligned, normalised face crop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamface.frame import PlaneU8


@njit(cache=True, nogil=True)
def _clamp(value: float, high: float) -> float:
    """Return value within 0..high; numba's min and max are slower, since they ask for NaN."""
    return 0.0 if value < 0.0 else (high if value > high else value)  # noqa: FURB136


@njit(cache=True, nogil=True)
def _bilinear(plane: PlaneU8, x: float, y: float) -> np.float32:
    """Read a plane at (x, y), pixel centres at integers."""
    right, bottom = plane.shape[1] - 1.0, plane.shape[0] - 1.0
    cx = np.float32(_clamp(x, right))
    cy = np.float32(_clamp(y, bottom))
    # Unsigned, so that numba need not ask whether an index counts from the end.
    x0, y0 = np.uint32(cx), np.uint32(cy)
    x1 = x0 + np.uint32(1) if x0 < right else x0
    y1 = y0 + np.uint32(1) if y0 < bottom else y0
    fx, fy = cx - np.float32(x0), cy - np.float32(y0)
    p00, p01 = np.float32(plane[y0, x0]), np.float32(plane[y0, x1])
    p10, p11 = np.float32(plane[y1, x0]), np.float32(plane[y1, x1])
    top = p00 + fx * (p01 - p00)
    return top + fy * (p10 + fx * (p11 - p10) - top)


@njit(cache=True, nogil=True)
def _interpolate(
    plane: PlaneU8, to_plane: NDArray[np.float64], taps: int, out: NDArray[np.float32]
) -> None:
    """Fill out (h, w) with means of taps x taps bilinear samples a pixel, borders replicated."""
    step = 1.0 / taps
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            total = np.float32(0)
            for j in range(taps):
                v = row + (j + 0.5) * step
                for i in range(taps):
                    u = column + (i + 0.5) * step
                    x = to_plane[0, 0] * u + to_plane[0, 1] * v + to_plane[0, 2] - 0.5
                    y = to_plane[1, 0] * u + to_plane[1, 1] * v + to_plane[1, 2] - 0.5
                    total += _bilinear(plane, x, y)
            out[row, column] = total * np.float32(step * step)


@njit(cache=True, nogil=True)
def _average(
    plane: PlaneU8, to_plane: NDArray[np.float64], taps: int, out: NDArray[np.float32]
) -> None:
    """Fill out (h, w) with means of the taps x taps nearest pixels, borders replicated."""
    right, bottom = plane.shape[1] - 1.0, plane.shape[0] - 1.0
    step = 1.0 / taps
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            total = np.int64(0)
            for j in range(taps):
                v = row + (j + 0.5) * step
                for i in range(taps):
                    u = column + (i + 0.5) * step
                    x = to_plane[0, 0] * u + to_plane[0, 1] * v + to_plane[0, 2]
                    y = to_plane[1, 0] * u + to_plane[1, 1] * v + to_plane[1, 2]
                    nearest_x = np.int64(_clamp(x, right))
                    nearest_y = np.int64(_clamp(y, bottom))
                    total += plane[np.uint64(nearest_y), np.uint64(nearest_x)]
            out[row, column] = np.float32(total) * np.float32(step * step)


@njit(cache=True, nogil=True)
def _sample(
    plane: PlaneU8, to_plane: NDArray[np.float64], taps: int, out: NDArray[np.float32]
) -> None:
    """Fill out (h, w) float32, 0..255, from a plane; to_plane (2, 3) maps crop to plane pixels.

    From three taps on the samples of one pixel lie about a plane pixel apart and nine or more are
    averaged: reading the nearest pixel is then as good as interpolating, and three times as fast.
    """
    if taps < 3:
        _interpolate(plane, to_plane, taps, out)
    else:
        _average(plane, to_plane, taps, out)


@njit(cache=True, nogil=True)
def crop_grey(  # noqa: PLR0917 - a kernel takes plain arrays
    y: PlaneU8,
    to_luma: NDArray[np.float64],
    taps: int,
    levels: tuple[float, float],
    gains: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Fill out (1, h, w) float32 from luma alone.

    to_luma: (2, 3), pixels of the crop to pixels of the frame. levels: (gain, offset) that widen
    luma to 0..255. gains: (2, 1), factor and offset that normalise a 0..255 value.
    """
    _sample(y, to_luma, taps, out[0])
    for row in range(out.shape[1]):
        for column in range(out.shape[2]):
            value = out[0, row, column] * np.float32(levels[0]) + np.float32(levels[1])
            value = min(max(value, np.float32(0)), np.float32(255))
            out[0, row, column] = value * gains[0, 0] + gains[1, 0]


@njit(cache=True, nogil=True)
def crop_rgb(  # noqa: PLR0917 - a kernel takes plain arrays
    planes: tuple[PlaneU8, PlaneU8, PlaneU8],
    maps: tuple[NDArray[np.float64], NDArray[np.float64]],
    taps: tuple[int, int],
    to_rgb: NDArray[np.float32],
    gains: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Fill out (3, h, w) float32 RGB from luma and chroma.

    maps: (2, 3) from pixels of the crop to those of the luma and of the chroma planes. taps: the
    same pair. to_rgb: (3, 4), Colour.to_rgb(). gains: (2, 3) as in crop_grey, one a channel.
    """
    _sample(planes[0], maps[0], taps[0], out[0])
    _sample(planes[1], maps[1], taps[1], out[1])
    _sample(planes[2], maps[1], taps[1], out[2])
    for row in range(out.shape[1]):
        for column in range(out.shape[2]):
            y, u, v = out[0, row, column], out[1, row, column], out[2, row, column]
            for c in range(3):
                value = to_rgb[c, 0] * y + to_rgb[c, 1] * u + to_rgb[c, 2] * v + to_rgb[c, 3]
                value = min(max(value, np.float32(0)), np.float32(255))
                out[c, row, column] = value * gains[0, c] + gains[1, c]
