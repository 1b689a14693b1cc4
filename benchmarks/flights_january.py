"""Hyper-parameters of the baselines: trained on January's train rows, judged on its tune rows. Nothing later is looked at."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cls.demo.flights import BOOTSTRAP_END
from cls.demo.settings import STREAM, flights_config
from cls.domain import Labelled, Role
from cls.ingest import take_events
from cls.times import to_us
from cls.train import model_config, of_role, schema_of
from learners.evaluate import losses
from learners.learn import start
from learners.recipe import RECIPES


def january_loss(table: pa.Table, recipe: str, overrides: dict[str, Any], seed: int) -> float:
    """Return the mean absolute error on January's tune rows of a network trained on its train rows."""
    stream = flights_config("unused").streams[STREAM]
    january = table.filter(pc.less(table.column("landed"), pa.scalar(BOOTSTRAP_END)))
    batch = take_events(january, stream, to_us(BOOTSTRAP_END), lambda _: ()).batch
    target = january.column("air_time").to_numpy()
    labelled = Labelled(batch.columns, target, np.arange(len(target)), batch.time_us, batch.role)
    training = start(
        None,
        of_role(labelled, Role.TRAIN),
        replace(RECIPES[recipe], fresh=True, **overrides),
        schema=schema_of(stream),
        config=model_config(stream),
        seed=seed,
    )
    while not training.done:
        training.step()
    model = training.model.eval()
    training.finish()
    return float(losses(model, of_role(labelled, Role.TUNE)).mean())
