"""Newton's method for smooth losses of one output, and for squared error of any number of outputs.

w <- w - s (H + ridge)^-1 g, with s = 1 unless the objective rose. Squared error has a constant H: one Gram matrix, one
factor, and the further steps only refine against rounding. Where H is singular and there is no penalty, its pseudo-inverse
gives the solution of smallest norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gdfast.layouts import to_dense
from gdfast.plan import Examples
from gdfast.solvers.objective import Factor, Objective, PseudoInverse, Solution, inner, length
from gdfast.streams import Stream

Array = np.ndarray[Any, Any]

# the objective is a sum of float32 or float64 terms: a rise below this share is rounding
ROUNDING = {np.dtype(np.float32): 2e-7, np.dtype(np.float64): 1e-14}
QUIET = 20  # iterations in a row that change the objective by no more


def minimize(
    objective: Objective,
    w: Array,
    *,
    tol: float,
    max_iter: int,
    callback: Callable[[int, float], object] | None = None,
) -> Solution:
    """Until the Newton decrement g' H^-1 g / 2 is below tol |f|. Each iteration reads X once."""
    quadratic = objective.loss.name == "squared_error"
    rounding = ROUNDING[objective.examples.dtype]
    fixed = np.zeros(len(w), dtype=bool)
    fixed[-1] = not objective.fit_intercept
    factor: Factor | PseudoInverse | None = None
    accepted, f_accepted, step, scale = w, math.inf, np.zeros_like(w), 1.0
    history: list[float] = []
    excess, norm, quiet = math.inf, math.inf, 0
    for iteration in range(1, max_iter + 1):
        if quadratic and factor is not None:
            f, g = objective.gradient(w)
        else:
            f, g, H = objective.hessian(w)
        if iteration == 1 and not (math.isfinite(f) and np.isfinite(g).all()):
            raise FloatingPointError("the objective is not finite: scale the columns of X, y or sample_weight")
        quiet = quiet + 1 if f >= f_accepted - rounding * abs(f_accepted) else 0
        if not (math.isfinite(f) and f <= f_accepted + rounding * abs(f_accepted)) or quiet == QUIET:
            if scale < 1e-10 or quadratic or quiet == QUIET:
                converged = quiet < QUIET and excess < 1e3 * rounding
                return Solution(
                    accepted, f_accepted, norm, excess, iteration, converged,
                    "no step along Newton's direction lowers the objective further", history, factor,
                )  # fmt: skip
            scale /= 4
            w = accepted - scale * step
            continue
        if factor is None or not quadratic:
            factor = Factor(H, fixed)
            if quadratic and factor.ridge > 0 and objective.penalty.l2 == 0:
                factor = PseudoInverse(H, fixed, rounding)
                if factor.lost_in_rounding and _varies(objective.examples):
                    reason = "the columns are so far from 0 that their spread is lost in rounding: subtract their means"
                    return Solution(accepted, f, math.inf, math.inf, iteration, False, reason, [f])
        accepted, f_accepted, scale = w, f, 1.0
        history.append(f)
        if callback is not None:
            callback(iteration, f)
        step = factor.solve(g)
        norm = length(g)
        decrement = 0.5 * inner(g, step)
        excess = objective.relative(decrement, f)
        w = accepted - step
        if quadratic and isinstance(factor, Factor) and factor.ridge == 0 and rounding < 1e-12 and iteration == 1:
            # the next gradient would be this one but for the rounding of H, 1e-13 of it at most where the factor exists
            left = np.where(fixed[:, None], 0.0, g - H @ step)
            f, norm = f - decrement, length(left)
            excess = objective.relative(0.5 * inner(left, factor.solve(left)), f)
            history.append(f)
        if excess <= tol:
            reason = f"Newton decrement {excess:.1e} of the objective"
            return Solution(w, f, norm, excess, iteration, True, reason, history, factor)
    reason = f"{max_iter} iterations were not enough"
    return Solution(accepted, f_accepted, norm, excess, max_iter, False, reason, history, factor)


def _varies(examples: Examples | Stream) -> bool:
    """Is any column not constant, in some hundred rows?"""
    X = to_dense(examples.sample(100).X)
    return bool((X[1:] != X[0]).any())
