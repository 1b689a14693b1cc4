"""What a recipe asks for that cannot work, with the fix. Torch-free, so that configuration is checked without torch.

A recipe within its ranges may still have no chance. Penalties on weights and distillation protect what the network
says about the classes that it knows, but show it no pair of an old and a new class: without old rows, whatever their
strength, new classes win every comparison (van de Ven et al. 2022: class-incremental split MNIST, 20% of ten classes
with EWC or without).
"""

from __future__ import annotations

from collections.abc import Iterator

from learners.recipe import Recipe
from learners.schedule import PATIENCE
from learners.schema import Schema

_PROTECT = ("ewc_lambda", "si_lambda", "lwf_lambda", "freeze")
_REHEARSE = "set memory_rows and replay_share above 0"


def cannot_work(recipe: Recipe, schema: Schema, *, new_classes: bool = False) -> list[str]:
    """Return a sentence for each thing that cannot work, naming the field and the fix.

    Parameters
    ----------
    new_classes
        Whether classes arrive that the model has not learned yet (class-incremental learning).
    """
    return [
        *_of_new_classes(recipe, new_classes),
        *_of_rehearsal(recipe),
        *_of_fresh(recipe),
        *_of_adapting(recipe),
        *_of_steps(recipe),
        *_of_task(recipe, schema),
    ]


def _of_new_classes(recipe: Recipe, new_classes: bool) -> Iterator[str]:
    if not new_classes or recipe.fresh or _has_memory(recipe):
        return
    protecting = [name for name in _PROTECT if getattr(recipe, name)]
    if protecting:
        yield (
            f"{' and '.join(protecting)} alone cannot learn new classes without forgetting: nothing tells an old class "
            f"from a new one. {_REHEARSE.capitalize()}"
        )


def _of_rehearsal(recipe: Recipe) -> Iterator[str]:
    if recipe.rehearsal not in ("er", "gdumb") and not _has_memory(recipe):
        field = "memory_rows" if not recipe.memory_rows else "replay_share"
        yield f"rehearsal {recipe.rehearsal!r} has nothing to rehearse with {field} 0: {_REHEARSE}, or rehearsal to 'er'"
    if recipe.class_mask == "ace" and not _has_memory(recipe):
        yield f"class_mask 'ace' leaves new and old classes uncompared without old rows: {_REHEARSE}, or class_mask to 'none'"


def _of_fresh(recipe: Recipe) -> Iterator[str]:
    if not recipe.fresh:
        return
    kept = [name for name in (*_PROTECT, "adapt", "keep_optimizer") if getattr(recipe, name)]
    if _has_memory(recipe):
        kept.append("replay_share")
    if kept:
        yield (
            f"{' and '.join(kept)} need a parent, and fresh starts from new weights and an empty memory: set fresh to "
            f"false, or {' and '.join(kept)} to 0 or false"
        )


def _of_adapting(recipe: Recipe) -> Iterator[str]:
    penalties = ("ewc_lambda", "si_lambda", "lwf_lambda")
    if recipe.adapt and not _has_memory(recipe) and not any(getattr(recipe, name) for name in penalties):
        yield (
            f"adapt weighs what is new against what is kept, and nothing is: {_REHEARSE}, or one of "
            f"{', '.join(penalties)}, or adapt to false"
        )


def _of_steps(recipe: Recipe) -> Iterator[str]:
    judged = f"plateau cuts the step size after {PATIENCE} epochs without a lower tune loss"
    if recipe.schedule == "plateau" and recipe.epochs <= PATIENCE + 1:
        yield f"schedule {judged}: with {recipe.epochs:g} epochs it hardly ever does. Raise epochs, or set schedule to 'cosine'"
    if recipe.schedule == "plateau" and 0 < recipe.patience <= PATIENCE:
        yield f"schedule {judged}, and patience {recipe.patience} stops by then: raise patience"
    if recipe.recency_rows and not _has_memory(recipe):
        yield f"recency_rows has no rows to weigh: {_REHEARSE}"
    if recipe.plasticity == "shrink-perturb" and (recipe.ewc_lambda or recipe.si_lambda):
        yield "plasticity 'shrink-perturb' moves weights that ewc_lambda or si_lambda pull back: use 'continual-backprop', or set them to 0"


def _of_task(recipe: Recipe, schema: Schema) -> Iterator[str]:
    if schema.task == "classification":
        return
    if recipe.balance_classes:
        yield "balance_classes has no classes to balance in a regression: set it to 0"
    if recipe.class_mask != "none":
        yield f"class_mask {recipe.class_mask!r} has no classes to mask in a regression: set it to 'none'"


def _has_memory(recipe: Recipe) -> bool:
    return recipe.memory_rows > 0 and (recipe.replay_share > 0 or recipe.rehearsal == "gdumb")
