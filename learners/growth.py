"""Capacity that follows what is to be known: when a learner is cramped, and a wider network for the next far regime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from learners.capacity import held_back, wants_width
from learners.errors import UnsuitableModelError
from learners.learner import Learner
from learners.models.widen import wider_by
from learners.seeds import INITIAL, generator
from learners.wider import with_width

FACTOR = 1.5  # times the units of each hidden layer
STALLED = 0.98  # of the loss of the epoch before: a loss that falls by less is not for want of epochs


def cramped(
    reached: float,
    earlier: float,
    curve: Sequence[Mapping[str, Any]],
    held: Mapping[str, Tensor],
    latest: Mapping[str, Tensor],
    strength: float,
) -> bool:
    """Tell whether a training ended for want of weights: its loss stalled above that of earlier regimes, whose weights bind it.

    Parameters
    ----------
    reached
        Mean train loss on new rows at the end.
    earlier
        The same on rows in memory, before it began.
    curve
        Loss by epoch.
    held
        Importance of weights to earlier regimes; empty where nothing is penalised, so that the losses decide alone.
    latest
        Fisher information of the new rows.
    strength
        Of the penalty.
    """
    if len(curve) < 2 or curve[-1]["loss"] < STALLED * curve[-2]["loss"]:
        return False
    return wants_width(reached, [earlier], held_back(held, latest, strength) if held else None)


def grown(learner: Learner, widest: int, seed: int) -> Learner:
    """Return the learner with a wider network of the same outputs; itself if that has a layer of fixed width or is at its widest."""
    now, wider = (wider_by(learner.model, factor) for factor in (1.0, FACTOR))
    bounded = {name: _bounded(now[name], wider[name], widest) for name in now}
    if bounded == now:
        return learner
    try:
        return with_width(learner, bounded, "fresh", generator(seed, INITIAL, learner.updates))
    except UnsuitableModelError:
        return learner


def _bounded(now: Any, wider: Any, widest: int) -> Any:
    if isinstance(now, int):
        return max(min(wider, widest), now)
    return tuple(_bounded(a, b, widest) for a, b in zip(now, wider, strict=True))
