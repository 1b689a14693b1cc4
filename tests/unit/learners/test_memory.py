"""The memory holds what brute force over the whole stream would, however rows come, and every row stays whole.

In these streams position = running number, and every stored tensor is a function of it.
"""

import json
import stat
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare
from torch import Tensor

from learners.mapped import mapped
from learners.memory import Memory
from learners.seeds import STRATA, generator
from learners.slots import Allocate, in_ram
from learners.strata import Stratum

STREAMS = st.lists(st.integers(0, 5), min_size=1, max_size=80)  # stratum of each row
CUTS = st.lists(st.integers(1, 30), max_size=8)


def offer(memory: Memory, first: int, stratum: list[int], outputs: int = 0) -> None:
    position = torch.arange(first, first + len(stratum))
    inputs = (position.float()[:, None] + torch.tensor([0.25, 0.5, 0.75]), -position)
    memory.offer(
        inputs,
        position * 2.0,
        position,
        torch.tensor(stratum, dtype=torch.int64),
        position[:, None] + torch.arange(outputs) / 8 if outputs else None,
    )


def offer_cut(memory: Memory, stratum: list[int], cuts: list[int], first: int = 0, outputs: int = 0) -> None:
    start = 0
    for count in [*cuts, len(stratum)]:
        offer(memory, first + start, stratum[start : start + count], outputs)
        start += count


def priorities(seed: int, rows: int) -> NDArray[np.float64]:
    return np.random.Generator(np.random.PCG64(seed)).random(rows)


def quotas(counts: Counter[int], capacity: int, seed: int) -> dict[int, int]:
    """Give one slot after the other to the stratum that has the fewest and still has rows, smallest rank first."""
    rank = {name: float(generator(seed, STRATA, name).random()) for name in counts}
    quota = dict.fromkeys(counts, 0)
    for _ in range(min(capacity, counts.total())):
        poorest = min(
            (name for name in counts if quota[name] < counts[name]), key=lambda n: (quota[n], rank[n])
        )
        quota[poorest] += 1
    return quota


def brute_force(stratum: list[int], capacity: int, seed: int) -> set[int]:
    priority = priorities(seed, len(stratum))
    kept: set[int] = set()
    for name, quota in quotas(Counter(stratum), capacity, seed).items():
        own = [number for number in range(len(stratum)) if stratum[number] == name]
        kept |= set(sorted(own, key=lambda number: priority[number])[:quota])
    return kept


def held(memory: Memory) -> set[int]:
    positions: list[int] = memory.position.tolist()
    assert len(set(positions)) == len(positions) == len(memory)
    return set(positions)


def assert_whole(memory: Memory, stratum: list[int], seed: int) -> None:
    position = memory.position
    assert torch.equal(memory.inputs[0], position.float()[:, None] + torch.tensor([0.25, 0.5, 0.75]))
    assert torch.equal(memory.inputs[1], -position)
    assert torch.equal(memory.target, position * 2.0)
    assert memory.stratum.tolist() == [stratum[p] for p in position]
    assert memory.priority.tolist() == priorities(seed, len(stratum))[position.numpy()].tolist()


def assert_same(memory: Memory, other: Memory) -> None:
    assert json.dumps(memory.meta(), sort_keys=True) == json.dumps(other.meta(), sort_keys=True)
    assert memory.tensors().keys() == other.tensors().keys()
    for name, tensor in memory.tensors().items():
        assert tensor.dtype == other.tensors()[name].dtype
        assert tensor.numpy().tobytes() == other.tensors()[name].numpy().tobytes(), name


# ------------------------------------------------------------------------------ which rows are held


@settings(max_examples=40)
@given(stratum=STREAMS, cuts=CUTS, capacity=st.integers(1, 40), seed=st.integers(0, 99))
def test_after_any_stream_the_rows_are_those_of_brute_force(
    stratum: list[int], cuts: list[int], capacity: int, seed: int
) -> None:
    memory = Memory.empty(capacity, seed)
    offer_cut(memory, stratum, cuts)
    assert held(memory) == brute_force(stratum, capacity, seed)
    assert_whole(memory, stratum, seed)
    assert memory.seen == len(stratum)
    assert memory.counts == {name: Counter(stratum)[name] for name in set(memory.stratum.tolist())}
    whole = Memory.empty(capacity, seed)
    offer(whole, 0, stratum)
    assert_same(memory, whole)  # slots and all, however the stream was cut


def test_quotas_are_max_min_fair_to_the_row() -> None:
    stratum = [0] * 500 + [1] * 7 + [2] * 40 + [3] * 900 + [4] * 3
    np.random.default_rng(5).shuffle(stratum)
    memory = Memory.empty(100, seed=2)
    offer_cut(memory, stratum, [10] * 100)
    assert Counter(memory.stratum.tolist()) == {0: 30, 1: 7, 2: 30, 3: 30, 4: 3}
    offer(memory, len(stratum), [5] * 400)
    counts = Counter(memory.stratum.tolist())
    assert (counts[1], counts[4]) == (7, 3)
    assert sorted(counts[name] for name in (0, 2, 3, 5)) == [22, 22, 23, 23]


@pytest.mark.parametrize("strata", [1, 3])
def test_within_a_stratum_every_row_is_held_with_the_same_probability(strata: int) -> None:
    """Also where strata come one after the other, and the earlier ones had to give up room."""
    rows, capacity, trials = 60, 12, 1000
    stratum = [number * strata // rows for number in range(rows)]
    count = np.zeros(rows)
    for seed in range(trials):
        memory = Memory.empty(capacity, seed)
        offer_cut(memory, stratum, [30])
        count[memory.position.numpy()] += 1
    own, quota = rows // strata, capacity // strata
    for name in range(strata):
        count_N = count[name * own : (name + 1) * own]
        assert count_N.sum() == trials * quota
        # Without replacement counts are negatively correlated: the factor corrects the statistic.
        statistic = chisquare(count_N).statistic / (1 - quota / own) * (own - 1) / own
        assert abs(statistic - (own - 1)) < 4.5 * np.sqrt(2 * (own - 1))


def test_more_strata_than_rows_hold_a_row_each_and_which_do_is_uniform() -> None:
    strata, capacity, trials = 30, 6, 800
    stratum = [number // 2 for number in range(2 * strata)]  # each comes once, with two rows
    of_stratum, of_row = np.zeros(strata), np.zeros(2)
    for seed in range(trials):
        memory = Memory.empty(capacity, seed)
        offer_cut(memory, stratum, [25])
        of_stratum[memory.stratum.numpy()] += 1
        of_row += np.bincount(memory.position.numpy() % 2, minlength=2)
        assert set(memory.counts) == set(memory.stratum.tolist())
    assert of_stratum.sum() == trials * capacity
    statistic = chisquare(of_stratum).statistic / (1 - capacity / strata) * (strata - 1) / strata
    assert abs(statistic - (strata - 1)) < 4.5 * np.sqrt(2 * (strata - 1))
    assert chisquare(of_row).pvalue > 1e-4


def test_state_stays_bounded_while_regimes_come_without_end() -> None:
    memory = Memory.empty(8, seed=4)
    stratum = [number // 5 for number in range(2000)]
    offer_cut(memory, stratum, [9] * 200)
    assert held(memory) == brute_force(stratum, 8, seed=4)
    assert len(memory.meta()["counts"]) == len(memory.meta()["bounds"]) == 8
    offer(memory, 2000, stratum)  # forgotten strata that come again lose their row again
    assert held(memory) == brute_force(stratum * 2, 8, seed=4)


def test_given_priorities_decide_and_of_equal_ones_the_earlier_row_stays() -> None:
    memory = Memory.empty(4, seed=0)
    for first, priority in ((0, [0.5, 0.0, 0.9]), (3, [0.0, 0.5, 0.1]), (6, [0.5, 0.05])):
        position = torch.arange(first, first + len(priority))
        zeros = torch.zeros_like(position)
        memory.offer(
            (position,), zeros, position, zeros, priority=torch.tensor(priority, dtype=torch.float64)
        )
    assert held(memory) == {1, 3, 5, 7}
    assert memory.target.dtype == torch.int64


@pytest.mark.parametrize("merge", [False, True])
def test_divided_in_another_way_it_becomes_the_smallest_of_each_new_stratum(merge: bool) -> None:
    """From one stratum to classes, and from classes of unequal shares to one stratum."""
    classes = np.random.default_rng(3).choice(3, 3000, p=[0.7, 0.2, 0.1]).tolist()
    single = [0] * 3000
    old, new = (classes, single) if merge else (single, classes)
    memory = Memory.empty(30, seed=8)
    offer(memory, 0, old[:300])
    memory.divide(torch.tensor([new[p] for p in memory.position]))
    assert memory.counts == Counter(memory.stratum.tolist())
    offer_cut(memory, new[300:], [10] * 50, first=300)
    assert held(memory) == brute_force(new, 30, seed=8)
    assert_whole(memory, new, seed=8)
    assert_same(memory, Memory.restore(memory.tensors(), memory.meta()))


# ------------------------------------------------------------------------------ size


@settings(max_examples=40)
@given(stratum=STREAMS, capacity=st.integers(2, 40), smaller=st.integers(1, 39), seed=st.integers(0, 99))
def test_a_smaller_memory_is_what_one_of_that_size_would_have_held(
    stratum: list[int], capacity: int, smaller: int, seed: int
) -> None:
    memory, smaller = Memory.empty(capacity, seed), min(smaller, capacity)
    half = len(stratum) // 2
    offer(memory, 0, stratum[:half])
    memory.resize(smaller)
    assert held(memory) == brute_force(stratum[:half], smaller, seed)
    offer(memory, half, stratum[half:])
    assert held(memory) == brute_force(stratum, smaller, seed)
    assert_whole(memory, stratum, seed)


def test_a_larger_memory_does_not_favour_what_comes_later() -> None:
    rows, trials = 240, 500
    count = np.zeros(rows)
    for seed in range(trials):
        memory = Memory.empty(8, seed)
        offer(memory, 0, [0] * 40)
        memory.resize(24)
        assert len(memory) == 8
        offer(memory, 40, [0] * 200)
        if len(memory) == 24:  # the room is filled: the same rows as if there always had been room
            assert held(memory) == brute_force([0] * rows, 24, seed)
        count[memory.position.numpy()] += 1
    assert count[:40].mean() / count[40:].mean() == pytest.approx(1, abs=0.08)
    untouched = Memory.empty(10, seed=0)
    offer(untouched, 0, [0] * 7)
    untouched.resize(20)
    offer(untouched, 7, [0] * 30)
    assert held(untouched) == brute_force([0] * 37, 20, seed=0)


@pytest.mark.parametrize("capacity", [6, 40])
def test_after_a_change_of_size_it_goes_on_like_one_that_was_restored(capacity: int) -> None:
    for seed in range(20):
        memory = Memory.empty(10, seed)
        offer(memory, 0, [0, 1, 2] * 20)
        bounds = memory.strata.bounds
        saved = {name: tensor.clone() for name, tensor in memory.tensors().items()}
        restored = Memory.restore(saved, json.loads(json.dumps(memory.meta())))
        for one in (memory, restored):
            one.resize(capacity)
            offer(one, 60, [0, 1, 2] * 100)
        assert_same(memory, restored)
        below = Counter(n % 3 for n, u in enumerate(priorities(seed, 360)) if u < bounds[n % 3])
        assert Counter(memory.stratum.tolist()) == quotas(below, capacity, seed)  # fair among what may enter


def test_without_capacity_nothing_is_kept_or_counted() -> None:
    memory = Memory.empty(6, seed=3)
    offer(memory, 0, [0] * 30)
    memory.resize(0)
    offer(memory, 0, [0] * 5)
    assert (len(memory), memory.seen, memory.counts, memory.inputs) == (0, 0, {}, ())
    memory.resize(9)
    offer(memory, 0, [0] * 5)
    assert held(memory) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("disk", [False, True])
def test_bytes_bound_the_slots(disk: bool, tmp_path: Path) -> None:
    row = 3 * 4 + 8 + 4 + 8 + 8 + 8  # inputs, target, position, stratum, priority
    allocate = mapped(tmp_path) if disk else in_ram
    memory = Memory.empty(1000, seed=1, bytes_max=50 * row + row - 1, allocate=allocate)
    offer_cut(memory, [0] * 500, [10] * 40)
    assert memory.capacity == len(memory) == 50
    assert held(memory) == brute_force([0] * 500, 50, seed=1)
    memory.resize(1000)
    assert memory.capacity == 50
    offer(memory, 500, [0] * 10, outputs=3)  # rows get larger
    assert memory.capacity == len(memory) == (50 * row + row - 1) // (row + 12)
    if disk:
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= memory.bytes_max  # type: ignore[operator]
    memory.bytes_max = 10 * row
    memory.resize(1000)
    assert memory.capacity == len(memory) == 10 * row // (row + 12)
    assert held(memory) == brute_force([0] * 510, memory.capacity, seed=1)
    if disk:
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 10 * row


# ------------------------------------------------------------------------------ state


@settings(max_examples=40)
@given(stratum=STREAMS, cuts=CUTS, more=STREAMS, capacity=st.integers(1, 30), outputs=st.integers(0, 2))
def test_restored_it_goes_on_as_if_never_interrupted(
    stratum: list[int], cuts: list[int], more: list[int], capacity: int, outputs: int
) -> None:
    memory = Memory.empty(capacity, seed=7, outputs=outputs)
    offer_cut(memory, stratum, cuts, outputs=outputs)
    memory.erase(range(0, len(stratum), 4))
    saved = {name: tensor.clone() for name, tensor in memory.tensors().items()}
    restored = Memory.restore(saved, json.loads(json.dumps(memory.meta())))
    assert_same(memory, restored)
    for one in (memory, restored):
        offer_cut(one, more, cuts, first=len(stratum), outputs=outputs + 1)
    assert_same(memory, restored)


@pytest.mark.parametrize("capacity", [9, 64])
def test_on_disk_it_is_the_same_bit_for_bit(capacity: int, tmp_path: Path) -> None:
    stratum = np.random.default_rng(0).integers(0, 4, 300).tolist()

    def run(allocate: Allocate, again: Allocate) -> Memory:
        memory = Memory.empty(capacity, seed=1, outputs=2, allocate=allocate)
        offer_cut(memory, stratum[:100], [10] * 9, outputs=2)
        memory.erase(range(20))
        memory = Memory.restore(memory.tensors(), memory.meta(), again)
        offer_cut(memory, stratum[100:200], [10] * 9, first=100, outputs=3)
        memory.resize(capacity - 2)
        offer_cut(memory, stratum[200:], [10] * 9, first=200)
        return memory

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    disk = run(mapped(tmp_path / "a"), mapped(tmp_path / "b"))
    assert_same(disk, run(in_ram, in_ram))
    files = sorted((tmp_path / "b").iterdir())
    assert [file.stem for file in files] == sorted(disk.tensors())
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        held_bytes = disk.tensors()[file.stem].numpy().tobytes()
        assert file.read_bytes()[: len(held_bytes)] == held_bytes


@pytest.mark.skipif(sys.platform != "linux", reason="sparse files and st_blocks")
def test_files_take_no_more_disk_than_was_written(tmp_path: Path) -> None:
    memory = Memory.empty(1_000_000, seed=0, allocate=mapped(tmp_path))
    offer(memory, 0, [0] * 100)
    sizes = [file.stat() for file in tmp_path.iterdir()]
    assert sum(size.st_size for size in sizes) == 48 * 1_000_000
    assert sum(size.st_blocks * 512 for size in sizes) < 1_000_000


def test_a_file_larger_than_the_free_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"inputs\.0 takes .* lower memory_bytes"):
        mapped(tmp_path)("inputs.0", (1 << 52,), torch.float32)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------ outputs


def test_outputs_stay_with_their_rows_while_heads_grow() -> None:
    memory = Memory.empty(20, seed=2)
    widths = [0, 2, 0, 5, 3, 0, 5]
    for batch, width in enumerate(widths):
        offer(memory, 30 * batch, [batch % 3] * 30, outputs=width)
    out_MK = memory.outputs
    assert out_MK is not None
    assert out_MK.shape == (20, 5)
    assert len({position // 30 for position in held(memory)}) > 4
    for position, out_K in zip(memory.position.tolist(), out_MK, strict=True):
        width = widths[position // 30]
        assert out_K[:width].tolist() == [position + k / 8 for k in range(width)]
        assert out_K[width:].isnan().all()


def test_none_are_stored_without_and_nan_before_they_come() -> None:
    memory = Memory.empty(5, seed=0)
    offer(memory, 0, [0] * 9)
    assert memory.outputs is None
    memory = Memory.empty(5, seed=0, outputs=2)
    offer(memory, 0, [0] * 9)
    assert memory.outputs is not None
    assert memory.outputs.isnan().all()


def test_no_graph_is_kept_and_what_is_offered_may_change_afterwards() -> None:
    memory, number = Memory.empty(5, seed=0), torch.arange(5)
    x, out = torch.ones(5, 2, requires_grad=True), torch.ones(5, 3, requires_grad=True)
    memory.offer((x * 1,), torch.ones(5), number, number, out * 1)
    offered = torch.zeros(5, 2)
    memory.resize(10)
    memory.offer((offered,), torch.ones(5), number + 5, number, torch.ones(5, 3))
    offered += 7
    assert not any(tensor.requires_grad for tensor in memory.tensors().values())
    assert memory.inputs[0].tolist() == [[1.0, 1.0]] * 5 + [[0.0, 0.0]] * 5


# ------------------------------------------------------------------------------ erasing


@settings(max_examples=40)
@given(stratum=STREAMS, more=STREAMS, capacity=st.integers(1, 30), erased=st.sets(st.integers(0, 79)))
def test_erased_rows_are_gone_from_storage_and_the_others_stay_whole(
    stratum: list[int], more: list[int], capacity: int, erased: set[int]
) -> None:
    memory = Memory.empty(capacity, seed=5)
    offer(memory, 0, stratum)
    before, seen = held(memory), memory.seen
    assert memory.erase(erased) == len(before & erased)
    assert held(memory) == before - erased
    assert memory.seen == seen
    assert_whole(memory, stratum, seed=5)
    vacated = memory.slots._tensors["inputs.0"][len(memory) : len(before)]
    assert not vacated.any()
    offer(memory, len(stratum), more)
    assert not held(memory) & erased & before
    assert_whole(memory, [*stratum, *more], seed=5)


def test_the_room_of_erased_rows_is_filled_with_the_next_smallest() -> None:
    memory = Memory.empty(10, seed=6)
    offer(memory, 0, [0] * 200)
    erased = set(sorted(held(memory))[:4])
    memory.erase(erased)
    offer_cut(memory, [0] * 2000, [50] * 39, first=200)
    order = np.argsort(priorities(6, 2200)).tolist()
    assert len(memory) == 10
    assert held(memory) == set([number for number in order if number not in erased][:10])


# ------------------------------------------------------------------------------ weights, errors, cost


def test_recency_halves_the_weight_at_the_half_life() -> None:
    memory = Memory.empty(100, seed=0)
    assert memory.weights(20).tolist() == []
    offer(memory, 0, [0] * 41)
    weights = memory.weights(recency_rows=20)
    assert weights[-1] == 1.0
    assert weights[-21] == pytest.approx(0.5)
    assert weights[0] == pytest.approx(0.25)
    assert memory.weights(None).tolist() == [1.0] * 41


def test_what_does_not_fit_is_refused_by_name_and_changes_nothing() -> None:
    memory = Memory.empty(5, seed=0)
    offer(memory, 0, [0] * 9)
    before = {name: tensor.clone() for name, tensor in memory.tensors().items()}
    row, zero = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"inputs\.0"):
        memory.offer((torch.zeros(2, 4), zero), torch.zeros(2), zero, zero)
    with pytest.raises(ValueError, match="float32"):
        memory.offer((row, zero), zero, zero, zero)
    with pytest.raises(ValueError, match="differs in length"):
        memory.offer((row, zero), torch.zeros(2), zero, zero[:1])
    with pytest.raises(ValueError, match="priority is not finite"):
        memory.offer((row, zero), torch.zeros(2), zero, zero, priority=torch.tensor([0.1, torch.nan]))
    assert memory.seen == 9
    assert all(torch.equal(memory.tensors()[name], tensor) for name, tensor in before.items())
    with pytest.raises(ValueError, match="memory_bytes: 20 is less than one row of 48 bytes"):
        offer(Memory.empty(5, seed=0, bytes_max=20), 0, [0])


def test_the_cost_of_an_offer_does_not_grow_with_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted: slots written per offer fall as capacity / seen; nothing else depends on the stream's length."""
    memory = Memory.empty(50, seed=0)
    write, search = memory.slots.write, memory.strata._find_largest
    written, searched = 0, 0

    def counted_write(slots: Sequence[int], rows: Mapping[str, Tensor], source: Sequence[int]) -> None:
        nonlocal written
        written += len(slots)
        write(slots, rows, source)

    def counted_search() -> Stratum:
        nonlocal searched
        searched += 1
        return search()

    monkeypatch.setattr(memory.slots, "write", counted_write)
    monkeypatch.setattr(memory.strata, "_find_largest", counted_search)
    stream = np.random.default_rng(1).integers(0, 5, 20_000).tolist()
    offer_cut(memory, stream[:2000], [10] * 200)
    early, early_searches = written, searched
    offer_cut(memory, stream[2000:], [10] * 1800, first=2000)
    assert 50 * np.log(2000 / 50) == pytest.approx(early - 50, rel=0.25)
    assert 50 * np.log(20_000 / 2000) == pytest.approx(written - early, rel=0.25)
    assert searched == early_searches  # quotas settled long ago
