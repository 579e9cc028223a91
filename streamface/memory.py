"""What is remembered of the streams of a run, for as long as they still give frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamface.frame import Frame

T = TypeVar("T")

FORGET_S: Final = 60.0
"""A stream without a frame for so long is over, or comes back as if it were new: longer than
anything that is remembered of a face outlasts its last sighting."""


class StreamMemory(Generic[T]):
    """One value for each stream, made when its first frame comes.

    A folder of ten thousand clips is ten thousand streams, one after another: those that gave no
    frame for ``FORGET_S``, by the clock of the capture, are forgotten whenever a new one begins.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._values: dict[int, T] = {}
        self._seen_s: dict[int, float] = {}

    def of(self, frame: Frame) -> T:
        """Return what is remembered of the frame's stream."""
        if frame.stream not in self._values:
            self._forget(frame.captured_s)
            self._values[frame.stream] = self._make()
        self._seen_s[frame.stream] = frame.captured_s
        return self._values[frame.stream]

    def _forget(self, now_s: float) -> None:
        for stream, seen_s in list(self._seen_s.items()):
            if now_s - seen_s > FORGET_S:
                del self._values[stream], self._seen_s[stream]

    def values(self) -> Iterator[T]:
        """Yield all that is remembered, in the order in which the streams began."""
        yield from self._values.values()

    def clear(self) -> None:
        """Forget all."""
        self._values.clear()
        self._seen_s.clear()

    def __len__(self) -> int:
        return len(self._values)
