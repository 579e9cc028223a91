"""Cameras of this machine: which there are, and how FFmpeg is asked to open one.

FFmpeg calls its camera inputs v4l2 (Linux), avfoundation (macOS) and dshow (Windows).
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from streamface.errors import SourceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

FORMATS: Final = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}
PREFIX: Final = "camera:"
"""What a camera's name follows in ``--source``."""
_SYSFS: Final = Path("/sys/class/video4linux")
# AVFoundation refuses FFmpeg's default of 29.97 on most cameras, which offer 30.
_AVFOUNDATION_FPS: Final = 30.0
# Of dshow's own 3 MB a raw 1080p camera fills in a frame.
_DSHOW_BUFFER_BYTES: Final = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Camera:
    """One camera."""

    device: str
    """What FFmpeg opens."""
    name: str


@dataclass(frozen=True, slots=True)
class CameraOptions:
    """What is asked of a camera; None: what it likes."""

    size_px: tuple[int, int] | None = None
    fps: float | None = None

    @classmethod
    def parse(cls, size: str | None, fps: float | None) -> CameraOptions:
        """Read ``1280x720`` and frames per second. Raises UsageError."""
        if fps is not None and not 0 < fps <= 1000:
            raise UsageError(f"--camera-fps must be above 0 and up to 1000, got {fps:g}")
        if size is None:
            return cls(None, fps)
        match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", size.strip().lower())
        if match is None:
            raise UsageError(f"--camera-size must be WIDTHxHEIGHT, such as 1280x720, not '{size}'")
        return cls((int(match[1]), int(match[2])), fps)


def system_of(platform: str = sys.platform) -> str:
    """Return linux, darwin or win32. Raises SourceError elsewhere."""
    system = "linux" if platform.startswith("linux") else platform
    if system not in FORMATS:
        raise SourceError(f"cameras are not supported on {platform}; give a file or a URL")
    return system


def list_cameras(
    platform: str = sys.platform,
    *,
    enumerate_devices: Callable[[str], Iterable[Any]] | None = None,
    sysfs: Path = _SYSFS,
) -> list[Camera]:
    """Return the cameras that ``--source 0``, ``1`` … mean, in that order.

    enumerate_devices, sysfs: stand in for PyAV's and Linux' lists in tests.
    """
    system = system_of(platform)
    if system == "linux":
        return _linux_cameras(sysfs)
    import av

    lister = enumerate_devices or getattr(av, "enumerate_input_devices", None)
    if lister is None:
        return []  # PyAV before 17 cannot list
    try:
        devices = [d for d in lister(FORMATS[system]) if "video" in (d.media_types or ("video",))]
    except (av.FFmpegError, ValueError, OSError):
        return []
    if system == "win32":
        return [Camera(f"video={_name(device)}", _name(device)) for device in devices]
    return [Camera(str(number), _name(device)) for number, device in enumerate(devices)]


def _name(device: Any) -> str:
    return str(device.description or device.name)


def _linux_cameras(sysfs: Path) -> list[Camera]:
    """List the capture nodes; a camera has others for its metadata, whose index is not 0."""
    found = []
    for node in sysfs.glob("video*"):
        try:
            if (node / "index").read_text().strip() == "0":
                number = int(node.name.removeprefix("video"))
                found.append((number, (node / "name").read_text().strip()))
        except (OSError, ValueError):
            continue
    return [Camera(f"/dev/video{number}", name) for number, name in sorted(found)]


def find_device(
    location: str, platform: str = sys.platform, *, cameras: list[Camera] | None = None
) -> str:
    """Return what FFmpeg opens for a number, a ``/dev`` path or ``camera:NAME``.

    NAME may be a part of a camera's name, in any case. Raises SourceError where no camera or more
    than one is meant.
    """
    system = system_of(platform)
    if location.startswith(PREFIX):
        wanted = location.removeprefix(PREFIX).strip().lower()
        known = list_cameras(platform) if cameras is None else cameras
        meant = [camera for camera in known if wanted in camera.name.lower()]
        if len(meant) != 1:
            names = ", ".join(repr(camera.name) for camera in meant or known) or "none"
            what = "several cameras are" if meant else "no camera is"
            raise SourceError(f"{what} called '{wanted}' (found: {names})")
        return meant[0].device
    if not location.isdecimal():
        return location
    if system == "linux":
        return f"/dev/video{location}"
    if system == "darwin":
        return location
    known = list_cameras(platform) if cameras is None else cameras
    if int(location) < len(known):
        return known[int(location)].device
    return f"video={location}"


def ways_to_open(platform: str, options: CameraOptions) -> list[dict[str, str]]:
    """Return FFmpeg's options for a camera, best first; the last way is the least demanding.

    Over USB 2 raw pictures above 640 x 480 arrive at a few a second, JPEGs at full rate: so they
    are asked for first.
    """
    system = system_of(platform)
    wanted: dict[str, str] = {}
    if options.size_px is not None:
        wanted["video_size"] = "{}x{}".format(*options.size_px)
    if options.fps is not None:
        wanted["framerate"] = f"{options.fps:g}"
    if system == "linux":
        return [{**wanted, "input_format": "mjpeg"}, wanted]
    if system == "win32":
        wanted["rtbufsize"] = str(_DSHOW_BUFFER_BYTES)
        return [{**wanted, "vcodec": "mjpeg"}, wanted]
    if "framerate" in wanted:
        return [wanted]
    return [{**wanted, "framerate": f"{_AVFOUNDATION_FPS:g}"}, wanted]
