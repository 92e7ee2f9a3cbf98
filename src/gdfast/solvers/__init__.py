"""Solvers: one file each. ``choose`` picks the one for full-data problems and says why."""

from __future__ import annotations

from types import ModuleType

from gdfast.solvers.objective import Objective
from gdfast.streams import Stream

# Columns up to which a Hessian is formed and factored: again and again, or once for squared error.
LARGEST_HESSIAN = 1000
LARGEST_GRAM = 2000
# Newton's method reads so little data in no time; beyond, its Hessian is taken from some rows if there are many a column.
SMALL_HESSIAN = 1e7
ROWS_A_COLUMN = 120


def choose(objective: Objective) -> tuple[ModuleType, str]:
    """(solver module, one sentence why): its ``minimize(objective, w, tol=..., max_iter=...)`` is what to call."""
    from gdfast.solvers import lbfgs, newton, newton_cg, proximal, proximal_newton, subsampled_newton

    n, d, k = objective.examples.n, objective.examples.d, objective.examples.k
    # what keeps a number for every row, or reads rows many times, is for rows in memory and runs that are not saved
    by_passes = objective.journal is not None or isinstance(objective.examples, Stream)
    if objective.penalty.l1 > 0 and by_passes:
        raise ValueError(
            "an L1 part of the penalty is not available for sources in blocks nor with checkpoint=: set l1_ratio=0, or use "
            "SGDClassifier(optimizer='ftrl', penalty='l1')"
        )
    if objective.penalty.l1 > 0:
        if proximal_newton.takes(objective):
            return proximal_newton, "the penalty has an L1 part: proximal Newton on a working set"
        return proximal, f"the penalty has an L1 part, {k} outputs: accelerated proximal gradient"
    if d <= LARGEST_GRAM and objective.loss.name == "squared_error":
        return newton, f"squared error with {d} columns: Gram matrix and Cholesky"
    if d <= LARGEST_HESSIAN and k == 1 and objective.loss.twice_differentiable:
        if n >= ROWS_A_COLUMN * d and (n * d * d > SMALL_HESSIAN or isinstance(objective.examples, Stream)):
            rows = subsampled_newton.rows_of_hessian(n, d)
            return (
                subsampled_newton,
                f"one output, {d} columns and {n} rows: preconditioned by the Hessian of {rows} rows",
            )
        return newton, f"one output and {d} columns: Newton's method"
    if k == 1 and objective.loss.twice_differentiable and (objective.penalty.l2 > 0 or n > d) and not by_passes:
        return newton_cg, f"one output and {d} columns: Newton's method by conjugate gradients"
    return lbfgs, f"{k} outputs, {d} columns: preconditioned L-BFGS"
