"""Clips made inside the tests: every frame carries its number, so order and count are checkable."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import av
import numpy as np

from streamface.frame import Colour, Planes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_BITS = 12
_BLOCK = 8


def numbered(number: int, size_px: tuple[int, int] = (160, 120)) -> Planes:
    """Return grey planes whose top rows spell ``number`` in black and white blocks."""
    planes = Planes.allocate(size_px, Colour("bt601"))
    planes.y[:], planes.u[:], planes.v[:] = 110, 128, 128
    for bit in range(_BITS):
        on = number >> bit & 1
        planes.y[:_BLOCK, bit * _BLOCK : (bit + 1) * _BLOCK] = 235 if on else 16
    return planes


def noisy(number: int, size_px: tuple[int, int] = (320, 240)) -> Planes:
    """Return numbered planes over fixed noise: big files, in which damage hits pictures."""
    planes = numbered(number, size_px)
    rng = np.random.default_rng(number)
    planes.y[16:] = rng.integers(60, 200, planes.y[16:].shape)
    return planes


def read_number(planes: Planes) -> int:
    """Return the number that ``numbered`` wrote, after any lossy codec."""
    middle = _BLOCK // 2
    row = planes.y[middle, middle : _BITS * _BLOCK : _BLOCK]
    return sum(1 << bit for bit, value in enumerate(row) if value > 127)


def write_clip(
    path: Path,
    pictures: Iterable[Planes] | int = 12,
    *,
    rate: Fraction = Fraction(30),
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    size_px: tuple[int, int] = (160, 120),
    audio_codec: str | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Encode pictures (or that many numbered ones); audio is a tone as long as the video."""
    if isinstance(pictures, int):
        pictures = [numbered(i, size_px) for i in range(pictures)]
    pictures = list(pictures)
    width, height = pictures[0].size_px
    time_base = time_base or 1 / rate
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = time_base
        layout = {"layout": "mono"}
        sound = container.add_stream(audio_codec, rate=48_000, **layout) if audio_codec else None
        for index, planes in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(planes.to_rgb(), format="rgb24")
            frame = frame.reformat(format=pix_fmt)
            frame.pts = pts[index] if pts is not None else index
            frame.time_base = time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            _write_tone(container, sound, len(pictures) / rate)
    return path


def _write_tone(container, sound, seconds: Fraction) -> None:
    size = sound.codec_context.frame_size or 1024
    fmt = sound.codec_context.format.name
    for start in range(0, int(seconds * 48_000), size):
        wave = np.sin(np.arange(start, start + size) * (2 * np.pi * 440 / 48_000)) * 0.2
        samples = wave.astype(np.float32) if fmt.startswith("flt") else (wave * 32767).astype("i2")
        frame = av.AudioFrame.from_ndarray(samples[None], format=fmt, layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, start, Fraction(1, 48_000)
        container.mux(sound.encode(frame))
    container.mux(sound.encode(None))


def set_mp4_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Overwrite the display matrix of every track header of an MP4 (ISO/IEC 14496-12, 8.3.2)."""
    data = bytearray(path.read_bytes())
    one = 1 << 16
    matrix = [a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30]
    packed = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    at = data.find(b"tkhd")
    while at >= 0:
        start = at + 4 + (40 if data[at + 4] == 0 else 52)
        data[start : start + 36] = packed
        at = data.find(b"tkhd", at + 4)
    path.write_bytes(data)


def video_times(path: Path) -> list[Fraction]:
    """Return the presentation time of every decoded frame, in seconds."""
    with av.open(str(path)) as container:
        return [Fraction(frame.pts * frame.time_base) for frame in container.decode(video=0)]


def audio_packets(path: Path) -> list[bytes]:
    """Return the payload of every audio packet."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]
