"""A station in its own process: it lives as long as somebody asks, and leaves whole files."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import av
import pytest

from streamface.fleet import process as processes
from streamface.fleet.orders import Contract, Duty, Hello, Orders, Refusal, StationLost
from streamface.fleet.process import StationProcess
from streamface.settings import Settings
from streamface.sources import Input

WAIT_S = 60.0


def contract(folder, **options):
    how = Settings(source="demo", output=folder, simulate_live=True, preset="ultrafast", **options)
    return Contract("node", how, None, ("demo",))


def station_of(pid):
    """Return the station's process below the one that was started."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            return int(path.parent.name)
    raise AssertionError("there is none")


def begin(folder):
    """Start a station and a camera on it; return it, and its process, once frames come."""
    station = StationProcess(contract(folder))
    assert isinstance(station.hello(), Hello)
    orders = Orders((Duty(1, Input("demo", "demo", "demo"), "demo"),))
    until_s = time.monotonic() + WAIT_S
    while True:
        (told,) = station.exchange(orders).duties
        if told.frames > 10:
            return station, station_of(station._process.pid)
        assert time.monotonic() < until_s, told
        time.sleep(0.1)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid):
    until_s = time.monotonic() + WAIT_S
    while is_alive(pid):
        if time.monotonic() > until_s:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
class TestLifeAndDeath:
    def test_who_hangs_up_leaves_whole_files_and_no_process(self, tmp_path):
        station, pid = begin(tmp_path)
        station.leave()
        assert gone(pid)
        station.end()
        with av.open(str(tmp_path / "demo.mp4")) as container:
            assert sum(1 for _ in container.decode(video=0)) > 10
        assert [path.name for path in tmp_path.iterdir()] == ["demo.mp4"]

    def test_it_outlives_whoever_started_it_for_as_long_as_its_files_need(self, tmp_path):
        """Ray kills the child of a worker whose driver has died."""
        station, pid = begin(tmp_path)
        os.kill(station._process.pid, signal.SIGKILL)
        station.leave()
        assert gone(pid)
        station.end()
        assert [path.name for path in tmp_path.iterdir()] == ["demo.mp4"]

    def test_a_crash_is_told(self, tmp_path):
        station, pid = begin(tmp_path)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(StationLost, match="its process ended .SIGKILL.") as lost:
            station.exchange(Orders())
        assert lost.value.crashed
        station.end()

    def test_one_that_hangs_is_killed_with_all_that_is_below(self, tmp_path):
        station, pid = begin(tmp_path)
        os.kill(pid, signal.SIGSTOP)
        station.end(0.1)
        assert gone(pid)


def test_what_is_wrong_everywhere_is_told_at_once(tmp_path):
    station = StationProcess(contract(tmp_path, emotion_model=Path("no-such-model")))
    try:
        refusal = station.hello()
        assert isinstance(refusal, Refusal)
        assert refusal.kind == "ModelError"
        assert "no-such-model" in refusal.line
        assert type(refusal.error()).__name__ == "ModelError"
    finally:
        station.end(WAIT_S)


def test_nobody_who_asks_is_an_end_as_well(monkeypatch, tmp_path):
    """A driver that is cut off has given the cameras to others by then."""
    closed = []

    class Quiet:
        def __init__(self, *_arguments, **_options):
            pass

        def rehearse(self):
            return Hello("host", "1")

        def close(self, seconds):
            closed.append(seconds)
            return True

    monkeypatch.setattr("streamface.fleet.station.Station", Quiet)
    answers = (tmp_path / "answers").open("wb")
    with answers:
        code = processes._serve(contract(tmp_path), processes.queue.SimpleQueue(), answers, 0.05)
    assert code == 0
    assert closed == [processes._LAST_S]
    assert threading.active_count() < 50
