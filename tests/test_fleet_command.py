"""``streamface run --cluster``: what is refused, and what stations are told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import clips
import pytest
from fleet_fakes import FakeCluster

from streamface import cli
from streamface.fleet import command, ray_stations
from streamface.settings import Settings

URL = "rtsp://10.0.0.1/live"


def refused(capsys, *arguments):
    """Return the one line with which a command is refused as wrong usage."""
    assert cli.main(["run", "--cluster", "auto", *arguments]) == cli.USAGE
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--source", URL, "--show"], "--show"),
        (["--source", URL, "--virtual-camera"], "--virtual-camera"),
        (["--source", URL, "--save-jsonl", "-"], "--save-jsonl"),
        (["--source", URL, "--max-frames", "9"], "--max-frames"),
        (["--source", URL, "--output", "a.mp4"], "needs a folder"),
        (["--source", URL, "--output", "a.m3u8"], "needs a folder"),
        (["--source", URL, "--output", "rtmp://h/live/secret"], "give a folder"),
        (["--source", "0"], "a device of one machine"),
        (["--source", "demo"], "is for live sources"),
        (["--source", URL, "--threads", "0"], "--threads must be 1 to 1024"),
    ],
)
def test_what_makes_no_sense_is_refused(capsys, arguments, words):
    line = refused(capsys, *arguments)
    assert words in line
    assert "secret" not in line


def test_a_file_is_refused_unless_it_is_played_as_live(capsys, tmp_path):
    path = tmp_path / "a.mp4"
    clips.write_clip(path, 3)
    assert "streamface batch" in refused(capsys, "--source", str(path))
    how = Settings(source=str(path), simulate_live=True)
    assert [each.location for each in command.cameras_of(how)] == [str(path)]


def test_threads_are_for_a_cluster(capsys):
    assert cli.main(["run", "--source", "demo", "--threads", "2"]) == cli.USAGE
    assert "--threads is for --cluster" in capsys.readouterr().err


def test_without_ray_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main(["run", "--cluster", "auto", "--source", URL]) == cli.FAILED
    line = capsys.readouterr().err
    assert "streamface[ray]" in line
    assert line.count("\n") == 1


def test_the_command_line_imports_nothing_of_a_fleet():
    code = (
        "import sys, streamface.cli\n"
        "print(*[n for n in sys.modules if n == 'ray' or n.startswith('streamface.fleet')])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_names_come_from_the_list(tmp_path):
    listed = tmp_path / "cameras.streams"
    listed.write_text(f"door = {URL}\ngate = {URL}?2\ngate = {URL}?3\n")
    found = command.cameras_of(Settings(source=str(listed)))
    assert [each.name for each in found] == ["door", "gate", "gate #2"]


def test_stations_get_whole_paths_and_no_audience(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = Settings(source=URL, output=Path("out"), data={"csv": "a.csv"}, serve="0", chart=True)
    how = command.station_settings(given)
    assert how.outputs == (tmp_path / "out",)
    assert how.data == {"csv": str(tmp_path / "a.csv")}
    assert how.chart
    assert not how.is_watched


@pytest.mark.parametrize(
    ("options", "gpus"),
    [({}, 0), ({"device": "cuda:1"}, 1), ({"hwaccel": "cuda"}, 1), ({"require_gpu": True}, 1)],
)
def test_a_gpu_is_asked_for_where_it_is_named(options, gpus):
    assert command.gpus_of(Settings(source=URL, **options)) == gpus


class Cluster(FakeCluster):
    """Stands in for Ray's."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


@pytest.fixture
def cluster(monkeypatch):
    fake = Cluster(1)
    monkeypatch.setattr(ray_stations, "RayCluster", lambda *_, **__: fake)
    return fake


def virtual(monkeypatch, cluster):
    """Let the driver's clock be that of the cluster."""
    from streamface.fleet import driver

    made = driver.Fleet
    monkeypatch.setattr(
        driver, "Fleet", lambda *a, **b: made(*a, **{**b, "now": lambda: cluster.now_s})
    )


def test_a_fleet_from_the_command_line_to_its_end(monkeypatch, capsys, cluster):
    virtual(monkeypatch, cluster)
    wait = cluster.wait

    def until_frames_came(seconds):
        wait(seconds)
        if cluster.now_s > 1005:
            cluster.over.add("door")

    cluster.wait = until_frames_came
    monkeypatch.setattr("streamface.fleet.command.find_streams", lambda _: named("door"))
    arguments = ["run", "--cluster", "auto", "--source", URL]
    assert cli.main([*arguments, "--no-progress"]) == cli.DONE
    told = capsys.readouterr().err
    assert "1 cameras:" in told
    assert "moves: none" in told
    assert cluster.closed


def named(*names):
    from streamface.sources import Input

    return [Input("url", URL, name) for name in names]


def test_a_camera_that_was_lost_is_a_part(monkeypatch, capsys, cluster):
    virtual(monkeypatch, cluster)
    wait = cluster.wait
    cluster.failures["gate"] = "no route to host"

    def until_frames_came(seconds):
        wait(seconds)
        if cluster.now_s > 1005:
            cluster.over.add("door")

    cluster.wait = until_frames_came
    monkeypatch.setattr("streamface.fleet.command.find_streams", lambda _: named("door", "gate"))
    arguments = ["run", "--cluster", "auto", "--source", URL, "--reconnect", "1", "--no-progress"]
    assert cli.main(arguments) == cli.PARTIAL
    assert "failed: 1 of 2 cameras" in capsys.readouterr().err
