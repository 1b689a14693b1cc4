"""A closed-loop load generator on raw sockets, in a process of its own: every connection asks again as soon as it has its answer.

    python -m benchmarks.serving_load PORT PATH CONNECTIONS SECONDS ASKED.json

ASKED.json has request bodies (JSON as text, or Arrow IPC in base64) and the numbers that each of them must be answered with. Every answer is parsed and compared, so that no
server is measured at answering wrongly. A client library would cost more than the servers that are measured here.
"""

from __future__ import annotations

import base64
import json
import selectors
import socket
import sys
import time
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

TOLERANCE = 1e-3  # of a prediction: servers may add up float32 in another order
_END = b"\r\n\r\n"
_LENGTH = b"content-length:"
_JSON, _ARROW = "application/json", "application/vnd.apache.arrow.stream"


@dataclass(frozen=True)
class Load:
    """What one run of load saw."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    faults: int  # answers of another status than 200, or with other numbers
    generator_share: float  # of one core, that generating and checking took
    first_fault: str = ""

    @property
    def per_second(self) -> float:
        """Requests answered per second."""
        return self.requests / self.seconds


class Connection:
    """One connection with one request under way."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.began = 0.0
        self.expected: list[float] = []
        self._received = b""
        self._needed = 0  # bytes of the whole answer, once its head is there

    def ask(self, request: bytes, expected: list[float]) -> None:
        """Send a request."""
        self.expected, self._received, self._needed = expected, b"", 0
        self.began = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> bytes | None:
        """Read what is there; returns the answer once it is whole. Raises `ConnectionError` if the server hangs up."""
        part = self.socket.recv(1 << 18)
        if not part:
            raise ConnectionError("the server closed a connection under load")
        self._received += part
        if not self._needed:
            head = self._received.find(_END)
            if head < 0:
                return None
            self._needed = head + len(_END) + _content_length(self._received[:head])
        return self._received if len(self._received) >= self._needed else None


def _content_length(head: bytes) -> int:
    lower = head.lower()
    at = lower.find(_LENGTH)
    if at < 0:
        raise ConnectionError(f"an answer without Content-Length: {head.decode()}")
    return int(lower[at + len(_LENGTH) :].split(b"\r\n", 1)[0])


def fault_of(answer: bytes, expected: list[float]) -> str:
    """Return what is wrong with an answer, nothing if it is right."""
    head, _, body = answer.partition(_END)
    if not head.startswith(b"HTTP/1.1 200 "):
        return answer[:300].decode(errors="replace")
    if _ARROW.encode() in head:
        with pa.ipc.open_stream(body) as reader:
            found = reader.read_all().column("prediction").to_pylist()
    else:
        found = numbers_in(orjson.loads(body))
    if len(found) == len(expected) and all(
        abs(one - other) <= TOLERANCE * max(1.0, abs(other))
        for one, other in zip(found, expected, strict=True)
    ):
        return ""
    return f"{found[:3]} where {expected[:3]} is right"


def numbers_in(answer: Any) -> list[float]:
    """Return the predictions of an answer: {"prediction": x}, or {"predictions": [x or {"prediction": x}, ...]}."""
    if "prediction" in answer:
        return [answer["prediction"]]
    return [one["prediction"] if isinstance(one, dict) else one for one in answer["predictions"]]


def load(
    port: int, path: str, connections: int, seconds: float, asked: list[tuple[str, bytes, list[float]]]
) -> Load:
    """Put a server under load for some seconds, by content type, body and what is right."""
    requests = cycle((_request(port, path, kind, body), expected) for kind, body, expected in asked)
    selector = selectors.DefaultSelector()
    for connection in [Connection(port) for _ in range(connections)]:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    taken: list[float] = []
    faults, first_fault = 0, ""
    began, processor = time.perf_counter(), time.process_time()
    for key in selector.get_map().values():
        key.data.ask(*next(requests))
    while selector.get_map():
        for key, _ in selector.select(timeout=30):
            connection = key.data
            answer = connection.receive()
            if answer is None:
                continue
            now = time.perf_counter()
            taken.append(now - connection.began)
            fault = fault_of(answer, connection.expected)
            if fault:
                faults, first_fault = faults + 1, first_fault or fault
            if now - began < seconds:
                connection.ask(*next(requests))
            else:
                selector.unregister(connection.socket)
                connection.socket.close()
    lasted = time.perf_counter() - began
    taken.sort()
    return Load(
        requests=len(taken),
        seconds=lasted,
        p50_ms=1e3 * taken[len(taken) // 2],
        p99_ms=1e3 * taken[int(len(taken) * 0.99)],
        faults=faults,
        generator_share=(time.process_time() - processor) / lasted,
        first_fault=first_fault,
    )


def _request(port: int, path: str, kind: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: {kind}\r\nAccept: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def asked_as(text: str) -> tuple[str, bytes]:
    """Return content type and body of a request of the file: JSON begins with a bracket."""
    if text.startswith(("{", "[")):
        return _JSON, text.encode()
    return _ARROW, base64.b64decode(text)


def main() -> None:
    """Run as told by the command line; prints one line of JSON."""
    port, path, connections, seconds, file = sys.argv[1:]
    asked = [(*asked_as(text), expected) for text, expected in json.loads(Path(file).read_bytes())]
    print(json.dumps(asdict(load(int(port), path, int(connections), float(seconds), asked))))


if __name__ == "__main__":
    main()
