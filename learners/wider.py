"""A learner with a wider network: same outputs, same memory, same price of everything that is consolidated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from learners.learner import Learner
from learners.models.widen import Kind, widen
from learners.si import PathIntegral
from learners.widening import Widening


def with_width(
    learner: Learner,
    wider: Mapping[str, Any],
    units: Kind,
    generator: np.random.Generator,
    noise: float = 0.0,
) -> Learner:
    """Return a learner whose network is wider; it takes over the memory; Adam's moments and layer-wise rates begin anew.

    Parameters
    ----------
    learner
        Its model stays as it is.
    wider, units, generator, noise
        See `learners.models.widen.widen`.

    Raises
    ------
    UnsuitableModelError
        If the network cannot be widened so.
    """
    model, widening = widen(learner.model, wider, units, generator, noise)
    wide = replace(
        learner,
        model=model,
        ewc=widening.consolidation(learner.ewc),
        pending=replace(learner.pending, fisher=widening.importance(learner.pending.fisher)),
        si=widening.consolidation(learner.si),
        units=None,  # how useful units are is learned anew
        moments={},
        rates={},
    )
    if learner.path is not None:
        wide.path = _path(learner.path, widening, wide)
    return wide


def _path(path: PathIntegral, widening: Widening, wide: Learner) -> PathIntegral:
    tensors = {f"omega.{name}": values for name, values in widening.shares(path.omega).items()} | {
        f"origin.{name}": values for name, values in widening.values(path.origin).items()
    }
    return PathIntegral.restore(tensors, wide.parameters())
