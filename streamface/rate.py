"""How many frames a second a source really gives, whatever it advertises."""

from __future__ import annotations

from collections import deque

# A camera in the dark goes from 30 to 15 a second within two: the figure must follow.
_WINDOW_S = 2.0


class MeasuredRate:
    """Counts frames as they are captured. Knows no clock: times are arguments, in seconds.

    Fed by the thread that reads, one ``add`` a frame, dropped ones included; read by anybody.
    """

    def __init__(self, window_s: float = _WINDOW_S) -> None:
        """window_s: what ``recent`` looks back on."""
        self._window_s = window_s
        self._seen: deque[float] = deque()
        self._first_s = self._last_s = 0.0
        self.frames = 0

    def add(self, captured_s: float) -> None:
        """Count a frame; times come in order."""
        if not self.frames:
            self._first_s = captured_s
        self.frames += 1
        self._last_s = captured_s
        self._seen.append(captured_s)
        # One stays from before the window: it begins the first interval that lies inside.
        while len(self._seen) > 2 and self._seen[1] <= captured_s - self._window_s:
            self._seen.popleft()

    @property
    def mean(self) -> float:
        """Frames per second from the first to the last, stalls included; 0 before the second."""
        lasted_s = self._last_s - self._first_s
        return (self.frames - 1) / lasted_s if lasted_s > 0 else 0.0

    def recent(self, now_s: float) -> float:
        """Return the frames per second of the last moments.

        0 before the second frame; while none comes, ever less.
        """
        seen = list(self._seen)  # a copy: the reading thread goes on
        if len(seen) < 2:
            return 0.0
        lasted_s = seen[-1] - seen[0]
        usual_s = lasted_s / (len(seen) - 1)
        # A frame that is only just due is not late yet.
        overdue_s = max(0.0, now_s - seen[-1] - usual_s)
        return (len(seen) - 1) / (lasted_s + overdue_s) if lasted_s + overdue_s > 0 else 0.0
