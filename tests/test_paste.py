"""A re-made face goes back to where it was cut from, and nothing else is touched."""

from __future__ import annotations

import math

import naive_paste
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamface import paste as pasting
from streamface.align import transform
from streamface.card import InputSpec
from streamface.frame import Colour, Planes
from streamface.kernels.paste import blend_field
from streamface.paste import Patch, face_mask, grain_of, head_mask, paste
from streamface.preprocess import crop_into

SIDE = 48
POINTS = np.array([(40.5, 44.3), (86.6, 44.3), (63.6, 70.9), (43.6, 89.2), (83.6, 89.2)]) * 3 / 8
POINTS = POINTS.astype(np.float32)
SPEC = InputSpec((SIDE, SIDE), "rgb", POINTS, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
ALL = np.ones((SIDE, SIDE), np.float32)
COLOURS = [
    Colour(matrix, full_range)
    for matrix in ("bt601", "bt709", "bt2020")
    for full_range in (False, True)
]


def turned(scale, angle, centre):
    """Return where the landmarks of a face of a size and an angle are in the frame."""
    c, s = scale * math.cos(angle), scale * math.sin(angle)
    return ((POINTS - SIDE / 2) @ np.array([[c, s], [-s, c]]) + centre).astype(np.float32)


def smooth_picture(size_px, colour=None):
    """Return planes with waves longer than a face's features are wide."""
    width, height = size_px
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [np.sin(rows / 31 + k) + np.cos(columns / 37 - k) for k in range(3)]
    return Planes.from_rgb((128 + 40 * np.stack(waves, -1)).astype(np.uint8), colour)


def random_planes(size_px, seed=0, colour=None):
    rng = np.random.default_rng(seed)
    planes = Planes.allocate(size_px, colour or Colour())
    for plane in parts(planes):
        plane[:] = rng.integers(0, 256, plane.shape)
    return planes


def grey_planes(size_px, level=120):
    planes = Planes.allocate(size_px, Colour())
    for plane, value in zip(parts(planes), (level, 128, 128), strict=True):
        plane[:] = value
    return planes


def parts(planes):
    return planes.y, planes.u, planes.v


def copied(planes):
    return [plane.copy() for plane in parts(planes)]


def cut(planes, landmarks):
    out = np.empty(SPEC.shape, np.float32)
    crop_into(planes, landmarks, SPEC, out)
    return out


def flat(level):
    return np.full((3, SIDE, SIDE), level, np.float32)


def assert_same(planes, before):
    for plane, was in zip(parts(planes), before, strict=True):
        np.testing.assert_array_equal(plane, was)


def largest_change(planes, before):
    pairs = zip(parts(planes), before, strict=True)
    return [int(np.abs(plane.astype(int) - was).max()) for plane, was in pairs]


@settings(max_examples=120, deadline=None)
@given(
    size=st.tuples(st.integers(1, 25), st.integers(1, 25)),
    field=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    angle=st.sampled_from([0.0, math.pi / 2, 0.4, -2.5]),
    density=st.floats(0.2, 3),
    shift=st.tuples(st.floats(-9, 9), st.floats(-9, 9)),
    drawn=st.sampled_from([None, 0.0, 1.5, -2.0]),
    seed=st.integers(0, 9),
)
@example((9, 9), (9, 9), 0.0, 1.0, (0.0, 0.0), None, 0)  # sample on sample
@example((20, 20), (1, 1), 0.0, 0.1, (-0.5, -0.5), 1.0, 1)  # one sample has no neighbours
def test_the_kernel_does_what_its_slow_twin_does(  # noqa: PLR0917 - hypothesis fills them
    size, field, angle, density, shift, drawn, seed
):
    rng = np.random.default_rng(seed)
    plane = rng.integers(0, 256, size, dtype=np.uint8)
    gain, offset, grain = (rng.random(field).astype(np.float32) for _ in range(3))
    fields = (gain, offset * 300 - 100, grain * 20)
    c, s = density * math.cos(angle), density * math.sin(angle)
    to_field = np.array([[c, -s, shift[0]], [s, c, shift[1]]])
    x0, y0 = rng.integers(0, size[1]), rng.integers(0, size[0])
    area = (int(x0), int(y0), int(rng.integers(x0, size[1] + 1)), size[0])
    expected = naive_paste.blend_field(plane, to_field, area, fields, drawn or 0.0)
    unsure = naive_paste.on_the_edge(size, to_field, field[::-1])
    noise = np.full(0 if drawn is None else 8, drawn or 0.0, np.float32)
    blend_field(plane, to_field, area, *fields, noise, seed)
    assert np.abs(plane - expected)[~unsure].max(initial=0) <= 0.51


def test_nothing_beyond_the_fields_is_read():
    """Zero times what lies behind them would be harmless, were it not for NaN."""
    buffers = np.full((3, 6, 5), np.nan, np.float32)
    fields = buffers[:, 1:-1]
    fields[:] = 1
    plane = np.zeros((4, 5), np.uint8)
    blend_field(plane, np.eye(2, 3), (0, 0, 5, 4), *fields, np.ones(1, np.float32), 0)
    assert np.unique(plane).tolist() == [2]


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 2, -2.0])
@pytest.mark.parametrize("scale", [0.3, 1.0, 1.7, 4.0])
def test_where_nothing_is_to_change_nothing_changes(scale, angle):
    planes = random_planes((90, 70))
    before = copied(planes)
    rng = np.random.default_rng(1)
    face = rng.uniform(0, 255, (3, SIDE, SIDE)).astype(np.float32)
    mask = rng.random((SIDE, SIDE)).astype(np.float32)
    paste(planes, turned(scale, angle, (45, 35)), SPEC, Patch(face, face.copy(), mask))
    assert_same(planes, before)


@pytest.mark.parametrize("base", [None, flat(90)])
def test_where_the_mask_is_empty_nothing_changes(base):
    planes = random_planes((90, 70))
    before = copied(planes)
    patch = Patch(flat(200), base, 0 * ALL, grain=5.0)
    paste(planes, turned(1.3, 0.2, (45, 35)), SPEC, patch)
    assert_same(planes, before)


@pytest.mark.parametrize("angle", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("scale", [0.4, 0.7, 1.0, 1.5, 2.6, 4.5])
def test_a_face_that_was_cut_out_goes_back_to_where_it_was(scale, angle):
    planes = smooth_picture((240, 231))
    landmarks = turned(scale, angle, (117.3, 118.6))
    before = copied(planes)
    paste(planes, landmarks, SPEC, Patch(cut(planes, landmarks), None, ALL))
    # A pixel of shift would show as 2 levels in luma; clipped borders of the crop are worth one.
    assert max(largest_change(planes, before)) <= 2
    assert np.abs(planes.y.astype(int) - before[0]).mean() < 0.3


def test_a_pattern_lands_on_the_pixels_it_was_made_for():
    """Landmarks in the template's own place: pixels of the crop are pixels of the frame."""
    planes = grey_planes((SIDE, SIDE))
    pattern = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    made = np.ascontiguousarray(pattern.transpose(2, 0, 1), np.float32)
    paste(planes, POINTS, SPEC, Patch(made, None, ALL))
    wanted = Planes.from_rgb(pattern)
    for plane, expected in zip(parts(planes), parts(wanted), strict=True):
        assert np.abs(plane.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("colour", COLOURS, ids=str)
@pytest.mark.parametrize("rgb", [(200, 120, 90), (60, 80, 140), (255, 0, 0), (255, 255, 255)])
def test_a_flat_colour_is_the_frames_own_after_it(colour, rgb):
    planes = smooth_picture((80, 80), colour)
    made = np.ones((3, SIDE, SIDE), np.float32) * np.reshape(rgb, (3, 1, 1)).astype(np.float32)
    paste(planes, turned(1.2, 0.1, (40, 40)), SPEC, Patch(made, None, ALL))
    middle = [planes.y[40, 40], planes.u[20, 20], planes.v[20, 20]]
    assert np.abs(np.array(middle, int) - colour.from_rgb(*rgb)).max() <= 1


@pytest.mark.parametrize("size_px", [(91, 71), (90, 71), (1, 1), (2, 3)])
def test_odd_frames_are_no_different(size_px):
    planes = grey_planes(size_px)
    paste(planes, turned(4.0, 0.0, (45, 35)), SPEC, Patch(flat(200), None, ALL))
    assert [np.unique(plane).tolist() for plane in parts(planes)] == [[188], [128], [128]]


@pytest.mark.parametrize("centre", [(0, 0), (90, 35), (45, 71), (-30, 20)])
def test_a_face_that_is_partly_outside_is_pasted_where_there_is_a_frame(centre):
    planes = grey_planes((91, 71))
    paste(planes, turned(1.5, 0.3, centre), SPEC, Patch(flat(200), None, ALL))
    assert set(np.unique(planes.y)) >= {120, 188}


@pytest.mark.parametrize("centre", [(-100, 35), (45, -1e6), (300, 300), (1e12, 0)])
def test_a_face_that_is_wholly_outside_is_no_error(centre):
    planes = random_planes((91, 71))
    before = copied(planes)
    paste(planes, turned(1.5, 0.3, (0, 0)) + np.float32(centre), SPEC, Patch(flat(9), None, ALL))
    assert_same(planes, before)


def test_a_face_of_less_than_a_pixel_is_no_error():
    planes = grey_planes((20, 20))
    paste(planes, turned(0.01, 0.0, (10.5, 10.5)), SPEC, Patch(flat(200), None, ALL))
    assert np.count_nonzero(planes.y != 120) == 1


def test_little_changes_keep_the_detail_of_the_source():
    """Where the patch is three levels brighter than its base, so is the source, whatever it is."""
    planes = random_planes((60, 60))
    planes.y[:] = planes.y // 2 + 60
    before = copied(planes)
    paste(planes, turned(1.0, 0.0, (30, 30)), SPEC, Patch(flat(103.5), flat(100), ALL))
    changed = planes.y.astype(int) - before[0]
    assert set(np.unique(changed[10:50, 10:50])) <= {3, 4}  # 3.5 of 255 are 3.0 of 219


def test_large_changes_drop_the_detail_of_the_source():
    planes = random_planes((60, 60))
    paste(planes, turned(1.0, 0.0, (30, 30)), SPEC, Patch(flat(200), flat(100), ALL))
    assert set(np.unique(planes.y[10:50, 10:50])) == {188}


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("made", [104.0, 117.0, 128.0, 170.0])
@pytest.mark.parametrize("mask", [0.3, 1.0])
def test_planes_follow_the_formula(made, mask, full_range):
    planes = random_planes((60, 60), colour=Colour(full_range=full_range))
    before = [plane[6:24, 6:24].astype(float) for plane in parts(planes)]
    share = min(max((abs(made - 100) - 10) / 30, 0), 1)
    kept = 1 - share * share * (3 - 2 * share)
    paste(planes, turned(1.0, 0.0, (30, 30)), SPEC, Patch(flat(made), flat(100), mask * ALL))
    gain, zero = (1, 0) if full_range else (219 / 255, 16)
    y = naive_paste.blended(before[0], made * gain + zero, 100 * gain + zero, mask, kept)
    u = naive_paste.blended(before[1], 128, 128, mask, kept)
    assert np.abs(planes.y[6:24, 6:24] - np.clip(y, 0, 255)).max() < 0.6
    assert np.abs(planes.u[6:24, 6:24] - u).max() < 0.6


@pytest.mark.parametrize("scale", [1.7, 4.0])
def test_a_sharp_edge_of_what_changes_leaves_no_ring(scale):
    """Cubic resizing overshoots; what is added must overshoot with what is taken away."""
    planes = grey_planes((200, 200))
    mask = np.zeros((SIDE, SIDE), np.float32)
    mask[12:36, 12:36] = 1
    landmarks = turned(scale, 0.0, (100, 100))
    paste(planes, landmarks, SPEC, Patch(flat((120 - 16) * 255 / 219), None, mask))
    assert set(np.unique(planes.y)) <= {119, 120, 121}


@pytest.mark.parametrize("scale", [1.7, 4.0])
def test_no_pixel_moves_away_from_the_patch(scale):
    planes = random_planes((200, 200))
    before = copied(planes)
    mask = np.zeros((SIDE, SIDE), np.float32)
    mask[12:36, 12:36] = 1
    paste(planes, turned(scale, 0.1, (100, 100)), SPEC, Patch(flat(128), None, mask))
    target = 16 + 128 * 219 / 255
    assert (np.abs(planes.y - target) <= np.abs(before[0] - target) + 0.5).all()


def test_grain_is_as_strong_as_was_asked_for_and_only_in_luma():
    planes = grey_planes((200, 200))
    patch = Patch(flat((120 - 16) * 255 / 219), None, ALL, grain=3.0)
    paste(planes, turned(3.0, 0.4, (100, 100)), SPEC, patch)
    inside = planes.y[60:140, 60:140].astype(float)
    assert inside.std() == pytest.approx(3.0, rel=0.08)
    assert inside.mean() == pytest.approx(120, abs=0.2)
    assert np.unique(planes.u).tolist() == np.unique(planes.v).tolist() == [128]


def test_grain_follows_the_mask_and_the_seed():
    mask = ALL * np.linspace(0, 1, SIDE, dtype=np.float32)
    patch = Patch(flat((120 - 16) * 255 / 219), None, mask, grain=5.0)
    pictures = []
    for seed in (1, 1, 2, -(2**70)):
        planes = grey_planes((192, 192))
        paste(planes, turned(4.0, 0.0, (96, 96)), SPEC, patch, seed=seed)
        pictures.append(planes.y.astype(float))
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert np.std(pictures[0] - pictures[2]) > 2
    assert pictures[0][:, :8].std() < 1
    assert pictures[0][:, -8:].std() > 4


def test_grain_shows_no_pattern():
    """No row, and no frame, repeats another one at any shift, and neighbours are unrelated."""
    frames = []
    for seed in (5, 6):
        planes = grey_planes((192, 192))
        paste(planes, turned(4.0, 0.0, (96, 96)), SPEC, Patch(flat(121), None, ALL, 8.0), seed=seed)
        frames.append(planes.y - planes.y.mean())
    for a, b in ((frames[0], frames[0]), (frames[0], frames[1])):
        spectrum = np.fft.fft2(a) * np.conj(np.fft.fft2(b))
        likeness = np.fft.ifft2(spectrum).real / np.sqrt((a * a).sum() * (b * b).sum())
        if a is b:
            assert likeness[0, 0] == pytest.approx(1)
            likeness[0, 0] = 0
        assert np.abs(likeness).max() < 6 / 192  # six standard deviations of chance


@pytest.mark.parametrize("level", [0, 60, 120, 200])
@pytest.mark.parametrize(("sigma", "least", "most"), [(0, 0, 0.5), (3, 2, 4), (30, 6, 6)])
def test_the_grain_of_a_face_is_found(level, sigma, least, most):
    planes = smooth_picture((160, 160))
    noise = sigma * np.random.default_rng(level).standard_normal((160, 160))
    planes.y[:] = np.clip(np.rint(planes.y / 4 + 70 + noise), 0, 255)
    for angle in (0.0, 0.7, math.pi / 2):
        assert least <= grain_of(planes, turned(2.5, angle, (80, 80))) <= most


def test_features_of_a_face_are_not_taken_for_grain():
    planes = grey_planes((160, 160))
    landmarks = turned(2.5, 0.0, (80, 80))
    nose = transform(np.eye(2, 3), landmarks)[2].round().astype(int)
    planes.y[nose[1] - 20 : nose[1], nose[0] - 3 : nose[0] + 3] = 200
    planes.y[nose[1] : nose[1] + 4, nose[0] - 9 : nose[0] + 9] = 40
    assert grain_of(planes, landmarks) == 0


def test_there_is_no_grain_where_there_is_no_face_to_look_at():
    planes = random_planes((160, 160))
    for scale, centre in ((0.4, (80, 80)), (2.0, (-200, 80)), (2.0, (80, 1e9)), (2.0, (80, 202))):
        assert grain_of(planes, turned(scale, 0.0, centre)) == 0
    assert grain_of(random_planes((3, 3)), turned(2.0, 0.0, (1, 1))) == 0


@pytest.mark.parametrize("side", [SIDE, 128])
def test_the_mask_of_a_face_covers_it_and_ends_before_the_border(side):
    points = (POINTS * np.float32(side / SIDE)).astype(np.float32)
    spec = InputSpec((side, side), "rgb", points, (0.0,) * 3, (1.0,) * 3)
    mask = face_mask(spec)
    assert mask.shape == (side, side)
    assert not any(mask[edge].any() for edge in (0, -1, np.s_[:, 0], np.s_[:, -1]))
    assert all(mask[int(y), int(x)] == 1 for x, y in points)
    eyes, mouth = points[0, 1], points[3, 1]
    chin, hairline = mouth + 0.66 * (mouth - eyes), eyes - 0.8 * (mouth - eyes)
    assert 0.2 < mask[int(chin), int(points[2, 0])] < 1
    assert 0.2 < mask[int(hairline), int(points[2, 0])] < 1
    assert max(np.abs(np.diff(mask, axis=axis)).max() for axis in (0, 1)) < 16 / side  # soft


def test_the_mask_of_a_face_is_made_once_and_cannot_be_spoilt():
    again = InputSpec((SIDE, SIDE), "rgb", POINTS.copy(), (9.0,) * 3, (2.0,) * 3)
    assert face_mask(SPEC) is face_mask(again)
    with pytest.raises(ValueError, match="read-only"):
        face_mask(SPEC)[0, 0] = 1


def test_a_mask_made_by_face_mask_can_be_pasted_with():
    planes = grey_planes((100, 100))
    paste(planes, turned(1.5, 0.0, (50, 50)), SPEC, Patch(flat(200), None, face_mask(SPEC)))
    assert planes.y[50, 50] == 188
    assert planes.y[50, 14] == 120  # beside the face, inside the crop


def test_wrong_patches_and_landmarks_are_refused():
    planes = random_planes((20, 20))
    with pytest.raises(ValueError, match="patch must be"):
        paste(planes, POINTS, SPEC, Patch(flat(0)[:, :9], None, ALL))
    with pytest.raises(ValueError, match="patch must be"):
        paste(planes, POINTS, SPEC, Patch(flat(0), flat(0)[:1], ALL))
    with pytest.raises(ValueError, match="mask must be"):
        paste(planes, POINTS, SPEC, Patch(flat(0), None, ALL[:9]))
    with pytest.raises(ValueError, match="do not span"):
        paste(planes, POINTS * np.float32(np.inf), SPEC, Patch(flat(0), None, ALL))


def test_fields_are_made_finer_for_large_faces_and_coarser_for_small_ones():
    sizes = [pasting._field_size((48, 40), density) for density in (0.1, 0.6, 1.0, 1.4, 2.1, 90.0)]
    assert sizes == [(192, 160), (96, 80), (48, 40), (48, 40), (24, 20), (1, 1)]


def test_the_mask_of_a_head_leaves_little_of_the_crop_to_see():
    mask = head_mask(SPEC)
    edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    assert not edge.any()
    assert mask.mean() > 0.75
    assert (mask >= face_mask(SPEC) - 1e-3).all()
