"""Several outputs at once: whole files, sinks that are slow or die, and sound for each."""

from __future__ import annotations

import threading
from fractions import Fraction

import av
import clips
import pytest

from streamface.decode import ReadOptions
from streamface.encode import VideoOptions
from streamface.errors import SinkError
from streamface.fanout import FanOut, QueuedSink
from streamface.frame import Colour, Frame, Planes
from streamface.sinks import VideoSink
from streamface.sources import find_inputs, open_source


def frame(index, packets=()):
    planes = Planes.allocate((16, 16), Colour())
    return Frame(0, index, index, Fraction(1, 30), planes, packets=packets)


class Sink:
    """Keeps what it gets; waits for ``gate`` and fails at a frame where told to."""

    def __init__(self, fail_at=None, gate=None):
        self.warnings = ["odd"]
        self.written, self.packets = [], []
        self.closed = self.aborted = 0
        self.tail = None
        self._fail_at, self._gate = fail_at, gate
        self.entered = threading.Event()

    def write(self, each):
        self.entered.set()
        if self._gate is not None:
            assert self._gate.wait(20)
        if each.index == self._fail_at:
            raise SinkError("disk full")
        self.written.append(each.index)
        self.packets += each.packets

    def close(self, tail_packets=()):
        if self._fail_at == "close":
            raise SinkError("cannot be closed")
        self.tail = tuple(tail_packets)
        self.closed += 1

    def abort(self):
        self.aborted += 1


def test_a_queued_sink_writes_all_in_order_and_closes_once():
    inner, seen = Sink(), []
    sink = QueuedSink(inner, "a", capacity=40, on_written=lambda each: seen.append(each.index))
    for index in range(30):
        own = frame(index, packets=(index,))
        sink.write(own)
        own.packets = ()  # as the caller does once a frame is written
    sink.close(("tail",))
    assert inner.written == inner.packets == seen == list(range(30))
    assert (inner.closed, inner.aborted, inner.tail) == (1, 0, ("tail",))
    assert sink.dropped == 0
    assert sink.warnings == ["odd"]


def test_a_slow_sink_loses_frames_and_no_sound_and_holds_nobody_up():
    gate = threading.Event()
    inner, dropped = Sink(gate=gate), []
    sink = QueuedSink(inner, "a", capacity=3, on_drop=dropped.append)
    sink.write(frame(0, packets=(0,)))
    assert inner.entered.wait(20)
    for index in range(1, 50):
        sink.write(frame(index, packets=(index,)))
    gate.set()
    sink.close()
    assert inner.written == [0, 47, 48, 49]
    assert inner.packets == list(range(50))
    assert sink.dropped == sum(dropped) == 46


def test_a_sink_that_dies_is_told_at_the_next_frame():
    sink = QueuedSink(Sink(fail_at=0), "a")
    sink.write(frame(0))
    sink._thread.join()
    with pytest.raises(SinkError, match="disk full"):
        sink.write(frame(1))
    sink.abort()


def test_a_sink_that_dies_last_is_told_when_it_is_closed():
    inner = Sink(fail_at=1)
    sink = QueuedSink(inner, "a")
    sink.write(frame(0))
    sink.write(frame(1))
    with pytest.raises(SinkError, match="disk full"):
        sink.close()
    assert inner.closed == 0
    sink.abort()
    assert inner.aborted == 1


def test_a_sink_that_never_got_a_frame_is_closed_all_the_same():
    inner = Sink()
    QueuedSink(inner, "a").close(("tail",))
    assert inner.tail == ("tail",)
    QueuedSink(inner, "a").abort()
    assert (inner.closed, inner.aborted) == (1, 1)


def test_of_several_live_outputs_one_may_die():
    good, bad, told = Sink(), Sink(fail_at=2), []
    both = FanOut([bad, good], on_failure=lambda exc: told.append(str(exc)))
    for index in range(5):
        both.write(frame(index))
    both.close(())
    assert told == ["disk full"]
    assert (bad.aborted, bad.closed) == (1, 0)
    assert (good.written, good.closed) == ([0, 1, 2, 3, 4], 1)


def test_the_last_output_to_die_is_an_error():
    both = FanOut([Sink(fail_at=1), Sink(fail_at=1)], on_failure=lambda _: None)
    both.write(frame(0))
    with pytest.raises(SinkError):
        both.write(frame(1))


def test_one_that_cannot_be_finished_does_not_keep_the_others_from_it():
    good, told = Sink(), []
    both = FanOut([Sink(fail_at="close"), good], on_failure=lambda exc: told.append(str(exc)))
    both.write(frame(0))
    both.close()
    assert (told, good.closed) == (["cannot be closed"], 1)


def test_for_files_the_first_error_counts():
    sinks = [Sink(), Sink(fail_at=0)]
    both = FanOut(sinks)
    with pytest.raises(SinkError, match="disk full"):
        both.write(frame(0))
    both.abort()
    assert [sink.aborted for sink in sinks] == [1, 1]


@pytest.mark.parametrize("queued", [False, True])
def test_every_output_has_all_pictures_and_the_same_sound(tmp_path, queued):
    """Copied into two containers and re-encoded for a third and a fourth."""
    clip = clips.write_clip(tmp_path / "clip.mp4", 30, audio_codec="aac")
    source = open_source(find_inputs(str(clip))[0], ReadOptions())
    targets = [tmp_path / name for name in ("a.mp4", "b.mkv", "c.webm", "d.webm")]
    sinks = [VideoSink(target, source.info, VideoOptions()) for target in targets]
    if queued:
        sinks = [QueuedSink(sink, str(n), capacity=60) for n, sink in enumerate(sinks)]
    both = FanOut(sinks)
    for each in source:
        both.write(each)
        each.packets = ()
    both.close(source.tail_packets)
    source.close()
    for target in targets:
        with av.open(str(target)) as container:
            assert sum(1 for _ in container.decode(video=0)) == 30
    sound = clips.audio_packets(clip)
    assert clips.audio_packets(targets[0]) == clips.audio_packets(targets[1]) == sound
    encoded = [clips.audio_packets(target) for target in targets[2:]]
    assert encoded[0] == encoded[1]
    assert len(encoded[0]) > 40
