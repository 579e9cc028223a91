"""What a person sees of a batch: a live table, failures as they happen, a summary. On stderr."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final, Self

from rich.console import Group
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from streamface.batch.listing import find
from streamface.console import clock, shortened, shown_meanwhile
from streamface.sources import redacted

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.console import RenderableType

    from streamface.batch.driver import Batch, BatchTally
    from streamface.batch.job import BatchOptions, TaskResult
    from streamface.errors import SourceError

_log = logging.getLogger(__name__)

_MOST_ROWS: Final = 16
_MOST_NAMED: Final = 20
_WIDEST: Final = 110


class Census:
    """Counts all sources beside the batch, so that it can tell how much is left."""

    def __init__(self, options: BatchOptions) -> None:
        self._options = options
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._count, name="streamface-batch-census")
        self.files = 0
        self.bytes = 0
        self.is_complete = False

    def _count(self) -> None:
        if self._options.only_failed:
            return  # how many these are is known when all were looked at
        for found in find(self._options, _ignored):
            if self._stop.is_set():
                return
            self.files += 1
            self.bytes += found.size_bytes
        self.is_complete = True

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def _ignored(_place: str, _: SourceError) -> None:
    """Leave it to the batch, which meets the folder, too."""


def tell(result: TaskResult, status: str | None) -> None:
    """Log a failure, or that a file will be tried again."""
    for line in result.warnings:
        _log.info("%s", line)
    if result.kind is None:
        return
    if status is None:
        _log.info("%s; it is tried again", described(result))
    else:
        _log.warning("%s: %s", status, described(result))


def described(result: TaskResult) -> str:
    """Return the error of a failed file with its name."""
    where = redacted(result.task.source)
    return result.line if where in result.line else f"{where}: {result.line}"


def watching(batch: Batch, census: Census, *, live: bool) -> AbstractContextManager[None]:
    """Show how a batch is going while it is executed: a panel on a terminal, else log lines."""
    return shown_meanwhile(
        lambda width: panel(batch, census, width=min(width, _WIDEST)),
        lambda: _log.info("%s", progress_line(batch.tally, census)),
        live=live,
        name="streamface-batch-progress",
    )


def progress_line(tally: BatchTally, census: Census) -> str:
    """Return one line: how far, how fast, how much longer."""
    over = tally.done + tally.skipped + tally.failed
    total = f" of {census.files}" if census.is_complete else ""
    eta_s = left_s(tally, census)
    eta = f", {clock(eta_s)} left" if eta_s is not None else ""
    failed = f", {tally.failed} failed" if tally.failed else ""
    return f"{over}{total} files, {tally.times_real_time:.1f}x real time{eta}{failed}"


def left_s(tally: BatchTally, census: Census) -> float | None:
    """Return how many seconds the rest will take, judged by its bytes; None: nobody knows yet."""
    worked = tally.done + tally.failed
    if not census.is_complete or not worked or not tally.bytes_over:
        return None
    share = min(1.0, tally.bytes_over / max(1, census.bytes))
    return tally.seconds * (1 - share) / share


def panel(batch: Batch, census: Census, *, width: int | None = None) -> RenderableType:
    """Return the live panel."""
    tally = batch.tally
    over = tally.done + tally.skipped + tally.failed
    rows: list[RenderableType] = [_progress(tally, census, over), _numbers(tally), _workers(batch)]
    return Panel(
        Group(*rows),
        title=Text.assemble(
            ("streamface batch ", "bold"), (shortened(redacted(batch.options.output), 40), "cyan")
        ),
        title_align="left",
        subtitle="finishing what is under way; Ctrl-C again cancels" if batch.stopping else None,
        subtitle_align="left",
        border_style="yellow" if batch.stopping else "blue",
        padding=(0, 1),
        width=width,
    )


def _progress(tally: BatchTally, census: Census, over: int) -> RenderableType:
    if not census.is_complete:
        return Text(f"{over} files of at least {max(census.files, tally.files)}")
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(ratio=1, no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    done = min(1.0, over / max(1, census.files))
    eta_s = left_s(tally, census)
    eta = f"  {clock(eta_s)} left" if eta_s is not None else ""
    grid.add_row(
        ProgressBar(total=1.0, completed=done), Text(f"{done:4.0%}  {over}/{census.files}{eta}")
    )
    return grid


def _numbers(tally: BatchTally) -> RenderableType:
    failed = "bold red" if tally.failed else "bold"
    return Text.assemble(
        ("done ", "dim"), (f"{tally.done}", "bold green"),
        ("   skipped ", "dim"), (f"{tally.skipped}", "bold"),
        ("   failed ", "dim"), (f"{tally.failed}", failed),
        ("   frames ", "dim"), (f"{tally.frames}", "bold"),
        ("   speed ", "dim"), (f"{tally.times_real_time:.1f}x", "bold"), " real time",
    )  # fmt: skip


def _workers(batch: Batch) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("worker", no_wrap=True)
    table.add_column("for", justify="right", no_wrap=True)
    table.add_column("file", no_wrap=True, overflow="ellipsis")
    at_work = batch.executor.at_work
    for name, (task, seconds) in list(at_work.items())[:_MOST_ROWS]:
        doing = Text(f" {task.doing}", "dim") if task.doing else Text()
        file = Text(shortened(redacted(task.source), 70 - len(doing)))
        table.add_row(name, clock(seconds), file + doing)
    if len(at_work) > _MOST_ROWS:
        table.add_row("", "", Text(f"and {len(at_work) - _MOST_ROWS} more", "dim"))
    return table


def summary(batch: Batch, manifest: str, retry: str) -> list[str]:
    """Return the plain lines after a batch. retry: the command that does again what failed."""
    tally = batch.tally
    left = tally.files - tally.done - tally.skipped - tally.failed
    lines = [
        f"{tally.done} done, {tally.skipped} skipped (done before), {tally.failed} failed"
        + (f", {left} or more left" if left or tally.stopped or batch.stopping else ""),
        f"{tally.frames} frames in {tally.seconds:.1f} s, {tally.times_real_time:.1f}x real time",
        f"manifest: {redacted(manifest)}",
    ]
    if tally.stopped is not None:
        lines.append(f"stopped: {tally.stopped}")
    if tally.failed:
        lines += [f"  {described(each)}" for each in tally.failures[:_MOST_NAMED]]
        if tally.failed > _MOST_NAMED:
            lines.append(f"  and {tally.failed - _MOST_NAMED} more, in the manifest")
        lines.append(f"to try just these again: {retry}")
    return lines
