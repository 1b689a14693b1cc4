"""What `make test` runs beside what."""

from __future__ import annotations

import pytest

from tests.conftest import ByFile, scope_of


@pytest.mark.parametrize(
    ("test", "scope"),
    [
        ("tests/unit/cls/test_decide.py::test_one[a::b]", "tests/unit/cls/test_decide.py"),
        ("tests/unit/cls/test_decide.py::TestMany::test_two", "tests/unit/cls/test_decide.py"),
        ("tests/chaos/test_kills.py::test_ten", "whole systems"),
        ("tests/chaos/test_disk.py::test_full", "whole systems"),
        ("tests/integration/test_up.py::test_up", "whole systems"),
    ],
)
def test_a_file_is_never_parted_and_whole_systems_follow_one_another(test: str, scope: str) -> None:
    assert scope_of(test) == scope
    assert ByFile._split_scope(ByFile.__new__(ByFile), test) == scope
