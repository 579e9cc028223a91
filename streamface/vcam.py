"""A virtual camera: what is written becomes a camera that other programs on this machine open.

Through pyvirtualcam: v4l2loopback on Linux, OBS's virtual camera on macOS and Windows. Tested with
a stand-in for pyvirtualcam and, with the real one, for what it says where there is no device; it
has not run on a device yet.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from streamface.errors import SinkError, UsageError
from streamface.frame import Colour, Planes
from streamface.grid import letterboxed
from streamface.pixels import recoloured

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamface.decode import StreamInfo
    from streamface.frame import Frame, Packet, PlaneU8

# Cameras do not say which matrix they use; programs take them for this.
_COLOUR: Final = Colour("bt601")
_BLACK: Final = (16, 128, 128)
_ADVICE: Final = (
    "on Linux load v4l2loopback (sudo modprobe v4l2loopback), on macOS and Windows install OBS "
    "and start its virtual camera once"
)


class VirtualCamera:
    """Sends frames to a virtual camera as I420; a ``sinks.Sink``.

    A camera has one size, that of the first source, less a last odd column or row. Frames of
    another size are scaled into it with their shape kept. A live source is sent as it comes; a
    file is held to its own pace, since no viewer does that.

    Raises UsageError without pyvirtualcam, SinkError where there is no device or it is in use.
    """

    def __init__(
        self,
        info: StreamInfo,
        device: str | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """device: such as /dev/video2; the first one found by default. now, sleep: for tests."""
        self.warnings: list[str] = []
        self._is_live = info.is_live
        self._now, self._sleep = now, sleep
        self._began_s: tuple[int, float] | None = None
        width, height = (side - side % 2 for side in info.size_px)
        if not width or not height:
            raise UsageError(f"a virtual camera cannot be {'x'.join(map(str, info.size_px))}")
        self._size_px = width, height
        self._camera: Any = _open_camera(self._size_px, float(info.rate), device)

    @property
    def device(self) -> str:
        """What other programs open."""
        return str(self._camera.device)

    def write(self, frame: Frame) -> None:
        """Send one frame; of a file, when it is due. Raises SinkError."""
        if not self._is_live:
            self._keep_pace(frame)
        try:
            self._camera.send(self._packed(frame.planes))
        except (OSError, RuntimeError) as exc:
            raise SinkError(f"the virtual camera {self.device} failed: {exc}") from exc

    def _keep_pace(self, frame: Frame) -> None:
        # Every file of several has its own times.
        if self._began_s is None or self._began_s[0] != frame.stream:
            self._began_s = frame.stream, self._now() - frame.time_s
        wait_s = self._began_s[1] + frame.time_s - self._now()
        if wait_s > 0:
            self._sleep(wait_s)
        else:
            # Behind: go on from here, or what follows would come in a rush.
            self._began_s = frame.stream, self._now() - frame.time_s

    def _packed(self, planes: Planes) -> PlaneU8:
        """Return Y, U and V of the camera's size and colour, one after the other, (n,) uint8."""
        width, height = self._size_px
        if tuple(side - side % 2 for side in planes.size_px) != self._size_px:
            planes = self._scaled(planes)
        elif planes.colour != _COLOUR:
            planes = recoloured(planes, _COLOUR)
        parts = (
            planes.y[:height, :width],
            planes.u[: height // 2, : width // 2],
            planes.v[: height // 2, : width // 2],
        )
        return np.concatenate([part.ravel() for part in parts])

    def _scaled(self, planes: Planes) -> Planes:
        """Return the picture in the middle of a black one of the camera's size."""
        whole = Planes.allocate(self._size_px, _COLOUR)
        for plane, value in zip((whole.y, whole.u, whole.v), _BLACK, strict=True):
            plane[:] = value
        # In units of chroma samples, so that luma and chroma stay together.
        cell = (0, 0, self._size_px[0] // 2, self._size_px[1] // 2)
        x, y, width, height = letterboxed(cell, planes.size_px)
        small = recoloured(planes, _COLOUR, (2 * width, 2 * height))
        whole.y[2 * y : 2 * (y + height), 2 * x : 2 * (x + width)] = small.y
        whole.u[y : y + height, x : x + width] = small.u
        whole.v[y : y + height, x : x + width] = small.v
        return whole

    def close(self, tail_packets: Sequence[Packet] = ()) -> None:  # noqa: ARG002 - the Sink shape
        """Give the device back; a second call does nothing."""
        self._camera.close()

    def abort(self) -> None:
        """Give the device back."""
        self.close()


def _open_camera(size_px: tuple[int, int], fps: float, device: str | None) -> Any:
    try:
        import pyvirtualcam
    except ImportError as exc:
        raise UsageError(
            "--virtual-camera needs pyvirtualcam; run pip install 'streamface[vcam]'"
        ) from exc
    try:
        return pyvirtualcam.Camera(*size_px, fps, fmt=pyvirtualcam.PixelFormat.I420, device=device)
    except (OSError, RuntimeError) as exc:
        what = f"the virtual camera {device}" if device else "a virtual camera"
        reason = " ".join(str(exc).split()).rstrip(".")
        raise SinkError(f"cannot open {what}: {reason}; {_ADVICE}") from exc
