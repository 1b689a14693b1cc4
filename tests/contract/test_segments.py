"""What every segment store promises: immutable tables by path, unaltered or `Corrupt`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from cls.errors import Corrupt, Unavailable
from cls.ports import SegmentStore
from storage.segments import DiskSegments, MemorySegments, write_synced

TABLE = pa.table({"x": pa.array([1.5, None, float("nan")]), "colour": pa.array(["red", None, "é"])})
STEM = "flights/events/p0/000000000000-000000000003"

FULL_DISK = """
import os, resource, signal, sys
from pathlib import Path
import pyarrow as pa
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write past the limit fails instead of killing
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))
from cls.errors import Unavailable
from storage.segments import DiskSegments
try:
    DiskSegments(Path(sys.argv[1])).put("s/events", pa.table({"x": [os.urandom(16) for _ in range(5_000)]}))
except Unavailable as error:
    assert "cannot write" in str(error), error
else:
    raise SystemExit("the write should have failed")
"""


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> SegmentStore:
    return DiskSegments(tmp_path / "segments") if request.param == "disk" else MemorySegments()


def test_a_table_comes_back_as_it_was(store: SegmentStore) -> None:
    path, sha256 = store.put(STEM, TABLE)
    found = store.get(path, sha256)
    assert found.schema.names == TABLE.schema.names
    assert str(found.to_pydict()) == str(TABLE.to_pydict())  # as text: NaN differs from itself
    assert path.startswith(STEM)


def test_different_tables_never_share_a_path(store: SegmentStore) -> None:
    other = pa.table({"x": [2.5]})
    first, second = store.put(STEM, TABLE), store.put(STEM, other)
    assert first[0] != second[0]
    assert store.get(*first).num_rows == 3
    assert store.get(*second).num_rows == 1


def test_a_wrong_hash_or_a_missing_segment_is_corrupt(store: SegmentStore) -> None:
    path, sha256 = store.put(STEM, TABLE)
    with pytest.raises(Corrupt):
        store.get(path, "0" * 64)
    store.delete(path)
    with pytest.raises(Corrupt):
        store.get(path, sha256)
    store.delete(path)  # a second time is no fault


def test_files_lists_exactly_what_is_there(store: SegmentStore) -> None:
    assert list(store.files()) == []
    kept, gone = store.put(STEM, TABLE)[0], store.put("other/events/x", TABLE)[0]
    store.delete(gone)
    assert [path for path, _ in store.files()] == [kept]


def test_the_same_bytes_have_the_same_name(tmp_path: Path) -> None:
    store = DiskSegments(tmp_path)
    first = store.put(STEM, TABLE)
    inode = (tmp_path / first[0]).stat().st_ino
    assert store.put(STEM, TABLE) == first
    assert (tmp_path / first[0]).stat().st_ino == inode  # never overwritten


def test_flipped_and_cut_bytes_are_noticed(tmp_path: Path) -> None:
    store = DiskSegments(tmp_path)
    path, sha256 = store.put(STEM, TABLE)
    whole = (tmp_path / path).read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 50)):
        altered = bytearray(whole)
        altered[place] ^= 0x40
        (tmp_path / path).write_bytes(altered)
        with pytest.raises(Corrupt, match="does not match its hash"):
            store.get(path, sha256)
    (tmp_path / path).write_bytes(whole[:-1])
    with pytest.raises(Corrupt):
        store.get(path, sha256)


def test_a_full_disk_is_unavailable_and_leaves_no_part(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_directory_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable):
        write_synced(tmp_path / "file" / "below" / "x", b"data")
