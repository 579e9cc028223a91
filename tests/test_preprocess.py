"""The only road from pixels to tensors, held to its slow twin."""

from __future__ import annotations

import dataclasses
import math

import naive_crop
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamface.align import invert, similarity
from streamface.card import InputSpec
from streamface.frame import Colour, Planes
from streamface.kernels.crop import taps_for
from streamface.preprocess import crop_into, planes_from_grey, probe

POINTS = np.array([(3, 3), (7, 3), (5, 5), (3.5, 7), (6.5, 7)], np.float32)
GREY = InputSpec((10, 9), "grey", POINTS, (128.0,), (64.0,))
RGB = InputSpec((10, 9), "rgb", POINTS, (120.0, 110.0, 100.0), (60.0, 61.0, 62.0))


def noise(size_px, colour, seed):
    rng = np.random.default_rng(seed)
    planes = Planes.allocate(size_px, colour)
    for plane in (planes.y, planes.u, planes.v):
        plane[:] = rng.integers(0, 256, plane.shape)
    return planes


def crop(planes, landmarks, spec):
    out = np.full(spec.shape, np.nan, np.float32)
    crop_into(planes, landmarks, spec, out)
    return out


@settings(max_examples=60, deadline=None)
@given(
    spec=st.sampled_from([GREY, RGB]),
    size_px=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    matrix=st.sampled_from(["bt601", "bt709", "bt2020"]),
    full_range=st.booleans(),
    angle=st.floats(-3.1, 3.1),
    scale=st.floats(0.3, 9),
    shift=st.tuples(st.floats(-20, 40), st.floats(-20, 40)),
    seed=st.integers(0, 9),
)
@example(GREY, (90, 80), "bt709", False, 0.3, 3.0, (25.0, 22.0), 0)  # wholly inside the frame
@example(RGB, (90, 80), "bt601", True, -0.3, 2.0, (30.0, 30.0), 1)
def test_the_kernel_does_what_its_slow_twin_does(  # noqa: PLR0917 - hypothesis fills them
    spec, size_px, matrix, full_range, angle, scale, shift, seed
):
    planes = noise(size_px, Colour(matrix, full_range), seed)
    turn = scale * np.array(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    landmarks = (POINTS @ turn.T + shift).astype(np.float32)
    to_luma = invert(similarity(landmarks, spec.landmarks_px))
    expected = naive_crop.crop(planes, to_luma, spec, taps_for)
    # Half of one of 255 levels: eleven bits of a share on two axes and three planes.
    np.testing.assert_allclose(crop(planes, landmarks, spec), expected, atol=0.5 / 60)


def test_a_picture_framed_as_the_template_comes_through_unchanged():
    image = np.random.default_rng(0).integers(0, 256, (9, 10)).astype(np.uint8)
    out = crop(planes_from_grey(image), POINTS, GREY)
    np.testing.assert_allclose(out[0] * 64 + 128, image, atol=1e-3)


def test_limited_range_is_widened():
    planes = Planes.allocate((20, 20), Colour(full_range=False))
    planes.u[:] = planes.v[:] = 128
    for luma, level in ((16, 0), (235, 255), (0, 0), (255, 255)):
        planes.y[:] = luma
        for spec in (GREY, RGB):
            wanted = (level - np.array(spec.mean)) / spec.std
            got = crop(planes, POINTS + 5, spec)
            np.testing.assert_allclose(got, np.ones(spec.shape) * wanted[:, None, None], atol=1e-2)


def test_colours_are_those_of_the_frame_in_rgb_order():
    red = np.zeros((20, 20, 3), np.uint8)
    red[..., 0] = 255
    for colour in (Colour("bt601"), Colour("bt709", full_range=True), Colour("bt2020")):
        got = crop(Planes.from_rgb(red, colour), POINTS + 5, RGB)
        levels = got * np.reshape(RGB.std, (3, 1, 1)) + np.reshape(RGB.mean, (3, 1, 1))
        np.testing.assert_allclose(levels.mean(axis=(1, 2)), (255, 0, 0), atol=3)


def test_a_large_face_is_averaged_not_skipped_over():
    """Stripes finer than a pixel of the crop turn into their mean."""
    planes = Planes.allocate((200, 200), Colour(full_range=True))
    planes.y[:] = np.where(np.arange(200) % 2, 255, 0)
    for scale in (2.0, 4.0, 6.0):
        out = crop(planes, POINTS * np.float32(scale) + 40, GREY)
        assert np.abs(out * 64 + 128 - 127.5).max() < 64


def test_planes_from_grey_keep_every_level():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(planes_from_grey(image).to_rgb()[..., 1], image)


def test_the_probe_tells_specs_apart_and_repeats_itself():
    assert probe(GREY) == probe(GREY)
    assert probe(GREY) != probe(dataclasses.replace(GREY, mean=(127.0,)))
    assert len(probe(RGB)) == 16


def test_wrong_slots_and_landmarks_are_refused():
    planes = noise((20, 20), Colour(), 0)
    with pytest.raises(ValueError, match="out must be"):
        crop_into(planes, POINTS, GREY, np.empty((1, 9, 9), np.float32))
    with pytest.raises(ValueError, match="out must be"):
        crop_into(planes, POINTS, GREY, np.empty(GREY.shape))
    with pytest.raises(ValueError, match="out must be"):
        crop_into(planes, POINTS, GREY, np.empty((1, 10, 9), np.float32).swapaxes(1, 2)[:, ::-1])
    with pytest.raises(ValueError, match="do not span"):
        crop(planes, POINTS * np.float32(np.inf), GREY)


@pytest.mark.parametrize("spec", [GREY, RGB])
def test_grey_levels_are_what_is_normalised_otherwise(spec):
    planes = noise((60, 50), Colour("bt601"), 3)
    landmarks = (POINTS * 2.5 + 9).astype(np.float32)
    levels = np.empty(spec.shape, np.uint8)
    crop_into(planes, landmarks, spec, levels)
    mean, std = (np.array(each, np.float32)[:, None, None] for each in (spec.mean, spec.std))
    exact = crop(planes, landmarks, spec) * std + mean
    np.testing.assert_allclose(levels, exact, atol=0.5001)


def test_other_numbers_are_refused():
    with pytest.raises(ValueError, match="float32 or uint8"):
        crop_into(noise((60, 50), Colour(), 0), POINTS, GREY, np.empty(GREY.shape, np.float64))
