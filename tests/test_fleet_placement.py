"""Which camera goes where, and what it costs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from streamface.fleet.cost import CostMeter, Done, RecentRate
from streamface.fleet.placement import FIRST_GUESS_CORES, Balancer, Place, assign, guess, room
from streamface.streams import MOST_AT_ONCE


@some.composite
def situations(draw):
    """Draw stations with cameras on them, others that wait, and what some cost."""
    count = draw(some.integers(0, 30))
    names = [f"camera{n}" for n in range(count)]
    stations = [f"node{n}" for n in range(draw(some.integers(0, 5)))]
    where = {name: draw(some.sampled_from(["", *stations])) for name in names}
    places = [
        Place(
            station,
            draw(some.sampled_from([1.0, 4.0, 16.0])),
            is_open=draw(some.booleans()),
            cameras=tuple(name for name in names if where[name] == station),
        )
        for station in stations
    ]
    costs = {n: draw(some.floats(0.01, 3)) for n in names if draw(some.booleans())}
    waiting = [name for name in names if not where[name]]
    avoid = {n: draw(some.sampled_from(stations)) for n in waiting if stations and len(n) % 2}
    return waiting, places, costs, avoid


@given(situations())
def test_every_camera_gets_one_open_station_if_there_is_any(situation):
    waiting, places, costs, avoid = situation
    chosen = assign(waiting, places, costs, avoid=avoid)
    usable = {place.name for place in places if place.is_open}
    assert set(chosen) == (set(waiting) if usable else set())
    assert set(chosen.values()) <= usable
    for camera, station in avoid.items():
        assert len(usable) < 2 or chosen[camera] != station
    assert assign(waiting, places, costs, avoid=avoid) == chosen
    assert assign(waiting, list(reversed(places)), costs, avoid=avoid) == chosen


@given(situations())
def test_no_station_gets_far_more_than_another(situation):
    """Nobody would be better off elsewhere by more than the last camera that came."""
    waiting, places, costs, _ = situation
    places = [place for place in places if place.is_open]
    chosen = assign(waiting, places, costs)
    for place in places:
        mine = [camera for camera, station in chosen.items() if station == place.name]
        if not mine:
            continue
        last = min(guess(costs, camera) for camera in mine)
        left = room(place, costs) - sum(guess(costs, camera) for camera in mine)
        for other in places:
            theirs = sum(guess(costs, c) for c, s in chosen.items() if s == other.name)
            assert left + last >= room(other, costs) - theirs - 1e-9


def test_a_full_station_gets_no_more():
    there = tuple(f"c{n}" for n in range(MOST_AT_ONCE - 1))
    chosen = assign(["x", "y"], [Place("node", 500.0, cameras=there)], {})
    assert chosen == {"x": "node"}


def test_what_was_not_measured_costs_as_others_do():
    assert guess({}, "a") == FIRST_GUESS_CORES
    assert guess({"b": 0.2, "c": 0.4}, "a") == pytest.approx(0.3)
    assert guess({"a": 0.9, "b": 0.1}, "a") == 0.9


def overloaded(**changes):
    busy = Place("busy", 2.0, is_overloaded=True, cameras=("a", "b", "c"))
    return [busy, Place("idle", **({"cores": 4.0, "cameras": ()} | changes))]


COSTS = {"a": 0.9, "b": 0.6, "c": 0.5}


def moves(places, seconds, balancer=None, begin_s=0.0):
    balancer = balancer or Balancer()
    found = [(t, balancer.update(begin_s + t, places, COSTS)) for t in range(seconds)]
    return [(t, move) for t, move in found if move is not None]


def test_a_camera_moves_once_a_station_has_long_had_too_much():
    (first_s, move), *others = moves(overloaded(), 40)
    assert move == ("a", "idle")
    assert first_s >= 15
    assert not others, "the first has to show before another follows"


def test_a_burst_moves_nobody():
    balancer = Balancer()
    calm = [Place("busy", 2.0, cameras=("a", "b", "c")), Place("idle", 4.0)]
    for begin_s in range(0, 100, 20):
        assert not moves(overloaded(), 10, balancer, begin_s)
        assert not moves(calm, 10, balancer, begin_s + 10)


@pytest.mark.parametrize(
    "changes",
    [{"cores": 0.5}, {"is_open": False}, {"is_overloaded": True}, {"cameras": ("x", "y", "z") * 9}],
)
def test_nobody_moves_where_there_is_no_clear_room(changes):
    assert not moves(overloaded(**changes), 60)


def test_the_only_camera_of_a_station_stays():
    places = [Place("busy", 1.0, is_overloaded=True, cameras=("a",)), Place("idle", 8.0)]
    assert not moves(places, 60)


def test_a_camera_does_not_go_to_and_fro():
    balancer = Balancer()
    assert [move for _, move in moves(overloaded(), 30, balancer)] == [("a", "idle")]
    back = [
        Place("idle", 2.0, is_overloaded=True, cameras=("a", "d")),
        Place("busy", 8.0, cameras=("b", "c")),
    ]
    assert ("a", "busy") not in [move for _, move in moves(back, 100, balancer, 30.0)]


def metered(*windows):
    meter = CostMeter()
    for number, (cpu_s, faces_s, all_s, done) in enumerate(windows):
        meter.update(10.0 * number, cpu_s, faces_s, all_s, done)
    return meter


def test_cpu_time_is_shared_out_by_pixels_and_faces():
    """A third of the stages' time went into faces, all of them those of one stream."""
    small, large = 100, 300
    meter = metered(
        (0.0, 0.0, 0.0, {0: Done(0, 0, small), 1: Done(0, 0, large)}),
        (6.0, 1.0, 3.0, {0: Done(250, 500, small), 1: Done(250, 0, large)}),
    )
    assert meter.used == pytest.approx(0.6)
    assert meter.cores == pytest.approx({0: 0.2 + 0.4 / 4, 1: 0.4 * 3 / 4})


def test_what_is_shared_out_is_all_there_is():
    meter = metered(
        (0.0, 0.0, 0.0, {0: Done(0, 0, 9), 1: Done(0, 0, 4)}),
        (5.0, 2.0, 3.0, {0: Done(100, 7, 9), 1: Done(50, 80, 4)}),
    )
    assert sum(meter.cores.values()) == pytest.approx(meter.used)


def test_a_stream_that_comes_is_measured_in_its_first_whole_window():
    meter = metered(
        (0.0, 0.0, 0.0, {0: Done(0, 0, 1)}),
        (1.0, 0.0, 1.0, {0: Done(100, 0, 1), 1: Done(10, 0, 1)}),
        (2.0, 0.0, 2.0, {1: Done(110, 0, 1)}),
    )
    assert meter.cores == {1: pytest.approx(0.1)}


def test_frames_that_nobody_had_time_for_are_a_share():
    meter = metered((0, 0, 0, {0: Done(0, 0, 1)}), (1, 0, 1, {0: Done(75, 0, 1, lost=25)}))
    assert meter.lost == pytest.approx(0.25)


def test_the_rate_is_that_of_the_last_moments():
    rate = RecentRate()
    assert rate.update(0.0, 0) == 0.0
    for second in range(1, 20):
        last = rate.update(float(second), 10 * second if second < 10 else 90)
    assert last == 0.0
