"""Models by name. Torch-free until a model is loaded.

Artifacts carry the name, never the import path: what a name means is decided by what is installed here.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING

from learners.errors import UnknownModelError
from learners.models.backbone_config import BackboneConfig
from learners.models.cnn_config import CnnConfig
from learners.models.lora_config import LoraConfig
from learners.models.mlp_config import MlpConfig
from learners.models.network_config import NetworkConfig
from learners.models.tabular_config import TabularConfig
from learners.models.transformer_config import TransformerConfig

if TYPE_CHECKING:
    from learners.models.base import Model

GROUP = "cls.models"
BUILT_IN: Mapping[str, str] = MappingProxyType(
    {
        "tabular": "learners.models.tabular:TabularNetwork",
        "mlp": "learners.models.mlp:Mlp",
        "cnn": "learners.models.cnn:Cnn",
        "transformer": "learners.models.transformer:Transformer",
        "backbone": "learners.models.backbone:Backbone",
        "lora": "learners.models.lora:Lora",
    }
)
CONFIGS: Mapping[str, type[TabularConfig | NetworkConfig | BackboneConfig]] = MappingProxyType(
    {  # what checks a built-in's arguments
        "tabular": TabularConfig,
        "mlp": MlpConfig,
        "cnn": CnnConfig,
        "transformer": TransformerConfig,
        "backbone": BackboneConfig,
        "lora": LoraConfig,
    }
)
NO_EXTRA: Mapping[str, str] = MappingProxyType({})


def known(extra: Mapping[str, str] = NO_EXTRA) -> dict[str, str]:
    """Return "module:Class" by name; a built-in wins over an entry point, and that over `extra`."""
    return {**extra, **_installed(), **BUILT_IN}


@cache
def _installed() -> Mapping[str, str]:
    """Return what installed distributions bring; reading their metadata takes milliseconds, and they do not change."""
    return {point.name: point.value for point in entry_points(group=GROUP)}


def address(name: str, extra: Mapping[str, str] = NO_EXTRA) -> str:
    """Return "module:Class" of the model called `name`.

    Parameters
    ----------
    name
        Name of the model.
    extra
        The operator's own mapping from name to "module:Class".

    Raises
    ------
    UnknownModelError
        Naming the nearest known one.
    """
    models = known(extra)
    if name not in models:
        near = difflib.get_close_matches(name, models, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(models))}"
        raise UnknownModelError(f"no model is called {name!r}; {hint}")
    return models[name]


def load(name: str, extra: Mapping[str, str] = NO_EXTRA) -> type[Model]:
    """Import and return the class of the model called `name`; one that is no `Model` comes wrapped in a `Network`.

    Raises
    ------
    UnknownModelError
        If nothing bears the name, or what bears it cannot be imported or called.
    """
    return _imported(name, address(name, extra))


@cache
def _imported(name: str, place: str) -> type[Model]:
    module, _, attribute = place.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UnknownModelError(
            f"model {name!r} should be {place}, but {error}: is the address right?"
        ) from error
    from learners.models.base import Model
    from learners.models.network import wrapping

    if isinstance(found, type) and issubclass(found, Model):
        return found
    if not callable(found):
        raise UnknownModelError(f"model {name!r} is {place}, which is no class; name a torch.nn.Module")
    config = CONFIGS.get(name)
    return wrapping(name, found, config if config and issubclass(config, NetworkConfig) else None)
