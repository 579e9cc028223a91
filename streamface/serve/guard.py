"""Who may ask: the token, the name in the address bar, and where a request comes from.

A page on loopback is still reachable by every web site its user opens: by a cross-site request
(CSRF), by a WebSocket, which no browser keeps to its origin, and by a name that is made to point
to 127.0.0.1 after the site was loaded (DNS rebinding). Non-browsers send neither Origin nor
Sec-Fetch-Site and pass those two checks.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

TOKEN_FORM: Final = re.compile(r"[A-Za-z0-9._~-]{16,}")
"""Fit for a URL and a cookie as it stands, and longer than anybody guesses."""
_OWN_SITES: Final = frozenset({"same-origin", "none"})


@dataclass(frozen=True, slots=True)
class Refusal:
    """An HTTP status and one line that says why."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class Request:
    """What the guard looks at."""

    path: str
    headers: Mapping[str, str]
    """Case-insensitive."""
    cookies: Mapping[str, str]
    query: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Guard:
    """Decides on each request before anything else does."""

    names: frozenset[str]
    """Host names it answers to besides IP addresses, in lower case; with a token, to any."""
    token: str | None
    cookie: str
    """Name of the cookie that carries the token."""

    def refusal(self, request: Request) -> Refusal | None:
        """Return why the request is refused, or None where it is not."""
        host = request.headers.get("Host", "")
        # A rebound name brings no cookie of ours along, so a token is enough against it; and
        # behind a proxy the name is whatever the proxy is called.
        if self.token is None and not self._is_ours(host):
            return Refusal(403, "this server is not known by the name in the address")
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return Refusal(403, "requests from other sites are refused")
        if not _from_here(request):
            return Refusal(403, "requests from other sites are refused")
        if self.token is not None and not self._has_token(request):
            return Refusal(401, "open the address with the token that streamface printed")
        return None

    def _is_ours(self, host: str) -> bool:
        """Return whether a Host header names this server: rebinding needs a name of its own."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self.names or _is_address(name)

    def _has_token(self, request: Request) -> bool:
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        candidates = (
            request.cookies.get(self.cookie, ""),
            request.query.get("token", ""),
            bearer.strip() if scheme.lower() == "bearer" else "",
        )
        return any(self.is_token(candidate) for candidate in candidates)

    def is_token(self, text: str) -> bool:
        """Return whether ``text`` is the token, in a time that does not tell how nearly."""
        expected = (self.token or "").encode()
        return bool(expected) and hmac.compare_digest(text.encode("utf-8", "replace"), expected)


def _from_here(request: Request) -> bool:
    """Return whether no other site sent this; following a link to the page itself is allowed."""
    site = request.headers.get("Sec-Fetch-Site", "none")
    followed = request.path == "/" and request.headers.get("Sec-Fetch-Mode") == "navigate"
    return site in _OWN_SITES or followed


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach ``host``, an address or ``localhost``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
