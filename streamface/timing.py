"""Presentation times: made where they are missing, mended where they go backwards."""

from __future__ import annotations

from fractions import Fraction


class FrameClock:
    """Gives every frame a strictly increasing presentation time. Knows no clock and no file.

    ``missing`` counts frames without a time of their own (raw streams, broken files); they follow
    their predecessor by the nominal frame duration. ``moved`` counts frames whose time did not
    lie after their predecessor's; they are put one tick behind it.
    """

    def __init__(self, time_base: Fraction, rate: Fraction) -> None:
        """time_base: seconds per tick. rate: nominal frames per second. Both positive."""
        if time_base <= 0 or rate <= 0:
            raise ValueError(f"time_base and rate must be positive, not {time_base}, {rate}")
        self.frame_ticks = max(1, round(1 / (rate * time_base)))
        self.missing = 0
        self.moved = 0
        self._last: int | None = None

    def next(self, pts: int | None) -> int:
        """Return the time of the next frame, in ticks; ``pts`` is what the source said."""
        if pts is None:
            self.missing += 1
            pts = 0 if self._last is None else self._last + self.frame_ticks
        elif self._last is not None and pts <= self._last:
            self.moved += 1
            pts = self._last + 1
        self._last = pts
        return pts


def plausible_rate(*candidates: object) -> Fraction:
    """Return the first candidate that can be a frame rate (0 < rate <= 1000 Hz), else 25.

    PyAV 18 gives None where a rate is unknown, PyAV 19 a falsy rational.
    """
    for candidate in candidates:
        if candidate:
            rate = Fraction(candidate.numerator, candidate.denominator)  # type: ignore[attr-defined]
            if 0 < rate <= 1000:
                return rate
    return Fraction(25)
