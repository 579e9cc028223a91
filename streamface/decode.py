"""Frames out of anything PyAV opens: files, images, cameras, network streams."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import TYPE_CHECKING, Final

import av

from streamface.errors import SourceError
from streamface.frame import Frame, Packet
from streamface.hwaccel import CPU_INSTEAD, check_frame, check_stream, parse_device
from streamface.pixels import ColourTags, device_planes, fitted, orientation, tags_of, to_planes
from streamface.timing import FrameClock, plausible_rate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.container import InputContainer
    from av.container.core import Chapter
    from av.subtitles.stream import SubtitleStream

    from streamface.frame import Planes

_log = logging.getLogger(__name__)

IMAGE_FORMATS: Final = frozenset(
    {"image2", "png_pipe", "jpeg_pipe", "webp_pipe", "bmp_pipe", "tiff_pipe", "jpegls_pipe"}
)
PLAYLIST_FORMATS: Final = frozenset({"hls", "dash"})
# FFmpeg "decodes" any text file as ANSI art; nobody means that.
_NOT_VIDEO: Final = frozenset({"tty"})
# Up to 1080p one core decodes faster than we encode; frame threads cost 10 to 15 % more CPU and
# hold more frames.
_ONE_THREAD_PIXELS: Final = 1920 * 1088
_MAX_DECODE_THREADS: Final = 4
# Key frames in a row after which a GPU is taken not to know a stream's profile: a live one would
# never come to an end.
_MAX_REFUSED: Final = 3
_DROPPED_METADATA: Final = frozenset(
    {"major_brand", "minor_version", "compatible_brands", "encoder", "rotate", "duration"}
)


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Which part of a source is processed, and what decodes it."""

    start_s: float = 0.0
    """Seconds after the source's first picture."""
    end_s: float | None = None
    """Pictures at or after this time are left out."""
    max_frames: int | None = None
    vid_stride: int = 1
    """Every how many frames one is processed."""
    hwaccel: str | None = None
    """The GPU that decodes, "cuda" or "cuda:1"; None: the CPU. Neither stands in for the other."""

    def __post_init__(self) -> None:
        if self.start_s < 0:
            raise ValueError(f"start_s must not be negative, got {self.start_s}")
        if self.end_s is not None and self.end_s <= self.start_s:
            raise ValueError(f"end_s must lie after start_s, got {self.end_s} <= {self.start_s}")
        if self.max_frames is not None and self.max_frames < 1:
            raise ValueError(f"max_frames must be at least 1, got {self.max_frames}")
        if self.vid_stride < 1:
            raise ValueError(f"vid_stride must be at least 1, got {self.vid_stride}")
        if self.hwaccel is not None:
            parse_device(self.hwaccel)

    @property
    def whole(self) -> bool:
        """Whether every frame of the source is wanted."""
        return self == ReadOptions(hwaccel=self.hwaccel)


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What is known of a source once its first picture is decoded."""

    name: str
    """Fit to show: credentials in URLs are masked."""
    size_px: tuple[int, int]
    """(width, height) of the upright picture."""
    rate: Fraction
    """Nominal frames per second of what is processed."""
    time_base: Fraction
    is_live: bool = False
    is_image: bool = False
    frames: int | None = None
    """How many frames will come, estimated; None where nobody knows."""
    sample_aspect: Fraction = Fraction(1)
    tags: ColourTags = field(default_factory=ColourTags)
    metadata: dict[str, str] = field(default_factory=dict)
    stream_metadata: dict[str, str] = field(default_factory=dict)
    chapters: tuple[Chapter, ...] = ()
    copied: tuple[av.AudioStream | SubtitleStream, ...] = ()
    """The source's audio and subtitle streams, for a sink that copies them."""
    shift: int = 0
    """To be taken off every time in an output, in ticks: where ``start_s`` cut the source."""


@dataclass(slots=True)
class Damage:
    """What went wrong while a source was read; nothing of it ended the run."""

    undecodable_packets: int = 0
    damaged_frames: int = 0
    ended_early: str = ""
    times_made: int = 0
    times_moved: int = 0
    rescaled_frames: int = 0
    gaps: int = 0
    """How often a live source was lost."""
    away_s: float = 0.0
    """Seconds without it, summed over the gaps that ended."""
    held_frames: int = 0
    """Frames made up to bridge gaps."""
    late_frames: int = 0
    """Frames left out since they came after their place had been filled."""
    lost_packets: int = 0
    """Audio and subtitle packets that no longer fitted in after a gap."""

    def add(self, other: Damage) -> None:
        """Add what ``other`` counted; its reason for ending wins, if it has one."""
        for each in fields(self):
            if each.name != "ended_early":
                setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))
        self.ended_early = other.ended_early or self.ended_early

    def lines(self) -> list[str]:
        """Return one sentence per kind of damage, for a person."""
        counted = (
            (self.undecodable_packets, "packets could not be decoded"),
            (self.damaged_frames, "frames were decoded with errors"),
            (self.times_moved, "frames had a time not after their predecessor's; moved by a tick"),
            (self.rescaled_frames, "frames of another size were scaled to the first frame's"),
            (self.late_frames, "frames came too late and were left out"),
            (self.lost_packets, "packets of sound did not fit in after a gap; left out"),
        )
        lines = [f"{count} {what}" for count, what in counted if count]
        if self.gaps:
            times = "once" if self.gaps == 1 else f"{self.gaps} times"
            bridged = f"; {self.held_frames} frames bridged that" if self.held_frames else ""
            lines.append(f"the source was lost {times}, away for {self.away_s:.1f} s{bridged}")
        return [*lines, self.ended_early] if self.ended_early else lines


class MediaSource:
    """Iterate over the frames of one opened PyAV container (once), in display order.

    Everything the tail of a file can do wrong is counted in ``damage`` instead of raised, as long
    as one picture came out; a container without any picture raises SourceError on construction.
    Packets of audio and subtitle streams ride on the frame that follows them; those after the
    last frame are in ``tail_packets`` once iteration ended.
    """

    def __init__(
        self,
        container: InputContainer,
        name: str,
        options: ReadOptions,
        *,
        is_live: bool = False,
        stream: int = 0,
        silence_s: float | None = None,
    ) -> None:
        """silence_s: a live source that gives packets but no picture for so long has ended."""
        self._container = container
        self._silence_s = silence_s
        self._options = options
        self._stream_number = stream
        self.damage = Damage()
        self.tail_packets: tuple[Packet, ...] = ()
        self.exhausted = False
        """Whether the input itself gave no more, rather than that no more was asked for."""
        self.in_bursts = container.format.name in PLAYLIST_FORMATS
        """Whether pictures come a segment at a time rather than when they are due."""
        self._last: av.VideoFrame | None = None
        self._pending: list[Packet] = []
        self._discarded = 0
        self._refused_key_frames = 0
        """Key frames in a row that could not be decoded."""
        self._copied = _streams_to_copy(container)
        self._video = _pick_video(container, name)
        if options.hwaccel is None:
            set_threads(self._video)
        else:
            check_stream(self._video, name, options.hwaccel)
        self._packets = self._demux()
        self._decoded = self._decode()
        first = next(self._decoded, None)
        if first is None:
            raise SourceError(self._no_picture(name))
        if options.hwaccel is not None:
            check_frame(first, name, options.hwaccel)
        self._first: av.VideoFrame | None = first
        self._turn = orientation(first)
        self.info = self._describe(first, name, is_live=is_live)

    def _no_picture(self, name: str) -> str:
        reason = self.damage.ended_early or "it holds no picture that can be decoded"
        hwaccel = self._options.hwaccel
        if hwaccel is None:
            return f"cannot read {name}: {reason}"
        return f"cannot read {name} on {hwaccel}: {reason}; {CPU_INSTEAD}"

    def _describe(self, first: av.VideoFrame, name: str, *, is_live: bool) -> StreamInfo:
        video, container = self._video, self._container
        rate = plausible_rate(video.guessed_rate, video.average_rate, video.base_rate)
        # RTSP gives its first pictures no time, but all that follow.
        timed = first.pts is not None or is_live
        time_base = fraction(video.time_base) if timed and video.time_base else 1 / rate
        self._start_pts = first.pts or 0
        self._clock = FrameClock(time_base, rate)
        stride = self._options.vid_stride
        aspect = fraction(first_sar) if (first_sar := video.sample_aspect_ratio) else Fraction(1)
        self._expected = video.frames
        is_image = container.format.name in IMAGE_FORMATS and video.frames <= 1
        shift = round(Fraction(self._options.start_s) / time_base) if self._options.start_s else 0
        return StreamInfo(
            name=name,
            size_px=self._turn.size_px(first.width, first.height),
            rate=rate / stride,
            time_base=time_base,
            is_live=is_live,
            is_image=is_image,
            frames=1 if is_image else None if is_live else self._estimate(time_base, rate),
            sample_aspect=1 / aspect if self._turn.transpose else aspect,
            tags=tags_of(first),
            metadata=_kept(container.metadata),
            stream_metadata=_kept(video.metadata),
            chapters=tuple(container.chapters()) if self._options.whole else (),
            copied=self._copied,
            shift=self._start_pts + shift if shift else 0,
        )

    def _estimate(self, time_base: Fraction, rate: Fraction) -> int | None:
        video, options = self._video, self._options
        total = video.frames
        if not total:
            if video.duration:
                seconds = float(video.duration * time_base)
            elif self._container.duration:
                seconds = self._container.duration / av.time_base
            else:
                return options.max_frames
            total = max(1, round(seconds * rate))
        per_s = float(rate)
        last = total if options.end_s is None else min(total, round(options.end_s * per_s))
        count = -(-max(0, last - round(options.start_s * per_s)) // options.vid_stride)
        return count if options.max_frames is None else min(count, options.max_frames)

    def __iter__(self) -> Iterator[Frame]:
        at_most = self._options.max_frames
        for index, (decoded, pts) in enumerate(self._wanted()):
            frame = self._to_frame(decoded, index, pts)
            self._note_clock()
            yield frame
            if index + 1 == at_most:
                break
        else:
            self._check_complete(self._seen)
        self._note_clock()
        self.tail_packets = tuple(self._take_packets())

    def _wanted(self) -> Iterator[tuple[av.VideoFrame, int]]:
        """Yield (decoded frame, its time in ticks) of those that were asked for."""
        options, time_base = self._options, self.info.time_base
        self._seen, chosen = 0, 0
        for decoded in self._from_start():
            self._seen += 1
            if decoded.is_corrupt:
                self.damage.damaged_frames += 1
            pts = self._clock.next(decoded.pts)
            time_s = float((pts - self._start_pts) * time_base)
            # Half a tick of slack: a time given in decimals rarely hits a tick exactly.
            slack_s = float(time_base) / 2
            if time_s < options.start_s - slack_s:
                continue
            if options.end_s is not None and time_s >= options.end_s - slack_s:
                return
            if chosen % options.vid_stride == 0:
                yield decoded, pts
            chosen += 1

    def _from_start(self) -> Iterator[av.VideoFrame]:
        first, self._first = self._first, None
        if first is None:
            raise ValueError("a MediaSource can be iterated once")
        if self._options.start_s > 0 and not self.info.is_live and self._seek():
            yield from self._decoded
            return
        yield first
        del first
        yield from self._decoded

    def _seek(self) -> bool:
        """Jump to the key frame before ``start_s``; False where the container cannot."""
        if self._video.start_time is None:
            return False
        target = self._start_pts + int(Fraction(self._options.start_s) / self.info.time_base)
        with suppress(av.FFmpegError):
            self._container.seek(target, stream=self._video, backward=True)
            self._pending.clear()
            self._packets = self._demux()
            self._decoded = self._decode()
            return True
        return False

    def _to_frame(self, decoded: av.VideoFrame, index: int, pts: int) -> Frame:
        planes = to_planes(decoded, self._turn)
        if planes.size_px != self.info.size_px:
            self.damage.rescaled_frames += 1
            planes = fitted(planes, self.info.size_px, planes.colour)
        self._last = decoded
        duration = getattr(decoded, "duration", None) or 0
        return Frame(
            stream=self._stream_number,
            index=index,
            pts=pts,
            time_base=self.info.time_base,
            planes=planes,
            duration=int(duration) * self._options.vid_stride or self._clock.frame_ticks,
            captured_s=time.monotonic(),
            packets=tuple(self._take_packets()),
            device=device_planes(decoded, self._turn, self.info.size_px),
        )

    def last_picture(self) -> Planes | None:
        """Return the picture of the last frame once more, as it was, or None before the first.

        For any thread, as long as no other one closes the source meanwhile.
        """
        last = self._last
        return None if last is None else to_planes(last, self._turn)

    def _take_packets(self) -> list[Packet]:
        taken, self._pending = self._pending, []
        return [packet for packet in taken if self._in_range(packet)]

    def _in_range(self, packet: Packet) -> bool:
        options = self._options
        when = packet.pts if packet.pts is not None else packet.dts
        if options.whole or when is None or packet.time_base is None:
            return True
        time_s = float(when * fraction(packet.time_base))
        time_s -= float(self._start_pts * self.info.time_base)
        # Sound may begin before the first picture (a codec's priming, say); only a cut drops it.
        started = not options.start_s or time_s >= options.start_s
        return started and (options.end_s is None or time_s < options.end_s)

    def _demux(self) -> Iterator[Packet]:
        return self._container.demux([self._video, *self._copied])

    def _demux_safely(self) -> Iterator[Packet]:
        """Yield packets up to the end, or to what cannot be read."""
        while True:
            try:
                packet = next(self._packets, None)
            except av.FFmpegError as exc:
                self.damage.ended_early = f"reading ended early: {_reason(exc)}"
                return
            if packet is None:
                return
            yield packet

    def _keep(self, packet: Packet) -> None:
        if packet.size and (packet.dts is not None or packet.pts is not None):
            self._pending.append(packet)

    def _decode(self) -> Iterator[av.VideoFrame]:
        yield from self._pictures()
        self.exhausted = True

    def _pictures(self) -> Iterator[av.VideoFrame]:
        seen_s = time.monotonic()
        for packet in self._demux_safely():
            if self._silence_s is not None and time.monotonic() - seen_s > self._silence_s:
                self.damage.ended_early = f"no picture came for {self._silence_s:g} s"
                return
            if packet.stream is not self._video:
                self._keep(packet)
                continue
            self._discarded += packet.is_discard
            frames = self._pictures_of(packet)
            if self._options.hwaccel is not None and self._refused_key_frames >= _MAX_REFUSED:
                return
            yield from frames
            if frames:
                seen_s = time.monotonic()

    def _pictures_of(self, packet: Packet) -> list[av.VideoFrame]:
        try:
            frames: list[av.VideoFrame] = packet.decode()
        except av.FFmpegError as exc:
            if not isinstance(exc, EOFError):
                self.damage.undecodable_packets += 1
                _log.debug("packet not decodable: %s", exc)
                self._refused_key_frames += packet.is_keyframe
            return []
        if frames:
            self._refused_key_frames = 0
        return frames

    def copied_packets(self) -> Iterator[Packet]:
        """Yield the packets of the copied streams, decoding no picture; instead of iterating."""
        yield from self._take_packets()
        for packet in self._demux_safely():
            if packet.stream is not self._video:
                self._keep(packet)
                yield from self._take_packets()

    def _note_clock(self) -> None:
        self.damage.times_made, self.damage.times_moved = self._clock.missing, self._clock.moved

    def _check_complete(self, position_end: int) -> None:
        """Say so where the container promised more frames than could be decoded."""
        options = self._options
        cut = options.start_s or options.end_s is not None or self.info.is_live
        if cut or self.damage.ended_early or self._expected <= position_end:
            return
        # An edit list hides frames that its header counts.
        missing = self._expected - position_end - self._discarded
        # Containers count a last empty or hidden frame now and then; that is no damage.
        if missing > max(1, self._expected // 200):
            self.damage.ended_early = (
                f"ends early: {position_end} of the {self._expected} frames its header "
                "promises could be decoded"
            )

    def close(self) -> None:
        """Close the container; frames that were handed out stay valid, copied streams do not."""
        self._pending.clear()
        # A camera's last picture may lie in memory that goes with the device.
        self._last = None
        self._container.close()


def _streams_to_copy(
    container: InputContainer,
) -> tuple[av.AudioStream | SubtitleStream, ...]:
    audio = tuple(s for s in container.streams.audio if s.codec_context is not None)
    return (*audio, *container.streams.subtitles)


def _pick_video(container: InputContainer, name: str) -> av.VideoStream:
    from av.stream import Disposition

    pictures = [
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic
    ]
    if not pictures or container.format.name in _NOT_VIDEO:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "no streams"
        raise SourceError(f"cannot read {name}: it holds no video (only {kinds})")
    best = max(pictures, key=lambda stream: stream.width * stream.height)
    default = [stream for stream in pictures if stream.disposition & Disposition.default]
    chosen = default[0] if default else best
    if chosen.codec_context is None:
        raise SourceError(f"cannot read {name}: there is no decoder for its video codec")
    return chosen


def set_threads(video: av.VideoStream) -> None:
    """Choose the decoder's threads: one up to 1080p, else at most four."""
    context = video.codec_context
    if context.width * context.height <= _ONE_THREAD_PIXELS:
        context.thread_count = 1
        return
    import os

    context.thread_type = "AUTO"
    context.thread_count = min(_MAX_DECODE_THREADS, os.cpu_count() or 1)


def _kept(metadata: dict[str, str]) -> dict[str, str]:
    return {k: v for k, v in metadata.items() if k.lower() not in _DROPPED_METADATA}


def fraction(value: object) -> Fraction:
    """Return one of PyAV's rationals, whose kind depends on its version, as a fraction."""
    return Fraction(value.numerator, value.denominator)  # type: ignore[attr-defined]


def _reason(exc: av.FFmpegError) -> str:
    if isinstance(exc, av.error.ExitError):  # how FFmpeg calls a time-out of PyAV's
        return "nothing came within the time-out"
    return (exc.strerror or str(exc) or type(exc).__name__).strip()
