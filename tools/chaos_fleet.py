"""Kill, freeze and drain the machines of a fleet, and time how long its cameras are away.

    nice python tools/chaos_fleet.py --rounds 3 --json -

Two Ray nodes of one core on the loopback of this machine run four cameras, which are the demo
played as if it were live, again and again. In each round all cameras are drained to the second
node, which is then killed (every process of it, at once) or frozen (likewise, so that no connection
breaks), and the time is taken until every camera gives frames on the other node. At last the driver
is killed; every file that has a name must be whole, and no station may live. Linux only: it looks
into /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))
from tools.chaos_batch import ROOT, Nodes, kill, processes

if TYPE_CHECKING:
    from collections.abc import Callable

_CAMERAS: Final = 4
_WAIT_S: Final = 120.0
_REPEATS: Final = 100
_AWAY_S: Final = 10.0
"""Longer than this no camera of a dead machine may be away."""


class FleetChaosError(Exception):
    """A camera did not come back, a file is broken, or something was left behind."""


class Fleet:
    """The command, and what it tells of itself."""

    def __init__(self, address: str, folder: Path) -> None:
        self.output = folder / "out"
        self.log = folder / "log"
        listed, clip = folder / "cameras.streams", folder / "long.mp4"
        make_clip(clip)
        listed.write_text("".join(f"camera{n} = {clip}\n" for n in range(_CAMERAS)))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "streamface", "run", "--source", str(listed),
                    "--simulate-live", "--cluster", address, "--output", str(self.output),
                    "--segment", "5s", "--preset", "ultrafast", "--threads", "1", "--serve", "0",
                    "--no-progress",
                ],
                stdout=log, stderr=log, cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        self._url = ""

    def ask(self, path: str, method: str = "GET") -> Any:
        """Return the JSON under one of the driver's addresses; None while there is none."""
        if not self._url:
            told = [line for line in self.log.read_text().splitlines() if "watch at " in line]
            self._url = told[0].rpartition("watch at ")[2] if told else ""
        if not self._url:
            return None
        request = urllib.request.Request(self._url + path, method=method)  # noqa: S310 - our own
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return json.load(answer)

    def until(self, holds: Callable[[Any], bool], what: str) -> float:
        """Wait until something holds of the fleet; return after how many seconds it did."""
        began_s = time.monotonic()
        while True:
            view = self.ask("fleet")
            if view is not None and holds(view):
                return time.monotonic() - began_s
            if self.process.poll() is not None or time.monotonic() - began_s > _WAIT_S:
                raise FleetChaosError(f"{what}: it did not come to it; the log is {self.log}")
            time.sleep(0.03)


def make_clip(path: Path) -> None:
    """Write what every camera shows: the demo, again and again."""
    import av

    once = path.with_name("once.mp4")
    subprocess.run(
        [sys.executable, "-m", "streamface", "run", "--source", "demo", "--tasks", "emotion",
         "--preset", "ultrafast", "--quiet", "--output", str(once)],
        check=True, cwd=path.parent, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    shift = 0
    with av.open(str(path), "w") as long:
        stream = None
        for _ in range(_REPEATS):
            end = shift
            with av.open(str(once)) as short:
                source = short.streams.video[0]
                stream = stream or long.add_stream_from_template(source)
                for packet in short.demux(source):
                    if packet.dts is None or packet.pts is None:
                        continue
                    packet.dts, packet.pts = packet.dts + shift, packet.pts + shift
                    end = max(end, packet.pts + (packet.duration or 1))
                    packet.stream = stream
                    long.mux(packet)
            shift = end


def up(view: Any) -> list[str]:
    """Return the stations that take cameras."""
    return [each["name"] for each in view["stations"] if each["state"] == "up"]


def all_run(view: Any) -> bool:
    """Whether every camera gives frames."""
    return len(view["cameras"]) == _CAMERAS and all(
        each["state"] == "running" and each["frames"] for each in view["cameras"]
    )


def gather_on_second(fleet: Fleet, nodes: Nodes) -> str:
    """Drain all cameras to the second node; return its station."""
    fleet.until(lambda view: len(up(view)) == 2 and all_run(view), "two stations")
    names: dict[str, str] = {s["node"]: s["name"] for s in fleet.ask("fleet")["stations"]}
    second = names[nodes.second_id]
    (first,) = {name for name in up(fleet.ask("fleet")) if name != second}
    fleet.ask(f"drain?station={first}", "POST")
    fleet.until(
        lambda view: all_run(view) and all(c["station"] == second for c in view["cameras"]),
        "draining",
    )
    fleet.ask(f"undrain?station={first}", "POST")
    fleet.until(lambda view: len(up(view)) == 2 and all_run(view), "two stations again")
    return second


def strike(fleet: Fleet, nodes: Nodes, kind: str) -> float:
    """Kill or freeze the second node; return how long the last of its cameras was away."""
    station = gather_on_second(fleet, nodes)
    tree = nodes.second_processes()
    time.sleep(3)
    frames = {each["name"]: each["frames"] for each in fleet.ask("fleet")["cameras"]}

    def back(view: Any) -> bool:
        return all_run(view) and all(
            each["station"] != station and each["frames"] > frames[each["name"]]
            for each in view["cameras"]
        )

    if kind == "kill":
        for number in tree:
            kill(number)
    else:
        for number in tree:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGSTOP)
    away_s = fleet.until(back, kind)
    for number in tree:
        kill(number)
    nodes.kill()
    nodes.mend()
    return away_s


def end(fleet: Fleet) -> int:
    """Kill the driver; hold what it leaves to what it promises; return the number of files."""
    fleet.process.kill()
    fleet.process.wait()
    until_s = time.monotonic() + 30
    while any("streamface.fleet.process" in command for _, command in processes().values()):
        if time.monotonic() > until_s:
            raise FleetChaosError("stations outlived their driver")
        time.sleep(0.05)
    import av

    files = [path for path in fleet.output.iterdir() if not path.name.startswith(".")]
    for path in files:
        with av.open(str(path)) as container:
            if not sum(1 for _ in container.decode(video=0)):
                raise FleetChaosError(f"{path} has no frame")
    return len(files)


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Do all rounds; return what was measured."""
    nodes = Nodes()
    try:
        fleet = Fleet(nodes.address, folder)
        try:
            away_s: dict[str, list[float]] = {"kill": [], "freeze": []}
            for _ in range(arguments.rounds):
                for kind, taken in away_s.items():
                    taken.append(round(strike(fleet, nodes, kind), 2))
                    sys.stderr.write(f"{kind}: away for {taken[-1]} s\n")
            view = fleet.ask("fleet")
        finally:
            fleet.process.kill()
            fleet.process.wait()
        files = end(fleet)
    finally:
        nodes.close()
    return {
        "cameras": _CAMERAS,
        "away_s": away_s,
        "within_10_s": max(map(max, away_s.values())) < _AWAY_S,
        "moves": view["moves"],
        "whole_files": files,
    }


def main() -> int:
    """Parse, wreak havoc, tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", metavar="F", help="write JSON here; '-' is stdout")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="streamface-fleet-"))
    try:
        report = run(arguments, folder)
    except FleetChaosError as exc:
        sys.stderr.write(f"chaos: {exc}; look at {folder}\n")
        return 1
    shutil.rmtree(folder)
    text = json.dumps(report, indent=1) + "\n"
    if arguments.json and arguments.json != "-":
        Path(arguments.json).write_text(text, "utf-8")
    else:
        sys.stdout.write(text)
    return 0 if report["within_10_s"] else 1


if __name__ == "__main__":
    sys.exit(main())
