"""From what the user types after ``--source`` to opened sources, one after another."""

from __future__ import annotations

import errno
import glob
import logging
import re
import sys
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, runtime_checkable
from urllib.parse import urlsplit, urlunsplit

from streamface import cameras
from streamface.cameras import CameraOptions
from streamface.errors import SourceError, UsageError
from streamface.frame import Frame, Packet
from streamface.network import NetworkOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamface.decode import Damage, MediaSource, ReadOptions, StreamInfo
    from streamface.reconnect import SourceEvent
    from streamface.storage import Readable

_log = logging.getLogger(__name__)

DEMO: Final = "demo"
PORTRAIT: Final = "demo:portrait"
"""The demo with the photograph of a real face instead of generated ones."""
Kind = Literal["demo", "file", "camera", "url", "object"]

VIDEO_SUFFIXES: Final = frozenset(
    ".3g2 .3gp .asf .avi .divx .flv .gif .h264 .h265 .hevc .ivf .m2ts .m2v .m4v .mjpeg .mjpg .mkv "
    ".mov .mp4 .mpeg .mpg .mts .mxf .nut .ogm .ogv .ts .vob .webm .wmv .y4m".split()
)
IMAGE_SUFFIXES: Final = frozenset(".avif .bmp .jpeg .jpg .jxl .png .tif .tiff .webp".split())

_GONE: Final = frozenset({errno.ENOENT, errno.EACCES, errno.EPERM, errno.EBUSY, errno.ENODEV})
SECRET_NAMES: Final = "pass|pwd|token|key|secret|sig|auth|cred"  # noqa: S105 - words, no secret
"""A regular expression of what is found in the names of parameters that nobody may see."""
_MASKED: Final = rf"(?i)([^=&]*(?:{SECRET_NAMES})[^=&]*)=[^&]*"
OBJECT_SCHEMES: Final = frozenset({"s3", "gs", "gcs", "az", "abfs", "abfss"})
"""Of stores that FFmpeg cannot read by itself."""
_LIVE_SCHEMES: Final = frozenset({"rtmp", "rtmps", "rtp", "udp", "srt", "tcp"})


@dataclass(frozen=True, slots=True)
class Input:
    """One thing to open."""

    kind: Kind
    """An "object" lies in a store (``storage``), and is fetched in ranges as it is read."""
    location: str
    name: str
    """Fit to show and to log: passwords are masked."""

    @property
    def path(self) -> Path | None:
        """The local file, if it is one."""
        return Path(self.location) if self.kind == "file" else None


class Source(Protocol):
    """An opened input: iterate once for its frames, in display order."""

    info: StreamInfo

    @property
    def damage(self) -> Damage:
        """What went wrong so far."""
        ...

    @property
    def tail_packets(self) -> tuple[Packet, ...]:
        """Packets after the last frame, once iteration ended."""
        ...

    def __iter__(self) -> Iterator[Frame]: ...

    def close(self) -> None:
        """Release the input; allowed at any time from the thread that iterates, and twice."""
        ...


@runtime_checkable
class Stoppable(Protocol):
    """A source that may wait for long, and can be woken."""

    def stop(self) -> None:
        """End iteration now. For any thread, and for a signal handler."""
        ...


def redacted(text: str) -> str:
    """Return a text with user, password and secret-looking query values of its URLs masked."""
    return re.sub(r"[A-Za-z][A-Za-z0-9+.-]*://\S+", lambda url: _redacted_url(url[0]), text)


def _redacted_url(location: str) -> str:
    try:
        parts = urlsplit(location)
    except ValueError:
        return location.split("://", 1)[0] + "://***"
    host = parts.netloc.rpartition("@")[2]
    netloc = f"***@{host}" if "@" in parts.netloc else parts.netloc
    query = re.sub(_MASKED, r"\1=***", parts.query)
    return urlunsplit((parts.scheme, netloc, parts.path, query, parts.fragment))


def find_inputs(source: str) -> list[Input]:
    """Return what ``source`` names, in natural order; never empty.

    ``demo`` or ``demo:portrait``; digits, ``camera:NAME`` or ``/dev/…``: a camera; ``s3://…``,
    ``gs://…``, ``az://…``: an object, or all videos and images below a prefix; another
    ``scheme://…``: a URL; an existing file; a folder: the videos and images in it; else a glob
    pattern. Raises SourceError where nothing is found, UsageError where ``source`` is empty.
    """
    if not source.strip():
        raise UsageError("--source is empty; give a file, a folder, a camera number or a URL")
    if source in {DEMO, PORTRAIT}:
        return [Input("demo", source, source)]
    if source.isdecimal():
        return [Input("camera", source, f"camera {source}")]
    is_device = source.startswith("/dev/") and Path(source).exists()
    if is_device or source.startswith(cameras.PREFIX):
        return [Input("camera", source, source)]
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]+(?=://)", source)
    if scheme is not None and scheme[0] != "file":
        is_object = scheme[0].lower() in OBJECT_SCHEMES
        return _find_objects(source) if is_object else [Input("url", source, redacted(source))]
    source = source.removeprefix("file://")
    return [Input("file", str(path), str(path)) for path in _find_files(source)]


def _find_files(source: str) -> list[Path]:
    path = Path(source).expanduser()
    if path.is_dir():
        known = VIDEO_SUFFIXES | IMAGE_SUFFIXES
        entries = [p for p in path.iterdir() if p.is_file() and not p.name.startswith(".")]
        files = [p for p in entries if p.suffix.lower() in known]
        if not files:
            raise SourceError(f"no video or image in the folder {source} ({len(entries)} files)")
        if len(files) < len(entries):
            _log.warning("%d files in %s are no video or image", len(entries) - len(files), source)
        return sorted(files, key=_natural)
    if path.exists():
        return [path]
    matches = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207
    matches = [match for match in matches if match.is_file()]
    if not matches:
        what = "matches no file" if glob.has_magic(source) else "does not exist"
        raise SourceError(f"{source} {what}")
    return sorted(matches, key=_natural)


def _find_objects(source: str) -> list[Input]:
    from streamface import storage

    known = VIDEO_SUFFIXES | IMAGE_SUFFIXES
    found = [each.location for each in storage.store_for(source).list(source)]
    if found != [source]:
        found = [each for each in found if PurePosixPath(each).suffix.lower() in known]
    if not found:
        raise SourceError(f"no video or image below {redacted(source)}")
    return [Input("object", each, redacted(each)) for each in sorted(found, key=_natural)]


def _natural(path: Path | str) -> list[tuple[int, int, str]]:
    """Sort key under which frame2 comes before frame10."""
    parts = re.split(r"(\d+)", str(path).lower())
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


def open_source(
    what: Input,
    options: ReadOptions,
    *,
    stream: int = 0,
    camera: CameraOptions | None = None,
    network: NetworkOptions | None = None,
    on_event: Callable[[SourceEvent], None] | None = None,
    opener: Callable[..., Any] | None = None,
    make: Callable[..., MediaSource] | None = None,
    platform: str = sys.platform,
) -> Source:
    """Open one input and decode its first picture. Raises SourceError, one line.

    Where ``options`` name a GPU to decode on, an input that it cannot decode is such an error.
    camera: size and rate to ask a camera for. network: how URLs are opened; given, it makes live
    sources and cameras come back after they are lost (``reconnect``). on_event: told of that.
    opener: stands in for ``av.open`` in tests, as ``platform`` does for ``sys.platform``. make:
    stands in for ``MediaSource``, of an input that has an end.
    """
    if what.kind == "demo":
        if options.hwaccel is not None:
            raise SourceError(f"{what.name} is not decoded, so {options.hwaccel} cannot do it")
        return DemoSource(options, stream=stream, name=what.name)
    how = network or NetworkOptions()

    def once(options: ReadOptions) -> MediaSource:
        way = _Way(platform, camera or CameraOptions(), how, opener, make)
        return _open_once(what, options, stream, way)

    if network is None or what.kind in {"file", "object"}:
        return once(options)
    from streamface.reconnect import open_lasting

    return open_lasting(once, what.name, options, network, on_event=on_event)


@dataclass(frozen=True, slots=True)
class _Way:
    """How something is opened."""

    platform: str
    camera: CameraOptions
    network: NetworkOptions
    opener: Callable[..., Any] | None
    make: Callable[..., MediaSource] | None


def _open_once(what: Input, options: ReadOptions, stream: int, way: _Way) -> MediaSource:
    from streamface.decode import MediaSource

    ways = _ways_to_open(what, way)
    if what.path is not None:
        _check_file(what.path)
    container = _open_container(what, ways, options.hwaccel, way)
    is_live = what.kind == "camera" or (what.kind == "url" and _is_live(what.location, container))
    silence_s = way.network.read_timeout_of(what.location) if is_live else None
    try:
        if way.make is not None:
            return way.make(container, what.name, options, is_live=is_live, stream=stream)
        return MediaSource(
            container, what.name, options, is_live=is_live, stream=stream, silence_s=silence_s
        )
    except BaseException:
        container.close()
        raise


def _open_container(
    what: Input,
    ways: list[tuple[str | Readable, dict[str, Any]]],
    hwaccel: str | None,
    way: _Way,
) -> Any:
    """Return the container that the first way to open it gives. Raises SourceError."""
    import av

    from streamface.hwaccel import accelerator, no_decoder

    # Titles that are not UTF-8 must not stop a run; PyAV 19 dropped the argument.
    common: dict[str, Any] = {"metadata_errors": "replace"} if _pyav_major() < 19 else {}
    if hwaccel is not None:
        common["hwaccel"] = accelerator(hwaccel)
    for remaining, (location, arguments) in zip(reversed(range(len(ways))), ways, strict=True):
        began_s = time.monotonic()
        try:
            return (way.opener or av.open)(location, mode="r", **common, **arguments)
        except (av.FFmpegError, OSError, ValueError) as exc:
            # A camera that is absent or taken will not come by asking for less.
            if not remaining or getattr(exc, "errno", None) in _GONE:
                waited_s = time.monotonic() - began_s
                raise SourceError(_cannot_open(what, exc, way.network, waited_s)) from exc
            _log.debug("%s: %s", what.name, redacted(str(exc)))
        except RuntimeError as exc:
            if hwaccel is None:
                raise
            # PyAV's word for: not one stream of it has a decoder on the GPU.
            raise SourceError(no_decoder(what.name, hwaccel)) from exc
    raise AssertionError("there is always a way to open an input")


def _pyav_major() -> int:
    import av

    return int(av.__version__.split(".", 1)[0])


def _ways_to_open(what: Input, way: _Way) -> list[tuple[str | Readable, dict[str, Any]]]:
    """Return what to open and with which arguments, best way first."""
    # PyAV's time-outs interrupt whatever FFmpeg waits for, under whichever name a protocol has
    # an option of its own for that.
    timeout = (way.network.open_timeout_s, way.network.read_timeout_of(what.location))
    if what.kind == "camera":
        fixed = {
            "format": cameras.FORMATS[cameras.system_of(way.platform)],
            "timeout": timeout,
        }
        device = cameras.find_device(what.location, way.platform)
        ways = cameras.ways_to_open(way.platform, way.camera)
        return [(device, {**fixed, "options": way}) for way in ways]
    if what.kind == "url":
        how = way.network.ffmpeg_options(what.location)
        return [(what.location, {"options": how, "timeout": timeout})]
    if what.kind == "object":
        from streamface import storage

        return [(storage.store_for(what.location).open(what.location), {})]
    # "file:" keeps FFmpeg from reading a colon or a % in a name as a protocol or a pattern.
    return [(f"file:{what.location}", {})]


def _check_file(path: Path) -> None:
    try:
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except OSError as exc:
        raise SourceError(f"cannot read {path}: {exc.strerror}") from exc
    if size == 0 and path.is_file():
        raise SourceError(f"cannot read {path}: the file is empty")


def _cannot_open(what: Input, exc: BaseException, network: NetworkOptions, waited_s: float) -> str:
    import av

    reason = getattr(exc, "strerror", None) or str(exc)
    # RTSP calls it invalid data when its wait for an answer is cut short.
    if what.kind != "file" and waited_s >= network.open_timeout_s:
        reason = f"no answer within {network.open_timeout_s:g} s"
    if isinstance(exc, av.error.ProtocolNotFoundError):
        scheme = what.location.split(":", 1)[0]
        reason = f"this build of FFmpeg does not speak {scheme}"
    if what.kind == "camera":
        return f"cannot open {what.name}: {reason}; is a camera connected and free?"
    if what.kind in {"file", "object"} and "Invalid data" in reason:
        reason += " (not a video or image, or damaged at its start)"
    return f"cannot open {what.name}: {redacted(' '.join(reason.split()))}"


def _is_live(location: str, container: Any) -> bool:
    """Whether a URL has no known end: a file on a web server has a duration, or at least a size."""
    scheme = location.split(":", 1)[0].lower()
    if scheme in _LIVE_SCHEMES:
        return True
    if scheme in ("rtsp", "rtsps"):
        return not container.duration
    from streamface.decode import PLAYLIST_FORMATS

    # The size of a playlist is not that of what it lists.
    a_list = container.format.name in PLAYLIST_FORMATS
    return not container.duration and (a_list or (container.size or 0) <= 0)


class DemoSource:
    """A clip that needs no video of the user's: generated people, or a real portrait."""

    def __init__(self, options: ReadOptions, *, stream: int = 0, name: str = DEMO) -> None:
        from streamface import demo, demo_people
        from streamface.decode import Damage, StreamInfo

        self._demo = demo if name == PORTRAIT else demo_people
        self._options = options
        self._stream_number = stream
        self._chosen = self._choose()
        self.damage = Damage()
        self.tail_packets: tuple[Packet, ...] = ()
        self.info = StreamInfo(
            name=name,
            size_px=self._demo.SIZE_PX,
            rate=self._demo.RATE / options.vid_stride,
            time_base=1 / self._demo.RATE,
            frames=len(self._chosen),
            shift=self._chosen[0] if self._chosen else 0,
        )
        if not self._chosen:
            raise SourceError(f"the demo ends before --start {options.start_s}")

    def _choose(self) -> range:
        options, rate = self._options, self._demo.RATE
        first = -(-Fraction(options.start_s) * rate // 1)
        end = self._demo.FRAMES
        if options.end_s is not None:
            end = min(end, int(-(-Fraction(options.end_s) * rate // 1)))
        chosen = range(int(first), end, options.vid_stride)
        return chosen[: options.max_frames]

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        for number, planes in enumerate(self._demo.frames()):
            if number not in self._chosen:
                continue
            yield Frame(
                stream=self._stream_number,
                index=index,
                pts=number,
                time_base=self.info.time_base,
                planes=planes,
                duration=self._options.vid_stride,
                captured_s=time.monotonic(),
            )
            index += 1
            if index == len(self._chosen):
                return

    def close(self) -> None:
        """Nothing is held."""
