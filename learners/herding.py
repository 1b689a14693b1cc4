"""Herding: rows in the order in which their mean best follows the mean of all (iCaRL, arXiv:1611.10198, Algorithm 4).

With features phi of unit length and their mean mu, the k-th row is

    p_k = argmin_x || mu - 1/k (phi(x) + sum_{j<k} phi(p_j)) ||

among the rows not yet chosen, so that each beginning of the order is a good sample, and a memory that has to give up
rows drops them from the end. As a priority of `learners.memory` the order is (rank + u) / n, with the random number u
of the row: of many small offers each has the same chance to bring one of the rows that stay, as by reservoir sampling,
which it is where n = 1; the rank alone would let nothing in after the first of each offer have taken all slots.

Shapes: N rows, H features.
"""

from __future__ import annotations

import torch
from torch import Tensor


def herding_priority(
    features_NH: Tensor, stratum_N: Tensor, uniform_N: Tensor, most: int | None = None
) -> Tensor:
    """Return (rank + u) / n of every row in the herding order of the n rows of its stratum.

    Parameters
    ----------
    features_NH
        Features of the rows, such as `model.represent`'s.
    stratum_N
        The stratum of each row.
    uniform_N
        Random number u in [0, 1) of each row: the memory's `uniform`.
    most
        Rows to order in each stratum; the others follow as they came. No more than a memory's capacity are needed,
        and the time is proportional to them.

    Returns
    -------
    Tensor
        (N,) float64 in [0, 1), on the CPU.
    """
    phi_NH = torch.nn.functional.normalize(features_NH.detach().to("cpu", torch.float64))
    priority_N = torch.empty(len(phi_NH), dtype=torch.float64)
    for name in set(stratum_N.tolist()):
        index_n = (stratum_N == name).nonzero().flatten().cpu()
        priority_N[index_n] = (_rank(phi_NH[index_n], most) + uniform_N[index_n]) / len(index_n)
    return priority_N


def _rank(phi_nH: Tensor, most: int | None) -> Tensor:
    """Minimise || k mu - chosen - phi ||^2 = -2 phi (k mu - chosen) + phi^2 + const by one product per row chosen."""
    n = len(phi_nH)
    square_n, toward_n = phi_nH.square().sum(1), phi_nH @ phi_nH.mean(0)  # phi^2; phi mu
    overlap_n = torch.zeros_like(toward_n)  # phi times the sum of the chosen
    rank_n = torch.full((n,), -1.0, dtype=torch.float64)
    for k in range(1, min(n, n if most is None else most) + 1):
        distance_n = square_n - 2 * (k * toward_n - overlap_n)
        distance_n[rank_n >= 0] = torch.inf
        chosen = int(distance_n.argmin())
        rank_n[chosen] = k - 1
        overlap_n += phi_nH @ phi_nH[chosen]
    rest = rank_n < 0
    rank_n[rest] = torch.arange(n - int(rest.sum()), n, dtype=torch.float64)
    return rank_n
