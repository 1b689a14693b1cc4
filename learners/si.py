"""Synaptic intelligence (Zenke et al. 2017, arXiv:1703.04200): importance from the path, at no extra pass.

    omega_i = - sum over steps of g_i (theta_i after - theta_i before)            equation 3, g of the task's loss alone
    Omega_i = gamma Omega_i before + max(omega_i, 0) / (Delta_i^2 + xi)           equation 5 (there gamma = 1)
    L(theta) = L_new(theta) + lambda/2 sum_i Omega_i (theta_i - theta*_i)^2       equation 4 (c = lambda/2)

omega_i is the share of parameter i in the decrease of the loss since the last consolidation, Delta_i the distance
that it went. What one consolidation adds is normalised like Fisher information (`learners.fisher.normalised`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from learners.fisher import normalised
from learners.quadratic import Consolidation, Named, onto


class PathIntegral:
    """omega since the last consolidation, and where that was. Begins empty at the parameters as they are."""

    def __init__(self, parameters: Named) -> None:
        trained = {name: p.detach() for name, p in parameters.items() if p.requires_grad}
        self.omega: dict[str, Tensor] = {name: torch.zeros_like(p) for name, p in trained.items()}
        self.origin: dict[str, Tensor] = {name: p.clone() for name, p in trained.items()}
        self._before: dict[str, tuple[Tensor, Tensor]] = {}  # gradient and weights before the step

    @torch.no_grad()
    def before_step(self, parameters: Named) -> None:
        """Note weights and gradients; call it while `.grad` is that of the task's loss, neither pulled nor clipped."""
        noted = ((name, parameters[name], parameters[name].grad) for name in self.omega)
        self._before = {name: (g.clone(), theta.clone()) for name, theta, g in noted if g is not None}

    @torch.no_grad()
    def after_step(self, parameters: Named) -> None:
        """Add the step just taken to the path."""
        for name, (gradient, theta) in self._before.items():
            self.omega[name].addcmul_(gradient, theta.sub_(parameters[name]))
        self._before = {}

    def tensors(self) -> dict[str, Tensor]:
        """Return the state between two steps, by `omega.<parameter>` and `origin.<parameter>`."""
        return {f"omega.{name}": values for name, values in self.omega.items()} | {
            f"origin.{name}": values for name, values in self.origin.items()
        }

    def aligned(self, parameters: Named) -> Self:
        """Return it in the shapes of the given parameters; itself if all fit already."""
        trained = {name: p.shape for name, p in parameters.items() if p.requires_grad}
        if trained == {name: values.shape for name, values in self.omega.items()}:
            return self
        return self.restore(self.tensors(), parameters)

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], parameters: Named) -> Self:
        """Return the path that `tensors()` described; parameters and rows that it does not know begin here."""
        path = cls(parameters)
        for name in path.omega:
            if f"omega.{name}" in tensors:
                path.omega[name] = onto(path.omega[name], tensors[f"omega.{name}"])
                path.origin[name] = onto(path.origin[name], tensors[f"origin.{name}"])
        return path


def consolidate(
    before: Consolidation, parameters: Named, path: PathIntegral, gamma: float, damping: float
) -> Consolidation:
    """Return the consolidation at the optimum just reached by `path`; begin a new path there afterwards."""
    latest = {
        name: omega.clamp_min(0) / ((parameters[name].detach() - path.origin[name]).square() + damping)
        for name, omega in path.omega.items()
    }
    return before.after(parameters, normalised(latest), gamma)
