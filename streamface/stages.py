"""Thin adapters: each gives one worker object the shape of a pipeline stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from streamface.memory import StreamMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamface.classify import FaceClassifier
    from streamface.frame import Frame
    from streamface.overlay import Mark, Painter
    from streamface.track import FaceTracker

CLASSIFY_BATCH_FRAMES: Final = 2
"""Frames whose faces meet in one batch. On a CPU a face costs the same in any batch, and every
frame more is held twice (under way and waiting), 6 MB at 1080p. Worth raising for a GPU."""
MOST_BATCH_FRAMES: Final = 8
"""The same for several streams at once, whose frames come from each in turn."""


class FindFaces:
    """Detects and tracks; one tracker a stream, made when the stream begins."""

    name = "find"
    max_batch = 1

    def __init__(self, new_tracker: Callable[[], FaceTracker]) -> None:
        self.detect_every: int | None = None
        """Frames between two detections from now on; None: as the trackers were made."""
        self._trackers = StreamMemory(new_tracker)

    def process(self, items: Sequence[Frame]) -> Sequence[Frame]:
        """Give every frame its faces."""
        for frame in items:
            tracker = self._trackers.of(frame)
            if self.detect_every is not None:
                tracker.detect_every = self.detect_every
            frame.faces = tracker.update(frame.planes, frame.time_s)
        return items

    def finish(self) -> Sequence[Frame]:
        """Nothing is held back."""
        return ()

    def close(self) -> None:
        """Forget the trackers."""
        self._trackers.clear()


class Classify:
    """Reads emotion and gender, faces of several frames at once."""

    name = "classify"
    max_batch = CLASSIFY_BATCH_FRAMES

    def __init__(self, classifier: FaceClassifier, streams: int = 1) -> None:
        """streams: how many are worked on at once; a frame of each may be in a batch."""
        self._classifier = classifier
        self.max_batch = max(CLASSIFY_BATCH_FRAMES, min(streams, MOST_BATCH_FRAMES))

    def process(self, items: Sequence[Frame]) -> Sequence[Frame]:
        """Give every face its readings."""
        self._classifier.classify(items)
        for frame in items:
            frame.device = None  # a GPU's memory is scarce, and later stages may hold many frames
        return items

    def finish(self) -> Sequence[Frame]:
        """Nothing is held back."""
        return ()

    def close(self) -> None:
        """Nothing is held: the nets belong to whoever opened them."""


class Paint:
    """Draws boxes and labels onto the planes."""

    name = "paint"
    max_batch = 1

    def __init__(self, painter: Painter, mark: Mark | None = None) -> None:
        self._painter = painter
        self._mark = mark

    def process(self, items: Sequence[Frame]) -> Sequence[Frame]:
        """Draw on every frame."""
        for frame in items:
            self._painter.paint(frame)
            if self._mark is not None:
                self._mark.paint(frame)
        return items

    def finish(self) -> Sequence[Frame]:
        """Nothing is held back."""
        return ()

    def close(self) -> None:
        """Nothing is held."""
