"""The tables of one stream in `cls.toml`: its source, schema, model, and how each stage treats it."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field

from cls.settings.tables import (
    Confidence,
    Count,
    Duration,
    Names,
    OptionalDuration,
    OptionalPath,
    Share,
    Table,
    hours,
)
from detectors.derivation import LONGEST, Derivation, derivations_of


class SourceConfig(Table):
    """Where events come from."""

    kind: Literal["inbox", "file"] = Field("inbox", description="inbox (HTTP) or file")
    path: OptionalPath = Field(None, description="for file: a file, or a directory to which files are added")
    pattern: str = Field(
        "*", min_length=1, description="for a directory: glob of the file names to read, in name order"
    )
    format: Literal["auto", "parquet", "csv", "ndjson"] = Field(
        "auto", description="auto goes by the file's suffix"
    )
    idle_timeout: Duration = Field(
        hours(0),
        description="without data for this long the stream's time follows the clock; 0s: never (duration)",
    )
    batch_rows: Count = Field(1000, description="rows that are taken in by one transaction, at most")


class SchemaConfig(Table):
    """What a row consists of."""

    numeric: Names = Field((), description="feature columns with numbers")
    categorical: Names = Field((), description="feature columns with categories")
    boolean: Names = Field((), description="feature columns with true or false")
    timestamp: Names = Field((), description="feature columns with times: hour and weekday are learned from")
    text: Names = Field((), description="feature columns with free text: its size, make-up and a word")
    embedding: dict[str, Annotated[int, Field(ge=1, le=LONGEST)]] = Field(
        default_factory=dict,
        description="feature columns with lists of numbers, and how many: { title_vector = 384 }",
    )
    key: str = Field(min_length=1, description="column that identifies an event; labels come by it")
    event_time: str = Field(min_length=1, description="column with the time of the event")
    target: str = Field(min_length=1, description="column to predict")
    label_time: str = Field(
        "", description="column with the time at which the label became known; empty: event time"
    )
    group: str = Field("", description="column whose hash gives a row its role for ever; empty: the key")
    classes: Names = Field((), description="classification: the values of the target, in order")

    @property
    def raw_features(self) -> tuple[str, ...]:
        """Names of the columns that senders fill, in the order of the fields."""
        return self.numeric + self.categorical + tuple(column.name for column in self.derivations)

    @property
    def derivations(self) -> tuple[Derivation, ...]:
        """The typed columns, each with the plain ones that are derived from it at the border."""
        return derivations_of(self)

    @property
    def numeric_features(self) -> tuple[str, ...]:
        """Names of the model's numeric inputs, derived ones after the others."""
        return self.numeric + tuple(name for column in self.derivations for name in column.numeric)

    @property
    def categorical_features(self) -> tuple[str, ...]:
        """Names of the model's categorical inputs, derived ones after the others."""
        return self.categorical + tuple(name for column in self.derivations for name in column.categorical)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the model's inputs, as the log has them: numeric, then categorical."""
        return self.numeric_features + self.categorical_features


class ModelConfig(Table):
    """What is trained."""

    name: str = Field("tabular", min_length=1, description="name of a built-in, installed or [models] model")
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="arguments of the model's configuration"
    )


class DetectConfig(Table):
    """When a window counts as drift."""

    window_rows: int = Field(1000, ge=50, description="rows per window")
    bins: int = Field(16, ge=2, le=256, description="quantile bins per numeric feature")
    categories: int = Field(32, ge=1, le=4096, description="most frequent categories with a bin of their own")
    reference_rows: int = Field(10000, ge=100, description="rows of the reference regime, at most")
    false_alarm_windows: int = Field(
        1000,
        ge=2,
        description="windows without drift per false alarm, on average, of all detectors but that of errors",
    )
    false_alarms_per_month: float | None = Field(
        None,
        gt=0,
        description="false alarms without drift in 30 days of stream time, on average, instead of by windows",
    )
    nats: float | None = Field(
        None, gt=0, description="fixed threshold in nats instead of the calibrated one"
    )
    tolerance: float = Field(
        0.005,
        ge=0,
        description="drift of a feature, in nats, below which nothing alarms; a mean that moves by a tenth of a standard deviation is 0.005",
    )
    season: Literal["none", "hour", "weekday", "hour_of_week"] = Field(
        "none",
        description="compare rows with the reference's of the same hour, weekday or hour of the week (UTC)",
    )
    slide_rows: int | None = Field(
        None,
        ge=1,
        description="rows after which the next window begins, a divisor of window_rows; without it windows follow each other",
    )
    pairs: bool = Field(
        False,
        description="watch pairs of features as well, for changes that no single one shows; they get half of the inputs' budget",
    )
    sequential: bool = Field(
        False,
        description="watch row by row as well: an e-detector, which finds abrupt changes within a window",
    )
    score_method: Literal["adwin", "page_hinkley", "kswin", "hddm_a", "hddm_w", "none"] = Field(
        "adwin", description="detector on the champion's errors"
    )
    score_pane_rows: Count = Field(200, description="labelled rows per point of the error series")
    score_delta: Confidence = Field(0.002, description="significance of the error detector (probability)")
    coverage: float = Field(0.9, gt=0, le=1, description="share of labels at which a score window closes")
    report: bool = Field(True, description="make a report with plots for each episode of drift")
    label_deadline: Duration = Field(
        hours(72),
        description="time after the event at which a missing label counts as never coming (duration)",
    )
    watch_outputs: bool = Field(
        True, description="watch the champion's predictions, and labels, for drift like the inputs"
    )

    @property
    def panes(self) -> int:
        """Panes that make a window: one if windows do not overlap."""
        return 1 if self.slide_rows is None else self.window_rows // self.slide_rows

    @property
    def watches(self) -> int:
        """Detectors that share the budget of false alarms: of inputs, by window and by row, of predictions and of labels."""
        return 1 + self.sequential + 2 * self.watch_outputs

    @property
    def label_rows(self) -> int:
        """Labels at which a window of `window_rows` counts as covered."""
        return math.ceil(self.coverage * self.window_rows)


class UpdateConfig(Table):
    """When an update is worth its cost, and how it is made."""

    cadence: Literal["drift", "every", "continuous", "never"] = Field(
        "drift", description="what calls for an update"
    )
    every_rows: int | None = Field(
        None, ge=1, description='for cadence "every": labelled rows between updates'
    )
    every: OptionalDuration = Field(
        None, description='for cadence "every": stream time between updates (duration)'
    )
    min_rows: Count = Field(
        1000, description="labelled rows, since the last attempt or the drift, before an update is worth it"
    )
    cooldown: Duration = Field(hours(1), description="stream time between two updates, at least (duration)")
    budget_device_seconds_per_day: float = Field(
        3600.0, gt=0, description="hard limit on device-seconds per day of stream time"
    )
    budget_burst_days: float = Field(
        7.0, gt=0, description="unspent budget that is carried over, in days' worth of it"
    )
    latency: Duration = Field(
        hours(0), description="stream time charged per update, for replays and backtests (duration)"
    )
    device_seconds_per_1k_passes: float | None = Field(
        None,
        gt=0,
        description="fixed price in device-seconds per 1,000 sample passes, instead of the measured one",
    )
    recipe: str = Field("ewc+replay", min_length=1, description="name of the learning recipe")
    overrides: dict[str, Any] = Field(default_factory=dict, description="fields of the recipe to change")
    bootstrap_overrides: dict[str, Any] = Field(
        default_factory=lambda: {"epochs": 10.0},
        description="further fields of the recipe to change for the first model",
    )
    schedule: str = Field(
        "", description='cron expression (UTC) of scheduled updates, as "0 3 * * *"; empty: none'
    )
    bootstrap_rows: Count = Field(5000, description="labelled rows at which the first model is trained")
    redeploy_margin: Share = Field(
        0.1,
        description="an old version is redeployed if its loss is better than the champion's by this share",
    )
    seed: int = Field(0, ge=0, description="seed of everything random in training")
    threads: Count = Field(1, description="CPU threads of one training; part of its result's determinism")


class GateConfig(Table):
    """What a candidate must show before anybody sees it."""

    fresh_rows: Count = Field(4000, description="newest labelled rows whose gate rows (a tenth) are compared")
    retained_rows: Count = Field(
        2000, description="labelled rows of an earlier regime whose gate rows (a tenth) are compared"
    )
    retained_slices: int = Field(5, ge=0, description="slices of earlier regimes")
    margin: Share = Field(0.05, description="relative loss on fresh rows that a candidate may lose")
    retained_margin: Share = Field(
        0.2, description="relative loss on a retained slice that a candidate may lose"
    )
    confidence: Confidence = Field(0.95, description="confidence of the intervals")
    min_rows: int = Field(50, ge=2, description="rows below which a slice is inconclusive")


class RolloutConfig(Table):
    """How a candidate becomes champion, and how it is watched."""

    light: bool = Field(
        True, description="light updates go from the gate to champion at once, and are watched"
    )
    evidence: Literal["labels", "guardrails"] = Field(
        "labels",
        description="what promotes: labelled rows on which it is not worse, or guardrails alone, for labels that never come in time",
    )
    shadow_rows: Count = Field(
        500, description="rows that a shadow must be compared on; labelled ones, if labels promote"
    )
    canary_steps: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.05, 0.25),
        strict=False,
        description="shares of the keys that a canary answers, step by step; empty: no canary",
    )
    step_rows: Count = Field(200, description="further rows that each step of a canary must be compared on")
    step_time: Duration = Field(hours(0), description="stream time that each stage takes at least (duration)")
    approval: Literal["none", "canary", "champion", "both"] = Field(
        "none", description="stages that wait for `cls rollout approve`"
    )
    margin: Share = Field(0.05, description="relative loss that a version may lose and still go on")
    confidence: Confidence = Field(0.95, description="confidence with which it must be not worse to go on")
    deadline: Duration = Field(
        hours(72),
        description="stream time of the whole rollout, after which it goes back if it is undecided (duration)",
    )
    false_alarm: Confidence = Field(
        0.01,
        description="probability of ever sending a version back that is as good (labels and guardrails together), if rows depend on about ten neighbours at most",
    )
    error_ratio: float = Field(
        2.0,
        ge=1,
        description="errors per row, or answers that are no number, at which a version goes back, over the champion's",
    )
    latency_margin: float = Field(
        0.5, ge=0, description="relative excess over the champion's p99 latency at which a version goes back"
    )
    drift_nats: float = Field(
        0.5,
        gt=0,
        description="divergence of its predictions from the champion's, in nats, at which a version goes back",
    )
    watch_rows: int = Field(1000, ge=0, description="labelled rows for which a new champion is watched")
    watch_time: Duration = Field(
        hours(0), description="stream time for which it is watched at least (duration)"
    )
    watch_margin: Share = Field(
        0.05, description="relative loss over its predecessor at which it is rolled back"
    )


class StreamConfig(Table):
    """One stream and its model."""

    task: Literal["regression", "classification"] = Field(description="regression or classification")
    priority: Literal["critical", "high", "normal", "low"] = Field("normal", description="business priority")
    source: SourceConfig = Field(default_factory=SourceConfig)
    columns: SchemaConfig = Field(alias="schema")
    model: ModelConfig = Field(default_factory=ModelConfig)
    detect: DetectConfig = Field(default_factory=DetectConfig)
    update: UpdateConfig = Field(default_factory=UpdateConfig)
    gate: GateConfig = Field(default_factory=GateConfig)
    rollout: RolloutConfig = Field(default_factory=RolloutConfig)
