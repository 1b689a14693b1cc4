"""kill -9 of any process at any moment changes nothing but the time it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.chaos.harness import Feed, Killer, System, Watcher, check_whole, compare, facts, running

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
KILLS = ["daemon"] * 4 + ["worker-0"] * 3 + ["serve"] * 2 + ["reporter"]


@pytest.mark.timeout(600)
def test_ten_kills_change_nothing(
    tmp_path: Path, database_url: str, feed: Feed, undisturbed: dict[str, Any]
) -> None:
    system = System(tmp_path / "run", database_url)
    with running(system):
        killer = Killer(system, 7, len(feed.batches), KILLS)
        watcher = Watcher(system)
        system.feed(feed, killer.before)
        killer.join()
        system.settle()
        watcher.close()
        assert sorted(killer.done) == sorted(KILLS)
        assert watcher.faults == []
        assert min(watcher.looks, watcher.answers) > 20
        check_whole(system, feed)
        compare(facts(system), undisturbed)
