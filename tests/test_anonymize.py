"""Covering faces: nothing of a face is left, and misses are covered from both sides."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_faces import face, frame

from streamface.anonymize import SOLID_YUV, Cover, CoverSettings, cover, with_margin
from streamface.frame import Colour, Planes
from streamface.settings import COVERS, SYNTH

SIZE = (160, 120)
WAYS = [each for each in COVERS if each != SYNTH]


def noisy(seed=0, size=SIZE):
    planes = Planes.allocate(size, Colour())
    rng = np.random.default_rng(seed)
    for plane in (planes.y, planes.u, planes.v):
        plane[:] = rng.integers(100, 200, plane.shape)
    return planes


def at(index, *boxes, ids=None, size=SIZE):
    """Return frame ``index`` of a 10 fps stream with faces in these boxes."""
    faces = [face(box, track_id=ids[i] if ids else i + 1) for i, box in enumerate(boxes)]
    made = frame(*faces, index=index, pts=index, size_px=size, time_base=Fraction(1, 10))
    return dataclasses.replace(made, planes=noisy(index, size))


def run(frames, **options):
    stage = Cover(CoverSettings(mode="solid", **options))
    out = []
    for each in frames:
        out += stage.process([each])
    return out + list(stage.finish()), stage.tally


def solid_share(planes, box):
    x0, y0, x1, y1 = (round(v) for v in box)
    return (planes.y[y0:y1, x0:x1] == SOLID_YUV[0]).mean()


BOX = (60.0, 40.0, 90.0, 80.0)


@pytest.mark.parametrize("mode", WAYS)
def test_detail_inside_is_gone_and_far_away_untouched(mode):
    planes, before = noisy(), noisy()
    box = with_margin(np.array(BOX), 0.35)
    cover(planes, box, mode)
    x0, y0, x1, y1 = map(int, BOX)
    hidden = planes.y[y0:y1, x0:x1].astype(float)
    # Neighbouring pixels of noise differ by 33 on average; of what is left by next to nothing.
    assert np.abs(np.diff(hidden, axis=1)).mean() < 4
    for part in ("y", "u", "v"):
        now, was = getattr(planes, part), getattr(before, part)
        assert np.array_equal(now[:2], was[:2])
        assert np.array_equal(now[:, :2], was[:, :2])
        assert not np.array_equal(now, was)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.floats(-300, 400), st.floats(-300, 400)),
    st.tuples(st.floats(0.1, 500), st.floats(0.1, 500)),
    st.sampled_from(WAYS),
    st.sampled_from([(160, 120), (161, 121), (3, 3), (1, 1)]),
)
def test_any_box_of_any_picture_is_taken(corner, extent, mode, size):
    planes = noisy(size=size)
    x, y = corner
    cover(planes, np.array((x, y, x + extent[0], y + extent[1])), mode)
    column, row = math.floor(x + extent[0] / 2), math.floor(y + extent[1] / 2)
    if mode == "solid" and 0 <= column < size[0] and 0 <= row < size[1]:
        assert planes.y[row, column] == SOLID_YUV[0]  # the pixel that the middle lies in


def test_a_face_box_is_wholly_covered():
    planes = noisy()
    cover(planes, with_margin(np.array(BOX), 0.35), "solid")
    assert solid_share(planes, BOX) == 1


def test_frames_come_out_in_order_once_and_late():
    stage = Cover(CoverSettings(look_ahead_s=0.5))
    came = [[f.index for f in stage.process([at(i, BOX)])] for i in range(8)]
    assert came == [[], [], [], [], [], [0], [1], [2]]
    assert [f.index for f in stage.finish()] == [3, 4, 5, 6, 7]


def test_a_face_is_covered_before_it_is_found_and_after_it_is_lost():
    seen = range(12, 15)
    frames, tally = run([at(i, *([BOX] if i in seen else [])) for i in range(40)])
    covered = [i for i, each in enumerate(frames) if solid_share(each.planes, BOX) == 1]
    assert covered == list(range(2, 25))  # one second, ten frames, on either side
    assert tally.seen == 3
    assert tally.unseen == {1: 20}


def test_a_gap_is_covered_on_the_way_between():
    later = (100.0, 40.0, 130.0, 80.0)
    known = {0: BOX, 8: later}
    frames, tally = run([at(i, *([known[i]] if i in known else [])) for i in range(9)])
    half_way = tuple((a + b) / 2 for a, b in zip(BOX, later, strict=True))
    assert solid_share(frames[4].planes, half_way) == 1
    assert tally.unseen == {1: 7}


def test_a_face_that_walks_in_is_covered_where_it_came_from():
    """Found late at x = 60 while moving 8 px a frame, it stood at x = 28 four frames before."""
    boxes = {i: (60.0 + 8 * (i - 6), 40.0, 90.0 + 8 * (i - 6), 80.0) for i in range(6, 10)}
    frames, _ = run([at(i, *([boxes[i]] if i in boxes else [])) for i in range(10)])
    came_from = (28.0, 40.0, 58.0, 80.0)
    assert solid_share(frames[2].planes, came_from) == 1


def test_without_look_ahead_nothing_is_held_back():
    stage = Cover(CoverSettings(look_ahead_s=0.0))
    assert [f.index for f in stage.process([at(0, BOX)])] == [0]


def test_streams_do_not_share_tracks():
    first = [at(i, BOX) for i in range(3)]
    second = [dataclasses.replace(at(i), stream=1) for i in range(3)]
    frames, _ = run([*first, *second])
    assert [(f.stream, f.index) for f in frames] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert all(solid_share(f.planes, BOX) == 1 for f in frames[:3])
    assert all(solid_share(f.planes, BOX) == 0 for f in frames[3:])


def test_two_people_are_covered_at_once():
    other = (10.0, 10.0, 30.0, 35.0)
    frames, tally = run([at(i, BOX, other) for i in range(3)])
    for each in frames:
        assert solid_share(each.planes, BOX) == solid_share(each.planes, other) == 1
    assert tally.seen == 6


def test_what_is_held_back_is_bounded_in_memory(monkeypatch):
    monkeypatch.setattr("streamface.anonymize._HELD_BYTES", 3 * 160 * 120 * 3 // 2)
    stage = Cover(CoverSettings(look_ahead_s=60.0))
    came = [len(stage.process([at(i, BOX)])) for i in range(6)]
    assert came == [0, 0, 0, 1, 1, 1]
    assert stage.tally.cut_short
