"""Last layers that grow: a new output is a new row of the weights.

Old rows are kept to the bit. (Old outputs are the same sums; a matrix library may add the terms of a wider product in
another order, so they are equal up to the last bits of float32.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import nn

from learners.errors import UnsuitableModelError
from learners.schema import Schema


def with_classes(schema: Schema, classes: Sequence[str]) -> Schema:
    """Return the schema with these classes, which begin with its own: an index keeps its meaning.

    Raises
    ------
    UnsuitableModelError
        If they begin otherwise, or the schema is that of a regression.
    """
    if schema.task != "classification":
        raise UnsuitableModelError("a regression has no classes to grow")
    known = min(len(classes), len(schema.classes))
    if tuple(classes[:known]) != schema.classes[:known]:
        raise UnsuitableModelError(
            f"classes must begin with {', '.join(schema.classes)}, which the model knows by index, and new ones follow; "
            f"not {', '.join(classes)}"
        )
    return replace(schema, classes=schema.classes + tuple(classes[known:]))


@torch.no_grad()
def grow_head(head: nn.Linear, outputs: int) -> None:
    """Give a last layer more outputs: weights zero and the mean bias, neither more nor less likely than the rest."""
    new = outputs - head.out_features
    if not new:
        return
    weight, bias = head.weight, cast(nn.Parameter | None, head.bias)
    rows_KH = torch.cat([weight, weight.new_zeros(new, head.in_features)])
    head.weight = nn.Parameter(rows_KH, weight.requires_grad)
    if bias is not None:
        head.bias = nn.Parameter(torch.cat([bias, bias.mean().expand(new)]), bias.requires_grad)
    head.out_features = outputs
