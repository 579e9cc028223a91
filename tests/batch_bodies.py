"""What workers do in tests instead of work on videos: the source says what happens."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from streamface.batch.job import TaskResult

_HELD = []


def obey(task):
    """Do what the source says and tell which process did it."""
    what, _, argument = task.source.partition(":")
    result = _DEEDS[what](task, argument)
    if result is not None:
        return result
    for target in task.targets.values():
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).write_text(task.source)
    sizes = {target: os.path.getsize(target) for target in task.targets.values()}
    return TaskResult(task=task, frames=1, duration_s=1.0, line=str(os.getpid()), outputs=sizes)


class Instantly:
    """Does tasks on the spot, a few at a time, and remembers how many it had at once."""

    def __init__(self, body=obey, capacity=2):
        self.capacity, self._body = capacity, body
        self._waiting = []
        self.most_at_once = 0
        self.done = []

    def submit(self, task):
        self._waiting.append(task)
        self.most_at_once = max(self.most_at_once, len(self._waiting))
        assert len(self._waiting) <= self.capacity

    def next(self, timeout_s):
        if not self._waiting:
            return None
        self.done.append(self._waiting[0].source)
        return self._body(self._waiting.pop(0))

    @property
    def at_work(self):
        return {}

    def close(self):
        pass


def _succeed(task, argument):
    """Leave the rest to ``obey``."""


def _die(task, argument):
    os.kill(os.getpid(), signal.SIGKILL)


def _die_once(task, argument):
    if not Path(argument).exists():
        Path(argument).touch()
        _die(task, argument)


def _exit(task, argument):
    os._exit(int(argument))


def _hang(task, argument):
    Path(argument).touch()
    time.sleep(600)


def _eat(task, argument):
    _HELD.append(bytearray(os.urandom(1 << 20)) * int(argument))
    time.sleep(600)


def _print(task, argument):
    sys.stdout.write(argument)
    sys.stdout.flush()
    os.write(1, argument.encode())


def _fail(task, argument):
    return TaskResult(task=task, kind="source", line=argument)


def _fail_once(task, argument):
    if Path(argument).exists():
        return None
    Path(argument).touch()
    return TaskResult(task=task, kind="sink", line="not yet")


def _fill(task, argument):
    return TaskResult(task=task, kind="no-space", line="no space left")


def _cores(task, argument):
    return TaskResult(task=task, line=",".join(map(str, sorted(os.sched_getaffinity(0)))))


_DEEDS = {
    "ok": _succeed,
    "die": _die,
    "die-once": _die_once,
    "exit": _exit,
    "hang": _hang,
    "eat": _eat,
    "print": _print,
    "fail": _fail,
    "fail-once": _fail_once,
    "fill": _fill,
    "cores": _cores,
}


class CannotBeLoaded:
    """Unpickles nowhere."""

    def __reduce__(self):
        return _refuse, ()


def _refuse():
    raise RuntimeError("this body cannot be loaded")
