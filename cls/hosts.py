"""A guard on the Host header: a page from elsewhere must not reach what listens here."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from ipaddress import ip_address

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class HostGuard:
    """Refuses requests whose Host header a page from elsewhere could have chosen (DNS rebinding).

    IP literals and loopback names are always safe: nobody else resolves them. Beyond that the host that is listened on is known, and,
    once that is not loopback, this machine's name and names without a dot (those of containers and of the local network).

    Parameters
    ----------
    app
        The application.
    listening
        host:port of the configuration.
    hosts
        More names.
    """

    def __init__(self, app: ASGIApp, listening: str, hosts: Iterable[str] = ()) -> None:
        self._app = app
        own = host_of(listening)
        self._known = {"localhost", own, *(host.lower() for host in hosts)}
        self._open = not _loopback(own)
        if self._open:
            self._known |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 421."""
        if scope["type"] == "http":
            header = next((value for name, value in scope["headers"] if name == b"host"), b"").decode(
                "latin-1"
            )
            if not self._allowed(host_of(header)):
                refusal = JSONResponse({"error": f"Host {header!r} is not served here"}, 421)
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _allowed(self, host: str) -> bool:
        if host in self._known or host.endswith(".localhost"):
            return True
        return bool(host) and (_literal(host) or (self._open and "." not in host))


def host_of(address: str) -> str:
    """Return the host of host:port in lower case; [::1]:80 is ::1."""
    if address.startswith("["):
        return address[1:].partition("]")[0].lower()
    return address.rpartition(":")[0].lower() if ":" in address else address.lower()


def _literal(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _loopback(host: str) -> bool:
    return host == "localhost" or (_literal(host) and ip_address(host).is_loopback)
