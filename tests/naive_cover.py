"""Slow, obvious twins of streamface.kernels.cover."""

import numpy as np


def cell_means(plane, place, columns, rows):
    x0, y0, x1, y1 = place
    part = plane[y0:y1, x0:x1].astype(float)
    across = [column * (x1 - x0) // columns for column in range(columns + 1)]
    down = [row * (y1 - y0) // rows for row in range(rows + 1)]
    return np.array(
        [
            [
                np.floor(part[down[j] : down[j + 1], across[i] : across[i + 1]].mean() + 0.5)
                for i in range(columns)
            ]
            for j in range(rows)
        ]
    )


def distance(plane, centre_px, radii_px):
    """Return how far every pixel is from the centre, in radii."""
    rows, columns = np.mgrid[: plane.shape[0], : plane.shape[1]] + 0.5
    return np.hypot((columns - centre_px[0]) / radii_px[0], (rows - centre_px[1]) / radii_px[1])


def lay_ellipse(plane, over, corner, away, feather_frac):
    """Return the new plane; away: by ``distance``."""
    share = (away <= 1).astype(float)
    if feather_frac > 0:
        share = np.clip((1 + feather_frac - away) / feather_frac, 0, 1)
    out = plane.astype(float)
    rows, columns = (slice(c, c + n) for c, n in zip(corner[::-1], over.shape, strict=True))
    out[rows, columns] += share[rows, columns] * (over - out[rows, columns])
    return out
