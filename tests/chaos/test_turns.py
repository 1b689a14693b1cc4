"""What was taken in before a crash is acted on before anything else is taken in: no decision moves."""

from __future__ import annotations

from pathlib import Path

import pytest

from cls.act import Actor
from cls.stream import Ports, StreamLoop
from storage.db import wall_clock
from storage.home import Home
from storage.inbox import Inbox, InboxSource
from tests.chaos.harness import STREAM, Feed, System


class Crash(BaseException):
    """The process dies here."""


def test_a_crash_between_taking_in_and_acting_moves_no_decision(
    tmp_path: Path, database_url: str, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = System(tmp_path / "run", database_url)
    home = Home.open(system.config)
    inbox = Inbox(home.engine, home.inbox)
    source = {"source": InboxSource(home.engine, home.inbox, STREAM)}
    ports = Ports(home.engine, home.log, home.segments, home.artifacts, source, wall_clock)

    def begin() -> StreamLoop:
        return StreamLoop(STREAM, system.config.streams[STREAM], ports)

    def die(_actor: Actor, *, moved: bool) -> bool:
        raise Crash

    taken = {"events": 0, "labels": 0}
    for sequence, (kind, table) in enumerate(feed.batches):
        inbox.put(STREAM, "test", sequence, kind, table)
        taken[kind] += table.num_rows
        if taken["labels"] < 1000:
            begin().turn()
            continue
        loop = begin()
        with monkeypatch.context() as patched:
            patched.setattr(Actor, "act", die)
            with pytest.raises(Crash):
                loop.ingest() and loop.act(moved=True)
        break
    assert system.jobs() == []
    for further in (1, 2):
        kind, table = feed.batches[sequence + further]
        inbox.put(STREAM, "test", sequence + further, kind, table)
    begin().turn()
    [job] = system.jobs()
    assert (job.input["label_to"], job.input["event_to"]) == (taken["labels"], taken["events"])
    inbox.close()
    home.engine.dispose()
    system.close()
