"""A station in a process of its own: ``python -m streamface.fleet.process``, and who keeps it.

Pickles come in on stdin: a contract, then orders. Pickles go out on what was stdout: a Hello, then
a report for each order. Where stdin ends, or nobody has asked for a while, there is no driver any
more: the station finishes its files and ends. So a crash of a decoder or a net takes one process
along and not the cluster's worker, and no station goes on for nobody.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from streamface.batch.executor import cause_of_end
from streamface.errors import StreamfaceError
from streamface.fleet.orders import Hello, Refusal, Report, StationLost

if TYPE_CHECKING:
    from streamface.fleet.orders import Contract, Orders

SILENT_S: Final = 30.0
"""A driver that did not ask for so long has lost this station and given its cameras to others."""
_LAST_S: Final = 8.0
"""What a station has to finish its files when its driver is gone."""
_GO_BETWEEN: Final = (
    "import subprocess, sys\n"
    "code = subprocess.call(sys.argv[1:])\n"
    "sys.exit(code if code >= 0 else 128 - code)\n"
)
"""Ray kills the children of a worker that it kills, but not theirs: so a station whose driver died
hears of it by its pipe and has time to finish its files."""
_MOST_COMPLAINT: Final = 300
_MOST_STDERR_BYTES: Final = 1 << 20


# -- the process


def main(silent_s: float = SILENT_S) -> None:
    """Serve until nobody asks any more."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the driver decides what they mean
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    questions = os.fdopen(os.dup(0), "rb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    contract: Contract = pickle.load(questions)  # noqa: S301 - from our parent
    if contract.cores is not None:
        from streamface.batch.worker import Cores

        # Before anything that counts cores is imported.
        cores = Cores(contract.cores)
        cores.look_again()
    asked: queue.SimpleQueue[Orders | None] = queue.SimpleQueue()
    # A daemon, since it waits for the end of stdin, which may never come while we live.
    threading.Thread(target=_listen, args=(questions, asked), daemon=True).start()
    code = _serve(contract, asked, answers, silent_s)
    # Threads of libraries, and a camera that does not answer, must not keep the process.
    os._exit(code)


def _serve(
    contract: Contract,
    asked: queue.SimpleQueue[Orders | None],
    answers: BinaryIO,
    silent_s: float,
) -> int:
    from streamface.fleet.station import LogLines, Station

    lines = LogLines()
    log = logging.getLogger("streamface")
    log.addHandler(lines)
    log.setLevel(logging.INFO)
    station = Station(contract, socket.gethostname(), lines=lines)
    try:
        hello: Hello | Refusal = station.rehearse()
    except StreamfaceError as exc:
        hello = Refusal(type(exc).__name__, str(exc))
    except Exception as exc:  # noqa: BLE001 - told to the driver, whatever it is
        hello = Refusal("StreamfaceError", f"unexpected {type(exc).__name__}: {exc}")
    if not _said(answers, hello) or isinstance(hello, Refusal):
        return 1
    while True:
        try:
            orders = asked.get(timeout=silent_s)
        except queue.Empty:
            orders = None
        if orders is None or not _said(answers, station.obey(orders)):
            return 0 if station.close(_LAST_S) else 1


def _listen(questions: BinaryIO, asked: queue.SimpleQueue[Orders | None]) -> None:
    while True:
        try:
            asked.put(pickle.load(questions))  # noqa: S301 - from our parent
        except Exception:  # noqa: BLE001 - cut short anywhere, it is the end
            asked.put(None)
            return


def _said(answers: BinaryIO, value: Any) -> bool:
    """Send an answer; return whether anybody is there to read it."""
    try:
        pickle.dump(value, answers)
        answers.flush()
    except OSError:
        return False
    return True


# -- who keeps it


class StationProcess:
    """The parent's end of a station. Belongs to one thread, but for ``end``."""

    def __init__(self, contract: Contract) -> None:
        self._stderr = tempfile.TemporaryFile("a+b")  # noqa: SIM115 - closed by `end`
        # What we can import, it can: also where the package is not installed.
        paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-c", _GO_BETWEEN, sys.executable, "-m", "streamface.fleet.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, **paths},
            start_new_session=True,  # a terminal's Ctrl-C is for the driver
        )
        self._send(contract)

    def hello(self) -> Hello | Refusal:
        """Wait until it is ready. Raises StationLost."""
        answer = self._receive()
        assert isinstance(answer, Hello | Refusal), "the first answer"
        return answer

    def exchange(self, orders: Orders) -> Report:
        """Give orders and return the report. Raises StationLost."""
        self._send(orders)
        answer = self._receive()
        assert isinstance(answer, Report), "one a question"
        if self._stderr.seek(0, os.SEEK_END) > _MOST_STDERR_BYTES:
            self._stderr.truncate(0)
        return answer

    def _send(self, message: Any) -> None:
        assert self._process.stdin is not None, "it was made with pipes"
        try:
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()
        except (OSError, ValueError):
            return  # it is gone; whoever waits for an answer learns why

    def _receive(self) -> Any:
        assert self._process.stdout is not None, "it was made with pipes"
        try:
            return pickle.load(self._process.stdout)  # noqa: S301 - from our own child
        except Exception as exc:
            code = self._process.wait()
            code = 128 - code if code > 128 else code  # as the go-between has it
            said = self._complaint()
            line = f"its process ended ({cause_of_end(code)})"
            raise StationLost(f"{line}: {said}" if said else line, crashed=True) from exc

    def _complaint(self) -> str:
        """Return the end of what it wrote to stderr."""
        try:
            size = self._stderr.seek(0, os.SEEK_END)
            self._stderr.seek(max(0, size - 4 * _MOST_COMPLAINT))
            lines = self._stderr.read().decode(errors="replace").split("\n")
        except ValueError:  # closed meanwhile
            return ""
        return " ".join(" ".join(lines[-4:]).split())[-_MOST_COMPLAINT:]

    def leave(self) -> None:
        """Hang up: it finishes its files and ends by itself."""
        assert self._process.stdin is not None, "it was made with pipes"
        try:
            self._process.stdin.close()
        except OSError:
            return

    def end(self, seconds: float = 0.0) -> None:
        """Hang up and wait for its end for so long; then kill it."""
        self.leave()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None, "it was made with pipes"
        self._process.stdout.close()
        self._stderr.close()


if __name__ == "__main__":
    main()
