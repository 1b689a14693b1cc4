"""A recipe that adapts, in a stream of which the regimes are near, far and back again."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from learners.auto import adapted
from learners.checkpoint import Checkpoint, restore_model
from learners.errors import ResumeMismatchError
from learners.evaluate import losses
from learners.growth import cramped
from learners.learn import Training, resume, start
from learners.models.tabular_config import TabularConfig
from learners.recipe import RECIPES
from learners.rows import Rows
from learners.schema import Schema
from learners.similarity import Similarity, Stored, judge

SCHEMA = Schema(("x", "z"))
CONFIG = TabularConfig(hidden=(32, 32), numeric_embedding="plain")
AUTO, DEFAULT = RECIPES["auto"], RECIPES["ewc+replay"]


def regime(slope: float, count: int, seed: int, first: int = 0, centre: float = 0.0) -> Rows:
    """Rows whose target turns with the slope, noise of a tenth."""
    rng = np.random.default_rng([seed, first])
    x, z = centre + rng.normal(size=count), rng.normal(size=count)
    y = slope * x + np.abs(z) + 0.1 * rng.normal(size=count)
    return Rows({"x": x, "z": z}, y, np.arange(first, first + count))


def run(training: Training) -> Checkpoint:
    while not training.done:
        training.step()
    return training.finish()


def learned(seed: int) -> Checkpoint:
    """The first model."""
    first = replace(DEFAULT, epochs=12.0, learning_rate=4e-3)
    return run(start(None, regime(1.0, 1500, seed), first, schema=SCHEMA, config=CONFIG, seed=seed))


def error(checkpoint: Checkpoint, rows: Rows) -> float:
    return float(losses(restore_model(checkpoint), rows).mean())


@pytest.fixture(scope="module")
def first() -> Checkpoint:
    return learned(1)


def both(parent: Checkpoint, new: Rows, similarity: Similarity | None = None) -> dict[str, Checkpoint]:
    """Learn new rows by the default and by the recipe that adapts."""
    return {
        name: run(start(parent, new, recipe, new_regime=True, similarity=similarity, seed=1))
        for name, recipe in (("default", DEFAULT), ("auto", AUTO))
    }


def test_what_is_near_is_learned_as_well_in_half_the_passes(first: Checkpoint) -> None:
    done = both(first, regime(1.1, 1500, 1, 1500))
    assert done["auto"].meta["similarity"]["kind"] == "near"
    assert done["auto"].meta["passes"] < 0.7 * done["default"].meta["passes"]
    for slope in (1.0, 1.1):
        held_out = regime(slope, 3000, 1, 9000)
        assert error(done["auto"], held_out) < 1.05 * error(done["default"], held_out)


def test_what_is_far_is_learned_better_and_forgets_less(first: Checkpoint) -> None:
    done = both(first, regime(-1.0, 1500, 1, 1500, centre=4.0))
    assert done["auto"].meta["similarity"]["kind"] == "far"
    for slope, centre in ((1.0, 0.0), (-1.0, 4.0)):
        held_out = regime(slope, 3000, 1, 9000, centre)
        assert error(done["auto"], held_out) < error(done["default"], held_out)


def test_what_recurs_is_learned_from_the_version_that_fits(first: Checkpoint) -> None:
    second = run(start(first, regime(-1.0, 1500, 1, 1500), AUTO, new_regime=True, seed=1))
    back = regime(1.15, 600, 1, 3000)
    accepted = {
        1: error(first, regime(1.0, 1000, 1, 8000)),
        2: error(second, regime(-1.0, 1000, 1, 8000)),
    }
    stored = {n: Stored(error(version, back), accepted[n]) for n, version in ((1, first), (2, second))}
    constant = float(np.abs(back.target - np.median(back.target)).mean())
    similarity = judge(stored, 2, constant)
    assert similarity is not None
    assert (similarity.kind, similarity.version) == ("recurring", 1)
    held_out = regime(1.15, 3000, 1, 9000)
    from_fit = run(start(first, back, AUTO, similarity=similarity, seed=2))
    from_last = run(start(second, back, DEFAULT, new_regime=True, seed=2))
    assert error(from_fit, held_out) < 0.75 * error(from_last, held_out)
    assert from_fit.meta["passes"] < from_last.meta["passes"]


def test_what_the_parent_missed_is_replayed_and_nothing_else(first: Checkpoint) -> None:
    missed, rows = regime(-1.0, 800, 1, 1500, centre=4.0), regime(1.0, 400, 1, 4000)
    blocks = [missed.take(index) for index in np.split(np.arange(800), [0, 300])]
    training = start(first, rows, replace(DEFAULT, epochs=20.0), missed=blocks, seed=3)
    memory = training.memory
    assert memory.seen == 1500 + 800
    assert set(missed.position) <= set(memory.position.tolist())
    assert not set(rows.position) & set(memory.position.tolist())
    assert len(training.train) == 400
    held_out = regime(-1.0, 1000, 1, 9000, centre=4.0)
    assert error(run(training), held_out) < 0.5 * error(first, held_out)


def test_the_recipe_that_was_meant_is_recorded_and_gone_on_with(first: Checkpoint) -> None:
    rows = regime(-1.0, 300, 1, 1500)
    training = start(first, rows, AUTO, seed=3)
    similarity = training.similarity
    assert similarity is not None
    assert similarity.alignment is not None
    assert training.recipe == adapted(AUTO, similarity) != AUTO
    assert training.progress.passes == similarity.alignment.rows > 0
    for _ in range(3):
        training.step()
    snapshot = training.snapshot()
    whole, again = run(training), run(resume(snapshot, rows, AUTO))
    assert whole.meta == again.meta
    assert whole.meta["recipe"] == asdict(adapted(AUTO, similarity))
    assert all(torch.equal(whole.tensors[name], tensor) for name, tensor in again.tensors.items())
    with pytest.raises(ResumeMismatchError, match="another recipe"):
        resume(snapshot, rows, replace(AUTO, epochs=4.0))
    with pytest.raises(ResumeMismatchError, match="another recipe"):
        resume(snapshot, rows, DEFAULT)


def test_other_recipes_and_first_models_measure_nothing(first: Checkpoint) -> None:
    rows = regime(-1.0, 300, 1, 1500)
    for parent, recipe in ((first, DEFAULT), (None, AUTO), (first, replace(AUTO, fresh=True))):
        training = start(parent, rows, recipe, schema=SCHEMA, config=CONFIG)
        assert training.similarity is None
        assert training.recipe == recipe
        assert training.progress.passes == 0


def test_a_training_ends_cramped_only_where_it_stalled_above_what_was_known_and_is_bound() -> None:
    flat, falling = [{"loss": 1.0}, {"loss": 0.99}], [{"loss": 1.0}, {"loss": 0.9}]
    bound, free = {"w": torch.tensor([9.0, 0.0])}, {"w": torch.tensor([0.0, 9.0])}
    needed = {"w": torch.tensor([1.0, 0.0])}
    assert cramped(0.5, 0.1, flat, bound, needed, 1.0)
    assert cramped(0.5, 0.1, flat, {}, {}, 0.0)
    assert not cramped(0.5, 0.1, flat, free, needed, 1.0)
    assert not cramped(0.5, 0.1, falling, bound, needed, 1.0)
    assert not cramped(0.5, 0.1, flat[:1], bound, needed, 1.0)
    assert not cramped(0.11, 0.1, flat, bound, needed, 1.0)


def test_what_is_far_widens_a_network_that_was_cramped_and_keeps_its_outputs(first: Checkpoint) -> None:
    far, near = regime(-1.0, 200, 1, 1500, centre=4.0), regime(1.0, 200, 1, 1500)
    tight = replace(first, meta=first.meta | {"cramped": True})
    training = start(tight, far, AUTO, seed=1)
    assert training.model.spec()["config"]["hidden"] == [48, 48]
    before, after = restore_model(first), training.model.eval()
    assert torch.allclose(before(*before.encode(far.columns)), after(*after.encode(far.columns)), atol=1e-4)
    snapshot = training.snapshot()
    assert run(training).spec == run(resume(snapshot, far, AUTO)).spec
    for parent, rows, recipe in (
        (first, far, AUTO),
        (tight, near, AUTO),
        (tight, far, DEFAULT),
        (tight, far, replace(AUTO, widest=0)),
    ):
        assert start(parent, rows, recipe, seed=1).model.spec()["config"]["hidden"] == [32, 32]
    bounded = start(tight, far, replace(AUTO, widest=40), seed=1)
    assert bounded.model.spec()["config"]["hidden"] == [40, 40]
