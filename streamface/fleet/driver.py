"""The driver: which camera belongs where, who is lost, and what is to be done about it.

A loop of short steps over what stations report. It never waits for one of them: a station that does
not answer is lost after some seconds, its cameras go to others, and it is ended, so that nobody
writes beside its successor. What a person or a monitor sees is a picture that is made new with each
step and never changed.
"""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from streamface.errors import SourceError, StreamfaceError, UsageError
from streamface.fleet.orders import Contract, Duty, DutyReport, Hello, Orders, Report, StationLost
from streamface.fleet.placement import Balancer, Place, assign
from streamface.fleet.view import SILENT_S, CameraView, FleetView, StationView
from streamface.records import version
from streamface.streams import file_names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamface.fleet.orders import Cluster, Link, Machine
    from streamface.settings import Settings
    from streamface.sources import Input

_log = logging.getLogger(__name__)

_TICK_S: Final = 0.25
_BEAT_S: Final = 0.5
"""Between two questions to a station."""
_LOOK_S: Final = 1.0
"""Between two looks at which machines there are."""
_SILENT_S: Final = 4.0
"""A station that owes an answer for so long is lost."""
_START_S: Final = 180.0
"""The same before its first answer: kernels may have to be compiled, engines to be built."""
_TOGETHER_S: Final = 10.0
"""How long the first station waits for the others, so that it does not get all cameras."""
_FIRST_RETRY_S: Final = 1.0
_LONGEST_RETRY_S: Final = 60.0
_PROVEN_S: Final = 60.0
"""A camera, or a station, that went well for so long has its failures forgiven."""
_MOST_TRIES: Final = 3
"""For what is no network source, or where attempts to reconnect were counted."""
_TRIAL_S: Final = 20.0
"""A suspect that ran for so long did not bring its station down."""
_SUSPECT: Final = 2
"""Crashes in a row at which a camera was there before it is suspected."""
_MOST_BLAMED: Final = 2
"""Crashes that can only be a camera's own doing before it is given up."""
_MOVE_S: Final = 15.0
"""How long a camera that moves may take to finish its file before it begins elsewhere."""
_CANCEL_S: Final = 5.0
"""How long stations may take to remove unfinished files."""
_NO_PLACE_S: Final = 30.0
"""After this it is told that no station could start yet."""


@dataclass(slots=True, eq=False)
class _Camera:
    """One camera, wherever it is."""

    what: Input
    base: str
    """What its files begin with."""
    files: int = 0
    """How many it has begun, those of earlier fleets included."""
    duty: Duty | None = None
    post: _Post | None = None
    began_s: float = 0.0
    over: str = ""
    """Why nothing more will come: "ended" or "lost"."""
    reason: str = ""
    """Why it failed last."""
    tries: int = 0
    """Failures in a row."""
    due_s: float = 0.0
    """Not to be begun before."""
    avoid: str = ""
    """Where it failed last."""
    crashes: int = 0
    """At which it was there, in a row."""
    blamed: int = 0
    """Of these, those that no other camera can have caused."""
    is_ordered_off: bool = False
    ordered_off_s: float = 0.0
    moved_to: str = ""
    """Where it shall go; "": wherever there is room."""
    moves: int = 0
    last: DutyReport | None = None
    cores: float | None = None
    frames_before: int = 0
    face_frames_before: int = 0
    drops_before: Counter[str] = field(default_factory=Counter)
    captured_s: float | None = None
    """When it was last heard that it gave a frame."""

    @property
    def name(self) -> str:
        return self.what.name

    @property
    def frames(self) -> int:
        return self.frames_before + (self.last.frames if self.last is not None else 0)

    def take(self, report: DutyReport, now_s: float) -> None:
        """Note what its station says of it."""
        if report.captured > (self.last.captured if self.last is not None else 0):
            self.captured_s = now_s
        self.last = report
        if report.cores is not None:
            self.cores = report.cores

    def let_go(self) -> None:
        """End its duty; what it did stays counted."""
        if self.last is not None:
            self.frames_before += self.last.frames
            self.face_frames_before += self.last.face_frames
            self.drops_before.update(self.last.drops)
        self.last = self.duty = self.post = None
        self.is_ordered_off = False


@dataclass(slots=True, eq=False)
class _Post:
    """One station, from its hiring to its end."""

    name: str
    machine: Machine
    link: Link
    hired_s: float
    asked_s: float
    owes: bool = True
    """Whether an answer is awaited; the first is a Hello."""
    is_ready: bool = False
    ready_s: float = 0.0
    report: Report = field(default_factory=Report)
    is_left: bool = False
    """Whether its machine is being drained, as we know."""
    open_duties: frozenset[int] = frozenset()
    """Those that it said are not over."""


class Fleet:
    """Cameras on a cluster, from their first frame to finished files."""

    def __init__(
        self,
        cameras: Sequence[Input],
        cluster: Cluster,
        how: Settings,
        *,
        cores: int | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """cameras: names differ. how: of each station's run. cores: that each station keeps to."""
        self._how = how
        self._cluster = cluster
        self._cores = cores
        self._now = now
        bases = base_names(cameras)
        self._cameras = [_Camera(what, base) for what, base in zip(cameras, bases, strict=True)]
        self._posts: dict[str, _Post] = {}
        """By the machine's key."""
        self._machines: list[Machine] = []
        self._names: dict[str, str] = {}
        self._drained: frozenset[str] = frozenset()
        self._balancer = Balancer()
        self._duties = 0
        self._starts: Counter[str] = Counter()
        self._failed_starts: dict[str, tuple[int, float]] = {}
        self._refusals: set[str] = set()
        """Machines that could not begin."""
        self._looked_s = float("-inf")
        self._began_s = now()
        self._stopped_s: float | None = None
        self._first_ready_s: float | None = None
        self._has_told = self._is_interrupted = self._is_cancelled = False
        self.moves: Counter[str] = Counter()
        """Cameras that went to another station, by why: lost, drain, balance, failure."""
        self.restarts = 0
        """Stations that were started again."""
        self.stopping = False
        self.view = FleetView()
        """How everything stands; replaced with every step, never changed."""

    # -- for other threads

    def drain(self, station: str) -> bool:
        """Have a station's cameras moved away; return whether there is one of that name."""
        if station not in self._names.values():
            return False
        self._drained |= {station}
        return True

    def undrain(self, station: str) -> bool:
        """Let cameras come to a station again; return whether it was being drained."""
        was = station in self._drained
        self._drained -= {station}
        return was

    def stop(self) -> None:
        """Finish all files and end. Signal-safe."""
        self.stopping = True

    def interrupt(self) -> None:
        """Leave at once, by a KeyboardInterrupt. For a signal handler in the thread that runs.

        A second one must not keep stations from removing their files, and does nothing.
        """
        self.stopping = True
        if not self._is_interrupted:
            self._is_interrupted = True
            raise KeyboardInterrupt

    # -- running

    def execute(self) -> None:
        """Run until every camera has ended or ``stop``. Raises StreamfaceError."""
        try:
            while not self.step():
                self._cluster.wait(_TICK_S)
        except KeyboardInterrupt:
            self._cancel()
            raise
        if not any(camera.frames for camera in self._cameras):
            reasons = [camera.reason for camera in self._cameras if camera.reason]
            raise SourceError(reasons[0] if reasons else "no frame was read before the stop")

    def step(self) -> bool:
        """Do what is to be done now; return whether all is over."""
        now_s = self._now()
        self._look_around(now_s)
        for post in list(self._posts.values()):
            self._listen_to(post, now_s)
        if not self.stopping:
            self._drain(now_s)
            self._balance(now_s)
            self._place(now_s)
        else:
            self._wind_up(now_s)
        for post in list(self._posts.values()):
            self._ask(post, now_s)
        self.view = self._seen(now_s)
        return self._is_over()

    @property
    def lost(self) -> dict[str, str]:
        """Return why cameras were given up, by name."""
        return {each.name: each.reason for each in self._cameras if each.over == "lost"}

    def _is_over(self) -> bool:
        if all(camera.over and camera.duty is None for camera in self._cameras):
            return True
        if not self.stopping:
            return False
        return all(camera.duty is None for camera in self._cameras)

    # -- machines and stations

    def _look_around(self, now_s: float) -> None:
        if now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        self._machines = self._cluster.machines()
        alive = {machine.key: machine for machine in self._machines}
        for key, post in list(self._posts.items()):
            if key not in alive:
                self._lose(post, "its machine is gone", now_s)
            else:
                post.machine = alive[key]
        self._names = {key: name for key, name in self._names.items() if key in alive}
        for machine in self._machines:
            if machine.key not in self._posts and not self.stopping:
                self._hire(machine, now_s)
        late = now_s - self._began_s > _NO_PLACE_S
        if late and self._first_ready_s is None and not self._has_told and not self.stopping:
            self._has_told = True
            machines = len(self._machines)
            _log.warning("no station has started yet; %d machines of the cluster fit", machines)

    def _hire(self, machine: Machine, now_s: float) -> None:
        failed, due_s = self._failed_starts.get(machine.key, (0, now_s))
        name = self._names.get(machine.key) or self._new_name(machine.host)
        if now_s < due_s or machine.is_draining or name in self._drained:
            return
        self._names[machine.key] = name
        self._starts[machine.key] += 1
        if self._starts[machine.key] > 1:
            self.restarts += 1
        contract = Contract(name, self._how, self._cores, tuple(c.base for c in self._cameras))
        link = self._cluster.hire(machine, contract)
        self._posts[machine.key] = _Post(name, machine, link, now_s, now_s)
        _log.debug("station %s begins (%d failed before)", name, failed)

    def _new_name(self, host: str) -> str:
        taken = set(self._names.values())
        plain = re.sub(r"[^A-Za-z0-9.]+", "-", host).strip("-.") or "station"
        return next(
            name
            for name in (plain, *(f"{plain}-{n}" for n in range(2, len(taken) + 3)))
            if name not in taken
        )

    def _listen_to(self, post: _Post, now_s: float) -> None:
        try:
            answer = post.link.poll()
        except StationLost as exc:
            if exc.final is not None:
                self._refused(post, exc.final, now_s)
                return
            if exc.crashed:
                self._suspect(post, str(exc), now_s)
            self._lose(post, str(exc), now_s)
            return
        if answer is None:
            patience_s = _SILENT_S if post.is_ready else _START_S
            if post.owes and now_s - post.asked_s > patience_s:
                self._lose(post, f"no answer for {patience_s:g} s", now_s)
            return
        post.owes = False
        if isinstance(answer, Hello):
            self._welcome(post, answer, now_s)
        else:
            self._take(post, answer, now_s)

    def _refused(self, post: _Post, error: StreamfaceError, now_s: float) -> None:
        """Do without a machine that cannot do this. Raises the error where no machine can."""
        self._refusals.add(post.machine.key)
        if self._first_ready_s is None and self._refusals >= {m.key for m in self._machines}:
            raise error
        self._lose(post, str(error), now_s)

    def _welcome(self, post: _Post, hello: Hello, now_s: float) -> None:
        if hello.version != version():
            theirs, ours = hello.version, version()
            line = f"{post.name} has streamface {theirs}, this machine {ours}; install one on all"
            self._refused(post, UsageError(line), now_s)
            return
        for camera in self._cameras:
            camera.files = max(camera.files, hello.taken.get(camera.base, 0))
        post.is_ready, post.ready_s = True, now_s
        if self._first_ready_s is None:
            self._first_ready_s = now_s
        _log.info("station %s is ready: %g cores", post.name, post.machine.cores)

    def _take(self, post: _Post, report: Report, now_s: float) -> None:
        post.report = report
        if now_s - post.ready_s > _PROVEN_S:
            self._failed_starts.pop(post.machine.key, None)
        for level, line in report.told:
            _log.log(level, "%s: %s", post.name, line)
        told = {duty.number: duty for duty in report.duties}
        post.open_duties = frozenset(n for n, duty in told.items() if not duty.is_over)
        for camera in self._cameras:
            if camera.post is not post or camera.duty is None:
                continue
            duty = told.get(camera.duty.number)
            if duty is None:
                continue
            camera.take(duty, now_s)
            if duty.frames and now_s - camera.began_s > _TRIAL_S:
                camera.crashes = camera.blamed = 0
            if duty.is_over:
                self._end_duty(camera, duty, now_s)

    def _lose(self, post: _Post, reason: str, now_s: float) -> None:
        """Give up a station; its cameras need others."""
        post.link.kill()
        del self._posts[post.machine.key]
        failed, _ = self._failed_starts.get(post.machine.key, (0, 0.0))
        wait_s = min(_FIRST_RETRY_S * 2**failed, _LONGEST_RETRY_S)
        self._failed_starts[post.machine.key] = (failed + 1, now_s + wait_s)
        if self._is_cancelled:
            return
        theirs = [camera for camera in self._cameras if camera.post is post]
        _log.warning("station %s is lost (%d cameras): %s", post.name, len(theirs), reason)
        for camera in theirs:
            if self.stopping or camera.over:
                camera.reason = camera.reason or f"{camera.name}: its station was lost: {reason}"
                camera.over = camera.over or "lost"
                camera.let_go()
                continue
            camera.let_go()
            self.moves["lost"] += 1
            camera.moves += 1

    def _suspect(self, post: _Post, reason: str, now_s: float) -> None:
        """Find out which camera's pictures bring a station's process down, if it is one.

        What runs after a first crash begins again at once. Who was there twice is a suspect: there
        is at most one on a station, so a crash beside others is its own doing.
        """
        there = [camera for camera in self._cameras if camera.post is post]
        suspects = [camera for camera in there if camera.crashes >= _SUSPECT]
        if not suspects and len(there) > 1:
            for camera in there:
                camera.crashes += 1
            return
        for camera in suspects or there:
            camera.crashes += 1
            if camera.crashes <= _SUSPECT:
                continue
            camera.blamed += 1
            camera.let_go()
            if camera.blamed >= _MOST_BLAMED:
                camera.over, camera.reason = "lost", f"{camera.name}: {reason}, each time it ran"
                _log.error("%s; it is given up", camera.reason)
            else:
                self._fail(camera, reason, post.name, now_s, tries=camera.tries)

    def _dismiss(self, post: _Post) -> None:
        """End a station that has nothing more to do: its machine is free for whoever wanted it."""
        post.link.kill()
        del self._posts[post.machine.key]
        _log.info("station %s has been left: its files are finished, it has ended", post.name)

    # -- cameras

    def _end_duty(self, camera: _Camera, duty: DutyReport, now_s: float) -> None:
        """Draw the consequence of the end of what a camera did on a station."""
        post, was_off = camera.post, camera.is_ordered_off
        ran_s = now_s - camera.began_s
        camera.let_go()
        if was_off or self.stopping:
            if self.stopping:
                camera.over = camera.over or ("lost" if duty.state == "failed" else "ended")
                camera.reason = duty.reason or camera.reason
            return
        if duty.state == "ended":
            camera.over = "ended"
            _log.info("%s has ended: %d frames", camera.name, camera.frames)
        elif duty.state == "failed":
            assert post is not None, "it was somewhere"
            proven = ran_s > _PROVEN_S and duty.frames > 0
            self._fail(camera, duty.reason, post.name, now_s, tries=0 if proven else camera.tries)

    def _fail(self, camera: _Camera, reason: str, where: str, now_s: float, *, tries: int) -> None:
        camera.tries = tries + 1
        named = reason if camera.name in reason else f"{camera.name}: {reason}"
        camera.reason, camera.avoid = named, where
        if camera.tries >= self._most_tries(camera):
            camera.over = "lost"
            _log.error("%s; it is given up after %d tries", named, camera.tries)
            return
        wait_s = min(_FIRST_RETRY_S * 2 ** (camera.tries - 1), _LONGEST_RETRY_S)
        camera.due_s = now_s + wait_s
        self.moves["failure"] += 1
        camera.moves += 1
        _log.warning("%s (on %s); it is tried again in %g s", named, where, wait_s)

    def _most_tries(self, camera: _Camera) -> float:
        """Return how often a camera may fail in a row: a network source for ever, unless told."""
        if camera.what.kind != "url":
            return _MOST_TRIES
        return float("inf") if self._how.reconnect is None else self._how.reconnect + 1

    def _is_open(self, post: _Post) -> bool:
        return post.is_ready and not self._is_drained(post)

    def _is_drained(self, post: _Post) -> bool:
        return post.machine.is_draining or post.name in self._drained

    def _places(self) -> list[Place]:
        return [
            Place(
                post.name,
                post.machine.cores,
                is_open=self._is_open(post),
                is_overloaded=post.report.is_overloaded,
                cameras=tuple(c.name for c in self._cameras if c.post is post),
            )
            for post in self._posts.values()
            if post.is_ready
        ]

    def _costs(self) -> dict[str, float]:
        return {each.name: each.cores for each in self._cameras if each.cores is not None}

    def _drain(self, now_s: float) -> None:
        """Order cameras away from stations that are to be left, if there is another place."""
        for post in list(self._posts.values()):
            drained = self._is_drained(post)
            if drained != post.is_left:
                post.is_left = drained
                _log.info("station %s is %s", post.name, "drained" if drained else "open again")
            if drained:
                for camera in self._cameras:
                    if camera.post is post:
                        self._order_off(camera, "drain", now_s)
                if post.is_ready and not any(camera.post is post for camera in self._cameras):
                    self._dismiss(post)

    def _balance(self, now_s: float) -> None:
        if any(camera.is_ordered_off for camera in self._cameras):
            return
        move = self._balancer.update(now_s, self._places(), self._costs())
        if move is None:
            return
        camera = next(each for each in self._cameras if each.name == move[0])
        assert camera.post is not None, "it is on a place"
        _log.info("%s moves from %s, which has too much to do", camera.name, camera.post.name)
        self._order_off(camera, "balance", now_s)
        camera.moved_to = move[1]

    def _order_off(self, camera: _Camera, why: str, now_s: float) -> None:
        if camera.is_ordered_off:
            return
        camera.is_ordered_off, camera.ordered_off_s = True, now_s
        self.moves[why] += 1
        camera.moves += 1

    def _place(self, now_s: float) -> None:
        """Give every camera that waits a station, if there is one."""
        for camera in self._cameras:
            late = camera.is_ordered_off and now_s - camera.ordered_off_s > _MOVE_S
            if late:  # its file is still being finished; it begins elsewhere meanwhile
                camera.let_go()
        waiting = [
            camera
            for camera in self._cameras
            if camera.duty is None and not camera.over and camera.due_s <= now_s
        ]
        if not waiting or not self._may_place(now_s):
            return
        posts = {post.name: post for post in self._posts.values() if self._is_open(post)}
        suspects = [camera for camera in waiting if camera.crashes >= _SUSPECT]
        for camera in suspects:
            self._try(camera, posts, now_s)
        waiting = [camera for camera in waiting if camera not in suspects]
        by_name = {camera.name: camera for camera in waiting}
        chosen = {c.name: c.moved_to for c in waiting if c.moved_to in posts}
        others = [name for name in by_name if name not in chosen]
        avoid = {name: by_name[name].avoid for name in others if by_name[name].avoid}
        chosen |= assign(others, self._places(), self._costs(), avoid=avoid)
        for name, station in chosen.items():
            self._begin(by_name[name], posts[station], now_s)

    def _try(self, camera: _Camera, posts: dict[str, _Post], now_s: float) -> None:
        """Begin a suspect where no other one is, if there is such a place now."""
        tried = {c.post.name for c in self._cameras if c.post is not None and c.crashes >= _SUSPECT}
        free = [place for place in self._places() if place.name not in tried]
        for station in assign([camera.name], free, self._costs()).values():
            self._begin(camera, posts[station], now_s)

    def _may_place(self, now_s: float) -> bool:
        """Whether it is known well enough which stations there are."""
        if self._first_ready_s is None:
            return False
        if now_s - self._first_ready_s > _TOGETHER_S:
            return True
        return all(post.is_ready for post in self._posts.values())

    def _begin(self, camera: _Camera, post: _Post, now_s: float) -> None:
        self._duties += 1
        camera.files += 1
        name = numbered(camera.base, camera.files)
        camera.duty, camera.post = Duty(self._duties, camera.what, name), post
        camera.began_s, camera.moved_to, camera.avoid = now_s, "", ""
        _log.info("%s begins on %s", camera.name, post.name)

    def _wind_up(self, now_s: float) -> None:
        """Have all files finished: no duty is ordered any more."""
        if self._stopped_s is None:
            self._stopped_s = now_s
            _log.info("finishing all files")
        for camera in self._cameras:
            if camera.duty is None and not camera.over:
                camera.over = "ended" if camera.frames else "lost"
                camera.reason = camera.reason or f"{camera.name}: no frame came before the stop"

    # -- talking

    def _ask(self, post: _Post, now_s: float) -> None:
        if post.owes or not post.is_ready:
            return
        wanted = tuple(
            camera.duty
            for camera in self._cameras
            if camera.post is post and camera.duty is not None and not camera.is_ordered_off
        ) if not self.stopping else ()  # fmt: skip
        news = {duty.number for duty in wanted} != set(post.open_duties)
        if not news and now_s - post.asked_s < _BEAT_S:
            return
        if news and now_s - post.asked_s < _BEAT_S / 2:
            return
        post.link.send(Orders(wanted))
        post.owes, post.asked_s = True, now_s

    def _cancel(self) -> None:
        """Have unfinished files removed, within some seconds."""
        self._is_cancelled = True
        until_s = self._now() + _CANCEL_S
        asked: set[str] = set()
        while self._now() < until_s:
            waiting = False
            for key, post in list(self._posts.items()):
                try:
                    answer = post.link.poll()
                    post.owes = post.owes and answer is None
                    if isinstance(answer, Report) and key in asked:
                        post.open_duties = frozenset(
                            duty.number for duty in answer.duties if not duty.is_over
                        )
                        if not post.open_duties:
                            del self._posts[key]
                            continue
                    if not post.is_ready:
                        del self._posts[key]  # it has no camera yet
                        continue
                    if not post.owes:
                        post.link.send(Orders(cancel=True))
                        post.owes = True
                        asked.add(key)
                except StreamfaceError:
                    del self._posts[key]
                    continue
                waiting = True
            if not waiting:
                return
            self._cluster.wait(_TICK_S)

    # -- seen from outside

    def _seen(self, now_s: float) -> FleetView:
        stations = [self._station_view(post) for post in self._posts.values()]
        known = {each.name for each in stations}
        left = {machine.key for machine in self._machines if machine.is_draining}
        away = [
            StationView(
                name,
                node=key,
                state="drained" if name in self._drained or key in left else "down",
            )
            for key, name in self._names.items()
            if name not in known
        ]
        return FleetView(
            taken_s=time.monotonic(),
            elapsed_s=now_s - self._began_s,
            stations=tuple(sorted((*stations, *away), key=lambda each: each.name)),
            cameras=tuple(self._camera_view(camera, now_s) for camera in self._cameras),
            moves=dict(self.moves),
            restarts=self.restarts,
            stopping=self.stopping,
        )

    def _station_view(self, post: _Post) -> StationView:
        report = post.report
        state = "up" if post.is_ready else "starting"
        return StationView(
            post.name,
            host=post.machine.host,
            node=post.machine.key,
            state="draining" if post.is_ready and self._is_drained(post) else state,
            cores=post.machine.cores,
            cores_used=report.cores_used,
            memory_bytes=report.memory_bytes,
            lowered=report.lowered,
            cameras=sum(camera.post is post for camera in self._cameras),
            on=dict(report.on),
        )

    def _camera_view(self, camera: _Camera, now_s: float) -> CameraView:
        last = camera.last or DutyReport(0, "opening")
        if camera.over:
            state = camera.over
        elif camera.duty is None:
            state = "waiting"
        else:
            state = "moving" if camera.is_ordered_off else last.state
        silent_s = None if camera.captured_s is None else now_s - camera.captured_s
        if state == "running" and silent_s is not None and silent_s > SILENT_S:
            state = "silent"
        return CameraView(
            camera.name,
            state=state,
            station=camera.post.name if camera.post is not None else "",
            reason=camera.reason if state in ("lost", "waiting") else "",
            frames=camera.frames,
            face_frames=camera.face_frames_before + last.face_frames,
            faces=last.faces,
            fps=last.fps if state in ("running", "silent") else 0.0,
            drops=dict(camera.drops_before + Counter(last.drops)),
            ages_s=last.ages_s,
            recent_ages_s=last.recent_ages_s,
            cores=camera.cores,
            moves=camera.moves,
            silent_s=silent_s,
        )


def numbered(name: str, number: int) -> str:
    """Return what the files of a camera are called the ``number``-th time."""
    return name if number == 1 else f"{name}-{number}"


def base_names(cameras: Sequence[Input]) -> list[str]:
    """Return what each camera's files begin with: no number makes it the file of another one."""
    names = file_names(cameras)
    plain = {name.lower() for name in names}
    # A camera called "door-2" beside one called "door".
    return [
        f"{name}_" if re.sub(r"(-\d+){1,2}$", "", name.lower()) in plain - {name.lower()} else name
        for name in names
    ]
