"""Low-rank adapters of frozen linear layers (LoRA, Hu et al. 2021, arXiv:2106.09685), by peft.

    W x + b  becomes  W x + b + alpha / rank B A x,    A random, B zero at first: equation 3

A and B learn; penalties, importance and moments of the optimiser know them alone, by the names
`inner.<layer>.lora_A.default.weight` and `..._B...`. Needs the extra `lora`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self, cast

from torch import nn

from learners.errors import UnsuitableModelError
from learners.models.backbone import FORMAT, Backbone
from learners.models.backbone_config import BackboneConfig, belongs
from learners.models.base import Model
from learners.models.configured import configured
from learners.models.inner import backbone_of, built, described
from learners.models.lora_config import LoraConfig
from learners.rows import Rows
from learners.schema import Schema

ADAPTERS = ("lora_A", "lora_B")


class Lora(Backbone):
    """A frozen network with an adapter on each linear layer called in `targets`.

    Parameters
    ----------
    inner
        The whole network; it is frozen, and its target layers are replaced, in place.
    config
        Its `targets`, `rank`, `alpha`, `dropout` and `trainable`.

    Raises
    ------
    UnsuitableModelError
        If no linear layer is a target, or peft is not installed.
    """

    def __init__(self, inner: Model, config: LoraConfig) -> None:
        self.config = config
        _adapt(inner, config)
        super().__init__(inner, config.trainable)

    @classmethod
    def fit_preprocessing(
        cls, config: BackboneConfig | Mapping[str, Any] | None, schema: Schema, train: Rows
    ) -> Self:
        """Return a network whose outputs are those of the frozen one, until its adapters learn.

        Raises
        ------
        UnsuitableModelError
            As for `Backbone`, and if no linear layer is a target.
        """
        config = configured(LoraConfig, cast("LoraConfig | Mapping[str, Any] | None", config))
        return cls(built(config, schema, train), config)

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """Return the network that `spec()` described, with unset weights and buffers."""
        if spec["name"] != "lora" or spec["format"] != FORMAT:
            raise ValueError(f"not a model 'lora' of format {FORMAT}: {spec['name']} {spec['format']}")
        config = LoraConfig(
            trainable=tuple(spec["trainable"]),
            targets=tuple(spec["targets"]),
            rank=spec["rank"],
            alpha=spec["alpha"],
            dropout=spec["dropout"],
        )
        return cls(described(spec["inner"]), config)

    def spec(self) -> dict[str, Any]:
        """Return, as JSON, the spec of the network without adapters, and theirs."""
        config = self.config
        return {
            "name": "lora",
            "format": FORMAT,
            "inner": self.inner.spec(),
            "trainable": list(config.trainable),
            "targets": list(config.targets),
            "rank": config.rank,
            "alpha": config.alpha,
            "dropout": config.dropout,
        }

    def learns(self, name: str) -> bool:
        """Tell whether the inner network's parameter of that name is learned."""
        return belongs(name, ADAPTERS) or super().learns(name)

    def grow_classes(self, classes: Sequence[str]) -> None:
        """Append outputs to a head that learns; errors as for `Backbone`."""
        adapters = _adapters(self.inner) if set(classes) - set(self.schema.classes) else {}
        for name, layer in adapters.items():  # the inner network is to see its own layers alone
            _replace(self.inner, name, layer.get_base_layer())
        try:
            super().grow_classes(classes)
        finally:
            for name, layer in adapters.items():
                _replace(self.inner, name, layer)
        self._freeze()  # what learns was told without the adapters

    def merged(self) -> Model:
        """Return the plain network with the adapters' products added to its weights: the same predictions."""
        plain = copy.deepcopy(self.inner)
        for name, layer in _adapters(plain).items():
            layer.merge(safe_merge=True)
            _replace(plain, name, layer.get_base_layer())
        return plain.requires_grad_(True).train(self.training)


def lora_of(model: Model, config: LoraConfig | None = None) -> LoraConfig:
    """Return the configuration of adapters on a trained network: `start(..., model="lora", config=it)`.

    Parameters
    ----------
    model
        Any registered network; copied.
    config
        Shape of the adapters; its `model` and `arguments` are not used.
    """
    source = backbone_of(model)
    return replace(config or LoraConfig(), spec=source.spec, weights=source.weights)


def _adapt(inner: Model, config: LoraConfig) -> None:
    """Replace each target by peft's layer around it."""
    linear = [name for name, layer in inner.named_modules() if isinstance(layer, nn.Linear)]
    targets = [name for name in linear if belongs(name, config.targets)]
    if not targets:
        raise UnsuitableModelError(
            f"no linear layer is in {', '.join(config.targets) or 'an empty list'}; name some of {', '.join(linear)}"
        )
    try:
        import peft
    except ImportError as error:
        raise UnsuitableModelError("model 'lora' needs peft: pip install 'cls-continual[lora]'") from error
    scale = cast(int, config.alpha)  # declared as a whole number there; any number multiplies
    around = nn.ModuleDict(
        {"inner": inner}
    )  # peft reads `config` of the module that it is given, as one of transformers
    shape = peft.LoraConfig(
        target_modules=[f"inner.{name}" for name in targets],
        r=config.rank,
        lora_alpha=scale,
        lora_dropout=config.dropout,
    )
    peft.inject_adapter_in_model(shape, around)


def _adapters(network: nn.Module) -> dict[str, Any]:
    """Return peft's layers by name."""
    from peft.tuners.lora import LoraLayer

    return {name: layer for name, layer in network.named_modules() if isinstance(layer, LoraLayer)}


def _replace(network: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, layer)
