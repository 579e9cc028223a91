"""A worker process: ``python -m streamface.batch.worker``, started and fed by ``executor``.

Pickles come in on stdin: first the cores of a worker and what is to be done with tasks, then tasks.
Pickles go out on what was stdout: READY, then results; whatever else prints to stdout prints to
stderr. The end of stdin, which is also that of the parent, ends the process at once, in the middle
of a task too: nobody is left who could take the result.
"""

from __future__ import annotations

import os
import pickle
import signal
import tempfile
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from streamface.locks import FileLock

if TYPE_CHECKING:
    from streamface.batch.job import Task

READY: Final = "ready"
_MOST_SHARES: Final = 10_000
_THREAD_COUNTS: Final = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"
)  # fmt: skip


def main() -> None:
    """Serve until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    orders = os.fdopen(os.dup(0), "rb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    threads: int | None = pickle.load(orders)  # noqa: S301 - from our parent
    cores = Cores(threads) if threads is not None else None
    # Only now: what a task needs may count the cores when it is imported.
    work = pickle.load(orders)  # noqa: S301
    _send(answers, READY)
    waiting: SimpleQueue[Task] = SimpleQueue()
    # A daemon, since it waits for the end of stdin, which may never come while we live.
    threading.Thread(target=_listen, args=(orders, waiting), daemon=True).start()
    while True:
        task = waiting.get()
        if cores is not None:
            cores.look_again()
        _send(answers, work(task))


def _listen(orders: BinaryIO, waiting: SimpleQueue[Task]) -> None:
    while True:
        try:
            waiting.put(pickle.load(orders))  # noqa: S301
        except (EOFError, OSError, pickle.UnpicklingError):
            os._exit(0)


def _send(answers: BinaryIO, value: Any) -> None:
    pickle.dump(value, answers)
    answers.flush()


class Cores:
    """A share of the machine's cores that no other worker on it has, while there are any left.

    What counts cores (FFmpeg, x264, OpenCV, Numba, BLAS) then starts that many threads. Shares are
    numbered; a worker has the lowest number that was free, by a lock that ends with its process.
    """

    def __init__(self, threads: int) -> None:
        """Keep to such a share from now on. threads: how many cores it has."""
        self._threads = threads
        self._all = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self._folder = Path(tempfile.gettempdir()) / f"streamface-workers-{_user()}"
        self._folder.mkdir(mode=0o700, exist_ok=True)
        for name in _THREAD_COUNTS:
            os.environ[name] = str(threads)
        self._lock: FileLock | None = None
        self._number = 0
        self._take(self._free(_MOST_SHARES))

    def look_again(self) -> None:
        """Move where cores have become free, if others have ours, too."""
        shares = len(self._all) // self._threads
        if self._number >= max(1, shares):
            self._take(self._free(shares))

    def _free(self, end: int) -> tuple[FileLock, int] | None:
        """Return the lowest free number below ``end`` and the lock that makes it ours."""
        for number in range(end):
            lock = FileLock(self._folder / f"{number}.lock")
            if lock.take():
                return lock, number
        return None

    def _take(self, found: tuple[FileLock, int] | None) -> None:
        if found is None:
            return
        if self._lock is not None:
            self._lock.free()
        self._lock, self._number = found
        if self._all:
            os.sched_setaffinity(0, share(self._all, self._threads, self._number))


def share(cores: list[int], threads: int, number: int) -> set[int]:
    """Return the cores of a machine's worker ``number``; they begin again where they end."""
    wanted = min(threads, len(cores))
    begin = number * wanted % len(cores)
    return {cores[(begin + each) % len(cores)] for each in range(wanted)}


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")


if __name__ == "__main__":
    main()
