"""What driver and stations tell each other: small values that can be pickled.

Orders say what is to be, not what is to be done: all duties of a station, every time. So nothing is
lost with an order that was, and a station that was restarted needs no history.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

from streamface.errors import (
    BackendUnavailable,
    ModelError,
    SinkError,
    SourceError,
    StreamfaceError,
    UsageError,
)

if TYPE_CHECKING:
    from streamface.settings import Settings
    from streamface.sources import Input

State: TypeAlias = Literal["opening", "running", "ending", "ended", "failed", "returned"]
"""Of a duty. ending: no longer wanted, its file is being finished. ended: the source came to its
end, or the order was obeyed. failed: of itself, with a reason. returned: not its own doing."""
OVER: Final = frozenset({"ended", "failed", "returned"})
PERCENTS: Final = (50, 95, 99)
_KINDS: Final = {
    each.__name__: each
    for each in (BackendUnavailable, ModelError, SinkError, SourceError, UsageError)
}


@dataclass(frozen=True, slots=True)
class Duty:
    """One camera on one station, from the order to the end; another time it is another duty."""

    number: int
    """Of all duties of a fleet; never used twice."""
    what: Input
    file: str
    """What its files are called, without the suffix; also never used twice."""


@dataclass(frozen=True, slots=True)
class Orders:
    """All that a station is to do."""

    duties: tuple[Duty, ...] = ()
    cancel: bool = False
    """End at once and remove unfinished files."""


@dataclass(frozen=True, slots=True)
class Contract:
    """What a station is told when it begins."""

    name: str
    how: Settings
    """Of its run; outputs are folders, data files get the station's name."""
    cores: int | None
    """That it keeps to; None: no share was asked for."""
    files: tuple[str, ...]
    """What files of the cameras begin with: those that are there already are told."""


@dataclass(frozen=True, slots=True)
class Hello:
    """A station's first answer: it has found its models and drawn a frame."""

    host: str
    version: str
    taken: dict[str, int] = field(default_factory=dict)
    """The highest number of the files that stand there already, by what they begin with."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Another first answer: why a station did not begin."""

    kind: str
    """The class of the error."""
    line: str

    def error(self) -> StreamfaceError:
        """Return it as the error that it was."""
        return _KINDS.get(self.kind, StreamfaceError)(self.line)


@dataclass(frozen=True, slots=True)
class DutyReport:
    """How things stand with one duty."""

    number: int
    state: State
    reason: str = ""
    captured: int = 0
    """Frames that the camera gave, not those that stand in for what did not come."""
    frames: int = 0
    face_frames: int = 0
    """Faces summed over frames."""
    faces: int = 0
    """In the newest frame."""
    fps: float = 0.0
    """Of the last seconds."""
    drops: dict[str, int] = field(default_factory=dict)
    """By reason."""
    ages_s: tuple[float, ...] = ()
    """From capture to written, of all its frames: ``PERCENTS``; empty before the first."""
    recent_ages_s: tuple[float, ...] = ()
    """The same of the last seconds."""
    cores: float | None = None
    """What it costs at present; None: not measured yet."""

    @property
    def is_over(self) -> bool:
        """Whether nothing of it is left to do; its files are whole or absent."""
        return self.state in OVER


@dataclass(frozen=True, slots=True)
class Report:
    """How things stand on a station."""

    duties: tuple[DutyReport, ...] = ()
    cores_used: float = 0.0
    memory_bytes: int | None = None
    lowered: str = ""
    """What is done less closely because the machine cannot keep up."""
    lost: float = 0.0
    """Share, 0..1, of the last seconds' frames that nobody had time for."""
    on: dict[str, str] = field(default_factory=dict)
    """What computes in each stage that has a net."""
    told: tuple[tuple[int, str], ...] = ()
    """Lines of its log since the last report: level and text."""

    @property
    def is_overloaded(self) -> bool:
        """Whether it has more to do than it can."""
        return bool(self.lowered) or self.lost > 0.02


class StationLost(StreamfaceError):  # noqa: N818 - a state, not a fault
    """A station does not answer any more."""

    def __init__(
        self, reason: str, *, crashed: bool = False, final: StreamfaceError | None = None
    ) -> None:
        """Note the reason.

        crashed: its process died by itself. final: why none would start on any machine, such as a
        wrong model.
        """
        super().__init__(reason)
        self.crashed = crashed
        self.final = final


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine of the cluster that may have a station."""

    key: str
    """Its identity; a machine that was away and came back is another one."""
    host: str
    cores: float
    is_draining: bool = False
    """Whether the cluster itself wants it to be left."""


class Link(Protocol):
    """The line to one station: one question at a time."""

    def send(self, orders: Orders) -> None:
        """Give orders; ``poll`` has the answer later."""
        ...

    def poll(self) -> Hello | Report | None:
        """Return an answer, first of all a Hello, or None while there is none.

        Raises StationLost.
        """
        ...

    def kill(self) -> None:
        """End the station, whether it can be reached or not; harmless twice."""
        ...


class Cluster(Protocol):
    """Where stations can be. Belongs to one thread."""

    def machines(self) -> list[Machine]:
        """Return the machines that live. Raises BackendUnavailable where nobody can say."""
        ...

    def hire(self, machine: Machine, contract: Contract) -> Link:
        """Have a station begin on a machine; its first answer is awaited by ``Link.poll``."""
        ...

    def wait(self, seconds: float) -> None:
        """Wait for the next answer of any station, at most for so long."""
        ...

    def close(self) -> None:
        """Leave the cluster; stations that still are there end."""
        ...
