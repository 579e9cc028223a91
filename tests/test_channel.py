"""The channel between two threads: bounded, ordered, closable, cancellable."""

from __future__ import annotations

import threading
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from streamface.pipeline import Cancelled, Channel


class ChannelAgainstDeque(RuleBasedStateMachine):
    """Whatever the order of calls, a channel holds what a bounded deque would hold."""

    @initialize(capacity=st.integers(1, 4))
    def start(self, capacity):
        self.channel = Channel(capacity)
        self.model = deque()
        self.closed = False
        self.sent = 0

    @precondition(lambda self: not self.closed and len(self.model) < self.channel.capacity)
    @rule()
    def put(self):
        self.channel.put(self.sent)
        self.model.append(self.sent)
        self.sent += 1

    @precondition(lambda self: not self.closed)
    @rule()
    def put_newest(self):
        full = len(self.model) == self.channel.capacity
        oldest = [self.model.popleft()] if full else []
        self.model.append(self.sent)
        expected = [(item, self.model[0]) for item in oldest]
        bequeathed = []
        dropped = self.channel.put_newest(self.sent, lambda *pair: bequeathed.append(pair))
        assert (dropped, bequeathed) == (len(expected), expected)
        self.sent += 1

    @precondition(lambda self: self.model or self.closed)
    @rule(at_most=st.integers(1, 5))
    def get(self, at_most):
        expected = [self.model.popleft() for _ in range(min(at_most, len(self.model)))]
        assert self.channel.get_many(at_most) == expected

    @precondition(lambda self: len(self.model) == self.channel.capacity or self.closed)
    @rule(at_most=st.integers(1, 5))
    def get_filled(self, at_most):
        expected = [self.model.popleft() for _ in range(min(at_most, len(self.model)))]
        assert self.channel.get_many(at_most, fill=True) == expected

    @rule()
    def close(self):
        self.channel.close()
        self.closed = True


TestChannelAgainstDeque = ChannelAgainstDeque.TestCase
TestChannelAgainstDeque.settings = settings(max_examples=60, deadline=None)


def in_thread(work):
    """Run ``work`` in a thread; return the thread and the list its outcome lands in."""
    outcome = []

    def body():
        try:
            outcome.append(work())
        except BaseException as exc:  # noqa: BLE001
            outcome.append(exc)

    thread = threading.Thread(target=body)
    thread.start()
    return thread, outcome


def test_put_waits_for_room():
    """A sender on a full channel goes on as soon as one item is taken."""
    channel = Channel(1)
    channel.put("a")
    thread, outcome = in_thread(lambda: channel.put("b"))
    assert channel.get_many(1) == ["a"]
    assert channel.get_many(1) == ["b"]
    thread.join()
    assert outcome == [None]


def test_fill_waits_for_a_whole_batch_or_the_end():
    """With fill, what a receiver gets does not depend on how fast the sender was."""
    channel = Channel(4)
    thread, outcome = in_thread(lambda: [channel.get_many(3, fill=True) for _ in range(3)])
    for number in range(4):
        channel.put(number)
    channel.close()
    thread.join()
    assert outcome == [[[0, 1, 2], [3], []]]


@pytest.mark.parametrize("blocked", ["put", "get"])
def test_cancel_wakes_whoever_waits(blocked):
    """Cancelling raises Cancelled in a thread that already waits."""
    channel = Channel(1)
    if blocked == "put":
        channel.put(0)
        thread, outcome = in_thread(lambda: channel.put(1))
    else:
        thread, outcome = in_thread(lambda: channel.get_many(1))
    channel.cancel()
    thread.join()
    assert isinstance(outcome[0], Cancelled)
    assert len(channel) == 0


def test_put_after_close_is_an_error():
    """Sending after the end is the sender's own mistake."""
    channel = Channel(1)
    channel.close()
    with pytest.raises(ValueError, match="closed"):
        channel.put(1)


def test_capacity_must_be_positive():
    """A channel without room would never move."""
    with pytest.raises(ValueError, match="at least 1, not 0"):
        Channel(0)
