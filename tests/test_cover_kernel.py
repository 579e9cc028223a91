"""The kernels that cover a face do what their slow twins do."""

from __future__ import annotations

import naive_cover
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamface.kernels.cover import cell_means, lay_ellipse

SIZE = st.tuples(st.integers(1, 40), st.integers(1, 30))


def noise(seed, size):
    return np.random.default_rng(seed).integers(0, 256, size[::-1], dtype=np.uint8)


def between(data, low, high):
    return data.draw(st.integers(low, high))


def place_in(data, size):
    """Return a corner and a size that lie inside a plane."""
    x, y = between(data, 0, size[0] - 1), between(data, 0, size[1] - 1)
    return (x, y), (between(data, 1, size[0] - x), between(data, 1, size[1] - y))


@settings(max_examples=150, deadline=None)
@given(SIZE, st.integers(0, 1000), st.data())
def test_cells_hold_the_means_of_their_pixels(size, seed, data):
    plane = noise(seed, size)
    (x, y), (wide, high) = place_in(data, size)
    place, cells = (x, y, x + wide, y + high), (between(data, 1, wide), between(data, 1, high))
    found = cell_means(plane, place, *cells)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, naive_cover.cell_means(plane, place, *cells))


@settings(max_examples=300, deadline=None)
@given(
    SIZE,
    st.integers(0, 1000),
    st.tuples(st.floats(-30, 60), st.floats(-30, 60)),
    st.tuples(st.floats(0.5, 60), st.floats(0.5, 60)),
    st.sampled_from([0.0, 0.05, 0.12, 1.0]),
    st.data(),
)
def test_an_ellipse_is_laid_over_and_mixed_at_its_edge(  # noqa: PLR0917 - hypothesis fills them
    size, seed, centre, radii, feather, data
):
    plane = noise(seed, size)
    corner, extent = place_in(data, size)
    over = noise(seed + 1, extent)
    away = naive_cover.distance(plane, centre, radii)
    expected = naive_cover.lay_ellipse(plane, over, corner, away, feather)
    laid = plane.copy()
    lay_ellipse(laid, over, corner, centre, radii, feather)
    # On a hard edge itself, rounding decides. Shares come in steps of 1/256, and what is mixed is
    # rounded down.
    sure = (np.abs(away - 1) > 1e-9) | (feather > 0)
    np.testing.assert_allclose(laid[sure], expected[sure], atol=2.01)
    outside = np.ones(plane.shape, bool)
    outside[corner[1] : corner[1] + extent[1], corner[0] : corner[0] + extent[0]] = False
    np.testing.assert_array_equal(laid[outside], plane[outside])


def test_of_a_hard_ellipse_every_pixel_is_the_one_or_the_other():
    plane, over = np.zeros((40, 50), np.uint8), np.full((40, 50), 200, np.uint8)
    lay_ellipse(plane, over, (0, 0), (25.0, 20.0), (15.0, 10.0), 0.0)
    assert set(np.unique(plane)) == {0, 200}
    assert (plane > 0).sum() == pytest.approx(np.pi * 15 * 10, rel=0.02)


def test_planes_whose_rows_lie_apart_are_covered_too():
    wide = noise(5, (80, 30))
    plane, other = wide[:, 10:50], wide[:, 10:50].copy()
    over = noise(6, (20, 20))
    for each in (plane, other):
        lay_ellipse(each, over, (3, 4), (12.0, 14.0), (9.0, 8.0), 0.12)
    np.testing.assert_array_equal(plane, other)
    np.testing.assert_array_equal(
        cell_means(plane, (3, 4, 23, 24), 4, 5), cell_means(other, (3, 4, 23, 24), 4, 5)
    )
    assert (wide[:, :10] == noise(5, (80, 30))[:, :10]).all()
