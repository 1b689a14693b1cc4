"""One backtest of the flights benchmark, as a value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """What one contender did with one seed."""

    contender: str
    budget: int | None
    seed: int
    mae: float
    by_month: dict[str, float]
    passes: float
    cpu_seconds: float
    updates: int
    promotions: int
    alarms: int
    seconds: float
