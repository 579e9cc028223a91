"""A fleet as it is seen from outside: values that the driver makes and nobody changes."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

SILENT_S: Final = 10.0
"""A camera without a new frame for so long does not count as well."""
_FROZEN_S: Final = 10.0
"""A picture as old as this shows a driver that hangs."""


@dataclass(frozen=True, slots=True)
class StationView:
    """One machine."""

    name: str
    host: str = ""
    node: str = ""
    """What the cluster calls the machine."""
    state: str = "down"
    """starting, up, draining, drained or down."""
    cores: float = 0.0
    cores_used: float = 0.0
    memory_bytes: int | None = None
    lowered: str = ""
    cameras: int = 0
    on: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CameraView:
    """One camera; what is counted is counted over all stations it was on."""

    name: str
    state: str = "waiting"
    """waiting, opening, running, silent (it gives nothing; its picture is held), moving, ending,
    ended or lost."""
    station: str = ""
    reason: str = ""
    frames: int = 0
    face_frames: int = 0
    faces: int = 0
    fps: float = 0.0
    drops: dict[str, int] = field(default_factory=dict)
    ages_s: tuple[float, ...] = ()
    """Where it is now."""
    recent_ages_s: tuple[float, ...] = ()
    cores: float | None = None
    moves: int = 0
    silent_s: float | None = None
    """Since it was heard to give a frame; None: there was none yet."""

    @property
    def is_well(self) -> bool:
        """Whether frames of it come."""
        return self.state == "running" and self.silent_s is not None and self.silent_s < SILENT_S


@dataclass(frozen=True, slots=True)
class FleetView:
    """All of it at one moment."""

    taken_s: float = 0.0
    """Monotonic clock."""
    elapsed_s: float = 0.0
    stations: tuple[StationView, ...] = ()
    cameras: tuple[CameraView, ...] = ()
    moves: dict[str, int] = field(default_factory=dict)
    restarts: int = 0
    stopping: bool = False

    def health(self, now: Callable[[], float] = time.monotonic) -> str:
        """Return ok, degraded (some cameras give no frames), down (none does), or stuck."""
        if now() - self.taken_s > _FROZEN_S:
            return "stuck"
        due = [camera for camera in self.cameras if camera.state != "ended"]
        well = sum(camera.is_well for camera in due)
        if well == len(due):
            return "ok"
        return "degraded" if well else "down"

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        values = asdict(self)
        del values["taken_s"]
        return {"status": self.health(), **values}
