"""Encoded pictures between the encoding of a segment and the joining of all.

A file of packets is a line of JSON (what encoded them, and its stream header) and then, for each
packet in decoding order, its times, flags, size and bytes. No container is asked for this, since
each of them rounds times in its own way.
"""

from __future__ import annotations

import io
import json
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple

import av

from streamface.atomic import sink_error
from streamface.decode import fraction
from streamface.encode import choose_codec, encoder_options
from streamface.errors import SplitError
from streamface.sinks import VideoSink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from av.container import OutputContainer

    from streamface.decode import StreamInfo
    from streamface.encode import VideoOptions
    from streamface.frame import Frame

# pts, dts, duration, whether it is a key frame, size in bytes.
_HEAD: Final = struct.Struct("<qqqBI")


class Picture(NamedTuple):
    """One encoded picture; times in ticks of the source."""

    pts: int
    dts: int
    duration: int
    is_key: bool
    data: bytes


def encoder_of(
    suffix: str, info: StreamInfo, options: VideoOptions, extradata: bytes | None
) -> dict[str, Any]:
    """Return all that must be equal for pictures to belong in one stream."""
    codec = choose_codec(suffix, options)
    return {
        "codec": codec,
        "options": encoder_options(codec, options),
        "size_px": list(info.size_px),
        "time_base": str(info.time_base),
        "rate": str(info.rate),
        "pyav": av.__version__,
        "header": (extradata or b"").hex(),
    }


class PacketSink(VideoSink):
    """Encodes frames as ``VideoSink`` does for the same target, and keeps them as packets."""

    def __init__(
        self,
        target: Path,
        info: StreamInfo,
        options: VideoOptions,
        *,
        is_own: Callable[[int], bool],
    ) -> None:
        """is_own: whether a frame is to be written, by its time; others come to warm up."""
        self._packets: BinaryIO | None = None
        super().__init__(target, replace(info, copied=(), chapters=()), options)
        self._is_own = is_own
        header = encoder_of(
            target.suffix, info, options, self._encoding.stream.codec_context.extradata
        )
        try:
            self._packets = self._file.temporary.open("wb")
            self._packets.write(json.dumps(header).encode() + b"\n")
        except OSError as exc:
            self.abort()
            raise sink_error(target, exc) from exc

    def _open_container(self) -> OutputContainer:
        """Open one that nothing is written to: it decides how the encoder is set up."""
        return av.open(_Named(str(self._file.temporary)), "w")

    def write(self, frame: Frame) -> None:
        """Encode a frame of the segment's own."""
        if self._is_own(frame.pts):
            super().write(frame)

    def _encode(self, picture: av.VideoFrame | None) -> None:
        file = self._packets
        if file is None:
            raise ValueError("this sink was aborted")
        for packet in self._encoding.stream.encode(picture):
            if packet.pts is None or packet.dts is None:
                raise SplitError(f"the encoder of {self._file.target.suffix} files tells no times")
            data = bytes(packet)
            # The encoder may tick otherwise than the source.
            scale = fraction(packet.time_base) / self._encoding.info.time_base
            times = [each * scale for each in (packet.pts, packet.dts, packet.duration or 0)]
            if any(each.denominator != 1 for each in times):
                raise SplitError(f"the encoder of {self._file.target.suffix} files rounds times")
            file.write(_HEAD.pack(*map(int, times), packet.is_keyframe, len(data)))
            file.write(data)
        if picture is None:
            file.close()

    def abort(self) -> None:
        """Close and remove the unfinished file."""
        if self._packets is not None:
            self._packets.close()
        super().abort()


class _Named(io.BytesIO):
    """Memory with a name, by which FFmpeg picks the container."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


def read_header(file: BinaryIO) -> dict[str, Any]:
    """Return what encoded the packets of an opened file."""
    header: dict[str, Any] = json.loads(file.readline())
    return header


def delay_of(file: BinaryIO) -> int:
    """Return how many pictures of a file are decoded before the first is shown."""
    read_header(file)
    times = [(picture.pts, picture.dts) for picture in read_pictures(file)]
    first = min(pts for pts, _ in times)
    return sum(dts < first for _, dts in times)


def read_pictures(file: BinaryIO) -> Iterator[Picture]:
    """Yield the pictures that follow the header."""
    while head := file.read(_HEAD.size):
        pts, dts, duration, is_key, size = _HEAD.unpack(head)
        data = file.read(size)
        yield Picture(pts, dts, duration, bool(is_key), data)
