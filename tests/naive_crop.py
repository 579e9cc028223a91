"""The slow, obvious twin of streamface.preprocess.crop_into and of streamface.kernels.crop."""

from __future__ import annotations

import math

import numpy as np


def solve_similarity(source, target):
    """Return the least-squares (2, 3) similarity by solving for its four unknowns directly."""
    rows, values = [], []
    for (x, y), (u, v) in zip(source.astype(float), target.astype(float), strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        values += [u, v]
    a, b, c, d = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    return np.array([[a, -b, c], [b, a, d]])


def bilinear(plane, x, y):
    """Read a plane between its pixels, whose centres lie at integer + 0.5."""
    height, width = plane.shape
    x, y = min(max(x - 0.5, 0), width - 1), min(max(y - 0.5, 0), height - 1)
    x0, y0 = math.floor(x), math.floor(y)
    value = 0.0
    for column, share_x in ((x0, 1 - (x - x0)), (min(x0 + 1, width - 1), x - x0)):
        for row, share_y in ((y0, 1 - (y - y0)), (min(y0 + 1, height - 1), y - y0)):
            value += share_x * share_y * float(plane[row, column])
    return value


def sample(plane, to_plane, taps, size_px):
    """Return an (h, w) crop: every pixel the mean of taps x taps samples spread over it."""
    width, height = size_px
    step = 1.0 / taps
    out = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            for j in range(taps):
                for i in range(taps):
                    u, v = column + (i + 0.5) * step, row + (j + 0.5) * step
                    x = to_plane[0, 0] * u + to_plane[0, 1] * v + to_plane[0, 2]
                    y = to_plane[1, 0] * u + to_plane[1, 1] * v + to_plane[1, 2]
                    out[row, column] += bilinear(plane, x, y) / taps**2
    return out


def crop(planes, to_luma, spec, taps_of):
    """Return the (C, H, W) normalised crop that lies at to_luma (2, 3) in the frame."""
    scale = math.hypot(to_luma[0, 0], to_luma[1, 0])
    y = sample(planes.y, to_luma, taps_of(scale), spec.size_px)
    if spec.colour == "grey":
        values = (y if planes.colour.full_range else (y - 16) * 255 / 219)[None]
    else:
        u, v = (
            sample(plane, to_luma / 2, taps_of(scale / 2), spec.size_px)
            for plane in (planes.u, planes.v)
        )
        yuv1 = np.stack((y, u, v, np.ones_like(y)))
        values = np.einsum("cp,phw->chw", planes.colour.to_rgb().astype(float), yuv1)
    values = np.clip(values, 0, 255)
    return (values - np.reshape(spec.mean, (-1, 1, 1))) / np.reshape(spec.std, (-1, 1, 1))
