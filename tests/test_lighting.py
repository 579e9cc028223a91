"""The light of one face on another."""

from __future__ import annotations

import numpy as np
import pytest

from streamface.lighting import Lighting

SIDE = 16
ROWS, COLUMNS = np.indices((SIDE, SIDE))
WEIGHTS = np.exp(-((ROWS - 7.5) ** 2 + (COLUMNS - 7.5) ** 2) / 40).astype(np.float32)
LIGHT = Lighting(WEIGHTS)


def pictures(seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(60, 180, (3, SIDE, SIDE)).astype(np.float32)


def test_a_plane_is_its_own_plane():
    slopes = np.stack([2.0 * COLUMNS - ROWS + 5, 100 + 0 * ROWS, 3.0 * ROWS]).astype(np.float32)
    np.testing.assert_allclose(LIGHT.plane(slopes), slopes, atol=1e-3)


def test_no_other_plane_fits_better():
    picture = pictures()
    best = ((picture - LIGHT.plane(picture)) ** 2 * WEIGHTS).sum((1, 2))
    for change in (1.0 + 0 * ROWS, COLUMNS - 7.5, ROWS - 7.5):
        for step in (-0.1, 0.1):
            other = LIGHT.plane(picture) + np.float32(step) * change
            assert (((picture - other) ** 2 * WEIGHTS).sum((1, 2)) > best).all()


def test_a_drawn_face_takes_the_light_and_nothing_else():
    drawn, crop = pictures(1), pictures(2) / 127.5 - 1
    lit = LIGHT.cast_on(drawn, crop)
    source = (crop + 1) * 127.5
    np.testing.assert_allclose(LIGHT.plane(lit), LIGHT.plane(source), atol=1.0)
    np.testing.assert_allclose(
        lit - LIGHT.plane(lit), drawn - LIGHT.plane(drawn), atol=1.0
    )  # but for what was clipped


def test_a_drawn_face_has_no_more_contrast_than_the_crop_and_never_loses_all():
    drawn, crop = pictures(1), pictures(2) / 127.5 - 1
    own = LIGHT.contrast(drawn)
    for softer, left in ((0.8, 0.8), (0.1, 0.5)):
        soft = LIGHT.plane(crop) + np.float32(softer) * (crop - LIGHT.plane(crop))
        lit = LIGHT.cast_on(drawn, soft)
        wanted = max(left * own, softer * LIGHT.contrast((crop + 1) * 127.5))
        assert LIGHT.contrast(lit) == pytest.approx(min(own, wanted), rel=0.1)


def test_a_projection_does_to_pixels_what_plane_does():
    picture = pictures()
    by_hand = picture.reshape(3, -1) @ LIGHT.projection.T
    np.testing.assert_allclose(by_hand.reshape(picture.shape), LIGHT.plane(picture), atol=1e-2)
    assert np.linalg.matrix_rank(LIGHT.projection, tol=1e-4) == 3


def test_pictures_of_one_colour_stay_within_range():
    crop = np.full((3, SIDE, SIDE), 1.0, np.float32)
    assert LIGHT.cast_on(pictures(), crop).max() == pytest.approx(255, abs=1e-3)
