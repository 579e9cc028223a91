"""Where a label or a chart goes: beside its face, inside the frame, off its neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from streamface.kernels.blend import overlap_px2

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from streamface.frame import Box


class Spot(NamedTuple):
    """A place beside or in a face's box.

    Its corner is box corner + ``of_box`` x box size + ``of_thing`` x thing size + ``gaps`` x gap,
    each (x, y). Where that leaves the frame it is pushed back in, but never along ``firm``: a
    label above a face may move sideways, yet not down onto the face.
    """

    of_box: tuple[int, int]
    of_thing: tuple[int, int]
    gaps: tuple[int, int]
    firm: int | None = None
    """0 for x, 1 for y."""


_ABOVE: Final = (Spot((0, 0), (0, -1), (0, -1), 1), Spot((1, 0), (-1, -1), (0, -1), 1))
_BELOW: Final = (Spot((0, 1), (0, 0), (0, 1), 1), Spot((1, 1), (-1, 0), (0, 1), 1))
LABEL_OUTSIDE: Final = (*_ABOVE, *_BELOW)
LABEL_INSIDE: Final = (Spot((0, 0), (0, 0), (1, 1)), Spot((0, 1), (0, -1), (1, -1)))
CHART_OUTSIDE: Final = (
    Spot((1, 0), (0, 0), (1, 1), 0),
    Spot((0, 0), (-1, 0), (-1, 1), 0),
    Spot((1, 1), (0, -1), (1, -1), 0),
    Spot((0, 1), (-1, -1), (-1, -1), 0),
)
CHART_INSIDE: Final = (Spot((1, 1), (-1, -1), (-1, -1)), Spot((0, 1), (0, -1), (1, -1)))


class Choice(NamedTuple):
    """One way to set a thing: which of its forms, and at which spot."""

    form: int
    spot: Spot


class Board:
    """What stands on one frame: the faces' boxes, and the things set so far.

    size_px: (width, height) of the frame. gap_px: from a box to what stands beside it.
    slack_px: clear space that a place needs to be taken up, but not to be kept, so that things do
    not jump to and fro while faces drift past each other.
    """

    def __init__(
        self, size_px: tuple[int, int], boxes: Sequence[Box], *, gap_px: int, slack_px: float
    ) -> None:
        self._size_px = size_px
        self._gap_px = gap_px
        self._slack_px = slack_px
        self._boxes = np.array(boxes, np.float64).reshape(-1, 4)
        self._set = np.empty((2 * len(boxes), 4), np.float64)  # a label and a chart each
        self._count = 0

    def place(
        self,
        box: Box,
        forms_px: Sequence[tuple[int, int]],
        choices: Iterable[Choice],
        before: Choice | None,
        *,
        must: bool,
    ) -> tuple[Choice, tuple[int, int]] | None:
        """Set a thing at the first free choice, or if it ``must`` be set at the least crowded.

        forms_px: (width, height) of each form. choices: best first. before: the one of the frame
        before. Returns the choice and the thing's left top corner; None where nothing was set,
        because nothing was free or fits into the frame.
        """
        best: tuple[float, Choice, Box] | None = None
        for choice in choices:
            rect = self._rect(box, forms_px[choice.form], choice.spot)
            if rect is None:
                continue
            crowding = self._crowding(rect, box, 0.0 if choice == before else self._slack_px)
            if best is None or crowding < best[0]:
                best = crowding, choice, rect
            if crowding < 1.0:
                break
        if best is None or (best[0] >= 1.0 and not must):
            return None
        _, choice, rect = best
        self._set[self._count] = rect
        self._count += 1
        return choice, (int(rect[0]), int(rect[1]))

    def _rect(self, box: Box, thing_px: tuple[int, int], spot: Spot) -> Box | None:
        """Return where a thing of (width, height) stands, or None where the frame has no room."""
        corner = [0, 0]
        for axis in (0, 1):
            side = box[axis + 2] - box[axis]
            offset = spot.of_thing[axis] * thing_px[axis] + spot.gaps[axis] * self._gap_px
            start = round(box[axis] + spot.of_box[axis] * side) + offset
            room = self._size_px[axis] - thing_px[axis]
            if room < 0 or (axis == spot.firm and not 0 <= start <= room):
                return None
            corner[axis] = min(max(start, 0), room)
        left, top = corner
        return (float(left), float(top), float(left + thing_px[0]), float(top + thing_px[1]))

    def _crowding(self, rect: Box, own_box: Box, margin_px: float) -> float:
        """Return how much of what stands there a rectangle, grown by a margin, would cover.

        The face's own box is not counted: whether to cover it is a matter of the spot. Text on
        text cannot be read at all, a label on a stranger's face can: hence the factor.
        """
        x0, y0, x1, y1 = rect
        grown = (x0 - margin_px, y0 - margin_px, x1 + margin_px, y1 + margin_px)
        shared_w = min(grown[2], own_box[2]) - max(grown[0], own_box[0])
        shared_h = min(grown[3], own_box[3]) - max(grown[1], own_box[1])
        own = max(0.0, shared_w) * max(0.0, shared_h)
        boxes = overlap_px2(self._boxes, len(self._boxes), grown) - own
        return float(boxes + 4 * overlap_px2(self._set, self._count, grown))
