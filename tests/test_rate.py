"""The rate of a source as it is, not as it says."""

from __future__ import annotations

import pytest

from streamface.rate import MeasuredRate


def fed(times_s, **options):
    rate = MeasuredRate(**options)
    for time_s in times_s:
        rate.add(time_s)
    return rate


@pytest.mark.parametrize("fps", [7.5, 15, 29.97, 120])
def test_a_steady_source_has_its_rate(fps):
    rate = fed([50 + i / fps for i in range(400)])
    assert rate.mean == pytest.approx(fps)
    assert rate.recent(50 + 399 / fps) == pytest.approx(fps)
    assert rate.frames == 400


def test_one_frame_is_no_rate():
    assert MeasuredRate().recent(0.0) == 0.0
    assert fed([3.0]).recent(9.0) == fed([3.0]).mean == 0.0


def test_the_recent_rate_follows_a_camera_that_slows_down():
    light = [i / 30 for i in range(300)]
    dark = [light[-1] + i / 15 for i in range(1, 46)]
    rate = fed(light + dark)
    assert rate.recent(dark[-1]) == pytest.approx(15)
    assert rate.mean == pytest.approx(344 / 12.97, rel=0.01)


def test_a_stall_shows_at_once_and_a_frame_just_due_does_not():
    rate = fed([i / 30 for i in range(61)])
    assert rate.recent(2.0 + 1 / 30) == pytest.approx(30)
    assert rate.recent(4.0 + 1 / 30) == pytest.approx(15)
    assert rate.recent(62.0) < 1


def test_jitter_does_not_move_it():
    rate = fed([i / 30 + (0.01 if i % 2 else 0.0) for i in range(200)])
    assert rate.recent(199 / 30 + 0.01) == pytest.approx(30, rel=0.02)


def test_memory_is_that_of_the_window():
    rate = fed((i / 60 for i in range(10_000)), window_s=1.0)
    assert len(rate._seen) <= 62
