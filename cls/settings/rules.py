"""Faults that lie between fields: each one alone is right, together they are not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from cls.doors.addresses import is_loopback
from cls.settings.faults import Fault, Key
from detectors.derivation import KINDS

if TYPE_CHECKING:
    from cls.config import Config, StreamConfig

MakeFault = Callable[[Key, str], Fault]
LONGEST_RUN = 10**12  # rows between false alarms that `detectors.sequential` can keep
MOST_PANES = 100  # of a window: each is kept until it leaves the window
Found = Iterator[tuple[Key, str]]
_FEATURES = ("numeric", "categorical", *KINDS)  # fields that name features


def cross_faults(config: Config, fault: MakeFault) -> list[Fault]:
    """Return what is wrong between the fields of a configuration; `fault` knows the line of each key."""
    found = [fault(key, message) for rule in (_service, _doors) for key, message in rule(config)]
    for name, stream in config.streams.items():
        for rule in (_columns, _roles, _classes, _source, _update, _detection, _apart, _sizes):
            found += [fault(("streams", name, *key), message) for key, message in rule(stream)]
    return found


def _service(config: Config) -> Found:
    worker = config.worker
    if worker.heartbeat_seconds * 2 > worker.lease_seconds:
        yield (
            ("worker", "heartbeat_seconds"),
            "must be at most half of lease_seconds, or a late one loses the job",
        )
    for name, address in (
        ("ingest", config.http.ingest),
        ("serve", config.http.serve),
        ("mlflow", config.http.mlflow),
    ):
        if int(address.rpartition(":")[2]) > 65535:
            yield ("http", name), f"there is no port {address.rpartition(':')[2]}"
    taken = Counter((config.http.ingest, config.http.serve, config.http.mlflow))
    if taken[config.http.ingest] > 1:
        yield ("http", "ingest"), f"{config.http.ingest} is used twice"
    elif taken[config.http.serve] > 1:
        yield ("http", "serve"), f"{config.http.serve} is used twice"
    if config.serve.batch_delay_ms >= config.serve.deadline_ms:
        yield (
            ("serve", "batch_delay_ms"),
            "must be below deadline_ms, or whatever waits for company is refused",
        )
    if config.database_url and config.database_url == config.mlflow_uri:
        yield ("mlflow_uri",), "MLflow needs a database of its own: it has tables named like ours"
    for name, address in config.models.items():
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", address):
            yield ("models", name), f'must be "package.module:Class", not {address!r}'


def _doors(config: Config) -> Found:
    http = config.http
    if (http.tls_certificate is None) != (http.tls_key is None):
        there, missing = ("tls_key", "tls_certificate") if http.tls_key else ("tls_certificate", "tls_key")
        yield ("http", missing), f"missing: {there} alone makes no TLS"
    for origin in http.origins:
        if not re.fullmatch(r"https?://[^\s/*@?#]+", origin):
            yield ("http", "origins"), f'must be like "https://ops.example.org", not {origin!r}'
    if http.hosts and not http.require_tokens and any(map(is_loopback, (http.ingest, http.serve))):
        reason = "needs require_tokens = true: who comes by a proxy to the loopback is not asked for a token otherwise"
        yield ("http", "hosts"), reason
    for host in http.hosts:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+|[0-9A-Fa-f:]+", host):
            yield ("http", "hosts"), f'must be names without a port, like "cls.example.org", not {host!r}'


def _columns(stream: StreamConfig) -> Found:
    schema = stream.columns
    raw = schema.raw_features
    if not raw:
        yield ("schema", "numeric"), "no features: name the columns in numeric and categorical"
    for name, number in Counter(raw).items():
        if number > 1:
            where = [field for field in _FEATURES if name in getattr(schema, field)][-1]
            yield ("schema", where), f"{name!r} is named {number} times among the features"
    for column in schema.derivations:
        for name in column.names:
            if name in raw and name != column.name:
                yield (
                    ("schema", column.kind),
                    f"{name!r} is derived from {column.name!r}, but is a feature already",
                )


def _roles(stream: StreamConfig) -> Found:
    schema = stream.columns
    raw = schema.raw_features
    if schema.target in raw:
        yield (
            ("schema", "target"),
            f"{schema.target!r} is also a feature: the model would read its own answer",
        )
    if schema.label_time and schema.label_time in raw:
        yield ("schema", "label_time"), f"{schema.label_time!r} is also a feature, but not known in time"
    if schema.key == schema.target:
        yield ("schema", "key"), f"{schema.key!r} is also the target"
    if schema.event_time == schema.target:
        yield ("schema", "event_time"), f"{schema.event_time!r} is also the target"


def _classes(stream: StreamConfig) -> Found:
    classes = stream.columns.classes
    if stream.task == "classification" and len(set(classes)) < 2:
        yield ("schema", "classes"), "classification needs the values of the target, two or more"
    elif stream.task == "regression" and classes:
        yield ("schema", "classes"), 'only for task = "classification"'
    elif len(set(classes)) < len(classes):
        yield ("schema", "classes"), "a class is named twice"


def _source(stream: StreamConfig) -> Found:
    source = stream.source
    if source.kind == "file" and source.path is None:
        yield ("source", "path"), 'missing: kind = "file" reads from a path'
    if source.kind == "inbox" and source.path is not None:
        yield ("source", "path"), 'only for kind = "file"'


def _update(stream: StreamConfig) -> Found:
    update = stream.update
    if update.cadence == "every" and update.every_rows is None and update.every is None:
        yield ("update", "cadence"), '"every" needs every_rows or every beside it'
    if update.cadence != "every":
        for name in ("every_rows", "every"):
            if getattr(update, name) is not None:
                yield ("update", name), f'only for cadence = "every", not "{update.cadence}"'
    if update.every is not None and update.every <= timedelta():
        yield ("update", "every"), "must be above zero"


def _detection(stream: StreamConfig) -> Found:
    detect = stream.detect
    if detect.reference_rows < detect.bins * 10:
        yield (
            ("detect", "reference_rows"),
            f"{detect.bins} bins need a reference of {detect.bins * 10} rows or more",
        )
    if detect.slide_rows is not None and detect.window_rows % detect.slide_rows:
        yield ("detect", "slide_rows"), f"must divide window_rows = {detect.window_rows}"
    elif detect.panes > MOST_PANES:
        least = -(-detect.window_rows // MOST_PANES)
        yield ("detect", "slide_rows"), f"must be {least} or more: a window has at most {MOST_PANES} panes"
    run_length = detect.false_alarm_windows * detect.watches * detect.window_rows
    if detect.sequential and run_length > LONGEST_RUN:
        most = LONGEST_RUN // (detect.watches * detect.window_rows)
        yield (
            ("detect", "false_alarm_windows"),
            f"must be {most} or less with sequential: row by row, false alarms can be at most {LONGEST_RUN:.0e} rows apart",
        )
    if detect.label_deadline <= timedelta():
        yield ("detect", "label_deadline"), "must be above zero"


def _apart(stream: StreamConfig) -> Found:
    """What detection cannot do at once."""
    detect, seasonal = stream.detect, f'not with season = "{stream.detect.season}"'
    if detect.season != "none" and detect.pairs:
        yield ("detect", "pairs"), f"{seasonal}: a changed mix of seasons looks like a changed pair"
    if detect.season != "none" and detect.sequential:
        yield ("detect", "sequential"), f"{seasonal}: row by row, a season is a change"
    if detect.sequential and detect.false_alarms_per_month is not None:
        reason = "not with sequential: row by row, the budget is one of false_alarm_windows"
        yield ("detect", "false_alarms_per_month"), reason


def _sizes(stream: StreamConfig) -> Found:
    gate, rollout = stream.gate, stream.rollout
    if gate.fresh_rows < gate.min_rows:
        yield ("gate", "fresh_rows"), f"is below min_rows = {gate.min_rows}: no candidate could ever pass"
    if gate.retained_slices and gate.retained_rows < gate.min_rows:
        yield ("gate", "retained_rows"), f"is below min_rows = {gate.min_rows}: no candidate could ever pass"
    if rollout.deadline <= timedelta():
        yield ("rollout", "deadline"), "must be above zero"
    for before, after in pairwise(rollout.canary_steps):
        if after <= before:
            rising = sorted(set(rollout.canary_steps))
            yield ("rollout", "canary_steps"), f"must rise: {after} comes after {before}; write {rising}"
            break
