"""How network sources are opened, and what is done when one is lost."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from typing import Final, Literal, get_args
from urllib.parse import urlsplit

from streamface.errors import UsageError

RtspTransport = Literal["tcp", "udp"]
OnGap = Literal["hold", "slate", "skip"]

_READ_TIMEOUT_S: Final = 5.0
# A segment of ten seconds is usual, and the next one may be late.
_PLAYLIST_READ_TIMEOUT_S: Final = 30.0
_UNITS_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """How a network source or a camera is opened, and how it comes back. Raises UsageError."""

    rtsp_transport: RtspTransport = "tcp"
    """Over UDP, RTSP loses pictures wherever a packet is lost; some old cameras know only that."""
    open_timeout_s: float = 10.0
    read_timeout_s: float | None = None
    """How long nothing may come before the source counts as lost; None: 5, and 30 for HLS."""
    reconnect: int | None = None
    """Attempts after a loss before giving up; None: for ever, 0: none."""
    wait_for_first: bool = False
    """Whether to try again where even the first attempt fails, instead of saying so at once."""
    on_gap: OnGap = "hold"
    """What comes while the source is away: its last picture, a card that says so, or nothing."""
    hold_after_s: float = 0.5
    """How long pictures may be overdue before ``on_gap`` begins."""

    def __post_init__(self) -> None:
        if self.rtsp_transport not in get_args(RtspTransport):
            raise UsageError(f"--rtsp-transport is tcp or udp, not '{self.rtsp_transport}'")
        if self.on_gap not in get_args(OnGap):
            raise UsageError(f"--on-gap is hold, slate or skip, not '{self.on_gap}'")
        waits = {
            "--open-timeout": self.open_timeout_s,
            "--read-timeout": self.read_timeout_s,
            "the time before a gap": self.hold_after_s,
        }
        for option, seconds in waits.items():
            if seconds is not None and not 0 < seconds <= 3600:
                raise UsageError(f"{option} must be above 0 and up to 3600 s, got {seconds:g}")
        if self.reconnect is not None and self.reconnect < 0:
            raise UsageError(f"--reconnect must be 0 or more attempts, got {self.reconnect}")

    def read_timeout_of(self, location: str) -> float:
        """Return how long a read from there may take, in seconds."""
        if self.read_timeout_s is not None:
            return self.read_timeout_s
        return _PLAYLIST_READ_TIMEOUT_S if _is_playlist(location) else _READ_TIMEOUT_S

    def ffmpeg_options(self, location: str) -> dict[str, str]:
        """Return what FFmpeg is told when it opens a URL."""
        scheme = location.split(":", 1)[0].lower()
        if scheme in ("rtsp", "rtsps"):
            # 20 pictures to guess a rate from are two seconds of many a camera; 8 say it, too.
            return {"rtsp_transport": self.rtsp_transport, "fpsprobesize": "8"}
        if scheme == "udp":
            # What a slow moment lost is lost; the rest of the stream is still wanted.
            return {"overrun_nonfatal": "1"}
        if scheme in ("http", "https") and not _is_playlist(location):
            # A file goes on where its connection broke; a stream that cannot seek is not asked to.
            return {"reconnect": "1", "reconnect_delay_max": "4"}
        return {}


def _is_playlist(location: str) -> bool:
    if "://" not in location:
        return False
    try:
        path = urlsplit(location).path
    except ValueError:
        return False
    return path.lower().endswith((".m3u8", ".mpd"))


@dataclass(slots=True)
class Backoff:
    """How long to wait before each attempt: twice as long each time, never quite the same.

    Without the jitter a hundred cameras behind one switch would all come back at once. ``rng``
    gives 0..1; a seeded one makes the delays repeatable.
    """

    first_s: float = 0.25
    most_s: float = 30.0
    rng: random.Random = field(default_factory=random.Random)
    _next_s: float = field(init=False, default=0.0)

    def delay_s(self) -> float:
        """Return the next delay, half to one and a half times its nominal length."""
        nominal_s = self._next_s or self.first_s
        self._next_s = min(self.most_s, 2 * nominal_s)
        return nominal_s * (0.5 + self.rng.random())

    def reset(self, at_most_s: float = 0.0) -> None:
        """Begin with a short delay again, or with what it had grown to if that is below a limit."""
        self._next_s = min(self._next_s, at_most_s)


def parse_duration_s(text: str, option: str) -> float:
    """Read ``90``, ``45s``, ``10m`` or ``1.5h`` as seconds. Raises UsageError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip().lower())
    seconds = float(match[1]) * _UNITS_S[match[2] or "s"] if match else 0.0
    if not seconds:
        raise UsageError(f"{option} takes a time such as 45s, 10m or 1h, not '{text}'")
    return seconds
