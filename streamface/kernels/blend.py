"""Blend shapes and text onto planar YUV 4:2:0, anti-aliased in luma and in chroma.

Every shape is a coverage of 0..1 per luma pixel. A chroma sample belongs to a 2x2 block of luma
pixels and takes the mean coverage of those that exist (an odd frame's last column has one), so an
edge has the same weight in colour as in brightness and no fringe is left behind.

Planes are written in place. Shapes may lie partly or wholly outside: the rest is skipped.
"""

from __future__ import annotations

from math import ceil, floor, sqrt
from typing import TYPE_CHECKING

from numba import njit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from streamface.frame import Box, PlaneU8


@njit(cache=True, nogil=True)
def _mix(old: int, new: int, alpha_frac: float) -> int:
    """Return ``old`` moved towards ``new``, in steps of 1/256."""
    alpha = int(alpha_frac * 256.0 + 0.5)
    return (int(old) * (256 - alpha) + new * alpha + 128) >> 8


@njit(cache=True, nogil=True)
def _ramp(distance_px: float) -> float:
    """Coverage of a pixel whose centre lies ``distance_px`` outside (< 0: inside) an edge."""
    return min(1.0, max(0.0, 0.5 - distance_px))


@njit(cache=True, nogil=True)
def _rounded_coverage(px: float, py: float, rect: Box, radius_px: float, stroke_px: float) -> float:
    """Coverage of the pixel centred at (px, py) by a rounded rectangle or its border.

    From the signed distance to a rounded box: outside a corner's square the nearest edge decides,
    inside it the distance to the corner's circle does.
    """
    x0, y0, x1, y1 = rect
    beyond_x = abs(px - 0.5 * (x0 + x1)) - 0.5 * (x1 - x0) + radius_px
    beyond_y = abs(py - 0.5 * (y0 + y1)) - 0.5 * (y1 - y0) + radius_px
    if beyond_x > 0.0 and beyond_y > 0.0:
        distance = sqrt(beyond_x * beyond_x + beyond_y * beyond_y) - radius_px
    else:
        distance = max(beyond_x, beyond_y) - radius_px
    covered = _ramp(distance)
    if stroke_px > 0.0:
        covered -= _ramp(distance + stroke_px)
    return covered


@njit(cache=True, nogil=True)
def blend_rounded(  # noqa: PLR0917 - Numba takes positions
    y: PlaneU8,
    u: PlaneU8,
    v: PlaneU8,
    rect: Box,
    radius_px: float,
    stroke_px: float,
    colour: tuple[int, int, int],
    opacity_frac: float,
) -> None:
    """Blend a rounded rectangle: filled where ``stroke_px`` is 0, else a border inside its edge.

    y: (H, W), u, v: (ceil(H / 2), ceil(W / 2)) uint8, changed. rect: x0, y0, x1, y1 in pixels,
    fractions allowed. radius_px: 0 up to half the shorter side. colour: (Y, U, V).
    """
    height, width = y.shape
    x0, y0, x1, y1 = rect
    if x1 <= x0 or y1 <= y0:
        return
    left, right = max(0, floor(x0) - 1) // 2, (min(width, ceil(x1) + 1) + 1) // 2
    top, bottom = max(0, floor(y0) - 1) // 2, (min(height, ceil(y1) + 1) + 1) // 2
    # A border leaves the middle untouched: rows clear of both horizontal bars jump over it.
    bar = max(radius_px, stroke_px) + 1.0
    hole_left, hole_right = ceil((x0 + bar) / 2.0), floor((x1 - bar) / 2.0)
    for block_y in range(top, bottom):
        hollow = stroke_px > 0.0 and 2 * block_y >= y0 + bar and 2 * block_y + 2 <= y1 - bar
        block_x = left
        while block_x < right:
            if hollow and hole_left <= block_x < hole_right:
                block_x = hole_right
                continue
            total = 0.0
            count = 0
            for row in range(2 * block_y, min(2 * block_y + 2, height)):
                for column in range(2 * block_x, min(2 * block_x + 2, width)):
                    covered = _rounded_coverage(column + 0.5, row + 0.5, rect, radius_px, stroke_px)
                    count += 1
                    if covered > 0.0:
                        total += covered
                        y[row, column] = _mix(y[row, column], colour[0], covered * opacity_frac)
            if total > 0.0:
                alpha = total / count * opacity_frac
                u[block_y, block_x] = _mix(u[block_y, block_x], colour[1], alpha)
                v[block_y, block_x] = _mix(v[block_y, block_x], colour[2], alpha)
            block_x += 1


@njit(cache=True, nogil=True)
def blend_mask(  # noqa: PLR0917 - Numba takes positions
    y: PlaneU8,
    u: PlaneU8,
    v: PlaneU8,
    mask: PlaneU8,
    left: int,
    top: int,
    colour: tuple[int, int, int],
    opacity_frac: float,
) -> None:
    """Blend one colour through a coverage mask (rendered text) whose corner is (left, top).

    y, u, v: as for ``blend_rounded``. mask: (h, w) uint8, 255 covers fully.
    """
    height, width = y.shape
    mask_height, mask_width = mask.shape
    x_end, y_end = min(width, left + mask_width), min(height, top + mask_height)
    x_start, y_start = max(0, left), max(0, top)
    if x_start >= x_end or y_start >= y_end:
        return
    for block_y in range(y_start // 2, (y_end + 1) // 2):
        for block_x in range(x_start // 2, (x_end + 1) // 2):
            total = 0
            for row in range(max(2 * block_y, y_start), min(2 * block_y + 2, y_end)):
                for column in range(max(2 * block_x, x_start), min(2 * block_x + 2, x_end)):
                    covered = int(mask[row - top, column - left])
                    if covered > 0:
                        total += covered
                        alpha = covered / 255.0 * opacity_frac
                        y[row, column] = _mix(y[row, column], colour[0], alpha)
            if total > 0:
                count = min(2, height - 2 * block_y) * min(2, width - 2 * block_x)
                alpha = total / (255.0 * count) * opacity_frac
                u[block_y, block_x] = _mix(u[block_y, block_x], colour[1], alpha)
                v[block_y, block_x] = _mix(v[block_y, block_x], colour[2], alpha)


@njit(cache=True, nogil=True)
def overlap_px2(rects: NDArray[np.float64], count: int, rect: Box) -> float:
    """Return the summed area that ``rect`` shares with each of the first ``count`` rectangles.

    rects: (N, 4) float64 of x0, y0, x1, y1 in pixels. NaN rectangles share nothing.
    """
    x0, y0, x1, y1 = rect
    total = 0.0
    for i in range(count):
        width = min(x1, rects[i, 2]) - max(x0, rects[i, 0])
        height = min(y1, rects[i, 3]) - max(y0, rects[i, 1])
        if width > 0.0 and height > 0.0:
            total += width * height
    return total
