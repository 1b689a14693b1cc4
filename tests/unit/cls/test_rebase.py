"""What of the landed labels a reference is made of."""

import numpy as np

from cls.domain import Labelled
from cls.rebase import _covered


def labelled(position: list[int]) -> Labelled:
    where = np.array(position, np.int64)
    return Labelled({}, np.zeros(len(where)), where, where, np.zeros(len(where), np.int8))


def test_only_covered_windows_count_and_of_each_the_first_to_land() -> None:
    rows = labelled([3, 0, 2, 1, 11, 13, 21, 20, 22, 23, 24])  # in the order in which they landed
    all_of, first = _covered(rows, 10, 4)
    assert rows.position[all_of].tolist() == [0, 1, 2, 3, 20, 21, 22, 23, 24]
    assert rows.position[first].tolist() == [0, 1, 2, 3, 20, 21, 22, 23]  # 24 landed last


def test_labels_of_a_window_are_ranked_by_landing_whatever_lies_between() -> None:
    rows = labelled([5, 15, 4, 14, 3, 13, 2, 12])
    _, first = _covered(rows, 10, 2)
    assert rows.position[first].tolist() == [4, 5, 14, 15]


def test_no_labels_cover_nothing() -> None:
    all_of, first = _covered(labelled([]), 10, 2)
    assert len(all_of) == len(first) == 0
