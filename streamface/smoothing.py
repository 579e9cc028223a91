"""Per-track smoothing of emotion probabilities, with a label that does not flicker."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from streamface.frame import EMOTIONS, UNCERTAIN, Emotion

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Around the threshold below which a label is "uncertain": enter below it, leave above it by this.
_UNCERTAIN_BAND: Final = 0.05


@dataclass(frozen=True, slots=True)
class SmoothingSettings:
    """How fast a label follows the face."""

    time_constant_s: float = 0.25
    """Of the exponential average; 0 switches smoothing off. Macro-expressions last 0.5 s to 4 s
    (Matsumoto and Hwang, 2011), so a quarter of a second follows them and rides out the noise."""
    margin: float = 0.08
    """By how much a new label's smoothed probability must beat the present label's."""

    def __post_init__(self) -> None:
        if self.time_constant_s < 0:
            raise ValueError(f"time_constant_s must not be negative, got {self.time_constant_s}")
        if not 0 <= self.margin < 1:
            raise ValueError(f"margin must be 0..1, got {self.margin}")


class EmotionSmoother:
    """The memory of one track. Knows no clock: time comes with each observation."""

    def __init__(self, settings: SmoothingSettings, uncertain_below: float) -> None:
        """uncertain_below: smoothed top probability, 0..1, under which no label is given."""
        self._settings = settings
        self._uncertain_below = uncertain_below
        self._smoothed: NDArray[np.float32] | None = None
        self._time_s = 0.0
        self._choice = -1
        self._uncertain = False

    def update(self, probs: NDArray[np.float32], time_s: float) -> Emotion:
        """Take the raw (7,) probabilities seen at ``time_s`` and return the reading there.

        Times need not be regular; one that goes backwards counts as the same moment.
        """
        if self._smoothed is None:
            self._smoothed = probs.astype(np.float32, copy=True)
        else:
            elapsed_s = max(0.0, time_s - self._time_s)
            tau_s = self._settings.time_constant_s
            weight = 1.0 if tau_s == 0 else 1.0 - math.exp(-elapsed_s / tau_s)
            self._smoothed = self._smoothed + np.float32(weight) * (probs - self._smoothed)
        self._time_s = max(time_s, self._time_s)
        return Emotion(self._label(self._smoothed), probs, self._smoothed)

    def _label(self, smoothed: NDArray[np.float32]) -> str:
        best = int(smoothed.argmax())
        beaten = smoothed[best] > smoothed[self._choice] + self._settings.margin
        if self._choice < 0 or beaten:
            self._choice = best
        band = _UNCERTAIN_BAND if self._uncertain else 0.0
        self._uncertain = bool(smoothed[self._choice] < self._uncertain_below + band)
        return UNCERTAIN if self._uncertain else EMOTIONS[self._choice]
