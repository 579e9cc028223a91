"""What each stream costs: the CPU time of one process, shared out by what was done for whom.

A process cannot tell whose frame a core worked on: decoders and nets have threads of their own. But
the pipeline knows the share of time that went into reading faces, which is shared out by faces; the
rest goes by pixels. Knows no clock: time is an argument.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

WINDOW_S: Final = 5.0
"""Long enough for a figure that does not dance, short enough for a load that has just come."""
_WEIGHT: Final = 0.5
"""Of the newest window, against all before it."""
_RATE_S: Final = 3.0
"""The frame rate shown is that of the last moments."""


@dataclass(frozen=True, slots=True)
class Done:
    """Running totals of one stream."""

    frames: int
    face_frames: int
    pixels: int
    """Of one frame."""
    lost: int = 0
    """Frames that nobody had time for."""


class RecentRate:
    """Frames a second of the last moments, from a running total."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def update(self, now_s: float, frames: int) -> float:
        """Note the total at ``now_s``; return the rate, 0 at first."""
        self._seen.append((now_s, frames))
        while len(self._seen) > 2 and self._seen[0][0] < now_s - _RATE_S:
            self._seen.popleft()
        (first_s, first), (last_s, last) = self._seen[0], self._seen[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0


class CostMeter:
    """Turns running totals into cores, for each stream and for the process."""

    def __init__(self) -> None:
        self.cores: dict[int, float] = {}
        """Of each stream that was measured."""
        self.used = 0.0
        """Of the process."""
        self.lost = 0.0
        """Share of the window's frames that nobody had time for."""
        self._last: tuple[float, float, float, float] | None = None
        self._done: dict[int, Done] = {}

    def update(
        self, now_s: float, cpu_s: float, faces_s: float, all_s: float, done: Mapping[int, Done]
    ) -> None:
        """Take the totals at ``now_s``; nothing changes before a window is over.

        cpu_s: of the process. faces_s, all_s: of the stage that reads faces, and of all stages.
        """
        if self._last is not None and now_s - self._last[0] < WINDOW_S:
            return
        last, before = self._last, self._done
        self._last, self._done = (now_s, cpu_s, faces_s, all_s), dict(done)
        if last is None:
            return
        seconds = now_s - last[0]
        self.used = max(0.0, cpu_s - last[1]) / seconds
        stages_s = all_s - last[3]
        of_faces = min(1.0, max(0.0, (faces_s - last[2]) / stages_s)) if stages_s > 0 else 0.0
        # One that came in the middle of the window is measured in the next.
        grown = {n: _grown(each, before[n]) for n, each in done.items() if n in before}
        faces = sum(each.face_frames for each in grown.values())
        pixels = sum(each.frames * each.pixels for each in grown.values())
        if not faces:
            of_faces = 0.0
        for number, each in grown.items():
            share = (1 - of_faces) * each.frames * each.pixels / pixels if pixels else 0.0
            share += of_faces * each.face_frames / faces if faces else 0.0
            if each.frames:
                known = self.cores.get(number)
                now = share * self.used
                self.cores[number] = now if known is None else known + _WEIGHT * (now - known)
        lost = sum(each.lost for each in grown.values())
        frames = lost + sum(each.frames for each in grown.values())
        self.lost = lost / frames if frames else 0.0
        for gone in self.cores.keys() - done.keys():
            del self.cores[gone]


def _grown(now: Done, before: Done) -> Done:
    return Done(
        frames=now.frames - before.frames,
        face_frames=max(0, now.face_frames - before.face_frames),
        pixels=now.pixels,
        lost=max(0, now.lost - before.lost),
    )
