"""An HTTP server in a thread: uvicorn, started once it listens, stopped once it has answered.

Uvicorn waits for ever for a request that is never completed and holds for ever an answer that is never read; here neither holds memory
for longer than the seconds that a request may take, and idle connections leave room for others.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from threading import Event, Thread
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cls.config import HttpConfig
from cls.doors.web import GAVE_UP
from cls.errors import Refused

REQUEST_SECONDS = 30.0  # within which a request must have arrived, and its answer must have been taken
KEEP_ALIVE_SECONDS = 30  # for which an idle connection is kept
HEADER_BYTES = 64 << 10
GRACE_SECONDS = 10  # within which what is in flight is answered, at the end
_LEAVING_SECONDS = 3.0  # within which an event loop that is not held up sees that it is to end
_SWEEP_TICKS = 5  # of 0.1 s


class HttpServer:
    """Serves an application on host:port.

    Parameters
    ----------
    app
        The application.
    address
        Where to listen.
    http
        Certificate and key, if it is to speak TLS.
    request_seconds
        Within which a request must have arrived; one that has not is answered 408.

    Raises
    ------
    Refused
        On `start`, if the port is taken or the certificate cannot be read.
    """

    def __init__(
        self,
        app: ASGIApp,
        address: str,
        http: HttpConfig | None = None,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        host, _, port = address.rpartition(":")
        self._address = address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._bind = (host.strip("[]"), int(port))
        secure = http is not None and http.tls_certificate is not None
        self._settings = uvicorn.Config(
            app,
            http=_Connection,
            ws="none",
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            proxy_headers=False,  # any process of this machine could choose whose address it has
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
            ssl_certfile=http.tls_certificate if http and secure else None,
            ssl_keyfile=http.tls_key if http and secure else None,
        )
        self._server = _Server(self._settings, request_seconds)
        self._seen = 0  # ticks at the last look
        self._silent = 0
        self._thread = Thread(
            target=self._server.run, args=([self._socket],), name=f"http-{port}", daemon=True
        )

    def start(self) -> None:
        """Listen, and return once requests are answered."""
        try:
            self._settings.load()
        except OSError as error:  # ssl.SSLError is one
            raise Refused(f"http.tls_certificate and http.tls_key cannot be used: {error}") from error
        try:
            self._socket.bind(self._bind)
        except OSError as error:
            raise Refused(
                f"cannot listen on {self._address}: {error.strerror}; is another CLS running?"
            ) from error
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.01)

    def look(self) -> int:
        """Return at how many looks in a row its event loop had not come round: an application that hangs in it answers nobody.

        They are counted, as a clock goes on while the process is stopped.
        """
        ticks = self._server.ticks
        self._silent = self._silent + 1 if ticks and ticks == self._seen else 0
        self._seen = ticks
        return self._silent

    def stop(self) -> bool:
        """Answer what is in flight, then stop.

        Returns
        -------
        Whether all of its threads ended; no more is waited for one that hangs than it takes to see that it does.
        """
        self._server.should_exit = True
        if self._thread.ident is not None and self._server.leaving.wait(_LEAVING_SECONDS):
            self._server.answered.wait(GRACE_SECONDS + 5)
            self._thread.join(timeout=1.0)
        self._socket.close()
        return not self._thread.is_alive()


class _Server(uvicorn.Server):
    """Looks at all connections twice a second."""

    def __init__(self, config: uvicorn.Config, request_seconds: float) -> None:
        super().__init__(config)
        self._request_seconds = request_seconds
        self.ticks = 0  # how often the event loop came round
        self.leaving = Event()  # it takes no more connections
        self.answered = Event()  # what was in flight is; threads of the loop may go on

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            super().run(sockets)
        finally:  # also where it could not start
            self.leaving.set()
            self.answered.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.leaving.set()
        await super().shutdown(sockets)
        self.answered.set()

    async def on_tick(self, counter: int) -> bool:
        self.ticks += 1
        if counter % _SWEEP_TICKS == 0:
            oldest = time.monotonic() - self._request_seconds
            for connection in list(self.server_state.connections):
                if isinstance(connection, _Connection):
                    connection.sweep(oldest)
        return await super().on_tick(counter)


class _Connection(HttpToolsProtocol):
    """Knows since when it waits for its client, and how long the header is that is coming in."""

    _arriving: float | None = None  # monotonic time at which a request began that is not complete
    _stuck: float | None = None  # since when the client does not read its answer
    _head = 0  # bytes that came before the header was complete; -1 once it is
    _empty = 0  # bytes since then that were no body: sizes and extensions of chunks, trailers
    _since = 0.0  # monotonic time at which the last request was complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._arriving = self._since = time.monotonic()
        if len(self.connections) >= most_connections():
            idle = [one for one in self.connections if isinstance(one, _Connection) and one.idle]
            if idle:
                min(idle, key=lambda one: one._since).drop()
            else:
                self.transport = transport
                transport.abort()
                return
        super().connection_made(cast(asyncio.Transport, _Corked(transport)))

    @property
    def idle(self) -> bool:
        """Whether there is no request that this process owes an answer."""
        cycle: Any = self.cycle
        return cycle is None or cycle.response_complete

    def drop(self) -> None:
        """Hang up to make room."""
        self.connections.discard(self)
        self.transport.abort()

    def on_message_begin(self) -> None:
        self._arriving, self._head, self._empty = time.monotonic(), 0, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head < 0:  # answered 400: a trailer would change the header that the guard has seen
            raise ValueError("trailers are not taken")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head = -1
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._empty = -1
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._arriving, self._since = None, time.monotonic()
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        if self._arriving is None and self.idle:  # empty lines before a request are its beginning
            self._arriving = time.monotonic()
        super().data_received(data)
        if self._arriving is None or self.transport.is_closing():
            return
        if self._head >= 0:
            self._head += len(data)
        else:
            self._empty = 0 if self._empty < 0 else self._empty + len(data)
        if max(self._head, self._empty) > HEADER_BYTES:
            self._give_up(b"431 Request Header Fields Too Large")

    def on_response_complete(self) -> None:
        if isinstance(self.transport, _Corked):
            self.transport.flush()
        super().on_response_complete()

    def pause_writing(self) -> None:
        self._stuck = time.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._stuck = None
        super().resume_writing()

    def sweep(self, oldest: float) -> None:
        """Give up a client that has kept this process waiting since before `oldest`."""
        if self._stuck is not None and self._stuck < oldest:
            self.transport.abort()
        elif self._arriving is not None and self._arriving < oldest:
            self._give_up(b"408 Request Timeout")

    def _give_up(self, status: bytes) -> None:
        """Answer what can be answered before the request is complete, and hang up."""
        self._arriving = None
        cycle: Any = self.cycle
        if cycle is not None and not self.idle:
            cycle.scope[GAVE_UP] = int(status[:3])  # the application sees a body that ends early
        if self.pipeline or (self._head >= 0 and not self.idle):  # an earlier request has the word
            self.transport.abort()
            return
        if not self.transport.is_closing() and (
            cycle is None or cycle.response_complete or not cycle.response_started
        ):
            text = b'{"error":"%b"}' % status
            self.transport.write(
                b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
                % (status, len(text), text)
            )
        self.transport.close()


def most_connections() -> int:
    """Return how many connections are held at once: others need files, too."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, files - max(64, files // 4)) if files != resource.RLIM_INFINITY else 1 << 20


class _Corked:
    """A transport that sends at once what was written in one turn of the loop, or until an answer is complete.

    Uvicorn writes head and body of an answer apart. Two system calls, each of which wakes the client, were more than half of what a small
    answer costs.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._held: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._held:
            asyncio.get_running_loop().call_soon(self.flush)
        self._held.append(data)

    def flush(self) -> None:
        """Send it."""
        if self._held:
            held, self._held = self._held, []
            self._transport.write(b"".join(held))

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        self._held.clear()
        self._transport.abort()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
