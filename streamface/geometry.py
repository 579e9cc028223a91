"""Boxes and points in plain numpy: overlap, suppression, clipping and similarity transforms.

Boxes are half-open (x0, y0, x1, y1); arrays of boxes are (N, 4) float. Units are the caller's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamface.frame import Box, PointsF32

    FloatArray = NDArray[np.float32] | NDArray[np.float64]


def area(box: Box) -> float:
    """Return the area of a box; 0 if it is empty or inside out."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def iou(a: Box, b: Box) -> float:
    """Return the intersection over union of two boxes, 0..1; 0 if both are empty."""
    shared = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    union = area(a) + area(b) - shared
    return shared / union if union > 0 else 0.0


def iou_matrix(a: FloatArray, b: FloatArray) -> NDArray[np.float64]:
    """Return the (N, M) IoU of every box of a, (N, 4), with every box of b, (M, 4)."""
    a64, b64 = a.astype(np.float64)[:, None], b.astype(np.float64)[None]
    low = np.maximum(a64[..., :2], b64[..., :2])
    high = np.minimum(a64[..., 2:], b64[..., 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=-1)
    area_a = np.prod(np.maximum(a64[..., 2:] - a64[..., :2], 0), axis=-1)
    area_b = np.prod(np.maximum(b64[..., 2:] - b64[..., :2], 0), axis=-1)
    union = area_a + area_b - shared
    out: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(union), where=union > 0)
    return out


def suppress(boxes: FloatArray, scores: FloatArray, max_iou: float) -> list[int]:
    """Return which boxes survive greedy non-maximum suppression, best score first.

    boxes: (N, 4). scores: (N,). A box is dropped if it overlaps a better survivor by more than
    max_iou; equal scores keep their order.
    """
    overlaps = iou_matrix(boxes, boxes)
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable").tolist():
        if all(overlaps[i, j] <= max_iou for j in kept):
            kept.append(i)
    return kept


def clip_box(box: Box, size_px: tuple[int, int]) -> Box:
    """Return the part of a box inside a frame of (width, height); empty if there is none."""
    width, height = size_px
    x0, x1 = (min(max(x, 0.0), float(width)) for x in (box[0], box[2]))
    y0, y1 = (min(max(y, 0.0), float(height)) for y in (box[1], box[3]))
    return x0, y0, x1, y1


def centre_and_size(box: Box) -> tuple[float, float, float, float]:
    """Return (centre x, centre y, width, height) of a box."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]


def box_around(centre_x: float, centre_y: float, width: float, height: float) -> Box:
    """Return the box with this centre and size."""
    return (
        centre_x - width / 2,
        centre_y - height / 2,
        centre_x + width / 2,
        centre_y + height / 2,
    )


def apply_similarity(matrix: NDArray[np.float64], points: PointsF32) -> PointsF32:
    """Return (K, 2) points moved by a (2, 3) matrix."""
    moved: PointsF32 = (points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
    return moved


def move_box(matrix: NDArray[np.float64], box: Box) -> Box:
    """Return an upright box whose centre a (2, 3) similarity moves and whose size it scales."""
    x, y, width, height = centre_and_size(box)
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    moved = matrix[:, :2] @ (x, y) + matrix[:, 2]
    return box_around(float(moved[0]), float(moved[1]), width * scale, height * scale)
