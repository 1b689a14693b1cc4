"""Features of a data file, each value read as ingest would read it: for profiles and evaluations of files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cls.columns.cells import Mask, categories, numbers
from cls.columns.typed import derived
from cls.config import SchemaConfig
from cls.errors import BadData, NotFound
from cls.infer import InferredStream, infer_schema
from cls.settings.faults import nearest
from detectors.bins import NumericBins
from detectors.columns import Column, Columns, concat
from detectors.derivation import Derivation, derivations_of
from detectors.profile import Profile
from storage.file_readers import FORMATS, format_of

PIECE_ROWS = 65_536
SEPARATORS = ";\t|"  # of files that call themselves CSV and are not
NAMED = 10  # columns that were left out, named in a line
ROLES = {"event_time": "event time", "key": "key", "label_time": "label time", "target": "target"}
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """Which raw columns to read, and as what."""

    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    derivations: tuple[Derivation, ...]

    @classmethod
    def of(cls, schema: SchemaConfig | InferredStream) -> Wanted:
        """Return the features of a stream's schema."""
        return cls(schema.numeric, schema.categorical, derivations_of(schema))

    def like(self, profile: Profile) -> Wanted:
        """Return what a profile's features are read from: of the kinds that it has them in, whatever this schema says.

        Of this schema it keeps the typed columns that the profile has features from, of the same kinds.
        """
        kinds = {bins.name: isinstance(bins, NumericBins) for bins in profile.features}
        if profile.seasons is not None:
            kinds[profile.seasons.bins.name] = False
        typed = tuple(
            one
            for one in self.derivations
            if not kinds.keys().isdisjoint(one.names)
            and all(kinds.get(name, True) for name in one.numeric)
            and not any(kinds.get(name, False) for name in one.categorical)
        )
        names = {name for one in typed for name in one.names}
        return Wanted(
            tuple(name for name, numeric in kinds.items() if numeric and name not in names),
            tuple(name for name, numeric in kinds.items() if not numeric and name not in names),
            typed,
        )

    @property
    def raw(self) -> tuple[str, ...]:
        """Names of the columns that are read."""
        return self.numeric + self.categorical + tuple(one.name for one in self.derivations)

    def read(self, table: pa.Table, report: Callable[[Mask, str], None]) -> dict[str, Column]:
        """Return the features of a table; those of columns that it lacks are missing in every row."""
        columns: dict[str, Column] = {
            name: numbers(table, name, report, f"feature {name!r}") for name in self.numeric
        }
        columns |= {name: categories(table, name) for name in self.categorical}
        return columns | derived(table, self.derivations, report)

    def without(self, absent: set[str]) -> set[str]:
        """Return the names of the features that come of some raw columns."""
        return absent | {name for one in self.derivations if one.name in absent for name in one.names}


@dataclass(frozen=True)
class FileFeatures:
    """What was read of a file, and what was not."""

    columns: dict[str, Column]
    left_out: dict[str, str]  # why, by the name of a column of the file

    def left_out_json(self) -> list[dict[str, str]]:
        """Plain JSON types."""
        return [{"name": name, "why": why} for name, why in self.left_out.items()]


def read_features(
    path: Path,
    schema: SchemaConfig | None,
    tell: Tell,
    *,
    like: Profile | None = None,
    with_target: bool = True,
) -> FileFeatures:
    """Read the features of a file whole, in its order, and tell which of its columns are left out.

    Parameters
    ----------
    path
        As in `read_columns`.
    schema
        Of a stream, which says the features; None infers them from the file.
    tell
        As in `read_columns`.
    like
        A profile whose features to read, of the kinds that it has them in.
    with_target
        Without a schema: whether the column that looks like the target is read as well. One that looks so is read in any case where there
        is nothing else.

    Raises
    ------
    NotFound, BadData
        As in `read_columns`; and if nothing of the file is a feature.
    """
    _require_file(path)
    described = _inferred(path, with_target=with_target) if schema is None else schema
    wanted, reasons = Wanted.of(described), _reasons(described)
    if like is not None:
        wanted = wanted.like(like)
    elif not wanted.raw:
        taken = [
            f"{name!r} was taken as {why}" if why in ROLES.values() else f"{name!r}: {why}"
            for name, why in [*reasons.items()][:NAMED]
        ]
        raise BadData(
            f"{path}: no feature is left: {', '.join(taken)}; a stream's schema (--stream) can say otherwise"
        )
    seen: dict[str, None] = {}
    columns = read_columns(path, wanted, tell, seen)
    other = "not a feature of the profile" if like is not None else "not in the schema"
    left_out = {name: reasons.get(name, other) for name in seen if name not in wanted.raw}
    if left_out:
        named = [f"{name} ({why})" for name, why in [*left_out.items()][:NAMED]]
        more = f" and {len(left_out) - NAMED} more" if len(left_out) > NAMED else ""
        tell(f"left out: {', '.join(named)}{more}" + ("; see `cls stream infer`" if schema is None else ""))
    return FileFeatures(columns, left_out)


def _inferred(path: Path, *, with_target: bool) -> InferredStream:
    inferred = infer_schema(path, target_too=with_target)
    _require_comma(path, [name for name, why in inferred.reasons.items() if not why.startswith("no column")])
    return inferred if with_target or Wanted.of(inferred).raw else infer_schema(path, target_too=True)


def _reasons(schema: SchemaConfig | InferredStream) -> dict[str, str]:
    """Return why columns are not features, by name."""
    prefix = "left out: "
    reasons = {}
    if isinstance(schema, InferredStream):
        reasons = {
            name: why.removeprefix(prefix) for name, why in schema.reasons.items() if why.startswith(prefix)
        }
    wanted = Wanted.of(schema).raw
    roles = {getattr(schema, role): words for role, words in ROLES.items()}
    return reasons | {name: words for name, words in roles.items() if name and name not in wanted}


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise BadData(f"{path}: is a directory: name one file")
    if not path.is_file():
        raise NotFound(f"{path}: there is no such file")
    if format_of(path) is None:
        raise BadData(f"{path}: its suffix tells no known format; known are {', '.join(FORMATS)}")


def _require_comma(path: Path, names: list[str]) -> None:
    """Make sure that a CSV file's only column is not all of them."""
    found = [letter for letter in SEPARATORS if len(names) == 1 and letter in names[0]]
    if found and format_of(path) == "csv":
        separator = "a tab" if found[0] == "\t" else f"{found[0]!r}"
        raise BadData(
            f"{path}: one column called {names[0]!r}: is the separator {separator}? Only commas are read"
        )


def read_columns(
    path: Path, wanted: Wanted, tell: Tell, seen: dict[str, None] | None = None
) -> dict[str, Column]:
    """Read the features of a file whole, in its order.

    Parameters
    ----------
    path
        A Parquet, CSV or NDJSON file, known by its suffix, also compressed.
    wanted
        Which columns; those that no row has are left out.
    tell
        Is told, in words, what was not read as it stands: such values count as missing, malformed lines are left out.
    seen
        Takes the names of all columns of the file.

    Raises
    ------
    NotFound
        If there is no such file.
    BadData
        If it cannot be read, holds no rows, or none of the columns.
    """
    _require_file(path)
    faults: Counter[str] = Counter()
    parts: list[Columns] = []
    seen = {} if seen is None else seen

    def report(mask: Mask, reason: str) -> None:
        faults[reason] += int(np.count_nonzero(mask))

    try:
        with closing(FORMATS[format_of(path) or ""](path)) as reader:
            while (piece := reader.read(PIECE_ROWS)) is not None:
                if piece.fault is not None:
                    tell(f"{path}: {piece.rows} rows left out: {piece.fault.reason}")
                else:
                    seen |= dict.fromkeys(piece.table.column_names)
                    parts.append(wanted.read(piece.table, report))
    except (OSError, ValueError) as error:  # Arrow's faults are ValueErrors
        raise BadData(f"{path}: cannot be read: {error}") from error
    for reason, rows in faults.items():
        if rows:
            tell(f"{path}: {rows} rows count as missing there: {reason}")
    return _there(path, concat(parts), wanted, seen)


def _there(path: Path, columns: dict[str, Column], wanted: Wanted, seen: dict[str, Any]) -> dict[str, Column]:
    if not columns:
        raise BadData(f"{path}: holds no rows")
    absent = {name for name in wanted.raw if name not in seen}
    if absent.issuperset(wanted.raw):
        _require_comma(path, list(seen))
        name = wanted.raw[0] if wanted.raw else ""
        raise BadData(f"{path}: has none of the features, such as {name!r}{nearest(name, list(seen))}")
    gone = wanted.without(absent)
    return {name: column for name, column in columns.items() if name not in gone}
