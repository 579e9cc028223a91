"""Write frames to video and image files: whole under their final name, or not at all."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Protocol

import av

from streamface.atomic import AtomicPath, sink_error
from streamface.encode import (
    VIDEO_SUFFIX_CODECS,
    AudioTranscoder,
    VideoOptions,
    choose_codec,
    encoder_options,
    needs_even_size,
)
from streamface.errors import SinkError, UsageError
from streamface.pixels import to_av

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from collections.abc import Set as AbstractSet
    from fractions import Fraction
    from pathlib import Path

    from av.container import OutputContainer

    from streamface.decode import StreamInfo
    from streamface.frame import Frame, Packet
    from streamface.sources import Input

_log = logging.getLogger(__name__)

_IMAGE_FORMATS: Final = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
IMAGE_SUFFIXES: Final = frozenset(_IMAGE_FORMATS)
# Of JPEG and WebP; PNG loses nothing.
_IMAGE_QUALITY: Final = 95
# What players read of it.
MPEGTS_CODECS: Final = frozenset(
    "h264 hevc mpeg1video mpeg2video mpeg4 aac ac3 eac3 mp2 mp3 opus dts dvb_subtitle".split()
)
# Matroska writes the stream's own pixel aspect ratio, which PyAV cannot set; these codecs have no
# room for it in their bit stream, as H.264 and H.265 do.
_SQUARE_IN_MATROSKA: Final = frozenset({"libvpx", "libvpx-vp9", "libsvtav1", "libaom-av1", "ffv1"})
_MUXER_OPTIONS: Final = {
    # The index goes to the front, so that a browser plays the file while it loads.
    ".mp4": {"movflags": "+faststart"},
    ".m4v": {"movflags": "+faststart"},
    ".mov": {"movflags": "+faststart"},
}


class Sink(Protocol):
    """Takes the frames of one source, in order."""

    @property
    def warnings(self) -> list[str]:
        """What could not be carried over, one sentence each."""

    def write(self, frame: Frame) -> None:
        """Write one frame with the packets it carries. Raises SinkError."""

    def close(self, tail_packets: Sequence[Packet] = ()) -> None:
        """Finish the file and give it its final name. Raises SinkError."""

    def abort(self) -> None:
        """Remove what was written; does nothing after ``close``."""


class Encoding:
    """Frames and the packets they carry into one opened container.

    Every frame keeps its presentation time (variable rates included). Audio and subtitle packets
    are copied where the container can carry them; other audio is re-encoded, other subtitles are
    left out, each with a line in ``warnings``. Packets are not changed, so several sinks may take
    the same frame.
    """

    def __init__(
        self,
        container: OutputContainer,
        what: str,
        info: StreamInfo,
        options: VideoOptions,
        codec: str,
        *,
        known: AbstractSet[str] | None = None,
        encode: Callable[[av.VideoFrame | None], None] | None = None,
    ) -> None:
        """Add the streams; nothing is written yet.

        what: the kind of output, as "a .mp4 file". known: the codecs it can carry; None: ask it.
        encode: what is done with pictures, and at the end with None; None: ``encode_and_mux``.
        Raises UsageError where ``codec`` does not fit.
        """
        self.container = container
        self._encode = encode or self.encode_and_mux
        self.warnings: list[str] = []
        self._what = what
        self.info = info
        self._even = needs_even_size(codec)
        if known is None:
            known = container.supported_codecs
        settings = encoder_options(codec, options, rate=info.rate)
        if known and av.Codec(codec, "w").canonical_name not in known:
            raise UsageError(f"{what} cannot carry {codec}; choose another --codec")
        if options.metadata:
            container.metadata.update(info.metadata)
        if options.comment is not None:
            container.metadata["comment"] = options.comment
        self.stream = self._add_video(codec, settings, metadata=options.metadata)
        self._copies: dict[int, Any] = {}
        self._transcoders: dict[int, AudioTranscoder] = {}
        for source in info.copied if options.audio else ():
            self._add_copied(source, known)
        if info.chapters and options.metadata:
            container.set_chapters(list(info.chapters))

    def _add_video(self, codec: str, settings: dict[str, str], *, metadata: bool) -> av.VideoStream:
        info = self.info
        width, height = info.size_px
        # SVT-AV1 describes itself on stderr, unless told to name errors only.
        os.environ.setdefault("SVT_LOG", "1")
        stream: Any = self.container.add_stream(codec, rate=info.rate, options=settings)
        stream.width = width + width % 2 if self._even else width
        stream.height = height + height % 2 if self._even else height
        stream.pix_fmt = "yuv420p"
        stream.time_base = info.time_base
        if metadata:
            stream.metadata.update(info.stream_metadata)
        context = stream.codec_context
        context.time_base = info.time_base
        context.sample_aspect_ratio = info.sample_aspect
        context.colorspace = info.tags.space
        context.color_range = info.tags.range
        context.color_primaries = info.tags.primaries
        context.color_trc = info.tags.transfer
        # Opened now, so that a wrong setting is an error before the first frame, not after it.
        try:
            context.open()
        except (av.FFmpegError, ValueError) as exc:
            given = ", ".join(f"{key} {value}" for key, value in settings.items())
            raise UsageError(
                f"the encoder {codec} refuses a {stream.width}x{stream.height} yuv420p video "
                f"with {given or 'its own settings'}; choose another --codec, --crf or --preset"
            ) from exc
        matroska = {"matroska", "webm"} & set(self.container.format.name.split(","))
        if info.sample_aspect != 1 and matroska and codec in _SQUARE_IN_MATROSKA:
            self.warnings.append(
                f"the pixels of the source are {info.sample_aspect} as wide as high, which "
                f"{self._what} of {codec} cannot say; an .mp4 can"
            )
        opened: av.VideoStream = stream
        return opened

    @property
    def copies(self) -> bool:
        """Whether anything goes along with the pictures."""
        return bool(self._copies or self._transcoders)

    def _add_copied(self, source: Any, known: AbstractSet[str]) -> None:
        name = source.codec_context.codec.canonical_name
        if not known or name in known:
            self._copies[source.index] = self.container.add_stream_from_template(source)
        elif source.type == "audio":
            codec = "libopus" if self.container.format.name == "webm" else "aac"
            if known and av.Codec(codec, "w").canonical_name not in known:
                self.warnings.append(f"{self._what} cannot carry sound; left out")
                return
            self._transcoders[source.index] = AudioTranscoder(self.container, source, codec)
            self.warnings.append(f"{self._what} cannot carry {name} audio; re-encoded as {codec}")
        else:
            self.warnings.append(
                f"{self._what} cannot carry {name} subtitles; left out (an .mkv keeps them)"
            )

    def write(self, frame: Frame) -> None:
        """Encode one frame; its planes must have the size of the source's first frame."""
        picture = to_av(frame.planes, even=self._even)
        picture.pts = frame.pts - self.info.shift
        picture.time_base = frame.time_base
        picture.colorspace = self.info.tags.space
        picture.color_range = self.info.tags.range
        if frame.duration and hasattr(picture, "duration"):
            picture.duration = frame.duration
        self.mux_packets(frame.packets)
        self._encode(picture)

    def begin_at(self, pts: int) -> None:
        """Let the output's time 0 be this time of the source; to be called before ``write``."""
        self.info = replace(self.info, shift=pts)

    def encode_and_mux(self, picture: av.VideoFrame | None) -> None:
        """Encode a picture, or what the encoder holds back at the end, into the container."""
        self.container.mux(self.stream.encode(picture))

    def mux_packets(self, packets: Iterable[Packet]) -> None:
        """Add packets of sound and subtitles, as the source gave them."""
        for packet in packets:
            index = packet.stream_index
            if index in self._transcoders:
                self._transcode(index, self._shifted(packet))
            elif index in self._copies:
                copied = self._shifted(packet)
                copied.stream = self._copies[index]
                self.container.mux_one(copied)

    def _transcode(self, index: int, packet: Packet) -> None:
        try:
            self.container.mux(list(self._transcoders[index].packets(packet)))
        except av.error.InvalidDataError as exc:
            _log.debug("audio packet not decodable: %s", exc)

    def _shifted(self, packet: Packet) -> Packet:
        """Return a copy with the times of the output."""
        # Over memory of its own: before PyAV 18 a packet made of a buffer does not keep that alive
        # while the muxer waits with it.
        copied: Packet = av.Packet(packet.size)
        copied.update(bytes(packet))
        copied.time_base = packet.time_base
        copied.pts = packet.pts if packet.pts is not None else packet.dts
        copied.dts = packet.dts if packet.dts is not None else packet.pts
        copied.duration = packet.duration
        copied.is_keyframe = packet.is_keyframe
        for side_data in packet.iter_sidedata():
            copied.set_sidedata(side_data, move=True)
        if self.info.shift and copied.pts is not None and copied.dts is not None:
            base: Fraction = self.info.time_base
            ticks = round(self.info.shift * base / copied.time_base)
            copied.pts -= ticks
            copied.dts -= ticks
        return copied

    def finish(self, tail_packets: Sequence[Packet] = ()) -> None:
        """Flush the encoder, write the trailer and close the container."""
        self.mux_packets(tail_packets)
        self._encode(None)
        for transcoder in self._transcoders.values():
            self.container.mux(list(transcoder.packets(None)))
        self.container.close()

    def close_quietly(self) -> None:
        """Close the container, whatever became of it."""
        close_quietly(self.container)


def close_quietly(container: OutputContainer) -> None:
    """Close a container that is given up."""
    with suppress(av.FFmpegError, OSError, ValueError):
        container.close()


class VideoSink:
    """Encodes frames to MP4, MKV, WebM …, with the source's times, sound and metadata.

    See ``Encoding`` for what is kept. Pictures are 8-bit 4:2:0; an odd size is padded by one
    repeated column or row where the encoder wants even sizes.

    Raises UsageError where the file exists already or the codec does not fit, SinkError where it
    cannot be created.
    """

    def __init__(self, target: Path, info: StreamInfo, options: VideoOptions) -> None:
        codec = choose_codec(target.suffix, options)
        encoder_options(codec, options)  # a wrong preset is said before a file is made
        self._file = AtomicPath(target, overwrite=options.overwrite)
        try:
            container = self._open_container()
            try:
                # Its muxer has no list of codecs that could be asked.
                known = MPEGTS_CODECS if container.format.name == "mpegts" else None
                what = f"a {target.suffix} file"
                self._encoding = Encoding(
                    container, what, info, options, codec, known=known, encode=self._encode
                )
            except BaseException:
                close_quietly(container)
                raise
        except BaseException as exc:
            self._file.discard()
            if isinstance(exc, (av.FFmpegError, OSError, ValueError)):
                raise sink_error(target, exc) from exc
            raise
        self.warnings = self._encoding.warnings

    def _open_container(self) -> OutputContainer:
        suffix = self._file.target.suffix.lower()
        options = _MUXER_OPTIONS.get(suffix, {})
        try:
            return av.open(str(self._file.temporary), "w", options=options)
        except ValueError as exc:
            if isinstance(exc, av.FFmpegError):
                raise
            known = " ".join(VIDEO_SUFFIX_CODECS)
            raise UsageError(f"cannot write a {suffix} video; use one of {known}") from exc

    @property
    def copies(self) -> bool:
        """Whether anything goes along with the pictures."""
        return self._encoding.copies

    def _encode(self, picture: av.VideoFrame | None) -> None:
        """Encode a picture, or what the encoder holds back at the end."""
        self._encoding.encode_and_mux(picture)

    def begin_at(self, pts: int) -> None:
        """Let the file's time 0 be this time of the source; to be called before ``write``."""
        self._encoding.begin_at(pts)

    def write(self, frame: Frame) -> None:
        """Encode one frame; its planes must have the size of the source's first frame."""
        try:
            self._encoding.write(frame)
        except (av.FFmpegError, OSError, ValueError) as exc:
            raise sink_error(self._file.target, exc) from exc

    def close(self, tail_packets: Sequence[Packet] = ()) -> None:
        """Flush the encoder, write the trailer, give the file its name. Raises SinkError."""
        try:
            self._encoding.finish(tail_packets)
        except (av.FFmpegError, OSError, ValueError) as exc:
            self.abort()
            raise sink_error(self._file.target, exc) from exc
        self._file.publish()

    def abort(self) -> None:
        """Close and remove the unfinished file."""
        self._encoding.close_quietly()
        self._file.discard()


class ImageSink:
    """Writes one picture as JPEG, PNG or WebP. Raises UsageError for a source that has more."""

    def __init__(self, target: Path, info: StreamInfo, *, overwrite: bool) -> None:
        self.warnings: list[str] = []
        self._written = False
        if info.is_live or (info.frames or 1) > 1:
            raise UsageError(f"{target} holds one picture; write a video as .mp4, .mkv or .webm")
        self._file = AtomicPath(target, overwrite=overwrite)

    def write(self, frame: Frame) -> None:
        """Encode the frame. Raises SinkError on a second one: a picture holds just one."""
        from PIL import Image

        target = self._file.target
        if self._written:
            raise SinkError(f"{target} holds one picture, but the source has more; use .mp4")
        kind = _IMAGE_FORMATS[target.suffix.lower()]
        try:
            picture = Image.fromarray(frame.planes.to_rgb())
            picture.save(self._file.temporary, kind, quality=_IMAGE_QUALITY)
        except (OSError, ValueError) as exc:  # WebP ends at 16383 pixels a side, JPEG at 65500
            raise sink_error(target, exc) from exc
        self._written = True

    def close(self, tail_packets: Sequence[Packet] = ()) -> None:  # noqa: ARG002 - the Sink shape
        """Give the file its final name."""
        if self._written:
            self._file.publish()
        else:
            self._file.discard()

    def abort(self) -> None:
        """Remove the unfinished file."""
        self._file.discard()


def plan_outputs(output: Path, inputs: Sequence[Input]) -> list[Path]:
    """Return the file each input is written to, in order, before anything is opened.

    One input and an ``output`` with an extension: that file. Several inputs, or an ``output``
    that is a folder or has no extension: a folder (made if need be) with files of the inputs' own
    names; formats that cannot be written become .mp4 (video) or .png (image). Raises UsageError
    where two inputs would get one name or an output is its own input.
    """
    folder = output.is_dir() or len(inputs) > 1 or not (output.suffix or output.exists())
    targets = [output / _output_name(each) for each in inputs] if folder else [output]
    seen: dict[Path, Input] = {}
    for each, target in zip(inputs, targets, strict=True):
        if target in seen:
            raise UsageError(f"{seen[target].name} and {each.name} would both become {target}")
        seen[target] = each
        if each.path is not None and target.exists() and target.samefile(each.path):
            raise UsageError(f"{target} is the source itself; choose another --output")
    if folder and not output.is_dir():
        if output.suffix.lower() in VIDEO_SUFFIX_CODECS.keys() | IMAGE_SUFFIXES:
            raise UsageError(
                f"{len(inputs)} inputs need a folder as --output, but {output} is named like a file"
            )
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise sink_error(output, exc) from exc
    return targets


def _output_name(each: Input) -> str:
    from streamface.sources import IMAGE_SUFFIXES as READABLE_IMAGES

    path = PurePosixPath(each.location) if each.kind == "object" else each.path
    if path is None:
        return "".join(c if c.isalnum() else "_" for c in each.name).strip("_") + ".mp4"
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIX_CODECS or suffix in IMAGE_SUFFIXES:
        return path.name
    return path.stem + (".png" if suffix in READABLE_IMAGES else ".mp4")


def open_sink(target: Path, info: StreamInfo, options: VideoOptions) -> Sink:
    """Open the sink that ``target``'s extension asks for. Raises UsageError, SinkError."""
    if target.suffix.lower() in IMAGE_SUFFIXES:
        return ImageSink(target, info, overwrite=options.overwrite)
    return VideoSink(target, info, options)
