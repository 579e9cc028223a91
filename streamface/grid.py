"""Where pictures stand in a window: cells of a near-square grid, and a picture's place in one."""

from __future__ import annotations

import math
from typing import TypeAlias

Rect: TypeAlias = tuple[int, int, int, int]
"""(left, top, width, height) in pixels."""


def shape(count: int) -> tuple[int, int]:
    """Return (columns, rows) of the grid that holds ``count`` cells; as square as it gets."""
    columns = math.ceil(math.sqrt(max(1, count)))
    return columns, math.ceil(max(1, count) / columns)


def cells(count: int, size_px: tuple[int, int]) -> list[Rect]:
    """Return ``count`` cells that fill a window of (width, height), row by row."""
    columns, rows = shape(count)
    # Rounded edges, not rounded widths: neighbours share them, and the last ends at the border.
    xs = [size_px[0] * i // columns for i in range(columns + 1)]
    ys = [size_px[1] * i // rows for i in range(rows + 1)]
    places = [divmod(i, columns) for i in range(count)]
    return [
        (xs[column], ys[row], xs[column + 1] - xs[column], ys[row + 1] - ys[row])
        for row, column in places
    ]


def letterboxed(cell: Rect, size_px: tuple[int, int], pixel_aspect: float = 1.0) -> Rect:
    """Return the largest place for a picture in the middle of ``cell`` that keeps its shape.

    pixel_aspect: how wide one of its pixels is, as a multiple of its height. At least one pixel
    each way, however small the cell.
    """
    left, top, room_w, room_h = cell
    wide, high = size_px[0] * pixel_aspect, float(size_px[1])
    scale = min(room_w / wide, room_h / high)
    width, height = max(1, round(wide * scale)), max(1, round(high * scale))
    return left + (room_w - width) // 2, top + (room_h - height) // 2, width, height


def fitting(wanted_px: tuple[float, float], room_px: tuple[int, int]) -> tuple[int, int]:
    """Return ``wanted_px``, smaller by one factor both ways where the room is smaller."""
    scale = min(1.0, room_px[0] / wanted_px[0], room_px[1] / wanted_px[1])
    return max(1, round(wanted_px[0] * scale)), max(1, round(wanted_px[1] * scale))
