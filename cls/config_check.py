"""`cls config check`: every fault at once, with names of models and recipes, cron expressions and the disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cls.config import Config, StreamConfig, read_config
from cls.config_faults import Fault, Key, nearest
from learners.advice import cannot_work
from learners.models.network_config import NetworkConfig
from learners.models.registry import CONFIGS, known
from learners.recipe import Recipe
from learners.recipes import known as known_recipes
from learners.schema import Schema


def check_config(path: Path | None = None) -> list[Fault]:
    """Return everything that is wrong with a configuration, in the order of its lines.

    Parameters
    ----------
    path
        The file; by default $CLS_CONFIG, or ./cls.toml.
    """
    config, faults, document = read_config(path)
    if config is not None:
        found = (document.fault(key, message) for key, message in _outer_faults(config))
        faults += [fault for fault in found if not document.covers(faults, fault)]
    return sorted(faults, key=lambda fault: (fault.line or 0, fault.place))


def advise(path: Path | None = None) -> list[Fault]:
    """Return what a configuration asks for that cannot work, in the order of its streams; one with faults gets no advice.

    Parameters
    ----------
    path
        The file; by default $CLS_CONFIG, or ./cls.toml.
    """
    config, faults, document = read_config(path)
    if config is None or faults or any(_outer_faults(config)):
        return []
    return [
        document.fault(("streams", name, "update", "recipe"), sentence)
        for name, stream in config.streams.items()
        for sentence in cannot_work(
            dataclasses.replace(known_recipes()[stream.update.recipe], **stream.update.overrides),
            Schema(
                stream.columns.numeric_features,
                stream.columns.categorical_features,
                stream.task,
                stream.columns.classes,
            ),
        )
    ]


def _outer_faults(config: Config) -> Iterator[tuple[Key, str]]:
    models = known(config.models)
    for name, stream in config.streams.items():
        for rule in (_model(stream, models), _recipe(stream), _schedule(stream), _disk(stream)):
            for key, message in rule:
                yield ("streams", name, *key), message
    for name in config.models:
        if models[name] != config.models[name]:
            yield ("models", name), f"{name!r} already names {models[name]}"


def _model(stream: StreamConfig, models: Mapping[str, str]) -> Iterator[tuple[Key, str]]:
    name = stream.model.name
    if name not in models:
        yield ("model", "name"), f"no model is called {name!r}{nearest(name, list(models))}"
    if name not in CONFIGS:  # the arguments of other models are their own affair, until they are built
        return
    arguments: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in stream.model.arguments.items()
    }
    faults = list(_fields(("model", "arguments"), CONFIGS[name](), arguments))
    yield from faults
    config = None if faults else CONFIGS[name](**arguments)
    if isinstance(config, NetworkConfig):
        yield from _network(stream, config)


def _network(stream: StreamConfig, config: NetworkConfig) -> Iterator[tuple[Key, str]]:
    columns = stream.columns
    if columns.categorical_features:
        names = ", ".join(columns.categorical_features)
        text = f"model {stream.model.name!r} reads numeric features alone: leave {names} out, or use model 'tabular'"
        yield ("model", "name"), text
        return
    try:
        config.check_features(len(columns.numeric_features))
    except ValueError as error:
        yield ("model", "arguments"), str(error)


def _recipe(stream: StreamConfig) -> Iterator[tuple[Key, str]]:
    name = stream.update.recipe
    recipes = known_recipes()
    if name not in recipes:
        yield ("update", "recipe"), f"no recipe is called {name!r}{nearest(name, list(recipes))}"
    recipe = recipes.get(name, Recipe())
    faults = list(_fields(("update", "overrides"), recipe, stream.update.overrides))
    yield from faults
    try:
        dataclasses.replace(recipe, **({} if faults else stream.update.overrides))
    except ValueError as error:  # of fields that exclude each other
        yield ("update", "overrides"), str(error)


def _fields(key: Key, default: Any, arguments: Mapping[str, Any]) -> Iterator[tuple[Key, str]]:
    """Try each argument by itself on a frozen dataclass, so that one fault does not hide another."""
    names = [field.name for field in dataclasses.fields(default)]
    for name, value in arguments.items():
        if name not in names:
            yield (*key, name), f"unknown key{nearest(name, names)}"
            continue
        try:
            dataclasses.replace(default, **{name: value})
        except (ValueError, TypeError) as error:
            text = str(error) if isinstance(error, ValueError) else f"a value of the wrong type: {value!r}"
            yield (*key, name), text


def _schedule(stream: StreamConfig) -> Iterator[tuple[Key, str]]:
    if stream.update.schedule:
        from apscheduler.triggers.cron import CronTrigger

        try:
            CronTrigger.from_crontab(stream.update.schedule, timezone="UTC")
        except ValueError as error:
            yield ("update", "schedule"), f'not a cron expression like "0 3 * * *": {error}'


def _disk(stream: StreamConfig) -> Iterator[tuple[Key, str]]:
    path = stream.source.path
    if stream.source.kind == "file" and path is not None and not path.exists():
        yield ("source", "path"), f"there is no {path}"
