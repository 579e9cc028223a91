"""Tasks on a Ray cluster: one actor a worker, each the keeper of one process of ``executor``.

A file that kills its worker kills that process, not the actor, so time-outs, memory ceilings and
crashes are told apart by the same code as on one machine. An actor is lost only with its machine or
by Ray's own doing, and then another one is asked for. Tasks and results are small values that
travel inside the calls; nothing is put into the object store.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from streamface.batch.executor import PoolExecutor
from streamface.batch.job import TaskResult
from streamface.errors import BackendUnavailable, UsageError
from streamface.records import version

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from streamface.batch.executor import Body
    from streamface.batch.job import Limits, Task

_log = logging.getLogger(__name__)

_CONNECT_S: Final = 10.0
_PATIENCE_S: Final = 30.0
"""After this it is told that no worker could start yet."""
_MOST_LOST_STARTS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What each worker takes of its machine."""

    workers: int | None = None
    """None: as many as fit into the cluster as it is when the batch begins."""
    threads: int = 1
    gpus: float = 0.0


class Keeper:
    """The actor: keeps one worker process and hands it what comes."""

    def __init__(self, body: Body, limits: Limits, threads: int) -> None:
        self._pool = PoolExecutor(body, 1, limits, threads=threads)

    def about(self) -> tuple[str, str]:
        """Return the machine's name and its version of streamface, once the actor lives."""
        return socket.gethostname(), version()

    def do(self, task: Task) -> TaskResult:
        """Do a task, to the end or until a limit."""
        self._pool.submit(task)
        while True:
            result = self._pool.next(timeout_s=60.0)
            if result is not None:
                return result


class RayExecutor:
    """Workers on a Ray cluster, wherever it has room for them."""

    def __init__(self, body: Body, limits: Limits, address: str, placement: Placement) -> None:
        """Connect and ask for the workers. Raises BackendUnavailable, UsageError."""
        self._ray = connected(address)
        self._body, self._limits, self._placement = body, limits, placement
        cluster = self._ray.cluster_resources()
        self._wanted = placement.workers or _fitting(cluster, placement)
        self._make = self._ray.remote(
            num_cpus=placement.threads, num_gpus=placement.gpus, max_restarts=0, max_task_retries=0
        )(Keeper)
        self._starting: dict[Any, Any] = {}
        self._idle: dict[Any, str] = {}
        self._busy: dict[Any, _Call] = {}
        self._ready: deque[Any] = deque()
        self._began_s = time.monotonic()
        self._has_told = self._is_closed = False
        self._lost_starts = 0
        for _ in range(self._wanted):
            self._ask()

    def _ask(self) -> None:
        actor = self._make.remote(self._body, self._limits, self._placement.threads)
        self._starting[actor.about.remote()] = actor

    @property
    def capacity(self) -> int:
        """As many as there are workers that live."""
        return len(self._idle) + len(self._busy)

    @property
    def at_work(self) -> Mapping[str, tuple[Task, float]]:
        """What is under way."""
        now_s = time.monotonic()
        return {
            f"{call.machine} {number}": (call.task, now_s - call.began_s)
            for number, call in enumerate(self._busy.values())
        }

    def submit(self, task: Task) -> None:
        """Give a task to an idle worker. Raises ValueError where there is none."""
        if not self._idle:
            raise ValueError("all workers have a task")
        actor, machine = self._idle.popitem()
        self._busy[actor.do.remote(task)] = _Call(actor, machine, task, time.monotonic())

    def next(self, timeout_s: float) -> TaskResult | None:
        """Return a result, or None."""
        until_s = time.monotonic() + timeout_s
        while True:
            if not self._ready:
                self._wait(max(0.0, until_s - time.monotonic()))
                self._tell_if_none_starts()
            if not self._ready:
                return None
            result = self._take(self._ready.popleft())
            if result is not None:
                return result

    def _wait(self, timeout_s: float) -> None:
        """Note whose answers are there, having waited for one."""
        waiting = [*self._busy, *self._starting]
        if not waiting:
            time.sleep(timeout_s)
            return
        ready, others = self._ray.wait(waiting, num_returns=1, timeout=timeout_s)
        if ready and others:
            # Asking costs by the number of workers, so take all that is there at once.
            more, _ = self._ray.wait(others, num_returns=len(others), timeout=0)
            ready += more
        self._ready.extend(ready)

    def _take(self, reference: Any) -> TaskResult | None:
        if reference in self._starting:
            self._welcome(reference, self._starting.pop(reference))
            return None
        call = self._busy.pop(reference)
        try:
            result: TaskResult = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as exc:
            # The keeper itself could not go on: its processes do not start.
            raise BackendUnavailable(f"{call.machine}: {first_line(exc.cause)}") from exc
        except self._ray.exceptions.RayError as exc:
            self._dismiss(call.actor)
            self._ask()
            line = f"its worker on {call.machine} was lost: {first_line(exc)}"
            seconds = time.monotonic() - call.began_s
            return TaskResult(
                task=call.task, kind="lost", line=line, seconds=seconds, machine=call.machine
            )
        self._idle[call.actor] = call.machine
        return result

    def _welcome(self, reference: Any, actor: Any) -> None:
        try:
            machine, theirs = self._ray.get(reference)
        except self._ray.exceptions.RayError as exc:
            self._lost_starts += 1
            if self._lost_starts > _MOST_LOST_STARTS * self._wanted:
                raise BackendUnavailable(f"Ray's workers do not start: {first_line(exc)}") from exc
            self._ask()
            return
        if theirs != version():
            raise UsageError(
                f"{machine} has streamface {theirs}, this machine {version()}; install one on all"
            )
        self._lost_starts = 0
        self._idle[actor] = machine

    def _dismiss(self, actor: Any) -> None:
        # One that cannot be reached for a while must not do the same file beside its successor.
        self._ray.kill(actor, no_restart=True)

    def _tell_if_none_starts(self) -> None:
        late = time.monotonic() - self._began_s > _PATIENCE_S
        if late and not self.capacity and not self._has_told:
            self._has_told = True
            _log.warning(
                "no worker has started yet: the cluster has no room for %d cores and %g GPUs",
                self._placement.threads, self._placement.gpus,
            )  # fmt: skip

    def close(self) -> None:
        """End all workers at once and leave the cluster."""
        if self._is_closed:
            return  # Ray would connect anew to be asked
        self._is_closed = True
        busy = [call.actor for call in self._busy.values()]
        for actor in [*self._starting.values(), *self._idle, *busy]:
            self._dismiss(actor)
        self._ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class _Call:
    actor: Any
    machine: str
    task: Task
    began_s: float


def connected(address: str) -> Any:
    """Return Ray, connected to a cluster that runs already."""
    # Read when Ray is imported: nothing of what is done here is told to anybody.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    where = _parsed(address)
    try:
        import ray
    except ImportError as exc:
        raise BackendUnavailable(
            "--cluster needs Ray; run pip install 'streamface[ray]', or leave --cluster out"
        ) from exc
    if where is not None:
        _check_somebody_answers(address, where)
    handlers = _handlers()
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError) as exc:
        raise BackendUnavailable(
            f"no Ray cluster at '{address}': {first_line(exc)}; `ray start --head` starts one"
        ) from exc
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return ray


def _parsed(address: str) -> tuple[str, int] | None:
    """Return host and port, None for auto. Raises UsageError."""
    if address == "auto":
        return None
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"--cluster must be auto or HOST:PORT of the head node, not '{address}'")
    return host.strip("[]"), int(port)


def _check_somebody_answers(address: str, where: tuple[str, int]) -> None:
    """Refuse an address that nobody answers at; Ray itself would try for minutes."""
    try:
        socket.create_connection(where, timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as exc:
        raise BackendUnavailable(f"no Ray cluster at '{address}': {exc}") from exc


def _handlers() -> dict[int, Any]:
    """Return what signals do now, since Ray puts its own handlers in place."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


def _fitting(cluster: Mapping[str, float], placement: Placement) -> int:
    """Return how many workers a cluster has room for, at least one."""
    room = int(cluster.get("CPU", 0) // placement.threads)
    if placement.gpus > 0:
        room = min(room, int(cluster.get("GPU", 0) / placement.gpus))
    return max(1, room)


def first_line(exc: BaseException) -> str:
    """Return the first line of an error that says something; Ray's have many."""
    lines = [line for line in str(exc).splitlines() if line.strip()]
    return " ".join(lines[0].split())[:300] if lines else type(exc).__name__
