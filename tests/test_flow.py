"""Optical flow of one real face that is moved, scaled and turned by known amounts."""

from __future__ import annotations

import math

import cv2
import naive_motion
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.data import astronaut

from streamface.flow import FaceFlow
from streamface.frame import Planes
from streamface.geometry import apply_similarity, iou, move_box
from streamface.kernels import motion

BOX = (178.0, 63.0, 268.0, 177.0)
LANDMARKS = np.array([(200, 102), (247, 103), (220, 125), (199, 143), (240, 144)], np.float32)


def similarity(scale=1.0, angle=0.0, shift=(0.0, 0.0), centre=(223.0, 120.0)):
    """(2, 3) matrix that scales and turns about a centre and then shifts."""
    c, s = scale * math.cos(angle), scale * math.sin(angle)
    turn = np.array([[c, -s], [s, c]])
    return np.column_stack([turn, np.add(centre, shift) - turn @ centre])


def scene(matrix=None, size_px=(512, 512)):
    """Planes of the portrait moved by a matrix."""
    moved = cv2.warpAffine(
        astronaut(),
        similarity() if matrix is None else matrix,
        size_px,
        flags=cv2.INTER_AREA,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return Planes.from_rgb(np.asarray(moved, np.uint8))


def follow(matrix, start=None, shift_px=(0.0, 0.0)):
    start = similarity() if start is None else start
    flow, old = FaceFlow(), scene(start)
    box, landmarks = move_box(start, BOX), apply_similarity(start, LANDMARKS)
    patch = flow.look(old, box)
    both = matrix @ np.vstack([start, [0, 0, 1]])
    return flow.follow(patch, scene(both), box, landmarks, shift_px), both


@pytest.mark.parametrize(
    "matrix",
    [
        similarity(),
        similarity(shift=(9, -6)),
        similarity(shift=(0.4, 0.3)),
        similarity(scale=1.06, shift=(3, 2)),
        similarity(scale=0.95, angle=0.05),
        similarity(angle=-0.1),
    ],
)
def test_box_and_landmarks_follow_a_known_motion(matrix):
    step, both = follow(matrix)
    assert iou(step.box, move_box(both, BOX)) > 0.95
    assert np.abs(step.landmarks - apply_similarity(both, LANDMARKS)).max() < 2


@pytest.mark.parametrize("scale", [0.25, 0.5, 2.0])
def test_faces_of_any_size_are_followed(scale):
    start = similarity(scale, shift=(0, 100))
    step, both = follow(similarity(shift=(10 * scale, 4 * scale)), start)
    assert iou(step.box, move_box(both, BOX)) > 0.9


def test_a_sudden_long_motion_is_found_again():
    step, both = follow(similarity(shift=(34, 10)))
    assert iou(step.box, move_box(both, BOX)) > 0.9


def test_an_expected_motion_may_be_longer_than_the_face():
    step, both = follow(similarity(shift=(150, 40)), shift_px=(145, 42))
    assert iou(step.box, move_box(both, BOX)) > 0.9


def test_a_face_that_is_gone_is_lost():
    flow, old = FaceFlow(), scene()
    patch = flow.look(old, BOX)
    rng = np.random.default_rng(0)
    noise = Planes(rng.integers(0, 256, (512, 512), np.uint8), old.u, old.v)
    flat = Planes(np.full((512, 512), 90, np.uint8), old.u, old.v)
    for planes in (noise, flat):
        assert flow.follow(patch, planes, BOX, LANDMARKS) is None


def test_a_box_outside_the_frame_has_no_patch():
    assert FaceFlow().look(scene(), (900, 900, 950, 950)) is None
    assert FaceFlow().look(scene(), (-80, 10, -60, 40)) is None


@pytest.mark.parametrize("box", [(-30, 63, 60, 177), (470, 400, 560, 520), (0, 0, 3, 3)])
def test_patches_at_the_edge_stay_inside(box):
    flow = FaceFlow()
    planes = scene()
    patch = flow.look(planes, box)
    assert patch is not None
    assert 0 <= patch.x0 <= 512 - patch.luma.shape[1] * patch.block
    assert 0 <= patch.y0 <= 512 - patch.luma.shape[0] * patch.block
    landmarks = np.full((5, 2), 20, np.float32)
    flow.follow(patch, planes, box, landmarks, (-1000, 1000))


def test_points_survive_the_way_into_a_patch_and_back():
    patch = FaceFlow().look(scene(), (100, 100, 400, 400))
    assert patch.block > 1
    assert np.allclose(patch.to_frame(patch.to_patch(LANDMARKS)), LANDMARKS, atol=1e-3)


def test_portraits_of_one_face_agree_whatever_its_size_and_turn():
    flow = FaceFlow()
    portraits = []
    for start in (similarity(), similarity(0.5), similarity(1.6, 0.4), similarity(0.9, -0.3)):
        patch = flow.look(scene(start), move_box(start, BOX))
        portraits.append(flow.portrait(patch, apply_similarity(start, LANDMARKS)))
    assert min(portraits[0] @ other for other in portraits) > 0.9
    elsewhere = flow.portrait(flow.look(scene(), (300, 300, 390, 410)), LANDMARKS + 200)
    assert portraits[0] @ elsewhere < 0.5


def fit(source, target):
    weights, matrix = np.empty(len(source)), np.empty((2, 3))
    motion.fit_similarity(source, target, weights, matrix)
    return matrix, weights


@settings(deadline=None)
@given(
    st.floats(0.9, 1.1),
    st.floats(-0.15, 0.15),
    st.floats(-20, 20),
    st.integers(0, 999),
    st.integers(0, 4),
)
def test_motion_is_recovered_with_a_quarter_of_outliers(scale, angle, shift, seed, outliers):
    rng = np.random.default_rng(seed)
    source = rng.uniform(0, 60, (16, 2)).astype(np.float32)
    true = similarity(scale, angle, (shift, -shift), (30, 30))
    target = apply_similarity(true, source)
    target[:outliers] += rng.uniform(15, 40, (outliers, 2))
    matrix, weights = fit(source, target)
    assert np.abs(apply_similarity(matrix, source) - apply_similarity(true, source)).max() < 2
    assert (weights[:outliers] < 0.1).all()


@settings(deadline=None)
@given(st.integers(0, 9999), st.integers(2, 21))
def test_fitting_kernel_agrees_with_its_twin(seed, count):
    rng = np.random.default_rng(seed)
    source = rng.uniform(0, 60, (count, 2)).astype(np.float32)
    target = (source + rng.normal(3, 1, (count, 2))).astype(np.float32)
    expected, weights = naive_motion.fit_similarity(
        source, target, motion.ROUNDS, motion.TUKEY, motion.MAD_TO_SIGMA
    )
    matrix, found = fit(source, target)
    assert np.allclose(matrix, expected, atol=1e-3)
    assert np.allclose(found, weights, atol=1e-3)


def test_points_in_one_place_only_translate():
    source = np.ones((3, 2), np.float32)
    assert np.allclose(fit(source, source + 4)[0], [[1, 0, 4], [0, 1, 4]])
