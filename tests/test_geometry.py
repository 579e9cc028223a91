"""Box overlap, suppression, clipping and robust similarity."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamface.geometry import (
    area,
    clip_box,
    iou,
    iou_matrix,
    move_box,
    suppress,
)

coordinate = st.floats(-50, 50, width=32)
boxes = st.tuples(coordinate, coordinate, coordinate, coordinate).map(
    lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))
)


@given(boxes, boxes)
def test_iou_is_symmetric_within_0_and_1_and_agrees_with_the_matrix(a, b):
    assert iou(a, b) == iou(b, a)
    assert 0 <= iou(a, b) <= 1 + 1e-9
    assert iou_matrix(np.array([a]), np.array([b]))[0, 0] == pytest.approx(iou(a, b))
    assert area(a) <= 1e-6 or iou(a, a) == pytest.approx(1)


def test_iou_matrix_of_nothing_is_empty():
    assert iou_matrix(np.empty((0, 4)), np.zeros((3, 4))).shape == (0, 3)


@given(st.lists(boxes, max_size=8), st.floats(0, 1))
def test_suppression_is_idempotent_and_leaves_no_overlap(items, max_iou):
    array = np.array(items, np.float64).reshape(-1, 4)
    scores = np.linspace(1, 0.5, len(array))
    kept = suppress(array, scores, max_iou)
    assert suppress(array[kept], scores[kept], max_iou) == list(range(len(kept)))
    assert all(iou(items[i], items[j]) <= max_iou + 1e-9 for i in kept for j in kept if i != j)


@given(boxes)
def test_clipped_boxes_lie_in_the_frame(box):
    x0, y0, x1, y1 = clip_box(box, (30, 20))
    assert 0 <= x0 <= x1 <= 30
    assert 0 <= y0 <= y1 <= 20


def test_moved_box_keeps_its_shape():
    moved = move_box(np.array([[0, -2, 10], [2, 0, 0]]), (0, 0, 4, 2))
    assert moved == pytest.approx((8 - 4, 4 - 2, 8 + 4, 4 + 2))
