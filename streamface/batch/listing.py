"""What a batch is to do: its sources found one by one, and the names of what is made of each."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from streamface.batch.job import VIDEO
from streamface.errors import SourceError, UsageError
from streamface.sinks import IMAGE_SUFFIXES as WRITABLE_IMAGES
from streamface.sources import DEMO, IMAGE_SUFFIXES, PORTRAIT, VIDEO_SUFFIXES
from streamface.storage import scheme_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamface.batch.job import BatchOptions

OnError: TypeAlias = "Callable[[SourceError], None]"
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
        """The same for every spelling of a path."""
        return self.source if self.source in {DEMO, PORTRAIT} else os.path.abspath(self.source)  # noqa: PTH100 - links stay


def check_places(options: BatchOptions) -> None:
    """Refuse at once what can never be read or written. Raises SourceError, UsageError."""
    for place in (options.output, *options.sources):
        if scheme := scheme_of(place):
            raise UsageError(f"a batch cannot use {scheme}:// yet; give a path")
    output = Path(options.output).expanduser().resolve()
    for source in options.sources:
        if Path(source).expanduser().resolve() == output:
            raise UsageError(f"{source} is source and --output; choose another --output")
        if source in {DEMO, PORTRAIT} or glob.has_magic(source):
            continue
        if not Path(source).expanduser().exists():
            raise SourceError(f"{source} does not exist")


def find(options: BatchOptions, on_error: OnError) -> Iterator[Found]:
    """Yield every source, lazily and in an order that is the same each time.

    Of folders all videos and pictures, also in the folders below, but not those in the batch's own
    output; of patterns and names what they name. on_error is told of folders that cannot be read.
    """
    output = Path(options.output).expanduser().resolve()
    for source in options.sources:
        if source in {DEMO, PORTRAIT}:
            yield Found(source, source.replace(":", "_"), 0, source)
            continue
        path = Path(source).expanduser()
        if path.is_dir():
            yield from _in_folder(path, output, on_error)
        elif path.exists():
            yield from _named(path, path.name)
        else:
            yield from _matching(str(path), output, on_error)


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
            on_error(SourceError(f"cannot list {here}: {exc.strerror or exc}"))
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
    root = os.path.abspath(Path(options.output).expanduser())  # noqa: PTH100 - links stay
    return {kind: f"{root}/{stem}{suffixes[kind]}" for kind in options.kinds}
