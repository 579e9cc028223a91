"""Blend shapes and text onto planar YUV 4:2:0, anti-aliased in luma and in chroma.

Every shape is a coverage of 0..1 per luma pixel. A chroma sample belongs to a 2x2 block of luma
pixels and takes the mean coverage of those that exist (an odd frame's last column has one), so an
edge has the same weight in colour as in brightness and no fringe is left behind.

Planes are written in place. Shapes may lie partly or wholly outside: the rest is skipped.
"""

from __future__ import annotations

from math import ceil, floor, sqrt
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

if TYPE_CHECKING:
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
def _blend_line(line: PlaneU8, new: int, alpha_frac: float) -> None:
    """Blend one colour into a (N,) stretch of a row; LLVM turns this loop into SIMD."""
    alpha = np.uint16(alpha_frac * 256.0 + 0.5)
    kept, added = np.uint16(256 - alpha), np.uint16(new * alpha + 128)
    for i in range(len(line)):
        line[i] = np.uint8((np.uint16(line[i]) * kept + added) >> 8)


@njit(cache=True, nogil=True)
def _blend_corner(  # noqa: PLR0917 - Numba takes positions
    y: PlaneU8,
    u: PlaneU8,
    v: PlaneU8,
    blocks: tuple[int, int, int, int],
    rect: Box,
    radius_px: float,
    stroke_px: float,
    colour: tuple[int, int, int],
    opacity_frac: float,
) -> None:
    """Blend the chroma blocks (x0, y0, x1, y1) of a rounded rectangle, pixel by pixel."""
    height, width = y.shape
    for block_y in range(blocks[1], blocks[3]):
        for block_x in range(blocks[0], blocks[2]):
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


@njit(cache=True, nogil=True)
def _blend_rows(  # noqa: PLR0917 - Numba takes positions
    y: PlaneU8,
    u: PlaneU8,
    v: PlaneU8,
    blocks: tuple[int, int, int, int],
    rect: Box,
    radius_px: float,
    stroke_px: float,
    colour: tuple[int, int, int],
    opacity_frac: float,
) -> None:
    """Blend the chroma blocks (x0, y0, x1, y1) of a rounded rectangle between its corners.

    There coverage depends on the row alone. Called with transposed planes and rectangle, it
    fills the columns left and right of the middle.
    """
    first, last = blocks[0], blocks[2]
    if first >= last:
        return
    height, width = y.shape
    middle = 0.5 * (rect[0] + rect[2])
    for block_y in range(blocks[1], blocks[3]):
        total = 0.0
        count = 0
        for row in range(2 * block_y, min(2 * block_y + 2, height)):
            covered = _rounded_coverage(middle, row + 0.5, rect, radius_px, stroke_px)
            count += 1
            if covered > 0.0:
                total += covered
                line = y[row, 2 * first : min(2 * last, width)]
                _blend_line(line, colour[0], covered * opacity_frac)
        if total > 0.0:
            alpha = total / count * opacity_frac
            _blend_line(u[block_y, first:last], colour[1], alpha)
            _blend_line(v[block_y, first:last], colour[2], alpha)


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

    Only the corners need a distance for each pixel, which is ten times the work of the rest.
    """
    height, width = y.shape
    x0, y0, x1, y1 = rect
    if x1 <= x0 or y1 <= y0 or x1 < 0.0 or y1 < 0.0 or x0 > width or y0 > height:
        return
    corner = max(radius_px, stroke_px) + 1.0
    # In chroma blocks: the outer edges, and where the corners end.
    left, right = max(0, floor(x0) - 1) // 2, (min(width, ceil(x1) + 1) + 1) // 2
    top, bottom = max(0, floor(y0) - 1) // 2, (min(height, ceil(y1) + 1) + 1) // 2
    in_left = min(max(ceil(0.5 * (x0 + corner)), left), right)
    in_right = min(max(floor(0.5 * (x1 - corner)), in_left), right)
    in_top = min(max(ceil(0.5 * (y0 + corner)), top), bottom)
    in_bottom = min(max(floor(0.5 * (y1 - corner)), in_top), bottom)
    shape = (rect, radius_px, stroke_px, colour, opacity_frac)
    turned = ((y0, x0, y1, x1), radius_px, stroke_px, colour, opacity_frac)
    _blend_rows(y, u, v, (in_left, top, in_right, bottom), *shape)
    for first, last in ((left, in_left), (in_right, right)):
        _blend_corner(y, u, v, (first, top, last, in_top), *shape)
        _blend_rows(y.T, u.T, v.T, (in_top, first, in_bottom, last), *turned)
        _blend_corner(y, u, v, (first, in_bottom, last, bottom), *shape)


@njit(cache=True, nogil=True)
def _blend_covered_line(line: PlaneU8, covered: PlaneU8, new: int, opacity_frac: float) -> None:
    """Blend one colour into a (N,) stretch of a row through its (N,) coverage, 255 for all."""
    opacity = np.uint32(opacity_frac * 256.0 + 0.5)
    for i in range(len(line)):
        # 0..255 to 0..256, so that full coverage at full opacity is exactly the colour.
        whole = np.uint32(covered[i]) + (np.uint32(covered[i]) >> np.uint32(7))
        alpha = (whole * opacity + np.uint32(128)) >> np.uint32(8)
        kept = np.uint32(line[i]) * (np.uint32(256) - alpha)
        line[i] = np.uint8((kept + np.uint32(new) * alpha + np.uint32(128)) >> np.uint32(8))


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
    x_start, y_start = max(0, left), max(0, top)
    x_end, y_end = min(width, left + mask.shape[1]), min(height, top + mask.shape[0])
    if x_start >= x_end or y_start >= y_end:
        return
    for row in range(y_start, y_end):
        covered = mask[row - top, x_start - left : x_end - left]
        _blend_covered_line(y[row, x_start:x_end], covered, colour[0], opacity_frac)
    _blend_mask_chroma((u, v), mask, (left, top), (width, height), colour, opacity_frac)


@njit(cache=True, nogil=True)
def _blend_mask_chroma(  # noqa: PLR0917 - Numba takes positions
    planes: tuple[PlaneU8, PlaneU8],
    mask: PlaneU8,
    corner: tuple[int, int],
    size_px: tuple[int, int],
    colour: tuple[int, int, int],
    opacity_frac: float,
) -> None:
    """Blend through the mean coverage of each chroma sample's pixels; the mask overlaps."""
    left, top = corner
    width, height = size_px
    columns, rows = min(mask.shape[1], width - left), min(mask.shape[0], height - top)
    for block_y in range(max(0, top) // 2, (top + rows + 1) // 2):
        full = 255.0 * 2 * min(2, height - 2 * block_y)
        first_row, last_row = max(0, 2 * block_y - top), min(2 * block_y + 2 - top, rows)
        u_row, v_row = planes[0][block_y], planes[1][block_y]
        for block_x in range(max(0, left) // 2, (left + columns + 1) // 2):
            x = 2 * block_x - left
            total = 0
            for row in range(first_row, last_row):
                line = mask[row]
                if x >= 0:
                    total += line[x]
                if -1 <= x < columns - 1:
                    total += line[x + 1]
            if total > 0:
                alpha = total / full * opacity_frac
                if 2 * block_x + 1 == width:  # an odd frame's last block is one pixel wide
                    alpha *= 2.0
                u_row[block_x] = _mix(u_row[block_x], colour[1], alpha)
                v_row[block_x] = _mix(v_row[block_x], colour[2], alpha)


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
