"""A station: cameras come and go in one run, and each has its own file and its own end."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager

import av
import pytest

from streamface import app
from streamface.app import Run
from streamface.errors import SourceError
from streamface.fleet import station as stations
from streamface.fleet.orders import Contract, Duty, Orders
from streamface.fleet.station import Station, free_name, numbers_in
from streamface.settings import Settings
from streamface.sources import Input
from streamface.testing import CountingSource, FixedDetector

WAIT_S = 30.0
PACE_S = 0.01


@pytest.fixture(autouse=True)
def _fixed_face(monkeypatch):
    """Every frame has one face, found without a model."""
    monkeypatch.setattr(app, "open_detector", lambda _settings: FixedDetector())


class Opener:
    """Opens fake cameras: "camera" goes on for ever, "short" ends, "breaks" does, "gone" is not."""

    def __init__(self):
        self.opened = {}
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, what, _options, *, stream):
        assert self.gate.wait(WAIT_S)
        if what.location == "gone":
            raise SourceError(f"cannot open {what.name}: no route to host")
        count = 20 if what.location == "short" else 10**9

        def each(index):
            time.sleep(PACE_S)
            if what.location == "breaks" and index == 20:
                raise SourceError("it was unplugged")

        source = CountingSource(count, stream=stream, is_live=True, on_frame=each)
        self.opened[what.name] = source
        return source


class Bench:
    """A station with fake cameras, and a driver that is a test."""

    def __init__(self, folder, **options):
        self.folder = folder
        self.opener = Opener()
        self.runs = []
        options = {"tasks": ("emotion",), "preset": "ultrafast"} | options
        how = Settings(source="demo", output=folder, **options)
        contract = Contract("node", how, None, ())
        self.station = Station(contract, "host", make_run=self.make)
        self.station.hello()

    def make(self, how, streams, nets):
        self.runs.append(Run(how, streams=streams, nets=nets, opener=self.opener))
        return self.runs[-1]

    def obey(self, *duties, **orders):
        report = self.station.obey(Orders(duties, **orders))
        return {duty.number: duty for duty in report.duties}

    def until(self, holds, *duties, **orders):
        """Repeat orders until something holds of the report; return that."""
        until_s = time.monotonic() + WAIT_S
        while not holds(told := self.obey(*duties, **orders)):
            assert time.monotonic() < until_s, told
            time.sleep(0.02)
        return told


@contextmanager
def bench(folder, **options):
    made = Bench(folder, **options)
    try:
        yield made
    finally:
        made.opener.gate.set()
        assert made.station.close(WAIT_S)


def duty(number, kind="camera", file=None):
    return Duty(number, Input("url", kind, f"c{number}"), file or f"c{number}")


def frames_in(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def running(*numbers, frames=5):
    return lambda told: all(told[n].state == "running" and told[n].frames > frames for n in numbers)


def test_a_camera_comes_while_others_run_and_joins_them(tmp_path):
    with bench(tmp_path) as it:
        one, two = duty(1), duty(2)
        it.until(running(1), one)
        told = it.until(running(1, 2), one, two)
        assert len(it.runs) == 1, "their faces share batches"
        assert told[1].face_frames > 0
        assert told[1].captured >= told[1].frames
        assert told[1].ages_s
        assert it.opener.opened["c1"].closed == 0, "who was there is not disturbed"
        it.until(lambda told: not told)
    assert frames_in(tmp_path / "c1.mp4") > frames_in(tmp_path / "c2.mp4") > 5


def test_a_camera_that_is_not_wanted_any_more_is_finished_while_others_go_on(tmp_path):
    with bench(tmp_path) as it:
        one, two = duty(1), duty(2)
        it.until(running(1, 2), one, two)
        told = it.until(lambda told: told[1].state == "ended", two)
        assert frames_in(tmp_path / "c1.mp4") >= 5
        assert it.opener.opened["c1"].closed
        assert 1 not in it.obey(two), "an end is told once"
        it.until(running(2, frames=told[2].frames + 5), two)
        assert len(it.runs) == 1
        assert not (tmp_path / "c2.mp4").exists()


def test_cameras_come_and_go_many_times(tmp_path):
    with bench(tmp_path) as it:
        stays = duty(1)
        it.until(running(1), stays)
        for number in range(2, 8):
            it.until(running(1, number), stays, duty(number))
        it.until(lambda told: list(told) == [1], stays)
        assert len(it.runs) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"c{n}.mp4" for n in range(1, 8)]
    assert all(frames_in(path) > 0 for path in tmp_path.iterdir())


def test_what_ends_breaks_or_cannot_be_opened_is_told_and_ends_only_that(tmp_path):
    with bench(tmp_path) as it:
        duties = [duty(1), duty(2, "short"), duty(3, "breaks"), duty(4, "gone")]
        over = lambda told: all(told[n].is_over for n in (2, 3, 4))  # noqa: E731
        told = it.until(over, *duties)
        assert told[2].state == "ended"
        assert (told[3].state, told[3].reason) == ("failed", "c3: it was unplugged")
        assert (told[4].state, told[4].reason) == ("failed", "cannot open c4: no route to host")
        assert told[1].state == "running"
        assert frames_in(tmp_path / "c2.mp4") > 0
        assert frames_in(tmp_path / "c3.mp4") > 0
        assert over(it.obey(*duties)), "as long as it is ordered"


def test_the_next_camera_after_the_last_begins_another_run(tmp_path):
    data = {"jsonl": str(tmp_path / "faces.jsonl")}
    with bench(tmp_path, data=data) as it:
        it.until(lambda told: told[1].is_over, duty(1, "short"))
        it.until(running(2), duty(2))
        assert len(it.runs) == 2
        it.until(lambda told: not told)
    for name in ("faces-node.jsonl", "faces-node-2.jsonl"):
        header, *lines = (tmp_path / name).read_text().splitlines()
        assert json.loads(header)
        assert lines


def test_a_run_in_which_nothing_opens_tells_why(tmp_path):
    with bench(tmp_path) as it:
        told = it.until(lambda told: told[1].is_over and told[2].is_over,
                        duty(1, "gone"), duty(2, "gone"))  # fmt: skip
        assert told[1].state == told[2].state == "failed"
        assert "no route to host" in told[1].reason


def test_a_camera_that_is_let_go_while_it_opens_leaves_nothing(tmp_path):
    with bench(tmp_path) as it:
        it.opener.gate.clear()
        assert it.obey(duty(1))[1].state == "opening"
        it.obey()
        it.opener.gate.set()
        it.until(lambda told: not told)
        it.until(running(2), duty(2))


def test_files_that_stand_there_are_never_replaced(tmp_path):
    (tmp_path / "c1.mp4").write_bytes(b"mine")
    with bench(tmp_path) as it:
        told = it.until(lambda told: told[1].is_over and running(2)(told), duty(2), duty(1))
        assert told[1].state == "failed"
        assert "exists" in told[1].reason
    assert (tmp_path / "c1.mp4").read_bytes() == b"mine"


def test_cancelling_removes_what_is_unfinished(tmp_path):
    with bench(tmp_path) as it:
        one, two = duty(1), duty(2)
        it.until(running(1, 2), one, two)
        it.until(lambda told: not told, cancel=True)
        assert list(tmp_path.iterdir()) == []


def test_a_worn_run_gives_its_cameras_back(tmp_path, monkeypatch):
    monkeypatch.setattr(stations, "_MOST_LANES", 2)
    with bench(tmp_path) as it:
        one, two = duty(1), duty(2)
        it.until(running(1, 2), one, two)
        told = it.until(lambda told: told[1].is_over, one, two, duty(3))
        assert told[1].state == told[2].state == "returned"
        it.until(running(3, 4), duty(3), duty(4))
        assert len(it.runs) == 2
    assert frames_in(tmp_path / "c1.mp4") > 0


def test_costs_are_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("streamface.fleet.cost.WINDOW_S", 0.3)
    with bench(tmp_path) as it:
        told = it.until(lambda told: told[1].cores is not None, duty(1))
        assert 0 < told[1].cores < 64
        assert told[1].fps > 0


def test_the_first_answer_tells_what_stands_in_the_folder(tmp_path):
    for name in ("door.mp4", "door-12.mp4", "gate-000.mp4", ".yard-3.1f2e3d4c.part.mp4"):
        (tmp_path / name).touch()
    how = Settings(source="demo", output=tmp_path)
    contract = Contract("node", how, None, ("door", "gate", "yard", "roof"))
    taken = {"door": 12, "gate": 1, "yard": 3}
    assert Station(contract, "host").hello().taken == taken
    contract = Contract("node", Settings(source="demo", output=tmp_path, overwrite=True), None, ())
    assert Station(contract, "host").hello().taken == {}


@pytest.mark.parametrize(
    ("file", "number"),
    [
        ("door.mp4", 1),
        ("door-2.mp4", 2),
        ("door-2-007.mp4", 2),
        ("Door-31.mp4", 31),
        (".door-4.0a1b2c3d.part.mp4", 4),
        ("doorbell.mp4", None),
        ("door-2.mkv", None),
        ("door_2.mp4", None),
    ],
)
def test_numbers_of_files(tmp_path, file, number):
    (tmp_path / file).touch()
    assert numbers_in(tmp_path, ["door"]).get("door") == number


def test_data_files_have_the_stations_name_and_no_file_is_replaced(tmp_path):
    target = tmp_path / "a.jsonl"
    assert free_name(target, "node", 1).name == "a-node.jsonl"
    assert free_name(target, "node", 3).name == "a-node-3.jsonl"
    (tmp_path / "a-node.jsonl").touch()
    assert free_name(target, "node", 1).name == "a-node-2.jsonl"
