"""Where sources meet the first stage: a lane each, emptied in turn."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from streamface.pipeline.channel import Channel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Lane(Protocol[T_co]):
    """One of several sources: iterate once, in a thread of its own."""

    @property
    def newest_wins(self) -> bool:
        """Whether it cannot wait; asked once an item is there."""
        ...

    def __iter__(self) -> Iterator[T_co]: ...


class Lanes(Generic[T_co]):
    """Several sources that are read at once, as the source of one pipeline."""

    def __init__(self, lanes: Sequence[Lane[T_co]]) -> None:
        self.lanes = tuple(lanes)


class Head(Generic[T]):
    """Several senders, one receiver: a bounded lane for each sender, one item from each in turn.

    So a source that floods its lane, or whose frames take long, costs the others nothing but its
    own turn. All of dropping happens here: in a lane whose newest item wins, and where an item has
    become stale before anybody took it. Like ``Channel`` in all else.
    """

    def __init__(
        self,
        lanes: int = 1,
        capacity: int = 1,
        *,
        is_stale: Callable[[T], bool] | None = None,
        bequeath: Callable[[T, T], None] | None = None,
        on_drop: Callable[[str, int], None] | None = None,
    ) -> None:
        """capacity: items in each lane. is_stale: whether an item is not worth any work any more.

        bequeath: called with each item that was dropped and the one that follows it in its lane,
        before a stage can see that. on_drop: called with the reason ("busy", "stale") and the lane.
        """
        self._changed = threading.Condition()
        self._lane_capacity = capacity
        self._is_over = self._is_cancelled = False
        self._lanes = [Channel[T](capacity, self._changed) for _ in range(lanes)]
        self._taken = [0] * lanes
        self._orphaned: dict[int, T] = {}
        """By lane: the stale item whose heir has not come yet."""
        self._next = 0
        self._is_stale = is_stale
        self._bequeath = bequeath
        self._on_drop = on_drop
        self.capacity = capacity * lanes

    def add(self) -> int | None:
        """Open another lane and return its number; None where the receiver was told of the end."""
        with self._changed:
            if self._is_over or self._is_cancelled:
                return None
            self._lanes.append(Channel(self._lane_capacity, self._changed))
            self._taken.append(0)
            self.capacity += self._lane_capacity
            return len(self._lanes) - 1

    def put(self, item: T, lane: int = 0) -> None:
        """Append ``item``, waiting while its lane is full. Raises Cancelled, ValueError."""
        self._lanes[lane].put(item)

    def put_newest(self, item: T, lane: int = 0) -> None:
        """Append ``item`` at once; the oldest of its lane makes room. Raises as ``put`` does."""
        for _ in range(self._lanes[lane].put_newest(item, self._bequeath)):
            self._count("busy", lane)

    def get_many(self, at_most: int, *, fill: bool = False) -> list[T]:
        """Return 1..at_most items, or [] once every lane is closed and empty; see ``Channel``."""
        wanted = min(at_most, self.capacity) if fill else 1
        with self._changed:
            while True:
                while len(self) < wanted and self._may_grow():
                    self._changed.wait()
                is_over = all(lane.closed for lane in self._lanes)
                if (taken := self._take(at_most)) or (is_over and not len(self)):
                    self._is_over = not taken
                    return taken

    def _may_grow(self) -> bool:
        """Whether any lane may still get an item before one is taken."""
        return any(
            not lane.closed and not lane.cancelled and len(lane) < lane.capacity
            for lane in self._lanes
        )

    def _take(self, at_most: int) -> list[T]:
        """Take what is there, an item from each lane in turn; leave out what is stale."""
        taken: list[T] = []
        idle = 0
        while len(taken) < at_most and idle < len(self._lanes):
            number, self._next = self._next, (self._next + 1) % len(self._lanes)
            lane = self._lanes[number]
            if not len(lane) and not lane.cancelled:
                idle += 1
                continue
            (item,) = lane.get_many(1)
            idle = 0
            if self._is_worth_it(item, number):
                self._taken[number] += 1
                taken.append(item)
        return taken

    def _is_worth_it(self, item: T, lane: int) -> bool:
        orphaned = self._orphaned.pop(lane, None)
        if orphaned is not None and self._bequeath is not None:
            self._bequeath(orphaned, item)
        if self._is_stale is None or not self._is_stale(item):
            return True
        self._orphaned[lane] = item
        self._count("stale", lane)
        return False

    def _count(self, reason: str, lane: int) -> None:
        if self._on_drop is not None:
            self._on_drop(reason, lane)

    def close(self, lane: int = 0) -> None:
        """Say that nothing more will be sent in a lane."""
        self._lanes[lane].close()

    def cancel(self) -> None:
        """Discard everything and wake all sides with Cancelled."""
        with self._changed:
            self._is_cancelled = True
        for lane in self._lanes:
            lane.cancel()

    def taken_in_all(self, lane: int) -> int | None:
        """Return how many items of a lane went on, once no more will; None before that."""
        with self._changed:
            channel = self._lanes[lane]
            return self._taken[lane] if channel.closed and not len(channel) else None

    def __len__(self) -> int:
        return sum(len(lane) for lane in self._lanes)
