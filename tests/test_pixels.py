"""Planes to FFmpeg and back; colours and their tags."""

from __future__ import annotations

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamface.frame import Colour, Planes
from streamface.pixels import (
    UPRIGHT,
    Orientation,
    colour_of,
    recoloured,
    tags_of,
    to_av,
    to_planes,
)

MATRICES = ("bt601", "bt709", "bt2020")


def random_planes(size_px, seed=0):
    planes = Planes.allocate(size_px, Colour("bt601"))
    rng = np.random.default_rng(seed)
    for plane in (planes.y, planes.u, planes.v):
        plane[:] = rng.integers(0, 256, plane.shape)
    return planes


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 70), height=st.integers(1, 70), even=st.booleans())
def test_the_encoder_gets_every_sample(width, height, even):
    """Whatever the size, to_av carries all planes unchanged; padding repeats the edge."""
    planes = random_planes((width, height))
    frame = to_av(planes, even=even)
    expected = (width + width % 2, height + height % 2) if even else (width, height)
    assert (frame.width, frame.height) == expected
    assert frame.format.name == "yuv420p"
    back = to_planes(frame)
    assert np.array_equal(back.y[:height, :width], planes.y)
    rows, columns = planes.u.shape
    assert np.array_equal(back.u[:rows, :columns], planes.u)
    assert np.array_equal(back.v[:rows, :columns], planes.v)
    assert np.array_equal(back.y[:height, -1], planes.y[:, -1])
    assert np.array_equal(back.y[-1, :width], planes.y[-1])


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("full_range", [False, True])
@given(rgb=st.tuples(*[st.integers(0, 255)] * 3))
def test_a_colour_survives_the_way_to_yuv_and_back(matrix, full_range, rgb):
    """One flat colour comes back within rounding, for each matrix and range."""
    colour = Colour(matrix, full_range)
    image = np.full((4, 4, 3), rgb, np.uint8)
    back = Planes.from_rgb(image, colour).to_rgb().astype(int)
    assert np.abs(back - rgb).max() <= 3
    planes = Planes.from_rgb(image, colour)
    single = colour.from_rgb(*rgb)
    samples = int(planes.y[0, 0]), int(planes.u[0, 0]), int(planes.v[0, 0])
    assert np.abs(np.subtract(samples, single)).max() <= 1


@pytest.mark.parametrize(
    ("space", "range_", "height", "expected"),
    [
        (1, 1, 64, Colour("bt709")),
        (5, 2, 64, Colour("bt601", full_range=True)),
        (6, 0, 64, Colour("bt601")),
        (9, 1, 64, Colour("bt2020")),
        (2, 0, 64, Colour("bt601")),
        (2, 0, 720, Colour("bt709")),
    ],
)
def test_tags_choose_matrix_and_range(space, range_, height, expected):
    """Tagged frames are believed; untagged ones are BT.709 from 720 lines on."""
    frame = av.VideoFrame(1280 if height >= 720 else 64, height, "yuv420p")
    frame.colorspace, frame.color_range = space, range_
    assert colour_of(frame) == expected
    assert tags_of(frame).space == space


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    turn=st.sampled_from(
        [UPRIGHT, Orientation(transpose=True, flip_y=True), Orientation(flip_x=True)]
    ),
)
def test_nv12_is_split_as_swscale_does_it(width, height, turn):
    """Every sample of an NV12 frame arrives unchanged, turned or not, padding left out."""
    frame = av.VideoFrame(width, height, "nv12")
    rng = np.random.default_rng(width * 71 + height)
    for plane in frame.planes:
        memory = np.frombuffer(memoryview(plane), np.uint8)
        memory[:] = rng.integers(0, 256, memory.size)
    planes = to_planes(frame, turn)
    expected = to_planes(frame.reformat(format="yuv420p", threads=1), turn)
    for got, wanted in zip(
        (planes.y, planes.u, planes.v), (expected.y, expected.u, expected.v), strict=True
    ):
        np.testing.assert_array_equal(got, wanted)
    assert planes.colour == expected.colour


def test_ten_bit_becomes_eight_bit_without_a_shift():
    """A 10-bit grey ramp comes out as the same ramp in 8 bits."""
    ramp = np.tile(np.linspace(64, 940, 64).astype("<u2"), (64, 1))
    frame = av.VideoFrame(64, 64, "yuv420p10le")
    flat = np.full((32, 32), 512, "<u2")
    for plane, values in zip(frame.planes, (ramp, flat, flat), strict=True):
        memory = np.frombuffer(memoryview(plane), "<u2").reshape(plane.height, -1)
        memory[:, : values.shape[1]] = values
    planes = to_planes(frame)
    assert np.abs(planes.y.astype(int) - ramp // 4).max() <= 1
    assert np.abs(planes.u.astype(int) - 128).max() <= 1


def test_planes_refuse_wrong_shapes():
    """A chroma plane of the wrong size is named with all shapes."""
    y, u = np.zeros((10, 10), np.uint8), np.zeros((5, 4), np.uint8)
    with pytest.raises(ValueError, match=r"u and v must be \(5, 5\)"):
        Planes(y, u, u)
    with pytest.raises(ValueError, match="must be positive"):
        Planes.allocate((0, 5), Colour())
    with pytest.raises(ValueError, match="must be \\(H, W, 3\\) uint8"):
        Planes.from_rgb(np.zeros((4, 4), np.uint8))


@pytest.mark.parametrize("size_px", [(64, 48), (63, 47)], ids=str)
@pytest.mark.parametrize("target", [Colour("bt601"), Colour("bt709"), Colour("bt601", True)])
@pytest.mark.parametrize("source", [Colour(m, f) for m in MATRICES for f in (False, True)], ids=str)
def test_recoloured_planes_look_the_same(source, target, size_px):
    width, height = size_px
    image = np.full((height, width, 3), (200, 60, 40), np.uint8)
    image[height // 2 :] = (40, 120, 190)
    planes = Planes.from_rgb(image, source)
    other = recoloured(planes, target)
    assert other.colour == target
    assert other.y is not planes.y
    for rows in (slice(0, height // 2 - 4), slice(height // 2 + 4, None)):
        difference = other.to_rgb()[rows].astype(int) - planes.to_rgb()[rows]
        assert np.abs(difference).max() <= 6


def test_recoloured_planes_may_be_scaled():
    planes = Planes.from_rgb(np.full((48, 64, 3), (200, 60, 40), np.uint8))
    small = recoloured(planes, Colour("bt601"), (30, 20))
    assert small.size_px == (30, 20)
    assert np.abs(small.to_rgb().astype(int) - (200, 60, 40)).max() <= 6
