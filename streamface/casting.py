"""Who stands in for somebody: of some strangers the one who looks least like the person.

The search is made in two rounds, and can be left and taken up again after any stranger: a live
source does not wait for all of them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from streamface.likeness import Looks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from streamface.frame import BatchF32

ROUND: Final = 20
"""Strangers drawn at once: first by chance, then where the first say that faults fall."""
_LED: Final = 0.5
"""Share of a stranger of the second round, in variance, that the first round tells."""
_USUAL: Final = np.float32(0.25)
"""What a stranger's oddness counts beside his likeness to the real person."""
_APART: Final = np.float32(0.3)
"""What his likeness to another stand-in of the stream counts."""
_CALM_KEYS: Final = np.float32(0.8)
"""Strangers are drawn nearer to the middle of all than chance has them: fewer are odd."""


class Chosen(NamedTuple):
    """Who stands in for somebody."""

    key: NDArray[np.float32]
    """(K,) what an inventor draws him by."""
    look: NDArray[np.float32]
    """(W,) whom he looks like, of length one, by the net of likeness."""


class Casting:
    """A search for who stands in for one person.

    The second round looks where the first says that faults fall, as evolution strategies do
    (Salimans et al. 2017): along the sum of its keys, each counted by how few its faults were.
    """

    def __init__(
        self,
        source: NDArray[np.float32],
        draw_keys: Callable[[int], BatchF32],
        look_at: Callable[[BatchF32], Looks],
    ) -> None:
        """source: (W,) whom the person looks like, by the net of likeness.

        draw_keys: returns so many random keys, (N, K). look_at: returns what the strangers of
        (N, K) keys look like in the person's place.
        """
        self._source = source
        self._draw_keys = draw_keys
        self._look_at = look_at
        self._keys = self._calm_keys()
        self._looks = Looks(np.zeros((0, len(source)), np.float32), np.zeros(0, np.float32))

    @property
    def left(self) -> int:
        """How many strangers have not been looked at."""
        return 2 * ROUND - self._seen

    def go_on(self, count: int, others: Sequence[NDArray[np.float32]]) -> int:
        """Look at the next strangers, ``count`` of a round at most; return how many it were.

        others: (W,) each, whom the other stand-ins of the stream look like.
        """
        if self._seen == len(self._keys) < 2 * ROUND:
            led = led_by(self._keys, self._faults(others), self._calm_keys())
            self._keys = np.concatenate((self._keys, led))
        next_keys = self._keys[self._seen : self._seen + count]
        if len(next_keys):
            both = zip(self._looks, self._look_at(next_keys), strict=True)
            self._looks = Looks(*(np.concatenate(each) for each in both))
        return len(next_keys)

    def chosen(self, others: Sequence[NDArray[np.float32]]) -> Chosen:
        """Return who has the fewest faults of those who were looked at, one at least."""
        best = int(np.argmin(self._faults(others)))
        return Chosen(self._keys[best], self._looks.vectors[best])

    @property
    def _seen(self) -> int:
        return len(self._looks.oddness)

    def _calm_keys(self) -> BatchF32:
        return _CALM_KEYS * self._draw_keys(ROUND)

    def _faults(self, others: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        return faults(self._looks, self._source, others)


def faults(
    looks: Looks, source: NDArray[np.float32], others: Sequence[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Return (N,) what speaks against some strangers, each wish counted by how far they differ.

    They should look unlike the real person (source, (W,)), like no other stand-in of the stream
    (others, (W,) each), and not odd: what is least like somebody is easily the least human.
    """
    total = _standard(looks.vectors @ source) + _USUAL * _standard(np.log(looks.oddness))
    if others:
        total += _APART * _standard((looks.vectors @ np.stack(others).T).max(1))
    return np.asarray(total, np.float32)


def _standard(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray((values - values.mean()) / max(float(values.std()), 1e-6), np.float32)


def led_by(first: BatchF32, against: NDArray[np.float32], others: BatchF32) -> BatchF32:
    """Return (N, W) other keys, led to where less speaks against them, and as long as before.

    first: (M, W) keys. against: (M,) what speaks against each of them. others: (N, W) keys.
    """
    way = (against.mean() - against) @ first
    length = float(np.linalg.norm(others, axis=1).mean())
    way = way * np.float32(length / max(float(np.linalg.norm(way)), 1e-6))
    return np.asarray(math.sqrt(_LED) * way + math.sqrt(1 - _LED) * others, np.float32)
