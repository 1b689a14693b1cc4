"""The network inside a backbone: built anew, or made of a trained one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of

from learners.errors import UnsuitableModelError
from learners.models.backbone_config import BackboneConfig, belongs
from learners.models.base import Model
from learners.models.configured import configured
from learners.models.registry import CONFIGS, load
from learners.rows import Rows
from learners.schema import Schema

_OF_TARGET = ("target_location", "target_scale")


def backbone_of(model: Model, trainable: tuple[str, ...] = ("head",), fresh: bool = True) -> BackboneConfig:
    """Return the configuration of a backbone made of a trained network: `start(..., model="backbone", config=it)`.

    Parameters
    ----------
    model
        Any registered network; copied.
    trainable, fresh
        See `BackboneConfig`.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return BackboneConfig(trainable=trainable, fresh=fresh, spec=model.spec(), weights=bytes_of(state))


def built(config: BackboneConfig, schema: Schema, train: Rows) -> Model:
    """Return the whole network, with what is not to begin anew as it was trained.

    Raises
    ------
    UnsuitableModelError
        If the trained network reads other features, or what is kept of it does not fit.
    """
    if config.spec is None:
        network = load(config.model)
        return network.fit_preprocessing(_inner_config(config), schema, train)
    wanted = {"task": schema.task, "classes": list(schema.classes)}
    inner = described({**config.spec, **wanted})
    if inner.schema != schema:
        raise UnsuitableModelError(
            f"the trained network reads {', '.join(inner.schema.features)}; give the stream the same features, "
            "numeric and categorical ones each in the same order"
        )
    state = {
        name: tensor
        for name, tensor in tensors_of(config.weights).items()
        if not (config.fresh and (belongs(name, config.trainable) or name in _OF_TARGET))
    }
    shapes = {name: tensor.shape for name, tensor in inner.state_dict().items()}
    misfits = sorted(name for name, tensor in state.items() if shapes.get(name) != tensor.shape)
    if misfits:
        raise UnsuitableModelError(
            f"{', '.join(misfits)} of the trained network do not fit: make them trainable and fresh, as another "
            "number of outputs needs another head"
        )
    inner.load_state_dict(state, strict=False)
    if config.fresh:
        inner.fit_target(train.target)
    return inner


def _inner_config(config: BackboneConfig) -> Any:
    kind: Any = CONFIGS.get(config.model)
    return config.arguments if kind is None else configured(kind, config.arguments)


def described(spec: Mapping[str, Any]) -> Model:
    """Return the network of a spec, with unset weights."""
    return load(spec["name"]).from_spec(spec)
