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

from cls.cells import Mask, categories, numbers
from cls.config import SchemaConfig
from cls.config_faults import nearest
from cls.errors import BadData, NotFound
from cls.infer import InferredStream
from cls.typed import derived
from detectors.bins import NumericBins
from detectors.columns import Column, Columns, concat
from detectors.derivation import Derivation, derivations_of
from detectors.profile import Profile
from storage.file_readers import FORMATS, format_of

PIECE_ROWS = 65_536
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


def read_columns(path: Path, wanted: Wanted, tell: Tell) -> dict[str, Column]:
    """Read the features of a file whole, in its order.

    Parameters
    ----------
    path
        A Parquet, CSV or NDJSON file, known by its suffix, also compressed.
    wanted
        Which columns; those that no row has are left out.
    tell
        Is told, in words, what was not read as it stands: such values count as missing, malformed lines are left out.

    Raises
    ------
    NotFound
        If there is no such file.
    BadData
        If it cannot be read, holds no rows, or none of the columns.
    """
    form = format_of(path)
    if not path.is_file():
        raise NotFound(f"{path}: there is no such file")
    if form is None:
        raise BadData(f"{path}: its suffix tells no known format; known are {', '.join(FORMATS)}")
    faults: Counter[str] = Counter()
    parts: list[Columns] = []
    seen: dict[str, None] = {}

    def report(mask: Mask, reason: str) -> None:
        faults[reason] += int(np.count_nonzero(mask))

    try:
        with closing(FORMATS[form](path)) as reader:
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
        name = wanted.raw[0] if wanted.raw else ""
        raise BadData(f"{path}: has none of the features, such as {name!r}{nearest(name, list(seen))}")
    gone = wanted.without(absent)
    return {name: column for name, column in columns.items() if name not in gone}
