"""Outputs for those who watch live: streams sent to a server, and HLS in a folder."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import av

from streamface.atomic import sink_error
from streamface.encode import VideoOptions, choose_codec
from streamface.errors import SinkError, UsageError
from streamface.network import Backoff
from streamface.pushing import ENVIRONMENT, NEVER_CONNECTED
from streamface.sinks import MPEGTS_CODECS, Encoding, close_quietly
from streamface.sources import redacted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from collections.abc import Set as AbstractSet

    from streamface.decode import StreamInfo
    from streamface.frame import Frame, Packet

_log = logging.getLogger(__name__)

_RTP_CODECS: Final = frozenset(
    "h264 hevc vp8 vp9 mpeg4 mjpeg aac mp3 opus pcm_alaw pcm_mulaw".split()
)


@dataclass(frozen=True, slots=True)
class _Protocol:
    """How a stream is packed for a kind of server."""

    format: str
    known: AbstractSet[str]
    options: dict[str, str]


_FLV: Final = _Protocol(
    "flv", frozenset({"h264", "aac", "mp3"}), {"flvflags": "no_duration_filesize"}
)
_RTSP: Final = _Protocol("rtsp", _RTP_CODECS, {"rtsp_transport": "tcp"})
_TS: Final = _Protocol("mpegts", MPEGTS_CODECS, {})
_PROTOCOLS: Final = {
    "rtmp": _FLV,
    "rtmps": _FLV,
    "rtsp": _RTSP,
    "rtsps": _RTSP,
    "udp": _TS,
    "tcp": _TS,
    "srt": _TS,
    "rtp": _Protocol("rtp_mpegts", MPEGTS_CODECS, {}),
}
_WRITE_TIMEOUT_S: Final = 5.0
_SEGMENT_S: Final = 2
_SEGMENTS_LISTED: Final = 6
# Sound that does not come must not hold back pictures for FFmpeg's ten seconds.
_MUXING: Final = {"flush_packets": "1", "max_interleave_delta": "500000"}


def is_push(output: str) -> bool:
    """Whether an output is the URL of a server."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", output) is not None


def push_name(url: str) -> str:
    """Return a URL fit to show: the last part of an RTMP one is the key to the channel."""
    name = redacted(url)
    if name.lower().startswith("rtmp"):
        name = re.sub(r"([^:/]/[^/]+)/[^/]+$", r"\1/***", name)
    return name


def shown(output: Path | str) -> str:
    """Return an output fit to show."""
    return push_name(output) if isinstance(output, str) else str(output)


class _Pipe:
    """A file that PyAV writes to: the stdin of a process, with a limit to waiting."""

    def __init__(self, process: subprocess.Popen[bytes], timeout_s: float) -> None:
        assert process.stdin is not None, "it was opened with a pipe"
        self._fd = process.stdin.fileno()
        self._timeout_s = timeout_s
        # Windows has such pipes from Python 3.12 on; before that a dead server is waited for.
        with suppress(AttributeError, OSError):
            os.set_blocking(self._fd, False)

    def write(self, data: bytes) -> int:
        """Write everything. Raises TimeoutError where nothing was taken for too long."""
        view = memoryview(bytes(data))
        until_s = time.monotonic() + self._timeout_s
        while view:
            try:
                view = view[os.write(self._fd, view) :]
                until_s = time.monotonic() + self._timeout_s
            except BlockingIOError:
                if time.monotonic() > until_s:
                    raise TimeoutError(f"it took nothing for {self._timeout_s:g} s") from None
                time.sleep(0.005)
        return len(data)


class _Connection:
    """A process that sends, and the encoder that feeds it."""

    def __init__(self, url: str, info: StreamInfo, options: VideoOptions, timeout_s: float) -> None:
        protocol = _protocol_of(url)
        order = {"url": url, "format": protocol.format, "options": protocol.options | _MUXING}
        self._timeout_s = timeout_s
        self._process = subprocess.Popen(
            [sys.executable, "-m", "streamface.pushing"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, ENVIRONMENT: json.dumps(order)},
            start_new_session=True,  # Ctrl-C is for the run, which ends the stream properly
        )
        self._container: Any = None
        try:
            pipe: Any = _Pipe(self._process, timeout_s)
            self._container = av.open(pipe, "w", format="nut", options=_MUXING)
            codec = choose_codec(".mp4", options)
            what = f"{protocol.format.upper()} to a server"
            self._encoding = Encoding(
                self._container, what, info, options, codec, known=protocol.known
            )
        except BaseException:
            self.kill()
            raise
        self.warnings = self._encoding.warnings
        self.frames = 0

    def write(self, frame: Frame) -> None:
        """Encode one frame and hand it over. Raises OSError, av.FFmpegError."""
        self._encoding.write(frame)
        self.frames += 1

    @property
    def unsent(self) -> int:
        """How many of the frames handed over certainly went nowhere."""
        return self.frames if self._process.poll() == NEVER_CONNECTED else 0

    def finish(self, tail_packets: Sequence[Packet]) -> None:
        """Send the rest and let the server know. Raises OSError, av.FFmpegError."""
        self._encoding.finish(tail_packets)
        assert self._process.stdin is not None, "it was opened with a pipe"
        self._process.stdin.close()
        self._process.wait(self._timeout_s)
        if self._process.returncode:
            raise OSError(self.reason() or "the sending process failed")
        self.kill()

    def reason(self) -> str:
        """Return what the process said at its end, if it has ended or is about to."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)
        if self._process.poll() is None or self._process.stderr is None:
            return ""
        return " ".join(self._process.stderr.read().decode(errors="replace").split())

    def kill(self) -> None:
        """End the process, whatever it waits for."""
        self._process.kill()
        if self._container is not None:
            close_quietly(self._container)
        for pipe in (self._process.stdin, self._process.stderr):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        self._process.wait()


class PushSink:
    """Encodes frames and sends them to a server: RTMP, RTSP, MPEG-TS over UDP, TCP or SRT.

    A server that refuses, stalls or goes away is no error: frames are left out and counted in
    ``unsent`` until a later attempt succeeds, with growing delays; ``warnings`` says so. Writing
    may wait as long as ``timeout_s``: put it behind a ``fanout.QueuedSink``.

    Raises UsageError for a URL of another kind, or a codec that it cannot carry.
    """

    def __init__(
        self,
        url: str,
        info: StreamInfo,
        options: VideoOptions,
        *,
        timeout_s: float = _WRITE_TIMEOUT_S,
        backoff: Backoff | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """timeout_s: how long the server may take nothing. backoff, now: stand-ins for tests."""
        protocol = _protocol_of(url)
        codec = choose_codec(".mp4", options)
        if av.Codec(codec, "w").canonical_name not in protocol.known:
            raise UsageError(f"{push_name(url)} cannot carry {codec}; choose another --codec")
        self.name = push_name(url)
        self.unsent = 0
        """Frames left out while there was no connection; a broken one may have lost some more."""
        self.losses = 0
        """How often a connection failed or could not be made."""
        self._url = url
        self._info = info
        self._options = replace(options, live=True, metadata=False)
        self._timeout_s = timeout_s
        self._backoff = backoff or Backoff()
        self._now = now
        self._again_s = 0.0
        self._connected_s = 0.0
        self._connection: _Connection | None = None
        self._last_reason = ""
        self._about_streams: list[str] = []

    @property
    def warnings(self) -> list[str]:
        """What could not be carried, and what was not sent."""
        lines = list(self._about_streams)
        if self.losses:
            times = "once" if self.losses == 1 else f"{self.losses} times"
            lines.append(
                f"{self.name}: connection lost {times}, {self.unsent} frames not sent; "
                f"last: {self._last_reason}"
            )
        return lines

    def write(self, frame: Frame) -> None:
        """Send one frame, or leave it out where there is no connection now."""
        if self._connection is None and self._now() < self._again_s:
            self.unsent += 1
            return
        try:
            if self._connection is None:
                self._connect(frame)
            assert self._connection is not None, "connecting raises or connects"
            self._connection.write(frame)
        except (av.FFmpegError, OSError, ValueError) as exc:
            self.unsent += 1
            self._lose(exc)

    def _connect(self, frame: Frame) -> None:
        # Each connection is a stream of its own, which begins with this frame.
        info = replace(self._info, shift=frame.pts, chapters=())
        self._connection = _Connection(self._url, info, self._options, self._timeout_s)
        self._connected_s = self._now()
        self._about_streams = self._connection.warnings

    def _lose(self, exc: Exception) -> None:
        connection, self._connection = self._connection, None
        said = connection.reason() if connection is not None and _is_broken(exc) else ""
        if connection is not None:
            self.unsent += connection.unsent
            connection.kill()
        reason = said or getattr(exc, "strerror", None) or str(exc)
        self._last_reason = redacted(" ".join(str(reason).split()))
        self.losses += 1
        if self._now() - self._connected_s > 2 * self._timeout_s:
            self._backoff.reset()
        delay_s = self._backoff.delay_s()
        self._again_s = self._now() + delay_s
        level = logging.WARNING if self.losses == 1 else logging.INFO
        _log.log(level, "%s: %s; trying again", self.name, self._last_reason)

    def close(self, tail_packets: Sequence[Packet] = ()) -> None:
        """End the stream; a server that has gone meanwhile is noted, not raised."""
        if self._connection is None:
            return
        try:
            self._connection.finish(tail_packets)
            self._connection = None
        except (av.FFmpegError, OSError, ValueError, subprocess.TimeoutExpired) as exc:
            self._lose(exc)

    def abort(self) -> None:
        """Break the connection off."""
        if self._connection is not None:
            self._connection.kill()
            self._connection = None


def _is_broken(exc: Exception) -> bool:
    """Whether the process has ended, so that it may have said why."""
    return not isinstance(exc, (TimeoutError, subprocess.TimeoutExpired))


def _protocol_of(url: str) -> _Protocol:
    scheme = url.split(":", 1)[0].lower()
    if scheme not in _PROTOCOLS:
        raise UsageError(f"cannot send to {push_name(url)}; use one of {' '.join(_PROTOCOLS)}")
    return _PROTOCOLS[scheme]


class HlsSink:
    """Writes an HLS playlist and its latest segments into a folder, for a web server to give out.

    Older segments are deleted. When the stream ends, the playlist says so. Raises UsageError where
    the playlist exists and may not be replaced, SinkError where the folder cannot be written.
    """

    def __init__(self, target: Path, info: StreamInfo, options: VideoOptions) -> None:
        if target.exists() and not options.overwrite:
            raise UsageError(f"{target} exists; pass --overwrite to replace it")
        if not target.parent.is_dir():
            raise SinkError(f"cannot write {target}: its folder does not exist")
        self.warnings: list[str] = []
        self._target = target
        self._info = info
        self._options = replace(options, live=True)
        self._codec = choose_codec(".ts", options)
        self._encoding: Encoding | None = None

    def _open(self, frame: Frame) -> Encoding:
        pattern = self._target.with_name(f"{self._target.stem}-%05d.ts")
        hls = {
            "hls_time": str(_SEGMENT_S),
            "hls_list_size": str(_SEGMENTS_LISTED),
            "hls_flags": "delete_segments+independent_segments+temp_file",
            "hls_segment_filename": str(pattern).replace("%", "%%").replace("%%05d", "%05d"),
            "max_interleave_delta": _MUXING["max_interleave_delta"],
        }
        info = replace(self._info, shift=frame.pts, chapters=())
        container = av.open(str(self._target), "w", format="hls", options=hls)
        try:
            encoding = Encoding(
                container, "HLS", info, self._options, self._codec, known=MPEGTS_CODECS
            )
        except BaseException:
            close_quietly(container)
            raise
        self.warnings += encoding.warnings
        return encoding

    def write(self, frame: Frame) -> None:
        """Encode one frame. Raises SinkError."""
        try:
            if self._encoding is None:
                self._encoding = self._open(frame)
            self._encoding.write(frame)
        except (av.FFmpegError, OSError, ValueError) as exc:
            raise sink_error(self._target, exc) from exc

    def close(self, tail_packets: Sequence[Packet] = ()) -> None:
        """Write the last segment and end the playlist. Raises SinkError."""
        encoding, self._encoding = self._encoding, None
        if encoding is None:
            return
        try:
            encoding.finish(tail_packets)
        except (av.FFmpegError, OSError, ValueError) as exc:
            encoding.close_quietly()
            raise sink_error(self._target, exc) from exc

    def abort(self) -> None:
        """Stop writing; what was given out stays, for players have it already."""
        encoding, self._encoding = self._encoding, None
        if encoding is not None:
            encoding.close_quietly()


def open_live_sink(output: str, info: StreamInfo, options: VideoOptions) -> PushSink | HlsSink:
    """Open a stream to a server (a URL) or HLS (a path that ends in .m3u8).

    Raises UsageError, SinkError.
    """
    return (
        PushSink(output, info, options) if is_push(output) else HlsSink(Path(output), info, options)
    )
