"""Play files as if they came from a camera: at their own pace, whether anybody keeps up or not."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from streamface.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamface.decode import Damage, StreamInfo
    from streamface.frame import Frame, Packet
    from streamface.sources import Source

_NAMES: Final = ("drop", "stall", "jitter")


@dataclass(frozen=True, slots=True)
class Trouble:
    """What a simulated camera suffers."""

    drop: float = 0.0
    """Share of frames that never arrive, 0..1."""
    stall_s: float = 0.0
    """Every ten seconds nothing arrives for so long; what was due in between comes at once."""
    jitter_s: float = 0.0
    """Frames come up to so much late, at random, but in order."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``drop=0.05,stall=2,jitter=0.04`` (a share, and seconds). Raises UsageError."""
        values = dict.fromkeys(_NAMES, 0.0)
        for part in filter(None, (word.strip() for word in text.split(","))):
            name, _, number = part.partition("=")
            try:
                value = float(number)
            except ValueError:
                value = -1.0
            if name not in values or value < 0:
                raise UsageError(
                    f"--inject takes drop=SHARE,stall=SECONDS,jitter=SECONDS, not '{part}'"
                )
            values[name] = value
        if not 0 <= values["drop"] < 1:
            raise UsageError(f"--inject drop must be 0 to below 1, got {values['drop']:g}")
        for name in ("stall", "jitter"):
            if not 0 <= values[name] <= 10:
                raise UsageError(f"--inject {name} must be 0 to 10 seconds, got {values[name]:g}")
        return cls(values["drop"], values["stall"], values["jitter"])


class SimulatedLive:
    """A source that hands frames out when they are due, as a camera does, and says it is live.

    A frame's capture time is when it was due, so that whatever comes after counts as its age.
    """

    _STALL_EVERY_S: Final = 10.0

    def __init__(
        self,
        source: Source,
        trouble: Trouble,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """now, sleep: stand in for the clock in tests."""
        self._source = source
        self._trouble = trouble
        self._now = now
        self._sleep = sleep
        self._lost: list[Packet] = []
        self.info: StreamInfo = replace(source.info, is_live=True)

    @property
    def damage(self) -> Damage:
        """That of the file."""
        return self._source.damage

    @property
    def tail_packets(self) -> tuple[Packet, ...]:
        """Those of the file, after those of frames that were dropped at its end."""
        return (*self._lost, *self._source.tail_packets)

    def __iter__(self) -> Iterator[Frame]:
        rng = np.random.default_rng(0)
        trouble = self._trouble
        lost = self._lost
        began_s: float | None = None
        first_s = last_due_s = 0.0
        for frame in self._source:
            if began_s is None:
                began_s, first_s = self._now(), frame.time_s
            if rng.random() < trouble.drop:
                lost += frame.packets
                continue
            played_s = frame.time_s - first_s
            late_s = rng.random() * trouble.jitter_s + self._stalled_s(played_s)
            due_s = last_due_s = max(last_due_s, began_s + played_s + late_s)
            wait_s = due_s - self._now()
            if wait_s > 0:
                self._sleep(wait_s)
            frame.captured_s = due_s
            if lost:
                frame.packets = (*lost, *frame.packets)
                lost.clear()
            yield frame

    def _stalled_s(self, played_s: float) -> float:
        """Return how long a frame waits for the end of the stall that it falls into."""
        into_s = played_s % self._STALL_EVERY_S
        begins_s = self._STALL_EVERY_S - self._trouble.stall_s
        return self._STALL_EVERY_S - into_s if into_s > begins_s else 0.0

    def close(self) -> None:
        """Close the file."""
        self._source.close()


class Looped:
    """A file that begins again when it ends, its times going on: for trials longer than the file.

    Pictures only: where a second round's sound would begin nobody could say.
    """

    def __init__(self, open_again: Callable[[], Source]) -> None:
        self._open_again = open_again
        self._source = open_again()
        self.info: StreamInfo = replace(self._source.info, frames=None, copied=())
        self.tail_packets: tuple[Packet, ...] = ()

    @property
    def damage(self) -> Damage:
        """That of the present round."""
        return self._source.damage

    def __iter__(self) -> Iterator[Frame]:
        index = end = 0
        shift: int | None = 0
        while True:
            for frame in self._source:
                if shift is None:
                    shift = end - frame.pts
                frame.index, frame.pts, frame.packets = index, frame.pts + shift, ()
                index, end = index + 1, frame.pts + max(1, frame.duration)
                yield frame
            self._source.close()
            self._source, shift = self._open_again(), None

    def close(self) -> None:
        """Close the file."""
        self._source.close()
