"""What a batch is to do: its sources found one by one, and the names of what is made of each."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import unquote, urlsplit

from streamface.batch.home import in_store
from streamface.batch.job import VIDEO
from streamface.errors import SourceError, UsageError
from streamface.sinks import IMAGE_SUFFIXES as WRITABLE_IMAGES
from streamface.sources import DEMO, IMAGE_SUFFIXES, PORTRAIT, VIDEO_SUFFIXES, redacted
from streamface.storage import scheme_of, store_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamface.batch.job import BatchOptions

OnError: TypeAlias = "Callable[[str, SourceError], None]"
"""Is told what could not be listed, and why."""
_KNOWN: Final = VIDEO_SUFFIXES | IMAGE_SUFFIXES


@dataclass(frozen=True, slots=True)
class Found:
    """A source, before anything is known of what became of it."""

    source: str
    """As it is opened, and as the data files name it."""
    name: str
    """Where its outputs go below the output folder, with slashes and its own extension."""
    size_bytes: int
    fingerprint: str
    """Changes when the file does; cheap, so not of its content."""

    @property
    def key(self) -> str:
        """The same for every spelling of a path; of a URL without what is secret in it."""
        if self.source in {DEMO, PORTRAIT} or scheme_of(self.source):
            return redacted(self.source)
        return os.path.abspath(self.source)  # noqa: PTH100 - links stay


def check_places(options: BatchOptions) -> None:
    """Refuse at once what can never be read or written. Raises SourceError, UsageError."""
    for place in (options.output, *options.sources):
        store_for(place)  # raises where a scheme is unknown, or what it needs is missing
    if scheme_of(options.output) in {"http", "https"}:
        raise UsageError(
            f"cannot write to {redacted(options.output)}: a web server takes no files; "
            "use a folder or a bucket"
        )
    output = _comparable(options.output)
    for given in options.sources:
        source = given.removeprefix("file://")
        if _comparable(source) == output:
            raise UsageError(f"{redacted(source)} is source and --output; choose another --output")
        if source in {DEMO, PORTRAIT} or glob.has_magic(source) or scheme_of(source):
            continue
        if not Path(source).expanduser().exists():
            raise SourceError(f"{source} does not exist")


def _comparable(place: str) -> str:
    if scheme_of(place) not in {"", "file"}:
        return place.rstrip("/")
    return str(Path(place.removeprefix("file://")).expanduser().resolve())


def find(options: BatchOptions, on_error: OnError) -> Iterator[Found]:
    """Yield every source, lazily and in an order that is the same each time.

    Of folders all videos and pictures, also in the folders below, but not those in the batch's own
    output; of patterns and names what they name. on_error is told of folders that cannot be read.
    """
    output = Path(options.output.removeprefix("file://")).expanduser().resolve()
    for given in options.sources:
        source = given.removeprefix("file://")
        if source in {DEMO, PORTRAIT}:
            yield Found(source, source.replace(":", "_"), 0, source)
            continue
        if scheme_of(source):
            yield from _stored(source, f"{options.output.rstrip('/')}/", on_error)
            continue
        path = Path(source).expanduser()
        if path.is_dir():
            yield from _in_folder(path, output, on_error)
        elif path.exists():
            yield from _named(path, path.name)
        else:
            yield from _matching(str(path), output, on_error)


def _stored(source: str, output: str, on_error: OnError) -> Iterator[Found]:
    """Yield what a store has below a URL, of a pattern or of that name; a page in memory."""
    root, is_web = _root_of(source), scheme_of(source) in {"http", "https"}
    try:
        for each in store_for(source).list(source):
            location = each.location
            if location.startswith(output):
                continue
            name = location.removeprefix(root) if location.startswith(root) else ""
            # One that was named alone has whatever name it has; what a signed URL asks for is none.
            name = name or urlsplit(location).path.rpartition("/")[2]
            name = unquote(name) if is_web else name
            is_alone = location.rstrip("/") == source
            if not is_alone and PurePosixPath(name).suffix.lower() not in _KNOWN:
                continue
            if {"", ".", ".."} & set(name.split("/")):  # what it becomes would lie elsewhere
                on_error(location, SourceError(f"{redacted(location)} is no name for an output"))
                continue
            mark = each.fingerprint
            yield Found(location, name, mark.size_bytes, f"{mark.size_bytes}-{mark.stamp}")
    except SourceError as exc:
        on_error(source, exc)


def _root_of(source: str) -> str:
    """Return what the names of a URL's outputs do not repeat: all up to the last fixed folder."""
    if scheme_of(source) in {"http", "https"}:
        return f"{source.rstrip('/')}/"
    parts = source.split("/")
    fixed = next((n for n, part in enumerate(parts) if glob.has_magic(part)), None)
    return "/".join(parts[:fixed]).rstrip("/") + "/"


def _in_folder(folder: Path, output: Path, on_error: OnError) -> Iterator[Found]:
    """Yield the files of a folder and of those below it, each folder's in the order of names.

    Links to folders are not followed, hidden files left out, ``output`` not entered. The names of
    one folder at a time are held in memory.
    """
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        below: list[Path] = []
        try:
            names = _names(here)
        except OSError as exc:
            on_error(str(here), SourceError(f"cannot list {here}: {exc.strerror or exc}"))
            continue
        for name in names:
            path = here / name
            if path.is_dir():
                if not path.is_symlink() and path.resolve() != output:
                    below.append(path)
            elif path.suffix.lower() in _KNOWN:
                yield from _named(path, path.relative_to(folder).as_posix())
        waiting += reversed(below)


def _names(folder: Path) -> list[str]:
    with os.scandir(folder) as found:
        return sorted(each.name for each in found if not each.name.startswith("."))


def _matching(pattern: str, output: Path, on_error: OnError) -> Iterator[Found]:
    """Yield what a pattern matches; names go on from the last folder that is no pattern."""
    parts = Path(pattern).parts
    fixed = next((n for n, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    root = Path(*parts[:fixed])
    for match in sorted(glob.iglob(pattern, recursive=True)):  # noqa: PTH207 - yields what was typed
        path = Path(match)
        if path.resolve().is_relative_to(output):
            continue
        name = path.relative_to(root).as_posix()
        if path.is_dir():
            inside = partial(_in_folder, path, output, on_error)
            yield from (
                Found(each.source, f"{name}/{each.name}", each.size_bytes, each.fingerprint)
                for each in ([] if "**" in pattern else inside())
            )
        elif path.suffix.lower() in _KNOWN:
            yield from _named(path, name)


def _named(path: Path, name: str) -> Iterator[Found]:
    """Yield a file, unless it is gone or no file."""
    try:
        status = path.stat()
    except OSError:
        return
    if path.is_file():
        yield Found(str(path), name, status.st_size, f"{status.st_size}-{status.st_mtime_ns}")


def targets_of(found: Found, options: BatchOptions) -> dict[str, str]:
    """Return the final place of each output of a source, by its kind.

    ``a/b.mov`` becomes ``OUTPUT/a/b.mp4``, ``OUTPUT/a/b.jsonl`` …; a picture keeps its own format
    if that can be written, else it becomes a PNG.
    """
    stem = found.name
    suffix = Path(stem).suffix.lower()
    if suffix in _KNOWN:
        stem = stem[: -len(suffix)]
    picture = suffix if suffix in WRITABLE_IMAGES else ".png"
    suffixes = {kind: f".{kind}" for kind in options.data}
    if options.video:
        suffixes[VIDEO] = picture if suffix in IMAGE_SUFFIXES else options.suffix
    root = options.output.rstrip("/")
    if not in_store(options.output):
        root = os.path.abspath(Path(root.removeprefix("file://")).expanduser())  # noqa: PTH100 - links stay
    return {kind: f"{root}/{stem}{suffixes[kind]}" for kind in options.kinds}
