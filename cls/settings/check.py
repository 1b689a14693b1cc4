"""`cls config check`: every fault at once, with names of models and recipes, cron expressions and the disk."""

from __future__ import annotations

import dataclasses
import re
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cls.config import Config, StreamConfig, read_config
from cls.doors.addresses import is_loopback
from cls.settings.faults import Fault, Key, nearest
from cls.settings.toml_text import duration_text
from cls.settings.webhooks import webhook_faults
from learners.advice import cannot_work
from learners.models.backbone_config import BackboneConfig, belongs
from learners.models.lora_config import LoraConfig
from learners.models.network_config import NetworkConfig
from learners.models.registry import CONFIGS, known
from learners.recipe import Recipe
from learners.recipe_check import misfits
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
    """Return what a configuration asks for that cannot work or is not safe, stream by stream; one with faults gets no advice.

    Parameters
    ----------
    path
        The file; by default $CLS_CONFIG, or ./cls.toml.
    """
    config, faults, document = read_config(path)
    if config is None or faults or any(_outer_faults(config)):
        return []
    doors = [document.fault(("http", name), sentence) for name, sentence in open_doors(config)]
    doors += [document.fault(("webhooks", name, "url"), sentence) for name, sentence in _inward(config)]
    return doors + [
        document.fault(("streams", name, *key), sentence)
        for name, stream in config.streams.items()
        for key, sentence in (*_advice(stream), *_adapters(stream), *_late(stream))
    ]


def open_doors(config: Config) -> Iterator[tuple[str, str]]:
    """Yield (field of `[http]`, sentence) of what other machines reach without protection; behind a proxy with TLS that is as it should be."""
    http = config.http
    for name in ("ingest", "serve"):
        if http.tls_certificate is None and not is_loopback(getattr(http, name)):
            text = "tokens and data can be read on their way: set tls_certificate and tls_key, or put a proxy with TLS before it"
            yield name, text
    if not is_loopback(http.mlflow) and not config.mlflow.startswith(("http://", "https://", "databricks")):
        yield (
            "mlflow",
            "the MLflow UI asks nobody for a token: let it listen on 127.0.0.1, behind a proxy that does",
        )


def _inward(config: Config) -> Iterator[tuple[str, str]]:
    """Yield (webhook, sentence) of those that name an address which is not called unless that is allowed."""
    from cls.elsewhere.outbound import forbidden  # which loads an HTTP client

    for name, hook in config.webhooks.items():
        host = urlsplit(hook.url).hostname or ""
        try:
            reason = forbidden("127.0.0.1" if host == "localhost" else host)
        except ValueError:  # a name: what it resolves to is judged when it is called
            continue
        if reason is not None and not hook.allow_private:
            text = f"{host} is {reason} and is not called: set allow_private = true in [webhooks.{name}]"
            yield name, text


def _advice(stream: StreamConfig) -> Iterator[tuple[Key, str]]:
    """Yield what the recipe cannot do, at the field of `overrides` that is named first, else at the recipe."""
    overrides = stream.update.overrides
    recipe = dataclasses.replace(known_recipes()[stream.update.recipe], **overrides)
    columns = stream.columns
    schema = Schema(columns.numeric_features, columns.categorical_features, stream.task, columns.classes)
    for sentence in cannot_work(recipe, schema):
        field = next((word for word in re.findall(r"\w+", sentence) if word in overrides), None)
        yield ("update", "recipe") if field is None else ("update", "overrides", field), sentence


def _late(stream: StreamConfig) -> Iterator[tuple[Key, str]]:
    rollout, latest = stream.rollout, stream.detect.label_deadline
    if rollout.evidence == "labels" and rollout.deadline < latest:
        text = (
            f"labels may come {duration_text(latest)} after their events, and this ends before them: rollouts that wait for labels "
            'go back undecided. Make it longer, or set evidence = "guardrails"'
        )
        yield ("rollout", "deadline"), text


def _adapters(stream: StreamConfig) -> Iterator[tuple[Key, str]]:
    if stream.model.name != "lora":
        return
    config = LoraConfig(**_arguments(stream.model.arguments))
    if config.spec is None and config.model in CONFIGS and not belongs("head", config.trainable):
        text = (
            f"lora adapts a trained network: model {config.model!r} begins with random weights, and its head stays as it "
            'is. Use that model itself, or set arguments = { trainable = ["head"] }'
        )
        yield ("model", "name"), text


def _outer_faults(config: Config) -> Iterator[tuple[Key, str]]:
    yield from webhook_faults(config)
    for field in ("tls_certificate", "tls_key"):
        path = getattr(config.http, field)
        if path is not None and not path.is_file():
            yield ("http", field), f"there is no file {path}"
    yield from _tls(config)
    models = known(config.models)
    for name, stream in config.streams.items():
        for rule in (_model(stream, models), _recipe(stream), _schedule(stream), _disk(stream)):
            for key, message in rule:
                yield ("streams", name, *key), message
    for name in config.models:
        if models[name] != config.models[name]:
            yield ("models", name), f"{name!r} already names {models[name]}"


def _tls(config: Config) -> Iterator[tuple[Key, str]]:
    """Yield what is wrong with the certificate and its key, if both are there; a key with a passphrase is not opened."""
    certificate, key = config.http.tls_certificate, config.http.tls_key
    if certificate is None or key is None or not (certificate.is_file() and key.is_file()):
        return

    def no_passphrase() -> str:
        raise _LockedError

    try:
        ssl.create_default_context().load_verify_locations(certificate)
    except (ssl.SSLError, OSError) as error:
        yield ("http", "tls_certificate"), f"{certificate} holds no certificate in PEM: {error}"
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key, no_passphrase)
    except _LockedError:
        return
    except (ssl.SSLError, OSError) as error:
        which = "is not the key of that certificate" if "MISMATCH" in str(error) else "holds no key in PEM"
        yield ("http", "tls_key"), f"{key} {which}: {error}"


class _LockedError(Exception):
    """A key has a passphrase."""


def _model(stream: StreamConfig, models: Mapping[str, str]) -> Iterator[tuple[Key, str]]:
    name = stream.model.name
    if name not in models:
        yield ("model", "name"), f"no model is called {name!r}{nearest(name, list(models))}"
    yield from _network(stream, name, stream.model.arguments, ("model",), "name")


def _network(
    stream: StreamConfig, name: str, given: Mapping[str, Any], table: Key, field: str
) -> Iterator[tuple[Key, str]]:
    """Yield the faults of a network that is called `name` in a field of a table, which has its arguments, too."""
    if name not in CONFIGS:  # the arguments of other models are their own affair, until they are built
        return
    arguments = _arguments(given)
    key = (*table, "arguments")
    faults = list(_fields(key, CONFIGS[name](), arguments))
    yield from faults
    config = None if faults else CONFIGS[name](**arguments)
    if isinstance(config, NetworkConfig):
        yield from _reading(stream, name, config, table, field)
    elif isinstance(config, BackboneConfig) and config.spec is None:
        inner = known()  # names of `[models]` are not known inside
        if config.model not in inner:
            yield (*key, "model"), f"no model is called {config.model!r}{nearest(config.model, list(inner))}"
        yield from _network(stream, config.model, config.arguments, key, "model")


def _reading(
    stream: StreamConfig, name: str, config: NetworkConfig, table: Key, field: str
) -> Iterator[tuple[Key, str]]:
    columns = stream.columns
    if columns.categorical_features:
        names = ", ".join(columns.categorical_features)
        text = f"model {name!r} reads numeric features alone: leave {names} out, or use model 'tabular'"
        yield (*table, field), text
        return
    try:
        config.check_features(len(columns.numeric_features))
    except ValueError as error:
        yield (*table, "arguments"), str(error)


def _arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def _recipe(stream: StreamConfig) -> Iterator[tuple[Key, str]]:
    name = stream.update.recipe
    recipes = known_recipes()
    if name not in recipes:
        yield ("update", "recipe"), f"no recipe is called {name!r}{nearest(name, list(recipes))}"
    recipe = recipes.get(name, Recipe())
    for table in ("overrides", "bootstrap_overrides"):  # those of the first model go over the others
        key, overrides = ("update", table), getattr(stream.update, table)
        faults = list(_fields(key, recipe, overrides))
        yield from faults
        try:
            recipe = dataclasses.replace(recipe, **({} if faults else overrides))
        except ValueError as error:  # of fields that exclude each other
            yield key, str(error)
        for field, reason in misfits(recipe, stream.task):
            if field in overrides:
                yield (*key, field), reason
            elif table == "overrides":
                yield ("update", "recipe"), reason


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
