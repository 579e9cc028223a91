"""Small fakes for tests of code that uses streamface: no model, no codec, no camera.

``CountingSource`` gives grey frames, ``FixedDetector`` finds the same faces in every one;
``no_work`` is a batch's task without its work.
"""

from __future__ import annotations

import time
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from streamface.batch.job import TaskResult
from streamface.decode import Damage, StreamInfo
from streamface.frame import Colour, Face, Frame, Planes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamface.batch.job import Task
    from streamface.frame import Packet

FACE_PX = (40.0, 30.0, 80.0, 80.0)
"""The box of the one face that ``FixedDetector`` finds."""


def face(box_px: tuple[float, float, float, float] = FACE_PX, score: float = 0.9) -> Face:
    """Return a detected face whose landmarks sit in the box as a frontal face's do."""
    x0, y0, x1, y1 = box_px
    places = np.array([(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)], np.float32)
    landmarks = places * np.array([x1 - x0, y1 - y0], np.float32) + np.array([x0, y0], np.float32)
    return Face(box_px, landmarks, score)


class CountingSource:
    """A source of ``count`` grey frames at 30 per second; ``on_frame`` is called before each.

    It satisfies ``sources.Source``. ``on_frame(index)`` runs in the reading thread, where it may
    wait for an event or raise.
    """

    def __init__(
        self,
        count: int,
        *,
        stream: int = 0,
        size_px: tuple[int, int] = (160, 120),
        is_live: bool = False,
        on_frame: Callable[[int], None] | None = None,
    ) -> None:
        self.info = StreamInfo(
            name=f"fake {stream}",
            size_px=size_px,
            rate=Fraction(30),
            time_base=Fraction(1, 30),
            is_live=is_live,
            frames=None if is_live else count,
        )
        self.damage = Damage()
        self.tail_packets: tuple[Packet, ...] = ()
        self.closed = 0
        self._count = count
        self._stream = stream
        self._on_frame = on_frame

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._count):
            if self._on_frame is not None:
                self._on_frame(index)
            planes = Planes.allocate(self.info.size_px, Colour())
            planes.y[:], planes.u[:], planes.v[:] = 110, 128, 128
            yield Frame(
                stream=self._stream,
                index=index,
                pts=index,
                time_base=self.info.time_base,
                planes=planes,
                duration=1,
                captured_s=time.monotonic(),
            )

    def close(self) -> None:
        """Count how often it was closed."""
        self.closed += 1


class FixedDetector:
    """Finds the same faces in every picture; satisfies what the tracker asks of a detector."""

    sha256 = "0" * 64
    imgsz = 640
    conf = 0.6
    provider = "a fixed answer"

    def __init__(self, faces: tuple[Face, ...] | None = None) -> None:
        self.faces = (face(),) if faces is None else faces
        self.calls = 0

    def detect(
        self,
        planes: Planes,  # noqa: ARG002 - a detector's shape
        imgsz: int | None = None,  # noqa: ARG002
        *,
        clip: bool = True,  # noqa: ARG002
    ) -> tuple[Face, ...]:
        """Return the faces."""
        self.calls += 1
        return self.faces


def no_work(task: Task) -> TaskResult:
    """Do nothing with a file, so that only what a batch itself costs is left."""
    return TaskResult(task=task, frames=1)
