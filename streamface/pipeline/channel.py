"""A bounded, ordered, closable, cancellable queue between two threads."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Cancelled(Exception):  # noqa: N818 - a state, not a fault
    """The channel was cancelled; whoever waits on it must stop now."""


class Channel(Generic[T]):
    """One sender, one receiver, at most ``capacity`` items between them.

    Closing is the end of the stream: items already sent are still received, then ``get_many``
    returns nothing. Cancelling discards what is inside and raises Cancelled on both sides, also
    in a thread that already waits. There is no time-out and no polling anywhere.
    """

    def __init__(self, capacity: int, changed: threading.Condition | None = None) -> None:
        """Begin empty. changed: what a receiver of several channels waits on; None: its own."""
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {capacity}")
        self.capacity = capacity
        self.closed = False
        """Whether the sender said that nothing more will come."""
        self.cancelled = False
        self._items: deque[T] = deque()
        self._changed = changed or threading.Condition()

    def put(self, item: T) -> None:
        """Append ``item``, waiting while the channel is full. Raises Cancelled, ValueError."""
        with self._changed:
            while len(self._items) >= self.capacity and not self.cancelled:
                self._changed.wait()
            self._append(item)

    def put_newest(self, item: T, bequeath: Callable[[T, T], None] | None = None) -> int:
        """Append ``item`` at once; return how many of the oldest had to make room for it.

        This is the only operation that drops, meant for the head of a live stream. ``bequeath`` is
        called with each item dropped and the one that follows it, before anybody can receive that.
        """
        with self._changed:
            dropped = 0
            while len(self._items) >= self.capacity:
                oldest = self._items.popleft()
                dropped += 1
                if bequeath is not None:
                    bequeath(oldest, self._items[0] if self._items else item)
            self._append(item)
            return dropped

    def _append(self, item: T) -> None:
        if self.cancelled:
            raise Cancelled
        if self.closed:
            raise ValueError("put on a closed channel")
        self._items.append(item)
        self._changed.notify_all()

    def get_many(self, at_most: int, *, fill: bool = False) -> list[T]:
        """Return 1..at_most items in order, or [] once the channel is closed and empty.

        Waits for the first item; with ``fill``, waits until ``at_most`` items (or as many as fit
        the channel) are there or the sender closed, so that batches do not depend on timing.
        """
        wanted = min(at_most, self.capacity) if fill else 1
        with self._changed:
            while len(self._items) < wanted and not (self.closed or self.cancelled):
                self._changed.wait()
            if self.cancelled:
                raise Cancelled
            taken = [self._items.popleft() for _ in range(min(at_most, len(self._items)))]
            self._changed.notify_all()
            return taken

    def close(self) -> None:
        """Say that nothing more will be sent. Closing twice is harmless."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """Discard everything and wake both sides with Cancelled."""
        with self._changed:
            self.cancelled = True
            self._items.clear()
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._items)
