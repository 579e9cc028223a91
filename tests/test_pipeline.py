"""Stages in threads: order, ends, faults. Items are plain numbers here."""

from __future__ import annotations

import threading

import pytest

from streamface.errors import SourceError, StageError
from streamface.pipeline import LatencyHistogram, Pipeline


class Step:
    """A stage that records its calls and fails where told to."""

    def __init__(self, name="step", max_batch=1, fail_at=None, hold=0):
        self.name = name
        self.max_batch = max_batch
        self.batches = []
        self.closed = 0
        self._fail_at = fail_at
        self._hold = hold
        self._held = []

    def process(self, items):
        self.batches.append(list(items))
        for item in items:
            if item == self._fail_at:
                raise RuntimeError(f"cannot digest {item}")
        self._held += items
        ready = self._held[: len(self._held) - self._hold or None]
        if len(self._held) <= self._hold:
            ready = []
        self._held = self._held[len(ready) :]
        return ready

    def finish(self):
        if self._fail_at == "finish":
            raise RuntimeError("cannot finish")
        return self._held

    def close(self):
        self.closed += 1


def run(source, stages, **options):
    pipeline = Pipeline(source, stages, number=lambda item: item, **options)
    with pipeline as items:
        return list(items), pipeline


@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
@pytest.mark.parametrize("capacity", [1, 3])
def test_everything_arrives_once_and_in_order(count, capacity):
    """Order holds through stages that batch and stages that hold items back."""
    stages = [Step("one"), Step("two", max_batch=4), Step("three", hold=5)]
    items, pipeline = run(range(count), stages, capacity=capacity)
    assert items == list(range(count))
    assert [stage.closed for stage in stages] == [1, 1, 1]
    assert [s.frames for s in pipeline.stats.stages] == [count] * 4


def test_batches_do_not_depend_on_timing():
    """A stage that batches gets the same batches in every run of a file."""
    stage = Step(max_batch=4)
    run(range(10), [Step("before"), stage])
    assert stage.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("fail_at", [0, 4, 9])
def test_a_stage_that_raises_ends_the_run_with_its_name_and_item(position, fail_at):
    """First, middle or last stage; first, middle or last item: one error, no thread left."""
    stages = [Step(f"stage{i}", fail_at=fail_at if i == position else None) for i in range(3)]
    with pytest.raises(StageError) as caught:
        run(range(10), stages)
    assert caught.value.stage == f"stage{position}"
    assert caught.value.frame == fail_at
    assert str(caught.value) == (
        f"stage 'stage{position}' failed at frame {fail_at}: RuntimeError: cannot digest {fail_at}"
    )
    assert all(stage.closed == 1 for stage in stages)


def test_a_fault_in_finish_is_reported_too():
    """What a stage does after the last item can fail as well."""
    with pytest.raises(StageError, match="stage 'late' failed at frame 2: .*cannot finish"):
        run(range(3), [Step("late", fail_at="finish")])


def test_a_source_that_raises_a_user_error_passes_it_unchanged():
    """A SourceError already says all: it is not wrapped."""

    def source():
        yield 0
        raise SourceError("the camera left")

    with pytest.raises(SourceError, match="^the camera left$"):
        run(source(), [Step()])


def test_a_source_that_breaks_names_the_read_stage():
    """Any other error in the source names the stage 'read'."""

    def source():
        yield 5
        raise ZeroDivisionError

    with pytest.raises(StageError, match="stage 'read' failed at frame 5: ZeroDivisionError"):
        run(source(), [Step()])


def test_the_caller_may_leave_early():
    """Leaving the block cancels every stage, however full the channels are."""
    stages = [Step("a"), Step("b", max_batch=3)]
    pipeline = Pipeline(iter(range(10**9)), stages, number=lambda item: item)
    with pipeline as items:
        assert next(items) == 0
    assert [stage.closed for stage in stages] == [1, 1]


def test_an_error_of_the_caller_ends_the_threads():
    """A sink that raises in the caller's thread leaves nothing running."""
    pipeline = Pipeline(iter(range(10**9)), [Step()], number=lambda item: item)
    with pytest.raises(OSError, match="disk full"), pipeline as items:
        for item in items:
            if item == 20:
                raise OSError("disk full")


def test_stop_drains_what_is_under_way():
    """After stop the source is asked no more, and every item it gave still arrives."""
    given = []

    def source():
        for number in range(10**9):
            given.append(number)
            yield number

    stages = [Step("a"), Step("b", max_batch=4, hold=3)]
    pipeline = Pipeline(source(), stages, number=lambda item: item)
    arrived = []
    with pipeline as items:
        for item in items:
            arrived.append(item)
            if item == 10:
                pipeline.stop()
    assert arrived == given[: len(arrived)]
    assert len(given) == len(arrived)


def test_live_source_drops_only_at_head():
    """When stages are busy, the oldest waiting item goes; what entered a stage always arrives."""
    all_read = threading.Event()

    class Busy(Step):
        def process(self, items):
            all_read.wait()
            return super().process(items)

    def source():
        yield from range(50)
        all_read.set()

    dropped, heirs, stage = [], [], Busy()

    def on_drop(item, heir):
        dropped.append(item)
        heirs.append(heir)

    items, pipeline = run(source(), [stage], capacity=2, newest_wins=True, on_drop=on_drop)
    assert heirs == [item + 1 for item in dropped]  # what is inherited keeps its place
    assert sorted(items + dropped) == list(range(50))
    assert items == sorted(items)
    assert items[-1] == 49
    assert pipeline.stats.drops == {"busy": len(dropped)}
    assert len(dropped) >= 46


def test_percentiles_hold_to_the_width_of_a_bucket():
    """p50, p95 and p99 of known latencies come back within 2 %."""
    histogram = LatencyHistogram()
    for ms in range(1, 1001):
        histogram.add(ms / 1e3)
    for percent in (50, 95, 99):
        assert histogram.percentile_s(percent) == pytest.approx(percent / 100, rel=0.02)


def test_a_histogram_takes_any_latency():
    """Zero, negative and absurd values land in the outermost buckets."""
    histogram = LatencyHistogram()
    assert histogram.percentile_s(50) == 0.0
    for value in (0.0, -1.0, 1e9):
        histogram.add(value)
    assert len(histogram) == 3
    assert histogram.percentile_s(100) > 1e3


def test_an_interrupt_while_threads_start_leaves_none(monkeypatch):
    """Whatever strikes between two starts, the threads that run already are ended."""
    started = []
    original = threading.Thread.start

    def start(thread):
        if len(started) == 2:
            raise KeyboardInterrupt
        original(thread)
        started.append(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    pipeline = Pipeline(iter(range(10**9)), [Step("a"), Step("b")], number=lambda item: item)
    with pytest.raises(KeyboardInterrupt), pipeline:
        raise AssertionError("entered")
    assert not any(thread.is_alive() for thread in started)
