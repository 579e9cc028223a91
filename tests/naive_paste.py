"""The slow, obvious twin of streamface.kernels.paste and of what streamface.paste does with it."""

from __future__ import annotations

import numpy as np
from naive_crop import bilinear


def mapped(to_field, column, row):
    """Return where the centre of a pixel of the plane lies in the field."""
    centre = (column + 0.5, row + 0.5, 1.0)
    return tuple(sum(a * b for a, b in zip(line, centre, strict=True)) for line in to_field)


def blend_field(plane, to_field, area, fields, drawn):
    """Return the plane with old * gain + offset + grain * drawn, not rounded, in the field.

    fields: gain, offset, grain. drawn: the same random number for every pixel.
    """
    x0, y0, x1, y1 = area
    height, width = fields[0].shape
    out = plane.astype(float)
    for row in range(y0, y1):
        for column in range(x0, x1):
            x, y = mapped(to_field, column, row)
            if 0 <= x <= width and 0 <= y <= height:
                gain, offset, grain = (bilinear(field, x, y) for field in fields)
                value = plane[row, column] * gain + offset + grain * drawn
                out[row, column] = min(max(value, 0), 255)
    return out


def on_the_edge(shape, to_field, size_px, slack=1e-6):
    """Return (H, W): pixels whose centre lies on the field's edge, where rounding decides."""
    edge = np.zeros(shape, bool)
    for row in range(shape[0]):
        for column in range(shape[1]):
            for value, limit in zip(mapped(to_field, column, row), size_px, strict=True):
                edge[row, column] |= min(abs(value), abs(value - limit)) < slack
    return edge


def blended(old, made, base, mask, kept):
    """Return the formula of paste: the patch, and of what the source has over the base its share.

    All are (h, w) of one plane, or numbers; kept: 0..1.
    """
    new = made + kept * (old - base)
    return old + mask * (new - old)
