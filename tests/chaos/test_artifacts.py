"""A damaged model is refused where it would be used, by name; everything else goes on, and mends itself with the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from cls.layout import MODEL
from storage.tables import versions
from tests.chaos.harness import STREAM, Feed, System, eventually, flip, running


def answers(system: System) -> bool:
    try:
        return system.predict().status_code == 200
    except httpx.TransportError:  # it does not listen yet
        return False


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_flipped_byte_in_a_new_champion(tmp_path: Path, sqlite_url: str, feed: Feed) -> None:
    system = System(tmp_path / "run", sqlite_url)
    rest = iter(feed.batches)
    made: list[Any] = []
    with running(system):
        for kind, table in rest:
            system.feeder.send(kind, table)
            system.settle()
            made = system.rows(select(versions).order_by(versions.c.number))
            if len(made) == 2:
                break
        sha256 = made[1].files[MODEL]
        damaged = system.config.home / "artifacts" / sha256[:2] / sha256
        assert system.champion() == 1  # the second waits for its time
        flip(damaged)
        first = system.pid(
            "serve"
        )  # it may have loaded the second before it was damaged: what it has, it keeps
        assert system.signal("serve")
        eventually(lambda: system.pid("serve") not in (None, first), what="serve to come back")
        eventually(lambda: answers(system), what="an answer")

        for kind, table in rest:  # nothing can be scored any more: what follows is only taken in
            system.feeder.send(kind, table)
            eventually(lambda: (system.feeder.progress() or {"inbox_waiting": 1})["inbox_waiting"] == 0)
            assert system.predict().status_code == 200
            if len(system.jobs()) == 3:
                break
        assert system.champion() == 2
        refusal = eventually(
            lambda: [line for line in system.log("serve").splitlines() if "version refused" in line]
        )[0]
        assert all(
            word in refusal for word in (f'"stream": "{STREAM}"', '"version": 2', "does not match its hash")
        )
        assert system.predict().json()["version"] == 1

        [job] = eventually(
            lambda: system.jobs("dead"), what="the update of the damaged version to be given up"
        )[:1]
        assert job.input["parent"] == 2
        assert job.error.startswith("Corrupt: ")
        assert job.failures == 1  # no retry can mend it
        assert system.exits == [("serve", -9)]

        flip(damaged)
        system.settle()
        eventually(lambda: system.predict().json()["version"] == 2, what="the mended version to serve")
        for kind, table in rest:
            system.feeder.send(kind, table)
            system.settle()
        assert 2 in [job.input["parent"] for job in system.jobs("succeeded")]
        assert (system.champion() or 0) > 2  # the newest may still wait for its stream time
        assert system.exits == [("serve", -9)]
