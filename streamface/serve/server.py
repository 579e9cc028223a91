"""The page's server: an address, a socket, and a thread with its own event loop."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from streamface.errors import SinkError, UsageError
from streamface.serve.guard import TOKEN_FORM, Guard, is_loopback

if TYPE_CHECKING:
    from streamface.serve.hub import LiveHub
    from streamface.serve.pictures import PictureStyle
    from streamface.serve.web import Site

_log = logging.getLogger(__name__)

LOOPBACK: Final = "127.0.0.1"
_EVERYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - asked for by name, with a token
# One encodes pictures, one works the recorder.
_WORKERS: Final = 2
# Who does not take his last bytes within this time is cut off.
_SHUTDOWN_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``PORT``, ``HOST:PORT`` or ``[IPv6]:PORT``; port 0 is any free one.

        Without a host it is loopback. Raises UsageError.
        """
        host, colon, number = text.rpartition(":")
        valid = number.isascii() and number.isdigit() and int(number) <= 65535
        bracketed = host.startswith("[") and host.endswith("]")
        if not valid or (colon and not host) or (":" in host and not bracketed):
            raise UsageError(
                f"--serve takes [HOST:]PORT (as in 8000 or 0.0.0.0:8000), not '{text}'"
            )
        if bracketed:
            host = host[1:-1]
        # Not the name, which may mean ::1 as well, with another socket.
        return cls(LOOPBACK if host.lower() in ("", "localhost") else host, int(number))


@dataclass(frozen=True, slots=True)
class Door:
    """A socket that listens, who may come in, and the way there."""

    listener: socket.socket
    guard: Guard
    url: str
    """With the token, if any: it is as good as a password."""


class WebServer:
    """Something that is served from a thread of its own; a context manager that closes."""

    def __init__(self, door: Door) -> None:
        self.url = door.url
        """Where it is, with the token, if any: it is as good as a password."""
        self._listener = door.listener
        self._loop, self._stop = asyncio.new_event_loop(), asyncio.Event()
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="streamface-serve")
        self._thread.start()
        try:
            self._ready.result()
        except BaseException:  # an interrupt as well
            self.close()
            raise

    def close(self) -> None:
        """End all connections and the thread; harmless twice. Pages show that it ended."""
        with suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._main())
        except BaseException as exc:  # noqa: BLE001 - the starter raises it, or the log tells it
            if self._ready.done():
                _log.error("the page has stopped: %s: %s", type(exc).__name__, exc)
            else:
                self._ready.set_exception(exc)
        finally:
            self._listener.close()

    async def _main(self) -> None:
        """Serve until ``self._stop``; ``self._ready`` is told once it listens."""
        raise NotImplementedError


class Server(WebServer):
    """The page of one hub, being served. Made by ``serve``."""

    def __init__(self, hub: LiveHub, door: Door, style: PictureStyle) -> None:
        self._hub = hub
        self._guard = door.guard
        self._style = style
        self._woken = False
        super().__init__(door)

    async def _main(self) -> None:
        from aiohttp import web

        from streamface.serve.web import Site

        self._loop.set_default_executor(ThreadPoolExecutor(_WORKERS, "streamface-serve-work"))
        site = Site(self._hub, self._guard, self._style)
        self._listen(site)
        runner = web.AppRunner(site.application(), access_log=None, shutdown_timeout=_SHUTDOWN_S)
        encoding = asyncio.ensure_future(site.pictures.run())
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await runner.setup()
            await web.SockSite(runner, self._listener).start()
            self._ready.set_result(None)
            await asyncio.wait((encoding, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._hub.listen(None)
            stopping.cancel()
            encoding.cancel()
            await runner.cleanup()
        if encoding.done() and not encoding.cancelled():
            encoding.result()  # raises what ended it

    def _listen(self, site: Site) -> None:
        """Have the pipeline's thread wake the loop: only for a viewer, and once until it did."""

        def news() -> None:
            self._woken = False
            site.news()

        def wake() -> None:
            if self._woken or not site.is_watched:
                return
            self._woken = True
            with suppress(RuntimeError):  # the loop is ending
                self._loop.call_soon_threadsafe(news)

        self._hub.listen(wake)


def serve(
    hub: LiveHub, address: str, token: str | None = None, *, style: PictureStyle | None = None
) -> Server:
    """Serve the page of ``hub`` and return once it listens.

    address: ``[HOST:]PORT``; loopback by default, port 0 is any free one. token: what a visitor
    must show; where other machines can reach the address and none is given, one is made up, and
    is part of ``Server.url``. Traffic is plain HTTP: over networks that are not yours, put a TLS
    proxy or an SSH tunnel in front.

    Raises UsageError for a wrong address or token or where aiohttp is not installed, SinkError
    where the address cannot be listened on.
    """
    door = open_door(address, token)
    from streamface.serve.pictures import PictureStyle

    return Server(hub, door, style or PictureStyle())


def open_door(address: str, token: str | None) -> Door:
    """Return a socket that listens at an address, guarded; arguments and errors as of ``serve``."""
    where = Address.parse(address)
    if token is not None and not TOKEN_FORM.fullmatch(token):
        raise UsageError("the page's token must be 16 or more letters, digits and . _ ~ -")
    need_aiohttp()
    if token is None and not is_loopback(where.host):
        token = secrets.token_urlsafe(24)
    listener = _bind(where)
    port = listener.getsockname()[1]
    # Browsers send a host's cookies to all of its ports: another server there has its own.
    guard = Guard(frozenset({"localhost", where.host.lower()}), token, f"streamface_{port}")
    return Door(listener, guard, _url(where.host, port, token))


def need_aiohttp() -> None:
    """Raise UsageError where aiohttp is not installed."""
    try:
        import aiohttp  # noqa: F401 - only whether it is there
    except ImportError as exc:
        raise UsageError(
            "serving the page needs aiohttp; run pip install 'streamface[web]'"
        ) from exc


def _bind(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    both = address.host == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server(
            (address.host, address.port), family=family, backlog=64, dualstack_ipv6=both
        )
    except (OSError, UnicodeError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise SinkError(
            f"cannot serve the page on {address.host} port {address.port}: {reason}; "
            "choose another --serve"
        ) from exc


def _url(host: str, port: int, token: str | None) -> str:
    if host in _EVERYWHERE:
        host = _own_address()
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")


def _own_address() -> str:
    """Return the address by which this machine's network most likely knows it."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            # Connecting a datagram socket sends nothing; it chooses the outgoing interface.
            # The address is of TEST-NET-1 (RFC 5737), which belongs to nobody.
            probe.connect(("192.0.2.1", 9))
            own: str = probe.getsockname()[0]
            return own
    except OSError:  # no network at all
        return socket.gethostname()
