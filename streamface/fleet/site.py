"""The driver's addresses: /metrics, /healthz, /fleet and a page for people; drain and undrain.

Pictures stay where they are made. Needs aiohttp (extra ``web``).
"""

from __future__ import annotations

import asyncio
from html import escape
from typing import TYPE_CHECKING, Final

from aiohttp import web

from streamface.fleet.metrics import exposition
from streamface.serve.server import WebServer, open_door
from streamface.serve.web import guarded_application

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streamface.fleet.driver import Fleet
    from streamface.fleet.view import FleetView
    from streamface.serve.guard import Guard
    from streamface.serve.server import Door

_SHUTDOWN_S: Final = 1.0
_REFRESH_S: Final = 2
_SERVING: Final = frozenset({"ok", "degraded"})
"""A probe that restarts the driver because one camera is off would make things worse."""


class FleetServer(WebServer):
    """A fleet's figures, being served."""

    def __init__(self, fleet: Fleet, door: Door) -> None:
        self._fleet = fleet
        self._guard: Guard = door.guard
        super().__init__(door)

    async def _main(self) -> None:
        runner = web.AppRunner(
            application(self._fleet, self._guard), access_log=None, shutdown_timeout=_SHUTDOWN_S
        )
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await runner.setup()
            await web.SockSite(runner, self._listener).start()
            self._ready.set_result(None)
            await stopping
        finally:
            stopping.cancel()
            await runner.cleanup()


def serve_fleet(fleet: Fleet, address: str, token: str | None) -> FleetServer:
    """Serve a fleet's figures; arguments and errors as of ``serve.serve``."""
    return FleetServer(fleet, open_door(address, token))


def application(fleet: Fleet, guard: Guard) -> web.Application:
    """Return the routes over a fleet."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=html(fleet.view), content_type="text/html", charset="utf-8")

    async def figures(_: web.Request) -> web.Response:
        return web.json_response(fleet.view.as_json())

    async def metrics(_: web.Request) -> web.Response:
        body = exposition(fleet.view).encode("utf-8", "backslashreplace")
        kind = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=body, headers=kind)

    async def health(_: web.Request) -> web.Response:
        view = fleet.view
        state = view.health()
        answer = {
            "status": state,
            "cameras": len(view.cameras),
            "well": sum(camera.is_well for camera in view.cameras),
            "stations": sum(each.state in ("up", "draining") for each in view.stations),
        }
        return web.json_response(answer, status=200 if state in _SERVING else 503)

    async def drain(request: web.Request) -> web.Response:
        name = request.query.get("station", "")
        if request.path == "/drain":
            if not fleet.drain(name):
                return web.json_response({"error": f"no station is called {name}"}, status=404)
            return web.json_response({"draining": name}, status=202)
        if not fleet.undrain(name):
            return web.json_response({"error": f"{name} is not being drained"}, status=404)
        return web.json_response({"open": name}, status=202)

    app = guarded_application(guard)
    app.router.add_routes(
        [
            web.get("/", page),
            web.get("/fleet", figures),
            web.get("/metrics", metrics),
            web.get("/healthz", health),
            web.post("/drain", drain),
            web.post("/undrain", drain),
        ]
    )
    return app


def html(view: FleetView) -> str:
    """Return the page: two tables that renew themselves, without a script."""
    stations = _table(
        ("station", "state", "cores", "cameras", "lowered"),
        (
            (s.name, s.state, f"{s.cores_used:.2f} of {s.cores:g}", s.cameras, s.lowered)
            for s in view.stations
        ),
    )
    cameras = _table(
        ("camera", "state", "station", "fps", "faces", "frames", "dropped", "moves", "reason"),
        (
            (c.name, c.state, c.station, f"{c.fps:.1f}", c.faces, c.frames,
             sum(c.drops.values()), c.moves, c.reason)
            for c in view.cameras
        ),
    )  # fmt: skip
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8>"
        f"<meta http-equiv=refresh content={_REFRESH_S}><title>streamface fleet</title>"
        f"<h1>streamface fleet: {escape(view.health())}</h1>{stations}{cameras}</html>\n"
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    first = "".join(f"<th align=left>{escape(each)}" for each in head)
    others = "".join("<tr>" + "".join(f"<td>{escape(str(each))}" for each in row) for row in rows)
    return f"<table cellpadding=6><tr>{first}{others}</table>"
