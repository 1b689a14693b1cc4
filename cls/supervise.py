"""Child processes: started in order, watched, started again when they die, and stopped in reverse.

A process that ends without being asked is started again, a little later each time; one that keeps dying young takes everything down
with it, because a half that runs helps nobody. Children lead their own process groups and write to `home/logs/NAME.log`. None outlives
this one: the kernel ends them even after a kill -9 (see `cls.up_child`).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from cls.errors import Refused

LOG_LIMIT = 32 * 2**20  # bytes after which a log moves to NAME.log.1
TAIL_LINES = 15
_TIE = Path(__file__).with_name("up_child.py")  # run as a file: it needs nothing installed and starts at once
CONFIGURATION = 2  # exit code of a fault in cls.toml: starting again cannot help
WAITING = (
    4,
    75,
)  # exit codes of a process whose stores are away, or that lost its lease: that passes by itself


@dataclass(frozen=True)
class Program:
    """What to start, and how it matters."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)  # beside that of this process
    needed: bool = True  # False: when it keeps dying, the others go on without it
    end_with: signal.Signals = signal.SIGKILL  # what the kernel sends when `cls up` was killed


@dataclass(frozen=True)
class Patience:
    """How often a dying process is started again."""

    young_seconds: float = 20.0  # a process that ends before this age died young
    deaths: int = 5  # young deaths in a row after which it is given up
    first_delay: float = 0.5  # seconds before the first restart; doubles with each young death
    longest_delay: float = 30.0
    grace_seconds: float = 10.0  # for each, between the request to stop and the kill


class Child:
    """One program and the process that it runs as at the moment."""

    def __init__(self, program: Program, log: Path, patience: Patience) -> None:
        self.program = program
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self._patience = patience
        self._started = 0.0
        self._deaths = 0
        self._due = 0.0

    def start(self) -> None:
        """Start it, its output appended to its log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        tie = [sys.executable, "-I", "-S", str(_TIE), str(int(self.program.end_with)), str(os.getpid())]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - commands of ours, no shell
                [*tie, *self.program.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"PYTHONUNBUFFERED": "1"} | self.program.environment,
                start_new_session=True,
            )
        self._started = time.monotonic()

    def look(self) -> int | None:
        """Return the exit code of a process that ended since the last look, else None; what is due is started again."""
        if self.process is None:
            if self._due and time.monotonic() >= self._due:
                self._due = 0.0
                self.start()
            return None
        code = self.process.poll()
        if code is None:
            return None
        self._sweep()
        self.process = None
        young = time.monotonic() - self._started < self._patience.young_seconds
        if code not in WAITING:
            self._deaths = self._deaths + 1 if young else 0
        if not self.hopeless(code):
            delay = self._patience.first_delay * 2 ** max(self._deaths - 1, 0)
            self._due = time.monotonic() + min(delay, self._patience.longest_delay)
        return code

    def hopeless(self, code: int) -> bool:
        """Whether starting it again cannot help."""
        return code == CONFIGURATION or self._deaths >= self._patience.deaths

    def ask(self) -> None:
        """Ask it to stop."""
        self._due = 0.0
        if self.process is not None and self.process.poll() is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)

    def end(self, grace: float, hurry: Event | None = None) -> None:
        """Wait for its end, but no longer once `hurry` is set; then kill it, and whatever it left behind in its group."""
        if self.process is None:
            return
        until = time.monotonic() + grace
        while self.process.poll() is None:
            time.sleep(0.02)
            if time.monotonic() > until or (hurry is not None and hurry.is_set()):
                with suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self._sweep()
        self.process = None

    def _sweep(self) -> None:
        """Kill what an ended process left behind in its group."""
        if self.process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def turn_log(self) -> None:
        """Move a log that grew too long aside; the process appends to the emptied file."""
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
            shutil.copyfile(self.log, self.log.with_name(f"{self.log.name}.1"))
            os.truncate(self.log, 0)

    def last_lines(self) -> str:
        """Return the end of its log."""
        try:
            with self.log.open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(log.tell() - 8192, 0))
                return "\n".join(log.read().decode(errors="replace").splitlines()[-TAIL_LINES:])
        except OSError:
            return ""


def supervise(
    programs: Sequence[Program],
    logs: Path,
    stop: Event,
    report: Callable[[str], None],
    patience: Patience | None = None,
    hurry: Event | None = None,
) -> None:
    """Run programs until told to stop, or until one of the needed ones is hopeless.

    Parameters
    ----------
    programs
        In the order in which they start; they stop in reverse.
    logs
        Directory of their logs.
    stop
        Set to end everything. Set it from a signal handler in the main thread, which must be the one that calls this.
    report
        Takes a line for people.
    patience
        How often to start a dying one again.
    hurry
        Set it, too, to kill at once what has not ended yet.

    Raises
    ------
    Refused
        If a needed program kept dying, with the last lines of its log. Everything has been stopped.
    """
    patience = patience or Patience()
    children = [Child(program, logs / f"{program.name}.log", patience) for program in programs]
    turned = time.monotonic()
    try:
        for child in children:
            if stop.is_set():
                return
            child.turn_log()
            child.start()
        while not stop.wait(0.1):
            for child in children:
                code = child.look()
                if code is not None:
                    _judge(child, code, report)
            if time.monotonic() - turned > 60:
                turned = time.monotonic()
                for child in children:
                    child.turn_log()
    finally:
        _stop_all(children, patience.grace_seconds, hurry)


def _judge(child: Child, code: int, report: Callable[[str], None]) -> None:
    name, how = child.program.name, f"ended with code {code}"
    if code < 0:
        how = f"was ended by a signal ({signal.strsignal(-code) or -code})"
    if not child.hopeless(code):
        report(f"{name} {how}; starting it again")
    elif child.program.needed:
        raise Refused(
            f"{name} {how} and is given up; everything was stopped. The end of {child.log}:\n{child.last_lines()}"
        )
    else:
        report(f"{name} {how} and is given up; the others go on without it (see {child.log})")


def _stop_all(children: Sequence[Child], grace: float, hurry: Event | None) -> None:
    """Stop in reverse order: each is asked once those that started after it have ended."""
    for child in reversed(children):
        child.ask()
        child.end(grace, hurry)
