"""What every table of `cls.toml` is made of."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, StringConstraints

from cls.settings.toml_text import duration_text, parse_duration

Duration = Annotated[
    timedelta, BeforeValidator(parse_duration), PlainSerializer(duration_text, when_used="json")
]
OptionalDuration = Annotated[
    timedelta | None,
    BeforeValidator(parse_duration),
    PlainSerializer(duration_text, when_used="json-unless-none"),
]
OptionalPath = Annotated[Path | None, Field(strict=False)]
Names = Annotated[tuple[str, ...], Field(strict=False)]
Address = Annotated[str, StringConstraints(pattern=r"^[^\s:/]+:\d{1,5}$|^\[[0-9A-Fa-f:]+\]:\d{1,5}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
Share = Annotated[float, Field(ge=0, lt=1)]
Confidence = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


def hours(number: float) -> timedelta:
    """Return that many hours as a duration."""
    return timedelta(hours=number)


class Table(BaseModel):
    """A TOML table: frozen, and without keys that nobody knows."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        populate_by_name=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )
