"""Which encoder, with which options, for which file; and sound that a container cannot carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import av

from streamface.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from fractions import Fraction

    from av.container import OutputContainer

    from streamface.frame import Packet

VIDEO_SUFFIX_CODECS: Final = {
    ".mp4": "libx264",
    ".m4v": "libx264",
    ".mov": "libx264",
    ".mkv": "libx264",
    ".ts": "libx264",
    ".webm": "libvpx-vp9",
}
_ALIASES: Final = {
    "h264": "libx264",
    "avc": "libx264",
    "x264": "libx264",
    "h265": "libx265",
    "hevc": "libx265",
    "x265": "libx265",
    "vp8": "libvpx",
    "vp9": "libvpx-vp9",
    "av1": "libsvtav1",
}
# 4:2:0 pictures of odd size: these encoders take them as they are, all others want even sizes.
_TAKES_ODD_SIZES: Final = frozenset({"libvpx", "libvpx-vp9", "ffv1", "mpeg4", "mjpeg"})
_DEFAULT_CRF: Final = {
    "libx264": 20,
    "libx265": 23,
    "libvpx-vp9": 31,
    "libvpx": 10,
    "libsvtav1": 32,
}
_DEFAULT_PRESET: Final = {"libx264": "veryfast", "libx265": "veryfast", "libsvtav1": "9"}
_X26X_PRESETS: Final = (
    "ultrafast superfast veryfast faster fast medium slow slower veryslow placebo".split()
)
# Asked here and not of the encoder, since x264 says more on stderr than our one line.
_PRESETS: Final = {
    "libx264": _X26X_PRESETS,
    "libx265": _X26X_PRESETS,
    "libsvtav1": [str(speed) for speed in range(14)],
    "libvpx": [str(speed) for speed in range(-16, 17)],
    "libvpx-vp9": [str(speed) for speed in range(-8, 9)],
}
# Whoever joins a live stream waits so long for a picture at most.
_KEY_EVERY_S: Final = 2
# What AAC can carry (ISO/IEC 14496-3, table 1.18).
_AAC_RATES_HZ: Final = frozenset(
    {7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000}
)


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """How video is written."""

    codec: str | None = None
    """An FFmpeg encoder or h264, hevc, vp9, av1; None: by the file's extension."""
    crf: float | None = None
    """Constant rate factor, 0..63, lower is better; None: the codec's default here."""
    preset: str | None = None
    """Speed preset in the codec's own words; None: the codec's default here."""
    audio: bool = True
    """Whether audio and subtitle streams are kept."""
    metadata: bool = True
    """Whether the source's metadata and chapters are kept."""
    comment: str | None = None
    """Written to the container's metadata: what was done to the pictures."""
    overwrite: bool = False
    live: bool = False
    """Whether somebody watches while it is written: no look-ahead, key frames close together."""

    def __post_init__(self) -> None:
        if self.crf is not None and not 0 <= self.crf <= 63:
            raise ValueError(f"crf must be 0..63, got {self.crf:g}")


def choose_codec(suffix: str, options: VideoOptions) -> str:
    """Return the encoder's FFmpeg name. Raises UsageError where there is none for that."""
    suffix = suffix.lower()
    if options.codec is None:
        if suffix not in VIDEO_SUFFIX_CODECS:
            known = " ".join(VIDEO_SUFFIX_CODECS)
            raise UsageError(f"cannot write a {suffix or 'nameless'} video; use one of {known}")
        return VIDEO_SUFFIX_CODECS[suffix]
    name = _ALIASES.get(options.codec.lower(), options.codec)
    try:
        codec = av.Codec(name, "w")
    except (av.FFmpegError, ValueError) as exc:
        raise UsageError(
            f"no encoder named '{options.codec}'; use h264, hevc, vp9, av1 or an FFmpeg encoder"
        ) from exc
    if codec.type != "video":
        raise UsageError(f"'{options.codec}' encodes {codec.type}, not video")
    return name


def needs_even_size(codec: str) -> bool:
    """Whether ``codec`` refuses 4:2:0 pictures of odd width or height."""
    return codec not in _TAKES_ODD_SIZES


def encoder_options(
    codec: str, options: VideoOptions, *, rate: Fraction | None = None
) -> dict[str, str]:
    """Return the FFmpeg options of an encoder for the asked quality and speed.

    rate: frames per second, for the distance of a live stream's key frames. Raises UsageError
    for a preset that the encoder does not have.
    """
    presets = _PRESETS.get(codec)
    if presets and options.preset is not None and options.preset not in presets:
        first, last = presets[0], presets[-1]
        raise UsageError(f"{codec} has no preset '{options.preset}'; use {first} to {last}")
    crf = options.crf if options.crf is not None else _DEFAULT_CRF.get(codec)
    preset = options.preset if options.preset is not None else _DEFAULT_PRESET.get(codec)
    chosen: dict[str, str] = {}
    if options.live:
        chosen["g"] = str(max(1, round(_KEY_EVERY_S * (rate or 25))))
    if crf is not None:
        chosen["cq" if codec.endswith("_nvenc") else "crf"] = f"{crf:g}"
    if codec in ("libvpx", "libvpx-vp9"):
        # Without b=0 libvpx caps the bit rate at a default; "good" at cpu-used 5 keeps up live.
        deadline = "realtime" if options.live else "good"
        chosen |= {"b": "0", "deadline": deadline, "cpu-used": preset or "5", "row-mt": "1"}
        return chosen
    if options.live and codec in ("libx264", "libx265"):
        # No look-ahead and no B-frames: each frame leaves the encoder as it comes.
        chosen["tune"] = "zerolatency"
    if preset is not None:
        chosen["preset"] = preset
    if codec == "libx265":
        chosen["x265-params"] = "log-level=error"
    if codec == "mpeg4" and options.crf is None:
        chosen["qscale"] = "4"
    return chosen


def _decoder_like(context: Any) -> Any:
    """Return another decoder of what an audio stream's own decoder is for."""
    decoder: Any = av.CodecContext.create(context.codec.name, "r")
    decoder.extradata = context.extradata
    decoder.sample_rate, decoder.layout = context.sample_rate, context.layout
    if context.format is not None:
        decoder.format = context.format
    return decoder


class AudioTranscoder:
    """Re-encodes one audio stream for a container that cannot carry its codec.

    Its decoder is its own: a source may be re-encoded for several outputs.
    """

    def __init__(self, container: OutputContainer, source: av.AudioStream, codec: str) -> None:
        context = source.codec_context
        self._decoder = _decoder_like(context)
        fits = codec != "libopus" and context.sample_rate in _AAC_RATES_HZ
        rate = context.sample_rate if fits else 48_000
        stream: Any = container.add_stream(codec, rate=rate)
        stream.codec_context.layout = "mono" if context.layout.nb_channels == 1 else "stereo"
        stream.codec_context.open()
        self._stream = stream
        self._resampler = av.AudioResampler(
            format=stream.codec_context.format,
            layout=stream.codec_context.layout,
            rate=rate,
            frame_size=stream.codec_context.frame_size or None,
        )

    def packets(self, packet: Packet | None) -> Iterator[Packet]:
        """Yield the re-encoded packets that one source packet (None: the end) completes."""
        # The decoder goes first at the end, too: some hold frames back.
        frames: list[Any] = list(self._decoder.decode(packet))
        if packet is None:
            frames.append(None)
        for frame in frames:
            for resampled in self._resampler.resample(frame):
                yield from self._stream.encode(resampled)
        if packet is None:
            yield from self._stream.encode(None)
