"""What a recipe or a model cannot do on a stream ends a training at once, in the learner's own words."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from cls import train
from cls.config import SchemaConfig, StreamConfig
from cls.domain import JobInput, Labelled, Role
from cls.errors import Permanent
from cls.ports import SampleLog
from cls.settings.stream import ModelConfig, UpdateConfig

NOW = datetime(2013, 1, 1, tzinfo=UTC)
JOB = JobInput(
    strategy="replay",
    label_from=0,
    label_to=40,
    event_to=40,
    parent=None,
    seed=0,
    threads=1,
    decided_at=NOW,
    effective_at=NOW,
    light=False,
    reason="first",
)


class Log:
    """Forty labels of one feature."""

    def labelled(self, stream: str, start: int, stop: int) -> Labelled:
        position = np.arange(start, stop)
        role = np.full(len(position), Role.TRAIN, np.int8)
        x = position.astype(np.float64)
        return Labelled({"x": x}, 2 * x, position, position, role)


def trained(scratch: Path, model: str = "tabular", job: JobInput = JOB, **overrides: Any) -> train.Trained:
    columns = SchemaConfig(numeric=("x",), key="id", event_time="at", target="y")
    arguments = {"model": "mlp", "trainable": ["hed"]} if model == "backbone" else {}
    stream = StreamConfig(
        task="regression",
        columns=columns,
        model=ModelConfig(name=model, arguments=arguments),
        update=UpdateConfig(overrides=overrides, bootstrap_overrides={"epochs": 0.5}),
    )
    log = cast(SampleLog, Log())
    return train.train(job, "s", stream, log, None, None, lambda *_: None, {}, scratch)


@pytest.mark.parametrize(
    ("model", "overrides", "message"),
    [
        ("tabular", {"loss": "cross_entropy"}, "loss 'cross_entropy' does not fit"),
        ("tabular", {"memory_balance": "class"}, "memory_balance 'class' needs classes"),
        ("tabular", {"memory_bytes": 1}, "bytes"),
        ("tabular", {"mixup": 0.1, "cutmix": 0.1}, "exclude each other"),
        ("mlq", {}, "did you mean 'mlp'"),
        ("backbone", {}, "nothing of hed is in the network; name some of "),
    ],
)
def test_what_does_not_fit_is_permanent(
    tmp_path: Path, model: str, overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(Permanent, match=message):
        trained(tmp_path, model, **overrides)


def test_what_cannot_work_is_logged_and_a_first_training_is_fresh_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(train, "_log", _Logger(said))
    trained(tmp_path, ewc_lambda=1.0)
    assert said == []
    trained(tmp_path, job=replace(JOB, label_from=1), class_mask="ace")
    assert said == ["recipe: class_mask 'ace' has no classes to mask in a regression: set it to 'none'"]


class _Logger:
    def __init__(self, said: list[str]) -> None:
        self._said = said

    def warning(self, event: str, *, reason: str) -> None:
        self._said.append(reason)
