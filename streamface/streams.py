"""Several ``--source``, or a file that lists them: what is meant, under which names, and where to.

A ``.streams`` file holds one source a line, as after ``--source``, or ``name = source``. Empty
lines and lines that begin with ``#`` say nothing; paths are relative to the file's folder.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

from streamface.atomic import sink_error
from streamface.encode import VIDEO_SUFFIX_CODECS
from streamface.errors import SourceError, UsageError
from streamface.sinks import IMAGE_SUFFIXES
from streamface.sources import DEMO, PORTRAIT, find_inputs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from streamface.sources import Input

SUFFIX: Final = ".streams"
MOST_AT_ONCE: Final = 64
"""Streams that run at the same time: each has a thread, a decoder and, with outputs, an encoder."""
_LONGEST_NAME: Final = 80


@dataclass(frozen=True, slots=True)
class Found:
    """What the given sources mean."""

    inputs: list[Input]
    """Never empty; names are unique where they run at once."""
    at_once: bool
    """Whether they run at the same time, each a stream of its own, rather than one by one."""


@dataclass(frozen=True, slots=True)
class LiveStream:
    """One of several that run at once, and where it is written to: one target an output."""

    what: Input
    targets: tuple[Path, ...] = ()


def find_all(sources: Sequence[str], *, simulate_live: bool = False) -> Found:
    """Return what ``sources`` mean, in order.

    Several run at once as soon as one of them does not wait for us: a camera, a URL, or a file
    that is played as if it were live; files beside it then keep their own pace, too. Files and
    folders alone are done one after another: one of them already uses all cores, and each is
    finished as early as it can be. Raises SourceError, UsageError.
    """
    given = _given(sources)
    inputs = [each for found in given for each in found]
    is_live = simulate_live or any(each.kind in ("camera", "url") for each in inputs)
    if len(given) < 2 or not is_live:
        return Found(inputs, at_once=False)
    if len(inputs) > MOST_AT_ONCE:
        raise UsageError(f"{len(inputs)} streams at once are too many; at most {MOST_AT_ONCE} go")
    return Found(list(_with_unique_names(inputs)), at_once=True)


def find_streams(sources: Sequence[str]) -> list[Input]:
    """Return all that ``sources`` mean, each under a name of its own; never empty.

    Raises SourceError, UsageError.
    """
    return list(_with_unique_names(each for found in _given(sources) for each in found))


def _given(sources: Sequence[str]) -> list[list[Input]]:
    given = [each for source in sources for each in _listed(source)]
    if not given:
        raise UsageError("no source is given; name a file, a folder, a camera number or a URL")
    return given


def _listed(source: str) -> Iterator[list[Input]]:
    """Yield what was given, or each line of a ``.streams`` file, as the inputs that it means."""
    path = Path(source).expanduser()
    if path.suffix.lower() != SUFFIX or not path.is_file():
        yield find_inputs(source)
        return
    lines = 0
    for number, name, location in _entries(path):
        lines += 1
        try:
            found = find_inputs(location)
        except (SourceError, UsageError) as exc:
            raise type(exc)(f"{path}, line {number}: {exc}") from exc
        if name:
            numbered = len(found) > 1
            found = [
                replace(each, name=f"{name} {n}" if numbered else name)
                for n, each in enumerate(found, start=1)
            ]
        yield found
    if not lines:
        raise SourceError(f"{path} lists no source")


def _entries(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield (number, name or "", source) of each line that says something. Raises SourceError."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or "it is no UTF-8 text"
        raise SourceError(f"cannot read {path}: {reason}") from exc
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        # What stands before a "=" is a name unless it looks like a URL or a path.
        match = re.fullmatch(r"([^=:/\\?]+?)\s*=\s*(\S.*)", text)
        name, source = (match[1].strip(), match[2]) if match else ("", text)
        yield number, name, _beside(path, source)


def _beside(path: Path, source: str) -> str:
    """Return a source with a relative path made one from the folder of the file it stands in."""
    other = source in {DEMO, PORTRAIT} or source.isdecimal() or source.startswith("camera:")
    if other or re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source):
        return source
    return str(path.parent / Path(source).expanduser())


def _with_unique_names(inputs: Iterable[Input]) -> Iterator[Input]:
    """Yield inputs; of one name the second is called ``name #2``: the data tells by names."""
    seen: Counter[str] = Counter()
    for each in inputs:
        seen[each.name] += 1
        nth = seen[each.name]
        yield each if nth == 1 else replace(each, name=f"{each.name} #{nth}")


def plan_streams(output: Path, inputs: Sequence[Input]) -> list[Path]:
    """Return the file in the folder ``output``, made if need be, for each of several streams.

    They are called as the streams are, with all but letters, digits and ``-`` made ``_``. Raises
    UsageError where ``output`` is named like a file, SinkError where it cannot be made.
    """
    if not output.is_dir():
        if output.suffix.lower() in VIDEO_SUFFIX_CODECS.keys() | IMAGE_SUFFIXES:
            raise UsageError(
                f"{len(inputs)} streams need a folder as --output, but {output} is named like a "
                "file"
            )
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise sink_error(output, exc) from exc
    return [output / f"{name}.mp4" for name in file_names(inputs)]


def file_names(inputs: Sequence[Input]) -> list[str]:
    """Return what the files of each of several streams are called, without a suffix; all differ."""
    taken: set[str] = set()
    chosen = []
    for each in inputs:
        plain = safe_name(each)
        names = (plain if n == 1 else f"{plain}_{n}" for n in count(1))
        # Some file systems take "A" and "a" for one.
        name = next(name for name in names if name.lower() not in taken)
        taken.add(name.lower())
        chosen.append(name)
    return chosen


def safe_name(what: Input) -> str:
    """Return a stream's name as a file may be called anywhere; never empty."""
    name = what.name
    if what.path is not None and name.startswith(what.location):
        name = what.path.stem + name.removeprefix(what.location)
    safe = re.sub(r"_+", "_", "".join(c if c.isalnum() or c == "-" else "_" for c in name))
    return safe.strip("_")[:_LONGEST_NAME] or "stream"
