"""An HTTP server in a thread: uvicorn, started once it listens, stopped once it has answered."""

from __future__ import annotations

import socket
import time
from threading import Thread

import uvicorn
from fastapi import FastAPI

from cls.errors import Refused


class HttpServer:
    """Serves an application on host:port.

    Raises
    ------
    Refused
        On `start`, if the port is taken.
    """

    def __init__(self, app: FastAPI, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._address = address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._bind = (host.strip("[]"), int(port))
        settings = uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="off", timeout_keep_alive=30
        )
        self._server = uvicorn.Server(settings)
        self._thread = Thread(
            target=self._server.run, args=([self._socket],), name=f"http-{port}", daemon=True
        )

    def start(self) -> None:
        """Listen, and return once requests are answered."""
        try:
            self._socket.bind(self._bind)
        except OSError as error:
            raise Refused(
                f"cannot listen on {self._address}: {error.strerror}; is another CLS running?"
            ) from error
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.01)

    def stop(self) -> None:
        """Answer what is in flight, then stop."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(timeout=15)
        self._socket.close()
