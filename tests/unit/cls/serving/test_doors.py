"""What the server knows of its connections and of its event loop."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any

import pytest

from cls.doors.server import HttpServer
from cls.metrics.serve import ServeMetrics
from tests.unit.cls.serving.test_batcher import Fake, World


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_request_that_comes_too_slowly_counts_as_408() -> None:
    metrics, port = ServeMetrics(["s"]), free_port()
    server = HttpServer(World(Fake(1), metrics=metrics).app, f"127.0.0.1:{port}", None, 0.1)
    server.start()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            head = b"POST /v1/streams/s/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
            client.sendall(head + b"{")
            assert client.recv(4096).startswith(b"HTTP/1.1 408")
    finally:
        server.stop()
    page = metrics.render().decode()
    assert 'cls_serve_requests_total{status="408",stream="s"} 1.0' in page
    assert 'status="400"' not in page


def test_an_event_loop_that_is_held_up_is_seen_from_outside() -> None:
    let_go, held = threading.Event(), threading.Event()

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        held.set()
        let_go.wait(60)

    port = free_port()
    server = HttpServer(app, f"127.0.0.1:{port}", None, 10.0)
    assert [server.look(), server.look()] == [0, 0]
    server.start()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert held.wait(60)
            server.look()
            time.sleep(0.3)  # however long: only looks count
            assert [server.look(), server.look(), server.look()] == [1, 2, 3]
            let_go.set()
            until = time.monotonic() + 60
            while server.look():
                assert time.monotonic() < until
                time.sleep(0.01)
    finally:
        let_go.set()
        assert server.stop()


def test_the_end_does_not_wait_for_what_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cls.doors.server._LEAVING_SECONDS", 0.3)

    def end_while_held(*, in_loop: bool) -> float:
        let_go, held = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            let_go.wait(60)

        async def app(_scope: Any, _receive: Any, _send: Any) -> None:
            if in_loop:
                hold()
            else:
                asyncio.get_running_loop().run_in_executor(None, hold)

        server = HttpServer(app, f"127.0.0.1:{(port := free_port())}", None, 10.0)
        server.start()
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                assert held.wait(60)
                before = time.monotonic()
                assert not server.stop()
                return time.monotonic() - before
        finally:
            let_go.set()

    assert end_while_held(in_loop=True) < 5
    assert end_while_held(in_loop=False) < 5
