"""`cls status`: what fits on a narrow terminal, what a rollout waits for, and looking again and again."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from sqlalchemy import Engine, text

from cls.cli.status_view import view
from cls.domain import RolloutState
from storage import streams, versions
from storage.db import transaction

T0 = datetime(2013, 1, 1, tzinfo=UTC)


def roll_out(engine: Engine, *states: RolloutState, **values: Any) -> int:
    """Bring version 3 into a state."""
    with transaction(engine) as connection:
        number = versions.add_rollout(
            connection, "flights", 3, parent=2, light=False, effective_at=T0, episode=None
        )
        before = RolloutState.WAITING
        for state in states:
            [rollout] = versions.rollouts_in(connection, "flights", before)
            versions.move_rollout(connection, rollout, state, at=T0, since=0, **values)
            before = state
    return number


def line_of(output: str, what: str) -> str:
    return next(line for line in output.splitlines() if what in line)


def test_a_rollout_shows_its_state_its_share_and_what_it_waits_for(cli: Any, full: Engine) -> None:
    number = roll_out(full)
    assert "waiting" in line_of(cli("status").stdout, "version 3")
    assert "its time, 2013-01-01 00:00" in cli("status").stdout
    with transaction(full) as connection:
        [rollout] = versions.rollouts_in(connection, "flights", RolloutState.WAITING)
        versions.move_rollout(connection, rollout, RolloutState.SHADOW, at=T0, since=0)
        versions.add_paired(connection, number, np.full(40, 0.1), 80.0)
        [rollout] = versions.rollouts_in(connection, "flights", RolloutState.SHADOW)
        versions.move_rollout(connection, rollout, RolloutState.CANARY, at=T0, step=1, share=0.25, slow_us=9)
    [shown] = next(s for s in cli.json("status")["streams"] if s["name"] == "flights")["rollouts"]
    assert (shown["state"], shown["share"], shown["step"], shown["paired_n"]) == ("canary", 0.25, 1, 40)
    line = line_of(cli("status").stdout, "version 3")
    assert "canary step 2, 25%" in line
    assert "40" in shown["waits_for"]
    assert shown["waits_for"] in line
    with transaction(full) as connection:
        [rollout] = versions.rollouts_in(connection, "flights", RolloutState.CANARY)
        versions.hold_rollout(
            connection, rollout, paused_at=T0, step_at=T0, deadline_at=None, approved="", reason="paused"
        )
    assert "canary step 2, 25%, paused" in line_of(cli("status").stdout, "version 3")


def test_what_an_approval_is_waited_for_is_said(cli: Any, full: Engine) -> None:
    number = roll_out(full, RolloutState.SHADOW)
    with transaction(full) as connection:
        versions.note_rollout(
            connection, number, "waits to be approved as canary: cls rollout approve flights"
        )
    assert "to be approved as canary: cls rollout approve flights" in cli("status").stdout
    with transaction(full) as connection:
        versions.note_fault(connection, number, "install sweetnets")
    assert "until it can be loaded: install sweetnets" in cli("status").stdout
    assert "install sweetnets" in cli("rollout", "show", "flights").stdout


@pytest.mark.parametrize("width", [80, 120])
def test_status_fits_a_terminal(full: Engine, cli: Any, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    roll_out(full, RolloutState.SHADOW)
    with transaction(full) as connection:
        streams.sign_in(connection, "worker@a-machine-with-a-long-name.example.org:4711", "worker", {})
        connection.execute(text("UPDATE segments SET stop = 12345678"))
    found = cli.json("status")
    for stream in found["streams"]:  # as `status_of` returns them
        stream["watermark"] = T0 if stream["watermark"] else None
        stream["episode"] = None
    narrow = Console(width=width, highlight=False, record=True, file=io.StringIO())
    monkeypatch.setattr("cls.cli.status_view.console", lambda: narrow)
    for piece in view(found):
        narrow.print(piece)
    lines = narrow.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert ("budget left" in "".join(lines)) == (width == 120)
    row = line_of("\n".join(lines), "v2")
    assert "2013-01-01 00:00" in row  # not broken over lines
    assert "12.35M" in row


@contextmanager
def watching(cli: Any, *arguments: str, terminal: bool) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run `cls status --watch`, on a terminal or in a pipe; yields what its output can be read from."""
    command = [sys.executable, "-m", "cls.cli.main", "--config", str(cli.config), "status", "--watch"]
    ours, theirs = pty.openpty() if terminal else os.pipe()
    words = [*command, "--interval", "0.2", *arguments]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
    with subprocess.Popen(words, stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL) as process:
        signal.signal(signal.SIGINT, before)
        os.close(theirs)
        try:
            yield process, ours
        finally:
            process.kill()
            os.close(ours)


def heard(file: int, until: Any, seconds: float = 60.0) -> str:
    """Read until what was read satisfies `until`, or the end."""
    found, end = b"", time.monotonic() + seconds
    while not until(found.decode(errors="replace")):
        assert time.monotonic() < end, found
        if select.select([file], [], [], 0.1)[0]:
            part = b""
            with suppress(OSError):  # a terminal that was closed
                part = os.read(file, 65536)
            if not part:
                break
            found += part
    return found.decode(errors="replace")


def test_watching_in_a_pipe_prints_a_line_of_json_for_each_look(cli: Any, full: Engine) -> None:
    with watching(cli, "--json", terminal=False) as (process, file):
        output = heard(file, lambda text: text.count("\n") >= 2)
        with transaction(full) as connection:
            streams.raise_watermark(connection, "quiet", T0 + timedelta(days=9))
        output += heard(file, lambda text: "2013-01-10" in text)
        process.send_signal(signal.SIGINT)
        output += heard(file, lambda text: False)
        assert process.wait(60) == 130
    *looks, last = output.strip().splitlines()
    assert last == "cls: stopped"
    documents = [json.loads(look) for look in looks]
    assert len(documents) >= 3
    assert all(set(one) == {"at", "streams", "processes", "outbox"} for one in documents)


def test_watching_in_a_pipe_separates_the_looks(cli: Any, full: Engine) -> None:
    with watching(cli, terminal=False) as (process, file):
        output = heard(file, lambda text: text.count("--- 2") >= 3)
        assert "\x1b" not in output
        process.send_signal(signal.SIGINT)
        heard(file, lambda text: False)
        assert process.wait(60) == 130


def test_watching_on_a_terminal_draws_over_what_was_there(cli: Any, full: Engine) -> None:
    with watching(cli, terminal=True) as (process, file):
        first = heard(file, lambda text: "outbox" in text)
        again = heard(file, lambda text: text.count("Ctrl-C") >= 2)
        assert "flights" in first
        assert "\x1b[1A" in again  # the cursor goes up
        process.send_signal(signal.SIGINT)
        last = heard(file, lambda text: False)
        assert process.wait(60) == 130
    assert "cls: stopped" in last
    assert "\x1b[?25h" in last  # the cursor is seen again
    assert "Traceback" not in first + again + last
