"""The blending kernels agree with their slow twins, at any size and in any place."""

import naive_blend as naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamface.kernels import blend

SIDES = st.integers(1, 21)
PLACES = st.floats(-12, 33, allow_nan=False).map(lambda value: round(value, 2))
COLOURS = st.tuples(*[st.integers(0, 255)] * 3)
OPACITIES = st.sampled_from([0.0, 0.35, 0.72, 1.0])


def random_planes(height, width, seed=0):
    rng = np.random.default_rng(seed)
    chroma = ((height + 1) // 2, (width + 1) // 2)
    shapes = ((height, width), chroma, chroma)
    return tuple(rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes)


def assert_close(actual, expected):
    # The kernels round the opacity to 1/256, the twins do not.
    for plane, wanted in zip(actual, expected, strict=True):
        assert np.abs(plane.astype(int) - wanted.astype(int)).max() <= 1


@settings(max_examples=300, deadline=None)
@given(
    size=st.tuples(SIDES, SIDES),
    rect=st.tuples(PLACES, PLACES, PLACES, PLACES),
    roundness_frac=st.floats(0, 1),
    stroke_px=st.sampled_from([0.0, 0.5, 1.0, 2.5, 6.0]),
    paint=st.tuples(COLOURS, OPACITIES),
)
def test_a_rounded_rectangle_matches_its_twin(size, rect, roundness_frac, stroke_px, paint):
    radius_px = max(0.0, roundness_frac * min(rect[2] - rect[0], rect[3] - rect[1]) / 2)
    planes = random_planes(*size)
    covered = naive.rounded_coverage(size, rect, radius_px, stroke_px)
    expected = naive.blend(planes, covered, *paint)
    blend.blend_rounded(*planes, rect, radius_px, stroke_px, *paint)
    assert_close(planes, expected)


@settings(max_examples=200, deadline=None)
@given(
    size=st.tuples(SIDES, SIDES),
    mask_shape=st.tuples(SIDES, SIDES),
    corner=st.tuples(st.integers(-25, 25), st.integers(-25, 25)),
    paint=st.tuples(COLOURS, OPACITIES),
)
def test_a_mask_matches_its_twin(size, mask_shape, corner, paint):
    mask = np.random.default_rng(1).integers(0, 256, mask_shape, dtype=np.uint8)
    planes = random_planes(*size)
    covered = naive.mask_coverage(size, mask, *corner)
    expected = naive.blend(planes, covered, *paint)
    blend.blend_mask(*planes, mask, *corner, *paint)
    assert_close(planes, expected)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(PLACES, PLACES, PLACES, PLACES), max_size=6), st.tuples(*[PLACES] * 4))
def test_the_overlap_matches_its_twin(rects, rect):
    table = np.zeros((8, 4))
    table[: len(rects)] = np.array(rects).reshape(-1, 4)
    wanted = naive.overlap_px2(rects, rect)
    assert blend.overlap_px2(table, len(rects), rect) == pytest.approx(wanted)


def test_full_opacity_sets_the_very_colour():
    planes = random_planes(8, 8)
    blend.blend_rounded(*planes, (0.0, 0.0, 8.0, 8.0), 0.0, 0.0, (200, 90, 170), 1.0)
    assert [np.unique(plane).tolist() for plane in planes] == [[200], [90], [170]]


def test_half_a_chroma_block_gets_half_the_colour():
    planes = tuple(np.zeros(shape, np.uint8) for shape in ((4, 4), (2, 2), (2, 2)))
    blend.blend_rounded(*planes, (0.0, 0.0, 1.0, 2.0), 0.0, 0.0, (255, 200, 100), 1.0)
    assert planes[1].tolist() == [[100, 0], [0, 0]]
    assert planes[2].tolist() == [[50, 0], [0, 0]]


def test_a_border_leaves_the_middle_alone():
    planes = random_planes(40, 60)
    before = [plane.copy() for plane in planes]
    blend.blend_rounded(*planes, (4.0, 4.0, 56.0, 36.0), 6.0, 2.0, (255, 0, 0), 1.0)
    assert (planes[0][12:28, 12:48] == before[0][12:28, 12:48]).all()
    assert (planes[1][6:14, 6:24] == before[1][6:14, 6:24]).all()
    assert (planes[0][4:6, 12:48] == 255).all()
