"""Labels follow the face and do not flicker."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamface.frame import EMOTIONS, UNCERTAIN
from streamface.smoothing import EmotionSmoother, SmoothingSettings

HAPPY, SAD = EMOTIONS.index("happy"), EMOTIONS.index("sad")


def probs(**named):
    """Return a (7,) vector with the named probabilities, the rest spread evenly."""
    rest = (1 - sum(named.values())) / (7 - len(named))
    return np.array([named.get(name, rest) for name in EMOTIONS], np.float32)


def smoother(tau_s=0.25, margin=0.08, uncertain_below=0.3):
    return EmotionSmoother(SmoothingSettings(tau_s, margin), uncertain_below)


def test_the_first_look_is_taken_as_it_is():
    """A still image needs no smoothing."""
    reading = smoother().update(probs(happy=0.8), 3.0)
    assert reading.label == "happy"
    assert np.array_equal(reading.probs, reading.smoothed)


def test_a_single_odd_frame_does_not_change_the_label():
    """One frame of another emotion among many is noise; the raw values still show it."""
    track = smoother()
    for i in range(20):
        track.update(probs(happy=0.8), i / 30)
    odd = track.update(probs(sad=0.9), 20 / 30)
    assert odd.label == "happy"
    assert odd.probs[SAD] == pytest.approx(0.9)


def test_a_lasting_change_is_followed_within_half_a_second():
    """A new expression that stays wins soon."""
    track = smoother()
    for i in range(30):
        track.update(probs(happy=0.8), i / 30)
    labels = [track.update(probs(sad=0.8), (30 + i) / 30).label for i in range(15)]
    assert labels[-1] == "sad"


def test_two_equal_emotions_do_not_alternate():
    """Near a tie the label that is there stays."""
    track = smoother(tau_s=0.0)
    labels = {
        track.update(probs(happy=0.42 + 0.02 * (i % 2), sad=0.43), i / 30).label for i in range(20)
    }
    assert len(labels) == 1


def test_uncertain_has_a_band_of_its_own():
    """A face at the threshold is either uncertain or not, but does not blink."""
    track = smoother(tau_s=0.0, uncertain_below=0.4)
    assert track.update(probs(happy=0.39), 0.0).label == UNCERTAIN
    assert track.update(probs(happy=0.42), 0.1).label == UNCERTAIN
    assert track.update(probs(happy=0.46), 0.2).label == "happy"
    assert track.update(probs(happy=0.41), 0.3).label == "happy"


@given(st.lists(st.tuples(st.integers(0, 6), st.floats(0, 2)), min_size=1, max_size=30))
def test_smoothed_values_stay_probabilities(looks):
    """Whatever comes at whatever time, the smoothed vector sums to one and stays in 0..1."""
    track, time_s = smoother(), 0.0
    for best, step_s in looks:
        vector = np.full(7, 0.05, np.float32)
        vector[best] = 0.7
        time_s += step_s
        smoothed = track.update(vector, time_s).smoothed
        assert smoothed.sum() == pytest.approx(1, abs=1e-5)
        assert smoothed.min() >= 0


def test_the_raw_vector_is_not_touched():
    """Smoothing works on a copy."""
    first = probs(happy=0.8)
    kept = first.copy()
    track = smoother()
    track.update(first, 0.0)
    track.update(probs(sad=0.9), 1.0)
    assert np.array_equal(first, kept)
