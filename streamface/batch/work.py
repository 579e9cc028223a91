"""What a worker does with one file: what ``run`` does, and publishing what came of it."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import socket
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from streamface.atomic import sink_error
from streamface.batch.home import in_store, make_private, sweep, workshop_root
from streamface.batch.job import VIDEO, TaskResult
from streamface.errors import (
    ModelError,
    SinkError,
    SourceError,
    SplitError,
    StageError,
    StreamfaceError,
    UsageError,
)
from streamface.locks import FileLock
from streamface.sources import redacted
from streamface.storage import LASTING, scheme_of, store_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from streamface.app import Nets, Run
    from streamface.batch.job import BatchOptions, FailureKind, Task
    from streamface.batch.steps import Step
    from streamface.settings import Settings

_MOST_WARNINGS: Final = 20
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Workshop:
    """Folders for unfinished files; a file's is gone when it is done, a dead worker's when swept.

    Each worker has a folder and a lock beside it, which ends with the worker. So whoever can take
    the lock may remove the folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock: FileLock | None = None
        self._folder = root

    def _open(self) -> Path:
        try:
            make_private(self._root)
        except OSError as exc:
            raise sink_error(self._root, exc) from exc
        sweep(self._root)  # other machines have nobody else who would
        while self._lock is None:
            self._folder = self._root / f"{os.getpid()}-{secrets.token_hex(4)}"
            lock = FileLock(self._folder.with_suffix(".lock"))
            # A sweeper may just be looking at the new file.
            self._lock = lock if lock.take() else None
        return self._folder

    @contextmanager
    def room(self) -> Iterator[Path]:
        """Give a folder of its own and remove it afterwards. Raises SinkError."""
        folder = self._open()
        try:
            folder.mkdir(exist_ok=True)
        except OSError as exc:
            raise sink_error(folder, exc) from exc
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # what stays is swept

    def close(self) -> None:
        """Give up the folder."""
        if self._lock is not None:
            self._lock.free(remove=True)
            self._lock = None


class Work:
    """Does tasks, one after another, in one process; picklable until the first."""

    def __init__(self, options: BatchOptions, folder: str) -> None:
        """``folder`` is where relative paths begin: the driver's own, on every machine."""
        self._options = options
        self._folder = folder
        self._nets: Nets | None = None
        self._workshop: Workshop | None = None

    def __call__(self, task: Task) -> TaskResult:
        """Do one file. Never raises: what goes wrong is in the result."""
        began_s = time.monotonic()
        try:
            result = self._done(task)
        except StreamfaceError as exc:
            result = TaskResult(task=task, kind=kind_of(exc), line=str(exc))
        except MemoryError:
            result = TaskResult(task=task, kind="memory", line="out of memory")
        except Exception as exc:  # noqa: BLE001 - one bad file never stops the others
            line = " ".join(f"unexpected {type(exc).__name__}: {exc}".split())
            result = TaskResult(task=task, kind="unexpected", line=line)
        return replace(result, seconds=time.monotonic() - began_s, machine=socket.gethostname())

    def _done(self, task: Task) -> TaskResult:
        from streamface.app import Nets

        if self._nets is None:
            self._enter()
            self._nets = Nets()
        if task.step is not None:
            return self._step(task, task.step, self._nets)
        planned = self._planned(task)
        if isinstance(planned, TaskResult):
            return planned
        result = self._whole(task, self._nets)
        return replace(result, warnings=(*planned, *result.warnings))

    def _whole(self, task: Task, nets: Nets) -> TaskResult:
        from streamface.app import Run

        assert self._workshop is not None
        with self._workshop.room() as room:
            made = _made(task, room)
            with Run(self._settings(task, made), nets=nets) as run:
                duration_s = _execute(run)
            if run.playlist.failures:
                raise SourceError(next(iter(run.playlist.failures.values())))
            sizes = self._publish(made, task.targets)
        tally = run.tally
        return TaskResult(
            task=task,
            frames=tally.frames,
            faces=tally.face_frames,
            tracks=len(tally.tracks),
            duration_s=duration_s,
            outputs=sizes,
            models=run.model_hashes(),
            warnings=tuple(run.warnings[:_MOST_WARNINGS]),
        )

    # -- files that are cut

    def _planned(self, task: Task) -> TaskResult | tuple[str, ...]:
        """Return how the file is cut, or what is to be told of that it is not."""
        if task.cut is None:
            return ()
        from streamface.batch.split import Whole, plan

        assert self._workshop is not None
        with self._workshop.room() as room:
            planned = plan(self._settings(task, _made(task, room)), task.cut)
        if not isinstance(planned, Whole):
            return TaskResult(task=task, answer=planned)
        if planned.is_short:
            return ()
        return (f"{redacted(task.source)}: done whole, not in segments: {planned.reason}",)

    def _step(self, task: Task, step: Step, nets: Nets) -> TaskResult:
        if step.what != "join":
            from streamface.batch.steps import take_step

            assert self._workshop is not None
            with self._workshop.room() as room:
                return TaskResult(task=task, answer=take_step(step, nets, room))
        return self._join(task, step)

    def _join(self, task: Task, step: Step) -> TaskResult:
        from streamface.batch.join import join

        assert self._workshop is not None
        assert step.stitched is not None
        with self._workshop.room() as room:
            made = _made(task, room)
            plan = replace(step.plan, settings=self._settings(task, made))
            joined = join(plan, step.stitched, step.drawn, step.folder)
            sizes = self._publish(made, task.targets)
        return TaskResult(
            task=task,
            frames=joined.frames,
            faces=joined.faces,
            tracks=joined.tracks,
            duration_s=plan.duration_s,
            outputs=sizes,
            models=joined.models,
            warnings=joined.warnings[:_MOST_WARNINGS],
        )

    def _enter(self) -> None:
        try:
            os.chdir(self._folder)
        except OSError as exc:
            if not (in_store(self._options.output) and all(map(scheme_of, self._options.sources))):
                raise SourceError(
                    f"{socket.gethostname()} does not see {self._folder}; run the batch in a "
                    "folder that all machines share"
                ) from exc
        self._workshop = Workshop(workshop_root(self._options.output))

    def _settings(self, task: Task, made: Mapping[str, Path]) -> Settings:
        data = {kind: str(path) for kind, path in made.items() if kind != VIDEO}
        return replace(
            self._options.how, source=task.source, output=made.get(VIDEO), data=data, overwrite=True
        )

    def _publish(self, made: Mapping[str, Path], targets: Mapping[str, str]) -> dict[str, int]:
        store = store_for(self._options.output, LASTING)
        sizes = {targets[kind]: path.stat().st_size for kind, path in made.items()}
        for kind, path in made.items():
            store.publish(path, targets[kind], overwrite=True)
        return sizes

    def close(self) -> None:
        """Release the nets and the folder of unfinished files."""
        if self._nets is not None:
            self._nets.close()
        if self._workshop is not None:
            self._workshop.close()


def _made(task: Task, room: Path) -> dict[str, Path]:
    """Return where a file's outputs are made, by kind."""
    return {kind: room / f"{kind}{Path(to).suffix}" for kind, to in task.targets.items()}


def _execute(run: Run) -> float:
    """Run to the end; return how many seconds of the source were processed."""
    first_s = last_s = step_s = 0.0
    with closing(run.frames()) as frames:
        for frame in frames:
            if run.tally.frames == 1:
                first_s = frame.time_s
            last_s = frame.time_s
            step_s = float(frame.duration * frame.time_base) if frame.duration else 0.0
    if not step_s and run.info.rate:
        step_s = float(1 / run.info.rate)
    return last_s + step_s - first_s


def kind_of(exc: StreamfaceError) -> FailureKind:
    """Return what kind of failure an error is."""
    cause: BaseException | None = exc
    while cause is not None:
        if getattr(cause, "errno", None) in _NO_SPACE:  # an OSError or one of FFmpeg's
            return "no-space"
        if isinstance(cause, SplitError):  # whatever stage it was raised in
            return "split"
        cause = cause.__cause__
    kinds: dict[type[StreamfaceError], FailureKind] = {
        UsageError: "usage",
        SourceError: "source",
        SinkError: "sink",
        ModelError: "model",
        StageError: "stage",
    }
    return kinds.get(type(exc), "model")
