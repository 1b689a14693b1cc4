"""Processes in `cls status`: those that are gone are told for a while."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cls.cli.status_facts import FORGOTTEN, LATE, status_of


def test_a_process_that_was_killed_is_gone_and_then_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    def process(name: str, age: float) -> Any:
        return SimpleNamespace(id=name, kind="serve", started_at=0, seen_at=0, age_seconds=age, details={})

    rows = [process("alive", 1.0), process("killed", LATE + 1), process("long ago", FORGOTTEN + 1)]
    monkeypatch.setattr("storage.streams.list_processes", lambda _: rows)
    monkeypatch.setattr("storage.overview.undelivered", lambda _: {})
    connection: Any = None
    config: Any = None
    shown = status_of(connection, config, [])["processes"]
    assert [(one["id"], one["state"]) for one in shown] == [("alive", "alive"), ("killed", "gone")]
