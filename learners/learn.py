"""Begin a training, or go on with one that was interrupted.

training = start(parent, rows, recipe, seed=7)
while not training.done:
    report = training.step()
checkpoint = training.finish()

A stream of small updates stays in memory: `learner = training.conclude()`, and `start(learner, more, recipe)`;
`learners.checkpoint.checkpoint_of(learner)` stores it now and then.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from learners.advice import cannot_work
from learners.alignment import measure
from learners.auto import adapted
from learners.checkpoint import Checkpoint, restore_learner
from learners.encoded import Encoded
from learners.errors import CannotWorkWarning, NoUsableRowsError, ResumeMismatchError
from learners.growth import grown
from learners.learner import Learner
from learners.memory import Memory
from learners.models.base import Model
from learners.models.registry import NO_EXTRA, load
from learners.parent import Described, described
from learners.plasticity import shrink_and_perturb
from learners.recipe import Recipe
from learners.rows import Rows
from learners.schema import Schema
from learners.seeds import INITIAL, RENEW, seeded
from learners.similarity import Similarity, with_alignment
from learners.slots import Allocate, in_ram
from learners.training import StepReport, Training, identity, offer, outputs_of

__all__ = ["Checkpoint", "Learner", "StepReport", "Training", "resume", "start"]


def start(
    parent: Checkpoint | Learner | None,
    train: Rows,
    recipe: Recipe,
    *,
    schema: Schema | None = None,
    model: str | None = None,
    config: Any = None,
    tune: Rows | None = None,
    retained: Rows | None = None,
    new_regime: bool = False,
    missed: Iterable[Rows] = (),
    similarity: Similarity | None = None,
    seed: int = 0,
    models: Mapping[str, str] = NO_EXTRA,
    allocate: Allocate = in_ram,
    device: str = "cpu",
) -> Training:
    """Begin a training.

    Parameters
    ----------
    parent
        What to continue, or None for a new learner. A checkpoint stays as it is; a learner goes on in place.
    train
        New rows. Unlabelled ones are left out.
    recipe
        How to learn. A `fresh` one takes nothing from the parent.
    schema, model, config
        What a new network reads, its registered name and its configuration; what is not given is as the parent's, without one `tabular`
        by its defaults. A parent's network keeps its own, and grows an output for each class of the schema that it does not have.
    tune, retained
        Rows for early stopping and the plateau: of the new regime, and of earlier ones. Without labelled ones there is neither.
    new_regime
        Whether these rows are the first of another regime: what was learned until now is consolidated before.
    missed
        Earlier rows, in blocks, that the parent did not learn and that others did: they go into its memory alone, to be replayed.
    similarity
        What is known of the likeness of these rows to what the parent learned, for a recipe that adapts. Gradients are
        compared in any case.
    seed
        Decides initial weights, order of rows, replay and dropout.
    models
        The operator's own models, "module:Class" by name.
    allocate
        Where the memory keeps its rows.
    device
        Where the network computes. Checkpoints come back to the CPU.

    Raises
    ------
    NoUsableRowsError
        If no train row has a finite target.
    UnsuitableRowsError
        If the columns or targets do not fit the model.
    ResumeMismatchError
        If another release wrote the parent, it comes without its learner's tensors, or is a training's snapshot.
    TypeError
        If the recipe is none.
    ValueError
        If a new network is not described, or the recipe keeps its memory on disk and there is no place for it, or does not fit the task.

    Warns
    -----
    CannotWorkWarning
        Of what the recipe cannot do, as `learners.advice` tells it; a fresh one is taken as it is.
    """
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe must be a Recipe, not {recipe!r}: pass learners.recipes.known()[name]")
    rows = _usable(train)
    learner = _continued(parent, recipe, models, allocate)
    if learner is None:
        network = described(parent, schema, model, config, models)
        learner = _new(network, rows, recipe, seed, models, allocate)
    learner = learner.on(device)
    teacher = _teacher(learner, rows, recipe)
    if learner.updates:
        _prepare(learner, rows, schema, recipe, new_regime, seed)
    _recall(learner, missed, recipe)
    train_rows, alignment = Encoded.of(learner.model, rows), None
    if recipe.adapt and learner.updates:
        alignment = measure(
            learner.model, train_rows, learner.memory, recipe, seed, learner.balance == "regime"
        )
        similarity = with_alignment(similarity, alignment)
        recipe = adapted(recipe, similarity)
        if learner.cramped and similarity is not None and similarity.kind == "far":
            learner = grown(learner, recipe.widest, seed)
    _note_classes(learner, train_rows, recipe)
    if recipe.rehearsal == "gdumb":
        offer(learner, train_rows, recipe)
        learner.learned_up_to = max(int(rows.position.max()), learner.learned_up_to or 0)
        learner = replace(
            learner, model=_network_like(learner.model, seed, learner.updates), units=None, rates={}
        )
    training = _training(learner, train_rows, tune, retained, teacher, recipe, seed, identity(rows))
    if alignment is not None:
        training.similarity = similarity
        training.progress.passes += alignment.rows
    if recipe.compile:
        training.compile()
    return training


def resume(
    snapshot: Checkpoint,
    train: Rows,
    recipe: Recipe,
    *,
    tune: Rows | None = None,
    retained: Rows | None = None,
    models: Mapping[str, str] = NO_EXTRA,
    allocate: Allocate = in_ram,
    device: str = "cpu",
) -> Training:
    """Go on from a snapshot, with the rows and the recipe that the training was started with.

    Raises
    ------
    ResumeMismatchError
        If rows or recipe are others, or the checkpoint is a finished one.
    """
    rows, meta = _usable(train), snapshot.meta
    if meta["state"] != "training":
        raise ResumeMismatchError("a finished training cannot be resumed: start a new one from it")
    similarity = None if meta["similarity"] is None else Similarity.from_json(meta["similarity"])
    recipe = adapted(recipe, similarity)
    if meta["recipe"] != asdict(recipe):
        raise ResumeMismatchError("the snapshot was trained by another recipe")
    origin = identity(rows)
    if meta["train"] != origin:
        raise ResumeMismatchError("the snapshot was trained on other rows")
    learner = restore_learner(snapshot, models, allocate).on(device)
    train_rows, teacher = Encoded.of(learner.model, rows), snapshot.tensors.get("training.teacher")
    training = _training(learner, train_rows, tune, retained, teacher, recipe, meta["seed"], origin)
    training.similarity = similarity
    training.restore(snapshot)
    return training


def _continued(
    parent: Checkpoint | Learner | None, recipe: Recipe, models: Mapping[str, str], allocate: Allocate
) -> Learner | None:
    """Return the learner that goes on, None if a new one begins."""
    goes_on = not recipe.fresh
    if isinstance(parent, Learner) and goes_on:
        return parent
    if recipe.memory_disk and allocate is in_ram:
        raise ValueError("recipe: memory_disk needs a place: pass allocate=learners.mapped.mapped(directory)")
    if not (isinstance(parent, Checkpoint) and goes_on):
        return None
    if parent.meta.get("state") == "training":
        raise ResumeMismatchError(
            "parent is a snapshot of a training that has not ended: go on with resume(snapshot, rows, recipe)"
        )
    return restore_learner(parent, models, allocate)


def _new(
    network: Described, rows: Rows, recipe: Recipe, seed: int, models: Mapping[str, str], allocate: Allocate
) -> Learner:
    with seeded(seed, INITIAL):
        built = load(network.model, models).fit_preprocessing(network.config, network.schema, rows)
    memory = Memory.empty(recipe.memory_rows, seed, bytes_max=recipe.memory_bytes, allocate=allocate)
    return Learner(built, memory, balance=recipe.memory_balance)


def _prepare(
    learner: Learner, rows: Rows, schema: Schema | None, recipe: Recipe, new_regime: bool, seed: int
) -> None:
    """Consolidate a regime that has ended, make room for what is new, and drop what the recipe has no use for."""
    if new_regime:
        learner.consolidate(recipe)
        learner.regime += 1
        if recipe.plasticity == "shrink-perturb":
            fresh = dict(_network_like(learner.model, seed, learner.regime).named_parameters())
            shrink_and_perturb(learner.parameters(), fresh)
    learner.model.grow(rows.columns)
    if schema is not None and schema.classes:
        learner.model.grow_classes(schema.classes)
    learner.forget(recipe)


def _teacher(learner: Learner, rows: Rows, recipe: Recipe) -> Tensor | None:
    """Return what the parent says of the new rows, before anything about it changes."""
    if not (recipe.lwf_lambda and learner.updates):
        return None
    return outputs_of(learner.model, learner.model.encode(rows.columns))


def _recall(learner: Learner, missed: Iterable[Rows], recipe: Recipe) -> None:
    """Let the memory see what was not learned, block by block."""
    for block in missed:
        if len(rows := block.labelled()):
            learner.model.grow(rows.columns)
            offer(learner, Encoded.of(learner.model, rows), recipe)


def _note_classes(learner: Learner, train: Encoded, recipe: Recipe) -> None:
    """Remember which classes there were, and warn of what the recipe cannot do, with new ones or at all."""
    schema = learner.model.schema
    classes = frozenset(train.target.tolist() if schema.task == "classification" else ())
    if not recipe.fresh:  # one that is does without a parent on purpose
        new_classes = bool(learner.classes and classes - learner.classes)
        for said in cannot_work(recipe, schema, new_classes=new_classes):
            warnings.warn(f"recipe: {said}", CannotWorkWarning, stacklevel=3)
    learner.classes |= classes


def _network_like(model: Model, seed: int, number: int) -> Model:
    """Return the network with new weights: its preprocessing stays, and what is not learned."""
    with seeded(seed, RENEW, number):
        network = type(model).from_spec(model.spec())
    network = network.to(model.target_scale.device)
    learned = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    own, given = (dict([*net.named_buffers(), *net.named_parameters()]) for net in (network, model))
    with torch.no_grad():
        for name in own.keys() - learned:
            own[name].copy_(given[name])
    return network


def _training(
    learner: Learner,
    train: Encoded,
    tune: Rows | None,
    retained: Rows | None,
    teacher: Tensor | None,
    recipe: Recipe,
    seed: int,
    origin: Mapping[str, Any],
) -> Training:
    if recipe.rehearsal == "gdumb":
        memory, device = learner.memory, train.target.device
        inputs = tuple(tensor.to(device) for tensor in memory.inputs)
        train = Encoded(inputs, memory.target.to(device), memory.position.numpy())
    held_out = {
        name: Encoded.of(learner.model, labelled)
        for name, part in (("tune", tune), ("retained", retained))
        if (recipe.patience or recipe.schedule == "plateau")
        and part is not None
        and len(labelled := part.labelled())
    }
    return Training(learner, train, held_out, teacher, recipe, seed, origin)


def _usable(rows: Rows) -> Rows:
    labelled = rows.labelled()
    if not len(labelled):
        raise NoUsableRowsError(f"none of the {len(rows)} train rows has a finite target")
    return labelled
