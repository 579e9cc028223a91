"""The loop of a batch: what is done next, what is tried again, and what is given up.

The driver holds only what is under way and what waits to be tried again; the sources come one by
one from the listing, what is known of them from the manifest.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections import deque
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Final

from streamface.batch.home import parts_folder, parts_of, sweep, workshop_root
from streamface.batch.job import AUTO, NEVER, Auto, Task, TaskResult
from streamface.batch.listing import Found, find, targets_of
from streamface.batch.manifest import DONE, FAILED, SET_ASIDE
from streamface.batch.outputs import outputs_of
from streamface.errors import SinkError, SourceError
from streamface.sources import redacted
from streamface.storage import store_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamface.batch.executor import Executor
    from streamface.batch.job import BatchOptions
    from streamface.batch.manifest import Manifest
    from streamface.batch.steps import LongFile

_log = logging.getLogger(__name__)

_MOST_DEATHS: Final = 2
_MOST_LOSSES: Final = 10
_LOOK_EVERY_S: Final = 0.25
# Sources looked at between two looks at the workers: those that are done already go by fast.
_LISTED_AT_ONCE: Final = 200
# With so many that wait to be tried again, no new ones are begun.
_MOST_WAITING: Final = 1000
_FIRST_WAIT_S: Final = 0.5
_LONGEST_WAIT_S: Final = 60.0
_FAILURES_KEPT: Final = 100
_DEADLY: Final = frozenset({"crashed", "memory"})
_LEAVES_FILES: Final = frozenset({"crashed", "memory", "timeout", "lost"})
_FINAL: Final = frozenset({"usage", "model", "clash", "exists"})
"""Kinds of failure that another try does not cure."""


@dataclass(slots=True)
class BatchTally:
    """What a batch has done so far."""

    files: int = 0
    """Sources that were found."""
    done: int = 0
    skipped: int = 0
    """Done by an earlier batch."""
    failed: int = 0
    """Given up, those set aside among them."""
    retried: int = 0
    split: int = 0
    """Long files that were done in segments."""
    frames: int = 0
    media_s: float = 0.0
    """Seconds of video that were processed."""
    bytes_over: int = 0
    """Size of all sources that are done with, whatever became of them."""
    failures: list[TaskResult] = field(default_factory=list)
    """The first hundred; the manifest has all."""
    began_s: float = field(default_factory=time.monotonic)
    ended_s: float | None = None
    stopped: str | None = None
    """Why the batch ended before all was done."""

    @property
    def seconds(self) -> float:
        """Wall time so far."""
        return (self.ended_s or time.monotonic()) - self.began_s

    @property
    def times_real_time(self) -> float:
        """Seconds of video a second."""
        return self.media_s / self.seconds if self.seconds > 0 else 0.0


class Batch:
    """One batch, from its sources to a manifest that knows what became of each."""

    def __init__(
        self,
        options: BatchOptions,
        executor: Executor,
        manifest: Manifest,
        *,
        on_result: Callable[[TaskResult, str | None], None] | None = None,
    ) -> None:
        """on_result: is told of every result and its status; None: it will be tried again."""
        self.options = options
        self.executor = executor
        self.manifest = manifest
        self.tally = BatchTally()
        self.stopping = self._is_interrupted = False
        self.is_listed = False
        """Whether every source was found."""
        self._on_result = on_result
        self._outputs = outputs_of(options.output)
        self._sources = self._failed() if options.only_failed else find(options, self._unlisted)
        self._under_way = 0
        self._again: list[tuple[float, int, Task]] = []
        self._order = count()
        self._number = 0
        self._ahead: deque[Task] = deque()
        """Files that were found and can be begun."""
        self._long: dict[str, LongFile] = {}
        """Files that are done in segments, by their keys."""

    # -- running

    def execute(self) -> BatchTally:
        """Do all there is to do, or to ``stop``. Raises StreamfaceError where nothing can go on."""
        tally = self.tally
        while True:
            self._fill()
            if not self._under_way and (self.stopping or self._is_over()):
                break
            result = self.executor.next(self._wait_s())
            while result is not None:
                self._under_way -= 1
                self._settle(result)
                # All that is there, for in a bucket each note of what became of them is a request.
                result = self.executor.next(0.0) if self._under_way else None
            self.manifest.flush()
        if self._is_over() and not tally.failed and self.options.split != NEVER:
            self._remove(parts_folder(self.options.output))
        tally.ended_s = time.monotonic()
        return tally

    def _remove(self, folder: str) -> None:
        """Remove segments of files that are done.

        Not before that is known here: a worker that died after it had joined them must find them
        again.
        """
        try:
            store_for(folder).delete_folder(folder)
        except (SourceError, SinkError) as exc:
            _log.debug("%s", exc)  # tried again when all is done

    def stop(self) -> None:
        """Begin nothing more; what is under way is finished. Signal-safe."""
        self.stopping = True

    def interrupt(self) -> None:
        """Leave at once, by a KeyboardInterrupt. For a signal handler in the thread that runs.

        A second one must not keep workers from being ended, and does nothing.
        """
        self.stopping = True
        if not self._is_interrupted:
            self._is_interrupted = True
            raise KeyboardInterrupt

    def _is_over(self) -> bool:
        return self.is_listed and not (self._again or self._ahead or self._long)

    def _wait_s(self) -> float:
        """Return how long to wait for a result: not at all while sources can still be looked at."""
        if self.stopping or self.is_listed or len(self._again) >= _MOST_WAITING:
            return _LOOK_EVERY_S
        return 0.0 if self._under_way < self.executor.capacity else _LOOK_EVERY_S

    def _fill(self) -> None:
        """Give work to all who have none; look at a bounded number of sources for it."""
        self._look_ahead()
        tasks: list[Task] = []
        room = self.executor.capacity - self._under_way
        while not self.stopping and len(tasks) < room:
            task = self._next_task(len(tasks))
            if task is None:
                break
            tasks.append(task)
        for task in tasks:
            self.manifest.begin(task)
        self.manifest.flush()
        for task in tasks:
            self.executor.submit(task)
            self._under_way += 1

    # -- choosing

    def _look_ahead(self) -> None:
        """Find as many files as can be begun now, at most; look at a bounded number of sources.

        Where long files may be cut, as many as there are workers: if there are fewer left, some
        will be idle.
        """
        wanted = self.executor.capacity
        if self.options.split != AUTO:
            wanted -= self._under_way
        left = _LISTED_AT_ONCE
        while not self.stopping and len(self._ahead) < wanted and left and not self.is_listed:
            if len(self._again) >= _MOST_WAITING:
                return
            left -= 1
            found = next(self._sources, None)
            if found is None:
                self.is_listed = True
                return
            self.tally.files += 1
            task = self._task_of(found)
            if task is not None:
                self._ahead.append(task)

    def _next_task(self, begun: int) -> Task | None:
        """Return what to do now, or None. begun: tasks that are about to be submitted."""
        if self._again and self._again[0][0] <= time.monotonic():
            return heapq.heappop(self._again)[2]
        for long in self._long.values():
            if long.waiting:
                return long.waiting.popleft()
        split = self.options.split
        enough = self.is_listed or len(self._ahead) >= self.executor.capacity
        if not self._ahead or (split == AUTO and not enough):
            return None
        task = self._ahead.popleft()
        if split == NEVER:
            return task
        if split != AUTO:
            return replace(task, cut=float(split))
        # Steps of files that are cut are no files, but whoever does one is not idle.
        files_left = 1 + begun + self._under_way + len(self._ahead) + len(self._again)
        return replace(task, cut=Auto(self.executor.capacity, files_left))

    def _task_of(self, found: Found) -> Task | None:
        targets = targets_of(found, self.options)
        self._number += 1
        task = Task(
            number=self._number,
            source=found.source,
            key=found.key,
            fingerprint=found.fingerprint,
            size_bytes=found.size_bytes,
            targets=targets,
        )
        other = self.manifest.claim(targets.values(), task.key)
        if other == task.key:  # named twice
            self.tally.files -= 1
            return None
        if other is not None:
            line = f"{found.source} and {other} would both become {next(iter(targets.values()))}"
            self._close(TaskResult(task=task, kind="clash", line=line), FAILED)
            return None
        if self._is_done(task):
            self.tally.skipped += 1
            self.tally.bytes_over += task.size_bytes
            return None
        if task.key in targets.values():
            line = f"{found.source} would be replaced by its own output; choose another --output"
            self._close(TaskResult(task=task, kind="exists", line=line), FAILED)
            return None
        taken = self._taken(task)
        if taken is not None:
            line = f"{taken} exists and is of no batch; pass --overwrite to replace it"
            self._close(TaskResult(task=task, kind="exists", line=line), FAILED)
            return None
        return task

    def _is_done(self, task: Task) -> bool:
        known = self.manifest.last(task.key)
        if known is None or not known.is_done:
            return False
        if not known.matches(task.fingerprint, self.manifest.work):
            return False
        outputs = known.outputs
        return outputs.keys() == set(task.targets.values()) and all(
            self._outputs.size_bytes(place) == size for place, size in outputs.items()
        )

    def _taken(self, task: Task) -> str | None:
        """Return an output that stands there already and was not written by a batch."""
        if self.options.overwrite:
            return None
        standing = (each for each in task.targets.values() if self._stands(each))
        return next((each for each in standing if not self.manifest.is_ours(each)), None)

    def _stands(self, location: str) -> bool:
        return self._outputs.size_bytes(location) is not None

    def _failed(self) -> Iterator[Found]:
        """Yield the sources that the manifest knows as failed and that are still there."""
        for found in find(self.options, self._unlisted):
            known = self.manifest.last(found.key)
            if known is not None and not known.is_done:
                yield found

    def _unlisted(self, place: str, exc: SourceError) -> None:
        """Count what cannot be listed among the files that failed."""
        self.tally.files += 1
        self._number += 1
        task = Task(number=self._number, source=place, key=Found(place, "", 0, "").key)
        self._close(TaskResult(task=task, kind="source", line=str(exc)), FAILED)

    # -- judging

    def _settle(self, result: TaskResult) -> None:
        task, kind = result.task, result.kind
        if kind in _LEAVES_FILES:
            sweep(workshop_root(self.options.output))
        if task.step is not None and task.key not in self._long:
            return  # of a file that was given up
        if kind is None and result.answer is not None:
            self._go_on(result)
        elif kind == "split":
            self._do_whole(result)
        elif kind is None:
            self.tally.frames += result.frames
            self.tally.media_s += result.duration_s
            self._close(result, DONE)
        elif kind == "lost":
            self._retry_or_close(result, task.again(losses=1), more=task.losses + 1 < _MOST_LOSSES)
        elif kind in _DEADLY:
            more = task.deaths + 1 < _MOST_DEATHS
            self._retry_or_close(result, task.again(deaths=1), more=more)
        elif kind == "no-space":
            # The next file would fail as this one: whoever runs the batch has to act.
            self.tally.stopped = result.line
            self.stop()
            self._close(result, FAILED)
        else:
            more = kind not in _FINAL and task.tries < self.options.retries
            self._retry_or_close(result, task.again(tries=1), more=more)

    def _go_on(self, result: TaskResult) -> None:
        """Note what came of a step of a long file, or of the plan for it."""
        from streamface.batch.split import SegmentPlan
        from streamface.batch.steps import LongFile

        task, answer = result.task, result.answer
        if isinstance(answer, SegmentPlan):
            long = LongFile(task, answer, self.options.output, self.manifest.work)
            _log.info("%s: %d segments", redacted(task.source), long.segments)
            self._long[task.key] = long
        elif answer is not None:
            self._long[task.key].take(answer)

    def _do_whole(self, result: TaskResult) -> None:
        """Begin a file anew that cannot be joined from its segments."""
        task = self._end_steps(result.task.key).task
        _log.warning("%s: done whole, not in segments: %s", redacted(task.source), result.line)
        heapq.heappush(self._again, (0.0, next(self._order), replace(task, cut=None)))

    def _end_steps(self, key: str) -> LongFile:
        """Have no further step of a file done; what comes of those under way counts for nothing."""
        self._again = [each for each in self._again if each[2].key != key]
        heapq.heapify(self._again)
        return self._long.pop(key)

    def _retry_or_close(self, result: TaskResult, again: Task, *, more: bool) -> None:
        if not more:
            self._close(result, SET_ASIDE if result.kind in _DEADLY else FAILED)
            return
        self.tally.retried += 1
        before = again.tries + again.deaths + again.losses - 1
        # What is lost is not its own fault and need not wait.
        wait_s = 0.0 if result.kind == "lost" else _FIRST_WAIT_S * 2 ** min(before, 10)
        due_s = time.monotonic() + min(wait_s, _LONGEST_WAIT_S)
        heapq.heappush(self._again, (due_s, next(self._order), again))
        self._tell(result, None)

    def _close(self, result: TaskResult, status: str) -> None:
        """Note what became of a file for good."""
        long = self._long.get(result.task.key)
        if long is not None:
            self._end_steps(result.task.key)
            self.tally.split += status == DONE
            seconds = time.monotonic() - long.began_s
            result = replace(result, task=long.task, seconds=seconds)
        self.manifest.finish(result, status)
        if long is not None and status == DONE:
            self.manifest.flush()
            self._remove(parts_of(long.task.key, self.options.output))
        tally = self.tally
        tally.bytes_over += result.task.size_bytes
        if status == DONE:
            tally.done += 1
        else:
            tally.failed += 1
            if len(tally.failures) < _FAILURES_KEPT:
                tally.failures.append(result)
        self._tell(result, status)

    def _tell(self, result: TaskResult, status: str | None) -> None:
        if self._on_result is not None:
            self._on_result(result, status)
