"""Who may work on an output in a bucket, where nobody keeps locks: whoever's lease is renewed.

The lease is a small object that its holder writes anew every few seconds. It is free for others
once it has stayed the same for half a minute by their own clock, or at once if its holder was a
process of this machine that is gone. A holder that finds another one's lease in its place has lost
it and must write nothing more; one that could not renew its own in time must look first.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from streamface.errors import SinkError, SourceError, UsageError
from streamface.sources import redacted
from streamface.storage import NothingThere, Patience, store_for

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)

_RENEW_S: Final = 5.0
PATIENCE_S: Final = 30.0
"""For so long a lease must stay the same before another takes it."""
_STALE_S: Final = PATIENCE_S - 2 * _RENEW_S
"""After so long without a renewal the holder is in doubt, well before others may begin."""
_HASTE: Final = Patience(attempts=2, timeout_s=_RENEW_S)
"""A renewal that takes long is none."""
_LOOK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease."""

    mark: str
    """Drawn anew for each lease."""
    host: str
    machine: str
    """Names the space of process numbers, across reboots and containers; "" where unknown."""
    pid: int

    @classmethod
    def here(cls) -> Self:
        """Return this process as a new holder."""
        return cls(secrets.token_hex(8), socket.gethostname(), _machine(), os.getpid())

    @property
    def is_gone(self) -> bool:
        """Whether it is known to be dead: it ran on this machine, and runs no more."""
        return bool(self.machine) and self.machine == _machine() and not _lives(self.pid)


class Lease:
    """The right to write below a URL, from ``take`` to ``free``. Raises SinkError, SourceError."""

    def __init__(self, location: str, name: str) -> None:
        """location: of the lease. name: of what it is for, in messages."""
        self.was_taken_over = False
        """Whether another holder left it without a word."""
        self._location, self._name = location, name
        self._store = store_for(location, _HASTE)
        self._writing = threading.Lock()
        self._holder = Holder.here()
        self._beats = 0
        self._renewed_s = 0.0
        self._lost = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="streamface-batch-lease")

    def take(self, wait: Callable[[float], Any] = time.sleep) -> None:
        """Take it, having waited for a holder that may be dead.

        wait: is given how long. Raises UsageError where somebody holds it.
        """
        found = self._read()
        if found is not None:
            self._outlive(found, wait)
            self.was_taken_over = True
        try:
            self._write(overwrite=found is not None)
        except SinkError:
            now = self._read()
            if now is None:  # nobody was faster: it cannot be written
                raise
            # Else our own first try had come through, though it failed.
            if now.get("mark") != self._holder.mark:
                raise self._taken(now) from None
        if found is not None:
            # Others may have waited beside us: of those that write, the last one has it.
            wait(2 * _LOOK_S)
            if self._held_by() != self._holder.mark:
                raise self._taken(self._read())
        self._thread.start()

    def _outlive(self, found: dict[str, Any], wait: Callable[[float], Any]) -> None:
        holder = _holder(found)
        if holder is not None and holder.is_gone:
            return
        _log.info(
            "another batch was at work on %s; seeing whether it still is", redacted(self._name)
        )
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            wait(_LOOK_S)
            now = self._read()
            if now is None:
                return
            if now != found:
                raise self._taken(now)

    def _taken(self, found: dict[str, Any] | None) -> UsageError:
        holder = _holder(found or {})
        who = f" ({holder.host}, process {holder.pid})" if holder is not None else ""
        return UsageError(
            f"another batch is at work on {redacted(self._name)}{who}; wait for it, or end it"
        )

    def _read(self) -> dict[str, Any] | None:
        try:
            with self._store.open(self._location) as file:
                data = file.read()
        except NothingThere:
            return None
        try:
            found = json.loads(data)
        except ValueError:
            found = None
        return found if isinstance(found, dict) else {}

    def _held_by(self) -> str:
        return str((self._read() or {}).get("mark"))

    def _write(self, *, overwrite: bool = True) -> None:
        self._beats += 1
        holder = self._holder
        said = {
            "mark": holder.mark,
            "host": holder.host,
            "machine": holder.machine,
            "pid": holder.pid,
            "beat": self._beats,
        }
        began_s = time.monotonic()
        self._store.write(self._location, json.dumps(said).encode(), overwrite=overwrite)
        self._renewed_s = began_s

    def _renew(self) -> None:
        while not self._over.wait(_RENEW_S):
            try:
                self._renew_once()
            except (SourceError, SinkError) as exc:
                _log.debug("lease: %s", exc)
            if self._lost:
                return

    def _renew_once(self) -> None:
        with self._writing:
            if self._held_by() == self._holder.mark:
                self._write()
            else:
                self._lost = f"another batch has taken over {redacted(self._name)}"

    def check(self, wait: Callable[[float], Any] = time.sleep) -> None:
        """Raise SinkError where the lease is lost, or where the store does not say.

        After a while without a renewal that is found out now: whoever took it would have written
        theirs, and looks whether it stays. wait: is given how long.
        """
        if not self._lost and time.monotonic() - self._renewed_s > _STALE_S:
            try:
                self._renew_once()
                wait(2 * _LOOK_S)
                self._renew_once()
            except (SourceError, SinkError) as exc:
                raise SinkError(
                    f"{redacted(self._name)} cannot be reached, so that another batch may take it "
                    f"over; run this one again ({exc})"
                ) from exc
        if self._lost:
            raise SinkError(self._lost)

    def free(self) -> None:
        """Give it up."""
        if self._thread.ident is None:
            return
        self._over.set()
        self._thread.join()
        try:
            if self._held_by() == self._holder.mark:
                self._store.delete(self._location)
        except (SourceError, SinkError) as exc:
            _log.debug("lease: %s", exc)  # it runs out by itself


def _holder(found: dict[str, Any]) -> Holder | None:
    try:
        return Holder(found["mark"], found["host"], found["machine"], int(found["pid"]))
    except (KeyError, TypeError, ValueError):
        return None


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
