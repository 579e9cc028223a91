"""Where a batch keeps what it knows, and what is unfinished: beside its outputs, if it can.

An output folder has all of it in ``.streamface-batch``. In a bucket, what is known lies there, too,
but files can only be written on a disk: each machine's temporary folder has the unfinished ones.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from streamface.atomic import sink_error
from streamface.batch.journal import FileJournal, StoreJournal
from streamface.batch.lease import Lease
from streamface.errors import UsageError
from streamface.locks import FileLock
from streamface.storage import scheme_of, under

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamface.batch.journal import Journal

STATE_FOLDER: Final = ".streamface-batch"
"""In the output folder: the journal, and what is being written."""
_OLD_WORKERS_S: Final = 15.0
"""How long workers may take to notice that their driver is gone."""
_FAR_WORKERS_S: Final = 10.0
"""The same where nobody sees them: Ray ends the actors of a dead driver within seconds."""


def in_store(output: str) -> bool:
    """Whether outputs go to a store rather than into a folder."""
    return scheme_of(output) not in {"", "file"}


def state_folder(output: str) -> str:
    """Return where a batch keeps its journal."""
    if in_store(output):
        return under(output, STATE_FOLDER)
    return str(Path(output.removeprefix("file://")).expanduser().absolute() / STATE_FOLDER)


def workshop_root(output: str) -> Path:
    """Return where unfinished files of a batch lie on this machine.

    For a folder: on its own file system, so that they get their names by a rename.
    """
    if not in_store(output):
        return Path(state_folder(output)) / "unfinished"
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    name = hashlib.sha256(output.rstrip("/").encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"streamface-batch-{user}" / name


def parts_folder(output: str) -> str:
    """Return where the segments of long files wait to be joined."""
    return under(state_folder(output), "parts")


def parts_of(key: str, output: str) -> str:
    """Return the same of one file, whatever it is cut into."""
    name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return under(parts_folder(output), name)


def make_private(folder: Path) -> None:
    """Make a folder that only its user can look into: unfinished files show faces."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def sweep(root: Path) -> int:
    """Remove what dead workers left behind; return how many workers still live."""
    alive = 0
    for path in sorted(root.glob("*.lock")):
        lock = FileLock(path)
        if lock.take():
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
            lock.free(remove=True)
        else:
            alive += path.exists()
    return alive


def outlive_workers(output: str) -> bool:
    """Wait until workers that have lost their driver are gone, and remove what they left.

    Returns whether all of them that can be seen from here are gone in the end.
    """
    until_s = time.monotonic() + _OLD_WORKERS_S
    while sweep(workshop_root(output)):
        if time.monotonic() > until_s:
            return False
        time.sleep(0.05)
    return True


@contextmanager
def journal_at(output: str, *, is_far: bool) -> Iterator[Journal]:
    """Give the journal of an output, once nobody else is at work on it.

    is_far: whether workers run on other machines. Raises UsageError where somebody is.
    """
    if in_store(output):
        with _in_store(output, is_far=is_far) as journal:
            yield journal
        return
    folder = Path(state_folder(output))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise sink_error(folder, exc) from exc
    lock = FileLock(folder / "lock")
    if not lock.take():
        raise UsageError(f"another batch is at work on {output}; wait for it, or end it")
    try:
        _check_old_workers(output)
        yield FileJournal(folder / "journal.jsonl")
    finally:
        lock.free()


@contextmanager
def _in_store(output: str, *, is_far: bool) -> Iterator[Journal]:
    folder = state_folder(output)
    lease = Lease(under(folder, "lease.json"), output)
    lease.take()
    try:
        _check_old_workers(output)
        if lease.was_taken_over and is_far:
            time.sleep(_FAR_WORKERS_S)
        scratch = workshop_root(output) / "unfinished-table"
        try:
            make_private(scratch.parent)
        except OSError as exc:
            raise sink_error(scratch.parent, exc) from exc
        yield StoreJournal(under(folder, "journal"), scratch, lease.check)
    finally:
        lease.free()


def _check_old_workers(output: str) -> None:
    if not outlive_workers(output):
        raise UsageError(f"workers of an earlier batch are still at work on {output}; end them")
