"""What a person sees: numbers that are true, lines that fit."""

from __future__ import annotations

import io
import itertools
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from streamface import console
from streamface.anonymize import CoverTally
from streamface.app import Tally
from streamface.console import RateMeter, Rates, panel, progress_line, summary
from streamface.decode import StreamInfo
from streamface.pipeline import PipelineStats, StageStats
from streamface.remake import RemakeTally
from streamface.tally import StreamTally


def run_of(*, frames=300, inputs=1, is_live=False, name="clip.mp4"):
    """Return what the console reads of a run that has written 90 frames in 10 seconds."""
    tally = Tally(frames=90, stream_frames=90, face_frames=180, faces_now=2, tracks={1, 2, 5})
    tally.labels.update(happy=120, neutral=60)
    tally.started_s, tally.ended_s = 100.0, 110.0
    stages = [StageStats("read", 2.0, 2.0, 90), StageStats("find", 9.5, 9.0, 90, 1, 2)]
    stats = PipelineStats(stages)
    for number in range(100):
        stats.latency.add(0.010 + number / 1000)
    names = [SimpleNamespace(name=name if n == 0 else f"other {n}") for n in range(inputs)]
    return SimpleNamespace(
        tally=tally,
        info=StreamInfo(name, (640, 480), Fraction(30), Fraction(1, 30), is_live=is_live,
                        frames=frames),
        stats=stats,
        pipeline=SimpleNamespace(refresh_queues=lambda: None),
        cover=None, remake=None, stand_ins=None,
        providers=lambda: {"find": "OpenCV 5.0 CPU"},
        playlist=SimpleNamespace(inputs=names, failures={}, rates={}),
        at_once=False,
        settings=SimpleNamespace(output=Path("out.mp4"), data={}, segment_s=None),
        failed_outputs=[],
        warnings=[],
        stopping=False,
    )  # fmt: skip


def rendered(run, width=80, fps=9.0):
    screen = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    screen.print(panel(run, fps))
    return screen.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("many", [1, 3])
def test_the_panel_fits_and_never_wraps(width, many):
    """Whatever the width and however large the numbers, it is eight lines high."""
    run = run_of(inputs=many, name="/a/very/long/path/" * 8 + "clip.mp4", frames=1_000_000)
    run.tally.tracks.update(range(5000))
    run.stats.drops.update(busy=123_456, late=99)
    run.stats.latency.add(123.4)
    lines = rendered(run, width)
    assert len(lines) == 8
    assert {len(line) for line in lines} == {width}


def test_the_panel_leaves_room_for_the_terminals_echo():
    """It can be narrower than the screen."""
    screen = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    screen.print(panel(run_of(), 9.0, width=75))
    assert {len(line) for line in screen.file.getvalue().splitlines()} == {75}


def test_the_panel_tells_the_truth():
    """Progress, time left, present rate, busy share, queue fill, faces, percentiles, drops."""
    text = "\n".join(rendered(run_of()))
    assert "30%  90/300  0:23 left" in text
    assert "fps 9.0   faces 2 (3 tracks)   drops none" in text
    assert "read" in text
    assert "20%" in text
    assert "95%" in text
    assert "105.56" in text
    assert "■·" in text
    assert "OpenCV 5.0 CPU" in text
    assert "latency p50 / p95 / p99 59 / 105 / 107 ms" in text


def test_a_live_source_has_no_end_and_shows_its_drops():
    """No bar and no time left, but how long it has run and what it dropped."""
    run = run_of(frames=None, is_live=True)
    run.stats.drops.update(busy=7)
    text = "\n".join(rendered(run))
    assert "live for 0:10" in text
    assert "frame 90" in text
    assert "drops 7 busy" in text
    assert "left" not in text


def test_a_file_of_unknown_length_is_not_called_live():
    """A raw stream does not say how many frames it has."""
    text = "\n".join(rendered(run_of(frames=None)))
    assert "running for 0:10" in text


def test_of_several_inputs_the_present_one_is_counted():
    """Which input it is, and that the time left is of this one."""
    run = run_of(inputs=3)
    run.tally.stream = 1
    text = "\n".join(rendered(run))
    assert "input 2 of 3" in text
    assert "left here" in text


def test_a_run_that_is_stopping_says_what_a_second_interrupt_does():
    """After the first Ctrl-C the panel's frame tells, in the same eight lines."""
    run = run_of()
    assert "Ctrl-C" not in "\n".join(rendered(run))
    run.stopping = True
    lines = rendered(run)
    assert "finishing; Ctrl-C again cancels" in lines[-1]
    assert len(lines) == 8


def test_an_estimate_that_was_too_low_never_says_more_than_all():
    """A file with more frames than its header said stays at 100 %."""
    text = "\n".join(rendered(run_of(frames=50)))
    assert "100%  90/50  0:00 left" in text


def test_the_rate_is_that_of_the_last_moments():
    """Ten frames a second, then none for three: the rate is 0, not the mean."""
    meter = RateMeter(window_s=3.0)
    assert meter.update(0.0, 0) == 0
    rates = [meter.update(step / 4, round(step * 2.5)) for step in range(1, 41)]
    assert rates[-1] == pytest.approx(10, rel=0.05)
    rates = [meter.update(10 + step / 4, 100) for step in range(1, 20)]
    assert rates[-1] == 0
    assert all(a >= b for a, b in itertools.pairwise(rates))


def test_the_summary_is_plain_and_right():
    """The last lines say what was done, found, dropped and written."""
    run = run_of()
    run.settings.data = {"jsonl": "-", "csv": "faces.csv"}
    assert summary(run) == [
        "clip.mp4: 90 frames in 10.0 s, 9.0 fps",
        "faces: 3 tracks, 2.00 a frame; happy 67%, neutral 33%",
        "latency: p50 59 ms, p95 105 ms, p99 107 ms; dropped frames: none",
        "busy: read 20%, find 95%",
        "on: find OpenCV 5.0 CPU",
        "written: out.mp4",
        "written: faces.csv",
    ]


def test_the_summary_lists_inputs_that_failed():
    """Each with its reason."""
    run = run_of(inputs=3)
    run.playlist.failures = {1: "cannot open b.mp4: empty"}
    lines = summary(run)
    assert lines[0].startswith("2 of 3 inputs: 90 frames")
    assert lines[-2:] == ["failed: 1 of 3 inputs", "  cannot open b.mp4: empty"]


def test_one_of_a_thing_is_not_many():
    """1 frame, 1 track, 1 face."""
    run = run_of()
    run.tally.frames, run.tally.tracks, run.tally.faces_now = 1, {4}, 1
    assert "1 frame in" in summary(run)[0]
    assert "1 track," in summary(run)[1]
    assert progress_line(run).endswith("1 face")
    assert "(1 track)" in "\n".join(rendered(run))


def test_the_panel_needs_a_real_terminal(monkeypatch):
    """FORCE_COLOR, a dumb terminal, and data on the same terminal mean log lines."""
    shown = []
    monkeypatch.setattr(console, "_watch_panel", lambda *_: shown.append("panel"))
    monkeypatch.setattr(console, "_watch_log", lambda *_: shown.append("log"))

    def watch(*, terminal, term="xterm", to_stdout=False, force=False, live=True):
        class Screen(io.StringIO):
            def isatty(self):
                return terminal

        monkeypatch.setattr("sys.stderr", Screen())
        monkeypatch.setattr("sys.stdout", Screen())
        monkeypatch.setenv("TERM", term)
        if force:
            monkeypatch.setenv("FORCE_COLOR", "1")
        else:
            monkeypatch.delenv("FORCE_COLOR", raising=False)
        run = run_of()
        run.settings.data = {"jsonl": "-"} if to_stdout else {}
        console.watch(run, live=live)
        return shown.pop()

    assert watch(terminal=True) == "panel"
    assert watch(terminal=False) == "log"
    assert watch(terminal=False, force=True) == "log"
    assert watch(terminal=True, term="dumb") == "log"
    assert watch(terminal=True, to_stdout=True) == "log"
    assert watch(terminal=True, live=False) == "log"


def test_the_summary_names_no_output_that_was_lost():
    """Pieces of a recording that were finished are still there."""
    run = run_of()
    run.settings.data = {"csv": "faces.csv"}
    run.failed_outputs = ["cannot write out.mp4: No space left on device"]
    lines = summary(run)
    assert "written: out.mp4" not in lines
    assert "written: faces.csv" in lines
    assert "output lost: cannot write out.mp4: No space left on device" in lines
    run.settings.segment_s = 60.0
    run.failed_outputs = ["cannot write out-007.mp4: No space left on device"]
    assert "written: out-000.mp4 …" in summary(run)


def test_the_summary_tells_what_became_of_faces():
    run = run_of()
    run.settings.reenact = "happy"
    run.remake = SimpleNamespace(tally=RemakeTally(remade=5, skipped=2, hurried=1))
    assert "re-made (happy): 5 faces, 2 too small left alone, 1 blurred to keep up" in summary(run)


def test_the_summary_tells_why_faces_were_blurred():
    run = run_of()
    run.settings.anonymize, run.settings.keep_audio = "synth", False
    run.cover = SimpleNamespace(tally=CoverTally(seen=9, drawn=4))
    run.stand_ins = SimpleNamespace(tally=RemakeTally(remade=4, hurried=3, uncast=2))
    (line,) = (each for each in summary(run) if each.startswith("covered (synth): "))
    assert "4 of these by somebody else, the rest blurred (3 to keep up, 2 while somebody" in line
    run.stand_ins.tally = RemakeTally(remade=9)
    assert any("the rest blurred; check the result" in each for each in summary(run))


def many_streams():
    """Return a run of four cameras: one in work, one that ended, one that failed, one unopened."""
    run = run_of(inputs=4, is_live=True, frames=None, name="hall")
    run.at_once = True
    for number, stream in enumerate((StreamTally("hall"), StreamTally("other 1"))):
        stream.frames, stream.faces_now = 50, 2
        for index in range(100):
            stream.ages.add(time.monotonic(), (index + 1) / 1000)
        run.tally.streams[number] = stream
    run.tally.streams[1].end()
    run.playlist.failures = {2: "cannot open other 2: no route to host"}
    run.stats.count_drop("busy", 7, lane=0)
    run.stats.count_drop("stale", 2, lane=0)
    return run


def test_every_stream_has_a_line_of_its_own():
    """Its present rate, the age of its frames now, its faces and drops; or what became of it."""
    run = many_streams()
    screen = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    screen.print(panel(run, 25.0, stream_fps={0: 12.5}))
    lines = screen.file.getvalue().splitlines()
    assert {len(line) for line in lines} == {100}
    text = [" ".join(line.strip("│").split()) for line in lines]
    assert "4 streams" in lines[0]
    assert "hall 12.5 50 / 95 / 99 2 7 busy, 2 stale" in text
    assert "other 1 ended" in text
    assert "other 2 failed" in text
    assert "other 3 opening" in text


@pytest.mark.parametrize("width", [40, 80])
def test_the_panel_of_many_streams_never_wraps(width):
    run = many_streams()
    run.tally.lowered = "detector 320 px, detect every 8, emotions 4 times rarer"
    assert len({len(line) for line in rendered(run, width)}) == 1
    assert len(rendered(run, width)) == 8 + 1 + 4


def test_a_live_source_shows_how_old_its_frames_are_now():
    """The last seconds count, not the start of the run; what was lowered is told beside it."""
    run = run_of(frames=None, is_live=True)
    now_s = time.monotonic()
    for _ in range(100):
        run.stats.ages.add(now_s - 60, 9.0)
    assert "age p50 / p95 / p99 - / - / - ms" in "\n".join(rendered(run))
    for index in range(100):
        run.stats.ages.add(now_s, (index + 1) / 1000)
    run.tally.lowered = "detect every 8"
    text = "\n".join(rendered(run))
    assert "age p50 / p95 / p99 50 / 95 / 99 ms   lowered: detect every 8" in text


def test_the_log_has_a_line_for_each_stream():
    assert console.stream_lines(many_streams(), {0: 12.5}) == [
        "hall: 12.5 fps, age 50 / 95 / 99 ms, drops 7 busy, 2 stale",
        "other 1: ended, age 50 / 95 / 99 ms, drops none",
    ]


def test_the_summary_has_a_line_for_each_stream():
    run = many_streams()
    run.tally.streams[0].latency.add(0.02)
    run.tally.lowered = "detect every 8"
    lines = summary(run)
    assert "  hall: 50 frames; p50 20 ms, p95 20 ms, p99 20 ms; dropped: 7 busy, 2 stale" in lines
    assert "lowered to keep up: detect every 8" in lines
    assert "failed: 1 of 4 inputs" in lines


def test_rates_are_those_of_the_whole_and_of_each_stream():
    tally = Tally(streams={0: StreamTally("a"), 1: StreamTally("b")})
    rates = Rates().update(0.0, tally)
    tally.frames, tally.streams[0].frames, tally.streams[1].frames = 40, 30, 10
    rates.update(1.0, tally)
    assert (rates.whole, rates.streams) == (40.0, {0: 30.0, 1: 10.0})
