"""What the processes of a running system say: every event is one line of JSON, and carries the ids of what it is about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.harness import STREAM, System, eventually, make_feed, running

ABOUT = {  # ids that events must carry, by what they say
    "promotion": {"stream", "version"},
    "decision": {"stream", "decision"},
    "job done": {"stream", "job", "kind", "attempt", "version"},
    "job failed": {"stream", "job", "kind", "attempt"},
    "champion serves": {"stream", "version"},
}
OF_PROCESSES = {  # what is about no stream
    "daemon ready",
    "worker ready",
    "serve ready",
    "serve stopped",
    "housekeeping",
    "lease expired",
    "outbox waits",
    "waiting",  # for the database, on a busy machine
    "task failed",
    "timer",
}


def events_of(system: System, name: str) -> list[dict[str, Any]]:
    """Return what a process has said; a line that is no JSON fails."""
    return [json.loads(line) for line in system.log(name).splitlines() if line.strip()]


@pytest.mark.chaos
def test_every_event_carries_the_ids_of_what_it_is_about(tmp_path: Path, sqlite_url: str) -> None:
    feed = make_feed(1500)
    with running(System(tmp_path, sqlite_url)) as system:
        system.feed(feed)
        champion = system.champion()
        assert champion is not None
        eventually(lambda: '"champion serves"' in system.log("serve"), what="the champion to serve")
        found = {name: events_of(system, name) for name in ("daemon", "worker-0", "serve")}
    for name, events in found.items():
        assert events, name
        for event in events:
            assert event["process"] == name
            assert {"event", "level", "logger", "timestamp"} <= event.keys()
            assert ABOUT.get(event["event"], set()) <= event.keys(), event
            if event["event"] not in OF_PROCESSES:
                assert event["stream"] == STREAM, event
    [first, *_] = [event for event in found["daemon"] if event["event"] == "promotion"]
    assert first["version"] == 1
    assert champion in {event["version"] for event in found["serve"] if event["event"] == "champion serves"}
    done = {event["job"]: event["version"] for event in found["worker-0"] if event["event"] == "job done"}
    assert done == {job.id: job.result["version"] for job in system.jobs("succeeded")}
    asked = {event["job"] for event in found["daemon"] if event["event"] == "decision" and "job" in event}
    assert done.keys() <= asked  # by its id a job is followed from its decision to its version
