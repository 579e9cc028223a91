"""A fleet on two Ray nodes of this machine, with cameras that speak RTSP. Needs Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import av
import pytest
from ray_nodes import add_node, kill_node
from streams import RtspServer, Script, h264_clip

WAIT_S = 90.0


def processes(word):
    """Return the processes whose command line has a word, without those that are dead."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            state = path.with_name("stat").read_text().rpartition(")")[2].split()[0]
            if word.encode() in path.read_bytes() and state != "Z":
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.fixture
def rtsp(tmp_path):
    """Three cameras at 25 frames a second, and a list of them."""
    clip = h264_clip(tmp_path, count=50, rate=25)
    listed = tmp_path / "cameras.streams"
    with ExitStack() as stack:
        servers = [stack.enter_context(RtspServer(Script(clip, pace_s=1 / 25))) for _ in range(3)]
        listed.write_text("".join(f"cam{n} = {s.url()}\n" for n, s in enumerate(servers)))
        yield listed


class Command:
    """The command, and what it tells."""

    def __init__(self, nodes, listed, output, log):
        self._out = log.open("wb")
        self._page = log.with_name("fleet.json")
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        }
        self.log = log
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "streamface", "run", "--source", str(listed),
                "--cluster", nodes.address, "--output", str(output), "--preset", "ultrafast",
                "--threads", "1", "--tasks", "emotion", "--no-progress", "--serve", "0",
                "--reconnect", "0",
            ],
            stdout=self._out, stderr=self._out, env=env,
        )  # fmt: skip

    def url(self):
        for line in self.log.read_text().splitlines():
            if "watch at " in line:
                return line.rpartition("watch at ")[2]
        return None

    def view(self):
        import urllib.request

        url = self.url()
        if url is None:
            return None
        with urllib.request.urlopen(f"{url}fleet", timeout=10) as answer:
            return json.load(answer)

    def until(self, holds):
        """Wait until something holds of the fleet; return that."""
        until_s = time.monotonic() + WAIT_S
        while True:
            view = self.view()
            if view is not None and holds(view):
                return view
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until_s, (view, self.log.read_text())
            time.sleep(0.1)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._out.close()


def all_run(view):
    return view["cameras"] and all(
        each["state"] == "running" and each["frames"] > 10 for each in view["cameras"]
    )


@pytest.mark.timeout(240)
def test_a_killed_nodes_cameras_run_elsewhere_and_all_files_are_whole(
    two_nodes, quiet_ray, rtsp, tmp_path
):
    pytest.importorskip("aiohttp")
    output = tmp_path / "out"
    node = add_node(two_nodes)
    command = Command(two_nodes, rtsp, output, tmp_path / "log")
    try:
        view = command.until(lambda v: all_run(v) and len(v["stations"]) == 3)
        assert len({each["station"] for each in view["cameras"]}) == 3
        before = {each["name"]: each["station"] for each in view["cameras"]}
        frames = {each["name"]: each["frames"] for each in view["cameras"]}
        kill_node(two_nodes, node)
        began_s = time.monotonic()
        view = command.until(
            lambda v: (
                all_run(v)
                and v["moves"].get("lost")
                and all(c["frames"] > frames[c["name"]] + 25 for c in v["cameras"])
            )
        )
        assert time.monotonic() - began_s < 30  # 2 to 4 s on two idle cores
        moved = [c["name"] for c in view["cameras"] if c["station"] != before[c["name"]]]
        assert len(moved) == 1, "the others stay where they are"
        command.process.send_signal(signal.SIGINT)
        assert command.process.wait(60) == 0, command.log.read_text()
    finally:
        command.end()
    (gone,) = moved
    names = {path.name for path in output.iterdir() if not path.name.startswith(".")}
    assert names == {f"{n}.mp4" for n in before if n != gone} | {f"{gone}-2.mp4"}
    for name in names:
        with av.open(str(output / name)) as container:
            assert sum(1 for _ in container.decode(video=0)) > 10
    until_s = time.monotonic() + WAIT_S
    while processes("streamface.fleet.process"):
        assert time.monotonic() < until_s, "stations were left behind"
        time.sleep(0.1)


@pytest.mark.timeout(240)
def test_stations_of_a_killed_driver_finish_their_files_and_end(
    two_nodes, quiet_ray, rtsp, tmp_path
):
    pytest.importorskip("aiohttp")
    output = tmp_path / "out"
    command = Command(two_nodes, rtsp, output, tmp_path / "log")
    try:
        command.until(all_run)
    finally:
        command.end()
    until_s = time.monotonic() + WAIT_S
    while processes("streamface.fleet.process"):
        assert time.monotonic() < until_s, "stations were left behind"
        time.sleep(0.1)
    assert sorted(path.name for path in output.iterdir()) == [f"cam{n}.mp4" for n in range(3)]
    for path in output.iterdir():
        with av.open(str(path)) as container:
            assert sum(1 for _ in container.decode(video=0)) > 10
