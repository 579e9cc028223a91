"""Files played as if live: at their own pace, with the trouble that was asked for."""

from __future__ import annotations

import time
from itertools import islice, pairwise

import av
import clips
import pytest

from streamface.app import Run
from streamface.errors import UsageError
from streamface.live import Looped, SimulatedLive, Trouble
from streamface.settings import Settings
from streamface.testing import CountingSource


class Clock:
    """A clock that only sleeping moves, and work done between frames."""

    def __init__(self):
        self.time_s = 100.0
        self.slept_s = []

    def now(self):
        return self.time_s

    def sleep(self, seconds):
        assert seconds > 0
        self.slept_s.append(seconds)
        self.time_s += seconds


def play(count=30, work_s=0.0, **trouble):
    clock = Clock()
    source = SimulatedLive(
        CountingSource(count), Trouble(**trouble), now=clock.now, sleep=clock.sleep
    )
    frames, came_s = [], []
    for frame in source:
        frames.append(frame)
        came_s.append(clock.time_s)
        clock.time_s += work_s
    return frames, came_s


def test_frames_come_when_they_are_due():
    frames, came_s = play()
    assert len(frames) == 30
    for frame, when_s in zip(frames, came_s, strict=True):
        assert when_s - 100 == pytest.approx(frame.time_s - frames[0].time_s)
        assert frame.captured_s == pytest.approx(when_s)


def test_a_slow_consumer_gets_them_late_and_their_age_shows_it():
    frames, came_s = play(10, work_s=1.0)
    assert came_s[-1] == pytest.approx(109)
    ages_s = [when - frame.captured_s for frame, when in zip(frames, came_s, strict=True)]
    assert ages_s == sorted(ages_s)
    assert ages_s[-1] > 8


def test_dropped_frames_never_come_and_the_same_ones_each_time():
    first, _ = play(200, drop=0.2)
    again, _ = play(200, drop=0.2)
    assert [f.pts for f in first] == [f.pts for f in again]
    assert 130 < len(first) < 185


def test_packets_of_dropped_frames_are_not_lost():
    class WithPackets(CountingSource):
        def __iter__(self):
            for frame in super().__iter__():
                frame.packets = (frame.pts,)
                yield frame

    clock = Clock()
    trouble = Trouble(drop=0.3)
    source = SimulatedLive(WithPackets(100), trouble, now=clock.now, sleep=clock.sleep)
    frames = list(source)
    carried = [packet for frame in frames for packet in frame.packets]
    assert carried == sorted(carried)
    assert set(range(frames[-1].pts + 1)) <= set(carried) | set(range(frames[0].pts))


def test_jitter_delays_but_keeps_the_order():
    frames, came_s = play(60, jitter_s=0.2)
    assert came_s == sorted(came_s)
    delays_s = [
        w - 100 - (f.time_s - frames[0].time_s) for f, w in zip(frames, came_s, strict=True)
    ]
    assert min(delays_s) >= -1e-9
    assert 0.1 < max(delays_s) <= 0.2 + 1e-9


def test_a_stall_is_followed_by_all_that_was_due():
    frames, came_s = play(400, stall_s=2.0)
    gaps_s = [b - a for a, b in pairwise(came_s)]
    assert max(gaps_s) == pytest.approx(2.0, abs=0.1)
    burst = [when for when in came_s if when == pytest.approx(110.0)]
    assert len(burst) > 20
    assert len(frames) == 400


def test_it_says_it_is_live():
    source = SimulatedLive(CountingSource(3), Trouble())
    assert source.info.is_live
    source.close()


def test_trouble_is_read_from_words():
    assert Trouble.parse("") == Trouble()
    assert Trouble.parse("drop=0.1, stall=2,jitter=0.05") == Trouble(0.1, 2, 0.05)


@pytest.mark.parametrize(
    "text", ["drop", "drop=x", "drop=1", "drop=-0.1", "loss=0.1", "stall=11", "jitter=nan", "a=b=c"]
)
def test_wrong_trouble_is_refused(text):
    with pytest.raises(UsageError, match="--inject"):
        Trouble.parse(text)


def test_sound_of_dropped_frames_keeps_its_order(tmp_path):
    """A burst after a stall drops frames at the head; their packets must not overtake others."""
    clip = clips.write_clip(tmp_path / "clip.mp4", 40, audio_codec="aac")
    out = tmp_path / "out.mp4"
    settings = Settings(source=str(clip), output=out, tasks=(), simulate_live=True)
    with Run(settings) as run:
        slow = run.pipeline._stages[0]
        process = slow.process

        def dawdle(items):
            time.sleep(0.1)
            return process(items)

        slow.process = dawdle
        run.execute()
        assert run.stats.drops["busy"] > 3
    with av.open(str(clip)) as before, av.open(str(out)) as after:
        sound = [[bytes(p) for p in each.demux(audio=0) if p.size] for each in (before, after)]
    assert sound[1] == sound[0]


def test_a_clip_may_begin_again_and_its_times_go_on():
    opened = []

    def open_again():
        opened.append(CountingSource(4))
        return opened[-1]

    looped = Looped(open_again)
    assert looped.info.frames is None
    frames = list(islice(looped, 10))
    assert [frame.index for frame in frames] == list(range(10))
    assert [frame.pts for frame in frames] == list(range(10))
    looped.close()
    assert [source.closed for source in opened] == [1, 1, 1]
