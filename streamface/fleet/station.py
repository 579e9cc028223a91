"""A station: the cameras of one machine in one run, taken in and ended while it goes on.

All of them share the nets, and their faces share batches. A run ends when its last camera has, and
the next camera begins another one with the same nets. Whoever asks (``obey``) never waits for
video.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from streamface.app import Nets, Run
from streamface.atomic import sink_error
from streamface.errors import SinkError, StreamfaceError
from streamface.fleet.cost import CostMeter, Done, RecentRate
from streamface.fleet.orders import OVER, PERCENTS, DutyReport, Hello, Report
from streamface.records import version
from streamface.serve.metrics import resident_bytes
from streamface.streams import LiveStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from streamface.fleet.orders import Contract, Duty, Orders, State
    from streamface.settings import Settings

_log = logging.getLogger(__name__)

_MOST_LANES: Final = 256
"""Each camera that was ever taken in leaves a little behind in its run, which then begins anew."""
_MOST_LINES: Final = 100
_SUFFIX: Final = ".mp4"
_CLOSE_S: Final = 8.0


@dataclass(slots=True)
class _Held:
    """One duty, as the station knows it."""

    duty: Duty
    state: State = "opening"
    reason: str = ""
    lane: int | None = None
    """Its number in the run; None: not in one (any more)."""
    is_wanted: bool = True
    rate: RecentRate = field(default_factory=RecentRate)
    last: DutyReport | None = None
    """What was reported of it last, once it is over."""


@dataclass(slots=True, eq=False)
class _Shift:
    """One run, from the first camera to the last, and the thread that it has."""

    held: list[_Held]
    run: Run | None = None
    """None while its cameras and outputs are being opened."""
    error: str = ""
    is_over: bool = False
    thread: threading.Thread | None = None
    meter: CostMeter = field(default_factory=CostMeter)
    is_worn: bool = False


class LogLines(logging.Handler):
    """Keeps the last lines of the log until they are asked for."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._lines: deque[tuple[int, str]] = deque(maxlen=_MOST_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self._lines.append((record.levelno, " ".join(record.getMessage().split())))

    def take(self) -> tuple[tuple[int, str], ...]:
        """Return what came since the last call."""
        lines = []
        while self._lines:
            lines.append(self._lines.popleft())
        return tuple(lines)


class Station:
    """Obeys orders; one thread may ask, and another one runs."""

    def __init__(
        self,
        contract: Contract,
        host: str,
        *,
        make_run: Callable[[Settings, Sequence[LiveStream], Nets], Run] | None = None,
        lines: LogLines | None = None,
    ) -> None:
        """make_run: stands in for ``app.Run`` in tests. lines: what is told with each report."""
        self._contract = contract
        self._host = host
        self._make_run = make_run or _run
        self._lines = lines or LogLines()
        self._nets = Nets()
        self._held: dict[int, _Held] = {}
        self._shift: _Shift | None = None
        self._runs = 0

    def rehearse(self) -> Hello:
        """Find models, compile kernels and draw a frame, so that a camera need not wait for that.

        Raises StreamfaceError.
        """
        how = replace(
            self._contract.how,
            source="demo", output=None, data={}, max_frames=2, simulate_live=False, inject="",
            start_s=0.0, end_s=None, segment_s=None, hwaccel=None,
        )  # fmt: skip
        with Run(how, nets=self._nets) as run:
            run.execute()
        return self.hello()

    def hello(self) -> Hello:
        """Make the folders and tell what stands in them. Raises SinkError."""
        taken: dict[str, int] = {}
        if not self._contract.how.overwrite:
            for folder in self._folders():
                for name, number in numbers_in(folder, self._contract.files).items():
                    taken[name] = max(number, taken.get(name, 0))
        return Hello(self._host, version(), taken)

    def _folders(self) -> list[Path]:
        folders = [Path(each) for each in self._contract.how.outputs]
        for folder in folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as exc:
                raise sink_error(folder, exc) from exc
        return folders

    # -- orders

    def obey(self, orders: Orders) -> Report:
        """Have done what is ordered, and tell how things stand; returns at once."""
        wanted = {duty.number: duty for duty in orders.duties}
        for number, held in self._held.items():
            held.is_wanted = number in wanted
        for number, duty in wanted.items():
            if number not in self._held:
                self._held[number] = _Held(duty)
        if orders.cancel:
            self._cancel()
        else:
            self._go_on()
        report = self._report()
        # An end is told once, even where the driver has let go of the duty before.
        for number, held in list(self._held.items()):
            if held.state in OVER and not held.is_wanted:
                del self._held[number]
        return report

    def _waiting(self) -> list[_Held]:
        """Return those that are in no run yet."""
        waiting = []
        for held in self._held.values():
            if held.state == "opening" and held.lane is None:
                if held.is_wanted:
                    waiting.append(held)
                else:
                    held.state = "ended"
        return waiting

    def _go_on(self) -> None:
        shift = self._shift
        if shift is not None and shift.is_over:
            self._settle(shift)
            shift = self._shift = None
        if shift is None:
            if waiting := self._waiting():
                self._begin(waiting)
            return
        if shift.run is None:
            return  # it is being opened; next time
        self._take_in(shift, shift.run)
        for held in shift.held:
            if not held.is_wanted and held.state in ("opening", "running"):
                assert held.lane is not None, "those of a run have a lane"
                shift.run.end(held.lane)
                held.state = "ending"
        self._look_at(shift, shift.run)

    def _begin(self, waiting: list[_Held]) -> None:
        for lane, held in enumerate(waiting):
            held.lane = lane
        self._runs += 1
        shift = self._shift = _Shift(waiting)
        shift.thread = threading.Thread(
            target=self._work, args=(shift,), name=f"streamface-station-{self._runs}"
        )
        shift.thread.start()

    def _take_in(self, shift: _Shift, run: Run) -> None:
        if len(shift.held) >= _MOST_LANES and self._waiting():
            # Its cameras come back with the next orders, in a new run.
            shift.is_worn = True
            run.stop()
            return
        for held in self._waiting():
            held.lane = run.add(self._stream(held.duty))
            if held.lane is None:
                return  # this run ends; the next one takes it
            shift.held.append(held)

    def _stream(self, duty: Duty) -> LiveStream:
        folders = self._contract.how.outputs
        return LiveStream(duty.what, tuple(Path(each, duty.file + _SUFFIX) for each in folders))

    def _how(self) -> Settings:
        """Return the settings of the next run: data files of their own."""
        how = self._contract.how
        data = {
            kind: str(free_name(Path(target), self._contract.name, self._runs))
            for kind, target in how.data.items()
        }
        return replace(how, data=data)

    # -- running

    def _work(self, shift: _Shift) -> None:
        try:
            streams = [self._stream(held.duty) for held in shift.held]
            with self._make_run(self._how(), streams, self._nets) as run:
                shift.run = run
                run.execute()
        except KeyboardInterrupt:
            shift.error = "cancelled"
        except StreamfaceError as exc:
            shift.error = str(exc)
        except Exception as exc:  # noqa: BLE001 - a station outlives whatever breaks one run
            _log.debug("a run broke", exc_info=True)
            shift.error = f"unexpected {type(exc).__name__}: {exc}"
        finally:
            shift.is_over = True

    def _settle(self, shift: _Shift) -> None:
        """Note what became of the cameras of a run that has ended."""
        assert shift.thread is not None, "it has run"
        shift.thread.join()
        failures = shift.run.playlist.failures if shift.run is not None else {}
        for held in shift.held:
            if held.state in OVER:
                continue
            assert held.lane is not None, "those of a run have a lane"
            if shift.run is not None:
                held.last = self._report_of(held, shift, shift.run)
            reason = failures.get(held.lane, shift.error)
            if not held.is_wanted:
                reason = shift.error  # that it broke while it was being ended says nothing
            held.reason = reason
            held.state = "failed" if reason else "returned" if shift.is_worn else "ended"
            held.lane = None

    def _look_at(self, shift: _Shift, run: Run) -> None:
        """Note what became of single cameras while the others go on."""
        for held in shift.held:
            if held.state in OVER:
                continue
            lane = held.lane
            assert lane is not None, "those of a run have a lane"
            tally = run.tally.streams.get(lane)
            if held.state == "opening" and tally is not None and tally.frames:
                held.state = "running"
            taken = run.pipeline.taken_in_all(lane)
            if taken is None:
                continue
            # Its last frame may still be on the way, its file be in the making.
            if taken and (tally is None or not tally.has_ended or lane in run.playlist.opened):
                continue
            held.last = self._report_of(held, shift, run)
            held.reason = run.playlist.failures.get(lane, "") if held.state != "ending" else ""
            held.state = "failed" if held.reason else "ended"
        self._measure(shift, run)

    def _measure(self, shift: _Shift, run: Run) -> None:
        stages = run.stats.stages
        run.pipeline.refresh_queues()
        done = {}
        for held in shift.held:
            if held.state not in ("running", "ending") or held.lane is None:
                continue
            tally = run.tally.streams.get(held.lane)
            source = run.playlist.opened.get(held.lane)
            if tally is not None and source is not None:
                width, height = source.info.size_px
                drops = run.stats.drops_of(held.lane)
                lost = drops.get("busy", 0) + drops.get("stale", 0)
                done[held.lane] = Done(tally.frames, tally.face_frames, width * height, lost)
        faces_s = sum(stage.cpu_s for stage in stages if stage.name == "classify")
        all_s = sum(stage.cpu_s for stage in stages)
        shift.meter.update(time.monotonic(), time.process_time(), faces_s, all_s, done)

    # -- telling

    def _report(self) -> Report:
        shift = self._shift
        run = shift.run if shift is not None else None
        meter = shift.meter if shift is not None else CostMeter()
        return Report(
            duties=tuple(self._told(held) for held in self._held.values()),
            cores_used=meter.used,
            memory_bytes=resident_bytes(),
            lowered=run.tally.lowered if run is not None else "",
            lost=meter.lost,
            on=run.providers() if run is not None else {},
            told=self._lines.take(),
        )

    def _told(self, held: _Held) -> DutyReport:
        shift = self._shift
        if held.state in OVER:
            last = held.last or DutyReport(held.duty.number, held.state)
            return replace(last, state=held.state, reason=held.reason, faces=0, fps=0.0, cores=None)
        if shift is None or shift.run is None or held.lane is None:
            return DutyReport(held.duty.number, held.state)
        return self._report_of(held, shift, shift.run)

    def _report_of(self, held: _Held, shift: _Shift, run: Run) -> DutyReport:
        assert held.lane is not None, "those of a run have a lane"
        tally = run.tally.streams.get(held.lane)
        if tally is None:
            return DutyReport(held.duty.number, held.state)
        rate = run.playlist.rates.get(held.lane)
        recent_s = tally.ages.percentiles_s(time.monotonic(), PERCENTS)
        whole = (tally.latency.percentile_s(percent) for percent in PERCENTS)
        return DutyReport(
            held.duty.number,
            held.state,
            captured=rate.frames if rate is not None else 0,
            frames=tally.frames,
            face_frames=tally.face_frames,
            faces=tally.faces_now,
            fps=held.rate.update(time.monotonic(), tally.frames),
            drops=run.stats.drops_of(held.lane),
            ages_s=tuple(whole) if len(tally.latency) else (),
            recent_ages_s=tuple(recent_s or ()),
            cores=shift.meter.cores.get(held.lane),
        )

    # -- ending

    def _cancel(self) -> None:
        shift = self._shift
        if shift is not None and not shift.is_over:
            if shift.run is not None:
                shift.run.cancel()
        elif shift is not None:
            self._settle(shift)
            self._shift = None
        self._waiting()

    def close(self, seconds: float = _CLOSE_S) -> bool:
        """Finish all files; return whether that was done within so many seconds."""
        until_s = time.monotonic() + seconds
        shift = self._shift
        if shift is not None:
            while shift.run is None and not shift.is_over and time.monotonic() < until_s:
                time.sleep(0.02)  # it is being opened
            if shift.run is not None:
                shift.run.stop()
            assert shift.thread is not None, "a shift has a thread"
            shift.thread.join(max(0.0, until_s - time.monotonic()))
            if shift.thread.is_alive():
                return False
        self._nets.close()
        return True


def _run(how: Settings, streams: Sequence[LiveStream], nets: Nets) -> Run:
    return Run(how, streams=streams, nets=nets)


def free_name(target: Path, station: str, number: int) -> Path:
    """Return where the data of a station's run goes: ``a.jsonl`` becomes ``a-STATION.jsonl``.

    number: which run of the station it is; a later one goes on with ``-2``, and so does one whose
    file is there already.
    """
    while True:
        nth = f"-{number}" if number > 1 else ""
        path = target.with_name(f"{target.stem}-{station}{nth}{target.suffix}")
        if not path.exists():
            return path
        number += 1


def numbers_in(folder: Path, files: Iterable[str]) -> dict[str, int]:
    """Return the highest number of the files of each name that stand in a folder.

    ``door.mp4`` is number 1 of ``door``; ``door-2.mp4`` and its segment ``door-2-007.mp4`` are
    number 2. A file that somebody is still writing counts, too. Raises SinkError.
    """
    try:
        stems = [
            re.sub(r"^\.(.+)\.[0-9a-f]+\.part$", r"\1", path.stem)
            for path in folder.iterdir()
            if path.suffix == _SUFFIX
        ]
    except OSError as exc:
        raise SinkError(f"cannot look into {folder}: {exc.strerror or exc}") from exc
    found: dict[str, int] = {}
    for name in files:
        form = re.compile(re.escape(name) + r"(?:-([1-9]\d{0,8}))?(?:-\d{3,})?", re.IGNORECASE)
        for match in filter(None, map(form.fullmatch, stems)):
            found[name] = max(found.get(name, 0), int(match[1] or 1))
    return found
