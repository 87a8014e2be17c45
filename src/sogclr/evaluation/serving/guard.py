"""Refuse requests that a page of another site has made the browser send.

A server on this machine is reached by every page that is open in a browser of this machine. Such a
page cannot read answers of another address, unless its own name suddenly points to 127.0.0.1 (DNS
rebinding). The request then still has the name of that page as its host, by which it is known.
"""

import ipaddress
import socket
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard"]

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """An app that passes on only requests that a user of this machine meant.

    Args:
        app: the app behind it.
        names: names by which browsers may call this machine, besides its own and `localhost`.
            Addresses of numbers are always right: only names can be made to point elsewhere.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] = ()) -> None:
        self._app = app
        self._names = {"localhost", socket.gethostname().lower(), *(n.lower() for n in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_known(host):
            message = f"This server is not called {host!r}; see --host of sogclr serve.\n"
            await PlainTextResponse(message, 421)(scope, receive, send)
        elif _is_from_elsewhere(scope["method"], headers):
            message = "Another site has sent this request.\n"
            await PlainTextResponse(message, 403)(scope, receive, send)
        else:
            await self._app(scope, receive, _with_headers(send))

    def _is_known(self, host: str) -> bool:
        """Tell whether a Host header is an address of numbers, or a name of this machine."""
        name, _, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
        name = name if name and port.isdecimal() else host
        name = name.lower()
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True


def _is_from_elsewhere(method: str, headers: Headers) -> bool:
    """Tell whether a page of another site made the browser send a request.

    Links from other pages are welcome: a user has clicked them.
    """
    origin = headers.get("origin")
    if method != "GET" and origin is not None:
        return origin.partition("://")[2] != headers.get("host")
    if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        return False
    return method != "GET" or headers.get("sec-fetch-mode") != "navigate"


def _with_headers(send: Send) -> Send:
    """Add headers by which a browser runs and shows nothing but what this server sends."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(HEADERS)
        await send(message)

    return send_with_headers
