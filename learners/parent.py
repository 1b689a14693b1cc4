"""What a new network takes from the parent that it replaces: what it reads, which it is, and how it is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from learners.checkpoint import Checkpoint, restore_model
from learners.learner import Learner
from learners.models.network import Network
from learners.models.tabular import TabularNetwork
from learners.schema import Schema


class Described(NamedTuple):
    """Schema, registered name and configuration of a network."""

    schema: Schema
    model: str
    config: Any


def described(
    parent: Checkpoint | Learner | None,
    schema: Schema | None,
    model: str | None,
    config: Any,
    models: Mapping[str, str],
) -> Described:
    """Return what a new network is: as given, and for the rest as the parent's; without a parent `tabular` by its defaults.

    Raises
    ------
    ValueError
        If neither says what it reads; or if the parent's network cannot be built anew from its spec, as its weights are not trained here.
    """
    if parent is None or (schema is not None and model is not None):
        if schema is None:
            raise ValueError(
                "schema: a new network needs one: pass schema=Schema(numeric=(...), categorical=(...))"
            )
        return Described(schema, model or "tabular", config)
    network = parent.model if isinstance(parent, Learner) else restore_model(parent, models)
    schema = schema or network.schema
    if model is not None:
        return Described(schema, model, config)
    spec = network.spec()
    if config is None:
        if isinstance(network, Network):
            config = {**spec["arguments"], "scale": spec["scale"]}
        elif isinstance(network, TabularNetwork):
            config = spec["config"]
        else:
            raise ValueError(
                f"model: a network {spec['name']!r} is not built anew from its spec alone: pass model= and config= to a fresh recipe"
            )
    return Described(schema, spec["name"], config)
