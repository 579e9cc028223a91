"""The similarity between a face and a template."""

from __future__ import annotations

import naive_crop
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamface.align import invert, pose, similarity, transform

FACE = np.array([(30, 40), (70, 42), (50, 60), (35, 80), (66, 81)], np.float32)


SCALES = st.floats(0.05, 20)


@st.composite
def moves(draw, scale):
    """Draw where FACE may lie, so many times as large."""
    angle = draw(st.floats(-3.1, 3.1))
    shift = draw(st.tuples(st.floats(-500, 500), st.floats(-500, 500)))
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (FACE @ turn.T + shift).astype(np.float32)


@given(data=st.data(), scale=SCALES)
def test_a_moved_face_is_moved_back_exactly(data, scale):
    moved = data.draw(moves(scale))
    back = transform(similarity(moved, FACE), moved)
    np.testing.assert_allclose(back, FACE, atol=0.05 + 1e-3 / scale)


@given(st.lists(st.tuples(st.floats(0, 99), st.floats(0, 99)), min_size=5, max_size=5))
def test_no_other_similarity_fits_better(points):
    noisy = (FACE + np.array(points)).astype(np.float32)
    found = similarity(noisy, FACE)
    np.testing.assert_allclose(found, naive_crop.solve_similarity(noisy, FACE), atol=1e-4)


def test_a_mirrored_face_is_never_mirrored_back():
    matrix = similarity((FACE * (-1, 1)).astype(np.float32), FACE)
    assert np.linalg.det(matrix[:, :2]) > 0


def test_invert_undoes():
    matrix = similarity(FACE, FACE * 2 + 7)
    np.testing.assert_allclose(transform(invert(matrix), transform(matrix, FACE)), FACE, atol=1e-3)


@pytest.mark.parametrize(
    "bad", [np.full((5, 2), 3, np.float32), np.full((5, 2), np.nan, np.float32)]
)
def test_points_without_extent_are_refused(bad):
    with pytest.raises(ValueError, match="do not span a face"):
        similarity(bad, FACE)


def test_unequal_point_lists_are_refused():
    with pytest.raises(ValueError, match="two equal"):
        similarity(FACE[:4], FACE)


@given(data=st.data(), scale=SCALES)
def test_a_pose_is_of_the_head_and_not_of_where_it_lies(data, scale):
    moved = data.draw(moves(scale))
    np.testing.assert_allclose(pose(moved), pose(FACE), atol=2e-3)


def test_a_pose_says_which_way_and_how_far():
    straight = np.array([(30, 40), (70, 40), (50, 63.6), (35, 80), (65, 80)], np.float32)
    assert pose(straight) == pytest.approx(0, abs=1e-3)
    for dx, dy in ((8, 0), (-8, 0), (0, 6), (0, -6), (300, 300)):
        one = straight.copy()
        one[2] += dx, dy
        assert pose(one) == pytest.approx((min(dx / 40, 0.6), min(dy / 40, 0.3)), abs=1e-3)
    many = np.stack((straight, straight + 5))
    assert pose(many).shape == (2, 2)
    assert pose(many).dtype == np.float32
