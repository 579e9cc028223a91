"""Slow, obvious twins of streamface.kernels.shrink: exact footprints as dense matrices."""

from __future__ import annotations

import numpy as np


def footprint(size, count, step):
    """(count, size): how much of each source pixel each averaged pixel covers."""
    low = np.arange(count)[:, None] * step
    cells = np.arange(size)[None]
    return np.clip(np.minimum(low + step, cells + 1) - np.maximum(low, cells), 0, None)


def shrink_plane(plane, rows, columns, step_y, step_x):
    """(rows, columns) float means of the exact footprints of a plane."""
    down, across = (
        footprint(plane.shape[0], rows, step_y),
        footprint(plane.shape[1], columns, step_x),
    )
    covered = down.sum(1)[:, None] * across.sum(1)[None]
    return down @ plane.astype(float) @ across.T / covered


def shrink_to_bgr(planes, size_px):
    """(h, w, 3) float BGR, unrounded but clipped to 0..255."""
    (width, height), (columns, rows) = planes.size_px, size_px
    step_y, step_x = height / rows, width / columns
    yuv1 = np.stack(
        [
            shrink_plane(planes.y, rows, columns, step_y, step_x),
            shrink_plane(planes.u, rows, columns, step_y / 2, step_x / 2),
            shrink_plane(planes.v, rows, columns, step_y / 2, step_x / 2),
            np.ones((rows, columns)),
        ],
        -1,
    )
    return np.clip(yuv1 @ planes.colour.to_rgb().T[:, ::-1], 0, 255)


def block_mean(y, x0, y0, block, shape):
    """(h, w) float means of whole blocks."""
    rows, columns = shape
    region = y[y0 : y0 + rows * block, x0 : x0 + columns * block].astype(float)
    return region.reshape(rows, block, columns, block).mean((1, 3))


def luma_grid(y, shape, samples):
    """(rows, columns) float means of samples x samples evenly spread pixels a cell."""
    rows, columns = shape
    height, width = y.shape
    at_y = ((np.arange(rows * samples) + 0.5) * height / (rows * samples)).astype(int)
    at_x = ((np.arange(columns * samples) + 0.5) * width / (columns * samples)).astype(int)
    picked = y[np.ix_(at_y, at_x)].astype(float)
    return picked.reshape(rows, samples, columns, samples).mean((1, 3))
