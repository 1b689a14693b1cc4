"""The commented `cls.toml` that `cls init` writes, made from the fields themselves so that it cannot go stale."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cls.config import Config, StreamConfig, WebhookConfig
from cls.settings.toml_text import toml_value

_HEAD = """\
# The configuration of CLS. Lines that begin with "# name =" show a default; remove the "# " to change it.
# `cls config check` tells every fault at once. Durations: "30m", "6h", "3d". Paths are relative to this file.
# Environment variables override: CLS_HOME, CLS_DATABASE_URL, CLS_MLFLOW_URI, and by path, as
# CLS__WORKER__SLOTS=2 or CLS__STREAMS__FLIGHTS__UPDATE__COOLDOWN=30m.
"""
_STREAM = """\
# One table per stream. `cls stream infer DATA` proposes it from a file; append what it prints.
# This one is an example, and not active.
"""
_EXAMPLE: dict[str, dict[str, Any]] = {
    "": {"task": "regression"},
    "schema": {
        "numeric": ("distance", "wind_speed"),
        "categorical": ("carrier", "origin"),
        "key": "id",
        "event_time": "scheduled_at",
        "target": "air_time",
    },
}
_UNSET: dict[str, Any] = {
    "false_alarms_per_month": 1.0,
    "nats": 0.1,
    "slide_rows": 200,
    "every_rows": 1000,
    "every": timedelta(days=1),
    "device_seconds_per_1k_passes": 0.05,
    "path": "data/",
    "requests_per_second": 500.0,
    "tls_certificate": "certificate.pem",
    "tls_key": "key.pem",
}
_COMMENT_COLUMN = 44


def config_template() -> str:
    """Return a `cls.toml` in which every field stands with its default, commented out."""
    lines = [_HEAD, *_fields(Config, {})]
    lines += ["", "# [models]", '# mine = "mypackage.models:MyModel"  # models of yours, by name']
    lines += ["", "# [webhooks.ops]  # whom to tell what happens"]
    lines += _fields(
        WebhookConfig, {"url": "https://ops.example.org/cls", "secret_env": "CLS_WEBHOOK_SECRET"}
    )
    for name, table in _tables(Config):
        lines += ["", f"[{name}]  # {_first_line(table)}", *_fields(table, {})]
    lines += ["", _STREAM.rstrip(), "#", "# [streams.example]", *_fields(StreamConfig, _EXAMPLE[""])]
    for name, table in _tables(StreamConfig):
        lines += [
            "#",
            f"# [streams.example.{name}]  # {_first_line(table)}",
            *_fields(table, _EXAMPLE.get(name, {})),
        ]
    return "\n".join(lines) + "\n"


def _tables(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield field.alias or name, field.annotation


def _fields(model: type[BaseModel], example: dict[str, Any]) -> Iterator[str]:
    tables = [name for name, _ in _tables(model)]
    for name, field in model.model_fields.items():
        if name not in ("streams", "models", "webhooks") and (field.alias or name) not in tables:
            assignment = f"# {name} = {toml_value(_shown(name, field, example))}"
            yield f"{assignment:<{_COMMENT_COLUMN}}  # {field.description}{_remark(field)}"


def _shown(name: str, field: FieldInfo, example: dict[str, Any]) -> Any:
    if name in example:
        return example[name]
    default = field.get_default(call_default_factory=True)
    return _UNSET[name] if default is None else default


def _remark(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal and len(get_args(field.annotation)) > 2:
        return f" ({' | '.join(get_args(field.annotation))})"
    return "; unset by default" if not field.is_required() and field.default is None else ""


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").splitlines()[0]
