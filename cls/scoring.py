"""Scoring in a process of its own: it shadows and scores the sample log at low priority, and costs no answer a millisecond.

    python -m cls.scoring    the configuration as JSON on standard input, which stays open: its end is the order to stop

`ScoringProcess` starts it, starts it again when it dies, and stops it; the kernel ends it when this process was killed (`cls.up_child`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from cls.config import Config
from cls.errors import Temporary
from cls.logging import configure, get_logger
from cls.tasks import Task
from storage.db import reading
from storage.home import Home
from storage.log import next_position

if TYPE_CHECKING:
    from cls.scorer import Scorer

NICE = 10
IDLE_SECONDS = 0.1  # between two looks for rows to score, where there have been none for a while
PARTS = 16  # the pause begins with this part of it, and grows by as much with each look that finds nothing
YOUNG_SECONDS = 20.0  # one that dies before this age is started again later each time
FIRST_DELAY, LONGEST_DELAY = 0.2, 30.0  # seconds before it is started again
GRACE_SECONDS = 10.0
_TIE = Path(__file__).with_name("up_child.py")
_log = get_logger(__name__)


class ScoringProcess(threading.Thread):
    """Keeps the scoring process running.

    It starts it from a thread that lives as long as it: the kernel ends a child with the thread that started it.

    Parameters
    ----------
    config
        The configuration.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(name="scoring", daemon=True)
        self._configuration = config.model_dump_json(by_alias=True).encode()
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, while it runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def run(self) -> None:
        """Start it until told to stop."""
        delay = FIRST_DELAY
        while not self._stopping.is_set():
            began = time.monotonic()
            code = self._run_once()
            if self._stopping.is_set():
                return
            delay = min(2 * delay, LONGEST_DELAY) if time.monotonic() - began < YOUNG_SECONDS else FIRST_DELAY
            _log.error("scoring ended; it is started again", code=code, seconds=delay)
            self._stopping.wait(delay)

    def stop(self) -> None:
        """Let it finish its step, and wait for its end."""
        self._stopping.set()
        if self.ident is not None:
            self.join()

    def _run_once(self) -> int:
        tie = [sys.executable, "-I", "-S", str(_TIE), str(int(signal.SIGKILL)), str(os.getpid())]
        process = subprocess.Popen(  # noqa: S603 - a command of ours, no shell
            [*tie, sys.executable, "-m", "cls.scoring"], stdin=subprocess.PIPE, start_new_session=True
        )
        self._process = process
        assert process.stdin is not None  # asked for
        with process.stdin, suppress(BrokenPipeError):
            process.stdin.write(self._configuration + b"\n")
            process.stdin.flush()
            while process.poll() is None and not self._stopping.wait(0.1):
                pass
        process.terminate()
        try:
            return process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def score(config: Config, stop: threading.Event) -> None:
    """Score all streams until `stop` is set. What it takes to predict is loaded once there is something to score."""
    home = Home.open(config)
    _await_events(home.engine, tuple(config.streams), stop)
    if stop.is_set():
        return
    import torch

    from cls.scorer import Scorer
    from cls.serving.models import ModelCache

    torch.set_num_threads(1)
    models = ModelCache(home.engine, home.artifacts, config.models, 4 * len(config.streams) + 1)
    scorers = {name: Scorer(name, home.engine, home.log, home.segments, models) for name in config.streams}
    tasks = [
        Task("score", partial(_step, scorer), IDLE_SECONDS, stop, PARTS, stream=name)
        for name, scorer in scorers.items()
    ]
    for task in tasks:
        task.start()
    stop.wait()
    for task in tasks:
        task.join()


def _await_events(engine: Engine, streams: Sequence[str], stop: threading.Event) -> None:
    while not stop.is_set():
        with suppress(Temporary), reading(engine) as connection:
            if any(next_position(connection, name, "events") for name in streams):
                return
        stop.wait(IDLE_SECONDS)


def _step(scorer: Scorer) -> bool:
    return scorer.step() > 0


def main() -> None:
    """Read the configuration, score, and stop when standard input ends or on SIGTERM."""
    os.nice(NICE)
    stop = threading.Event()

    def end() -> None:
        while os.read(
            0, 4096
        ):  # not sys.stdin: its lock, held by this thread, would end the interpreter in an abort
            pass
        stop.set()

    def handle(_number: int, _frame: object) -> None:
        threading.Thread(target=stop.set, daemon=True).start()  # the main thread may hold the event's lock

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the parent, which decides
    configure("scoring")
    config = Config.model_validate_json(sys.stdin.buffer.readline(), by_alias=True, by_name=False)
    signal.signal(signal.SIGTERM, handle)
    threading.Thread(target=end, name="parent", daemon=True).start()
    score(config, stop)


if __name__ == "__main__":
    main()
