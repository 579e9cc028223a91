"""Scene cuts, and whether anything stirs, seen on a coarse grid of mean luma."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from streamface.geometry import centre_and_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamface.frame import Box, Planes

GRID_SHAPE: Final = (14, 24)
"""Rows and columns of the grid; cells are about square at 16:9."""


class ShotWatch:
    """Notices scene cuts on a coarse grid of mean luma, in about 20 us a frame.

    A cut changes the grid much *and* leaves nothing of its pattern; a flash, a fade or a moving
    camera keep one of the two.
    """

    LEAST_CHANGE: Final = 12.0
    """Mean absolute change of the grid, of 255, below which nothing is a cut."""
    MOST_CORRELATION: Final = 0.6
    LEAST_STIR: Final = 8.0
    """Change of a cell, of 255, that may be a face that comes in. Noise stays below 1, and breath,
    hair and shoulders of a seated speaker below 8."""

    def __init__(self) -> None:
        from streamface.kernels.shrink import luma_grid

        self._fill = luma_grid
        self._old = np.zeros(GRID_SHAPE, np.float32)
        self._new = np.zeros(GRID_SHAPE, np.float32)
        self._searched = np.zeros(GRID_SHAPE, np.float32)
        self._size_px = (1, 1)
        self._known = False

    def reset(self) -> None:
        """Forget the last frame."""
        self._known = False

    def is_cut(self, planes: Planes) -> bool:
        """Return whether this frame begins another shot than the one before."""
        self._fill(planes.y, self._new)
        self._size_px = planes.size_px
        cut = self._known and self._differs()
        self._old, self._new, self._known = self._new, self._old, True
        return cut

    def mark_searched(self) -> None:
        """Remember this frame as the last that was searched for faces."""
        np.copyto(self._searched, self._old)

    def has_stirred(self, known: Sequence[Box]) -> bool:
        """Return whether anything but the known faces changed since the last search.

        known: boxes in pixels of the frame; the cells that they and half their size around them
        touch are not looked at.
        """
        changed = np.abs(self._old - self._searched) > self.LEAST_STIR
        rows, columns = changed.shape
        width, height = self._size_px
        for x, y, box_width, box_height in map(centre_and_size, known):
            left, right = (int((x + side * box_width) / width * columns) for side in (-1, 1))
            top, bottom = (int((y + side * box_height) / height * rows) for side in (-1, 1))
            changed[max(0, top) : max(0, bottom + 1), max(0, left) : max(0, right + 1)] = False
        return bool(changed.any())

    def _differs(self) -> bool:
        if float(np.abs(self._new - self._old).mean()) < self.LEAST_CHANGE:
            return False
        a, b = self._new - self._new.mean(), self._old - self._old.mean()
        power = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
        return float((a * b).sum()) < self.MOST_CORRELATION * max(power, 1e-6)
