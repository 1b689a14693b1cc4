"""A network of which most is frozen. What is fixed is neither optimised nor penalised, and has no Fisher information.

A head that learns alone reads features that never change: they are computed once, when rows are encoded, and rows in
memory are held as features (latent replay, Pellegrini et al. 2020, arXiv:1912.01100). Such rows cannot be augmented.

Shapes: B rows of a batch, H features that the head reads, K outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from detectors.columns import Columns, rows_of, take
from learners.errors import UnsuitableModelError
from learners.models.backbone_config import BackboneConfig, belongs
from learners.models.base import Inputs, Model
from learners.models.configured import configured
from learners.models.inner import built, described
from learners.rows import Rows
from learners.schema import Schema

FORMAT = 1  # of the spec


class Backbone(Model):
    """A network whose parts called `trainable` learn, and nothing else.

    Frozen layers stay in eval mode: no dropout, no statistics of batches.

    Parameters
    ----------
    inner
        The whole network; it is frozen in place.
    trainable
        See `BackboneConfig`.

    Raises
    ------
    UnsuitableModelError
        If no parameter is trainable.
    """

    predict_rows = 1024

    def __init__(self, inner: Model, trainable: tuple[str, ...]) -> None:
        nn.Module.__init__(self)  # not Model's: the target's scale is the inner network's
        self.inner, self.trainable = inner, trainable
        self._freeze()

    @classmethod
    def fit_preprocessing(
        cls, config: BackboneConfig | Mapping[str, Any] | None, schema: Schema, train: Rows
    ) -> Self:
        """Return a network ready to learn `schema`, whose frozen part is the trained one's if there is one.

        Raises
        ------
        UnsuitableModelError
            If the trained network reads other features, or its frozen part does not fit.
        """
        config = configured(BackboneConfig, config)
        return cls(built(config, schema, train), config.trainable)

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """Return the network that `spec()` described, with unset weights and buffers."""
        if spec["name"] != "backbone" or spec["format"] != FORMAT:
            raise ValueError(f"not a backbone of format {FORMAT}: {spec['name']} {spec['format']}")
        return cls(described(spec["inner"]), tuple(spec["trainable"]))

    def spec(self) -> dict[str, Any]:
        """Return, as JSON, the inner network's spec and what of it learns."""
        return {
            "name": "backbone",
            "format": FORMAT,
            "inner": self.inner.spec(),
            "trainable": list(self.trainable),
        }

    @property
    def schema(self) -> Schema:  # type: ignore[override]  # the inner network's
        """What the network reads and predicts."""
        return self.inner.schema

    @property
    def target_location(self) -> Tensor:  # type: ignore[override]  # the inner network's
        """The inner network's."""
        return self.inner.target_location

    @property
    def target_scale(self) -> Tensor:  # type: ignore[override]  # the inner network's
        """The inner network's."""
        return self.inner.target_scale

    def train(self, mode: bool = True) -> Self:
        """Set the mode of what learns; the rest stays in eval mode."""
        super().train(mode)
        for module in self.inner.modules():
            if not any(parameter.requires_grad for parameter in module.parameters()):
                module.training = False
        return self

    def encode(self, columns: Columns) -> Inputs:
        """Return the arguments of `forward`: features_BH if the head learns alone, else the inner network's."""
        if self._head is None:
            return self.inner.encode(columns)
        firsts = range(0, max(rows_of(columns), 1), self.predict_rows)
        with torch.no_grad():
            parts = [
                self.inner.represent(
                    *self.inner.encode(take(columns, slice(first, first + self.predict_rows)))
                )
                for first in firsts
            ]
        return (torch.cat(parts),)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return out_BK: the standardised prediction, or logits."""
        return cast(Tensor, self.inner(*inputs) if self._head is None else self._head(inputs[0]))

    def represent(self, *inputs: Tensor) -> Tensor:
        """Return features_BH."""
        return self.inner.represent(*inputs) if self._head is None else inputs[0]

    def augment(self, inputs: Inputs, generator: torch.Generator) -> Inputs:
        """Return what the inner network makes of the rows; features stay."""
        return self.inner.augment(inputs, generator) if self._head is None else inputs

    def grow(self, columns: Columns) -> None:
        """Let the inner network make room for what is new. Room in a frozen layer is never learned."""
        self.inner.grow(columns)
        self._freeze()

    def grow_classes(self, classes: Sequence[str]) -> None:
        """Append outputs as the inner network does.

        Raises
        ------
        UnsuitableModelError
            If the head is frozen, or the inner network cannot.
        """
        learned = [name for name, p in self.inner.named_parameters() if p.requires_grad]
        new = set(classes) - set(self.schema.classes)
        if new and not any(belongs(name, ("head",)) for name in learned):
            raise UnsuitableModelError("a frozen head cannot learn new classes: add 'head' to trainable")
        self.inner.grow_classes(classes)
        self._freeze()

    def learns(self, name: str) -> bool:
        """Tell whether the inner network's parameter of that name is learned."""
        return belongs(name, self.trainable)

    def _freeze(self) -> None:
        for name, parameter in self.inner.named_parameters():
            parameter.requires_grad_(self.learns(name))
        if not any(parameter.requires_grad for parameter in self.inner.parameters()):
            layers = sorted({name.rpartition(".")[0] or name for name, _ in self.inner.named_parameters()})
            raise UnsuitableModelError(
                f"nothing of {', '.join(self.trainable) or 'an empty list'} is in the network; "
                f"name some of {', '.join(layers)}"
            )
        self.train(self.training)
        self._head_path = self._only_head()

    @property
    def _head(self) -> nn.Linear | None:
        return None if self._head_path is None else cast(nn.Linear, self.inner.get_submodule(self._head_path))

    def _only_head(self) -> str | None:
        """Return the name of the head, if it alone learns and the inner network tells what it reads."""
        learned = {name for name, parameter in self.inner.named_parameters() if parameter.requires_grad}
        for name, module in self.inner.named_modules():
            if name in ("head", "net.head") and learned == {
                f"{name}.{p}" for p, _ in module.named_parameters()
            }:
                reads = isinstance(module, nn.Linear) and type(self.inner).represent is not Model.represent
                return name if reads else None
        return None
