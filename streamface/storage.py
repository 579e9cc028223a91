"""Files wherever they lie: listed, read in ranges and published whole, here or in a bucket.

A location is a path or a URL: ``s3://``, ``gs://``, ``az://`` and ``http(s)://`` go through fsspec
and the package for each, which are only imported when such a location is used. Nothing is copied
whole to be read: ``RangeFile`` fetches what FFmpeg asks for. Nothing is written in place: a
finished local file is uploaded, and appears under its name once it is complete.

Errors are one line and never quote a URL with its credentials; what may pass by itself (an answer
of 5xx, a time-out, a cut connection) is tried again, ever later.
"""

from __future__ import annotations

import glob
import io
import logging
import os
import random
import re
import shutil
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar

from streamface.atomic import AtomicPath, sink_error
from streamface.errors import SinkError, SourceError, StreamfaceError, UsageError
from streamface.sources import SECRET_NAMES, redacted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Buffer

_log = logging.getLogger(__name__)

_Result = TypeVar("_Result")
Readable: TypeAlias = io.RawIOBase | io.BufferedReader
"""A seekable file opened for reading bytes."""

_PACKAGES: Final = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "http": "aiohttp",
    "https": "aiohttp",
}
"""What fsspec needs for a scheme."""

BLOCK_BYTES: Final = 1 << 20
# A request costs some 50 ms wherever the bucket is, the time in which 5 MB come at 100 MB/s.
_MOST_AHEAD_BLOCKS: Final = 8
# Sound and pictures of a badly interleaved file are read in two places at once.
_KEPT_BLOCKS: Final = 32
_SECRET: Final = re.compile(rf"(?i)([^\s=&?:/]*(?:{SECRET_NAMES})[^\s=&?:/]*)=[^&\s]*")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What tells one version of a file from another, without reading it."""

    size_bytes: int
    stamp: str
    """The store's own: an ETag or generation, else the time of the last change."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One file of a listing."""

    location: str
    fingerprint: Fingerprint


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a store may take, and how often it is asked again."""

    attempts: int = 5
    first_wait_s: float = 0.3
    """Before the second attempt; doubled each time, and shortened by up to half at random, so
    that many workers do not come back at once."""
    most_wait_s: float = 10.0
    timeout_s: float = 30.0
    """To connect, and between two parts of an answer."""

    def waits_s(self) -> Iterator[float]:
        """Yield the wait before each further attempt."""
        for attempt in range(self.attempts - 1):
            whole_s = min(self.most_wait_s, self.first_wait_s * 2**attempt)
            yield whole_s * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


LASTING: Final = Patience(attempts=12)
"""For what much work went into already: a store may be away for a minute."""


class NothingThere(SourceError):  # noqa: N818 - a state, not a fault
    """A store holds nothing at a location."""


class Store(Protocol):
    """Where files lie. Locations are whole paths or URLs, not names below some root."""

    def list(self, location: str) -> Iterator[Stored]:
        """Yield the files that a folder (all levels), a pattern or a file's own name stand for.

        Lazily: nothing is held but a folder or a page of names. Hidden files are left out.
        Raises SourceError; NothingThere where there is no such thing.
        """
        ...

    def fingerprint(self, location: str) -> Fingerprint:
        """Return the fingerprint of one file. Raises SourceError where there is none."""
        ...

    def exists(self, location: str) -> bool:
        """Whether there is such a file. Raises SourceError where the store does not say."""
        ...

    def open(self, location: str) -> Readable:
        """Open a file for reading, seekable. Raises SourceError."""
        ...

    def publish(self, temporary: Path, location: str, *, overwrite: bool = False) -> None:
        """Let a finished local file appear under ``location``, whole, and remove it here.

        Raises SinkError, also where ``location`` is taken and ``overwrite`` is false; the local
        file then stays.
        """
        ...

    def write(self, location: str, data: bytes, *, overwrite: bool = True) -> None:
        """Let a small file appear, whole. Raises SinkError, also where it may not be replaced."""
        ...

    def delete(self, location: str) -> None:
        """Remove a file; one that is not there is no error. Raises SinkError."""
        ...

    def delete_folder(self, location: str) -> None:
        """Remove a folder and all below it; one that is not there is no error.

        Raises SinkError, SourceError.
        """
        ...


def scheme_of(location: str) -> str:
    """Return the scheme of a URL in lower case; "" for a path."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", location)
    return match[1].lower() if match else ""


def store_for(location: str, patience: Patience | None = None) -> Store:
    """Return the store that a location lies in; many locations of one store share it.

    Raises UsageError for a scheme that nobody knows, or where its package is not installed.
    """
    scheme = scheme_of(location)
    if scheme in {"", "file"}:
        return LocalStore()
    if scheme not in _PACKAGES:
        known = " ".join(f"{each}://" for each in _PACKAGES)
        raise UsageError(f"cannot list or write {scheme}:// locations; use a path or {known}")
    return ObjectStore(location, patience or Patience())


def opened(location: str) -> io.BufferedReader:
    """Open a file in any store for reading, buffered. Raises SourceError, UsageError."""
    file = store_for(location).open(location)
    return file if isinstance(file, io.BufferedReader) else io.BufferedReader(file)


def under(location: str, name: str) -> str:
    """Return the location of ``name`` (which may hold ``/``) in a folder."""
    if scheme_of(location):
        return f"{location.rstrip('/')}/{name}"
    return str(Path(location) / name)


class LocalStore:
    """The file system."""

    def list(self, location: str) -> Iterator[Stored]:
        """Yield what a folder, a pattern or a file stands for, in the order of names."""
        path = _local(location)
        if path.is_dir():
            yield from _walk(path)
        elif path.exists():
            yield _stored(path)
        elif glob.has_magic(str(path)):
            for each in sorted(glob.iglob(str(path), recursive=True)):  # noqa: PTH207
                if Path(each).is_file():
                    yield _stored(Path(each))
        else:
            raise NothingThere(f"{location} does not exist")

    def fingerprint(self, location: str) -> Fingerprint:
        """Return size and time of change in nanoseconds."""
        return _stored(_local(location)).fingerprint

    def exists(self, location: str) -> bool:
        """Whether there is such a file."""
        try:
            return _local(location).is_file()
        except OSError as exc:
            raise SourceError(f"cannot read {location}: {exc.strerror}") from exc

    def open(self, location: str) -> Readable:
        """Open a file for reading."""
        try:
            return _local(location).open("rb")
        except OSError as exc:
            raise SourceError(f"cannot read {location}: {exc.strerror}") from exc

    def publish(self, temporary: Path, location: str, *, overwrite: bool = False) -> None:
        """Rename, by way of a copy where the temporary file lies on another file system.

        Returns once the disk has it, so that a note of it stays true after a power cut. With
        ``overwrite`` on one file system it is a single rename: a kill leaves nothing beside it.
        """
        target = _local(location)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _sync(temporary)
            if overwrite and _is_one_rename(temporary, target):
                temporary.replace(target)
                _sync(target.parent)
                return
        except OSError as exc:
            raise sink_error(target, exc) from exc
        try:
            file = AtomicPath(target, overwrite=overwrite)
        except UsageError as exc:
            raise SinkError(str(exc)) from exc
        try:
            if temporary.stat().st_dev == file.temporary.stat().st_dev:
                temporary.replace(file.temporary)
            else:
                shutil.copyfile(temporary, file.temporary)
                _sync(file.temporary)
                temporary.unlink()
        except OSError as exc:
            file.discard()
            raise sink_error(target, exc) from exc
        file.publish()
        try:
            _sync(target.parent)
        except OSError as exc:
            raise sink_error(target, exc) from exc

    def write(self, location: str, data: bytes, *, overwrite: bool = True) -> None:
        """Write a file beside it and rename that."""
        target = _local(location)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            file = AtomicPath(target, overwrite=overwrite)
        except UsageError as exc:
            raise SinkError(str(exc)) from exc
        except OSError as exc:
            raise sink_error(target, exc) from exc
        try:
            file.temporary.write_bytes(data)
            _sync(file.temporary)
        except OSError as exc:
            file.discard()
            raise sink_error(target, exc) from exc
        file.publish()

    def delete(self, location: str) -> None:
        """Unlink."""
        try:
            _local(location).unlink(missing_ok=True)
        except OSError as exc:
            raise SinkError(f"cannot remove {location}: {exc.strerror}") from exc

    def delete_folder(self, location: str) -> None:
        """Remove the tree."""
        try:
            shutil.rmtree(_local(location))
        except FileNotFoundError:
            return
        except OSError as exc:
            raise SinkError(f"cannot remove {location}: {exc.strerror}") from exc


def _local(location: str) -> Path:
    return Path(location.removeprefix("file://")).expanduser()


def _is_one_rename(temporary: Path, target: Path) -> bool:
    """Whether a rename lets ``temporary`` take the place of ``target``: no link, folder, device."""
    if target.is_symlink() or (target.exists() and not target.is_file()):
        return False
    return temporary.stat().st_dev == target.parent.stat().st_dev


def _sync(path: Path) -> None:
    if os.name == "nt":  # it opens no folders, and syncs no file that is open for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _walk(folder: Path) -> Iterator[Stored]:
    try:
        with os.scandir(folder) as entries:
            found = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as exc:
        raise SourceError(f"cannot read {folder}: {exc.strerror}") from exc
    for entry in found:
        # A link to a folder is not followed: it may lead round in circles.
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
        elif entry.is_file():
            yield _stored(Path(entry.path))


def _stored(path: Path) -> Stored:
    try:
        status = path.stat()
    except OSError as exc:
        raise SourceError(f"cannot read {path}: {exc.strerror}") from exc
    return Stored(str(path), Fingerprint(status.st_size, str(status.st_mtime_ns)))


class ObjectStore:
    """A bucket or a web server, through fsspec.

    Written objects appear when their upload is complete: S3 in one part or by multipart upload,
    which is aborted on failure; Google and Azure by their own kind of it.
    """

    def __init__(self, location: str, patience: Patience) -> None:
        """Connect to the store of ``location``, with the credentials of the environment."""
        self.patience = patience
        self._scheme = scheme_of(location)
        self._fs = _file_system(location, self._scheme, patience)

    def list(self, location: str) -> Iterator[Stored]:
        """Yield the objects below a prefix, of a pattern or of that very name."""
        reading = f"cannot list {redacted(location)}"
        any_found = False
        for path, info in self._listing(location, reading):
            any_found = True
            yield Stored(self._location(path), _fingerprint(info))
        if not any_found:
            raise NothingThere(f"{redacted(location)} does not exist, or holds nothing")

    def _listing(self, location: str, reading: str) -> Iterator[tuple[str, dict[str, Any]]]:
        path = self._path(location)
        is_web = self._scheme in {"http", "https"}
        if glob.has_magic(path) and not is_web:
            found = self._ask(reading, lambda: self._fs.glob(path, detail=True))
            yield from ((name, info) for name, info in found.items() if info["type"] == "file")
        elif not location.endswith("/") and self.exists(location):
            yield path, self._info(location)
        elif self._scheme == "s3":
            yield from self._pages(path, reading)
        else:
            yield from self._folders(path, reading)

    def _pages(self, path: str, reading: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield what lies below an S3 prefix, a thousand a request: buckets hold millions."""
        bucket, _, prefix = path.partition("/")
        prefix = f"{prefix.rstrip('/')}/" if prefix else ""
        more: dict[str, str] = {}
        while True:
            page = self._ask(
                reading,
                lambda more=more: self._fs.call_s3(  # type: ignore[misc]
                    "list_objects_v2", Bucket=bucket, Prefix=prefix, **more
                ),
            )
            for each in page.get("Contents", ()):
                key: str = each["Key"]
                if not key.endswith("/") and not _is_hidden(key.removeprefix(prefix)):
                    yield f"{bucket}/{key}", {"size": each["Size"], "ETag": each["ETag"]}
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _folders(self, path: str, reading: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield what lies below a folder, one folder a request."""
        entries = self._ask(reading, lambda: self._fs.ls(path, detail=True))
        for info in sorted(entries, key=lambda each: str(each["name"])):
            name = str(info["name"])
            if _is_hidden(name.rstrip("/").rpartition("/")[2]) or name.rstrip("/") == path:
                continue
            if info["type"] == "directory":
                yield from self._folders(name, reading)
            else:
                yield name, info

    def fingerprint(self, location: str) -> Fingerprint:
        """Return size and ETag, or what the store has in its place."""
        return _fingerprint(self._info(location))

    def _info(self, location: str) -> dict[str, Any]:
        path = self._path(location)
        info: dict[str, Any] = self._ask(
            f"cannot read {redacted(location)}", lambda: self._fs.info(path)
        )
        if info["type"] != "file":
            raise SourceError(f"cannot read {redacted(location)}: it is a folder")
        return info

    def exists(self, location: str) -> bool:
        """Whether there is such an object."""
        path = self._path(location)

        def is_file() -> bool:
            try:
                return bool(self._fs.info(path)["type"] == "file")
            except FileNotFoundError as exc:
                if _judge(exc) is not _ABSENT:  # the web's word for anything that went wrong
                    raise
                return False

        return self._ask(f"cannot read {redacted(location)}", is_file)

    def open(self, location: str) -> Readable:
        """Return a ``RangeFile``."""
        info = self._info(location)
        if info.get("size") is None or info.get("partial") is False:
            raise SourceError(
                f"cannot read {redacted(location)}: its server does not answer in ranges; "
                "copy it to a disk first"
            )
        path, reading = self._path(location), f"cannot read {redacted(location)}"

        def fetch(start: int, end: int) -> bytes:
            def once() -> bytes:
                data: bytes = self._fs.cat_file(path, start=start, end=end)
                if len(data) != end - start:
                    raise OSError(f"{len(data)} bytes came instead of {end - start}")
                return data

            return self._ask(reading, once)

        return RangeFile(fetch, int(info["size"]))

    def publish(self, temporary: Path, location: str, *, overwrite: bool = False) -> None:
        """Upload, then remove the local file."""
        writing = f"cannot write {redacted(location)}"
        if self._scheme in {"http", "https"}:
            raise SinkError(f"{writing}: a web server takes no files; use a folder or a bucket")
        if not overwrite and self.exists(location):
            raise SinkError(f"{redacted(location)} exists; pass --overwrite to replace it")
        path = self._path(location)
        # S3 refuses by itself what appeared in the meantime; the others have no word for it.
        how = {"mode": "create"} if self._scheme == "s3" and not overwrite else {}
        self._ask(writing, lambda: self._fs.put_file(str(temporary), path, **how), SinkError)
        try:
            temporary.unlink(missing_ok=True)
        except OSError as exc:
            raise SinkError(f"cannot remove {temporary}: {exc.strerror}") from exc

    def write(self, location: str, data: bytes, *, overwrite: bool = True) -> None:
        """Upload at once."""
        path, how = self._path(location), {} if overwrite else {"mode": "create"}
        writing = f"cannot write {redacted(location)}"
        self._ask(writing, lambda: self._fs.pipe_file(path, data, **how), SinkError)

    def delete(self, location: str) -> None:
        """Remove an object."""
        path = self._path(location)

        def remove() -> None:
            try:
                self._fs.rm_file(path)
            except FileNotFoundError:
                return

        self._ask(f"cannot remove {redacted(location)}", remove, SinkError)

    def delete_folder(self, location: str) -> None:
        """Remove every object whose name begins so."""
        try:
            below = [self._path(each.location) for each in self.list(f"{location.rstrip('/')}/")]
        except NothingThere:
            return

        def remove() -> None:
            try:
                self._fs.rm(below)  # S3 takes a thousand names a request
            except FileNotFoundError:
                return

        self._ask(f"cannot remove {redacted(location)}", remove, SinkError)

    def _path(self, location: str) -> str:
        path: str = self._fs._strip_protocol(location)  # noqa: SLF001 - fsspec has no other name
        return path

    def _location(self, path: str) -> str:
        return path if "://" in path else f"{self._scheme}://{path}"

    def _ask(
        self,
        doing: str,
        action: Callable[[], _Result],
        error: type[StreamfaceError] = SourceError,
    ) -> _Result:
        """Return what ``action`` gives, tried again where that may help.

        What it raises is named by its kind and without its cause: messages and tracebacks of
        these libraries quote signed URLs.
        """
        waits = self.patience.waits_s()
        for attempt in range(1, self.patience.attempts + 1):
            try:
                return action()
            except StreamfaceError:
                raise
            except Exception as exc:  # noqa: BLE001 - each of these libraries has its own tree
                trouble = _judge(exc)
            wait_s = next(waits, None)
            if not trouble.may_pass or wait_s is None:
                times = f" ({attempt} attempts)" if attempt > 1 else ""
                kind = NothingThere if trouble is _ABSENT and error is SourceError else error
                raise kind(f"{doing}: {trouble.reason}{times}")
            _log.debug("%s: %s; again in %.1f s", doing, trouble.reason, wait_s)
            time.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")


@dataclass(frozen=True, slots=True)
class _Trouble:
    reason: str
    may_pass: bool
    """Whether the same request may succeed a little later."""


_ABSENT: Final = _Trouble("there is nothing of that name", may_pass=False)
_DENIED: Final = _Trouble("access is denied; check the store's credentials", may_pass=False)
_TAKEN: Final = _Trouble("another file appeared there meanwhile", may_pass=False)
_KINDS: Final = {FileNotFoundError: _ABSENT, FileExistsError: _TAKEN, PermissionError: _DENIED}
_CUT: Final = _Trouble("the connection was cut", may_pass=True)
_SLOW: Final = _Trouble("no answer in time", may_pass=True)


def _judge(exc: BaseException) -> _Trouble:
    """Return what an exception of fsspec or of the libraries under it means."""
    chain = _chain(exc)
    kinds = {name for each in chain for name in (c.__name__ for c in type(each).__mro__)}
    if "ClientPayloadError" in kinds:  # whose cause calls a cut connection a status of 400
        return _CUT
    status = next((found for each in chain if (found := _status(each)) is not None), 0)
    if status >= 400:
        return _judge_status(status)
    root = chain[-1]
    if any("Timeout" in kind for kind in kinds):
        return _SLOW
    for kind, trouble in _KINDS.items():
        if isinstance(root, kind):
            return trouble
    if any("Credentials" in kind for kind in kinds):
        return _DENIED
    text = _SECRET.sub(r"\1=***", " ".join(str(root).split()))
    text = re.sub(r"[a-z0-9]+://\S+", lambda match: redacted(match[0]), text)
    return _Trouble(text or type(root).__name__, may_pass=True)


def _judge_status(status: int) -> _Trouble:
    if status == 404:
        return _ABSENT
    if status in {401, 403}:
        return _DENIED
    if status in {409, 412}:
        return _TAKEN
    return _Trouble(f"the store answered {status}", may_pass=status >= 500 or status in {408, 429})


def _chain(exc: BaseException) -> list[BaseException]:
    """Return an exception and its causes: fsspec wraps what an answer really was."""
    chain = [exc]
    while (cause := chain[-1].__cause__) is not None and cause not in chain:
        chain.append(cause)
    return chain


def _status(exc: BaseException) -> int | None:
    """Return the HTTP status that an exception carries, under the names of four libraries."""
    response = getattr(exc, "response", None)
    if isinstance(response, dict):  # botocore
        code = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return code if isinstance(code, int) else None
    for name in ("status", "code", "status_code"):  # aiohttp, gcsfs, azure
        value = getattr(exc, name, None)
        if isinstance(value, int) and 100 <= value < 600:
            return value
    return None


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _fingerprint(info: dict[str, Any]) -> Fingerprint:
    names = ("ETag", "etag", "generation", "LastModified", "last_modified", "mtime", "updated")
    stamps = (str(info[name]) for name in names if info.get(name) is not None)
    return Fingerprint(int(info.get("size") or 0), next(stamps, "").strip('"'))


def _file_system(location: str, scheme: str, patience: Patience) -> Any:
    package = _PACKAGES[scheme]
    try:
        import fsspec

        __import__(package)
    except ImportError as exc:
        extra = "s3" if package == "s3fs" else "cloud"
        raise UsageError(
            f"{scheme}:// needs {getattr(exc, 'name', None) or package}; "
            f"run pip install 'streamface[{extra}]'"
        ) from exc
    options = _connection_options(package, patience.timeout_s)
    try:
        fs, _ = fsspec.core.url_to_fs(location, **options)
    except (ValueError, OSError, ImportError) as exc:
        raise UsageError(f"cannot reach {redacted(location)}: {_judge(exc).reason}") from exc
    if package == "s3fs":
        fs.retries = 1  # ours are enough
    return fs


def _connection_options(package: str, timeout_s: float) -> dict[str, Any]:
    """Return what each library calls its time-outs, with retries of its own switched off."""
    # Listings are asked for once, and must show what another worker has just written.
    fresh: dict[str, Any] = {"use_listings_cache": False}
    if package == "s3fs":
        config = {
            "connect_timeout": timeout_s,
            "read_timeout": timeout_s,
            "retries": {"total_max_attempts": 1},
        }
        return {**fresh, "config_kwargs": config}
    if package == "gcsfs":
        return {**fresh, "requests_timeout": timeout_s}
    if package == "adlfs":
        return {**fresh, "connection_timeout": timeout_s, "read_timeout": timeout_s}
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s)
    return {**fresh, "client_kwargs": {"timeout": timeout}}


class RangeFile(io.RawIOBase):
    """A remote file that is fetched in blocks as it is read.

    FFmpeg reads forward in pieces of 32 KB, with jumps: to the index of an MP4 at its end and
    back, to a key frame, and to and fro between sound and pictures that lie apart. So blocks are
    kept for a while, a jump costs one block, and what is read on and on is fetched in ever larger
    pieces: 8 MB a request.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], size_bytes: int) -> None:
        """fetch: returns bytes [start, end) of the file, all of them, or raises SourceError."""
        self.requests = 0
        """How many pieces were fetched."""
        self._fetch = fetch
        self._size = size_bytes
        self._position = 0
        self._ahead = 1
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; nothing is fetched yet."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"cannot seek to {base + offset}")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def readinto(self, buffer: Buffer) -> int:
        """Fill the buffer up to the end of a block; 0 at the end of the file."""
        view = memoryview(buffer).cast("B")
        if self._position >= self._size or not len(view):
            return 0
        number, offset = divmod(self._position, BLOCK_BYTES)
        part = self._block(number)[offset : offset + len(view)]
        view[: len(part)] = part
        self._position += len(part)
        return len(part)

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            self._load(number)
        self._blocks.move_to_end(number)
        return self._blocks[number]

    def _load(self, number: int) -> None:
        follows = number - 1 in self._blocks
        self._ahead = min(2 * self._ahead, _MOST_AHEAD_BLOCKS) if follows else 1
        start = number * BLOCK_BYTES
        data = self._fetch(start, min(start + self._ahead * BLOCK_BYTES, self._size))
        self.requests += 1
        for at in range(0, len(data), BLOCK_BYTES):
            self._blocks[number + at // BLOCK_BYTES] = data[at : at + BLOCK_BYTES]
        while len(self._blocks) > _KEPT_BLOCKS:
            self._blocks.popitem(last=False)
