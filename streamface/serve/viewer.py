"""One open page: pictures with what they say when it asks for them, figures twice a second.

The page asks for each picture when it has drawn the one before, so what is under way to it is
bounded by what it asked for, not by the buffers of sockets and browsers: a slow phone sees fewer
pictures, never older ones. Its answer also tells, by one clock, how old a picture was when drawn
(with the way back of the answer, so a little more than it was).
"""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from streamface.pipeline import LatencyHistogram
    from streamface.serve.hub import LiveHub, Note
    from streamface.serve.pictures import Pictures

SEND_TIMEOUT_S: Final = 20.0
"""A viewer that takes nothing for so long has gone."""
_STATS_EVERY_S: Final = 0.5
# A page asks for two pictures in advance, which hides the way there and back.
_MOST_ASKED: Final = 4
_LAG_PICTURES: Final = 30
# While nobody looks at the page, its timeline goes on at this pace.
_UNSEEN_EVERY_S: Final = 0.25


class BadMessage(Exception):  # noqa: N818 - a page said something that ours never says
    """What came over the socket is not a request for a picture."""


class Viewer:
    """Serves one WebSocket until either side closes it."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        hub: LiveHub,
        pictures: Pictures,
        stats: Callable[[], dict[str, Any]],
        shown: LatencyHistogram,
    ) -> None:
        """stats: the figures for every page. shown: collects the ages of pictures when drawn."""
        self._socket = socket
        self._hub = hub
        self._pictures = pictures
        self._stats = stats
        self._shown = shown
        self._began_s = time.monotonic()
        self._asked: asyncio.Queue[bool] = asyncio.Queue(_MOST_ASKED)
        self._seen: dict[int, int] = {}
        self._under_way: dict[int, float] = {}
        """When the frames of pictures that were sent, and not drawn yet, were captured."""
        self._lags_s: deque[float] = deque(maxlen=_LAG_PICTURES)

    async def run(self) -> None:
        """Return when the page has gone. Raises BadMessage."""
        parts = (self._receive(), self._send_pictures(), self._send_stats())
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for error in results:
            gone = isinstance(error, ConnectionError | TimeoutError | asyncio.CancelledError)
            if isinstance(error, BaseException) and not gone:
                raise error

    async def _receive(self) -> None:
        async for message in self._socket:
            drawn, wants_picture = _read_request(message.data)
            captured_s = self._under_way.pop(drawn, None)
            if captured_s is not None:
                age_s = time.monotonic() - captured_s
                self._shown.add(age_s)
                self._lags_s.append(age_s)
            try:
                self._asked.put_nowait(wants_picture)
            except asyncio.QueueFull as exc:
                raise BadMessage("more pictures asked for than allowed") from exc

    async def _send_pictures(self) -> None:
        while True:
            if await self._asked.get():
                picture = await self._pictures.after(self._seen)
                await self._send_frame(picture.note, picture.jpeg)
            else:
                await asyncio.sleep(_UNSEEN_EVERY_S)
                note = await self._pictures.note_after(self._seen)
                await self._send_frame(note, b"")

    async def _send_frame(self, note: Note, jpeg: bytes) -> None:
        """Send the length of a JSON header (big-endian), the header, and the picture, if any."""
        now_s = time.monotonic()
        head = {
            "number": note.number,
            "stream": note.frame.stream,
            "size": note.size_px,
            "age_ms": round(1e3 * (now_s - note.frame.captured_s), 1),
        }
        self._seen[note.frame.stream] = note.number
        # A picture that was there before the page came is as old as it likes.
        if jpeg and note.published_s >= self._began_s:
            self._under_way[note.number] = note.frame.captured_s
            while len(self._under_way) > _MOST_ASKED:  # a page that does not say what it drew
                del self._under_way[next(iter(self._under_way))]
        text = f'{json.dumps(head)[:-1]}, "record": {note.record_json()}}}'.encode()
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await self._socket.send_bytes(struct.pack(">I", len(text)) + text + jpeg)

    async def _send_stats(self) -> None:
        while True:
            # How old the last pictures were when this page drew them: the median.
            lags = sorted(self._lags_s)
            lag = round(1e3 * lags[len(lags) // 2], 1) if lags else None
            text = json.dumps(self._stats() | {"shown_ms": lag}, allow_nan=False)
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self._socket.send_str(text)
            await asyncio.sleep(_STATS_EVERY_S)


def _read_request(data: object) -> tuple[int, bool]:
    """Return the number of the picture a page has drawn, and whether it wants a next one drawn."""
    try:
        request = json.loads(data) if isinstance(data, str) else None
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict) or not isinstance(request.get("drew"), int):
        raise BadMessage("not a request for a picture")
    return request["drew"], bool(request.get("picture", True))
