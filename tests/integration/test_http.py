"""The HTTP server against clients that send what never ends, and more connections than there are files."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import cls.doors.server
from cls.doors.server import HEADER_BYTES, HttpServer
from tests.integration.test_doors import free_port

CHUNKED = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the client's address, after the body, and after half a second for /slow."""
    message = await receive()
    while message.get("more_body"):
        message = await receive()
    if scope["path"] == "/slow":
        await asyncio.sleep(0.5)
    body = scope["client"][0].encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def serving(seconds: float = 30.0) -> Iterator[int]:
    port = free_port()
    server = HttpServer(echo, f"127.0.0.1:{port}", request_seconds=seconds)
    server.start()
    try:
        yield port
    finally:
        server.stop()


def answer(port: int, *parts: bytes, bytes_at_most: int = 1 << 20) -> bytes:
    """Send parts, the last one again and again, until the server hangs up; returns what it said."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        sent, said = 0, b""
        try:
            client.sendall(b"".join(parts[:-1]))
            while parts[-1] and sent < bytes_at_most:
                client.sendall(parts[-1])
                sent += len(parts[-1])
                time.sleep(0.001)
        except OSError:
            pass
        assert sent < bytes_at_most, "nobody hung up"
        try:
            while found := client.recv(4096):
                said += found
        except OSError:
            pass
        return said


@pytest.mark.parametrize(
    ("before", "again"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n", b"a: b\r\n" * 1000),
        (b"GET / HTTP/1.1\r\nHost: a\r\nx: ", b"y" * 8000),
        (b"GET /", b"y" * 8000),
        (CHUNKED + b"0\r\nx: ", b"y" * 8000),
        (CHUNKED + b"1\r\nx\r\n1;", b"y" * 8000),
    ],
)
def test_what_is_no_body_is_bounded(before: bytes, again: bytes) -> None:
    with serving() as port:
        said = answer(port, before, again, bytes_at_most=8 * HEADER_BYTES)
        assert not said or said.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))


def test_trailers_are_refused() -> None:
    with serving() as port:
        said = answer(port, CHUNKED + b"1\r\nx\r\n0\r\nAuthorization: z\r\n\r\n", b"")
    assert said.startswith(b"HTTP/1.1 400")


def test_a_body_in_many_small_chunks_is_taken() -> None:
    with serving() as port, socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(CHUNKED)
        for _ in range(15_000):  # sizes alone are more than a header may have
            client.sendall(b"1\r\n")
            client.sendall(b"x\r\n")
        client.sendall(b"0\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")


def test_nobody_chooses_the_address_that_he_comes_from() -> None:
    with serving() as port, socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n")
        assert client.recv(4096).endswith(b"127.0.0.1")


def test_a_late_request_is_not_answered_before_an_earlier_one() -> None:
    with serving() as port:
        said = answer(port, b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\nGET /", b"y" * 8000)
    assert said == b""


def test_idle_connections_leave_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cls.doors.server, "most_connections", lambda: 20)
    with serving() as port:
        clients = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(60)]
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
        for one in clients:
            one.close()


def test_an_empty_line_does_not_keep_a_connection_for_ever() -> None:
    with serving(1.0) as port, socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
        client.sendall(b"\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 408")


def test_connections_are_fewer_than_files() -> None:
    assert cls.doors.server.most_connections() < resource.getrlimit(resource.RLIMIT_NOFILE)[0]
