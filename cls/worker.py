"""`cls worker`: claims a job, does it, publishes it. One process per slot; preemptible at every step.

A thread beside the training renews the lease. When it cannot, because the database is gone or the lease was lost (this process was
stopped for too long), the process ends itself at once: whatever it was doing belongs to another worker now.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread

import structlog
import torch

from cls.checkpoints import pack, unpack
from cls.config import Config
from cls.domain import Job, JobKind, Json
from cls.errors import CLSError, Corrupt, LeaseLost, Permanent, Temporary
from cls.jobs import Bench, publish, run
from cls.layout import LEARNER, MODEL, SPEC
from cls.logging import bound
from learners.checkpoint import Checkpoint
from learners.errors import LearnerError
from learners.training import StepReport, Training
from storage import outbox, queue, streams
from storage.artifacts import manifest_digest
from storage.db import reading, transaction
from storage.home import Home
from storage.segments import digest, write_synced

log = structlog.get_logger("cls.worker")
LEASE_LOST = 75  # exit code: the lease is gone, start a new worker


class Stopped(Exception):
    """The job must stop at this step."""


class Heart:
    """Renews a job's lease from its own thread, carries progress up and cancellation down."""

    def __init__(self, home: Home, config: Config, job: Job) -> None:
        self._engine = home.engine
        self._lease = timedelta(seconds=config.worker.lease_seconds)
        self._interval = config.worker.heartbeat_seconds
        self._job = job
        self._stop = Event()
        self.progress: Json | None = None
        self.cancelled = False
        self._thread = Thread(target=self._beat, name="heart", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        renewed = time.monotonic()
        while not self._stop.wait(self._interval):
            try:
                with transaction(self._engine) as connection:
                    self.cancelled = queue.heartbeat(connection, self._job, self._lease, self.progress)
                renewed = time.monotonic()
            except LeaseLost as error:
                if not self._stop.is_set():
                    _give_up(self._job, str(error))
            except CLSError as error:
                if time.monotonic() - renewed > self._lease.total_seconds():
                    _give_up(self._job, f"the lease could not be renewed: {error}")

    def stop(self) -> None:
        """Stop beating; afterwards the lease is nobody's but the caller's."""
        self._stop.set()
        self._thread.join()


def _give_up(job: Job, reason: str) -> None:
    log.error("worker ends itself", job=job.id, stream=job.stream, kind=str(job.kind), reason=reason)
    os._exit(LEASE_LOST)


class WorkerControl:
    """Keeps snapshots of a training on disk and stops it when asked."""

    def __init__(self, directory: Path, heart: Heart, stop: Event, every_seconds: float) -> None:
        self._directory = directory
        self._heart = heart
        self._stop = stop
        self._every = every_seconds
        self._kept = time.monotonic()

    def snapshot(self) -> Checkpoint | None:
        """Return the last snapshot of this job, None if there is none or it is damaged."""
        names = (MODEL, SPEC, LEARNER)
        try:
            pointer, _, sha256 = (self._directory / "latest").read_text().partition(" ")
            files = {name: (self._directory / pointer / name).read_bytes() for name in names}
            if _digest(files) != sha256:
                raise Corrupt(f"{pointer} does not match its hash")
            return unpack(files)
        except FileNotFoundError:
            return None
        except (Corrupt, OSError, UnicodeDecodeError) as error:
            log.warning("snapshot dropped", reason=str(error))
            return None

    def after_step(self, training: Training, report: StepReport) -> None:
        """See `cls.jobs.Control`."""
        self._heart.progress = {"step": report.step + 1, "steps": training.batches.steps, "loss": report.loss}
        if self._heart.cancelled:
            raise Stopped("cancelled")
        if self._stop.is_set():
            self._keep(training)
            raise Stopped("the worker stops")
        if time.monotonic() - self._kept >= self._every:
            self._keep(training)

    def _keep(self, training: Training) -> None:
        self._kept = time.monotonic()
        name = f"step-{training.progress.step:09d}"
        files = pack(training.snapshot())
        try:
            for file, data in files.items():
                write_synced(self._directory / name / file, data)
            write_synced(self._directory / "latest", f"{name} {_digest(files)}".encode())
        except Temporary as error:  # a full disk costs a snapshot, not the training
            log.warning("snapshot not kept", reason=str(error))
            shutil.rmtree(self._directory / name, ignore_errors=True)
            return
        for old in self._directory.glob("step-*"):
            if old.name != name:
                shutil.rmtree(old, ignore_errors=True)


def _digest(files: Mapping[str, bytes]) -> str:
    return manifest_digest({name: digest(data) for name, data in files.items()})


def run_worker(
    config: Config, stop: Event, slot: int = 0, kinds: tuple[JobKind, ...] = (JobKind.UPDATE, JobKind.ASSESS)
) -> None:
    """Work until told to stop.

    Parameters
    ----------
    stop
        Set to finish: a running training is left at its next step with a snapshot.
    slot
        Number of this worker on its machine.
    kinds
        Of jobs that it takes. Reports are left to the reporter: they take seconds, and must not delay an update.
    """
    torch.set_num_threads(1)
    home = Home.open(config)
    kind = "reporter" if kinds == (JobKind.REPORT,) else "worker"
    name = f"{kind}@{socket.gethostname()}:{os.getpid()}"
    bench = Bench(home.engine, home.log, home.artifacts, config.models, config.home / "jobs")
    lease = timedelta(seconds=config.worker.lease_seconds)
    limits = queue.Limits(
        config.worker.max_attempts,
        config.worker.max_crashes,
        timedelta(seconds=config.worker.retry_delay_seconds),
    )
    seen = 0.0
    log.info("worker ready", slot=slot, kinds=[str(kind) for kind in kinds])
    try:
        while not stop.is_set():
            try:
                if time.monotonic() - seen > config.worker.heartbeat_seconds:
                    with transaction(home.engine) as connection:
                        streams.sign_in(
                            connection, name, kind, {"slot": slot, "kinds": [str(k) for k in kinds]}
                        )
                    seen = time.monotonic()
                job = _claimed(home, name, lease, kinds)
                if job is None:
                    stop.wait(config.worker.poll_seconds)
                else:
                    torch.set_num_threads(job.input.threads)
                    _work(job, config, home, bench, limits, stop)
            except Temporary as error:
                log.warning("waiting", reason=str(error))
                stop.wait(error.delay)
    finally:
        home.sign_out(name)


def _claimed(home: Home, name: str, lease: timedelta, kinds: tuple[JobKind, ...]) -> Job | None:
    """Claim a job if there is one; an empty queue is left unlocked."""
    with reading(home.engine) as connection:
        if not queue.waiting(connection, kinds):
            return None
    with transaction(home.engine) as connection:
        return queue.claim(connection, name, lease, kinds)


def _work(job: Job, config: Config, home: Home, bench: Bench, limits: queue.Limits, stop: Event) -> None:
    """Do one job to one of its ends; every event on the way carries its ids."""
    with bound(job=job.id, stream=job.stream, kind=str(job.kind), attempt=job.attempt):
        try:
            _do(job, config, home, bench, limits, stop)
        except LeaseLost as error:  # also while giving it back: it is another worker's already
            log.error("result dropped", reason=str(error))


def _do(job: Job, config: Config, home: Home, bench: Bench, limits: queue.Limits, stop: Event) -> None:
    began = time.perf_counter()
    directory = config.home / "jobs" / f"{job.id}"
    heart = Heart(home, config, job)
    control = WorkerControl(directory, heart, stop, config.worker.checkpoint_seconds)
    try:
        outcome = run(job, bench, control)
        heart.stop()
        with transaction(home.engine) as connection:
            version = publish(connection, job, outcome)
        shutil.rmtree(directory, ignore_errors=True)
        log.info("job done", seconds=round(time.perf_counter() - began, 3), version=version)
    except LeaseLost:
        raise
    except Stopped as error:
        heart.stop()
        with transaction(home.engine) as connection:
            end = queue.cancelled if heart.cancelled else queue.release
            end(connection, job, time.perf_counter() - began)
            if heart.cancelled:
                outbox.post(connection, job.stream, "job", {"job_id": job.id})
        log.info("job left", reason=str(error))
    except (
        Temporary
    ) as error:  # a store that is away or full: not the job's fault, and no reason to give it up
        heart.stop()
        with transaction(home.engine) as connection:
            queue.release(connection, job, time.perf_counter() - began)
        log.warning("job waits", reason=str(error))
        stop.wait(error.delay)
    except Exception as error:  # whatever it was, the queue must hear of it; a crash would hide it
        heart.stop()
        _failed(job, home, limits, error, time.perf_counter() - began)
        log.exception("job failed")


def _failed(job: Job, home: Home, limits: queue.Limits, error: Exception, seconds: float) -> None:
    permanent = isinstance(error, Permanent | LearnerError)
    with transaction(home.engine) as connection:
        text = f"{type(error).__name__}: {error}"
        state = queue.fail(connection, job, text, limits, permanent=permanent, charged_seconds=seconds)
        if state == "dead":
            outbox.post(connection, job.stream, "job", {"job_id": job.id})
