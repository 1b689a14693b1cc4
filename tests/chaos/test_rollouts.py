"""kill -9 of daemon and predictor together, in every state of a rollout: the candidate goes on from where it was, and a champion always answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from sqlalchemy import select

from cls.domain import RolloutState
from cls.serving.routing import in_canary
from storage.tables import announcements, rollouts, segments
from tests.chaos.harness import STREAM, System, Watcher, _log, eventually, make_feed, running

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
STATES = [RolloutState.WAITING, RolloutState.SHADOW, RolloutState.CANARY, RolloutState.WATCHING]
STEPS = (0.3, 0.6)
CHANGES: dict[str, dict[str, Any]] = {
    "rollout": {
        "light": False,
        "shadow_rows": 150,
        "step_rows": 250,
        "canary_steps": list(STEPS),
        "margin": 0.6,
        "watch_margin": 0.9,
        "watch_rows": 150,
        "drift_nats": 5.0,
    },
    "update": {"every_rows": 600, "cooldown": "1d"},
}
SLICE = 150


class Users:
    """Ask for predictions in slices, and send what came true afterwards; a request that nobody answers is made again."""

    def __init__(self, system: System, rows: int = 4500, seed: int = 5) -> None:
        self.system = system
        feed = make_feed(rows=rows, seed=seed)
        events = pa.concat_tables([table for kind, table in feed.batches if kind == "events"])
        known = pa.concat_tables([table for kind, table in feed.batches if kind == "labels"])
        self.rows = [row | {"at": row["at"].isoformat()} for row in events.to_pylist()]
        self.labels = {row["id"]: row for row in known.to_pylist()}
        self.begun = 0  # rows sent before the first champion
        self._fresh: dict[str, int] = {}
        self.answers: dict[str, int] = {}  # the version that answered each key last

    def bootstrap(self) -> int:
        """Send rows as events until there is a first champion; returns how many."""
        for first in range(0, len(self.rows), SLICE):
            rows = self.rows[first : first + SLICE]
            self.system.feeder.send("events", pa.Table.from_pylist(rows))
            self.system.feeder.send("labels", self.truth(rows))
            self.system.settle()
            if self.system.champion() == 1:
                self.begun = first + SLICE
                return self.begun
        raise AssertionError("no first champion")

    def ask(self, rows: list[dict[str, Any]]) -> None:
        """Have rows predicted until all of them are in the log: what a killed predictor held is asked for again."""
        wanted = self.begun + len(self.answers) + len(rows)
        while True:
            self._post(rows)
            try:
                eventually(lambda: self.events() >= wanted, 4.0)
            except AssertionError:
                continue
            return

    def _post(self, rows: list[dict[str, Any]]) -> None:
        url = f"http://{self.system.config.http.serve}/v1/streams/{STREAM}/predict"
        for first in range(0, len(rows), 25):
            body = {"rows": rows[first : first + 25]}
            answer = eventually(lambda body=body: _post(url, body), 60.0, "an answer")  # type: ignore[misc]
            assert answer["logged"] == len(body["rows"])
            self._fresh |= {one["key"]: one["version"] for one in answer["predictions"]}

    def events(self) -> int:
        found = self.system.rows(
            select(segments.c.stop).where(segments.c.kind == "events").order_by(segments.c.stop.desc())
        )
        return int(found[0].stop) if found else 0

    def go(self, first: int) -> None:
        """A slice of rows is predicted, then labelled."""
        self._fresh.clear()
        rows = self.rows[first : first + SLICE]
        self.ask(rows)
        self.answers |= self._fresh
        self.system.feeder.send("labels", self.truth(rows))
        self.system.settle()

    def truth(self, rows: list[dict[str, Any]]) -> pa.Table:
        return pa.Table.from_pylist([self.labels[row["id"]] for row in rows])


def _post(url: str, body: dict[str, Any]) -> dict[str, Any] | None:
    try:
        answer = httpx.post(url, json=body, timeout=10.0)
    except httpx.TransportError:
        return None
    if answer.status_code == 503:  # just restarted, on a busy machine: its champion is being loaded
        return None
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def state_of(system: System) -> Any:
    found = system.rows(select(rollouts).where(rollouts.c.version == 2))
    return found[0] if found else None


def told(system: System) -> list[str]:
    query = select(announcements.c.kind, announcements.c.payload).order_by(announcements.c.id)
    return [
        row.kind.removeprefix("rollout.") for row in system.rows(query) if row.payload.get("version") == 2
    ]


def kill_both(system: System) -> None:
    for name in ("serve", "daemon"):
        eventually(lambda name=name: system.signal(name), 30.0, f"{name} to run")  # type: ignore[misc]
    pids = {name: system.pid(name) for name in ("serve", "daemon")}
    eventually(lambda: all(system.pid(name) not in (None, pid) for name, pid in pids.items()), 30.0)


@pytest.fixture
def system(tmp_path: Path, sqlite_url: str) -> Iterator[System]:
    with running(System(tmp_path / "run", sqlite_url, CHANGES)) as found:
        yield found


@pytest.mark.timeout(600)
def test_a_rollout_survives_the_death_of_daemon_and_predictor_in_each_of_its_states(system: System) -> None:
    users = Users(system)
    begun = users.bootstrap()
    watcher = Watcher(system)
    eventually(lambda: watcher.answers > 0, what="an answer")
    killed: list[RolloutState] = []
    seen: dict[
        str, tuple[int, float]
    ] = {}  # key: the version that answered it while a canary's share stood still
    for at in range(begun, len(users.rows), SLICE):
        before = state_of(system)
        users.go(at)
        after = state_of(system)
        if before is not None and before.state == after.state == "canary" and before.step == after.step:
            keys = {row["id"] for row in users.rows[at : at + SLICE]}
            seen |= {key: (users.answers[key], after.share) for key in keys}
        if after is None:
            continue
        state = RolloutState(after.state)
        if state in STATES and state not in killed:
            killed.append(state)
            kill_both(system)
        if state == RolloutState.DONE:
            break
    watcher.close()
    assert killed == STATES
    assert watcher.faults == []
    assert told(system) == ["shadow", "canary", "canary", "promoted", "done"]
    assert system.champion() == 2
    log = _log(system, "events")
    assert len(set(log["cls:key"])) == len(log["cls:key"]) == begun + len(users.answers)
    rollout = state_of(system).id
    routed = [(version == 2) == in_canary(rollout, key, share) for key, (version, share) in seen.items()]
    assert len(routed) >= SLICE
    assert (
        sum(routed) / len(routed) > 0.9
    )  # a predictor follows within a moment; what it answered just before a step is its old share's
