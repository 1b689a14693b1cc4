"""The mathematics of wider hidden layers that compute the same function.

Copies (Net2WiderNet, Chen et al. 2016, arXiv:1511.05641, eq. 2): a unit with incoming weights w and outgoing weights v
becomes c units with w and v / c each. What is known of the old weights carries over: an old weight displaced by d is
copies displaced by m d, with m the factor above: 1 for rows, a = 1 / c for columns, and the product between two wider
layers. Importance

    F_k = F a_row / a_column

prices every state that the old network could take as before, sum_k F_k (m d)^2 = F d^2, and never less than that what
copies do that drift apart, sum_k F_k d_k^2 >= F (sum_k a_row d_k)^2, by Jensen's inequality. (The Fisher information
of the copies themselves is smaller, F a_row^2: its diagonal ignores that their gradients are collinear.)
Equal copies receive equal gradients for ever, unless dropout or noise sets them apart; noise changes the function.

Fresh units: incoming weights as a new network has them, outgoing weights zero. Nothing is known of them: F = 0. The
function stays exactly, and no gradient equals another's.

Shapes: N units of a layer, Q units of the wider one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from learners.quadratic import Consolidation, Named


@dataclass(frozen=True, eq=False)
class Units:
    """Where the units of a wider layer come from; the first N are the old ones."""

    origin_Q: Tensor  # int64: the old unit that each one copies
    share_Q: Tensor  # a, float64: of the old unit that it stands for; 0 for a fresh one

    @property
    def rows(self) -> Axis:
        """How the layer's own parameters widen."""
        return Axis(0, self.origin_Q, (self.share_Q > 0).double(), self.share_Q)

    def columns(self, inputs: int) -> Axis:
        """How the weights widen that read the layer, with so many inputs per unit (pixels of a channel)."""
        origin_Q = (self.origin_Q[:, None] * inputs + torch.arange(inputs)).flatten()
        share_Q = self.share_Q.repeat_interleave(inputs)
        return Axis(1, origin_Q, share_Q, torch.where(share_Q > 0, 1 / share_Q, 0.0))


@dataclass(frozen=True, eq=False)
class Axis:
    """How one dimension of a parameter widens."""

    dim: int
    origin_Q: Tensor  # int64: the old index that each new one copies
    factor_Q: Tensor  # of weights
    weight_Q: Tensor  # of their importance

    def widen(self, tensor: Tensor, factor_Q: Tensor) -> Tensor:
        """Return copies along the dimension, times their factors."""
        shape = [-1 if dim == self.dim else 1 for dim in range(tensor.dim())]
        copies = tensor.index_select(self.dim, self.origin_Q.to(tensor.device))
        return copies * factor_Q.to(tensor).reshape(shape)


@dataclass(frozen=True, eq=False)
class Widening:
    """How whatever is known by parameter widens; parameters that are not named stay."""

    axes: Mapping[str, tuple[Axis, ...]]
    offset: Named  # added to weights and anchors: noise, and the incoming weights of fresh units

    def values(self, named: Named) -> dict[str, Tensor]:
        """Return tensors that lie among the weights (weights, anchors, averages), widened."""
        wide = self._along(named, lambda axis: axis.factor_Q)
        return {
            name: tensor + self.offset[name].to(tensor) if name in self.offset else tensor
            for name, tensor in wide.items()
        }

    def importance(self, named: Named) -> dict[str, Tensor]:
        """Return importances of weights (Fisher information, path integrals), widened."""
        return self._along(named, lambda axis: axis.weight_Q)

    def shares(self, named: Named) -> dict[str, Tensor]:
        """Return what sums over copies to what it was (parts of a decrease of the loss), widened."""
        return self._along(named, lambda axis: axis.weight_Q * axis.factor_Q.square())

    def consolidation(self, before: Consolidation) -> Consolidation:
        """Return the consolidation whose penalty at widened weights is that of `before` at the old ones."""
        return replace(
            before, importance=self.importance(before.importance), anchor=self.values(before.anchor)
        )

    def _along(self, named: Named, factor: Callable[[Axis], Tensor]) -> dict[str, Tensor]:
        wide = dict(named)
        for name in named.keys() & self.axes.keys():
            for axis in self.axes[name]:
                wide[name] = axis.widen(wide[name], factor(axis))
        return wide


def copied(units: int, wanted: int, generator: np.random.Generator) -> Units:
    """Return N units and copies of some, none copied more than once more often than another."""
    order = generator.permutation(units)
    origin_Q = np.concatenate([np.arange(units), order[np.arange(wanted - units) % units]])
    return Units(torch.from_numpy(origin_Q), torch.from_numpy(1 / np.bincount(origin_Q)[origin_Q]))


def freshly(units: int, wanted: int) -> Units:
    """Return N units and fresh ones."""
    old_Q = torch.arange(wanted) < units
    return Units(torch.arange(wanted) * old_Q, old_Q.double())
