"""Versions of one model whose losses are known to be equal, or worse by a stated share, on rows that none of them has seen.

A champion is trained once on half of the rows; the other half is the pool that rollouts draw their rows from, the population. Worse versions
are the champion with noise on its weights, so much of it that the mean loss in the pool is worse by the stated share. Equal versions are
trained anew with another seed; the better one of the two gets as much noise as makes both mean losses equal in the pool.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.prequential_data import read_stream
from benchmarks.prequential_learners import RETRAIN, trained
from learners.evaluate import row_losses
from learners.models.base import Model
from learners.rows import Rows

Floats = NDArray[np.float64]
EPOCHS = 15.0
BISECTIONS = 25


@dataclass(frozen=True, eq=False)
class Contest:
    """A version and its champion on the pool."""

    name: str  # equal, or by how much it was made worse
    excess: float  # relative, in the pool
    mine_N: Floats  # predictions: values, or indices of classes
    theirs_N: Floats
    loss_mine_N: Floats
    loss_theirs_N: Floats
    location: float  # of the champion's target
    scale: float
    classes: int  # 0: regression


def contests(directory: Path, name: str, levels: tuple[float, ...], equals: int, seed: int) -> list[Contest]:
    """Return worse versions by the `levels`, and `equals` equal ones, of a model on a data set."""
    stream = read_stream(directory, name, 18_000)
    order = np.random.default_rng(seed).permutation(len(stream.rows))
    half = len(order) // 2
    train, pool = (
        stream.rows.take(np.sort(part)) for part in (order[:half], order[half:])
    )  # in the order of time
    recipe = replace(RETRAIN, epochs=EPOCHS)
    models = [trained(None, train, recipe, stream, seed + i).model for i in range(equals + 1)]
    champion = models[0]
    made = []
    for i, level in enumerate(levels):
        wanted = _loss(champion, pool) * (1 + level)
        worse = noisy(champion, lambda model, wanted=wanted: _loss(model, pool) - wanted, seed + i)
        made.append(_contest(f"{level:.0%} worse", worse, champion, pool))
    for i, other in enumerate(models[1:]):
        better, base = sorted((other, champion), key=lambda model: _loss(model, pool))
        aim = _loss(base, pool)
        found = noisy(better, lambda model, aim=aim: _loss(model, pool) - aim, seed + 100 + i)
        made.append(_balanced(_contest(f"equal {i + 1}", found, base, pool)))
    return made


def noisy(model: Model, off: Callable[[Model], float], seed: int) -> Model:
    """Return a model with as much noise on its weights as brings `off` to zero, from below."""
    generator = torch.Generator().manual_seed(seed)
    noise = {name: torch.randn(p.shape, generator=generator) * p.std() for name, p in _weights(model)}
    other = type(model).from_spec(model.spec())
    state = model.state_dict()

    def at(size: float) -> Model:
        other.load_state_dict({k: v + size * noise[k] if k in noise else v for k, v in state.items()})
        return other

    low, high = 0.0, 0.1
    while off(at(high)) < 0:
        low, high = high, 2 * high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if off(at(middle)) < 0 else (low, middle)
    return at(low)


def _weights(model: Model) -> list[tuple[str, torch.Tensor]]:
    return [(name, p.detach()) for name, p in model.named_parameters() if p.numel() > 1]


def _loss(model: Model, rows: Rows) -> float:
    return float(row_losses(model.predict(rows.columns), rows.target).mean())


def _contest(name: str, mine: Model, theirs: Model, pool: Rows) -> Contest:
    said = [model.predict(pool.columns) for model in (mine, theirs)]
    losses = [row_losses(one, pool.target) for one in said]
    classes = said[0].shape[1] if said[0].ndim == 2 else 0
    values = [one.argmax(axis=1).astype(np.float64) if classes else one for one in said]
    centre, width = (0.0, 1.0) if classes else (float(np.mean(pool.target)), float(np.std(pool.target)))
    excess = losses[0].mean() / losses[1].mean() - 1
    return Contest(name, float(excess), *values, *losses, centre, width, classes)


def _balanced(contest: Contest) -> Contest:
    """Return it without the few rows by which zero-one losses differ in sum."""
    surplus = contest.loss_mine_N - contest.loss_theirs_N
    if not contest.classes:
        return contest
    total = round(float(surplus.sum()))
    drop = np.flatnonzero(surplus == np.sign(total))[: abs(total)]
    keep = np.setdiff1d(np.arange(len(surplus)), drop)
    parts = [contest.mine_N, contest.theirs_N, contest.loss_mine_N, contest.loss_theirs_N]
    mine, theirs, loss_mine, loss_theirs = (one[keep] for one in parts)
    excess = float(loss_mine.mean() / loss_theirs.mean() - 1)
    return replace(
        contest,
        excess=excess,
        mine_N=mine,
        theirs_N=theirs,
        loss_mine_N=loss_mine,
        loss_theirs_N=loss_theirs,
    )
