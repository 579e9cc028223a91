"""A cluster in virtual time: machines that die, stations that are silent, cameras that fail."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from streamface.fleet.driver import Fleet
from streamface.fleet.orders import DutyReport, Hello, Machine, Report, StationLost
from streamface.records import version
from streamface.settings import Settings
from streamface.sources import Input

FPS = 25


def cameras(count):
    return [Input("url", f"rtsp://10.0.0.{n}/", f"camera{n}") for n in range(count)]


@dataclass(eq=False)
class FakeStation:
    """Obeys at once; a file is finished ``finish_s`` after a duty's end."""

    world: FakeCluster
    machine: Machine
    contract: object
    began_s: float
    duties: dict = field(default_factory=dict)
    ends_s: dict = field(default_factory=dict)
    answer: object = None
    is_killed: bool = False
    is_silent: bool = False
    crash: str = ""
    lowered: str = ""

    def send(self, orders):
        assert not self.is_killed
        assert self.answer is None, "one question at a time"
        now_s = self.world.now_s
        wanted = {duty.number: duty for duty in orders.duties}
        for number in wanted.keys() - self.duties.keys():
            self.duties[number] = (wanted[number], now_s)
            self.world.files.append((wanted[number].file, self.contract.name))
        for number in self.duties.keys() - wanted.keys():
            self.ends_s.setdefault(number, now_s + self.world.finish_s)
        told = []
        for number, (duty, began_s) in list(self.duties.items()):
            told.append(self.report(duty, began_s))
            if told[-1].is_over and number not in wanted:
                del self.duties[number]
        if orders.cancel:
            self.world.cancelled.append(self.contract.name)
            self.duties.clear()
        self.answer = Report(tuple(told), cores_used=0.5, lowered=self.lowered)

    def report(self, duty, began_s):
        failure = self.world.failures.get(duty.what.name)
        frames = int((self.world.now_s - began_s) * FPS)
        ended_s = self.ends_s.get(duty.number)
        if failure:
            return DutyReport(duty.number, "failed", failure)
        if ended_s is not None:
            state = "ended" if self.world.now_s >= ended_s else "ending"
        elif duty.what.name in self.world.over:
            state = "ended"
        else:
            state = "running" if frames else "opening"
        cost = self.world.costs.get(duty.what.name, 0.2)
        captured = 1 if duty.what.name in self.world.silent else frames
        return DutyReport(
            duty.number, state, captured=captured, frames=frames, fps=float(FPS), cores=cost
        )

    def poll(self):
        if self.crash:
            raise StationLost(self.crash, crashed=True)
        killers = self.world.killers & {duty.what.name for duty, _ in self.duties.values()}
        if killers:
            raise StationLost("its process ended (SIGSEGV)", crashed=True)
        if self.is_silent or self.machine.key in self.world.cut_off:
            return None
        if self.began_s is not None:
            if self.world.now_s < self.began_s + self.world.start_s:
                return None
            self.began_s = None
            return Hello(self.machine.host, self.world.version, self.world.taken)
        answer, self.answer = self.answer, None
        return answer

    def kill(self):
        self.is_killed = True


class FakeCluster:
    def __init__(self, machines=2, cores=4.0):
        self.now_s = 1000.0
        self.alive = [Machine(f"key{n}", f"node{n}", cores) for n in range(machines)]
        self.stations = []
        self.failures, self.over, self.killers, self.costs = {}, set(), set(), {}
        self.cut_off, self.silent = set(), set()
        self.taken = {}
        self.files = []
        self.cancelled = []
        self.finish_s = self.start_s = 0.5
        self.version = version()
        self.closed = False

    def machines(self):
        return list(self.alive)

    def hire(self, machine, contract):
        self.stations.append(FakeStation(self, machine, contract, self.now_s))
        return self.stations[-1]

    def wait(self, seconds):
        self.now_s += max(seconds, 0.01)

    def close(self):
        self.closed = True

    # -- what tests do and see

    def living(self):
        alive = {machine.key for machine in self.alive} - self.cut_off
        return [s for s in self.stations if not s.is_killed and s.machine.key in alive]

    def station(self, name):
        return next(s for s in self.living() if s.contract.name == name)

    def where(self):
        """Return the stations that run each camera now, by camera."""
        found = {}
        for station in self.living():
            for duty, _ in station.duties.values():
                if duty.number not in station.ends_s:
                    found.setdefault(duty.what.name, []).append(station.contract.name)
        return found

    def die(self, host):
        """End a machine as a power cut does, and have the cluster know."""
        self.alive = [machine for machine in self.alive if machine.host != host]

    def change(self, host, **values):
        self.alive = [replace(m, **values) if m.host == host else m for m in self.alive]


def fleet(cluster, count=4, **options):
    how = Settings(source="demo", **options)
    return Fleet(cameras(count), cluster, how, now=lambda: cluster.now_s)


def run(made, cluster, seconds):
    """Let virtual time go by; return whether the fleet has come to its end."""
    until_s = cluster.now_s + seconds
    while cluster.now_s < until_s:
        if made.step():
            return True
        cluster.wait(0.25)
    return False
