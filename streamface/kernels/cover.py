"""Cover an ellipse of a plane: what is left of it in a few cells, and laid over it."""

from __future__ import annotations

from math import ceil, floor, sqrt
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from streamface.frame import PlaneU8


@njit(cache=True, nogil=True)
def _sum(line: PlaneU8) -> int:
    """Return the sum of a (N,) stretch of a row; LLVM turns this loop into SIMD."""
    total = np.uint32(0)
    for value in line:
        total += np.uint32(value)
    return int(total)


@njit(cache=True, nogil=True)
def cell_means(
    plane: PlaneU8, place: tuple[int, int, int, int], columns: int, rows: int
) -> PlaneU8:
    """Return the (rows, columns) rounded means of cells that divide a place as evenly as they can.

    plane: (H, W) uint8. place: (x0, y0, x1, y1) in it; one pixel at least for every cell.
    """
    x0, y0, x1, y1 = place
    edges = [x0 + column * (x1 - x0) // columns for column in range(columns + 1)]
    means = np.empty((rows, columns), np.uint8)
    sums = np.empty(columns, np.int64)
    for row in range(rows):
        top, bottom = y0 + row * (y1 - y0) // rows, y0 + (row + 1) * (y1 - y0) // rows
        sums[:] = 0
        for y in range(top, bottom):
            for column in range(columns):
                sums[column] += _sum(plane[y, edges[column] : edges[column + 1]])
        for column in range(columns):
            pixels = (bottom - top) * (edges[column + 1] - edges[column])
            means[row, column] = (sums[column] + pixels // 2) // pixels
    return means


@njit(cache=True, nogil=True)
def _columns(centre_px: float, half_px: float, first: int, last: int) -> tuple[int, int]:
    """Return those of the half-open columns whose middles lie that near the centre."""
    begin, end = ceil(centre_px - half_px - 0.5), floor(centre_px + half_px - 0.5) + 1
    return max(first, min(begin, last)), max(first, min(end, last))


@njit(cache=True, nogil=True)
def lay_ellipse(  # noqa: PLR0917 - Numba takes positions
    plane: PlaneU8,
    over: PlaneU8,
    corner: tuple[int, int],
    centre_px: tuple[float, float],
    radii_px: tuple[float, float],
    feather_frac: float,
) -> None:
    """Put the pixels of ``over`` inside an ellipse into a plane, in place.

    plane: (H, W) uint8. over: (h, w) uint8, wholly inside the plane, its first pixel on ``corner``
    (x, y). centre_px: (x, y) in the plane, whose first pixel's middle is at .5. radii_px: (across,
    down), above 0. feather_frac: of the radii, outside the ellipse: how far it takes until nothing
    of ``over`` is left; pixels there are mixed in steps of 1/256.
    """
    x0, y0 = corner
    height, width = over.shape
    reach = 1.0 + feather_frac
    for row in range(height):
        y = (y0 + row + 0.5 - centre_px[1]) / radii_px[1]
        outer_sq, inner_sq = reach * reach - y * y, 1.0 - y * y
        if outer_sq <= 0.0:
            continue
        begin, end = _columns(centre_px[0], sqrt(outer_sq) * radii_px[0], x0, x0 + width)
        first = last = end
        if inner_sq >= 0.0:
            first, last = _columns(centre_px[0], sqrt(inner_sq) * radii_px[0], x0, x0 + width)
            plane[y0 + row, first:last] = over[row, first - x0 : last - x0]
        if feather_frac <= 0.0:
            continue
        for side in ((begin, first), (last, end)):
            for column in range(side[0], side[1]):
                x = (column + 0.5 - centre_px[0]) / radii_px[0]
                left = (reach - sqrt(x * x + y * y)) * (256.0 / feather_frac)
                share = int(min(256.0, max(0.0, left)))
                kept = plane[y0 + row, column] * (256 - share)
                plane[y0 + row, column] = (kept + over[row, column - x0] * share) >> 8
