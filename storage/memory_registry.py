"""The twin of `storage.mlflow_registry` in memory, for backtests and tests."""

from __future__ import annotations

from collections.abc import Sequence

from cls.errors import NotFound
from cls.ports import RunRecord, VersionRecord


class MemoryRegistry:
    """Runs, versions and aliases in dictionaries: nothing outlives the process."""

    def __init__(self) -> None:
        self.runs: dict[tuple[str, int], RunRecord] = {}  # by (stream, job)
        self.versions: dict[tuple[str, int], VersionRecord] = {}  # by (stream, number)
        self._aliases: dict[str, dict[str, int]] = {}
        self._standings: dict[tuple[str, int], str] = {}

    def put_run(self, run: RunRecord) -> str:
        """Keep a run; see `cls.ports.Registry`."""
        self.runs[run.stream, run.job_id] = run
        return f"{run.stream}/{run.job_id}"

    def put_version(self, version: VersionRecord) -> None:
        """Keep a version; see `cls.ports.Registry`."""
        self.versions.setdefault((version.stream, version.number), version)

    def put_aliases(self, stream: str, aliases: dict[str, int | None]) -> None:
        """Point aliases; raises `NotFound` for a version that was never put, and then changes nothing."""
        for number in aliases.values():
            if number is not None and (stream, number) not in self.versions:
                raise NotFound(f"registry: stream {stream} has no version {number}")
        merged = self._aliases.get(stream, {}) | aliases
        self._aliases[stream] = {alias: number for alias, number in merged.items() if number is not None}

    def aliases(self, stream: str) -> dict[str, int]:
        """Return where the aliases point."""
        return dict(self._aliases.get(stream, {}))

    def put_standings(self, stream: str, standings: dict[int, str]) -> None:
        """Keep what is said of versions that were put."""
        known = {number: text for number, text in standings.items() if (stream, number) in self.versions}
        self._standings |= {(stream, number): text for number, text in known.items()}

    def standings(self, stream: str, numbers: Sequence[int]) -> dict[int, str]:
        """Return what was said of some versions."""
        found = {number: self._standings.get((stream, number)) for number in numbers}
        return {number: text for number, text in found.items() if text is not None}
