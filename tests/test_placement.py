"""Things are set inside the frame, off each other, and stay where they are."""

from hypothesis import given, settings
from hypothesis import strategies as st

from streamface.placement import (
    CHART_INSIDE,
    CHART_OUTSIDE,
    LABEL_INSIDE,
    LABEL_OUTSIDE,
    Board,
    Choice,
)

SPOTS = (*LABEL_OUTSIDE, *LABEL_INSIDE, *CHART_OUTSIDE, *CHART_INSIDE)
ABOVE, BELOW, INSIDE = LABEL_OUTSIDE[0], LABEL_OUTSIDE[2], LABEL_INSIDE[0]


def board(*boxes, size_px=(200, 100), slack_px=3.0):
    return Board(size_px, boxes, gap_px=2, slack_px=slack_px)


def choices(*spots, forms=1):
    return [Choice(form, spot) for form in range(forms) for spot in spots]


def place(on, box, things, candidates, before=None, *, must=True):
    return on.place(box, things, candidates, before, must=must)


@st.composite
def boxes(draw):
    x0, y0 = draw(st.floats(0, 190)), draw(st.floats(0, 90))
    return (x0, y0, draw(st.floats(x0 + 1, 200)), draw(st.floats(y0 + 1, 100)))


@settings(max_examples=200, deadline=None)
@given(st.lists(boxes(), min_size=1, max_size=8), st.integers(1, 230), st.integers(1, 120))
def test_things_are_inside_the_frame_or_not_set(faces, width, height):
    on = board(*faces)
    for box in faces:
        placed = place(on, box, [(width, height)], choices(*SPOTS))
        if width > 200 or height > 100:
            assert placed is None
        else:
            _, (left, top) = placed
            assert 0 <= left <= 200 - width
            assert 0 <= top <= 100 - height


def test_the_first_free_choice_is_taken():
    box = (50.0, 40.0, 90.0, 80.0)
    assert place(board(box), box, [(60, 12)], choices(ABOVE, BELOW)) == (Choice(0, ABOVE), (50, 26))


def test_at_the_top_edge_a_label_goes_below():
    box = (50.0, 5.0, 90.0, 45.0)
    assert place(board(box), box, [(60, 12)], choices(ABOVE, BELOW)) == (Choice(0, BELOW), (50, 47))


def test_at_the_right_edge_a_label_moves_left():
    box = (170.0, 40.0, 200.0, 80.0)
    _, corner = place(board(box), box, [(60, 12)], choices(ABOVE))
    assert corner == (140, 26)


def test_a_shorter_form_is_taken_before_a_neighbours_label_is_covered():
    left, right = (40.0, 40.0, 80.0, 80.0), (100.0, 40.0, 140.0, 80.0)
    on = board(left, right)
    place(on, right, [(60, 12)], choices(ABOVE))
    choice, _ = place(on, left, [(90, 12), (40, 12)], choices(ABOVE, forms=2))
    assert choice.form == 1


def test_what_must_be_set_goes_where_it_covers_least():
    box = (50.0, 40.0, 90.0, 80.0)
    stranger = (40.0, 0.0, 200.0, 30.0)
    on = board(box, stranger)
    place(on, box, [(60, 12)], choices(BELOW))
    crowded = choices(ABOVE, BELOW)
    assert place(on, box, [(60, 12)], crowded, must=False) is None
    assert place(on, box, [(60, 12)], crowded) == (Choice(0, ABOVE), (50, 26))


def test_a_place_is_kept_with_less_room_than_it_takes_to_move_there():
    box, stranger = (50.0, 40.0, 90.0, 80.0), (112.0, 0.0, 200.0, 40.0)
    for before, expected in ((None, BELOW), (ABOVE, ABOVE), (BELOW, BELOW)):
        known = before and Choice(0, before)
        choice, _ = place(board(box, stranger), box, [(60, 12)], choices(ABOVE, BELOW), known)
        assert choice.spot == expected


def test_the_own_face_may_be_covered_but_no_other():
    own, other = (10.0, 10.0, 60.0, 90.0), (30.0, 20.0, 90.0, 60.0)
    assert place(board(own), own, [(40, 12)], choices(INSIDE), must=False) is not None
    assert place(board(own, other), own, [(40, 12)], choices(INSIDE), must=False) is None
