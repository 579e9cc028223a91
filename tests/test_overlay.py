"""What is painted is right, legible, inside the frame, and steady."""

import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import sample_faces as made
from hypothesis import given, settings
from hypothesis import strategies as st

from streamface import canvas, overlay, painting
from streamface.canvas import PALETTE
from streamface.frame import EMOTIONS, Colour, Frame, Planes
from streamface.overlay import OverlayStyle, Painter

BOXES = OverlayStyle(labels=False)
LABELS = OverlayStyle(boxes=False)
CENTRE = (280.0, 140.0, 360.0, 240.0)


def copies(planes):
    return [plane.copy() for plane in (planes.y, planes.u, planes.v)]


def painted(*faces, style=None, size_px=(640, 360), painter=None):
    """Paint grey frames and return the frame and where its luma changed."""
    frame = made.frame(*faces, size_px=size_px)
    before = frame.planes.y.copy()
    (painter or Painter(style)).paint(frame)
    return frame, frame.planes.y != before


def extent(changed):
    """Return x0, y0, x1, y1 of the changed pixels."""
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def rgb_at(frame, x, y):
    return frame.planes.to_rgb()[y, x].astype(int)


@pytest.mark.parametrize("label", EMOTIONS)
@pytest.mark.parametrize("colour", [Colour("bt709"), Colour("bt601", full_range=True)])
def test_a_box_has_its_emotions_colour(label, colour):
    frame = made.frame(made.face((100.0, 60.0, 300.0, 260.0), label=label), size_px=(640, 480))
    frame.planes = replace(frame.planes, colour=colour)
    Painter(replace(BOXES, scale=4.0)).paint(frame)  # thick lines reach full chroma
    assert np.abs(rgb_at(frame, 200, 60) - PALETTE[label]).max() <= 6
    assert (frame.planes.y[100:200, 150:250] == 126).all()


def test_uncertain_and_unknown_are_grey():
    for label in ("uncertain", None):
        face = made.face((100.0, 60.0, 300.0, 260.0), label=label)
        frame, _ = painted(face, style=replace(BOXES, scale=4.0), size_px=(640, 480))
        assert np.ptp(rgb_at(frame, 200, 60)) < 25


def test_how_a_face_was_covered_does_not_show():
    pictures = []
    for covered_by in ("detection", "tracking"):
        frame, _ = painted(made.face(CENTRE, covered_by=covered_by))
        pictures.append(copies(frame.planes))
    for one, other in zip(*pictures, strict=True):
        assert (one == other).all()


def test_parts_can_be_hidden():
    nothing, _ = painted(made.face(CENTRE), style=OverlayStyle(boxes=False, labels=False))
    assert (nothing.planes.y == 126).all()
    _, label = painted(made.face(CENTRE), style=LABELS)
    _, bare = painted(made.face(CENTRE), style=replace(LABELS, probs=False))
    _, box = painted(made.face(CENTRE), style=BOXES)
    assert extent(label)[3] <= CENTRE[1]
    assert extent(bare)[2] < extent(label)[2]
    assert extent(box)[1] >= CENTRE[1] - 4


def test_no_faces_leave_the_picture_alone():
    frame, changed = painted()
    assert not changed.any()
    assert (frame.planes.u == 128).all()


@pytest.mark.parametrize("size_px", [(160, 120), (641, 359), (1080, 1920), (3840, 2160)])
def test_text_is_readable_and_modest_at_any_size(size_px):
    width, height = size_px
    box = (0.3 * width, 0.4 * height, 0.6 * width, 0.8 * height)
    _, changed = painted(made.face(box), style=LABELS, size_px=size_px)
    x0, y0, x1, y1 = extent(changed)
    assert 14 <= y1 - y0 <= max(18, 0.06 * min(size_px))
    assert x1 - x0 <= 0.75 * width


@pytest.mark.parametrize("x", [0.0, 290.0, 580.0])
@pytest.mark.parametrize("y", [0.0, 140.0, 280.0])
def test_a_label_is_whole_and_off_the_face_at_every_edge(x, y):
    frame, changed = painted(made.face((x, y, x + 60, y + 80)), style=LABELS)
    x0, y0, x1, y1 = extent(changed)
    middle = extent(painted(made.face((290.0, 140.0, 350.0, 220.0)), style=LABELS)[1])
    assert (x1 - x0, y1 - y0) == (middle[2] - middle[0], middle[3] - middle[1])
    assert y1 <= y or y0 >= y + 80
    # Light text on a dark plate.
    assert frame.planes.y[y0:y1, x0:x1].min() < 60
    assert frame.planes.y[y0:y1, x0:x1].max() > 200


@pytest.mark.parametrize("box", [(-40, -40, 20, 40), (620, 330, 700, 400), (-9, 100, 5, 130)])
def test_a_face_that_is_half_gone_is_still_labelled(box):
    frame, changed = painted(made.face(tuple(map(float, box))), style=LABELS)
    x0, y0, x1, y1 = extent(changed)
    assert frame.planes.y[y0:y1, x0:x1].max() > 200


def test_a_face_outside_the_frame_is_not_drawn():
    for box in ((-90.0, 10.0, -10.0, 90.0), (10.0, 400.0, 90.0, 500.0), (50.0, 50.0, 50.0, 90.0)):
        assert not painted(made.face(box))[1].any()


def test_at_the_top_edge_the_label_is_below_the_face():
    _, changed = painted(made.face((280.0, 2.0, 360.0, 82.0)), style=LABELS)
    assert extent(changed)[1] >= 82


def test_a_small_face_has_a_shorter_label():
    widths = []
    for side in (160, 60, 30, 12):
        box = (200.0, 150.0, 200.0 + side, 150.0 + side)
        x0, _, x1, _ = extent(painted(made.face(box), style=LABELS)[1])
        widths.append(x1 - x0)
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) >= 3


def test_words_are_dropped_in_the_order_gender_percent_id():
    forms = painting._forms(made.face(CENTRE, track_id=3), probs=True)
    assert [" ".join(word.text for word in form) for form in forms] == [
        "#3 happy 87 % female 96 %",
        "#3 happy 87 %",
        "#3 happy",
        "happy",
    ]


@pytest.mark.parametrize(
    ("changes", "probs", "full"),
    [
        ({}, False, "#1 happy female"),
        ({"gender": None}, True, "#1 happy 87 %"),
        ({"label": None}, True, "#1 female 96 %"),
        ({"label": None, "gender": None}, True, "#1"),
        ({"label": "uncertain"}, True, "#1 uncertain female 96 %"),
        ({"track_id": -1}, True, "happy 87 % female 96 %"),
        ({"prob": float("nan")}, True, "#1 happy female 96 %"),
    ],
)
def test_a_label_says_what_is_known(changes, probs, full):
    first = painting._forms(made.face(CENTRE, **changes), probs=probs)[0]
    assert " ".join(word.text for word in first) == full


def test_a_face_of_which_nothing_is_known_gets_a_box_only():
    face = made.face(CENTRE, track_id=-1, label=None, gender=None)
    assert painting._forms(face, probs=True) == []
    _, changed = painted(face)
    assert extent(changed)[1] >= CENTRE[1] - 4


def test_a_plate_does_not_breathe_with_its_digits():
    widths = set()
    for prob in (0.31, 0.47, 0.88, 0.99):
        x0, _, x1, _ = extent(painted(made.face(CENTRE, prob=prob), style=LABELS)[1])
        widths.add(x1 - x0)
    assert len(widths) == 1


def plates(monkeypatch, *faces, style=LABELS, size_px=(640, 360)):
    """Paint and return the rectangle of every plate, labels before charts."""
    rects = []
    rounded = canvas.Canvas.rounded

    def record(self, rect, rgb, radius_px, *, stroke_px=0.0, opacity=1.0):
        if opacity == canvas.PLATE_OPACITY:
            rects.append(rect)
        rounded(self, rect, rgb, radius_px, stroke_px=stroke_px, opacity=opacity)

    monkeypatch.setattr(canvas.Canvas, "rounded", record)
    painted(*faces, style=style, size_px=size_px)
    return rects


def overlap(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


@pytest.mark.parametrize("chart", [False, True])
def test_plates_of_twelve_neighbours_do_not_overlap(monkeypatch, chart):
    faces = [
        made.face((x, y, x + 45.0, y + 60.0), track_id=i + 1, label=EMOTIONS[i % 7])
        for i, (x, y) in enumerate((40.0 + i % 6 * 95, 60.0 + i // 6 * 150) for i in range(12))
    ]
    rects = plates(monkeypatch, *faces, style=replace(LABELS, chart=chart))
    assert len(rects) >= 12 + (6 if chart else 0)
    for i, one in enumerate(rects):
        assert all(overlap(one, other) == 0 for other in rects[:i])
        assert all(overlap(one, face.box_px) <= 90 for face in faces)  # a seam of one pixel


def test_a_label_keeps_its_length_while_a_face_trembles():
    """Around the width where the form changes, it changes once, not with every frame."""
    painter = Painter(LABELS)
    widths = []
    for index in range(60):
        side = 40 + index + 2.0 * (-1) ** index
        box = (200.0, 150.0, 200.0 + side, 150.0 + side)
        _, changed = painted(made.face(box), painter=painter)
        widths.append(extent(changed)[2] - extent(changed)[0])
    changes = sum(one != other for one, other in pairwise(widths))
    assert changes <= 2
    assert widths[-1] > widths[0]


def test_streams_do_not_share_their_memory():
    painter = Painter(LABELS)
    shared, _ = painted(made.face((200.0, 100.0, 280.0, 180.0)), painter=painter)
    other = made.frame(made.face((200.0, 5.0, 280.0, 85.0)), size_px=(640, 360))
    other.stream = 1
    painter.paint(other)
    again, _ = painted(made.face((200.0, 100.0, 280.0, 180.0)), painter=painter)
    assert (again.planes.y == shared.planes.y).all()


def test_the_memory_holds_only_tracks_of_the_last_frame():
    painter = Painter()
    for track_id in range(1, 20):
        painted(made.face(CENTRE, track_id=track_id), painter=painter)
    assert [len(places) for places in painter._composer._places.values()] == [1]
    painted(painter=painter)
    assert painter._composer._places == {}


def test_a_chart_has_a_bar_for_every_emotion_in_its_colour():
    face = made.face((300.0, 300.0, 600.0, 700.0), label="sad", prob=0.4)
    frame, _ = painted(face, style=OverlayStyle(chart=True, labels=False), size_px=(1280, 960))
    rgb = frame.planes.to_rgb()[:, 610:].astype(int)
    for name in EMOTIONS:
        close = np.abs(rgb - PALETTE[name]).max(axis=2) <= 12
        widths = close.sum(axis=1)
        assert widths.max() >= (30 if name == "sad" else 6), name


def test_a_chart_of_a_small_frame_has_no_names(monkeypatch):
    box = (40.0, 40.0, 80.0, 90.0)
    style = replace(LABELS, chart=True)
    for size_px, names in (((160, 120), False), ((1280, 720), True)):
        assert painting._charts(canvas.Metrics.of(size_px, 1.0))[0].named is names
    rects = plates(monkeypatch, made.face(box), style=style, size_px=(160, 120))
    assert len(rects) == 2
    assert rects[1][2] <= 160
    assert rects[1][3] <= 120


def test_a_face_that_fills_the_frame_is_labelled_on_itself():
    frame, changed = painted(made.face((-50.0, -50.0, 700.0, 400.0)), style=LABELS)
    x0, y0, x1, y1 = extent(changed)
    assert frame.planes.y[y0:y1, x0:x1].max() > 200
    assert y1 - y0 < 30


COORDINATES = st.one_of(st.floats(-80, 240), st.sampled_from([np.nan, np.inf, -np.inf, 1e9, -1e9]))


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(st.integers(1, 170), st.integers(1, 130)),
    st.lists(st.tuples(*[COORDINATES] * 4), max_size=5),
    st.sampled_from([None, "uncertain", *EMOTIONS]),
    st.sampled_from([0.5, 1.0, 4.0]),
)
def test_nothing_is_ever_written_outside_the_frame(size_px, boxes, label, scale):
    """The planes are windows in taller ones, whose margins must stay as they were.

    Writing past a row's end shows in test_blend: it would hit the next row.
    """
    width, height = size_px
    chroma = ((width + 1) // 2, (height + 1) // 2)
    fields = [np.full((h + 8, w), 77, np.uint8) for w, h in (size_px, chroma, chroma)]
    planes = Planes(*[field[4:-4] for field in fields])
    face = made.face(label=label)
    faces = tuple(replace(face, box_px=box, track_id=i) for i, box in enumerate(boxes))
    frame = Frame(0, 0, 0, Fraction(1, 30), planes, faces=faces)
    Painter(OverlayStyle(chart=True, scale=scale)).paint(frame)
    for field in fields:
        field[4:-4] = 77
        assert (field == 77).all()


def test_a_scale_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"0\.5 to 4"):
        OverlayStyle(scale=0.1)


def test_importing_the_overlay_loads_neither_numba_nor_pillow():
    script = "import sys; sys.path.insert(0, sys.argv[1]); import streamface.overlay; "
    script += "print(sorted({'numba', 'PIL'} & set(sys.modules)))"
    root = str(Path(overlay.__file__).parents[1])
    command = [sys.executable, "-c", script, root]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
