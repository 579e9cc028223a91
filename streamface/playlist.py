"""Several inputs, one after another, as one flow of frames."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from streamface.errors import SourceError, StreamfaceError
from streamface.rate import MeasuredRate
from streamface.sources import Stoppable, open_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from streamface.decode import ReadOptions
    from streamface.frame import Frame
    from streamface.sources import Input, Source

_log = logging.getLogger(__name__)


class Opened:
    """The inputs of a run and the sources that were opened of them, by the input's number.

    A source stays open until ``release`` or ``close``, for its packets and stream templates are
    still needed after its last frame was read.
    """

    def __init__(
        self, inputs: Sequence[Input], options: ReadOptions, opener: Callable[..., Source]
    ) -> None:
        self.inputs = list(inputs)
        self.failures: dict[int, str] = {}
        self.opened: dict[int, Source] = {}
        self.damage: dict[int, list[str]] = {}
        self.rates: dict[int, MeasuredRate] = {}
        """What each input really gives."""
        self._options = options
        self._opener = opener

    def measure(self, frame: Frame) -> None:
        """Count a frame, unless it only stands in for one that did not come."""
        if not frame.held:
            self.rates.setdefault(frame.stream, MeasuredRate()).add(frame.captured_s)

    def stop(self) -> None:
        """Let live sources end whatever they wait for. For any thread, and a signal handler."""
        for source in list(self.opened.values()):
            if isinstance(source, Stoppable):
                source.stop()

    def release(self, number: int) -> None:
        """Close one source, once its last frame is written, and keep what went wrong with it."""
        source = self.opened.pop(number, None)
        if source is None:
            return
        told = self.failures.get(number, "")
        if lines := [line for line in source.damage.lines() if line not in told]:
            self.damage[number] = lines
        self._close(number, source)

    def _close(self, _number: int, source: Source) -> None:
        source.close()

    def close(self) -> None:
        """Close every source that is still open."""
        for number in list(self.opened):
            self.release(number)


class Playlist(Opened):
    """Iterate (once) over the frames of all inputs; ``Frame.stream`` is the input's number.

    The first input is opened on construction, so that a wrong one is an error before any output
    exists. With one input every error is raised; with several, an input that cannot be read is
    noted in ``failures`` and the next one follows.
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
        self._stopped = False
        self._next = 0
        self._first = self._open_next()

    @property
    def first(self) -> Source:
        """The first source that could be opened."""
        return self._first

    def _open_next(self) -> Source:
        """Open the next readable input. Raises SourceError where none is left."""
        while self._next < len(self.inputs):
            number, self._next = self._next, self._next + 1
            try:
                source = self._opener(self.inputs[number], self._options, stream=number)
            except SourceError as exc:
                self._fail(number, exc)
                continue
            self.opened[number] = source
            return source
        raise _NoneLeft(f"none of the {len(self.inputs)} inputs could be read")

    def _fail(self, number: int, exc: StreamfaceError) -> None:
        if len(self.inputs) == 1:
            raise exc
        _log.warning("%s", exc)
        self.failures[number] = str(exc)

    def __iter__(self) -> Iterator[Frame]:
        source = self._first
        while True:
            number = self._next - 1
            yield from self._frames(number, source)
            if self._stopped:
                return
            try:
                source = self._open_next()
            except _NoneLeft:
                return

    def _frames(self, number: int, source: Source) -> Iterator[Frame]:
        any_frame = False
        try:
            for frame in source:
                any_frame = True
                self.measure(frame)
                yield frame
            if getattr(source, "gave_up", False):
                # What came before is whole; a supervisor is to know that more should have come.
                self.failures[number] = f"{self.inputs[number].name}: {source.damage.ended_early}"
        except SourceError as exc:
            self._fail(number, exc)
        if not any_frame and number not in self.failures and not self._stopped:
            name = self.inputs[number].name
            self._fail(number, SourceError(f"{name} has no frame in the chosen time range"))

    def stop(self) -> None:
        """End with the source that is read, whatever it waits for."""
        self._stopped = True
        super().stop()


class _NoneLeft(SourceError):  # noqa: N818 - a state, not a fault
    """Every input was tried."""
