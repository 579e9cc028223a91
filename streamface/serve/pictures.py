"""JPEG pictures of the newest frames: made only while somebody waits, and once for everybody."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from streamface.pixels import shrunk_bgr

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamface.frame import Planes
    from streamface.serve.hub import LiveHub, Note

_LEAST_WIDTH_PX: Final = 320


@dataclass(frozen=True, slots=True)
class PictureStyle:
    """How much picture a viewer gets."""

    width_px: int = 960
    """At most, shared by the columns of a grid; 16 to 8192. Phones and panels show no more."""
    fps: float = 33.0
    """At most, however many watch. A little over the usual 30: at or below the source's own rate
    each picture waits, up to a frame's time, for its turn."""
    quality: int = 80
    """Of JPEG, 1 to 100."""

    def __post_init__(self) -> None:
        if not 16 <= self.width_px <= 8192:
            raise ValueError(f"width_px must be 16 to 8192, not {self.width_px}")
        if not 0 < self.fps <= 1000:
            raise ValueError(f"fps must be above 0 and at most 1000, not {self.fps}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality must be 1 to 100, not {self.quality}")


@dataclass(frozen=True, slots=True)
class Picture:
    """One frame as a JPEG."""

    note: Note
    jpeg: bytes


class Pulse:
    """Wakes everybody who waits at this moment; belongs to one event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def fire(self) -> None:
        """Wake whoever waits now."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self) -> None:
        """Wait for the next ``fire``."""
        await self._event.wait()


class Pictures:
    """Encodes the newest frames for those who wait; belongs to one event loop.

    A viewer is given the newest picture it has not seen, never an older one. Encoding runs in a
    worker thread, at most ``style.fps`` times a second however many watch, and not at all while
    nobody waits.
    """

    def __init__(self, hub: LiveHub, style: PictureStyle) -> None:
        self._hub = hub
        self._style = style
        self._made: dict[int, Picture] = {}
        self._changed = Pulse()
        self._done = Pulse()
        self._waiting = 0
        self._columns = 1

    def news(self) -> None:
        """Say that the hub has newer frames."""
        self._changed.fire()

    async def after(
        self, seen: Mapping[int, int], only: int | Literal["first"] | None = None
    ) -> Picture:
        """Wait for a picture newer than what was seen, of the stream that was seen longest ago.

        seen: the number of the last picture seen, by stream. only: one stream's number, or the
        first of those that there are by then.
        """
        self._waiting += 1
        self._changed.fire()
        try:
            while True:
                which = min(self._made, default=None) if only == "first" else only
                newer = [
                    picture
                    for stream, picture in self._made.items()
                    if which in (None, stream) and picture.note.number > seen.get(stream, 0)
                ]
                if newer:
                    return min(newer, key=lambda picture: seen.get(picture.note.frame.stream, 0))
                await self._done.wait()
        finally:
            self._waiting -= 1

    async def note_after(self, seen: Mapping[int, int]) -> Note:
        """Wait for a frame newer than what was seen, of the stream that was seen longest ago."""
        while True:
            newest = [note for note, _ in self._hub.newest().values()]
            newer = [n for n in newest if n.number > seen.get(n.frame.stream, 0)]
            if newer:
                return min(newer, key=lambda note: seen.get(note.frame.stream, 0))
            await self._changed.wait()

    async def changed_within(self, timeout_s: float) -> bool:
        """Wait for news; return whether any came in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Encode for ever; cancel it to end it."""
        while True:
            due = self._due() if self._waiting else {}
            if not due:
                await self._changed.wait()
                continue
            began_s = time.monotonic()
            for stream, (note, planes) in due.items():
                jpeg = await asyncio.to_thread(encode_jpeg, planes, self._style, self._columns)
                self._made[stream] = Picture(note, jpeg)
            del due, planes  # or this frame's pixels would live until the next one is wanted
            self._done.fire()
            await asyncio.sleep(began_s + 1 / self._style.fps - time.monotonic())

    def _due(self) -> dict[int, tuple[Note, Planes]]:
        """Return the frames that have no picture yet, and drop the pictures of ended streams."""
        newest = self._hub.newest()
        self._columns = math.ceil(math.sqrt(max(1, len(newest))))
        for stream in self._made.keys() - newest.keys():
            del self._made[stream]
        return {
            stream: (note, planes)
            for stream, (note, planes) in newest.items()
            if stream not in self._made or self._made[stream].note.number < note.number
        }


def encode_jpeg(planes: Planes, style: PictureStyle, columns: int = 1) -> bytes:
    """Return the picture as a JPEG, shrunk to its share of the width, never enlarged.

    swscale shrinks and converts in one pass, OpenCV's libjpeg-turbo encodes: 2.3 ms for 960 x 540
    from 1080p. FFmpeg's mjpeg encoder, which wants full-range BT.601 planes, comes to 4.7 ms.
    """
    import cv2

    width, height = planes.size_px
    target = min(width, style.width_px, max(_LEAST_WIDTH_PX, style.width_px // columns))
    small = shrunk_bgr(planes, (target, max(1, round(height * target / width))))
    done, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, style.quality])
    assert done, "OpenCV encodes any BGR picture as JPEG"
    return data.tobytes()
