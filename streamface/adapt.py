"""Less work on a machine that cannot keep up with a live source, and more again when it can.

A live source loses frames at the head where the stages are too slow. Before that becomes a habit,
work is lowered in steps, the least missed first; ``Controller`` decides when, ``LoadMeter`` tells
it how things stand. Neither knows a clock: time is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamface.pipeline import PipelineStats

_INTERVAL_S: Final = 1.0
"""Between two looks at the load."""
_WARM_UP_S: Final = 3.0
"""At first kernels are compiled and caches filled: that says nothing of what follows."""
_BUSY: Final = 0.95
"""Share of the time that a stage works beyond which it is about to fall behind."""
_LOST: Final = 0.02
"""Share of a second's frames that may go missing without any consequence."""
_ROOMY: Final = 0.6
"""Below this busiest share there is room for the step above: no step doubles the work."""
_LOWER_AFTER_S: Final = 2.0
"""A burst after a stall is over by then."""
_RAISE_AFTER_S: Final = 10.0
_MOST_PATIENCE_S: Final = 320.0
"""How long there must have been room before work is raised; it doubles with each raise that was
taken back within ``_REGRET_S``, so that work does not go up and down for ever."""
_REGRET_S: Final = 30.0
_LEAST_IMGSZ: Final = 256
"""A narrower picture shows the detector no face of 20 pixels in 480."""


@dataclass(frozen=True, slots=True)
class Step:
    """How much of the work that was asked for is done."""

    imgsz: float = 1.0
    """Share of the detector's picture width."""
    detect: int = 1
    """How many times rarer the detector searches."""
    classify: int = 1
    """How many times rarer emotions are looked at."""


STEPS: Final = (
    Step(),
    Step(classify=2),
    Step(classify=2, detect=2),
    Step(classify=2, detect=2, imgsz=0.75),
    Step(classify=2, detect=2, imgsz=0.5),
    Step(classify=4, detect=2, imgsz=0.5),
)
"""From all of it to the least; flow carries faces between searches, smoothing carries labels."""


@dataclass(frozen=True, slots=True)
class Load:
    """How hard the last interval was."""

    busy: float
    """Share, 0..1, of it that the busiest stage worked."""
    lost: float
    """Share, 0..1, of its frames that were dropped at the head."""


class LoadMeter:
    """Turns the pipeline's running totals into the load of each interval."""

    def __init__(self) -> None:
        self._last_s: float | None = None
        self._busy_s: dict[str, float] = {}
        self._lost = 0
        self._done = 0

    def update(self, now_s: float, stats: PipelineStats, done: int) -> Load | None:
        """Return the load since the last interval's end; None before this one's.

        done: frames that came out so far.
        """
        if self._last_s is not None and now_s - self._last_s < _INTERVAL_S:
            return None
        # Reading is waiting for the source; writing has no knob here, and drops by itself.
        stages = {s.name: s.busy_s for s in stats.stages if s.name not in ("read", "write")}
        drops = dict(stats.drops)
        lost = drops.get("busy", 0) + drops.get("stale", 0)
        load = None
        if self._last_s is not None:
            span_s = now_s - self._last_s
            busy = max((b - self._busy_s.get(s, 0.0) for s, b in stages.items()), default=0.0)
            frames = lost - self._lost + done - self._done
            load = Load(min(1.0, busy / span_s), (lost - self._lost) / frames if frames else 0.0)
        self._last_s, self._busy_s, self._lost, self._done = now_s, stages, lost, done
        return load


class Controller:
    """Decides which step is right: down soon, up late, and ever later if up was wrong."""

    def __init__(self, steps: int = len(STEPS)) -> None:
        """Begin with the first of so many steps."""
        self.step = 0
        self._last = steps - 1
        self._began_s: float | None = None
        self._hard_since_s: float | None = None
        self._easy_since_s: float | None = None
        self._raised_s: float | None = None
        self._patience_s = _RAISE_AFTER_S

    def update(self, now_s: float, load: Load) -> bool:
        """Take the load of an interval that ends at ``now_s``; return whether ``step`` changed."""
        if self._began_s is None:
            self._began_s = now_s
        if now_s - self._began_s < _WARM_UP_S:
            return False
        hard = load.lost > _LOST or load.busy > _BUSY
        easy = not hard and load.lost == 0 and load.busy < _ROOMY
        self._hard_since_s = _since(self._hard_since_s, now_s, holds=hard)
        self._easy_since_s = _since(self._easy_since_s, now_s, holds=easy)
        if self._lasts(self._hard_since_s, now_s, _LOWER_AFTER_S) and self.step < self._last:
            self._lower(now_s)
            return True
        if self._lasts(self._easy_since_s, now_s, self._patience_s) and self.step > 0:
            self._raise(now_s)
            return True
        return False

    @staticmethod
    def _lasts(since_s: float | None, now_s: float, seconds: float) -> bool:
        return since_s is not None and now_s - since_s >= seconds

    def _lower(self, now_s: float) -> None:
        self.step += 1
        self._hard_since_s = now_s
        if self._raised_s is not None:
            regretted = now_s - self._raised_s < _REGRET_S
            longer_s = min(2 * self._patience_s, _MOST_PATIENCE_S)
            self._patience_s = longer_s if regretted else _RAISE_AFTER_S
        self._raised_s = None

    def _raise(self, now_s: float) -> None:
        self.step -= 1
        self._easy_since_s = now_s
        self._raised_s = now_s


def _since(since_s: float | None, now_s: float, *, holds: bool) -> float | None:
    if not holds:
        return None
    return now_s if since_s is None else since_s


class Adaptation:
    """Joins meter and controller with the knobs of a run."""

    def __init__(
        self, imgsz: int, detect_every: int, turn: Callable[[int, int, int], None]
    ) -> None:
        """imgsz, detect_every: what was asked for.

        turn: gets the detector's width, the frames between its searches, and by what factor looks
        at emotions are rarer.
        """
        self._imgsz = imgsz
        self._detect_every = detect_every
        self._turn = turn
        self._meter = LoadMeter()
        self._controller = Controller()

    def update(self, now_s: float, stats: PipelineStats, done: int) -> str | None:
        """Look at the load, if it is time; return what changed, for a person, or None."""
        load = self._meter.update(now_s, stats, done)
        if load is None:
            return None
        before = self._controller.step
        if not self._controller.update(now_s, load):
            return None
        step = STEPS[self._controller.step]
        self._turn(self._width(step), self._detect_every * step.detect, step.classify)
        lowered = self._controller.step > before
        what = self.lowered() or "all the work that was asked for"
        why = f"{load.lost:.0%} of the frames lost, busiest stage {load.busy:.0%}"
        return f"{'cannot keep up' if lowered else 'there is room again'} ({why}): now {what}"

    def lowered(self) -> str:
        """Return what is less than was asked for at present, for a person; "" for nothing."""
        step = STEPS[self._controller.step]
        parts = []
        if step.imgsz < 1:
            parts.append(f"detector {self._width(step)} px")
        if step.detect > 1:
            parts.append(f"detect every {self._detect_every * step.detect}")
        if step.classify > 1:
            parts.append(f"emotions {step.classify} times rarer")
        return ", ".join(parts)

    def _width(self, step: Step) -> int:
        narrower = round(self._imgsz * step.imgsz / 32) * 32
        return self._imgsz if step.imgsz >= 1 else min(self._imgsz, max(narrower, _LEAST_IMGSZ))
