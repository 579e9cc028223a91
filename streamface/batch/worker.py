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

from streamface.batch.locks import FileLock

if TYPE_CHECKING:
    from streamface.batch.job import Task

READY: Final = "ready"
_MOST_SLOTS: Final = 10_000


def main() -> None:
    """Serve until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    orders = os.fdopen(os.dup(0), "rb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    threads: int | None = pickle.load(orders)  # noqa: S301 - from our parent
    if threads is not None:
        _pin(threads)
    # Only now: what a task needs may count the cores when it is imported.
    work = pickle.load(orders)  # noqa: S301
    _send(answers, READY)
    waiting: SimpleQueue[Task] = SimpleQueue()
    # A daemon, since it waits for the end of stdin, which may never come while we live.
    threading.Thread(target=_listen, args=(orders, waiting), daemon=True).start()
    while True:
        _send(answers, work(waiting.get()))


def _listen(orders: BinaryIO, waiting: SimpleQueue[Task]) -> None:
    while True:
        try:
            waiting.put(pickle.load(orders))  # noqa: S301
        except (EOFError, OSError, pickle.UnpicklingError):
            os._exit(0)


def _send(answers: BinaryIO, value: Any) -> None:
    pickle.dump(value, answers)
    answers.flush()


def _pin(threads: int) -> None:
    """Keep to a share of the machine's cores that no other worker on it has, while there are any.

    What counts cores (FFmpeg, x264, OpenCV, Numba, BLAS) then starts that many threads.
    """
    number = _slot()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, share(sorted(os.sched_getaffinity(0)), threads, number))


def share(cores: list[int], threads: int, number: int) -> set[int]:
    """Return the cores of a machine's worker ``number``; they begin again where they end."""
    wanted = min(threads, len(cores))
    begin = number * wanted % len(cores)
    return {cores[(begin + each) % len(cores)] for each in range(wanted)}


def _slot() -> int:
    """Return the lowest number that no living worker of this machine has; it is ours to the end."""
    folder = Path(tempfile.gettempdir()) / f"streamface-workers-{_user()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for number in range(_MOST_SLOTS):
        if FileLock(folder / f"{number}.lock").take():
            return number
    raise RuntimeError(f"{_MOST_SLOTS} workers on one machine")


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")


if __name__ == "__main__":
    main()
