"""Slow, obvious twins of streamface.kernels.blend: whole-frame coverage, then one formula."""

import numpy as np


def rounded_coverage(shape, rect, radius_px, stroke_px):
    height, width = shape
    x0, y0, x1, y1 = rect
    if x1 <= x0 or y1 <= y0:
        return np.zeros(shape)
    rows, columns = np.mgrid[0:height, 0:width] + 0.5
    # The inner rectangle's nearest point, one radius away from the rounded edge.
    beyond_x = np.abs(columns - (x0 + x1) / 2) - ((x1 - x0) / 2 - radius_px)
    beyond_y = np.abs(rows - (y0 + y1) / 2) - ((y1 - y0) / 2 - radius_px)
    outside = np.hypot(np.maximum(beyond_x, 0), np.maximum(beyond_y, 0))
    distance = outside + np.minimum(np.maximum(beyond_x, beyond_y), 0) - radius_px
    covered = np.clip(0.5 - distance, 0, 1)
    if stroke_px > 0:
        covered = covered - np.clip(0.5 - distance - stroke_px, 0, 1)
    return covered


def mask_coverage(shape, mask, left, top):
    covered = np.zeros(shape)
    for row in range(mask.shape[0]):
        for column in range(mask.shape[1]):
            if 0 <= row + top < shape[0] and 0 <= column + left < shape[1]:
                covered[row + top, column + left] = mask[row, column] / 255
    return covered


def blend(planes, covered, colour, opacity_frac):
    """Return new (y, u, v) with ``colour`` laid over at ``covered`` * ``opacity_frac``."""
    y, u, v = planes
    chroma = np.array(
        [
            [
                covered[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean()
                for column in range(u.shape[1])
            ]
            for row in range(u.shape[0])
        ]
    ).reshape(u.shape)
    alphas = (covered * opacity_frac, chroma * opacity_frac, chroma * opacity_frac)
    return tuple(
        np.floor(old + (float(new) - old) * alpha + 0.5).astype(np.uint8)
        for old, new, alpha in zip((y, u, v), colour, alphas, strict=True)
    )


def overlap_px2(rects, rect):
    total = 0.0
    for other in rects:
        width = min(rect[2], other[2]) - max(rect[0], other[0])
        height = min(rect[3], other[3]) - max(rect[1], other[1])
        total += max(0.0, width) * max(0.0, height)
    return total
