"""A full disk: nothing that was acknowledged is lost, and with space everything goes on by itself."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.chaos.harness import STREAM, Feed, System, check_whole, compare, eventually, facts, running


class Disk:
    """A small disk of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self, _system: System) -> None:
        """Leave no byte."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                with suppress(OSError):
                    while file.write(b"\0" * size):
                        pass

    def free(self, _system: System) -> None:
        """Make room."""
        self._ballast.unlink()


class NoWriting(Disk):
    """Where nothing can be mounted: the kernel refuses every write of our processes to a file."""

    def fill(self, system: System) -> None:
        """Refuse writes."""
        self._limit(system, 0)

    def free(self, system: System) -> None:
        """Allow them again."""
        self._limit(system, psutil.RLIM_INFINITY)

    def _limit(self, system: System, size: int) -> None:
        for pid in filter(None, map(system.pid, system.names)):
            with suppress(psutil.NoSuchProcess):
                psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, (size, psutil.RLIM_INFINITY))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Mount a small disk; without the right to, do as if."""
    path = tmp_path / "disk"
    path.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    line = [str(mount), "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(path)]
    if mount is None or umount is None or subprocess.run(line, capture_output=True, check=False).returncode:
        yield NoWriting(path)
        return
    yield Disk(path)
    subprocess.run([umount, "--lazy", str(path)], check=True)


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_full_disk_loses_nothing(
    disk: Disk, sqlite_template: str, feed: Feed, undisturbed: dict[str, Any]
) -> None:
    """State, log, inbox, artifacts, snapshots and the processes' own logs: all on the disk that is full."""
    shutil.copyfile(sqlite_template, disk.path / "cls.db")
    system = System(disk.path / "run", f"sqlite:///{disk.path / 'cls.db'}")
    during_job = 0
    with running(system):
        for number, (kind, table) in enumerate(feed.batches):
            if number in (4, 24):
                disk.fill(system)
                _refuse(system)
                disk.free(system)
            system.feeder.send(kind, table)
            if during_job < 2 and eventually(lambda: system.jobs("running") or _idle(system)) is not True:
                during_job += 1
                disk.fill(system)
                _refuse(system)
                disk.free(system)
            system.settle()
        assert during_job == 2
        check_whole(system, feed)
        compare(facts(system), undisturbed)


def _idle(system: System) -> bool:
    progress = system.feeder.progress()
    return progress is not None and not progress["live_jobs"] and not progress["inbox_waiting"]


def _refuse(system: System) -> None:
    """Offer a batch until it was refused three times, as a sender that does not give up; it is never taken."""
    refused: list[str] = []
    url = f"http://{system.config.http.ingest}/v1/streams/{STREAM}/events"

    def offered() -> bool:
        with suppress(httpx.TransportError):
            answer = httpx.post(
                url, json={"id": "never", "at": "2020-01-01T00:00:00Z", "a": 1.0}, timeout=60.0
            )
            assert answer.status_code == 503, answer.text
            refused.append(answer.json()["error"])
        return len(refused) >= 3

    eventually(offered, 60.0, "three refusals")
    assert all(refused)
