"""The shrinking kernels against their slow twins."""

from __future__ import annotations

import naive_shrink
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamface.frame import Colour, Planes
from streamface.kernels.shrink import GRID_SAMPLES, Shrinker, block_mean, column_taps, luma_grid

sizes = st.tuples(st.integers(1, 70), st.integers(1, 50))


def random_planes(size_px, seed, colour=None):
    (width, height), rng = size_px, np.random.default_rng(seed)
    half = ((height + 1) // 2, (width + 1) // 2)
    return Planes(
        rng.integers(0, 256, (height, width), np.uint8),
        rng.integers(0, 256, half, np.uint8),
        rng.integers(0, 256, half, np.uint8),
        colour or Colour(),
    )


@settings(max_examples=120, deadline=None)
@given(sizes, st.data(), st.sampled_from(["bt601", "bt709", "bt2020"]), st.booleans())
def test_shrunken_picture_is_the_exact_area_average_in_the_frames_own_colours(
    size_px, data, matrix, full_range
):
    small = tuple(data.draw(st.integers(1, side)) for side in size_px)
    planes = random_planes(size_px, data.draw(st.integers(0, 99)), Colour(matrix, full_range))
    out = Shrinker()(planes, small)
    assert out.shape == (small[1], small[0], 3)
    assert np.abs(out - naive_shrink.shrink_to_bgr(planes, small)).max() <= 0.51


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 6])
def test_whole_factors_average_whole_blocks(factor):
    planes = random_planes((96, 48), factor)
    out = Shrinker()(planes, (96 // factor, 48 // factor))
    expected = naive_shrink.shrink_to_bgr(planes, (96 // factor, 48 // factor))
    assert np.abs(out - expected).max() <= 0.51


def test_one_shrinker_follows_changing_sizes():
    shrinker = Shrinker()
    for size_px, small in [((64, 48), (20, 15)), ((33, 17), (20, 15)), ((64, 48), (64, 48))]:
        planes = random_planes(size_px, 5)
        expected = naive_shrink.shrink_to_bgr(planes, small)
        assert np.abs(shrinker(planes, small) - expected).max() <= 0.51


def test_shrinker_refuses_to_enlarge():
    with pytest.raises(ValueError, match="cannot shrink 8x8 to 9x8"):
        Shrinker()(random_planes((8, 8), 0), (9, 8))


@given(st.integers(1, 300), st.data())
def test_column_taps_cover_every_column_once(size, data):
    count = data.draw(st.integers(1, size))
    first, weights = column_taps(size, size / count, count)
    covered = np.zeros(size)
    for k, weight in enumerate(weights):
        np.add.at(covered, first + k, weight)
    assert np.allclose(covered, 1, atol=1e-3)


@settings(deadline=None)
@given(st.integers(1, 7), st.integers(1, 9), st.integers(1, 9), st.integers(0, 5), st.data())
def test_block_mean_is_the_mean_of_blocks(block, rows, columns, margin, data):
    shape = (rows * block + margin, columns * block + margin)
    y = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 256, shape, np.uint8)
    x0, y0 = data.draw(st.integers(0, margin)), data.draw(st.integers(0, margin))
    out = np.empty((rows, columns), np.uint8)
    block_mean(y, x0, y0, block, np.empty(shape[1], np.float32), out)
    expected = naive_shrink.block_mean(y, x0, y0, block, (rows, columns))
    assert np.abs(out - expected).max() <= 0.51


@settings(deadline=None)
@given(sizes, st.integers(0, 99))
def test_luma_grid_is_the_mean_of_spread_samples(size_px, seed):
    y = random_planes(size_px, seed).y
    out = np.empty((5, 7), np.float32)
    luma_grid(y, out)
    assert np.allclose(out, naive_shrink.luma_grid(y, (5, 7), GRID_SAMPLES), atol=1e-3)
