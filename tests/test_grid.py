"""Cells that fill the window, and pictures that keep their shape in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamface.grid import cells, fitting, letterboxed, shape

SIDES = st.integers(1, 4000)


@pytest.mark.parametrize(
    ("count", "expected"), [(1, (1, 1)), (2, (2, 1)), (3, (2, 2)), (5, (3, 2)), (8, (3, 3))]
)
def test_the_grid_is_near_square(count, expected):
    assert shape(count) == expected


@given(st.integers(1, 20), SIDES, SIDES)
def test_cells_of_a_full_grid_cover_the_window_once(side, width, height):
    found = cells(side * side, (width, height))
    assert sum(w * h for _, _, w, h in found) == width * height
    assert found[-1][0] + found[-1][2] == width
    assert found[-1][1] + found[-1][3] == height


@given(st.tuples(SIDES, SIDES), SIDES, SIDES, st.floats(0.5, 2))
def test_a_picture_lies_in_its_cell_and_touches_two_sides(size_px, cell_w, cell_h, aspect):
    left, top, width, height = letterboxed((10, 20, cell_w, cell_h), size_px, aspect)
    assert left >= 10
    assert left + width <= 10 + cell_w
    assert top >= 20
    assert top + height <= 20 + cell_h
    assert width == cell_w or height == cell_h
    if min(width, height) > 20:
        assert width / height == pytest.approx(size_px[0] * aspect / size_px[1], rel=0.05)


def test_a_window_is_made_to_fit_the_screen():
    assert fitting((640, 480), (1920, 1080)) == (640, 480)
    assert fitting((3840, 2160), (1920, 1000)) == (1778, 1000)
