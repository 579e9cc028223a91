"""The page's addresses: what is answered under which path. Needs aiohttp (extra ``web``)."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import contextmanager, suppress
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, Literal

from aiohttp import WSCloseCode, web

from streamface import records
from streamface.errors import StreamfaceError
from streamface.pipeline import LatencyHistogram
from streamface.serve.guard import Request
from streamface.serve.metrics import QUANTILES, exposition, resident_bytes
from streamface.serve.pictures import Pictures
from streamface.serve.viewer import SEND_TIMEOUT_S, BadMessage, Viewer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamface.serve.guard import Guard
    from streamface.serve.hub import LiveHub, Note
    from streamface.serve.pictures import PictureStyle

# No frame for so long: monitoring shall know.
STALE_S: Final = 10.0
# Far more than a household has screens; each costs a core some tenths of a percent.
_MOST_VIEWERS: Final = 64
_KEEP_ALIVE_S: Final = 10.0
# What one slow viewer of /video may have waiting in the kernel: a picture or two.
_VIDEO_BUFFER_BYTES: Final = 128 * 1024
_BOUNDARY: Final = "streamface-frame"
_ASSETS: Final = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/timeline.js": ("timeline.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
# Nothing from elsewhere, nothing framed by others, nothing kept by the browser.
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Site:
    """All handlers over one hub; belongs to one event loop."""

    def __init__(self, hub: LiveHub, guard: Guard, style: PictureStyle) -> None:
        self.pictures = Pictures(hub, style)
        self._hub = hub
        self._guard = guard
        self._shown = LatencyHistogram()
        self._viewers = 0
        self._pages: dict[Viewer, web.WebSocketResponse] = {}
        self._streaming: set[asyncio.Task[Any]] = set()
        self._recording = asyncio.Lock()
        folder = resources.files("streamface.serve") / "static"
        self._assets = {path: (folder / name).read_bytes() for path, (name, _) in _ASSETS.items()}

    def application(self) -> web.Application:
        """Return the routes."""
        app = guarded_application(self._guard)
        app.on_shutdown.append(self._close_streams)
        app.router.add_routes(
            [
                *(web.get(path, self._asset) for path in _ASSETS),
                web.get("/live", self._live, allow_head=False),
                web.get("/video", self._video, allow_head=False),
                web.get("/events", self._events, allow_head=False),
                web.get("/metrics", self._metrics),
                web.get("/healthz", self._health),
                web.post("/record/{what:start|stop}", self._record),
            ]
        )
        return app

    @property
    def is_watched(self) -> bool:
        """Whether anything waits for frames; read by the publishing thread too."""
        return self._viewers > 0

    def news(self) -> None:
        """Say that the hub has newer frames, or none any more."""
        self.pictures.news()

    # -- single answers

    async def _asset(self, request: web.Request) -> web.Response:
        kind = _ASSETS[request.path][1]
        body = self._assets[request.path]
        return web.Response(body=body, content_type=kind, charset="utf-8")

    async def _metrics(self, _: web.Request) -> web.Response:
        text = exposition(self._hub, viewers=self._viewers, shown=self._shown)
        body = text.encode("utf-8", "backslashreplace")
        kind = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=body, headers=kind)

    async def _health(self, _: web.Request) -> web.Response:
        silent_s = self._hub.silent_s()
        if self._hub.ended:
            state = "ended"
        elif silent_s is None:
            state = "waiting"
        else:
            state = "ok" if silent_s <= STALE_S else "stale"
        silent_s = None if silent_s is None else round(silent_s, 3)
        answer = {"status": state, "frames": self._hub.count, "silent_s": silent_s}
        return web.json_response(answer, status=200 if state == "ok" else 503)

    async def _record(self, request: web.Request) -> web.Response:
        recorder = self._hub.recorder
        if recorder is None:
            return web.json_response({"error": "this run has no recorder"}, status=501)
        starts = request.match_info["what"] == "start"
        async with self._recording:
            try:
                await asyncio.to_thread(recorder.start if starts else recorder.stop)
            except StreamfaceError as exc:
                return web.json_response({"error": str(exc)}, status=409)
        return web.json_response({"recording": recorder.recording})

    # -- streams

    @contextmanager
    def _viewing(self) -> Iterator[None]:
        """Count a viewer, and let the server's end cancel it."""
        if self._viewers >= _MOST_VIEWERS:
            raise web.HTTPServiceUnavailable(text=f"{_MOST_VIEWERS} viewers are the most\n")
        task = asyncio.current_task()
        assert task is not None, "handlers run in tasks"
        self._viewers += 1
        self._streaming.add(task)
        try:
            yield
        finally:
            self._viewers -= 1
            self._streaming.discard(task)

    async def _live(self, request: web.Request) -> web.StreamResponse:
        page = web.WebSocketResponse(heartbeat=20.0, timeout=1.0, max_msg_size=1024, compress=False)
        if not page.can_prepare(request):
            return web.Response(status=426, text="this address is for the page's WebSocket\n")
        with self._viewing():
            await page.prepare(request)
            viewer = Viewer(page, self._hub, self.pictures, self._stats, self._shown)
            self._pages[viewer] = page
            try:
                await viewer.run()
            except BadMessage as exc:
                await page.close(code=WSCloseCode.POLICY_VIOLATION, message=str(exc).encode())
            finally:
                del self._pages[viewer]
        return page

    async def _video(self, request: web.Request) -> web.StreamResponse:
        """Motion JPEG for everything that is not the page: players, home automation, ``img``."""
        wanted = request.query.get("stream")
        if wanted is not None and not (wanted.isascii() and wanted.isdigit()):
            return web.Response(status=400, text="stream must be a number\n")
        only: int | Literal["first"] = "first" if wanted is None else int(wanted)
        kind = f"multipart/x-mixed-replace; boundary={_BOUNDARY}"
        response = web.StreamResponse(headers={"Content-Type": kind})
        with self._viewing():
            _limit_buffer(request)
            await response.prepare(request)
            seen: dict[int, int] = {}
            with suppress(ConnectionError, TimeoutError):  # the viewer has gone
                while True:
                    picture = await self.pictures.after(seen, only)
                    seen[picture.note.frame.stream] = picture.note.number
                    await _write(response, _part(picture.jpeg))
        return response

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: one JSONL record each; ``lost`` tells a reader who is too slow."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        with self._viewing():
            await response.prepare(request)
            with suppress(ConnectionError, TimeoutError):  # the reader has gone
                await self._send_records(response)
        return response

    async def _send_records(self, response: web.StreamResponse) -> None:
        hub = self._hub
        number = hub.count
        if hub.header is not None:
            await _write(response, _event(hub.header, "header"))
        else:
            await _write(response, b": streamface\n\n")
        while True:
            notes, lost = hub.since(number)
            text = _event({"frames": lost}, "lost") if lost else b""
            text += b"".join(_record_event(note) for note in notes)
            if notes:
                number = notes[-1].number
                await _write(response, text)
            elif hub.ended:
                await _write(response, _event({"frames": hub.count}, "end"))
                return
            elif not await self.pictures.changed_within(_KEEP_ALIVE_S):
                await _write(response, b": still here\n\n")

    def _stats(self) -> dict[str, Any]:
        """Return the figures that every page shows."""
        hub = self._hub
        recorder = hub.recorder
        figures: dict[str, Any] = {
            "frames": hub.count,
            "ended": hub.ended,
            "viewers": self._viewers,
            "recording": None if recorder is None else recorder.recording,
            "memory_bytes": resident_bytes(),
            "streams": [
                {
                    "stream": key,
                    "source": records.to_json(state.source),
                    "fps": round(state.fps, 2),
                    "silent_s": round(state.silent_s, 2),
                }
                for key, state in hub.streams().items()
            ],
        }
        if hub.stats is not None:
            stats = hub.stats()
            figures["drops"] = dict(stats.drops)
            figures["age_ms"] = [round(1e3 * stats.latency.percentile_s(q), 1) for q in QUANTILES]
            figures["stages"] = [[each.name, round(each.busy_s, 4)] for each in stats.stages]
            figures["elapsed_s"] = round(stats.elapsed_s, 4)
        return figures

    async def _close_streams(self, _: web.Application) -> None:
        """Tell every page that this was the end, and end all that streams."""
        await asyncio.gather(*map(_say_goodbye, list(self._pages.values())))
        for task in list(self._streaming):
            task.cancel()


def guarded_application(guard: Guard) -> web.Application:
    """Return an application without routes that answers only whom the guard lets in."""

    async def guarded(request: web.Request, handler: Any) -> web.StreamResponse:
        asked = Request(request.path, request.headers, request.cookies, request.query)
        refusal = guard.refusal(asked)
        if refusal is not None:
            headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else None
            return web.Response(status=refusal.status, text=f"{refusal.reason}\n", headers=headers)
        given = request.query.get("token", "")
        if request.path == "/" and guard.is_token(given):
            # Into the cookie, and out of the address bar, history and screenshots. Lax: with
            # Strict, a link from a chat would lose the cookie on this very redirection.
            answer = web.Response(status=303, headers={"Location": "/"})
            answer.set_cookie(guard.cookie, given, httponly=True, samesite="Lax", path="/")
            return answer
        response: web.StreamResponse = await handler(request)
        return response

    app = web.Application(middlewares=[web.middleware(guarded)], client_max_size=1024)
    app.on_response_prepare.append(_add_headers)
    return app


async def _say_goodbye(page: web.WebSocketResponse) -> None:
    try:
        async with asyncio.timeout(1.0):
            await page.close(code=WSCloseCode.GOING_AWAY, message=b"ended")
    except (ConnectionError, TimeoutError):
        return  # it will find out


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers[name] = value


async def _write(response: web.StreamResponse, data: bytes) -> None:
    """Write and wait until it is under way. Raises ConnectionError, TimeoutError."""
    async with asyncio.timeout(SEND_TIMEOUT_S):
        await response.write(data)


def _limit_buffer(request: web.Request) -> None:
    """Keep the kernel from buffering seconds of video for a slow viewer."""
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _VIDEO_BUFFER_BYTES)


def _part(jpeg: bytes) -> bytes:
    head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
    return head.encode() + jpeg + b"\r\n"


def _record_event(note: Note) -> bytes:
    return f"id: {note.number}\ndata: {note.record_json()}\n\n".encode()


def _event(value: object, kind: str | None = None) -> bytes:
    text = json.dumps(value, allow_nan=False)
    name = f"event: {kind}\n" if kind else ""
    return f"{name}data: {text}\n\n".encode()
