"""Who does the tasks: the seam, and worker processes of this machine behind it."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeAlias

from streamface.batch.job import Limits, Task, TaskResult
from streamface.batch.worker import READY
from streamface.errors import BackendUnavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from streamface.batch.job import FailureKind

Body: TypeAlias = "Callable[[Task], TaskResult]"
"""What is done with a task; picklable, called in one process again and again, never raises."""

_LOOK_EVERY_S: Final = 0.25
_MOST_FAILED_STARTS: Final = 3
_MOST_COMPLAINT: Final = 300
_MOST_STDERR_BYTES: Final = 1 << 20


class Executor(Protocol):
    """Does tasks elsewhere. Belongs to one thread; leaves no process behind once closed.

    Every task that was submitted comes back as one result, whatever happens to its worker.
    """

    @property
    def capacity(self) -> int:
        """How many tasks can be under way at once now; more must not be submitted."""
        ...

    def submit(self, task: Task) -> None:
        """Have a task done."""
        ...

    def next(self, timeout_s: float) -> TaskResult | None:
        """Return a result, or None if there was none for that long (or a moment longer).

        Raises BackendUnavailable where workers cannot be started.
        """
        ...

    @property
    def at_work(self) -> Mapping[str, tuple[Task, float]]:
        """What is under way: name of the worker to its task and for how many seconds."""
        ...

    def close(self) -> None:
        """End all workers at once, whatever they do."""
        ...


class PoolExecutor:
    """Worker processes of this machine, each with one task at a time.

    One that dies, takes too long or takes too much memory is replaced, and what it did is a failure
    of kind crashed, timeout or memory.
    """

    def __init__(
        self, body: Body, workers: int, limits: Limits | None = None, *, threads: int | None = None
    ) -> None:
        """Start that many workers. threads: cores of each; None: it is not held to any."""
        self._limits = limits or Limits()
        if self._limits.memory_mb is not None and not _STATM.exists():
            raise UsageError("--memory needs /proc, which this system has not")
        self._body = pickle.dumps(body)
        self._threads = threads
        self._said: queue.SimpleQueue[tuple[_Process, Any]] = queue.SimpleQueue()
        self._failed_starts = 0
        self._processes: list[_Process] = []
        try:
            for number in range(workers):
                self._processes.append(self._start(number))
        except BaseException:
            self.close()
            raise

    def _start(self, number: int) -> _Process:
        return _Process(number, self._body, self._threads, self._said)

    @property
    def capacity(self) -> int:
        """As many as there are workers."""
        return len(self._processes)

    @property
    def at_work(self) -> Mapping[str, tuple[Task, float]]:
        """What is under way."""
        now_s = time.monotonic()
        busy = [each for each in self._processes if each.task is not None]
        return {
            f"{each.number}": (each.task, now_s - each.began_s)
            for each in busy
            if each.task is not None
        }

    def submit(self, task: Task) -> None:
        """Give a task to an idle worker. Raises ValueError where there is none."""
        idle = next((each for each in self._processes if each.task is None), None)
        if idle is None:
            raise ValueError("all workers have a task")
        if idle.is_gone:  # killed while it had nothing to do: that is not this file's doing
            self._replace(idle)
            idle = next(each for each in self._processes if each.number == idle.number)
        idle.give(task)

    def next(self, timeout_s: float) -> TaskResult | None:
        """Return a result, or None."""
        until_s = time.monotonic() + timeout_s
        while True:
            self._check_limits()
            left_s = until_s - time.monotonic()
            try:
                process, message = self._said.get(timeout=max(0.0, min(left_s, _LOOK_EVERY_S)))
            except queue.Empty:
                if left_s <= 0:
                    return None
                continue
            result = self._take(process, message)
            if result is not None:
                return result

    def _take(self, process: _Process, message: Any) -> TaskResult | None:
        if message == READY:
            self._failed_starts = 0
            process.is_ready, process.began_s = True, time.monotonic()
            return None
        if isinstance(message, TaskResult):
            process.task = None
            process.trim_stderr()
            return message
        if process not in self._processes:  # its end was ours
            return None
        return self._replace(process)

    def _replace(self, process: _Process) -> TaskResult | None:
        """Start another worker for one that is gone; return what that made of its task."""
        line, kind = process.end(), process.verdict or "crashed"
        place = self._processes.index(process)
        del self._processes[place]
        if not process.is_ready:
            self._failed_starts += 1
            if self._failed_starts >= _MOST_FAILED_STARTS:
                raise BackendUnavailable(f"workers do not start: {line}")
        self._processes.insert(place, self._start(process.number))
        if process.task is None:
            return None
        seconds = time.monotonic() - process.began_s
        if not process.is_ready:
            kind = "lost"  # before it came to the task
        if kind == "timeout":
            line = f"took longer than {self._limits.timeout_s:g} s"
        if kind == "memory":
            line = f"took more than {self._limits.memory_mb} MiB of memory"
        return TaskResult(task=process.task, kind=kind, line=line, seconds=seconds)

    def _check_limits(self) -> None:
        limits, now_s = self._limits, time.monotonic()
        for process in self._processes:
            if process.task is None or not process.is_ready or process.verdict is not None:
                continue
            if limits.timeout_s is not None and now_s - process.began_s > limits.timeout_s:
                process.kill("timeout")
            elif limits.memory_mb is not None and process.memory_mb() > limits.memory_mb:
                process.kill("memory")

    def close(self) -> None:
        """Kill all workers and wait until they are gone."""
        processes, self._processes = self._processes, []
        for process in processes:
            process.kill(None)
        for process in processes:
            process.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_STATM: Final = Path("/proc/self/statm")


class _Process:
    """One worker process, and the thread that listens to it."""

    def __init__(
        self,
        number: int,
        body: bytes,
        threads: int | None,
        said: queue.SimpleQueue[tuple[_Process, Any]],
    ) -> None:
        self.number = number
        self.task: Task | None = None
        self.began_s = time.monotonic()
        self.is_ready = False
        self.verdict: FailureKind | None = None
        """Why it was killed, if it was."""
        self._stderr = tempfile.TemporaryFile("a+b")  # noqa: SIM115 - closed by `end`
        # What we can import, it can: also where the package is not installed.
        paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "streamface.batch.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, **paths},
            start_new_session=True,  # a terminal's Ctrl-C is for the parent
        )
        self._listener = threading.Thread(
            target=self._listen, args=(said,), name=f"streamface-batch-{number}"
        )
        self._listener.start()
        self._send(pickle.dumps(threads) + body)

    def _listen(self, said: queue.SimpleQueue[tuple[_Process, Any]]) -> None:
        assert self._process.stdout is not None
        while True:
            try:
                message = pickle.load(self._process.stdout)  # noqa: S301 - from our own child
            except Exception:  # noqa: BLE001 - cut short anywhere, it is the end
                said.put((self, None))
                return
            said.put((self, message))

    def give(self, task: Task) -> None:
        self.task, self.began_s = task, time.monotonic()
        self._send(pickle.dumps(task))

    def _send(self, message: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(message)
            self._process.stdin.flush()
        except OSError:
            # It is dead; the listener says so and the task comes back.
            self._process.kill()

    @property
    def is_gone(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def memory_mb(self) -> float:
        """Return its resident memory in MiB, 0 where it is gone."""
        try:
            pages = int(Path(f"/proc/{self._process.pid}/statm").read_text("ascii").split()[1])
        except (OSError, IndexError):
            return 0.0
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def kill(self, verdict: FailureKind | None) -> None:
        self.verdict = verdict
        self._process.kill()

    def end(self) -> str:
        """Wait for its end and tidy up; return what is known of the cause, in one line."""
        self._process.kill()
        code = self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:  # what it was sent last was never read
                continue
        said = self._complaint()
        self._stderr.close()
        return f"its worker died ({cause_of_end(code)}){': ' + said if said else ''}"

    def _complaint(self) -> str:
        """Return the end of what it wrote to stderr."""
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - 4 * _MOST_COMPLAINT))
        lines = self._stderr.read().decode(errors="replace").split("\n")
        return " ".join(" ".join(lines[-4:]).split())[-_MOST_COMPLAINT:]

    def trim_stderr(self) -> None:
        """Keep what libraries complain of from filling the disk."""
        if self._stderr.seek(0, os.SEEK_END) > _MOST_STDERR_BYTES:
            self._stderr.truncate(0)


def cause_of_end(code: int) -> str:
    """Return what an exit code says, for a person."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
