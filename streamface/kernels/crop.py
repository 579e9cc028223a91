"""One call from the planes of a frame to an aligned, normalised face crop."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamface.frame import PlaneU8


MAX_TAPS: Final = 5
"""Samples a side in one pixel of the crop; 25 keep the cost of a screen-high face bounded."""
_ONE: Final = 1 << 16
"""A pixel in the fixed-point coordinates of the fast path."""
_SHARE_BITS: Final = 11
"""Bits of a bilinear share: 8 + 11 + 11 fit an int32, and are good to an eighth of a level."""


def taps_for(scale: float) -> int:
    """Return how many samples a side a pixel of the crop takes that is ``scale`` pixels wide."""
    # Samples may lie up to 1.25 pixels apart before what is between them is missed.
    return min(MAX_TAPS, max(1, math.ceil(scale - 0.25)))


@njit(cache=True, nogil=True)
def _bilinear(plane: PlaneU8, x: float, y: float) -> float:
    """Read a plane at (x, y), pixel centres at integers, borders replicated."""
    height, width = plane.shape
    x = min(max(x, 0.0), width - 1.0)
    y = min(max(y, 0.0), height - 1.0)
    x0, y0 = int(x), int(y)
    x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
    fx, fy = x - x0, y - y0
    top = (1 - fx) * plane[y0, x0] + fx * plane[y0, x1]
    bottom = (1 - fx) * plane[y1, x0] + fx * plane[y1, x1]
    return float((1 - fy) * top + fy * bottom)


@njit(cache=True, nogil=True)
def _sample_anywhere(
    plane: PlaneU8, to_plane: NDArray[np.float64], taps: int, out: NDArray[np.float32]
) -> None:
    """Do what _sample says, wherever the crop lies."""
    step = 1.0 / taps
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            total = 0.0
            for j in range(taps):
                v = row + (j + 0.5) * step
                for i in range(taps):
                    u = column + (i + 0.5) * step
                    x = to_plane[0, 0] * u + to_plane[0, 1] * v + to_plane[0, 2] - 0.5
                    y = to_plane[1, 0] * u + to_plane[1, 1] * v + to_plane[1, 2] - 0.5
                    total += _bilinear(plane, x, y)
            out[row, column] = total * (step * step)


@njit(cache=True, nogil=True)
def _sample_inside(
    plane: PlaneU8, to_plane: NDArray[np.float64], taps: int, out: NDArray[np.float32]
) -> None:
    """Do what _sample says for a crop that lies inside the plane: four times as fast.

    Nothing is clamped, coordinates are fixed-point, and indices are unsigned, for which numba need
    not ask whether they count from the end.
    """
    width = plane.shape[1]
    pixels = plane.reshape(-1)
    step = 1.0 / taps
    scale = np.float32(step * step / (1 << 2 * _SHARE_BITS))
    drop = 16 - _SHARE_BITS
    mask = (1 << _SHARE_BITS) - 1
    x_step, y_step = round(to_plane[0, 0] * _ONE), round(to_plane[1, 0] * _ONE)
    for row in range(out.shape[0]):
        out[row] = 0
        for tap in range(taps * taps):
            u, v = (tap % taps + 0.5) * step, row + (tap // taps + 0.5) * step
            x = round((to_plane[0, 0] * u + to_plane[0, 1] * v + to_plane[0, 2] - 0.5) * _ONE)
            y = round((to_plane[1, 0] * u + to_plane[1, 1] * v + to_plane[1, 2] - 0.5) * _ONE)
            for column in range(out.shape[1]):
                at = np.uint64((y >> 16) * width + (x >> 16))
                below = at + np.uint64(width)
                fx, fy = np.int32((x >> drop) & mask), np.int32((y >> drop) & mask)
                p00, p01 = np.int32(pixels[at]), np.int32(pixels[at + np.uint64(1)])
                p10, p11 = np.int32(pixels[below]), np.int32(pixels[below + np.uint64(1)])
                top = (p00 << _SHARE_BITS) + fx * (p01 - p00)
                bottom = (p10 << _SHARE_BITS) + fx * (p11 - p10)
                value = (top << _SHARE_BITS) + fy * (bottom - top)
                out[row, column] += np.float32(value) * scale
                x += x_step
                y += y_step


@njit(cache=True, nogil=True)
def _sample(
    plane: PlaneU8, to_plane: NDArray[np.float64], taps: int, out: NDArray[np.float32]
) -> None:
    """Fill out (h, w) with means of taps x taps bilinear samples a pixel, borders replicated.

    to_plane: (2, 3), pixels of the crop to pixels of the plane. Values are 0..255.
    """
    # The crop's corners bound all samples. 1 and 3 leave room for the neighbours and for rounding.
    inside = True
    for corner in range(4):
        u, v = (corner % 2) * out.shape[1], (corner // 2) * out.shape[0]
        x = to_plane[0, 0] * u + to_plane[0, 1] * v + to_plane[0, 2]
        y = to_plane[1, 0] * u + to_plane[1, 1] * v + to_plane[1, 2]
        if not (1 < x < plane.shape[1] - 3 and 1 < y < plane.shape[0] - 3):
            inside = False
    if inside:
        _sample_inside(plane, to_plane, taps, out)
    else:
        _sample_anywhere(plane, to_plane, taps, out)


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
