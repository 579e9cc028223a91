"""Faces re-made in the stream: who is re-made, how they keep still, and who is covered instead."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from sample_faces import face, frame

from streamface.anonymize import Cover, CoverSettings
from streamface.card import InputSpec
from streamface.frame import EMOTIONS, Colour, Gender, Planes
from streamface.likeness import Looks
from streamface.paste import face_mask, head_mask
from streamface.remake import (
    Budget,
    Remake,
    StandIns,
    Steadier,
    Turns,
    can_be_remade,
    female_of,
    surrounded,
    tinted_as,
)
from streamface.resynth import Remade, asked, expression
from streamface.settings import REENACTED

SIDE = 16
SIZE = (160, 120)
BOX, OTHER = (20.0, 20.0, 60.0, 70.0), (90.0, 30.0, 130.0, 80.0)
LANDMARKS = np.array([(5, 5.5), (11, 5.5), (8, 9), (5.5, 11), (10.5, 11)], np.float32)
SPEC = InputSpec((SIDE, SIDE), "rgb", LANDMARKS, (127.5,) * 3, (127.5,) * 3)


class Brightener:
    """Stands for a Reenactor: every face 60 levels brighter than its codes have it."""

    spec = SPEC

    def __init__(self):
        self.batches = []

    def remake(self, crops, emotions):
        self.batches.append(len(crops))
        plain = (crops + 1) * 127.5
        return Remade(np.clip(plain + 60 * emotions.sum(1)[:, None, None, None], 0, 255), plain)


class Painter:
    """Stands for an Inventor: everybody is a chessboard."""

    spec = SPEC
    key_width = 4

    def __init__(self):
        self.keys = []
        self.expressions = []

    def draw_keys(self, count, rng):
        return rng.standard_normal((count, self.key_width), np.float32)

    def stand_in(self, crops, expressions, females, poses, keys):
        self.keys.append(keys)
        self.expressions.append(expressions)
        assert expressions.shape == (len(crops), 7)
        assert females.shape == (len(crops),)
        assert poses.shape == (len(crops), 2)
        board = 100 + 60 * (np.indices((SIDE, SIDE)).sum(0) % 2)
        return np.broadcast_to(board.astype(np.float32), crops.shape).copy()


class Reader:
    """Stands for the emotion model."""

    card = SimpleNamespace(input=InputSpec((SIDE, SIDE), "grey", LANDMARKS, (128.0,), (64.0,)))

    def predict(self, batch):
        return np.tile(expression("fear", 0.7), (len(batch), 1))


class Eye:
    """Stands for the net of likeness: pictures themselves, without their means; none is odd."""

    def look(self, crops):
        flat = crops.reshape(len(crops), -1)
        flat = flat - flat.mean(1, keepdims=True)
        vectors = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
        return Looks(vectors, np.ones(len(crops), np.float32))


def at(index, *boxes, ids=None, level=100):
    """Return frame ``index`` of a 10 fps stream with faces in these boxes."""
    faces = [face(box, track_id=ids[i] if ids else i + 1) for i, box in enumerate(boxes)]
    made = frame(*faces, index=index, pts=index, size_px=SIZE, time_base=Fraction(1, 10))
    planes = Planes.allocate(SIZE, Colour())
    planes.y[:], planes.u[:], planes.v[:] = level, 128, 128
    return replace(made, planes=planes)


def middle(planes, box):
    x, y = int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2)
    return int(planes.y[y, x])


def test_every_face_is_remade_in_one_batch_and_the_rest_left_alone():
    model = Brightener()
    stage = Remake(model, "happy")
    frames = [at(0, BOX, OTHER), at(1, BOX)]
    out = stage.process(frames)
    assert list(out) == frames
    assert model.batches == [3]
    for box in (BOX, OTHER):
        assert middle(frames[0].planes, box) > 130
    assert (frames[0].planes.y[:10] == 100).all()
    assert stage.tally.remade == 3
    stage.close()


def test_strength_says_how_much_of_a_change_there_is():
    frames = [at(0, BOX), at(0, BOX), at(0, BOX)]
    for one, strength in zip(frames, (0.0, 0.5, 1.0), strict=True):
        Remake(Brightener(), "happy", strength=strength).process([one])
    none, half, whole = (middle(one.planes, BOX) for one in frames)
    assert none == 100
    assert none + 10 < half < whole - 10


def test_plainly_remade_faces_show_nothing_but_their_codes():
    frames = [at(0, BOX)]
    Remake(Brightener(), "same").process(frames)
    assert middle(frames[0].planes, BOX) == pytest.approx(100, abs=1)


def test_small_and_impossible_faces_are_left_alone_and_counted():
    tiny = (10.0, 10.0, 14.0, 15.0)
    nowhere = replace(face(BOX), landmarks_px=np.full((5, 2), np.nan, np.float32))
    assert can_be_remade(face(BOX), SPEC)
    assert not can_be_remade(face(tiny), SPEC)
    assert not can_be_remade(nowhere, SPEC)
    stage = Remake(Brightener(), "sad")
    one = at(0, tiny)
    stage.process([one])
    assert (one.planes.y == 100).all()
    assert (stage.tally.remade, stage.tally.skipped) == (0, 1)


def test_a_live_source_gets_the_largest_faces_and_blur_for_the_others(caplog):
    budget = Budget(0.010)
    assert budget.faces(5) == 5
    budget.spent(9.0, 1)  # compiled something
    assert budget.faces(5) == 5
    budget.spent(0.008, 1)
    assert budget.faces(5) == 1
    assert budget.faces(5, frames=2) == 2
    large = (5.0, 5.0, 75.0, 95.0)
    one = at(0, OTHER, large)
    one.planes.y[::2] = 120  # something to blur
    stage = Remake(Brightener(), "happy", budget)
    stage.process([one])
    assert middle(one.planes, large) > 130
    assert stage.tally.hurried == 1
    assert "does not keep up" in caplog.text
    x, y = int(OTHER[0] + OTHER[2]) // 2, int(OTHER[1] + OTHER[3]) // 2
    assert np.ptp(one.planes.y[y - 4 : y + 4, x].astype(int)) < 10


class Clock(Budget):
    """A live budget that affords so many faces, whatever they took."""

    def __init__(self, units):
        super().__init__(1.0)
        self.units = units

    def faces(self, wanted, frames=1):
        return min(wanted, self.units)

    def strangers(self, faces):
        return self.units - faces


def turns_of(units):
    """Return who is given time by frames of 10 a second, and a knob for how many can be."""
    clock = Clock(units)
    turns, steadier = Turns(clock), Steadier()

    def give(*frames):
        jobs = [steadier.job(each, face) for each in frames for face in each.faces]
        given, rest = turns.give(jobs, len(frames))
        turns.forget(frames)
        assert len(given) + len(rest) == len(jobs)
        return [job.face.track_id for job in given]

    return give, clock


SMALL, LARGE = (5.0, 5.0, 65.0, 75.0), (75.0, 5.0, 140.0, 85.0)
LARGER = (75.0, 5.0, 145.0, 98.0)


def test_who_is_drawn_gives_way_to_somebody_much_larger_alone():
    give, _ = turns_of(1)
    assert give(at(0, SMALL)) == [1]
    assert give(at(1, SMALL, LARGE)) == [1]
    assert give(at(2, SMALL, LARGER)) == [2]
    give, _ = turns_of(1)
    assert give(at(0, SMALL, LARGE)) == [2]


def test_who_was_left_out_stays_so_for_a_second_then_for_two():
    give, clock = turns_of(1)
    drawn = []
    for index in range(60):
        clock.units = int(index not in {5, 20})
        drawn += [index for _ in give(at(index, SMALL))]
    assert drawn == [*range(5), *range(15, 20), *range(40, 60)]


def test_who_was_drawn_for_long_is_left_out_for_a_second_again():
    give, clock = turns_of(1)
    drawn = []
    for index in range(300):
        clock.units = int(index not in {5, 20, 280})
        drawn += [index for _ in give(at(index, SMALL))]
    assert drawn[10:] == [*range(40, 280), *range(290, 300)]


def test_who_never_had_time_is_given_it_as_soon_as_there_is_some():
    give, clock = turns_of(0)
    assert give(at(0, SMALL)) == []
    clock.units = 1
    assert give(at(1, SMALL)) == [1]


def test_a_face_of_two_frames_is_drawn_in_both_or_in_none():
    give, clock = turns_of(3)
    assert give(at(0, SMALL, LARGE), at(1, SMALL, LARGE)) == [2, 2]
    clock.units = 4
    assert give(at(2, SMALL, LARGE), at(3, SMALL, LARGE)) == [1, 2, 1, 2]


def test_files_have_time_for_everybody():
    turns, steadier = Turns(Budget(None)), Steadier()
    for index in range(3):
        both = at(index, SMALL, LARGE)
        jobs = [steadier.job(both, face) for face in both.faces]
        assert turns.give(jobs) == (jobs, [])


def test_a_budget_that_affords_nobody_tries_again():
    budget = Budget(0.010)
    for _ in range(2):
        budget.spent(0.040, 1)
    tries = [budget.faces(1) for _ in range(40)]
    assert tries[0] == 0
    assert tries[-1] == 1


def test_files_are_never_hurried():
    budget = Budget(None)
    budget.spent(100.0, 1)
    assert budget.faces(7) == 7


def test_what_is_drawn_of_a_still_face_is_averaged_and_of_a_moving_one_is_not():
    still = np.zeros((3, SIDE, SIDE), np.float32)
    first, second = np.full_like(still, 100), np.full_like(still, 120)
    steadier = Steadier()

    def drawn(index, crop, picture, track_id=1):
        frame = at(index, BOX, ids=[track_id])
        (out,) = steadier.steady(steadier.job(frame, frame.faces[0]), crop, [picture])
        return out

    assert (drawn(0, still, first) == 100).all()
    calm = drawn(1, still, second)
    assert 101 < calm.mean() < 110
    moved = np.full_like(still, 0.5)
    assert drawn(2, moved, second).mean() == pytest.approx(120, abs=0.01)
    assert (drawn(3, moved, first, track_id=2) == 100).all()


def test_landmarks_that_tremble_are_calmed_and_a_head_that_moves_is_followed():
    steadier = Steadier()
    crop = np.zeros((3, SIDE, SIDE), np.float32)

    def cut_at(index, dx):
        frame = at(index, (BOX[0] + dx, BOX[1], BOX[2] + dx, BOX[3]))
        job = steadier.job(frame, frame.faces[0])
        steadier.steady(job, crop, [crop])
        return (job.landmarks_px - face(BOX).landmarks_px)[:, 0].mean()

    assert cut_at(0, 0.0) == 0
    assert 0.1 < cut_at(1, 0.6) < 0.5
    assert cut_at(2, 20.0) == pytest.approx(20, abs=0.01)


def test_somebody_stays_the_same_stand_in_and_two_people_get_two():
    model = Painter()
    stand_ins = StandIns(model, Reader(), Eye(), seed=5)
    for index in range(3):
        one = at(index, BOX, OTHER)
        assert stand_ins.draw(one, one.faces) == {1, 2}
    chosen = [keys for keys in model.keys if len(keys) == 2]
    assert len(chosen) == 3
    assert np.array_equal(chosen[0], chosen[-1])
    assert not np.array_equal(chosen[0][0], chosen[0][1])
    assert stand_ins.tally.remade == 6


def test_a_seed_repeats_the_people_and_without_one_nobody_can():
    def keys(seed):
        model = Painter()
        one = at(0, BOX)
        StandIns(model, Reader(), Eye(), seed=seed).draw(one, one.faces)
        return model.keys[-1]

    assert np.array_equal(keys(5), keys(5))
    assert not np.array_equal(keys(5), keys(6))
    assert not np.array_equal(keys(None), keys(None))


class Chooser(Painter):
    """Draws its source, the more of it the larger the key's first number is."""

    def stand_in(self, crops, expressions, females, poses, keys):
        super().stand_in(crops, expressions, females, poses, keys)
        other = np.random.default_rng(1).uniform(-1, 1, crops[0].shape)
        likeness = np.tanh(keys[:, 0])[:, None, None, None]
        return ((0.4 * crops * likeness + 0.4 * other + 1) * 127.5).astype("f4")


def test_of_some_people_the_one_least_like_the_real_one_is_taken():
    model = Chooser()
    one = at(0, BOX)
    one.planes.y[:] = np.random.default_rng(0).integers(60, 180, one.planes.y.shape)
    StandIns(model, Reader(), Eye(), seed=2).draw(one, one.faces)
    first, second, (taken,) = model.keys
    assert len(first) > 1
    assert second[:, 0].mean() < first[:, 0].mean()  # who is like him least was seen to lie there
    assert taken[0] == np.concatenate((first, second))[:, 0].min()


def test_who_stands_in_is_unlike_those_who_do_already():
    class Twin(Eye):
        """Sees four people in all strangers, and the source in none of them."""

        def look(self, crops):
            axes = np.eye(8, dtype=np.float32)
            if len(crops) == 1:
                return Looks(axes[7:], np.ones(1, np.float32))
            return Looks(axes[np.arange(len(crops)) % 4], np.ones(len(crops), np.float32))

    stand_ins = StandIns(Painter(), Reader(), Twin(), seed=3)
    one = at(0, BOX, OTHER)
    stand_ins.draw(one, one.faces)
    taken = [int(person.chosen.look.argmax()) for person in stand_ins._people.of(one).values()]
    assert len(set(taken)) == 2


def live(model, units, **options):
    return StandIns(model, Reader(), Eye(), seed=2, budget=Clock(units), **options)


def test_a_live_frame_does_not_wait_until_everybody_was_looked_at():
    once, slowly = Painter(), Painter()
    at_once = StandIns(once, Reader(), Eye(), seed=2)
    by_and_by = live(slowly, 7)
    one = at(0, BOX)
    assert at_once.draw(one, one.faces) == {1}
    drawn = []
    for index in range(8):
        one = at(index, BOX)
        drawn.append(by_and_by.draw(one, one.faces))
    # Forty in six frames; whoever is found is drawn in the very frame.
    assert drawn == [set()] * 5 + [{1}] * 3
    assert max(map(len, slowly.keys)) == 7
    assert by_and_by.tally.uncast == 5
    assert by_and_by.tally.hurried == 0
    # The same strangers were looked at, and the same one was taken.
    assert np.array_equal(once.keys[-1], slowly.keys[-1])
    assert np.array_equal(np.concatenate(once.keys[:2]), np.concatenate(slowly.keys[:7]))


def test_who_is_known_is_drawn_while_it_is_looked_for_the_next():
    model = Painter()
    stand_ins = live(model, 40)
    one = at(0, BOX)
    assert stand_ins.draw(one, one.faces) == {1}
    stand_ins._budget.units = 5
    for index in range(1, 12):
        both = at(index, BOX, OTHER)
        drawn = stand_ins.draw(both, both.faces)
        assert drawn == ({1, 2} if index >= 10 else {1})


def test_of_two_who_are_new_the_larger_one_comes_first():
    large = (5.0, 5.0, 75.0, 95.0)
    stand_ins = live(Painter(), 20)
    drawn = []
    for index in range(5):
        both = at(index, OTHER, large)
        drawn.append(stand_ins.draw(both, both.faces))
    assert drawn == [set(), {2}, {2}, {2}, {1, 2}]


def test_whom_somebody_looks_like_is_forgotten_once_somebody_stands_in_or_nobody_is_seen():
    stand_ins = live(Painter(), 5)
    one = at(0, BOX)
    stand_ins.draw(one, one.faces)
    (person,) = stand_ins._people.of(one).values()
    assert person.casting is not None
    later = at(75, OTHER, ids=[2])  # seven seconds
    stand_ins.draw(later, later.faces)
    assert set(stand_ins._people.of(later)) == {2}
    for index in range(76, 90):
        later = at(index, OTHER, ids=[2])
        stand_ins.draw(later, later.faces)
    (person,) = stand_ins._people.of(later).values()
    assert person.chosen is not None
    assert person.casting is None


def test_strangers_cost_what_faces_cost_and_a_little_before_that_is_known():
    budget = Budget(0.030)
    assert budget.strangers(0) == 4
    for _ in range(2):
        budget.spent(0.010, 1)
    assert budget.strangers(0) == 3
    assert budget.strangers(2) == 1
    assert budget.strangers(5) == 0
    assert Budget(None).strangers(5) is None


def test_strangers_are_judged_as_they_will_be_seen():
    seen = []

    class Watcher(Eye):
        def look(self, crops):
            seen.append(crops)
            return super().look(crops)

    one = at(0, BOX, level=40)
    StandIns(Painter(), Reader(), Watcher(), seed=2).draw(one, one.faces)
    (source,), *rounds = seen
    strangers = np.concatenate(rounds)
    assert source.max() < -0.7
    for each in strangers:  # in the light of the source, and not as bright as they were drawn
        assert each.mean() == pytest.approx(source.mean(), abs=0.1)
        assert np.ptp(each) > 0.2


def test_nobody_in_colour_stands_in_for_a_grey_face():
    class Blusher(Painter):
        def stand_in(self, crops, expressions, females, poses, keys):
            board = super().stand_in(crops, expressions, females, poses, keys)
            board[:, 0, ::2] += 60  # no plane: light does not take it away
            return board

    def drawn(u):
        one = at(0, BOX)
        one.planes.u[:] = u
        StandIns(Blusher(), Reader(), Eye(), seed=1).draw(one, one.faces)
        return one.planes

    assert np.ptp(drawn(128).v) <= 2
    assert np.ptp(drawn(90).v) > 5


def test_expressions_are_the_readers_own():
    model = Painter()
    one = at(0, BOX)
    StandIns(model, Reader(), Eye(), seed=1).draw(one, one.faces)
    told = model.expressions[0][0]
    assert told.argmax() == EMOTIONS.index("fear")
    assert told.sum() == pytest.approx(1)
    assert told.max() > Reader().predict([None]).max()  # drawn faces show less than they are told


def test_gender_is_told_as_far_as_it_is_known():
    assert female_of(replace(face(BOX), gender=None)) == 0
    assert female_of(replace(face(BOX), gender=Gender("female", 0.9))) == (pytest.approx(0.8))
    assert female_of(replace(face(BOX), gender=Gender("male", 1.0))) == -1


def test_faces_that_nobody_stands_in_for_are_blurred():
    stage = Cover(CoverSettings(look_ahead_s=0.2), StandIns(Painter(), Reader(), Eye(), seed=1))
    frames = [at(0, BOX, OTHER), at(1, BOX), at(2, BOX, OTHER)]  # missed once: covered all the same
    for each in frames:
        lost = np.full((5, 2), np.nan, np.float32)
        each.faces = (each.faces[0], *(replace(f, landmarks_px=lost) for f in each.faces[1:]))
        each.planes.y[50:60:2, 105:115] = 255
    out = []
    for each in frames:
        out += stage.process([each])
    out += stage.finish()
    assert [each.index for each in out] == [0, 1, 2]
    for each in out:
        assert np.ptp(each.planes.y[40:50, 35:45]) > 20
        assert np.ptp(each.planes.y[50:60, 108:112].astype(int), axis=0).max() < 40
    assert stage.tally.drawn == 3
    assert stage.tally.unseen[2] == 1


def test_a_grey_face_is_given_no_colour():
    change = np.zeros((3, SIDE, SIDE), np.float32)
    change[0] = 30
    grey, red = np.zeros_like(change), np.zeros_like(change)
    red[0] = 0.5
    assert (tinted_as(red, change) == change).all()
    flat = tinted_as(grey, change)
    assert np.ptp(flat, axis=0).max() == 0
    assert flat.mean() == pytest.approx(0.299 * 30, abs=1e-3)


def test_what_is_asked_for_names_one_emotion():
    assert asked("same").sum() == 0
    assert asked("sad", 3).tolist() == [[0, 0, 0, 0, 1, 0, 0]] * 3
    assert expression("happy").sum() == pytest.approx(1)
    assert expression("happy").argmax() == EMOTIONS.index("happy")
    assert ("same", *EMOTIONS) == REENACTED


WIDE = InputSpec((64, 64), "rgb", LANDMARKS * np.float32(64 / SIDE), (127.5,) * 3, (127.5,) * 3)


def test_a_drawn_face_passes_smoothly_into_what_is_seen_around_it():
    """Of the source only what will be seen anyway has a say, of the drawing only the face."""
    rng = np.random.default_rng(0)
    head = head_mask(WIDE)
    face = np.clip(2 * face_mask(WIDE) - 1, 0, 1).astype(np.float32)
    crop = rng.uniform(-1, 1, (3, 64, 64)).astype(np.float32)
    drawn = rng.uniform(0, 255, (3, 64, 64)).astype(np.float32)
    made = surrounded(drawn, crop, face, head)
    np.testing.assert_allclose(made[:, face == 1], drawn[:, face == 1], atol=1e-3)
    other_crop, other_drawn = crop.copy(), drawn.copy()
    other_crop[:, head > 0] = rng.uniform(-1, 1, (3, int((head > 0).sum())))
    other_drawn[:, face == 0] = 0
    np.testing.assert_array_equal(surrounded(other_drawn, other_crop, face, head), made)


def test_one_colour_around_a_face_of_one_colour_makes_a_ramp_between_them():
    head = head_mask(WIDE)
    face = np.clip(2 * face_mask(WIDE) - 1, 0, 1).astype(np.float32)
    crop = np.full((3, 64, 64), 100 / 127.5 - 1, np.float32)
    made = surrounded(np.full((3, 64, 64), 200, np.float32), crop, face, head)
    assert made[:, face == 1] == pytest.approx(200, abs=0.01)
    assert made[:, head == 0] == pytest.approx(100, abs=0.01)
    between = made[:, (face == 0) & (head > 0)]
    assert between.min() >= 99.9
    assert between.max() <= 200.1
    assert np.abs(np.diff(made[0, 32])).max() < 40
