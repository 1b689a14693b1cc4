"""Where a request may come from: the Host that it names, and the Origin of the page that sends it. Strings of both are judged once."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import TypeVar

from cls.doors.addresses import host_of, is_literal, is_loopback

# What the guard leaves in a request's ASGI scope.
STRANGER = "cls.stranger"  # whether it came in where others need a token
TOKEN = "cls.token"  # noqa: S105 - the key of its Token, or None
Header = TypeVar("Header")
_MANY = 1000  # headers remembered at most: strangers choose them


class Hosts:
    """Knows the Host headers that a page from elsewhere could not have chosen (DNS rebinding).

    IP literals and loopback names are always safe: nobody else resolves them. Beyond that the host that is listened on is known, those
    that are configured, and, once that is not the loopback, this machine's name and names without a dot (those of containers and of the
    local network).

    Parameters
    ----------
    listening
        host:port of the configuration.
    hosts
        More names.
    """

    def __init__(self, listening: str, hosts: Iterable[str]) -> None:
        self._names = {"localhost", host_of(listening), *(host.lower() for host in hosts)}
        self._open = not is_loopback(listening)
        if self._open:
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        self._seen: dict[bytes, bool] = {}

    def known(self, header: bytes) -> bool:
        """Whether a request with this Host is answered."""
        found = self._seen.get(header)
        if found is None:
            found = _keep(self._seen, header, lambda: self._judge(host_of(header.decode("latin-1"))))
        return found

    def _judge(self, host: str) -> bool:
        if host in self._names or host.endswith(".localhost"):
            return True
        return bool(host) and (is_literal(host) or (self._open and host.isprintable() and "." not in host))


class Origins:
    """Knows the Origin headers of pages that may call: those of this very host, and those that are configured.

    Parameters
    ----------
    origins
        As "https://ops.example.org".
    """

    def __init__(self, origins: Iterable[str]) -> None:
        self._configured = {origin.lower().encode() for origin in origins}
        self._seen: dict[tuple[bytes, bytes, str], bool] = {}

    def known(self, origin: bytes, host: bytes, scheme: str) -> bool:
        """Whether a page of an origin may call this host; `scheme` is that of the request."""
        key = (origin, host, scheme)
        found = self._seen.get(key)
        if found is None:
            found = _keep(self._seen, key, lambda: self._judge(origin.lower(), host.lower(), scheme))
        return found

    def _judge(self, origin: bytes, host: bytes, scheme: str) -> bool:
        """Compare; behind a proxy with TLS the page's scheme is https, and that of the request http."""
        own = {b"https://" + host, b"http://" + host if scheme == "http" else b"https://" + host}
        return origin in self._configured or origin in own


def _keep(seen: dict[Header, bool], header: Header, judge: Callable[[], bool]) -> bool:
    if len(seen) >= _MANY:
        seen.clear()
    seen[header] = judge()
    return seen[header]
