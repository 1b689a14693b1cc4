"""Last layers that grow: a new output is a new row of the weights.

Old rows are kept to the bit. (Old outputs are the same sums; a matrix library may add the terms of a wider product in
another order, so they are equal up to the last bits of float32.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import cast

import torch
from torch import nn

from learners.errors import UnsuitableModelError
from learners.schema import Schema


def with_classes(schema: Schema, classes: Iterable[str]) -> Schema:
    """Return the schema with the classes that it does not have yet appended.

    Raises
    ------
    UnsuitableModelError
        If it is a regression.
    """
    if schema.task != "classification":
        raise UnsuitableModelError("a regression has no classes to grow")
    return replace(schema, classes=tuple(dict.fromkeys((*schema.classes, *classes))))


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
