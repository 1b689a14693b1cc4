"""What every artifact store promises: bytes by their hash, exactly those bytes, or an error that says what to do."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cls.errors import Corrupt
from cls.ports import ArtifactStore
from storage.artifacts import DiskArtifacts, MemoryArtifacts, manifest_digest

FULL_DISK = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write past the limit fails instead of killing
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))
from cls.errors import Unavailable
from storage.artifacts import DiskArtifacts
store = DiskArtifacts(Path(sys.argv[1]))
kept = store.put(b"small")
try:
    store.put(b"x" * 100_000)
except Unavailable as error:
    assert "cannot write" in str(error), error
else:
    raise SystemExit("the write should have failed")
assert store.get(kept) == b"small"
"""


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    return DiskArtifacts(tmp_path / "artifacts") if request.param == "disk" else MemoryArtifacts()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=2_000))
def test_bytes_come_back_under_their_sha256(store: ArtifactStore, data: bytes) -> None:
    name = store.put(data)
    assert name == hashlib.sha256(data).hexdigest()
    assert store.put(data) == name
    assert store.get(name) == data


@pytest.mark.parametrize("name", ["0" * 64, "", "../../etc/passwd", "F" * 64])
def test_what_is_not_there_or_no_name_is_corrupt(store: ArtifactStore, name: str) -> None:
    with pytest.raises(Corrupt):
        store.get(name)


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    store = DiskArtifacts(tmp_path)
    name = store.put(b"weights")
    path = tmp_path / name[:2] / name
    for place in range(7):
        altered = bytearray(b"weights")
        altered[place] ^= 1
        path.write_bytes(altered)
        with pytest.raises(Corrupt, match="does not match its hash"):
            store.get(name)
    path.write_bytes(b"weight")
    with pytest.raises(Corrupt):
        store.get(name)


def test_a_full_disk_is_unavailable_and_leaves_no_part(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()] == [b"small"]


def test_a_manifest_is_named_by_its_content_alone() -> None:
    one = manifest_digest({"a": "1" * 64, "b": "2" * 64})
    assert one == manifest_digest({"b": "2" * 64, "a": "1" * 64})
    assert one != manifest_digest({"a": "2" * 64, "b": "1" * 64})
