"""Every named recipe, by discovery, and compositions that use each further part, on both tasks."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from detectors.columns import Categorical
from learners.checkpoint import pack, restore_model, under
from learners.errors import DivergedError, NoUsableRowsError, ResumeMismatchError
from learners.learn import Checkpoint, Training, resume, start
from learners.models.tabular_config import TabularConfig
from learners.recipe import RECIPES, Recipe
from learners.recipes import known
from learners.rows import Rows
from learners.schema import Schema

# Each part runs on either task, for a few epochs: also where it has no use.
pytestmark = pytest.mark.filterwarnings("ignore::learners.errors.CannotWorkWarning")
NUMERIC = ("x", "y")
SCHEMAS = {
    "regression": Schema(NUMERIC, ("c",)),
    "classification": Schema(NUMERIC, ("c",), "classification", ("no", "yes", "maybe")),
}
CONFIG = TabularConfig(hidden=(16,), dropout=0.2, embedding_max=4)  # dropout: the loop owns its randomness


def table(first: int, count: int, task: str, categories: tuple[str, ...] = ("a", "b")) -> Rows:
    rng = np.random.default_rng(first)
    x, y = rng.normal(size=(2, count))
    target = 3 * x - y if task == "regression" else np.digitize(x + y, [-0.5, 0.5]).astype(np.float64)
    codes = rng.integers(-1, len(categories), count).astype(np.int32)
    columns = {"x": x, "y": y, "c": Categorical(codes, categories)}
    return Rows(columns, target, np.arange(first, first + count))


COMPOSED = {
    "si+lwf+freezing": replace(RECIPES["si"], lwf_lambda=1.0, freeze=1.0, keep_optimizer=True),
    "der+regimes+seen": replace(
        RECIPES["der++"], ewc_lambda=10.0, memory_balance="regime", replay_weight="seen", fisher="sampled"
    ),
    "craft": replace(
        RECIPES["replay"],
        ewc_lambda=10.0,
        mixup=0.3,
        accumulate=3,
        layerwise=1.0,
        schedule="plateau",
        memory_order="herding",
        consolidate_every=2,
        fisher="empirical",
    ),
    "half+units": replace(
        RECIPES["replay"],
        cutmix=1.0,
        precision="bf16",
        checkpoint_activations=True,
        plasticity="continual-backprop",
        balance_classes=0.5,
    ),
}
ALL = {**known(), **COMPOSED}


@pytest.fixture(params=sorted(ALL))
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return replace(
        ALL[request.param],
        batch_rows=32,
        epochs=3.0,
        learning_rate=0.01,
        average_share=0.5,
        memory_rows=min(ALL[request.param].memory_rows, 50),
    )


@pytest.fixture(params=sorted(SCHEMAS))
def task(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(training: Training) -> Checkpoint:
    while not training.done:
        training.step()
    return training.finish()


def step_until_refused(training: Training, snapshots: list[Checkpoint]) -> None:
    while not training.done:
        snapshots.append(training.snapshot())
        training.step()


def begin(
    parent: Checkpoint | None, rows: Rows, recipe: Recipe, task: str, seed: int = 0, tune: Rows | None = None
) -> Training:
    return start(parent, rows, recipe, schema=SCHEMAS[task], config=CONFIG, seed=seed, tune=tune)


def bootstrap(recipe: Recipe, task: str) -> Checkpoint:
    return run(begin(None, table(0, 120, task), recipe, task))


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(left[name].nan_to_num(), right[name].nan_to_num()) for name in left
    )


def test_penalty_is_zero_at_the_anchor_and_positive_off_it(recipe: Recipe, task: str) -> None:
    training = begin(bootstrap(recipe, task), table(120, 80, task), recipe, task)
    reports = [training.step() for _ in range(3)]
    assert reports[0].penalty == 0
    consolidated = recipe.ewc_lambda > 0 or recipe.si_lambda > 0
    assert (reports[-1].penalty > 0) == (consolidated and recipe.consolidate_every == 1)


def test_at_strength_zero_it_is_plain_training_to_the_bit(task: str) -> None:
    parent = bootstrap(RECIPES["naive"], task)
    rows, plain = table(120, 80, task), replace(RECIPES["naive"], batch_rows=32, learning_rate=0.01)
    expected = run(begin(parent, rows, plain, task)).tensors
    for off in (
        {"ewc_lambda": 0.0, "si_lambda": 0.0, "lwf_lambda": 0.0, "freeze": 0.0, "fisher_rows": 7},
        {"layerwise": 0.0, "balance_classes": 0.0, "mixup": 0.0, "accumulate": 1, "precision": "fp32"},
        {"checkpoint_activations": True},
        {"memory_rows": 100, "replay_share": 0.0},
    ):
        learned = run(begin(parent, rows, replace(plain, **off), task)).tensors
        assert all(torch.equal(learned[name], expected[name]) for name in expected), off


def test_freezing_holds_what_is_important_without_any_penalty(task: str) -> None:
    recipe = replace(RECIPES["naive"], batch_rows=32, freeze=1.0)
    parent = run(begin(None, table(0, 120, task), recipe, task))
    moved = {
        freeze: run(begin(parent, table(120, 80, task), replace(recipe, freeze=freeze), task)).tensors
        for freeze in (1e-9, 1e6)
    }
    importance = under("ewc.importance", parent.tensors)
    mean = torch.cat([values.flatten() for values in importance.values()]).mean()
    for name, important in ((name, values > mean) for name, values in importance.items()):
        if not important.any():
            continue
        before = parent.tensors[f"model.{name}"][important]
        free, held = ((moved[freeze][f"model.{name}"][important] - before).abs().max() for freeze in moved)
        assert held < 0.01 * free


def test_parts_of_a_batch_add_up_to_the_whole(task: str) -> None:
    schema, config = SCHEMAS[task], replace(CONFIG, dropout=0.0)
    recipe = replace(RECIPES["der++"], batch_rows=32, memory_rows=50, epochs=1.0)
    parent = run(start(None, table(0, 120, task), recipe, schema=schema, config=config))
    whole, parts = (
        start(parent, table(120, 80, task), replace(recipe, accumulate=count)) for count in (1, 5)
    )
    assert whole.step().loss == pytest.approx(parts.step().loss, rel=1e-5)
    for name, parameter in whole.parameters.items():
        assert parameter.grad is not None
        torch.testing.assert_close(parts.parameters[name].grad, parameter.grad, rtol=1e-4, atol=1e-6)


def test_a_learner_that_goes_on_in_memory_ends_like_one_that_was_stored(recipe: Recipe, task: str) -> None:
    stored, live = None, None
    for update in range(3):
        rows, new_regime = table(60 * update, 60, task), update == 2
        training = start(
            live, rows, recipe, schema=SCHEMAS[task], config=CONFIG, seed=update, new_regime=new_regime
        )
        while not training.done:
            training.step()
        live = training.conclude()
        training = start(
            stored, rows, recipe, schema=SCHEMAS[task], config=CONFIG, seed=update, new_regime=new_regime
        )
        stored = run(training)
    assert live is not None
    assert stored is not None
    tensors, meta = pack(live)
    assert same(tensors, stored.tensors)
    assert meta == {name: stored.meta[name] for name in meta}


def test_same_seed_same_bits_and_another_seed_another_model(recipe: Recipe, task: str) -> None:
    parent, rows = bootstrap(recipe, task), table(120, 80, task)
    one, two, other = (run(begin(parent, rows, recipe, task, seed)) for seed in (5, 5, 6))
    assert same(one.tensors, two.tensors)
    assert one.meta == two.meta
    assert not same(one.tensors, other.tensors)


@pytest.mark.parametrize("patience", [0, 2])
def test_resumed_equals_uninterrupted(recipe: Recipe, task: str, patience: int) -> None:
    recipe = replace(recipe, patience=patience)
    parent, rows, tune = bootstrap(recipe, task), table(120, 90, task, ("b", "new")), table(300, 30, task)
    whole = run(begin(parent, rows, recipe, task, 3, tune))
    for kill in (0, 1, 4, whole.meta["step"] - 1, whole.meta["step"]):
        training = begin(parent, rows, recipe, task, 3, tune)
        for _ in range(kill):
            training.step()
        snapshot = training.snapshot()
        if not training.done:
            training.step()  # what happens after the snapshot is lost with the process
        stored = Checkpoint(  # as another process, with other generators, finds it
            json.loads(json.dumps(snapshot.spec)),
            load(save(snapshot.tensors)),
            json.loads(json.dumps(snapshot.meta)),
        )
        torch.manual_seed(kill)
        resumed = run(resume(stored, rows, recipe, tune=tune))
        assert same(resumed.tensors, whole.tensors)
        assert resumed.meta == whole.meta


def test_a_snapshot_does_not_change_when_training_goes_on(recipe: Recipe, task: str) -> None:
    training = begin(bootstrap(recipe, task), table(120, 80, task), recipe, task)
    training.step()
    snapshot = training.snapshot()
    copies = {name: tensor.clone() for name, tensor in snapshot.tensors.items()}
    run(training)
    assert same(snapshot.tensors, copies)


def test_unlabelled_rows_are_left_out(recipe: Recipe, task: str) -> None:
    rows = table(0, 100, task)
    target = np.where(np.arange(100) % 3 == 0, np.nan, rows.target)
    patchy = replace(rows, target=target)
    assert same(
        run(begin(None, patchy, recipe, task)).tensors,
        run(begin(None, rows.take(np.isfinite(target)), recipe, task)).tensors,
    )
    with pytest.raises(NoUsableRowsError, match="100 train rows"):
        begin(None, replace(rows, target=np.full(100, np.nan)), recipe, task)


@pytest.mark.parametrize("count", [1, 40])
def test_a_single_class_or_value_is_learned_without_harm(recipe: Recipe, task: str, count: int) -> None:
    rows = replace(table(120, count, task), target=np.full(count, 1.0))
    for parent in (None, bootstrap(recipe, task)):
        checkpoint = run(begin(parent, rows, recipe, task))
        assert all(
            tensor.isfinite().all() for tensor in checkpoint.tensors.values() if tensor.is_floating_point()
        )


def test_a_loss_that_is_not_finite_stops_and_names_the_batch(recipe: Recipe) -> None:
    rows = table(120, 100, "regression")
    bad = replace(rows, target=np.where(rows.position == 157, 1e300, rows.target))
    training = begin(bootstrap(recipe, "regression"), bad, replace(recipe, fresh=False), "regression")
    snapshots: list[Checkpoint] = []
    with pytest.raises(DivergedError) as caught:
        step_until_refused(training, snapshots)
    before = snapshots[-1]
    assert 157 in caught.value.positions
    assert caught.value.step == before.meta["step"]
    assert same(training.snapshot().tensors, before.tensors)


def test_memory_is_bounded_and_offered_each_row_once(recipe: Recipe, task: str) -> None:
    checkpoint = bootstrap(recipe, task)
    for update in range(1, 4):
        checkpoint = run(begin(checkpoint, table(120 * update, 120, task), recipe, task))
    remembers = recipe.memory_rows > 0
    assert checkpoint.meta["memory"]["seen"] == (480 if remembers else 0)
    held = checkpoint.tensors.get("memory.position", torch.empty(0))
    assert len(held) == recipe.memory_rows
    assert len(set(held.tolist())) == len(held)


def test_columns_that_the_model_does_not_read_are_not_remembered(recipe: Recipe, task: str) -> None:
    rows = table(0, 60, task)
    wide = replace(rows, columns={**rows.columns, "note": Categorical.of(f"n{i}" for i in range(60))})
    assert same(run(begin(None, wide, recipe, task)).tensors, run(begin(None, rows, recipe, task)).tensors)


def test_grown_categories_are_learned_and_the_rest_keeps_its_protection(recipe: Recipe, task: str) -> None:
    parent = bootstrap(recipe, task)
    training = begin(parent, table(120, 80, task, ("a", "new")), recipe, task)
    weight = training.parameters["embeddings.0.weight"].detach().clone()
    child = run(training)
    vocabulary = child.spec["vocabularies"]["c"]
    assert "new" in vocabulary
    if not recipe.fresh:
        assert vocabulary == [*parent.spec["vocabularies"]["c"], "new"]
        for kept, _ in training.penalties:
            assert kept.importance["embeddings.0.weight"][-1].sum() == 0
        assert not torch.equal(child.tensors["model.embeddings.0.weight"][-1], weight[-1])
    restore_model(child).predict(table(0, 10, task).columns)


def test_progress_is_accounted_for(recipe: Recipe, task: str) -> None:
    rows = table(0, 120, task)
    checkpoint = run(begin(None, rows, recipe, task))
    meta = checkpoint.meta
    outputs = SCHEMAS[task].outputs
    backward = outputs if recipe.fisher == "exact" else 1
    fisher_passes = 120 * (1 / 3 + 2 / 3 * backward) if recipe.ewc_lambda else 0
    learned = 50 if recipe.rehearsal == "gdumb" else 120
    assert meta["passes"] == pytest.approx(3 * learned + fisher_passes)
    assert meta["learned_up_to"] == 119
    assert [point["step"] for point in meta["curve"]] == [
        math.ceil(learned / 32) * epoch for epoch in (1, 2, 3)
    ]
    child = run(begin(checkpoint, table(10, 5, task), recipe, task))
    assert child.meta["learned_up_to"] == (14 if recipe.fresh else 119)


def test_a_snapshot_of_another_training_is_refused(recipe: Recipe, task: str) -> None:
    rows = table(0, 60, task)
    training = begin(None, rows, recipe, task)
    snapshot = training.snapshot()
    with pytest.raises(ResumeMismatchError, match="rows"):
        resume(snapshot, table(0, 59, task), recipe)
    with pytest.raises(ResumeMismatchError, match="recipe"):
        resume(snapshot, rows, replace(recipe, learning_rate=0.5))
    with pytest.raises(ResumeMismatchError, match="finished"):
        resume(run(training), rows, recipe)
