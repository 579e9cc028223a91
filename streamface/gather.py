"""Several inputs at the same time, each read in a thread of its own."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING

from streamface.errors import SourceError, StreamfaceError
from streamface.live import SimulatedLive, Trouble
from streamface.pipeline import Lanes
from streamface.playlist import Opened
from streamface.sources import Stoppable, open_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from streamface.decode import ReadOptions
    from streamface.frame import Frame
    from streamface.pipeline import Lane
    from streamface.sources import Input, Source

_log = logging.getLogger(__name__)


class Gathering(Opened):
    """The inputs of a run that go on at once; ``Frame.stream`` is the input's number.

    All are opened at the same time, and construction waits for the first that could be: a camera
    that does not answer keeps nobody waiting. A file among them is played at its own pace, as if
    it were live: read as fast as it can be, it would take the time of the others. A stream that
    cannot be opened, breaks or comes to a bad end is noted in ``failures``, and the others go on.
    More may be added, and single ones ended, while it goes on. Otherwise as ``Playlist``.
    """

    def __init__(
        self,
        inputs: Sequence[Input],
        options: ReadOptions,
        *,
        opener: Callable[..., Source] = open_source,
    ) -> None:
        """Raise SourceError where none can be opened."""
        super().__init__(inputs, options, opener)
        self._is_stopped = False
        self._ended: set[int] = set()
        self._closing: list[threading.Thread] = []
        self._threads = ThreadPoolExecutor(len(self.inputs), "streamface-open")
        try:
            self._opening = {
                number: self._threads.submit(self._open, number)
                for number in range(len(self.inputs))
            }
            self._threads.shutdown(wait=False)  # each thread ends with what it is at
            self._first = self._first_opened()
        except BaseException:
            self.close()
            raise

    @property
    def first(self) -> Source:
        """The source that was opened first."""
        return self._first

    def _open(self, number: int) -> Source:
        source = self._opener(self.inputs[number], self._options, stream=number)
        if not source.info.is_live:
            source = SimulatedLive(source, Trouble())
        self.opened[number] = source
        if (self._is_stopped or number in self._ended) and isinstance(source, Stoppable):
            source.stop()  # who stopped it came before it was there
        return source

    def add(self, what: Input) -> Lane[Frame]:
        """Take in another input; return what opens and reads it, to be the pipeline's next lane."""
        self.inputs.append(what)
        return _Lane(self, len(self.inputs) - 1)

    def end(self, number: int) -> None:
        """Let one input end whatever it waits for; that is no failure. For any thread."""
        self._ended.add(number)
        source = self.opened.get(number)
        if isinstance(source, Stoppable):
            source.stop()

    def stop(self) -> None:
        """Let all of them end whatever they wait for."""
        self._is_stopped = True
        super().stop()

    def _first_opened(self) -> Source:
        for done in as_completed(self._opening.values()):
            if done.exception() is None:
                return done.result()
        reason = self._opening[0].exception()
        raise SourceError(
            f"none of the {len(self.inputs)} inputs could be read; the first: {reason}"
        )

    def lanes(self) -> Lanes[Frame]:
        """Return a lane for each input, to be read in a thread of its own."""
        return Lanes([_Lane(self, number) for number in range(len(self.inputs))])

    def frames(self, number: int) -> Iterator[Frame]:
        """Yield the frames of one input; whatever breaks it ends it, and is noted."""
        any_frame = False
        try:
            opening = self._opening.get(number)
            source = opening.result() if opening is not None else self._open(number)
            for frame in source:
                any_frame = True
                self.measure(frame)
                yield frame
        except Exception as exc:  # noqa: BLE001 - a stream that dies must not disturb the others
            _log.debug("%s", self.inputs[number].name, exc_info=True)
            known = isinstance(exc, StreamfaceError)
            self.fail(number, str(exc) if known else f"{type(exc).__name__}: {exc}")
            return
        if self._is_stopped or number in self._ended:
            if not any_frame:  # else it is released once its last one is written
                self.release(number)
            return
        if not any_frame:
            self.fail(number, "it has no frame in the chosen time range")
        elif source.damage.ended_early:
            self.fail(number, source.damage.ended_early)

    def fail(self, number: int, reason: str) -> None:
        """Note, once, why a stream came to its end, and say so."""
        if number in self.failures:
            return
        name = self.inputs[number].name
        self.failures[number] = reason if name in reason else f"{name}: {reason}"
        _log.warning("%s", self.failures[number])

    def _close(self, number: int, source: Source) -> None:
        """Close a source; nobody waits for the connection of one that was ended in silence."""
        if number not in self._ended:
            super()._close(number, source)
            return
        thread = threading.Thread(target=source.close, name=f"streamface-close-{number}")
        self._closing = [each for each in self._closing if each.is_alive()] + [thread]
        thread.start()

    def close(self) -> None:
        """Wait for what is still being opened, then close all that is open."""
        self._threads.shutdown(wait=True)
        super().close()
        for thread in self._closing:
            thread.join()


class _Lane:
    """One input, as the pipeline reads it."""

    newest_wins = True

    def __init__(self, gathering: Gathering, number: int) -> None:
        self._gathering = gathering
        self._number = number

    def __iter__(self) -> Iterator[Frame]:
        return self._gathering.frames(self._number)
