"""The order of iCaRL's Algorithm 4, by brute force."""

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from learners.herding import herding_priority
from learners.memory import Memory


def brute_force(features_nH: Tensor) -> list[int]:
    phi_nH = features_nH.double() / features_nH.double().norm(dim=1, keepdim=True)
    mean_H, order = phi_nH.mean(0), list[int]()
    for k in range(1, len(phi_nH) + 1):
        total_H = phi_nH[order].sum(0)
        left = [row for row in range(len(phi_nH)) if row not in order]
        order.append(min(left, key=lambda row: float((mean_H - (phi_nH[row] + total_H) / k).norm())))
    return order


@pytest.mark.parametrize("seed", range(5))
def test_the_order_is_the_greedy_one_in_every_stratum(seed: int) -> None:
    features_NH = torch.randn(70, 6, generator=torch.Generator().manual_seed(seed)) + 0.5
    stratum_N = torch.arange(70) % 3 * 10
    uniform_N = torch.rand(70, generator=torch.Generator().manual_seed(seed)).double()
    priority_N = herding_priority(features_NH, stratum_N, uniform_N)
    assert priority_N.dtype == torch.float64
    for name in (0, 10, 20):
        own = (stratum_N == name).nonzero().flatten()
        order = brute_force(features_NH[own])
        assert priority_N[own].argsort().tolist() == order
        expected = (torch.arange(len(own)) + uniform_N[own][order]) / len(own)
        assert torch.allclose(priority_N[own].sort().values, expected)


def test_a_memory_by_herding_holds_the_beginning_of_the_order_and_gives_up_its_end() -> None:
    features_NH = torch.randn(40, 4, generator=torch.Generator().manual_seed(1)) + 1
    first, number = brute_force(features_NH[:20]), torch.arange(20)
    second = [20 + row for row in brute_force(features_NH[20:])]
    memory = Memory.empty(10, seed=0)
    zeros = torch.zeros(20, dtype=torch.int64)
    priority = herding_priority(features_NH[:20], zeros, memory.uniform(20))
    memory.offer((number,), zeros, number, zeros, priority=priority)
    assert sorted(memory.position.tolist()) == sorted(first[:10])
    priority = herding_priority(features_NH[20:], zeros, memory.uniform(20))
    memory.offer((number,), zeros, number + 20, zeros + 1, priority=priority)
    assert sorted(memory.position.tolist()) == sorted(first[:5] + second[:5])


@pytest.mark.parametrize("rows", [1, 4])
def test_of_a_stream_of_small_offers_every_part_is_held_alike(rows: int) -> None:
    offers, capacity, trials = 96 // rows, 12, 40
    held = torch.zeros(96)
    features_NH = torch.randn(96, 3, generator=torch.Generator().manual_seed(4)) + 0.5
    for seed in range(trials):
        memory, zeros = Memory.empty(capacity, seed), torch.zeros(rows, dtype=torch.int64)
        for k in range(offers):
            number = torch.arange(rows * k, rows * (k + 1))
            priority = herding_priority(features_NH[number], zeros, memory.uniform(rows))
            memory.offer((number,), zeros, number, zeros, priority=priority)
        held[memory.position] += 1
    assert held.sum() == capacity * trials
    assert chisquare(held.reshape(8, -1).sum(1).numpy()).pvalue > 1e-3
    if rows > 1:  # of each offer the first of its order, which alone lie below 1 / rows
        firsts = [rows * k + brute_force(features_NH[rows * k : rows * (k + 1)])[0] for k in range(offers)]
        assert held[firsts].sum() == held.sum()


def test_only_the_first_are_ordered_if_no_more_are_needed_and_a_zero_row_does_no_harm() -> None:
    features_NH = torch.randn(30, 5, generator=torch.Generator().manual_seed(2)) + 0.3
    features_NH[4] = 0
    zeros, none = torch.zeros(30), torch.zeros(30).double()
    whole, part = (herding_priority(features_NH, zeros, none, most) for most in (None, 7))
    assert whole.isfinite().all()
    assert part.argsort()[:7].tolist() == whole.argsort()[:7].tolist()
    rest = part.argsort()[7:].tolist()
    assert rest == sorted(rest)
    assert sorted(part.tolist()) == sorted(whole.tolist())


def test_the_beginning_follows_the_mean_better_than_chance() -> None:
    generator = torch.Generator().manual_seed(3)
    features_NH = torch.randn(500, 8, generator=generator) + 0.5
    phi_NH = torch.nn.functional.normalize(features_NH.double())
    chosen = herding_priority(features_NH, torch.zeros(500), torch.zeros(500)).argsort()[:20]
    error = (phi_NH[chosen].mean(0) - phi_NH.mean(0)).norm()
    drawn = [torch.randperm(500, generator=generator)[:20] for _ in range(50)]
    assert error < 0.3 * min(float((phi_NH[index].mean(0) - phi_NH.mean(0)).norm()) for index in drawn)
