"""A round of rollouts whose daemon and predictor are killed at random moments of every state, and whose operator interferes at random."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any

from sqlalchemy import select

from cls.asking import place
from cls.errors import CLSError
from storage.tables import rollouts, triggers
from tests.chaos.harness import STREAM, System, Watcher, _log, eventually
from tests.chaos.serving_round import with_registry
from tests.chaos.test_rollouts import CHANGES, SLICE, STATES, STEPS, Users
from tests.chaos.truths import check_aliases, check_champion, check_rollouts

ROWS = 24_000  # more than a round takes
LONGEST = 3.0  # times as long as it should last, while something was not yet killed in each state
QUICK: Mapping[str, Mapping[str, Any]] = {**CHANGES, "update": {"every_rows": 600, "cooldown": "2h"}}
STRIKE_SHARE = 0.5  # of the slices of rows during which something is killed
WISHES = (("abort", "shadow"), ("abort", "canary"), ("rollback", "watching"), ("pause", "shadow"))
WISH_SHARE = 0.6  # of the rollouts in which an operator interferes


@dataclass
class Rollouts:
    """What came of a round."""

    killed: Counter[str] = field(default_factory=Counter)  # processes killed, by the rollout's state
    ended: Counter[str] = field(default_factory=Counter)  # rollouts by the state in which they are at the end
    asked: Counter[str] = field(default_factory=Counter)  # what an operator asked for
    looks: int = 0
    answers: int = 0


class Strikes:
    """Kills daemon, predictor or both, some time after they are called for."""

    def __init__(self, system: System, random: Random, killed: Counter[str]) -> None:
        self._system, self._random, self._killed = system, random, killed
        self._threads: list[Thread] = []

    def call(self) -> None:
        """Kill at a random moment from now on."""
        names = self._random.choice((("daemon",), ("serve",), ("daemon", "serve")))
        delay = self._random.uniform(0.0, 1.5)
        thread = Thread(target=self._strike, args=(names, delay), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _strike(self, names: tuple[str, ...], delay: float) -> None:
        time.sleep(delay)  # the moment of the kill, not a wait for anything
        state = state_of(self._system)[1]
        for name in names:
            if self._system.signal(name):
                self._killed[f"{name} in {state}"] += 1

    def join(self) -> None:
        """Wait until the last kill is done."""
        for thread in self._threads:
            thread.join()


def state_of(system: System) -> tuple[int, str]:
    """Return the newest rollout and its state; (0, "unknown") while the database does not answer, "none" before the first one."""
    try:
        newest = select(rollouts.c.id, rollouts.c.state).where(rollouts.c.version > 1)
        found = system.rows(newest.order_by(rollouts.c.id.desc()).limit(1))
    except CLSError:
        return 0, "unknown"
    return (found[0].id, found[0].state) if found else (0, "none")


class Operator:
    """Interferes with some rollouts: each is asked for one thing, when it is in the state for that."""

    def __init__(self, system: System, random: Random, asked: Counter[str]) -> None:
        self._system, self._random, self._asked = system, random, asked
        self._wishes: dict[int, tuple[str, str] | None] = {}
        self._paused = False

    def look(self) -> bool:
        """Ask for what the present rollout is to meet, if its time has come; returns whether anything was asked."""
        if self._paused:
            self._paused = False
            return self._ask("resume")
        rollout, state = state_of(self._system)
        if rollout not in self._wishes:
            wanted = self._random.random() < WISH_SHARE
            self._wishes[rollout] = self._random.choice(WISHES) if wanted else None
        wish = self._wishes[rollout]
        if wish is None or state != wish[1]:
            return False
        self._wishes[rollout] = None
        self._paused = wish[0] == "pause"
        return self._ask(wish[0])

    def _ask(self, kind: str) -> bool:
        with suppress(CLSError):
            place(self._system.engine, STREAM, kind, {}, actor="chaos", origin="command line")
            self._asked[kind] += 1
        return True


def rollout_round(folder: Path, database_url: str, seed: int, seconds: float, result: Rollouts) -> None:
    """Run a round, and check it; `result` tells what happened, also of a round that fails.

    It lasts until the time is over and something was killed in each state. MLflow is away from the first slice on, and is back after half of
    the time.
    """
    random = Random(seed)
    with with_registry(folder, database_url, QUICK) as (system, registry):
        users = Users(system, ROWS, seed)
        begun = users.bootstrap()
        watcher = Watcher(system)
        strikes = Strikes(system, random, result.killed)
        operator = Operator(system, random, result.asked)
        registry.go()
        began, client, at = time.monotonic(), None, begun
        try:
            while client is None or not over(time.monotonic() - began, seconds, result.killed):
                if client is None and time.monotonic() - began > seconds / 2:
                    client = registry.come()
                state = state_of(system)[1]
                missing = state in STATES and not hit(result.killed, state)
                if operator.look() or missing or random.random() < STRIKE_SHARE:
                    strikes.call()
                users.go(at)
                at += SLICE
            strikes.join()
            eventually(lambda: all(system.pid(name) for name in system.names), 30.0, "all to run")
            users.go(at)
        finally:
            watcher.close()
            result.looks, result.answers = watcher.looks, watcher.answers
        check_champion(system)
        result.ended = check_rollouts(system, len(STEPS))
        # a predictor that was just restarted may say that it is not ready
        assert [fault for fault in watcher.faults if not fault.startswith("503")] == []
        waiting = select(triggers.c.id).where(triggers.c.stream == STREAM, triggers.c.outcome.is_(None))
        eventually(lambda: not system.rows(waiting), 30.0, "all requests to be answered")
        keys = _log(system, "events")["cls:key"]
        assert len(set(keys)) == len(keys) == begun + len(users.answers)
        check_aliases(system, client)


def hit(killed: Counter[str], state: str) -> bool:
    """Whether something was killed in a state."""
    return any(name.endswith(f" in {state}") for name in killed)


def over(passed: float, seconds: float, killed: Counter[str]) -> bool:
    """Whether a round is over: its time is, and something was killed in each state of a rollout that is not over."""
    return passed >= LONGEST * seconds or (passed >= seconds and all(hit(killed, state) for state in STATES))
