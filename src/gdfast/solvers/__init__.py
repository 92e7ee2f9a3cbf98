"""Solvers: one file each. ``choose`` picks the one for full-data problems and says why."""

from __future__ import annotations

from types import ModuleType

from gdfast.solvers.objective import Objective

# Columns up to which a Hessian is formed and factored: again and again, or once for squared error.
LARGEST_HESSIAN = 1000
LARGEST_GRAM = 2000


def choose(objective: Objective) -> tuple[ModuleType, str]:
    """(solver module, one sentence why): its ``minimize(objective, w, tol=..., max_iter=...)`` is what to call."""
    from gdfast.solvers import lbfgs, newton, proximal

    d, k = objective.examples.d, objective.examples.k
    if objective.penalty.l1 > 0:
        return proximal, "the penalty has an L1 part: accelerated proximal gradient"
    if d <= LARGEST_GRAM and objective.loss.name == "squared_error":
        return newton, f"squared error with {d} columns: Gram matrix and Cholesky"
    if d <= LARGEST_HESSIAN and k == 1 and objective.loss.twice_differentiable:
        return newton, f"one output and {d} columns: Newton's method"
    return lbfgs, f"{k} outputs, {d} columns: preconditioned L-BFGS"
