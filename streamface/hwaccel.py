"""Decoding on an NVIDIA GPU (NVDEC), through FFmpeg's and PyAV's hardware acceleration.

Written after the sources of PyAV 18.1 and FFmpeg 8.1; it has not run on a GPU yet. What they do
that matters here:

- FFmpeg copies every decoded surface on the GPU before it hands it out (unless it is told not to
  with ``unsafe_output``), so any number of frames may be held.
- FFmpeg and torch share the device's primary context, and both work on its default stream. Of two
  that want it with different flags the later one is refused: FFmpeg must come first, so sources
  are opened before models.
- PyAV decodes in software where no hardware decoder is listed for a codec, even with
  ``allow_software_fallback=False``, as long as another stream has one (PyAV#1690: AV1 goes to
  dav1d). Hence the checks of stream and frame.
"""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING, Final

import av

from streamface.errors import SourceError
from streamface.pixels import is_on_gpu

if TYPE_CHECKING:
    from av.codec.hwaccel import HWAccel

CPU_INSTEAD: Final = "leave --hwaccel out to decode on the CPU"
# What FFmpeg's cuda_device_create returns where libcuda is absent, and where the primary context
# is in use with other flags than its own.
_REASONS: Final = {
    errno.EPERM: "the NVIDIA driver cannot be loaded",
    errno.ENOTSUP: "another library took the GPU first; open the video before the model",
}


def parse_device(hwaccel: str) -> int:
    """Return the number of the GPU in "cuda" (0) or "cuda:N"; ValueError for anything else."""
    found = re.fullmatch(r"cuda(?::(\d+))?", hwaccel)
    if found is None:
        raise ValueError(f"hwaccel must be cuda or cuda:N, not {hwaccel!r}")
    return int(found[1] or 0)


def accelerator(hwaccel: str) -> HWAccel:
    """Return what ``av.open`` needs to keep decoded frames on a GPU; never decodes in software.

    Raises SourceError where PyAV is too old, or where the GPU or its driver is not there.
    """
    from av.codec import Codec
    from av.codec.hwaccel import HWAccel

    device = str(parse_device(hwaccel))
    if not hasattr(av.VideoFrame, "sw_format"):
        raise SourceError(f"cannot decode on {hwaccel}: PyAV {av.__version__} is older than 18")
    accel = HWAccel("cuda", device, allow_software_fallback=False, is_hw_owned=True)
    try:
        # av.open would do this too, but its error would seem to be the file's.
        accel.create(Codec("h264", "r"))
    except (av.FFmpegError, NotImplementedError) as exc:
        reason = _REASONS.get(getattr(exc, "errno", 0)) or getattr(exc, "strerror", "") or str(exc)
        raise SourceError(f"cannot decode on {hwaccel}: {reason}; {CPU_INSTEAD}") from exc
    return accel


def no_decoder(name: str, hwaccel: str, codec: str = "") -> str:
    """Return the error for an input whose codec no GPU decoder takes."""
    which = f" ({codec})" if codec else ""
    return f"cannot read {name} on {hwaccel}: its codec{which} has no GPU decoder; {CPU_INSTEAD}"


def check_stream(video: av.VideoStream, name: str, hwaccel: str) -> None:
    """Raise SourceError if this stream would be decoded in software, and set its threads to one."""
    context = video.codec_context
    if not context.is_hwaccel:
        raise SourceError(no_decoder(name, hwaccel, context.name))
    # Frame threads would only hold more surfaces: the GPU decodes by itself.
    context.thread_count = 1


def check_frame(frame: av.VideoFrame, name: str, hwaccel: str) -> None:
    """Raise SourceError if a decoded frame is not in the memory of a GPU."""
    if not is_on_gpu(frame):
        raise SourceError(
            f"cannot read {name} on {hwaccel}: it was decoded in software, as {frame.format.name}; "
            f"{CPU_INSTEAD}"
        )
