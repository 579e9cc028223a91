"""The clip of invented people: the same for everyone, smooth, and of faces that can be found."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, islice, pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from streamface import demo, demo_people
from streamface.detect import YuNetDetector, find_model
from streamface.frame import EMOTIONS, Planes
from streamface.preprocess import crop_into
from streamface.resynth import SURE, Imagination


class FakeInventor:
    """Draws plain grey that says how surprised it is; notes what it was asked for."""

    def __init__(self, picture=None):
        self.picture = picture
        self.side_px = 16 if picture is None else picture.shape[1]
        self.spec = SimpleNamespace(size_px=(self.side_px, self.side_px))
        self.asked = []
        self.closed = False

    def draw_keys(self, count, rng):
        return rng.standard_normal((count, 4), np.float32)

    draw_scenes = draw_keys

    def draw(self, expressions, females, keys, scenes):
        self.asked.append((float(keys[0, 0]), expressions[0]))
        if self.picture is not None:
            return self.picture[None]
        grey = 60 + 120 * expressions[:, EMOTIONS.index("surprise")]
        return np.full((1, 3, self.side_px, self.side_px), grey, np.float32)

    def close(self):
        self.closed = True


@pytest.fixture
def net(monkeypatch):
    """A fake in the net's place."""
    return stand_in(monkeypatch, FakeInventor())


def stand_in(monkeypatch, inventor):
    monkeypatch.setattr(demo_people, "Imagination", SimpleNamespace(open=lambda: inventor))
    return inventor


def test_size_rate_and_length_are_those_of_the_demo():
    names = ("SIZE_PX", "RATE", "FRAMES")
    assert [getattr(demo_people, n) for n in names] == [getattr(demo, n) for n in names]


@pytest.mark.usefixtures("net")
def test_the_clip_is_as_long_as_it_says():
    shown = [planes.y.shape for planes in demo_people.frames(size_px=(32, 24))]
    assert shown == [(24, 32)] * demo_people.FRAMES


@pytest.mark.usefixtures("net")
@pytest.mark.parametrize(("fps", "count"), [(Fraction(30000, 1001), 60), (Fraction(5), 10)])
def test_rate_and_duration_give_the_count(fps, count):
    assert len(list(demo_people.frames(size_px=(16, 16), fps=fps, duration_s=2.0))) == count


@pytest.mark.usefixtures("net")
def test_a_time_looks_the_same_at_any_rate():
    """Picture 20 of 5 a second is picture 120 of 30."""
    how = {"size_px": (64, 48)}
    slow = next(islice(demo_people.frames(fps=Fraction(5), **how), 20, None))
    fast = next(islice(demo_people.frames(**how), 120, None))
    assert (slow.y == fast.y).all()


@pytest.mark.usefixtures("net")
@pytest.mark.parametrize("size_px", [(641, 359), (1, 1), (90, 160), (7, 400), (1920, 40)])
def test_any_size_is_rendered(size_px):
    for planes in demo_people.frames(size_px=size_px, fps=Fraction(1)):
        assert planes.size_px == size_px


def test_a_size_or_rate_of_nothing_is_refused_at_once():
    with pytest.raises(ValueError, match="positive"):
        demo_people.frames(size_px=(0, 480))
    with pytest.raises(ValueError, match="positive"):
        demo_people.frames(fps=Fraction(0))


@pytest.mark.usefixtures("net")
def test_every_picture_is_fresh_and_writable():
    pictures = demo_people.frames(size_px=(64, 48))
    first, second = islice(pictures, 2)
    kept = second.y.copy()
    for plane in (first.y, first.u, first.v):
        plane[:] = 0
    assert (second.y == kept).all()
    third = next(pictures)
    assert (third.y > 0).any()
    assert third.packed() is not None


def test_two_runs_of_the_shipped_net_are_equal():
    for one, other in zip(*(islice(demo_people.frames(), 12, 15) for _ in range(2)), strict=True):
        for name in "yuv":
            assert (getattr(one, name) == getattr(other, name)).all()


@pytest.mark.usefixtures("net")
def test_all_moves_smoothly_and_the_clip_loops():
    clip = demo_people.frames(size_px=(160, 120), duration_s=10 + 2 / 30)
    pictures = [planes.y.astype(np.int16) for planes in clip]
    steps = [np.abs(b - a).mean() for a, b in pairwise(pictures)]
    cut = np.abs(pictures[200] - pictures[0]).mean()
    assert max(steps) < 0.3 * cut
    assert (pictures[300] == pictures[0]).all()


def test_everybody_changes_and_all_seven_emotions_are_shown(net):
    list(demo_people.frames(size_px=(16, 12)))
    shown = {}
    for who, expression in net.asked:
        assert expression.sum() == pytest.approx(1)
        if expression.max() > SURE - 0.05:
            shown.setdefault(who, set()).add(EMOTIONS[expression.argmax()])
    assert len(shown) == 3
    assert min(map(len, shown.values())) >= 4
    assert set.union(*shown.values()) == set(EMOTIONS)


def test_an_expression_changes_by_degrees(net):
    """What is blended is never far apart: an eighth of a change, eased."""
    list(demo_people.frames(size_px=(16, 12), duration_s=3))
    for key in {who for who, _ in net.asked}:
        asked = [expression for who, expression in net.asked if who == key]
        assert max(np.abs(b - a).max() for a, b in pairwise(asked)) < 0.2


def test_no_expression_is_drawn_twice_and_few_are_drawn_at_all(net):
    list(demo_people.frames(size_px=(16, 12)))
    once = len(net.asked)
    net.asked.clear()
    list(demo_people.frames(size_px=(16, 12), duration_s=20))
    assert len(net.asked) == once < demo_people.FRAMES / 2


def test_the_net_is_closed_when_the_clip_ends_or_is_left(net):
    pictures = demo_people.frames(size_px=(16, 12))
    next(pictures)
    assert not net.closed
    pictures.close()
    assert net.closed


@pytest.mark.usefixtures("net")
def test_one_leaves_the_picture_for_half_a_second_and_comes_back():
    """Where it was there is backdrop, which is the same in every row."""
    clip = demo_people.frames(size_px=(320, 240))
    right = [planes.y[:, 240:].astype(np.int16) for planes in clip]
    empty = [np.ptp(part, axis=1).max() <= 3 for part in right]
    changes = sum(a != b for a, b in pairwise(empty))
    assert (empty[0], empty[-1], changes) == (False, False, 2)
    assert 0.5 <= sum(empty) / 30 <= 0.8


def test_portraits_never_cover_one_another():
    half = np.array(demo_people._OVAL) + demo_people._FRAME
    for time_s in np.arange(0, 10, 0.1):
        poses = [demo_people._pose(each, time_s, (640, 480)) for each in demo_people._PEOPLE]
        for a, b in combinations(poses, 2):
            apart = np.array([a.x_px - b.x_px, a.y_px - b.y_px])
            assert np.hypot(*(apart / (half * (a.side_px + b.side_px)))) > 1


def test_colour_lies_where_brightness_does(monkeypatch):
    """A red spot on black: its middle is the same in Y and in V."""
    black = np.zeros((3, 64, 64), np.float32)
    red = black.copy()
    red[0, 20:33, 25:34] = 250
    planes = []
    for picture in (red, black):
        stand_in(monkeypatch, FakeInventor(picture))
        planes.append(next(demo_people.frames()))
    for part in (slice(0, 210), slice(210, 420), slice(420, 640)):
        chroma = slice(part.start // 2, part.stop // 2)
        y = middle(planes[0].y[:, part], planes[1].y[:, part])
        v = 2 * middle(planes[0].v[:, chroma], planes[1].v[:, chroma])
        assert np.abs(y - v).max() < 0.3


def middle(one, other):
    """Return where two planes differ, as (y, x) in samples."""
    weights = np.abs(one.astype(float) - other)
    places = np.indices(weights.shape) + 0.5
    return (weights * places).sum((1, 2)) / weights.sum()


def test_a_face_of_such_crops_is_found_nearly_all_the_time(monkeypatch):
    """The layout must not hide one: here with a real face, whatever the net can do."""
    detector = YuNetDetector(find_model())
    portrait = Planes.from_rgb(demo.portrait())
    net = Imagination.open()
    crop = np.empty(net.spec.shape, np.float32)
    crop_into(portrait, detector.detect(portrait)[0].landmarks_px, net.spec, crop)
    net.close()
    stand_in(monkeypatch, FakeInventor(crop * 127.5 + 127.5))
    widths = [
        [face.box_px[2] - face.box_px[0] for face in detector.detect(planes)]
        for planes in demo_people.frames(fps=Fraction(2))
    ]
    seen = [len(each) for each in widths]
    assert set(seen) <= {2, 3}
    assert seen.count(3) >= 0.75 * len(seen)
    assert np.median([width for each in widths for width in each]) > 120
