"""One thread per stage, in order, with one way to end and one way to fail."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from streamface.errors import StageError, StreamfaceError
from streamface.pipeline.channel import Cancelled, Channel
from streamface.pipeline.head import Head, Lane, Lanes
from streamface.pipeline.stats import PipelineStats, StageStats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

T = TypeVar("T")


class Stage(Protocol[T]):
    """A step of the pipeline; always called from the same one thread."""

    name: str
    max_batch: int
    """How many items it likes to get at once."""

    def process(self, items: Sequence[T]) -> Sequence[T]:
        """Work on items, oldest first; return what may go on, in order. May hold items back."""
        ...

    def finish(self) -> Sequence[T]:
        """Return what was held back, in order; called once, after the last item."""
        ...

    def close(self) -> None:
        """Release what the stage holds; called once, whatever happened, after its last call."""
        ...


class _OnlyLane(Generic[T]):
    """The lane of a pipeline that has one source."""

    def __init__(self, items: Iterable[T], *, newest_wins: bool) -> None:
        self.newest_wins = newest_wins
        self._items = items

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)


class Pipeline(Generic[T]):
    """Items from a source through stages, each in its own thread, to the caller.

    Iterate over it (once) to get the items, in order::

        with Pipeline(source, [find, classify], number=lambda frame: frame.index) as frames:
            for frame in frames:
                sink.write(frame)

    The first error in any thread ends the run: every channel is cancelled, every thread joined,
    and the error is raised in the caller's thread as a StageError that names stage and item (of a
    batch, its first).
    Errors that are already fit for the user (StreamfaceError from the source) pass unchanged.
    Leaving the ``with`` block early cancels. ``stop`` ends the source and lets the rest drain.

    ``Lanes`` are several sources at once, each read in a thread of its own and all of them worked
    on by the same stages; the items of each lane stay in order. A lane that is to end without
    ending the others ends its iteration instead of raising.
    """

    def __init__(
        self,
        source: Iterable[T] | Lanes[T],
        stages: Sequence[Stage[T]],
        *,
        number: Callable[[T], int],
        capacity: int = 1,
        newest_wins: bool = False,
        on_drop: Callable[[T, T], None] | None = None,
        is_stale: Callable[[T], bool] | None = None,
        on_stop: Callable[[], None] | None = None,
    ) -> None:
        """Prepare the threads; nothing runs before the ``with`` block is entered.

        number: the number of an item for error messages. capacity: items between two stages (a
        stage that batches gets at least its batch). newest_wins: for live sources; when the
        stages are busy the oldest waiting item is dropped at the head and counted; nothing is
        ever dropped later. Stages that batch then take what is there. Each of several lanes says
        itself whether it drops. on_drop: gets what was dropped (under the head's lock) with the
        item that follows it, which no stage has seen yet. is_stale: what is not worth any work
        when its turn comes; dropped like that. on_stop: ends what the sources may be waiting for;
        called when the pipeline is stopped or cancelled, from any thread and from signal handlers,
        more than once.
        """
        lanes = (
            source.lanes
            if isinstance(source, Lanes)
            else [_OnlyLane(source, newest_wins=newest_wins)]
        )
        self._lanes = list(lanes)
        self._stages = list(stages)
        self._number = number
        self._newest_wins = newest_wins
        self._on_stop = on_stop
        sizes = [max(capacity, stage.max_batch) for stage in self._stages]
        first, *others = [*sizes, capacity]
        self._head = Head[T](
            len(self._lanes),
            first if len(self._lanes) == 1 else capacity,
            is_stale=is_stale,
            bequeath=on_drop,
            on_drop=lambda reason, lane: self.stats.count_drop(reason, lane=lane),
        )
        self._channels = [Channel[T](size) for size in others]
        self._readers = [StageStats("read") for _ in self._lanes]
        one = len(self._lanes) == 1
        reading = self._readers[0] if one else StageStats("read")
        self.stats = PipelineStats([reading, *(StageStats(stage.name) for stage in self._stages)])
        self._error: BaseException | None = None
        self._error_lock = threading.Lock()
        self._stopping = False
        self._ended_lanes: set[int] = set()
        self._growing = threading.Lock()
        self._is_entered = self._is_left = False
        self._threads = [
            threading.Thread(
                target=self._read,
                args=(lane,),
                name="streamface-read" if one else f"streamface-read-{lane}",
            )
            for lane in range(len(self._lanes))
        ]
        self._threads += [
            threading.Thread(target=self._work, args=(i,), name=f"streamface-{stage.name}")
            for i, stage in enumerate(self._stages)
        ]

    def __enter__(self) -> Iterator[T]:
        try:
            with self._growing:
                self._is_entered = True
                for thread in self._threads:
                    thread.start()
        except BaseException:  # an interrupt among the starts must not leave the first ones
            self.__exit__()
            raise
        return self._results()

    def __exit__(self, *_: object) -> None:
        with self._growing:
            self._is_left = True
        self._cancel()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def stop(self) -> None:
        """End the source after the item it is on; what is under way still comes out.

        Takes no lock of its own, so that it may be called from a signal handler.
        """
        self._stopping = True
        if self._on_stop is not None:
            self._on_stop()

    def add_lane(self, lane: Lane[T]) -> int | None:
        """Read another source from now on, beside those of ``Lanes``; return its number.

        None where nothing is taken in any more: all other sources have ended, or the run was
        stopped or left. For any thread.
        """
        with self._growing:
            if self._stopping or self._is_left:
                return None
            # Whoever reads it finds lane and statistics under the number.
            number = self._head.add()
            if number is None:
                return None
            self._lanes.append(lane)
            self._readers.append(StageStats("read"))
            thread = threading.Thread(
                target=self._read, args=(number,), name=f"streamface-read-{number}"
            )
            self._threads.append(thread)
            if self._is_entered:
                thread.start()
            return number

    def end_lane(self, lane: int) -> None:
        """End one of several sources after the item it is on; the others go on."""
        self._ended_lanes.add(lane)

    def taken_in_all(self, lane: int) -> int | None:
        """Return how many items of a lane the stages got, once it has ended; None before that."""
        return self._head.taken_in_all(lane)

    def refresh_queues(self) -> None:
        """Write the present fill of every channel, and of the readers, into the statistics."""
        queues: list[Head[T] | Channel[T]] = [self._head, *self._channels]
        for stats, queue in zip(self.stats.stages[1:], queues, strict=False):
            stats.queue_len, stats.queue_capacity = len(queue), queue.capacity
        reading, count = self.stats.stages[0], len(self._readers)
        if count > 1:
            reading.busy_s = sum(reader.busy_s for reader in self._readers) / count
            reading.cpu_s = sum(reader.cpu_s for reader in self._readers) / count
            reading.frames = sum(reader.frames for reader in self._readers) // count

    def _results(self) -> Iterator[T]:
        last = self._channels[-1] if self._channels else self._head
        try:
            while batch := last.get_many(1):
                yield from batch
        except Cancelled:
            pass
        for thread in self._threads:
            thread.join()
        self.refresh_queues()
        if self._error is not None:
            raise self._error

    def _cancel(self) -> None:
        self._head.cancel()
        for channel in self._channels:
            channel.cancel()
        if self._on_stop is not None:
            self._on_stop()

    def _fail(self, error: BaseException) -> None:
        with self._error_lock:
            if self._error is None:
                self._error = error
        self._cancel()

    def _read(self, lane: int) -> None:
        stats, source = self._readers[lane], self._lanes[lane]
        number: int | None = None
        try:
            items = iter(source)
            while not (self._stopping or lane in self._ended_lanes):
                with stats.timed():
                    item = next(items, None)
                if item is None:
                    break
                number = self._number(item)
                stats.frames += 1
                if source.newest_wins:
                    self._head.put_newest(item, lane)
                else:
                    self._head.put(item, lane)
            self._head.close(lane)
        except Cancelled:
            pass
        except StreamfaceError as exc:
            self._fail(exc)
        except Exception as exc:  # noqa: BLE001 - the stage runner is where errors are gathered
            self._fail(_as_stage_error(stats.name, number, exc))

    def _work(self, position: int) -> None:
        stage, stats = self._stages[position], self.stats.stages[position + 1]
        inbox = self._channels[position - 1] if position else self._head
        outbox = self._channels[position]
        number: int | None = None
        try:
            try:
                while batch := inbox.get_many(stage.max_batch, fill=not self._newest_wins):
                    number = self._number(batch[0])
                    with stats.timed():
                        done = stage.process(batch)
                    stats.frames += len(batch)
                    del batch
                    for item in done:
                        outbox.put(item)
                with stats.timed():
                    rest = stage.finish()
                for item in rest:
                    outbox.put(item)
            finally:
                stage.close()
            outbox.close()
        except Cancelled:
            pass
        except Exception as exc:  # noqa: BLE001 - the stage runner is where errors are gathered
            self._fail(_as_stage_error(stats.name, number, exc))


def _as_stage_error(stage: str, number: int | None, exc: Exception) -> StageError:
    error = StageError(stage, number, exc)
    error.__cause__ = exc
    return error
