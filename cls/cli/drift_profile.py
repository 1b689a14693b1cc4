"""`cls drift profile`: references as small files, built from data or a stream, merged, looked at and compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cls.cli.drift_profile_tables import By, print_distances, print_profile
from cls.cli.exits import USAGE, end, say
from cls.cli.home import config_of, database, known_stream
from cls.cli.output import AsJson, print_json
from cls.errors import NotFound

if TYPE_CHECKING:
    from cls.columns.file_columns import FileFeatures
    from cls.config import Config, StreamConfig
    from detectors.columns import Columns
    from detectors.profile import Profile

profile = typer.Typer(
    help="References as small files: bins and counts, no raw data.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


OfStream = Annotated[
    str | None,
    typer.Option(
        "--stream", metavar="NAME", help="Whose schema and bins to use. [default: inferred from the file]"
    ),
]
Out = Annotated[Path, typer.Option("--out", metavar="FILE", help="Write the profile here, as JSON.")]
ProfileFile = Annotated[Path, typer.Argument(metavar="PROFILE", help="A profile's file.")]


@profile.command()
def build(
    context: typer.Context,
    out: Out,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="Parquet, CSV or NDJSON, in stream order. [default: the stream's log]",
            show_default=False,
        ),
    ] = None,
    stream: OfStream = None,
    version: Annotated[
        int | None,
        typer.Option(
            "--version",
            metavar="NUMBER",
            min=1,
            help="Of the stream's log, the rows that this version was trained on.",
        ),
    ] = None,
    low: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="WHERE",
            help="First event of the log: a position (digits) or a time (ISO 8601).",
        ),
    ] = None,
    high: Annotated[
        str | None, typer.Option("--to", metavar="WHERE", help="The first event behind, in the same way.")
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            "--like", metavar="PROFILE", help="Count into this profile's bins, so that the two can be merged."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Build a profile from a file, from a stream's log (its newest reference_rows, or a range), or from a version's training set."""
    _check_sources(file, stream, version, low, high)
    from cls.detect import kl_detector
    from cls.profiles import like_profile, load_profile, require_no_directory, save_profile
    from detectors.detector import KLDetector

    require_no_directory(out)

    bins = None if like is None else load_profile(like)
    columns: Columns
    settings, left_out = None, list[dict[str, str]]()
    config = None if stream is None else config_of(context)
    if config is not None and stream is not None:
        settings = config.streams[known_stream(config, stream)]
    if file is not None:
        read = _of_file(file, settings, bins)
        columns, left_out = read.columns, read.left_out_json()
    else:
        assert config is not None, "one of the two was asked for"
        assert stream is not None, "one of the two was asked for"
        columns = _of_log(config, stream, version, low, high)
    detector = KLDetector() if settings is None else kl_detector(settings.detect)
    made = detector.profile(columns) if bins is None else like_profile(bins, columns)
    save_profile(out, made)
    say(f"wrote {out}")
    print_profile(out, made, as_json=as_json, left_out=left_out)


@profile.command()
def merge(
    files: Annotated[
        list[Path], typer.Argument(metavar="PROFILE...", help="Profiles of parts, in the same bins.")
    ],
    out: Out,
    as_json: AsJson = False,
) -> None:
    """Add the profiles of partitions: the counts are exactly those of the whole."""
    if len(files) < 2:
        end("name two profiles or more", USAGE)
    from cls.profiles import load_profile, merge_profiles, require_no_directory, save_profile

    require_no_directory(out)
    places = [path.resolve() for path in files]
    for place, path in dict(zip(places, files, strict=True)).items():
        if (times := places.count(place)) > 1:
            said = "twice: its rows count twice" if times == 2 else f"{times} times: its rows count as often"
            say(f"{path} is given {said}")
    merged = merge_profiles([(str(path), load_profile(path)) for path in files])
    save_profile(out, merged)
    say(f"wrote {out}")
    print_profile(out, merged, as_json=as_json)


@profile.command("show")
def show_profile(file: ProfileFile, as_json: AsJson = False) -> None:
    """Show what a profile keeps of its rows."""
    from cls.profiles import load_profile

    print_profile(file, load_profile(file), as_json=as_json)


@profile.command()
def compare(
    context: typer.Context,
    reference: ProfileFile,
    current: Annotated[
        Path, typer.Argument(metavar="CURRENT", help="A profile in the same bins, or Parquet, CSV or NDJSON.")
    ],
    stream: OfStream = None,
    by: Annotated[
        By, typer.Option("--by", metavar="NAME", help="Sort by this divergence: " + ", ".join(By) + ".")
    ] = By.kl,
    as_json: AsJson = False,
) -> None:
    """Measure how far a profile, or a file, lies from a reference: every divergence of every feature, largest first.

    These are distances. Whether one is more than chance is what the verdicts of `cls drift` say.
    """
    from cls.profiles import counted_shares, is_profile, load_profile, require_same_bins
    from detectors.columns import rows_of
    from detectors.divergences import divergences

    one = load_profile(reference)
    left_out: list[dict[str, str]] = []
    if is_profile(current):
        other = load_profile(current)
        require_same_bins(str(reference), one, str(current), other)
        counts, rows = other.counts, other.rows
    else:
        settings = None
        if stream is not None:
            config = config_of(context)
            settings = config.streams[known_stream(config, stream)]
        read = _of_file(current, settings, one)
        counts, rows, left_out = one.count(read.columns), rows_of(read.columns), read.left_out_json()
    found = [
        replace(feature, reference=before, current=now)
        for feature, (before, now) in zip(divergences(one, counts), counted_shares(one, counts), strict=True)
    ]
    found.sort(key=lambda feature: -(feature.value(by) or 0.0))
    if as_json:
        print_json(
            {
                "reference_rows": one.rows,
                "current_rows": rows,
                "by": by,
                "left_out": left_out,
                "features": [feature.to_json() for feature in found],
            }
        )
        return
    print_distances(found, by, f"{rows:,} rows of {current} from {one.rows:,} rows of {reference}")


def _check_sources(
    file: Path | None, stream: str | None, version: int | None, low: str | None, high: str | None
) -> None:
    if file is None and stream is None:
        end("name a FILE, or the --stream whose log to read", USAGE)
    of_log = {"--version": version, "--from": low, "--to": high}
    given = [option for option, value in of_log.items() if value is not None]
    if given and file is not None:
        end(f"{given[0]} reads a stream's log, not a FILE: leave one of them out", USAGE)
    if version is not None and len(given) > 1:
        end(f"--version names its rows by itself: leave {given[1]} out", USAGE)


def _of_file(file: Path, settings: StreamConfig | None, like: Profile | None) -> FileFeatures:
    from cls.columns.file_columns import read_features

    read = read_features(file, None if settings is None else settings.columns, say, like=like)
    for bins in () if like is None else like.features:
        if bins.name not in read.columns:
            say(f"{file}: has no feature {bins.name!r}: it counts as missing in every row")
    return read


def _of_log(config: Config, stream: str, version: int | None, low: str | None, high: str | None) -> Columns:
    from cls.profiles import Bound, log_columns, parse_bound, training_columns
    from storage.db import reading
    from storage.job_rows import input_from_json, show
    from storage.log import Log, next_position
    from storage.segments import DiskSegments
    from storage.versions import read_version

    settings = config.streams[stream]
    with database(config) as engine:
        log = Log(engine, DiskSegments(config.home / "segments"), {stream: settings.columns.features})
        with reading(engine) as connection:
            stop = next_position(connection, stream, "events")
            job = None
            if version is not None:
                job_id = read_version(connection, stream, version).job_id
                if job_id is None:
                    raise NotFound(f"version {version} of stream {stream} was not trained by a job")
                job = input_from_json(show(connection, job_id).input)
        if job is not None:
            return training_columns(log, stream, job)
        first: Bound = None if low is None else parse_bound(low)
        last: Bound = None if high is None else parse_bound(high)
        if first is None and last is None:
            first = max(stop - settings.detect.reference_rows, 0)
        return log_columns(log, stream, stop, first, last)
