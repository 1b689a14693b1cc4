"""A recipe that follows the likeness of the new regime to what is known. Torch-free.

With the distance d of `learners.similarity` the factor is f = 4^(d - 1/2): a half for the same regime, one in the middle of
the scale, where a recipe stays as it is, and two where nothing is in common. Between them nothing jumps.

    epochs      times f: what is known already needs few passes over new rows and old ones, what is new needs many
    penalties   strength divided by f: what is near is learned close to the anchors, what is far needs room

The share of replayed rows stays, so that their number follows the epochs: with a larger share old rows outvote new ones where the two
contradict each other, and the new regime is not learned. Where the network has become too small, a far regime widens it: `learners.growth`.
A regime that recurs is learned from the version that fits (its checkpoint is the parent), by the distance from that.
"""

from __future__ import annotations

from dataclasses import replace

from learners.recipe import Recipe
from learners.similarity import Similarity

_PENALTIES = ("ewc_lambda", "si_lambda", "lwf_lambda")
_MOST_EPOCHS = 10_000.0  # as a recipe may say


def effort(similarity: Similarity | None) -> float:
    """Return the epochs of an adapted recipe, as a multiple of the recipe's own."""
    return 1.0 if similarity is None else float(4 ** (similarity.distance - 0.5))


def adapted(recipe: Recipe, similarity: Similarity | None) -> Recipe:
    """Return the recipe for a regime of that likeness: itself if it does not adapt, or nothing is known."""
    if not recipe.adapt or similarity is None:
        return recipe
    factor = effort(similarity)
    strengths = {name: getattr(recipe, name) / factor for name in _PENALTIES}
    return replace(recipe, epochs=min(recipe.epochs * factor, _MOST_EPOCHS), **strengths)
