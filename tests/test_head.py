"""The head: a lane for each source, fair turns, and the only place where anything is dropped."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from streamface.pipeline import Cancelled, Head, Lanes, Pipeline, RecentAges


def head(lanes=3, capacity=2, **options):
    drops = Counter()
    heirs = []
    made = Head(
        lanes,
        capacity,
        bequeath=lambda item, heir: heirs.append((item, heir)),
        on_drop=lambda reason, lane: drops.update([(reason, lane)]),
        **options,
    )
    return made, drops, heirs


def test_every_lane_has_its_turn():
    """A lane that is full gives one item before each other lane gave one."""
    several, _, _ = head()
    for item in ("a1", "a2"):
        several.put(item, 0)
    several.put("b1", 1)
    several.put("c1", 2)
    assert several.get_many(3) == ["a1", "b1", "c1"]
    several.put("b2", 1)
    assert several.get_many(1) == ["a2"]
    assert several.get_many(5) == ["b2"]


def test_a_flooding_lane_pushes_out_only_its_own():
    several, drops, heirs = head(capacity=1)
    several.put_newest("b1", 1)
    for number in range(5):
        several.put_newest(f"a{number}", 0)
    assert several.get_many(9) == ["a4", "b1"]
    assert drops == {("busy", 0): 4}
    assert heirs == [(f"a{n}", f"a{n + 1}") for n in range(4)]


def test_what_is_stale_is_dropped_when_its_turn_comes_and_its_heir_gets_all():
    """Also where the heir comes only later, and through several stale ones."""
    stale = {"a1", "a2", "b1"}
    several, drops, heirs = head(is_stale=lambda item: item in stale)
    several.put("a1", 0)
    several.put("a2", 0)
    several.put("b1", 1)
    several.put("c1", 2)
    assert several.get_many(9) == ["c1"]
    several.put("a3", 0)
    assert several.get_many(9) == ["a3"]
    assert heirs == [("a1", "a2"), ("a2", "a3")]
    assert drops == {("stale", 0): 2, ("stale", 1): 1}


def test_it_ends_when_the_last_lane_has():
    """A lane that ended does not hold the others up, and tells how much of it went on."""
    several, _, _ = head(lanes=2)
    several.put(1, 0)
    several.close(0)
    assert several.taken_in_all(0) is None  # one is still to be taken
    assert several.get_many(9) == [1]
    assert several.taken_in_all(0) == 1
    assert several.taken_in_all(1) is None
    several.put(2, 1)
    several.close(1)
    assert several.get_many(9) == [2]
    assert several.get_many(9) == []


def test_all_that_is_left_may_be_stale():
    several, drops, _ = head(lanes=1, is_stale=lambda _: True)
    several.put(1)
    several.close()
    assert several.get_many(1) == []
    assert drops == {("stale", 0): 1}
    assert several.taken_in_all(0) == 0


def test_cancelling_wakes_senders_and_receiver():
    several, _, _ = head(lanes=2, capacity=1)
    several.put(0, 0)
    outcomes = []

    def attempt(work, *arguments):
        try:
            work(*arguments)
        except Cancelled:
            outcomes.append(work.__name__)

    waiting = [
        threading.Thread(target=attempt, args=(several.put, 1, 0)),
        threading.Thread(target=attempt, args=(several.put, 1, 0)),
    ]
    for thread in waiting:
        thread.start()
    several.cancel()
    for thread in waiting:
        thread.join()
    assert outcomes == ["put", "put"]
    with pytest.raises(Cancelled):
        several.get_many(1)


class Counting:
    """A lane of pairs (lane, number); ``gate`` is waited for before each item."""

    def __init__(self, lane, count, *, newest_wins=False, gate=None):
        self.newest_wins = newest_wins
        self._lane, self._count, self._gate = lane, count, gate

    def __iter__(self):
        for number in range(self._count):
            if self._gate is not None:
                assert self._gate.wait(20)
            yield self._lane, number


class Pass:
    name = "pass"
    max_batch = 3

    def process(self, items):
        return items

    def finish(self):
        return ()

    def close(self):
        pass


def test_lanes_of_a_pipeline_keep_their_order_and_lose_nothing_that_can_wait():
    lanes = [Counting(lane, 20 * (lane + 1)) for lane in range(3)]
    pipeline = Pipeline(Lanes(lanes), [Pass(), Pass()], number=lambda item: item[1])
    with pipeline as items:
        arrived = list(items)
    for lane in range(3):
        assert [n for where, n in arrived if where == lane] == list(range(20 * (lane + 1)))
    assert pipeline.stats.drops == {}
    assert [pipeline.taken_in_all(lane) for lane in range(3)] == [20, 40, 60]
    assert pipeline.stats.stages[0].frames == 40


def test_a_lane_that_is_stuck_does_not_hold_the_others_up():
    gate = threading.Event()
    lanes = [Counting(0, 2, gate=gate), Counting(1, 30)]
    pipeline = Pipeline(Lanes(lanes), [Pass()], number=lambda item: item[1], newest_wins=True)
    with pipeline as items:
        first = [next(items) for _ in range(30)]
        gate.set()
        rest = list(items)
    assert {lane for lane, _ in first} == {1}
    assert rest == [(0, 0), (0, 1)]


def test_one_lane_may_be_ended_alone():
    lanes = [Counting(0, 10**9), Counting(1, 50)]
    pipeline = Pipeline(Lanes(lanes), [Pass()], number=lambda item: item[1])
    with pipeline as items:
        next(items)
        pipeline.end_lane(0)
        arrived = [item for item in items if item[0] == 1]
    assert len(arrived) >= 49


def test_drops_are_counted_by_lane():
    """The lane that cannot wait drops, the other one waits."""
    taken = threading.Event()

    class Slow(Pass):
        max_batch = 1

        def process(self, items):
            assert taken.wait(20)
            return items

    class Last(Counting):
        def __iter__(self):
            yield from super().__iter__()
            taken.set()

    lanes = [Last(0, 40, newest_wins=True), Counting(1, 10)]
    pipeline = Pipeline(Lanes(lanes), [Slow()], number=lambda item: item[1], newest_wins=True)
    with pipeline as items:
        arrived = list(items)
    assert [n for lane, n in arrived if lane == 1] == list(range(10))
    assert pipeline.stats.drops_of(1) == {}
    dropped = pipeline.stats.drops_of(0)["busy"]
    assert dropped == pipeline.stats.drops["busy"] == 50 - len(arrived) >= 37


def test_recent_ages_are_those_of_the_window():
    ages = RecentAges(window_s=10)
    assert ages.percentiles_s(0, (50,)) is None
    for number in range(100):
        ages.add(number / 10, 1.0)
    for number in range(100):
        ages.add(10 + number / 10, (number + 1) / 1000)
    assert ages.percentiles_s(20, (50, 95, 99)) == [0.050, 0.095, 0.099]
    assert ages.percentiles_s(31, (50,)) is None


def test_a_lane_may_be_added_until_the_receiver_was_told_of_the_end():
    head = Head(1)
    assert head.add() == 1
    head.put("a", 1)
    head.close(0)
    assert head.get_many(1) == ["a"]
    assert head.taken_in_all(1) is None
    assert head.add() == 2
    head.close(1)
    head.put("b", 2)
    head.close(2)
    assert head.get_many(1) == ["b"]
    assert head.get_many(1) == []
    assert head.add() is None


def test_no_lane_is_added_to_what_was_cancelled():
    head = Head(2)
    head.cancel()
    assert head.add() is None
