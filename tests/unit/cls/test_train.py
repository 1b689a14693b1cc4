"""What is replayed of regimes that a recurring version missed: all of it, a bounded part at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import numpy as np
import pytest

from cls import train
from cls.domain import Labelled, Role
from cls.ports import SampleLog
from learners.rows import concat_rows

LABELS = 95


@dataclass
class Log:
    """Labels that came late: in another order than their events."""

    reads: list[int] = field(default_factory=list)

    def labelled(self, stream: str, start: int, stop: int) -> Labelled:
        assert stream == "s"
        self.reads.append(stop - start)
        position = np.random.default_rng(0).permutation(LABELS)[start:stop]
        role = np.where(position % 10 == 0, Role.TUNE, Role.TRAIN).astype(np.int8)
        x = 2 * position.astype(np.float64)
        return Labelled({"x": x}, 1.5 * x, position, position, role)


def test_missed_rows_are_read_once_in_order_and_a_bounded_number_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train, "MISSED_ROWS", 20)
    log = Log()
    blocks = train.missed_rows(cast(SampleLog, log), "s", 5, 92, onset=60)
    assert log.reads == []
    first = next(blocks)
    assert log.reads == [20]
    rows = concat_rows([first, *blocks])
    assert log.reads == [20, 20, 20, 20, 7]
    everything = Log().labelled("s", 5, 92)
    wanted = (everything.role == Role.TRAIN) & (everything.position < 60)
    assert rows.position.tolist() == everything.position[wanted].tolist()
    assert rows.target.tolist() == everything.target[wanted].tolist()
    assert list(train.missed_rows(cast(SampleLog, log), "s", 5, 5, onset=60)) == []
