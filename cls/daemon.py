"""`cls daemon`: listens for events and labels and runs every stream's turns. Never imports torch or MLflow.

One thread a stream, so that a stream whose data are damaged or whose source hangs does not hold up the others; APScheduler
holds the timers, SQL the truth. Starts in order, stops in reverse; a side task that dies takes the process with it, and the
supervisor starts it anew from what is committed.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from threading import Event, Lock, Thread
from typing import Any

import structlog
from apscheduler.schedulers.background import BackgroundScheduler

from cls.config import Config
from cls.doors.server import HttpServer
from cls.doors.token_book import REFRESH_SECONDS, TokenBook, refuse_unguarded
from cls.errors import CLSError, Permanent, Refused, Temporary
from cls.intake import intake_app
from cls.ledger_log import LedgerLog
from cls.logging import bound
from cls.metrics.daemon import Measures
from cls.metrics.readiness import Readiness, Turns
from cls.ports import Source
from cls.stream import Ports, StreamLoop
from storage import queue, streams
from storage.db import reading, transaction, wall_clock
from storage.files import FileSource
from storage.home import Home
from storage.housekeeping import (
    collect_inbox,
    collect_orphans,
    collect_snapshots,
    drop_dead_letters,
    drop_sums,
    forget_processes,
)
from storage.inbox import Inbox, InboxSource, forget_files
from storage.webhooks import drop_announcements

log = structlog.get_logger("cls.daemon")
IDLE_SECONDS = 0.03  # between two looks at a stream that nobody woke
SUMS_KEPT = timedelta(days=30)  # of what versions did, after a rollout
GONE_AFTER = timedelta(hours=1)  # killed processes are shown as gone for this long
REPAIR_SECONDS = 30.0  # before a stream that met a permanent error is tried again


class Daemon:
    """The daemon's tasks, started by `run`."""

    def __init__(self, config: Config, home: Home, stop: Event) -> None:
        self.config = config
        self.home = home
        self.stop = stop
        self.failure: BaseException | None = None
        self.wakers = {name: Event() for name in config.streams}
        self.turning = {name: Lock() for name in config.streams}  # held during a turn
        self.turns = Turns(config.streams)
        self.inbox = Inbox(home.engine, home.inbox)
        self.book = TokenBook(home.engine)
        self.limits = queue.Limits(
            config.worker.max_attempts,
            config.worker.max_crashes,
            timedelta(seconds=config.worker.retry_delay_seconds),
        )
        self.name = f"daemon@{socket.gethostname()}:{os.getpid()}"

    def run(self) -> None:
        """Run until told to stop, or until a task dies."""
        self.book.refresh()
        refuse_unguarded("http.ingest", self.config.http.ingest, self.book)
        engine = self.home.engine
        readiness = Readiness(engine, self.turns, Measures(self.config, engine, self.turns.state))
        app = intake_app(
            self.config,
            self.inbox,
            engine,
            self.wake,
            between_turns=self.turning.__getitem__,
            book=self.book,
            more=readiness.routes(),
        )
        server = HttpServer(app, self.config.http.ingest, self.config.http)
        threads = [self._thread(f"stream-{name}", self._run_stream, name) for name in self.config.streams]
        timers = self._timers()
        try:
            self.housekeep()
            for thread in threads:
                thread.start()
            timers.start()
            server.start()
            log.info("daemon ready", streams=sorted(self.config.streams), http=self.config.http.ingest)
            self.stop.wait()
        finally:
            self.stop.set()
            server.stop()
            timers.shutdown(wait=True)
            for waker in self.wakers.values():
                waker.set()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            self.inbox.close()
            self.home.sign_out(self.name)
        if self.failure is not None:
            raise self.failure

    def wake(self, stream: str) -> None:
        """Have a stream look at its inbox now."""
        self.wakers[stream].set()

    def _thread(self, name: str, task: Callable[..., None], *arguments: Any) -> Thread:
        def guarded() -> None:
            try:
                task(*arguments)
            except BaseException as error:
                log.exception("task died", task=name)
                self.failure = error
                self.stop.set()

        return Thread(target=guarded, name=name, daemon=True)

    # -- tasks --------------------------------------------------------------------------------------------------------

    def _run_stream(self, name: str) -> None:
        with bound(stream=name):
            self._turn(name)

    def _turn(self, name: str) -> None:
        loop: StreamLoop | None = None
        ledger: LedgerLog | None = None
        while not self.stop.is_set():
            try:
                loop = loop or StreamLoop(name, self.config.streams[name], self._ports(name))
                ledger = ledger or LedgerLog(self.home.engine, name)
                with self.turning[name]:
                    moved = loop.turn()
                self.turns.went_well(name)
                if moved:
                    ledger.tell()
                else:
                    self.wakers[name].wait(IDLE_SECONDS)
                    self.wakers[name].clear()
            except Refused as error:  # another process moved on: read the state anew
                log.warning("turn dropped", reason=str(error))
                self.stop.wait(IDLE_SECONDS)
            except Temporary as error:
                log.warning("waiting", reason=str(error))
                self.stop.wait(error.delay)
            except Permanent as error:
                self.turns.halt(name, str(error))
                log.error("stream halted", reason=str(error), retry_seconds=REPAIR_SECONDS)
                self.stop.wait(REPAIR_SECONDS)

    def _ports(self, name: str) -> Ports:
        home, source = self.home, self.config.streams[name].source
        sources: dict[str, Source] = {"source": InboxSource(home.engine, home.inbox, name)}
        if source.kind == "file" and source.path is not None:
            sources["file"] = FileSource(source.path, source.pattern, source.format, source.batch_rows)
        return Ports(home.engine, home.log, home.segments, home.artifacts, sources, wall_clock)

    # -- timers -------------------------------------------------------------------------------------------------------

    def _timers(self) -> BackgroundScheduler:
        timers = BackgroundScheduler(
            timezone="UTC", job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        )
        beat = self.config.worker.heartbeat_seconds
        tasks = ((min(beat, 2.0), self.tick), (REFRESH_SECONDS, self.book.refresh), (300.0, self.housekeep))
        for seconds, task in tasks:
            timers.add_job(self._tolerant, "interval", seconds=seconds, args=[task])
        return timers

    def _tolerant(self, task: Callable[[], None]) -> None:
        try:
            task()
        except CLSError as error:
            log.warning("timer", task=task.__name__, reason=str(error))
        except Exception as error:  # a dead side task stops the process
            log.exception("timer died", task=task.__name__)
            self.failure = error
            self.stop.set()

    def tick(self) -> None:
        """Show that we are alive, take jobs back from dead workers, move the time of idle streams."""
        with transaction(self.home.engine) as connection:
            streams.sign_in(connection, self.name, "daemon", {"http": self.config.http.ingest})
            for job in queue.reap(connection, self.limits):
                log.warning("lease expired", job=job)
            for name, stream in self.config.streams.items():
                idle = stream.source.idle_timeout
                watermark = streams.watermark(connection, name)
                if idle and watermark is not None:
                    streams.raise_watermark(connection, name, wall_clock() - idle)

    def housekeep(self) -> None:
        """Collect what nobody refers to."""
        began = time.monotonic()
        grace, home = self.config.retention.orphan_grace, self.home
        removed = collect_orphans(home.engine, home.segments, grace) + collect_inbox(
            home.engine, home.inbox, grace
        )
        removed += collect_snapshots(home.engine, self.config.home / "jobs")
        drop_dead_letters(home.engine, timedelta(days=self.config.retention.dead_letter_days))
        drop_announcements(home.engine, self.config.webhooks)
        drop_sums(home.engine, SUMS_KEPT)
        forget_processes(home.engine, GONE_AFTER)
        for name in self.config.streams:
            with reading(home.engine) as connection:
                token = streams.position(connection, name, "source")
            removed += forget_files(home.engine, home.inbox, name, token)
        log.debug("housekeeping", removed=removed, seconds=round(time.monotonic() - began, 3))


def run(config: Config, stop: Event) -> None:
    """Run the daemon until `stop` is set."""
    Daemon(config, Home.open(config), stop).run()
