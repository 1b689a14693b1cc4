"""The loop against plain training, and against forgetting."""

import json
import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from learners.batches import Batches
from learners.checkpoint import restore_model
from learners.errors import CannotWorkWarning, ResumeMismatchError
from learners.evaluate import losses
from learners.learn import Checkpoint, Training, start
from learners.mapped import mapped
from learners.models.tabular import TabularNetwork
from learners.models.tabular_config import TabularConfig
from learners.recipe import RECIPES, Recipe
from learners.rows import Rows
from learners.schedule import rate
from learners.schema import Schema
from learners.seeds import INITIAL, seeded

SCHEMA = Schema(("x", "z"))
CONFIG = TabularConfig(hidden=(32, 32), numeric_embedding="plain")
PLAIN = Recipe(
    ewc_lambda=0.0, replay_share=0.0, clip_norm=0.0, average_share=0.0, loss="mse", epochs=2, batch_rows=50
)


def regime(first: int, count: int, centre: float) -> Rows:
    """Rows around a centre: the function bends between the two regimes, so learning one unlearns the other."""
    rng = np.random.default_rng(first)
    x = centre + 0.5 * rng.normal(size=count)
    z = rng.normal(size=count)
    return Rows({"x": x, "z": z}, np.abs(x) * 2 + np.sign(x) * z, np.arange(first, first + count))


def run(training: Training) -> Checkpoint:
    while not training.done:
        training.step()
    return training.finish()


def test_without_penalty_and_replay_it_is_plain_training_to_the_bit() -> None:
    rows = regime(0, 230, centre=1.0)
    learned = run(start(None, rows, PLAIN, schema=SCHEMA, config=CONFIG, seed=4))

    with seeded(4, INITIAL):
        model = TabularNetwork.fit_preprocessing(CONFIG, SCHEMA, rows)
    inputs, target = model.encode(rows.columns), model.encode_target(rows.target)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PLAIN.learning_rate, weight_decay=0.0, fused=True)
    batches = Batches(len(rows), np.empty(0), PLAIN, seed=4)
    for step in range(10):
        index = torch.from_numpy(batches.at(step)[0])
        optimizer.zero_grad()
        out_B = model(*(tensor[index] for tensor in inputs))[:, 0]
        torch.autograd.backward(functional.mse_loss(out_B, target[index]) / 2)
        optimizer.param_groups[0]["lr"] = rate(PLAIN, step, batches.steps)
        optimizer.step()
    for name, tensor in model.state_dict().items():
        assert torch.equal(learned.tensors[f"model.{name}"], tensor), name


def test_an_epoch_sees_every_new_row_once_and_replay_has_its_share() -> None:
    batches = Batches(230, np.ones(77), replace(PLAIN, replay_share=0.6, batch_rows=50), seed=1)
    epochs = [
        [batches.at(epoch * batches.steps_per_epoch + place) for place in range(batches.steps_per_epoch)]
        for epoch in range(2)
    ]
    for epoch in epochs:
        new, _, replayed = (np.concatenate(part) for part in zip(*epoch, strict=True))
        assert sorted(new) == list(range(230))
        assert replayed.max() < 77
        assert len(replayed) / (len(new) + len(replayed)) == pytest.approx(0.6, abs=0.02)
        assert max(len(new) + len(replayed) for new, _, replayed in epoch) <= 50
    assert not np.array_equal(epochs[0][0][0], epochs[1][0][0])


@pytest.mark.parametrize(
    ("rows", "share", "again"), [(1, 0.2, 0.0), (1, 0.3, 0.4), (3, 0.4, 0.3), (2, 0.9, 0.25)]
)
def test_the_shares_of_small_batches_are_exact_in_expectation(rows: int, share: float, again: float) -> None:
    recipe = replace(PLAIN, replay_share=share, batch_rows=4)
    numbers = []
    for seed in range(4000):  # of updates with as few rows
        batches = Batches(rows, np.ones(9), recipe, seed, again)
        new, current, replayed = batches.at(0)
        assert all(map(np.array_equal, batches.at(0), (new, current, replayed)))
        wanted = len(new) * share / (1 - share)
        assert len(current) + len(replayed) in (math.floor(wanted), math.ceil(wanted))
        numbers.append((len(current) + len(replayed) - wanted, len(current) - wanted * again))
    error = np.array(numbers)
    assert (np.abs(error.mean(0)) <= 4 * error.std(0) / len(error) ** 0.5 + 1e-9).all()


def test_replay_follows_the_weights() -> None:
    weights = np.array([0.0, 1.0, 3.0])
    batches = Batches(100, weights, replace(PLAIN, replay_share=0.9, batch_rows=1000, epochs=20), seed=1)
    drawn = np.concatenate([batches.at(step)[2] for step in range(batches.steps)])
    counts = np.bincount(drawn, minlength=3)
    assert counts[0] == 0
    assert counts[2] / counts[1] == pytest.approx(3, rel=0.1)


def test_ewc_and_replay_forget_less_than_naive_fine_tuning() -> None:
    old, new = regime(0, 1000, centre=-2.0), regime(1000, 1000, centre=2.0)
    held_out = regime(9000, 500, centre=-2.0)
    error = {}
    for name in ("naive", "ewc", "replay", "ewc+replay"):
        recipe = replace(RECIPES[name], epochs=20.0, learning_rate=3e-3)
        parent = run(start(None, old, recipe, schema=SCHEMA, config=CONFIG))
        child = run(start(parent, new, replace(recipe, epochs=8.0), seed=1))
        before, after = (losses(restore_model(c), held_out).mean() for c in (parent, child))
        error[name] = after - before
        assert losses(restore_model(child), new).mean() < losses(restore_model(parent), new).mean() / 3
    assert error["naive"] > 0.5  # the regimes do interfere
    assert error["ewc"] < 0.8 * error["naive"]
    assert error["replay"] < error["naive"] / 4
    assert error["ewc+replay"] < error["naive"] / 4


def test_early_stopping_keeps_the_best_weights_on_tune_rows() -> None:
    rng = np.random.default_rng(0)
    noise = Rows({"x": rng.normal(size=60), "z": rng.normal(size=60)}, rng.normal(size=60), np.arange(60))
    tune = Rows({"x": rng.normal(size=500), "z": rng.normal(size=500)}, rng.normal(size=500), np.arange(500))
    recipe = replace(PLAIN, loss="l1", epochs=300, patience=5, learning_rate=0.01)
    training = start(None, noise, recipe, schema=SCHEMA, config=CONFIG, tune=tune)
    checkpoint = run(training)
    assert checkpoint.meta["step"] < training.batches.steps
    tuned = [point["tune"] for point in checkpoint.meta["curve"]]
    assert checkpoint.meta["best_loss"] == min(tuned)
    model = restore_model(checkpoint)
    scale = float(checkpoint.tensors["model.target_scale"])
    assert losses(model, tune).mean() / scale == pytest.approx(min(tuned), rel=1e-5)


def test_the_average_is_that_of_the_last_iterates() -> None:
    rows = regime(0, 100, centre=1.0)
    training = start(None, rows, replace(PLAIN, average_share=0.5), schema=SCHEMA, config=CONFIG)
    iterates = []
    while not training.done:
        training.step()
        iterates.append(training.parameters["head.bias"].detach().clone())
    torch.testing.assert_close(
        training.finish().tensors["model.head.bias"], torch.stack(iterates[len(iterates) // 2 :]).mean(dim=0)
    )


def test_what_needs_many_steps_is_counted_over_many_small_updates() -> None:
    recipe = replace(
        PLAIN, epochs=1, layerwise=1.0, keep_optimizer=True, plasticity="continual-backprop", batch_rows=10
    )
    config, learner = replace(CONFIG, dropout=0.0), None
    for update in range(12):  # of two steps
        training = start(learner, regime(20 * update, 20, 1.0), recipe, schema=SCHEMA, config=config)
        for _ in range(2):
            training.step()
        assert training.done
        learner = training.conclude()
    assert learner is not None
    assert learner.units is not None
    ages = [tensor for name, tensor in learner.units.tensors().items() if name.endswith(".age")]
    assert ages
    assert all(set(age_H.tolist()) == {20} for age_H in ages)
    assert learner.rates["observed"] == 23  # the first step had no running mean to compare with
    assert len(set(learner.rates["signal"].tolist())) > 1
    learner.on("meta")
    assert all(tensor.is_meta for tensor in learner.units.tensors().values() if tensor.dim())


def test_new_classes_without_old_rows_are_warned_of() -> None:
    def digits(first: int, classes: tuple[int, ...]) -> Rows:
        rows = regime(first, 40, centre=1.0)
        return replace(rows, target=np.resize(np.array(classes, np.float64), 40))

    schema = Schema(("x", "z"), (), "classification", ("a", "b", "c"))
    for name in ("ewc", "ewc+replay"):
        parent = run(start(None, digits(0, (0, 1)), RECIPES[name], schema=schema, config=CONFIG))
        warned = pytest.warns(CannotWorkWarning, match="ewc_lambda alone") if name == "ewc" else nullcontext()
        with warned:
            child = run(start(parent, digits(40, (2,)), RECIPES[name]))
        run(start(child, digits(80, (0, 2)), RECIPES[name]))  # they are not new any more


def test_what_cannot_work_is_warned_of_and_a_fresh_training_is_taken_as_it_is() -> None:
    rows, recipe = regime(0, 40, centre=1.0), replace(RECIPES["replay"], class_mask="ace", epochs=0.5)
    with pytest.warns(CannotWorkWarning, match="class_mask 'ace' has no classes") as caught:
        start(None, rows, recipe, schema=SCHEMA, config=CONFIG)
    assert [warning.filename for warning in caught] == [__file__]
    start(None, rows, replace(recipe, fresh=True), schema=SCHEMA, config=CONFIG)


def test_a_memory_on_disk_needs_a_place(tmp_path: Path) -> None:
    rows, recipe = regime(0, 100, centre=1.0), replace(RECIPES["replay"], memory_disk=True, memory_rows=50)
    with pytest.raises(ValueError, match="memory_disk needs a place"):
        start(None, rows, recipe, schema=SCHEMA, config=CONFIG)
    parent = run(start(None, rows, recipe, schema=SCHEMA, config=CONFIG, allocate=mapped(tmp_path)))
    in_ram = run(start(None, rows, replace(recipe, memory_disk=False), schema=SCHEMA, config=CONFIG))
    assert list(tmp_path.iterdir())
    assert all(torch.equal(parent.tensors[name], tensor) for name, tensor in in_ram.tensors.items())


def test_a_checkpoint_of_another_release_is_refused_as_a_parent_and_still_predicts() -> None:
    rows = regime(0, 60, centre=1.0)
    checkpoint = run(start(None, rows, PLAIN, schema=SCHEMA, config=CONFIG))
    old = replace(checkpoint, meta={**checkpoint.meta, "format": 2})
    with pytest.raises(ResumeMismatchError, match="stored in format 2"):
        start(old, rows, PLAIN)
    assert np.array_equal(
        restore_model(old).predict(rows.columns), restore_model(checkpoint).predict(rows.columns)
    )


def test_meta_and_spec_are_json() -> None:
    training = start(None, regime(0, 100, centre=1.0), PLAIN, schema=SCHEMA, config=CONFIG)
    for checkpoint in (training.snapshot(), run(training)):
        for document in (checkpoint.meta, checkpoint.spec):
            assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_training_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    restore_model(run(start(None, regime(0, 60, centre=1.0), PLAIN, schema=SCHEMA, config=CONFIG)))
    assert torch.equal(torch.rand(3), expected)
