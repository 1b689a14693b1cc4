"""`cls serve`: answers predictions, follows the champions, and scores what came without a prediction.

    POST /v1/streams/NAME/predict    JSON (an object, a list, {"rows": [...], "log": true}), NDJSON or Arrow IPC
    GET  /v1/streams, /healthz, /readyz, /metrics, /openapi.json

It needs the database to learn of new champions and to log, not to answer.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from contextlib import suppress

import torch

from cls.config import Config
from cls.doors.server import HttpServer
from cls.doors.token_book import REFRESH_SECONDS, TokenBook, refuse_unguarded
from cls.errors import CLSError
from cls.logging import get_logger
from cls.metrics.serve import ServeMetrics
from cls.metrics.serve_parts import show_parts
from cls.scoring import ScoringProcess
from cls.serving.follow import Follower
from cls.serving.models import ModelCache
from cls.serving.predict import predict_app
from cls.serving.prediction_log import PredictionLog
from cls.serving.stuck import Hung, Stuck
from cls.serving.tally import Tally
from cls.tasks import Task
from storage.db import transaction
from storage.home import Home
from storage.inbox import Inbox
from storage.streams import sign_in

FOLLOW_SECONDS = 0.1
SWITCH_SECONDS = 0.0005  # for which a thread that writes the log, say, may keep the event loop from running; Python's own is ten times as long
LOOK_SECONDS = 1.0  # between two looks after what hangs
STUCK_LOOKS = 30  # after which a champion that hangs ends the process: whoever supervises it starts another
START_SECONDS = 15.0  # for which the first champions are waited for, at most
SIGN_SECONDS = 5.0
TALLY_SECONDS = 1.0
_VERSIONS_PER_STREAM = 4  # champion, predecessor, challenger, and one that is being replaced
_log = get_logger(__name__)


def serve(config: Config, stop: threading.Event) -> bool:
    """Serve until `stop` is set; then finish what is under way.

    Parameters
    ----------
    config
        The configuration.
    stop
        Set it to stop; that is what the command does on SIGTERM and SIGINT.

    Returns
    -------
    Whether all threads that predict ended. Python would wait for one that hangs for ever.

    Raises
    ------
    Unavailable, Refused
        If the stores or the address cannot be opened.
    Hung
        If a champion hangs for long: its thread ends with the process only.
    """
    torch.set_num_threads(1)
    sys.setswitchinterval(SWITCH_SECONDS)
    home = Home.open(config)
    models = ModelCache(
        home.engine, home.artifacts, config.models, _VERSIONS_PER_STREAM * len(config.streams) + 1
    )
    tally, book, metrics = Tally(), TokenBook(home.engine), ServeMetrics(config.streams)
    stuck = Stuck()
    follower = Follower(tuple(config.streams), home.engine, models, tally.error, config.serve)
    inbox = Inbox(home.engine, home.inbox)
    log = PredictionLog(inbox, {name: settings.columns for name, settings in config.streams.items()})
    app = predict_app(config, follower, log, tally=tally, metrics=metrics, book=book, stuck=stuck)
    server = HttpServer(app, config.http.serve, config.http, config.serve.body_seconds)
    scoring = ScoringProcess(config)
    process = f"serve@{socket.gethostname()}:{os.getpid()}"

    def sign() -> None:
        with transaction(home.engine) as connection:
            sign_in(connection, process, "serve", {"http": config.http.serve, "streams": follower.state()})

    follow = Task("follow", follower.poll, FOLLOW_SECONDS, stop)
    tasks = [
        follow,
        Task("sign-in", sign, SIGN_SECONDS, stop),
        Task("tally", lambda: tally.flush(home.engine), TALLY_SECONDS, stop),
        Task("tokens", book.refresh, REFRESH_SECONDS, stop),
    ]
    show_parts(metrics, config.streams, follower, log, lambda: scoring.pid)
    metrics.reads("cls_serve_database_up", lambda: {(): float(not follow.failing)})
    try:
        book.refresh()
        refuse_unguarded("http.serve", config.http.serve, book)
        _await_champions(follower, stop)
        server.start()
        for task in tasks:
            task.start()
        scoring.start()
        _log.info("serve ready", streams=sorted(config.streams), http=config.http.serve)
        while not stop.wait(LOOK_SECONDS):
            stuck.look(STUCK_LOOKS)
            if server.look() > STUCK_LOOKS:
                raise Hung("a version holds up the event loop")
    finally:
        stop.set()
        ended = server.stop()
        for task in reversed(tasks):
            if task.ident is not None:
                task.join()
        scoring.stop()
        lost = log.close()
        with suppress(CLSError):
            tally.flush(home.engine)
        inbox.close()
        home.sign_out(process)
    _log.info("serve stopped", predictions_not_logged=lost)
    return ended


def _await_champions(follower: Follower, stop: threading.Event) -> None:
    """Let champions load before the first request comes: a restart answers nobody "no champion". One that cannot be loaded holds nobody up."""
    until = time.monotonic() + START_SECONDS
    while not follower.ready and not stop.is_set() and time.monotonic() < until:
        try:
            follower.poll()
        except CLSError:
            return  # the database is away: followed later
        stop.wait(FOLLOW_SECONDS)
