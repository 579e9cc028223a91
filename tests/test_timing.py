"""Presentation times come out strictly increasing, whatever the source says."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamface.timing import FrameClock, plausible_rate


@given(st.lists(st.one_of(st.none(), st.integers(-1000, 1000)), max_size=40))
def test_times_always_increase(said):
    """Missing, repeated and falling times are mended; good ones are kept."""
    clock = FrameClock(Fraction(1, 90_000), Fraction(30))
    given_out = [clock.next(pts) for pts in said]
    assert all(a < b for a, b in itertools.pairwise(given_out))
    kept = sum(a == b for a, b in zip(said, given_out, strict=True))
    assert kept + clock.moved + clock.missing == len(said)


def test_missing_times_follow_by_the_frame_duration():
    """A raw stream of 25 fps gets a frame every 40 ms."""
    clock = FrameClock(Fraction(1, 1000), Fraction(25))
    assert [clock.next(None) for _ in range(3)] == [0, 40, 80]


def test_an_unknown_rate_is_25():
    """None (PyAV 18), a falsy rational (PyAV 19) and absurd rates are no rates."""
    assert plausible_rate(None, Fraction(0), Fraction(90_000)) == 25
    assert plausible_rate(None, Fraction(30_000, 1001), Fraction(25)) == Fraction(30_000, 1001)


def test_a_clock_needs_a_positive_base():
    """A time base of zero would divide by it later."""
    with pytest.raises(ValueError, match="must be positive"):
        FrameClock(Fraction(0), Fraction(30))
