"""`cls stream infer DATA`: propose a stream's schema from a file, with a reason for every column."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cls.infer_read import read_sample
from cls.settings.toml_text import toml_key, toml_value
from detectors.derivation import KINDS, Kind

if TYPE_CHECKING:
    import pyarrow as pa

_CODES = 20  # whole numbers with at most this many different values are read as codes
_TEXT = 1000  # strings with more different values than this, and half of the rows, are text or identifiers
_WORDS = 3.0  # words in a text on average; fewer make an identifier
_EMBEDDING = 4  # numbers in an embedding, at least
_LOOK = 1000  # lists that are looked at for their length
_TARGET = re.compile(
    r"^(y|label|target|class|outcome|response|truth|ground_truth)$|_(label|target|outcome)$", re.IGNORECASE
)
_KEY = re.compile(r"^(id|key|uuid|guid|event_id|row_id)$|_(id|key|uuid)$", re.IGNORECASE)
_TIME = re.compile(r"time|date|^ts$|_at$|_ts$", re.IGNORECASE)
_LABEL_TIME = re.compile(r"label|outcome|known|landed|resolved|settled|closed|arriv", re.IGNORECASE)


@dataclass(frozen=True)
class InferredStream:
    """A proposed schema. Fields that nothing was found for are empty; the reason says so."""

    path: Path
    rows: int  # rows that were looked at
    task: Literal["regression", "classification"]
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    boolean: tuple[str, ...]
    timestamp: tuple[str, ...]
    text: tuple[str, ...]
    embedding: dict[str, int]  # length by name
    key: str
    event_time: str
    target: str
    label_time: str = ""
    classes: tuple[str, ...] = ()
    reasons: dict[str, str] = field(
        default_factory=dict
    )  # by column, or by the field that nothing was found for

    def to_toml(self, name: str) -> str:
        """Return the tables of a stream of that name, to be appended to `cls.toml`."""
        source = {"kind": "file", "path": str(self.path)}
        schema: dict[str, Any] = {"numeric": self.numeric, "categorical": self.categorical}
        schema |= {kind: getattr(self, kind) for kind in KINDS if getattr(self, kind)}
        schema |= {"key": self.key, "event_time": self.event_time, "target": self.target}
        schema |= {"label_time": self.label_time} if self.label_time else {}
        schema |= {"classes": self.classes} if self.classes else {}
        table = f"streams.{toml_key(name)}"
        lines = [
            f"# Proposed from {self.rows} rows of {self.path.name}; look at the reasons, then change what is wrong."
        ]
        lines += [f"#   {column}: {reason}".replace("\n", " ") for column, reason in self.reasons.items()]
        lines += [f"[{table}]", f"task = {toml_value(self.task)}", "", f"[{table}.source]"]
        lines += [f"{key} = {toml_value(value)}" for key, value in source.items()]
        lines += ["", f"[{table}.schema]"]
        lines += [f"{key} = {toml_value(value)}" for key, value in schema.items()]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Column:
    """What a sample shows about one column."""

    name: str
    kind: Literal["number", "integer", "string", "bool", "time", "list", "other"]
    rows: int
    nulls: int
    distinct: int  # different values, without null
    rising: float  # share of steps that do not go back (times only)
    words: float = 0.0  # on average (strings only)
    length: int = 0  # numbers in each (lists of numbers that are equally long only)

    @property
    def unique(self) -> bool:
        """Whether it could identify a row."""
        return self.nulls == 0 and self.rows > 1 and self.distinct == self.rows

    @property
    def coded(self) -> bool:
        """Whether its whole numbers look like codes rather than amounts."""
        return self.kind == "integer" and self.distinct <= min(_CODES, max(2, self.rows // 20))


def infer_schema(path: Path, *, target_too: bool = False) -> InferredStream:
    """Propose the schema of a stream from the beginning of a file.

    Parameters
    ----------
    path
        A Parquet, CSV or NDJSON file, or a directory of them (then the first one by name is read).
    target_too
        Whether the target is a feature as well: for those who look at a file and predict nothing.

    Raises
    ------
    BadData
        When it cannot be read, or holds no rows.
    """
    table = read_sample(path)
    columns = {name: _look(name, table.column(name)) for name in table.column_names}
    reasons: dict[str, str] = {}
    event_time = _pick_time(columns, reasons)
    target = _pick_target(columns, event_time, reasons)
    label_time = _pick_label_time(table, columns, event_time, target, reasons)
    key = _pick_key(columns, target, reasons)
    features: dict[str, list[str]] = {}
    for column in columns.values():
        if column.name not in (event_time, label_time, key) and (target_too or column.name != target):
            role, reasons[column.name] = _feature(column, answer=target_too and column.name == target)
            features.setdefault(role, []).append(column.name)
    classes = _classes(table, columns[target]) if target else ()
    return InferredStream(
        path=path,
        rows=table.num_rows,
        task="classification" if classes else "regression",
        numeric=tuple(features.get("numeric", ())),
        categorical=tuple(features.get("categorical", ())),
        boolean=tuple(features.get("boolean", ())),
        timestamp=tuple(features.get("timestamp", ())),
        text=tuple(features.get("text", ())),
        embedding={name: columns[name].length for name in features.get("embedding", ())},
        key=key,
        event_time=event_time,
        target=target,
        label_time=label_time,
        classes=classes,
        reasons=reasons,
    )


def _look(name: str, values: pa.ChunkedArray) -> Column:
    import pyarrow as pa
    import pyarrow.compute as pc

    kinds = (
        (pa.types.is_boolean, "bool"),
        (pa.types.is_integer, "integer"),
        (pa.types.is_floating, "number"),
        (pa.types.is_decimal, "number"),
        (pa.types.is_temporal, "time"),
        (pa.types.is_string, "string"),
        (pa.types.is_large_string, "string"),
        (pa.types.is_dictionary, "string"),
    )
    kind: Any = next((kind for is_kind, kind in kinds if is_kind(values.type)), "other")
    if kind == "time" and not (pa.types.is_timestamp(values.type) or pa.types.is_date(values.type)):
        kind = "other"
    present = values.drop_null()
    length = _length(present)
    kind = "list" if length else kind
    distinct = pc.count_distinct(present).as_py() if kind not in ("other", "list") else 0
    words = 0.0
    if kind == "string" and len(present):
        words = 1 + pc.mean(pc.count_substring_regex(present.cast(pa.string()), r"\S\s+\S")).as_py()
    rising = 0.0
    if kind == "time" and len(present) > 1:
        rising = pc.mean(pc.greater_equal(present.slice(1), present.slice(0, len(present) - 1))).as_py()
    return Column(name, kind, len(values), values.null_count, distinct, rising, words, length)


def _length(present: pa.ChunkedArray) -> int:
    """Return how many numbers each value holds, 0 where it is no list of numbers, or lists differ in length."""
    import pyarrow as pa

    kind = present.type
    some = present.slice(0, _LOOK)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):  # CSV writes lists as text
        if not len(some) or not str(some[0]).lstrip().startswith("["):
            return 0
        try:
            lists = [json.loads(text) for text in some.to_pylist()]
        except ValueError:
            return 0
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        lists = some.to_pylist()
    else:
        return 0
    flat = [item for one in lists if isinstance(one, list) for item in one]
    lengths = {len(one) if isinstance(one, list) else 0 for one in lists}
    real = any(type(item) is float for item in flat) and all(type(item) in (int, float) for item in flat)
    return lengths.pop() if real and len(lengths) == 1 else 0


def _pick_time(columns: dict[str, Column], reasons: dict[str, str]) -> str:
    times = [column for column in columns.values() if column.kind == "time" and column.distinct > 1]
    if not times:
        reasons["event_time"] = (
            "no column with times was found: name the one that says when the event happened"
        )
        return ""
    best = max(
        times,
        key=lambda c: (c.nulls == 0, not _LABEL_TIME.search(c.name), c.rising, bool(_TIME.search(c.name))),
    )
    reasons[best.name] = f"event_time: a time that goes forward in {best.rising:.0%} of the steps"
    return best.name


def _pick_target(columns: dict[str, Column], event_time: str, reasons: dict[str, str]) -> str:
    able = [
        c
        for c in columns.values()
        if c.kind not in ("time", "list", "other") and c.name != event_time and c.distinct > 1
    ]
    named = [column for column in able if _TARGET.search(column.name)]
    if named:
        reasons[named[-1].name] = "target: by its name"
        return named[-1].name
    able = [
        column
        for column in able
        if not (column.unique and _KEY.search(column.name))
        and (column.kind != "string" or _string(column)[0] == "categorical")
    ]
    if able:
        reasons[able[-1].name] = "target: the last column that could be one; make sure of it"
        return able[-1].name
    reasons["target"] = "no column to predict was found: name it"
    return ""


def _pick_label_time(
    table: pa.Table, columns: dict[str, Column], event_time: str, target: str, reasons: dict[str, str]
) -> str:
    import pyarrow.compute as pc

    for column in columns.values():
        if not event_time or column.kind != "time" or column.name in (event_time, target):
            continue
        if not _LABEL_TIME.search(column.name) or table[column.name].type != table[event_time].type:
            continue
        if pc.all(pc.greater_equal(table[column.name], table[event_time])).as_py():
            reasons[column.name] = "label_time: by its name, and never before event_time"
            return column.name
    return ""


def _pick_key(columns: dict[str, Column], target: str, reasons: dict[str, str]) -> str:
    able = [c for c in columns.values() if c.unique and c.kind in ("integer", "string") and c.name != target]
    if not able:
        reasons["key"] = (
            "no column with a different value in every row was found: name the one that labels come by"
        )
        return ""
    best = max(able, key=lambda c: (bool(_KEY.search(c.name)), c.kind == "string"))
    reasons[best.name] = f"key: a different value in each of {best.rows} rows"
    return best.name


def _feature(
    column: Column, *, answer: bool
) -> tuple[Literal["numeric", "categorical", "left out"] | Kind, str]:
    kind, distinct = column.kind, column.distinct
    if kind == "list" and column.length >= _EMBEDDING:
        return "embedding", f"embedding: lists of {column.length} numbers"
    if kind in ("list", "other"):
        return "left out", "left out: its type is neither number, category, text, time nor embedding"
    if distinct <= 1:
        return "left out", "left out: it holds one value only" if distinct else "left out: it holds no values"
    if kind == "time" and _LABEL_TIME.search(column.name):
        return "left out", "left out: its name is that of a time at which the answer is known"
    if kind == "time":
        return "timestamp", "timestamp: hour and weekday become features; make sure that it is known in time"
    if not answer and _TARGET.search(column.name):
        return "left out", "left out: its name is that of an answer; it may not be known in time"
    if kind == "bool":
        return "boolean", "boolean: true or false"
    return _string(column) if kind == "string" else _number(column)


def _string(column: Column) -> tuple[Literal["categorical", "text", "left out"], str]:
    distinct = column.distinct
    if not ((column.unique and column.rows > _CODES) or (distinct > _TEXT and distinct * 2 > column.rows)):
        return "categorical", f"categorical: {distinct} different strings"
    if column.words >= _WORDS:
        return "text", f"text: {distinct} different strings of {column.words:.1f} words"
    return "left out", f"left out: {distinct} different strings in {column.rows} rows are identifiers"


def _number(column: Column) -> tuple[Literal["numeric", "categorical", "left out"], str]:
    kind, distinct = column.kind, column.distinct
    if column.unique and kind == "integer" and _KEY.search(column.name):
        return "left out", "left out: an identifier"
    if column.coded:
        return (
            "categorical",
            f"categorical: whole numbers, but only {distinct} different ones; numeric if they are amounts",
        )
    return "numeric", "numeric: " + ("whole numbers" if kind == "integer" else "numbers")


def _classes(table: pa.Table, target: Column) -> tuple[str, ...]:
    if target.kind in ("number", "time", "list", "other") or (target.kind == "integer" and not target.coded):
        return ()
    values = table[target.name].unique().drop_null().to_pylist() if target.distinct else []
    return tuple(str(value).lower() if isinstance(value, bool) else str(value) for value in sorted(values))
