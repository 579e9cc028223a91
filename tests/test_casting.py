"""Who stands in for somebody: two rounds of strangers, in one go or by and by."""

from __future__ import annotations

import numpy as np
import pytest

from streamface.casting import ROUND, Casting, faults, led_by
from streamface.likeness import Looks

WIDTH = 8


def casting(seen=None):
    """Return a search for somebody unlike the first axis, where a key is what it looks like."""
    rng = np.random.default_rng(3)

    def look_at(keys):
        if seen is not None:
            seen.append(keys)
        looks = keys / np.linalg.norm(keys, axis=1, keepdims=True)
        return Looks(looks, np.ones(len(keys), np.float32))

    source = np.eye(WIDTH, dtype=np.float32)[0]
    return Casting(source, lambda count: rng.standard_normal((count, WIDTH), np.float32), look_at)


def found(search, step):
    while search.left:
        assert 0 < search.go_on(step, []) <= step
    assert search.go_on(step, []) == 0
    return search.chosen([])


@pytest.mark.parametrize("step", [1, 3, 7, ROUND, 1000])
def test_however_often_it_is_left_the_same_one_is_found(step):
    seen = []
    chosen = found(casting(seen), step)
    assert max(map(len, seen)) == min(step, ROUND)  # a round waits for what the last one says
    everybody = np.concatenate(seen)
    assert len(everybody) == 2 * ROUND
    at_once = found(casting(), ROUND)
    assert np.array_equal(chosen.key, at_once.key)
    assert np.array_equal(chosen.look, at_once.look)
    looks = everybody[:, 0] / np.linalg.norm(everybody, axis=1)
    assert chosen.look[0] == pytest.approx(looks.min())


def test_the_second_round_is_led_away_from_the_person():
    seen = []
    found(casting(seen), ROUND)
    first, second = seen
    assert second[:, 0].mean() < first[:, 0].mean() - 0.2


def test_one_who_looks_like_another_stand_in_is_passed_over():
    search = casting()
    best = found(search, ROUND)
    assert not np.array_equal(search.chosen([best.look]).key, best.key)


def test_faults_are_likeness_to_anybody_and_oddness():
    axes = np.eye(3, dtype=np.float32)
    plain = np.ones(3, np.float32)
    assert faults(Looks(axes, plain), axes[1], []).argmax() == 1
    like_another = faults(Looks(axes, plain), axes[1], [axes[0]])
    assert like_another.argsort().tolist() == [2, 0, 1]  # the source counts most
    assert faults(Looks(axes[[0, 0, 0]], np.array((1, 2, 1), "f4")), axes[1], []).argmax() == 1


def test_those_led_by_others_are_as_long_and_lie_where_these_were_unlike():
    rng = np.random.default_rng(0)
    first, others = (rng.standard_normal((n, 64), np.float32) for n in (16, 400))
    led = led_by(first, first[:, 3], others)
    assert np.linalg.norm(led, axis=1).mean() == pytest.approx(8, abs=0.3)
    assert led.mean(0).argmin() == 3
    assert np.isfinite(led_by(first, np.ones(16, np.float32), others)).all()  # no way is better
