"""What a person sees while a run works, and the plain summary after it. All on stderr."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from streamface.push import shown
from streamface.settings import several

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import RenderableType

    from streamface.app import Run
    from streamface.pipeline import PipelineStats, StageStats
    from streamface.tally import StreamTally, Tally

_log = logging.getLogger(__name__)

_REFRESH_HZ: Final = 4
_LOG_EVERY_S: Final = 10.0
# The frame rate shown is that of the last moments, not the mean since the start.
_RATE_WINDOW_S: Final = 3.0
# The terminal echoes ^C where the cursor stands, at the panel's end; if that began a new line, the
# panel's first line would stay behind.
_ECHO_COLUMNS: Final = 5
_WIDEST: Final = 110


_PERCENTS: Final = (50, 95, 99)


class RateMeter:
    """Frames per second over the last few seconds. Knows no clock: time is an argument."""

    def __init__(self, window_s: float = _RATE_WINDOW_S) -> None:
        self._window_s = window_s
        self._seen: deque[tuple[float, int]] = deque()

    def update(self, now_s: float, frames: int) -> float:
        """Note the total of ``frames`` at ``now_s``; return the recent rate, 0 at first."""
        self._seen.append((now_s, frames))
        while len(self._seen) > 2 and self._seen[0][0] < now_s - self._window_s:
            self._seen.popleft()
        (first_s, first), (last_s, last) = self._seen[0], self._seen[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0


class Rates:
    """The present rate of a run and of each of its streams."""

    def __init__(self) -> None:
        self.whole = 0.0
        self.streams: dict[int, float] = {}
        self._meter = RateMeter()
        self._meters: dict[int, RateMeter] = {}

    def update(self, now_s: float, tally: Tally) -> Self:
        """Take what was done by ``now_s``."""
        self.whole = self._meter.update(now_s, tally.frames)
        for number, stream in dict(tally.streams).items():
            meter = self._meters.setdefault(number, RateMeter())
            self.streams[number] = meter.update(now_s, stream.frames)
        return self


def watch(run: Run, *, live: bool = True) -> None:
    """Execute ``run`` with a live panel on a terminal, with log lines elsewhere; then sum up."""
    console = Console(stderr=True)
    if live and _is_capable(console) and not _shares_terminal(run):
        _watch_panel(run, console)
    else:
        _watch_log(run)
    for warning in run.warnings:
        _log.warning("%s", warning)
    print_lines(summary(run))


def print_lines(lines: Sequence[str]) -> None:
    """Print plain lines on stderr."""
    console = Console(stderr=True)
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True, emoji=False)


@contextmanager
def shown_meanwhile(
    panel: Callable[[int], RenderableType], tell: Callable[[], None], *, live: bool, name: str
) -> Iterator[None]:
    """Show how something is going while the block runs: a panel on a terminal, else log lines.

    panel: is given how many columns it may have. tell: logs lines, every ten seconds. name: of
    the thread that has it do so.
    """
    console = Console(stderr=True)
    if live and _is_capable(console):
        with Live(
            get_renderable=lambda: panel(console.width - _ECHO_COLUMNS),
            console=console,
            refresh_per_second=_REFRESH_HZ,
            transient=True,
        ):
            yield
        return
    over = threading.Event()

    def keep_telling() -> None:
        while not over.wait(_LOG_EVERY_S):
            tell()

    thread = threading.Thread(target=keep_telling, name=name)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _is_capable(console: Console) -> bool:
    """Whether stderr can show a panel."""
    # isatty besides: FORCE_COLOR makes Rich call a log file a terminal.
    return sys.stderr.isatty() and console.is_terminal and not console.is_dumb_terminal


def _shares_terminal(run: Run) -> bool:
    """Whether data lines go to the terminal where the panel would stand."""
    return "-" in run.settings.data.values() and sys.stdout.isatty()


def _watch_panel(run: Run, console: Console) -> None:
    rates = Rates()

    def present() -> RenderableType:
        now = rates.update(time.monotonic(), run.tally)
        width = min(console.width - _ECHO_COLUMNS, _WIDEST)
        return panel(run, now.whole, width=width, stream_fps=now.streams)

    with Live(
        get_renderable=present,
        console=console,
        refresh_per_second=_REFRESH_HZ,
        transient=True,
    ):
        run.execute()


def _watch_log(run: Run) -> None:
    if run.at_once:
        _log.info("%d streams at once", len(run.playlist.inputs))
    else:
        info = run.info
        _log.info("%s: %dx%d, %.4g fps", info.name, *info.size_px, float(info.rate))
    rates = Rates().update(time.monotonic(), run.tally)
    next_s = time.monotonic() + _LOG_EVERY_S
    with closing(run.frames()) as frames:
        for _ in frames:
            if time.monotonic() >= next_s:
                next_s += _LOG_EVERY_S
                _log.info("%s", progress_line(run))
                rates.update(time.monotonic(), run.tally)
                for line in stream_lines(run, rates.streams):
                    _log.info("%s", line)


def progress_line(run: Run) -> str:
    """Return one line: where the run is, how fast, how much longer."""
    tally, total = run.tally, _total(run)
    done = f"frame {tally.stream_frames}" + (f" of {total}" if total else "")
    eta_s = _eta_s(run, tally.fps)
    eta = f", {clock(eta_s)} left" if eta_s is not None else ""
    return f"{done}, {tally.fps:.1f} fps{eta}, {_counted(tally.faces_now, 'face')}"


def _total(run: Run) -> int | None:
    """Return how many frames will come; streams that go on at once are counted together."""
    return None if run.at_once else run.info.frames


def stream_lines(run: Run, stream_fps: dict[int, float]) -> list[str]:
    """Return a line for each live stream: its rate, the age of its frames, what it lost."""
    lines = []
    for number, stream in dict(run.tally.streams).items():
        state = "ended" if stream.has_ended else f"{stream_fps.get(number, 0.0):.1f} fps"
        drops = _drops(run.stats.drops_of(number))
        lines.append(f"{stream.name}: {state}, age {_age(stream)} ms, drops {drops}")
    return lines


def panel(
    run: Run,
    fps: float,
    *,
    width: int | None = None,
    stream_fps: dict[int, float] | None = None,
) -> RenderableType:
    """Return the live panel.

    fps, stream_fps: the present rate, of all and of each of several streams at once. width: in
    columns (None: all).
    """
    run.pipeline.refresh_queues()
    tally, info = run.tally, run.info
    many = len(run.playlist.inputs)
    if many > 1 and tally.streams:
        title = Text.assemble(("streamface ", "bold"), (f"{many} streams", "cyan"))
        rows = Group(
            _progress(run, fps), _numbers(run, fps), _streams(run, stream_fps or {}), _stages(run)
        )
    else:
        size = "x".join(map(str, info.size_px))
        name = shortened(info.name, 40)
        title = Text.assemble(("streamface ", "bold"), (name, "cyan"), f" {size}")
        if many > 1:
            title.append(f"  input {tally.stream + 1} of {many}", "dim")
        rows = Group(_progress(run, fps), _numbers(run, fps), _stages(run))
    return Panel(
        rows,
        title=title,
        title_align="left",
        subtitle="finishing; Ctrl-C again cancels" if run.stopping else None,
        subtitle_align="left",
        border_style="yellow" if run.stopping else "blue",
        padding=(0, 1),
        width=width,
    )


def _progress(run: Run, fps: float) -> RenderableType:
    tally, total = run.tally, _total(run)
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(ratio=1, no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    if total:
        # The estimate of a broken file may be too low; the bar must not say 103 %.
        done = min(1.0, tally.stream_frames / total)
        eta_s = _eta_s(run, fps)
        left = f"  {clock(eta_s)} left" if eta_s is not None else ""
        if left and len(run.playlist.inputs) > 1:
            left += " here"
        text = f"{done:4.0%}  {tally.stream_frames}/{total}{left}"
        grid.add_row(ProgressBar(total=1.0, completed=done), Text(text))
    else:
        # Some files do not say how long they are, and a live source cannot.
        what = "live for" if run.info.is_live else "running for"
        grid.add_row(Text(f"{what} {clock(tally.elapsed_s)}"), Text(f"frame {tally.stream_frames}"))
    return grid


def _numbers(run: Run, fps: float) -> RenderableType:
    tally, latency = run.tally, run.stats.latency
    # A copy: the reading thread may count a new reason meanwhile.
    drops = _drops(dict(run.stats.drops))
    if run.info.is_live:
        # Of a camera nobody wants to know how late its frames were yesterday.
        what, percentiles = "age p50 / p95 / p99 ", _age(run.stats)
    else:
        what = "latency p50 / p95 / p99 "
        percentiles = " / ".join(_ms(latency.percentile_s(p)) for p in _PERCENTS)
    lines = (
        Text.assemble(
            ("fps ", "dim"),
            (f"{fps:.1f}", "bold green"),
            ("   faces ", "dim"),
            (f"{tally.faces_now}", "bold"),
            f" ({_counted(len(tally.tracks), 'track')})",
            ("   drops ", "dim"),
            (drops, "bold red" if run.stats.drops else "bold"),
        ),
        Text.assemble((what, "dim"), (percentiles, "bold"), " ms", (_source_rate(run), "dim"))
        .append("   lowered: " if tally.lowered else "", "dim")
        .append(tally.lowered, "yellow"),
    )
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*lines)


def _source_rate(run: Run) -> str:
    """Return what a live source really gives, beside what it says that it gives."""
    rate = run.playlist.rates.get(run.tally.stream)
    if rate is None or not run.info.is_live or run.at_once:
        return ""
    return f"   source {rate.recent(time.monotonic()):.1f} of {float(run.info.rate):.4g} fps"


def _age(of: PipelineStats | StreamTally) -> str:
    """Return the age of the frames of the last seconds, p50, p95 and p99."""
    ages_s = of.ages.percentiles_s(time.monotonic(), _PERCENTS)
    return " / ".join("-" if ages_s is None else _ms(age_s) for age_s in ages_s or _PERCENTS)


def _drops(drops: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in drops.items()) or "none"


def _streams(run: Run, stream_fps: dict[int, float]) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("stream", no_wrap=True, overflow="ellipsis")
    table.add_column("fps", justify="right", no_wrap=True)
    table.add_column("age", justify="right", no_wrap=True)
    table.add_column("faces", justify="right", no_wrap=True)
    table.add_column("drops", no_wrap=True, overflow="ellipsis")
    tallies = dict(run.tally.streams)
    for number, what in enumerate(run.playlist.inputs):
        stream = tallies.get(number)
        name = Text(shortened(what.name, 30))
        if number in run.playlist.failures:
            table.add_row(name, Text("failed", "red"))
        elif stream is None:
            table.add_row(name, Text("opening", "dim"))
        elif stream.has_ended:
            table.add_row(name, Text("ended", "dim"))
        else:
            drops = run.stats.drops_of(number)
            table.add_row(
                name,
                f"{stream_fps.get(number, 0.0):.1f}",
                _age(stream),
                str(stream.faces_now),
                Text(_drops(drops), "red" if drops else ""),
            )
    return table


def _stages(run: Run) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("stage", no_wrap=True)
    table.add_column("busy", justify="right", no_wrap=True)
    table.add_column("ms/frame", justify="right", no_wrap=True)
    table.add_column("queue", no_wrap=True)
    table.add_column("on", no_wrap=True, overflow="ellipsis")
    providers = run.providers()
    for stage in run.stats.stages:
        share = busy_share(stage, run.tally.elapsed_s)
        colour = "red" if share > 0.9 else "yellow" if share > 0.6 else ""
        table.add_row(
            stage.name,
            Text(f"{share:.0%}", colour),
            f"{_per_frame_ms(stage):.2f}",
            _fill(stage),
            Text(providers.get(stage.name, ""), "dim"),
        )
    return table


def _fill(stage: StageStats) -> str:
    if not stage.queue_capacity:
        return ""
    return "■" * stage.queue_len + "·" * (stage.queue_capacity - stage.queue_len)


def summary(run: Run) -> list[str]:
    """Return the plain lines printed after a run."""
    tally, stats = run.tally, run.stats
    seconds = tally.elapsed_s
    many = len(run.playlist.inputs)
    name = run.playlist.inputs[0].name
    if many > 1:
        name = f"{many - len(run.playlist.failures)} of {many} inputs"
    frames = _counted(tally.frames, "frame")
    lines = [f"{name}: {frames} in {seconds:.1f} s, {tally.fps:.1f} fps"]
    mean = tally.face_frames / tally.frames if tally.frames else 0.0
    tracks = _counted(len(tally.tracks), "track")
    lines.append(f"faces: {tracks}, {mean:.2f} a frame{_label_shares(run)}")
    percentiles = ", ".join(f"p{p} {_ms(stats.latency.percentile_s(p))} ms" for p in _PERCENTS)
    drops = ", ".join(f"{count} ({reason})" for reason, count in stats.drops.items()) or "none"
    lines.append(f"latency: {percentiles}; dropped frames: {drops}")
    if many > 1:
        lines += [f"  {line}" for line in _of_streams(run)]
    elif run.info.is_live and run.playlist.rates:
        mean = run.playlist.rates[run.tally.stream].mean
        lines.append(f"source: {mean:.1f} fps measured, {float(run.info.rate):.4g} told")
    if tally.lowered:
        lines.append(f"lowered to keep up: {tally.lowered}")
    busy = ", ".join(f"{s.name} {busy_share(s, seconds):.0%}" for s in stats.stages)
    lines.append(f"busy: {busy}")
    lines.append("on: " + "; ".join(f"{stage} {on}" for stage, on in run.providers().items()))
    lines += _covered(run) + _remade(run)
    lines += _written(run)
    lines += [f"output lost: {line}" for line in run.failed_outputs]
    if run.playlist.failures:
        lines.append(f"failed: {len(run.playlist.failures)} of {many} inputs")
        lines += [f"  {reason}" for reason in run.playlist.failures.values()]
    return lines


def _written(run: Run) -> list[str]:
    """Return where the outputs are, without those that were lost."""
    lines = []
    for output in several(run.settings.output):
        if isinstance(output, str):
            lines.append(f"sent to: {shown(output)}")
            continue
        pieces = run.settings.segment_s is not None and output.suffix
        where = output.with_name(f"{output.stem}-000{output.suffix} …") if pieces else output
        lines.append(f"written: {where}")
    data = (target for target in run.settings.data.values() if target != "-")
    lines += [f"written: {target}" for target in data]
    lost = run.failed_outputs
    return [
        each for each in lines if not any(f"{each.partition(': ')[2]}:" in line for line in lost)
    ]


def _of_streams(run: Run) -> list[str]:
    """Return a line for each of several streams that ran at once, over the whole run."""
    lines = []
    for number, stream in run.tally.streams.items():
        ages = ", ".join(f"p{p} {_ms(stream.latency.percentile_s(p))} ms" for p in _PERCENTS)
        drops = _drops(run.stats.drops_of(number))
        frames = _counted(stream.frames, "frame")
        lines.append(f"{stream.name}: {frames}; {ages}; dropped: {drops}")
    return lines


def _covered(run: Run) -> list[str]:
    if run.cover is None:
        return []
    tally, settings = run.cover.tally, run.settings
    line = f"covered ({settings.anonymize}): {_counted(tally.seen, 'face')} where they were seen"
    if tally.unseen:
        worst = ", ".join(f"track {track} in {n}" for track, n in tally.unseen.most_common(3))
        unseen = tally.unseen.total() + tally.unseen_elsewhere
        line += f", {unseen} where they were not (most: {worst})"
    if run.stand_ins is not None:
        line += f"; {tally.drawn} of these by somebody else, the rest blurred"
        blurred = run.stand_ins.tally
        why = [f"{blurred.hurried} to keep up"] if blurred.hurried else []
        why += [f"{blurred.uncast} while somebody was looked for"] if blurred.uncast else []
        line += f" ({', '.join(why)})" if why else ""
    lines = [line + "; check the result before you publish it"]
    if tally.cut_short:
        lines.append("covered: frames this large left room for less look-ahead than asked for")
    if not settings.keep_audio:
        lines.append("left out: sound, subtitles, metadata (--keep-audio keeps the first two)")
    return lines


def _remade(run: Run) -> list[str]:
    if run.remake is None:
        return []
    tally = run.remake.tally
    line = f"re-made ({run.settings.reenact}): {_counted(tally.remade, 'face')}"
    if tally.skipped:
        line += f", {tally.skipped} too small left alone"
    if tally.hurried:
        line += f", {tally.hurried} blurred to keep up"
    return [line]


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _label_shares(run: Run) -> str:
    labels = run.tally.labels
    total = sum(labels.values())
    if not total:
        return ""
    shares = ", ".join(f"{label} {count / total:.0%}" for label, count in labels.most_common(4))
    return f"; {shares}"


def busy_share(stage: StageStats, elapsed_s: float) -> float:
    """Return the part of the run, 0..1, that a stage's thread spent working."""
    return min(1.0, stage.busy_s / elapsed_s) if elapsed_s > 0 else 0.0


def _per_frame_ms(stage: StageStats) -> float:
    return 1e3 * stage.busy_s / stage.frames if stage.frames else 0.0


def _eta_s(run: Run, fps: float) -> float | None:
    total = _total(run)
    if not total or fps <= 0:
        return None
    return max(0, total - run.tally.stream_frames) / fps


def clock(seconds: float) -> str:
    """Return ``m:ss`` or ``h:mm:ss``."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.0f}"


def shortened(text: str, length: int) -> str:
    """Return at most ``length`` characters, the end of the text rather than its beginning."""
    return text if len(text) <= length else "…" + text[1 - length :]
