"""Less work under load, more when there is room: by a clock and a load that the test owns."""

from __future__ import annotations

from itertools import pairwise

import pytest

from streamface.adapt import STEPS, Adaptation, Controller, Load, LoadMeter
from streamface.pipeline import PipelineStats, StageStats

HARD, EASY, FITTING = Load(0.99, 0.2), Load(0.4, 0.0), Load(0.8, 0.0)


def warmed_up():
    controller = Controller()
    for second in range(4):
        controller.update(float(second), FITTING)
    return controller


def steps(controller, loads, start_s=4.0):
    seen = []
    for second, load in enumerate(loads):
        controller.update(start_s + second, load)
        seen.append(controller.step)
    return seen


def test_the_first_seconds_do_not_count():
    controller = Controller()
    assert steps(controller, [HARD] * 3, start_s=0) == [0, 0, 0]


def test_a_burst_of_drops_is_no_reason_but_a_habit_is():
    assert steps(warmed_up(), [HARD, HARD, FITTING, HARD, HARD, FITTING]) == [0] * 6
    assert steps(warmed_up(), [HARD] * 8) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_work_ends_at_the_last_step_and_stays_there():
    assert steps(warmed_up(), [HARD] * 60)[-1] == len(STEPS) - 1


@pytest.mark.parametrize("load", [Load(0.97, 0.0), Load(0.1, 0.05)])
def test_either_a_busy_stage_or_lost_frames_are_too_much(load):
    assert steps(warmed_up(), [load] * 3)[-1] == 1


def test_it_stays_where_the_work_just_fits():
    controller = warmed_up()
    steps(controller, [HARD] * 5)
    assert steps(controller, [FITTING] * 600, start_s=9) == [2] * 600


def test_room_must_last_before_work_is_raised():
    controller = warmed_up()
    steps(controller, [HARD] * 5)
    seen = steps(controller, [EASY] * 9 + [FITTING] + [EASY] * 11 + [EASY] * 10, start_s=9)
    assert seen[:20] == [2] * 20
    assert seen[20] == 1
    assert seen[-1] == 0


def test_a_raise_that_was_wrong_is_tried_ever_later():
    """A load that fits only the lower step: the steps up become rare, not a saw."""
    controller = warmed_up()
    seen = []
    for second in range(4, 3604):
        controller.update(float(second), EASY if controller.step else HARD)
        seen.append(controller.step)
    raised = [n for n in range(1, len(seen)) if seen[n] < seen[n - 1]]
    gaps = [later - earlier for earlier, later in pairwise(raised)]
    assert gaps[:3] == [24, 44, 84]
    assert max(gaps) == 324
    assert len(raised) < 20


def stats(busy_s, drops):
    made = PipelineStats([StageStats("read", 99), StageStats("find", busy_s), StageStats("write")])
    made.drops.update(drops)
    return made


def test_the_load_is_that_of_the_interval():
    """Not of the run; only stages with a knob count, and only drops of the head."""
    meter = LoadMeter()
    assert meter.update(10.0, stats(5.0, {"busy": 100}), 1000) is None
    assert meter.update(10.5, stats(5.4, {"busy": 100}), 1010) is None
    load = meter.update(12.0, stats(6.0, {"busy": 105, "output": 50}), 1015)
    assert load == Load(busy=0.5, lost=0.25)
    assert meter.update(13.0, stats(6.0, {"busy": 105}), 1015) == Load(0.0, 0.0)


def test_knobs_are_turned_and_words_say_how_far():
    turned = []
    adaptation = Adaptation(640, 4, lambda *knobs: turned.append(knobs))
    assert adaptation.lowered() == ""
    said = []
    for second in range(20):
        load = stats(float(second), {"busy": 10 * second})
        said.append(adaptation.update(float(second), load, 20 * second))
    assert turned == [(640, 4, 2), (640, 8, 2), (480, 8, 2), (320, 8, 2), (320, 8, 4)]
    told = [line for line in said if line]
    assert told[0] == (
        "cannot keep up (33% of the frames lost, busiest stage 100%): now emotions 2 times rarer"
    )
    assert adaptation.lowered() == "detector 320 px, detect every 8, emotions 4 times rarer"
    calm = stats(20.0, {"busy": 190})
    said += [adaptation.update(float(second), calm, 20 * second) for second in range(20, 100)]
    assert turned[-1] == (640, 4, 1)
    assert said[-1] is None
    assert [line for line in said if line][-1].endswith("now all the work that was asked for")


def test_a_small_detector_is_not_made_blind():
    turned = []
    adaptation = Adaptation(224, 4, lambda *knobs: turned.append(knobs))
    for second in range(20):
        adaptation.update(float(second), stats(float(second), {}), second)
    assert {knobs[0] for knobs in turned} == {224}
