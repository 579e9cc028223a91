"""One long file as several tasks of a batch: which comes next, and what a worker does with it.

``LongFile`` is the driver's side: it gives out tasks, first to find the faces of every segment,
then to stitch, to draw every segment and to join. ``take_step`` is the worker's. What a step came
to lies beside its rows or packets, so that a batch that was killed goes on with the segments that
are missing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from streamface.batch.home import parts_of
from streamface.batch.join import Stitched, stitch
from streamface.batch.split import Drawn, Found, SegmentPlan, draw_segment, find_segment
from streamface.errors import SourceError
from streamface.storage import opened, store_for, under

if TYPE_CHECKING:
    from pathlib import Path

    from streamface.app import Nets
    from streamface.batch.job import Task

What: TypeAlias = Literal["find", "stitch", "draw", "join"]
Answer: TypeAlias = Found | Stitched | Drawn

_SAID: Final[dict[What, str]] = {
    "find": "looking for faces",
    "stitch": "putting tracks together",
    "draw": "drawing",
    "join": "joining",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A part of the work on a file that is cut."""

    what: What
    plan: SegmentPlan
    folder: str
    """Where steps leave what the next ones need: a path or a URL."""
    number: int = 0
    """Of the segment, where it is about one."""
    found: tuple[Found, ...] = ()
    """Of all segments, for ``stitch``."""
    stitched: Stitched | None = None
    drawn: tuple[Drawn, ...] = ()
    """Both for ``join``."""

    @property
    def described(self) -> str:
        """What is done, for people."""
        if self.what in {"stitch", "join"}:
            return _SAID[self.what]
        return f"{_SAID[self.what]}, segment {self.number + 1} of {len(self.plan.segments)}"


# -- the driver's side


class LongFile:
    """A file that is cut: the tasks that are next, given what came of others."""

    def __init__(self, task: Task, plan: SegmentPlan, output: str, work: str) -> None:
        """task: as it was when it was planned. work: as the manifest names what is done."""
        self.task = task
        """The file as a whole."""
        self.began_s = time.monotonic()
        self.waiting: deque[Task] = deque()
        """What can be done now."""
        self._plan = plan
        # What was left by another version, by other options or of another file must not be used.
        mark = hashlib.sha256(repr((work, task.fingerprint, plan.segments)).encode()).hexdigest()
        self._folder = under(parts_of(task.key, output), mark[:16])
        self._found: dict[int, Found] = {}
        self._drawn: dict[int, Drawn] = {}
        self._stitched: Stitched | None = None
        self._for_each("find")

    @property
    def segments(self) -> int:
        """How many it is cut into."""
        return len(self._plan.segments)

    def take(self, answer: Answer) -> None:
        """Note what came of a step; what it was waited for with is then in ``waiting``."""
        if isinstance(answer, Found):
            self._found[answer.number] = answer
            if len(self._found) == self.segments:
                self._add("stitch", found=tuple(self._found[n] for n in range(self.segments)))
        elif isinstance(answer, Drawn):
            self._drawn[answer.number] = answer
            if len(self._drawn) == self.segments:
                self._join()
        else:
            self._stitched = answer
            if self._plan.settings.output is None:
                self._join()
            else:
                self._for_each("draw")

    def _for_each(self, what: What) -> None:
        for segment in self._plan.segments:
            self._add(what, number=segment.number)

    def _join(self) -> None:
        drawn = tuple(self._drawn[n] for n in sorted(self._drawn))
        self._add("join", stitched=self._stitched, drawn=drawn)

    def _add(self, what: What, **given: Any) -> None:
        step = Step(what=what, plan=self._plan, folder=self._folder, **given)
        self.waiting.append(replace(self.task, cut=None, step=step, tries=0, deaths=0, losses=0))


# -- the worker's side


def take_step(step: Step, nets: Nets, room: Path) -> Answer:
    """Do a step that is not the last, unless it was done before. Raises StreamfaceError.

    room: for unfinished files, which somebody removes if this process dies.
    """
    if step.what == "stitch":
        return stitch(step.plan, step.found, step.folder, room)
    place = under(step.folder, f"{step.what}-{step.number:05}.json")
    known = _known(place)
    if known is not None:
        return _found(known) if step.what == "find" else Drawn(**known)
    do = find_segment if step.what == "find" else draw_segment
    answer = do(step.plan, step.number, step.folder, nets, room)
    # After what it speaks of, which is there by now.
    store_for(place).write(place, json.dumps(asdict(answer)).encode())
    return answer


def _known(place: str) -> dict[str, Any] | None:
    try:
        with opened(place) as file:
            return dict(json.load(file))
    except (SourceError, ValueError):
        return None


def _found(known: dict[str, Any]) -> Found:
    digests = {int(pts): crc for pts, crc in known["digests"].items()}
    return Found(**{**known, "digests": digests, "damage": tuple(known["damage"])})
