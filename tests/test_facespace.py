"""What makes a face odd: not its light, but what no face has."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (extra [train])")

from streamface.training import facespace  # noqa: E402

SIDE = 64


@pytest.fixture(scope="module")
def faces():
    """Return (200, 3, S, S): smooth pictures that differ in six ways, and a little in any other."""
    random = torch.Generator().manual_seed(0)
    ways = torch.randn(6, 3, 8, 8, generator=random)
    ways = torch.nn.functional.interpolate(ways, (SIDE, SIDE), mode="bilinear").flatten(1)
    mixed = torch.randn(200, 6, generator=random) @ ways
    rest = 0.02 * torch.randn(200, 3 * SIDE * SIDE, generator=random)
    return (0.1 * mixed + rest + 0.2 * ways[0]).reshape(-1, 3, SIDE, SIDE)


@pytest.fixture(scope="module")
def space(faces):
    return facespace.fit(faces[:150])


def test_the_average_face_it_was_fitted_to_has_an_oddness_of_one(space, faces):
    assert space(faces[:150]).mean().item() == pytest.approx(1, abs=0.01)
    assert 0.5 < space(faces[150:]).median() < 2


def test_what_no_face_has_is_odd_in_brightness_and_in_colour(space, faces):
    usual = space(faces[150:])
    stripes = 0.1 * torch.from_numpy(np.indices((SIDE, SIDE))[1] // 4 % 2).float()
    assert (space(faces[150:] + stripes) > usual).all()
    tinted = faces[150:].clone()
    tinted[:, 0] += stripes
    assert (space(tinted) > usual).all()


def test_light_and_contrast_make_no_face_odd(space, faces):
    slope = torch.linspace(-0.3, 0.3, SIDE)
    lit = 0.8 * faces[150:] + 0.1 + slope + slope[:, None]
    np.testing.assert_allclose(space(lit), space(faces[150:]), rtol=0.02)


def test_few_faces_make_a_small_space():
    some = facespace.fit(torch.rand(10, 3, SIDE, SIDE) * 2 - 1)
    assert some.get_buffer("axes").shape[1] == 5
    assert torch.isfinite(some(torch.zeros(2, 3, SIDE, SIDE))).all()
