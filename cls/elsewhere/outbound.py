"""Requests to addresses that others chose, without being led inside: one POST, one connection, one deadline.

The name is resolved once, each address is judged, and the connection goes to the very address that was judged: a name that answers
differently a moment later changes nothing. TLS is checked by the name. No redirect is followed, no proxy of the environment is asked,
and the whole exchange ends at one deadline, however slowly the other side drips or its name resolves.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import httpcore
import httpx

ANSWER_BYTES = 16 << 10  # of an answer that are read, and not kept
_METADATA = (  # services of clouds that are neither link-local nor in a range that every Python calls private
    ipaddress.ip_network("168.63.129.16/32"),
    ipaddress.ip_network("192.0.0.0/24"),
)
_DOCUMENTATION = ipaddress.ip_network("3fff::/20")  # which not every Python knows (RFC 9637)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[..., Iterable[tuple[Any, ...]]]  # as socket.getaddrinfo


class OutboundError(Exception):
    """The other side was not reached, or may not be; the text says why."""


@dataclass(frozen=True)
class Answer:
    """What the other side said."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    seconds: float


def forbidden(text: str) -> str | None:
    """Return why an address may not be called, None for one of the public internet.

    Parameters
    ----------
    text
        An IPv4 or IPv6 address as getaddrinfo returns it, with or without a scope.

    Examples
    --------
    >>> forbidden("::ffff:10.0.0.1")
    'a private address'
    >>> forbidden("1.1.1.1") is None
    True
    """
    address = _innermost(ipaddress.ip_address(text))
    if address.is_unspecified:
        return "the unspecified address"
    if address.is_loopback:
        return "a loopback address"
    if address.is_multicast:
        return "a multicast address"
    if address.is_link_local:
        return "a link-local address"
    if any(address in network for network in _METADATA):
        return "a metadata address"
    if address.is_private:
        return "a private address"
    outside = isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST
    return (
        "a reserved address"
        if outside or address in _DOCUMENTATION or address.is_reserved or not address.is_global
        else None
    )


def _innermost(address: IpAddress) -> IpAddress:
    """Return the IPv4 address inside an IPv6 one that is only a way to write, or to reach, it."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    inside = address.ipv4_mapped or address.sixtofour
    if inside is None and address.teredo is not None:
        inside = address.teredo[1]
    if inside is None and address in _NAT64:
        inside = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address if inside is None else inside


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    timeout: float,
    allow_private: bool = False,
    resolve: Resolve = socket.getaddrinfo,
) -> Answer:
    """Post a body and return the answer's status and headers; its body is read in small measure and thrown away.

    Parameters
    ----------
    timeout
        Seconds for everything together: name, connection, TLS, sending, answer.
    allow_private
        Take addresses that `forbidden` names, too.
    resolve
        Finds the addresses of a name.

    Raises
    ------
    OutboundError
        If no answer came in time, or none of the name's addresses may be called.
    """
    began = time.monotonic()
    way = _Way(began + timeout, allow_private, resolve)
    try:
        target = httpx.URL(url)
        trust = ssl.create_default_context() if target.scheme == "https" else None  # which takes milliseconds
        with (
            httpcore.ConnectionPool(ssl_context=trust, network_backend=way) as pool,
            pool.stream(
                "POST",
                httpcore.URL(
                    scheme=target.raw_scheme,
                    host=target.raw_host,
                    port=target.port,
                    target=target.raw_path,
                ),
                headers=[("Host", target.netloc.decode()), *headers.items()],
                content=body,
            ) as response,
        ):
            found = {
                name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers
            }
            _drain(response)
            return Answer(response.status, found, time.monotonic() - began)
    except (httpcore.TimeoutException, TimeoutError) as error:
        raise OutboundError(f"no answer within {timeout:g} s") from error
    except (httpcore.NetworkError, httpcore.ProtocolError, httpx.InvalidURL, OSError, UnicodeError) as error:
        raise OutboundError(f"{type(error).__name__}: {error}") from error


def _drain(response: httpcore.Response) -> None:
    """Read a little of the answer, so that the other side may end in peace; what it says there decides nothing."""
    left = ANSWER_BYTES
    try:
        for part in response.iter_stream():
            left -= len(part)
            if left <= 0:
                return
    except (httpcore.ProtocolError, OSError):  # it stalled or went away: it has answered all the same
        return


class _Way(httpcore.NetworkBackend):
    """Connects to addresses that were judged, until one deadline."""

    def __init__(self, deadline: float, allow_private: bool, resolve: Resolve) -> None:
        self._deadline, self._allow_private, self._resolve = deadline, allow_private, resolve

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - the deadline rules
        local_address: str | None = None,  # noqa: ARG002 - of the interface
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002 - of the interface
    ) -> httpcore.NetworkStream:
        """Resolve once, judge, connect to what was judged."""
        if not 0 < port < 65536:
            raise httpcore.ConnectError(f"{host}: there is no port {port}")
        reason = "has no address"
        for family, kind, protocol, _, place in self._places(host, port):
            fault = None if self._allow_private else forbidden(str(place[0]))
            if fault is not None:
                reason = f"{place[0]} is {fault}, and allow_private is not set"
                continue
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(_left(self._deadline))
                connection.connect(place)
            except OSError as error:
                connection.close()
                reason = f"{place[0]}: {error.strerror or error}"
                continue
            return _Stream(connection, self._deadline)
        raise httpcore.ConnectError(reason if reason.startswith(host) else f"{host}: {reason}")

    def _places(self, host: str, port: int) -> list[tuple[Any, ...]]:
        """Return what a name resolves to, by the deadline: getaddrinfo has none of its own, so a slow one is left to its thread."""
        answers: SimpleQueue[list[tuple[Any, ...]] | Exception] = SimpleQueue()

        def ask() -> None:
            try:
                answers.put(
                    list(self._resolve(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP))
                )
            except Exception as error:  # noqa: BLE001 - raised below
                answers.put(error)

        Thread(target=ask, name=f"resolve {host}", daemon=True).start()
        try:
            found = answers.get(timeout=_left(self._deadline))
        except Empty:
            raise TimeoutError("timed out") from None
        if isinstance(found, Exception):
            raise found
        return found


class _Stream(httpcore.NetworkStream):
    """A socket of which every operation ends at the deadline."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._socket, self._deadline = connection, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - the deadline rules
        """Return what has come, at most so many bytes."""
        self._socket.settimeout(_left(self._deadline))
        return self._socket.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - the deadline rules
        """Send everything."""
        while buffer:
            self._socket.settimeout(_left(self._deadline))
            buffer = buffer[self._socket.send(buffer) :]

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002 - the deadline rules
    ) -> httpcore.NetworkStream:
        """Return the encrypted stream, the certificate checked by the host's name."""
        self._socket.settimeout(_left(self._deadline))
        try:
            wrapped = ssl_context.wrap_socket(self._socket, server_hostname=server_hostname)
        except OSError:
            self.close()
            raise
        return _Stream(wrapped, self._deadline)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left
