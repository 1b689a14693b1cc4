"""`cls serve`: answers predictions, follows the champions, and scores what came without a prediction.

    POST /v1/streams/NAME/predict    JSON (an object, a list, {"rows": [...], "log": true}), NDJSON or Arrow IPC
    GET  /v1/streams, /healthz, /readyz

It needs the database to learn of new champions and to log, not to answer.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

import torch

from cls.config import Config
from cls.errors import CLSError, Temporary
from cls.follow import Follower
from cls.http import HttpServer
from cls.logging import get_logger
from cls.models import ModelCache
from cls.predict import predict_app
from cls.prediction_log import PredictionLog
from cls.scorer import Scorer
from storage.db import transaction
from storage.home import Home
from storage.inbox import Inbox
from storage.streams import sign_in

FOLLOW_SECONDS = 0.1
IDLE_SECONDS = 0.1  # between two looks for rows to score, where there have been none for a while
PARTS = 16  # the scorer's pause begins with this part of it, and grows by as much with each look that finds nothing
SIGN_SECONDS = 5.0
_PATIENCE_SECONDS = 5.0  # after an error that may last
_VERSIONS_PER_STREAM = 4  # champion, predecessor, challenger, and one that is being replaced
_log = get_logger(__name__)


def serve(config: Config, stop: threading.Event) -> None:
    """Serve until `stop` is set; then finish what is under way.

    Parameters
    ----------
    config
        The configuration.
    stop
        Set it to stop; that is what the command does on SIGTERM and SIGINT.

    Raises
    ------
    Unavailable, Refused
        If the stores or the address cannot be opened.
    """
    torch.set_num_threads(1)
    home = Home.open(config)
    models = ModelCache(
        home.engine, home.artifacts, config.models, _VERSIONS_PER_STREAM * len(config.streams) + 1
    )
    follower = Follower(tuple(config.streams), home.engine, models)
    inbox = Inbox(home.engine, home.inbox)
    log = PredictionLog(inbox)
    server = HttpServer(predict_app(config, follower, log), config.http.serve)
    process = f"serve@{socket.gethostname()}:{os.getpid()}"

    def sign() -> bool:
        with transaction(home.engine) as connection:
            sign_in(connection, process, "serve", {"http": config.http.serve, "streams": follower.state()})
        return False

    def follow() -> bool:
        follower.poll()
        return False

    tasks = [_Task("follow", follow, FOLLOW_SECONDS, stop), _Task("sign-in", sign, SIGN_SECONDS, stop)]
    tasks += [
        _scorer(Scorer(name, home.engine, home.log, home.segments, models), name, stop)
        for name in config.streams
    ]
    try:
        for task in tasks:
            task.start()
        with suppress(CLSError):  # the champions are there before the first request; later ones are followed
            follower.poll()
        server.start()
        _log.info("serve ready", streams=sorted(config.streams), http=config.http.serve)
        stop.wait()
    finally:
        stop.set()
        server.stop()
        for task in reversed(tasks):
            task.join()
        lost = log.close()
        inbox.close()
        home.sign_out(process)
    _log.info("serve stopped", predictions_not_logged=lost)


class _Task(threading.Thread):
    """Repeats a step until the end: at once while it says True, else after a pause, which grows in parts. No error ends it."""

    def __init__(
        self,
        name: str,
        step: Callable[[], bool],
        pause_seconds: float,
        stop: threading.Event,
        parts: int = 1,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._step = step
        self._pause_seconds = pause_seconds
        self._parts = parts
        self._stopping = stop
        self._complaint = ""

    def run(self) -> None:
        idle = 0
        while not self._stopping.is_set():
            try:
                more = self._step()
                idle = 0 if more else idle + 1
                pause = self._pause_seconds * min(idle, self._parts) / self._parts
            except Temporary as error:
                more, pause = False, min(error.delay, _PATIENCE_SECONDS)
                self._complain(error)
            except Exception as error:  # noqa: BLE001 - serving goes on; this task tries again
                more, pause = False, _PATIENCE_SECONDS
                self._complain(error)
            else:
                self._complaint = ""
            if not more:
                self._stopping.wait(pause)

    def _complain(self, error: Exception) -> None:
        """Log an error once, not at every try."""
        if str(error) != self._complaint:
            self._complaint = str(error)
            _log.error(
                "task failed", task=self.name, error=str(error), exc_info=not isinstance(error, CLSError)
            )


def _scorer(scorer: Scorer, name: str, stop: threading.Event) -> _Task:
    return _Task(f"score-{name}", lambda: scorer.step() > 0, IDLE_SECONDS, stop, PARTS)
