"""Gradient descent preconditioned by the Hessian of a subsample: smooth losses of one output, many more rows than columns.

Newton's method on a few rows, then on more of them, gives w and H; from there w <- w - B^-1 g with g from all rows and B made
of H and the last gradients (L-BFGS). Each pass over X divides the excess by about (rows of H) / 2 d. Where steps fail or
progress is slow (few rows bear weight, classes nearly separable, columns that the subsample did not see), H is taken from 8
times as many rows, once; then Newton's method takes all. Erdogdu and Montanari 2015; Roosta-Khorasani and Mahoney 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from gdfast.solvers import newton
from gdfast.solvers.lbfgs import Pairs
from gdfast.solvers.newton import ROUNDING
from gdfast.solvers.objective import Factor, Objective, Solution, inner, length

Array = np.ndarray[Any, Any]

GROWTH = 8  # of the subsample, where it was too small
MISLED = 1.0  # relative rise from the objective of the few rows to that of all rows which says so
ITERATIONS = 25  # of Newton's method on a subsample


def rows_of_hessian(n: int, d: int) -> int:
    """So many that their Hessian costs about one pass over all rows, and 30 a column at least."""
    return max(30 * d, int(0.7 * n / d))


def rows_of_start(d: int) -> int:
    return (10 if d >= 100 else 50) * d


def _newton_on(few: Objective, w: Array) -> tuple[Array, float, Factor] | None:
    """(w, objective, factor) of Newton's method on few rows, whose optimum is off by (d + 1) / 2 rows or so; None where
    they have no answer."""
    if not few.total_weight > 0:
        return None
    try:
        solution = newton.minimize(few, w, tol=len(w) / few.examples.n, max_iter=ITERATIONS)
    except FloatingPointError:
        return None
    if not (isinstance(solution.factor, Factor) and np.isfinite(solution.w).all()):
        return None
    return solution.w, solution.objective, solution.factor


def minimize(
    objective: Objective,
    w: Array,
    *,
    tol: float,
    max_iter: int,
    callback: Callable[[int, float], object] | None = None,
) -> Solution:
    """Until the decrement g' B^-1 g / 2 is below tol |f|. Each iteration reads X once, and at times some of its rows."""
    n, d, rounding = objective.examples.n, objective.examples.d, ROUNDING[objective.examples.dtype]
    fixed = np.zeros(len(w), dtype=bool)
    fixed[-1] = not objective.fit_intercept
    history: list[float] = []
    began = w

    def on_all_rows(iterations: int) -> Solution:
        # from the start: a subsample without some rare column can leave weights in a place that is hard to leave
        rest = newton.minimize(objective, began, tol=tol, max_iter=max(1, max_iter - iterations), callback=callback)
        return replace(rest, n_iter=iterations + rest.n_iter, history=history + rest.history)

    rows = rows_of_hessian(n, d)
    few = objective.on_sample(rows)
    fewer = few.on_sample(rows_of_start(d))
    first = _newton_on(fewer, w)
    start = _newton_on(few, w if first is None else first[0])
    if start is None:
        return on_all_rows(0)
    objective.first = fewer.first
    accepted, pairs = w, Pairs()
    w, promised, factor = start
    f_accepted, g_accepted, step = math.inf, np.zeros_like(w), np.zeros_like(w)
    scale, excess, decrement, grown = 1.0, math.inf, math.inf, False
    for iteration in range(1, max_iter + 1):
        f, g = objective.gradient(w)
        finite = math.isfinite(f) and bool(np.isfinite(g).all())
        if not history and not (finite and f - promised <= MISLED * abs(promised)):
            # the optimum of the few rows is none of all rows: once more, from the start
            few = objective.on_sample(rows * GROWTH)
            start = _newton_on(few, accepted) if few.examples.n < n and not grown else None
            if start is None:
                return on_all_rows(iteration)
            grown = True
            w, promised, factor = start
            continue
        if finite and f <= f_accepted + rounding * abs(f_accepted):
            history.append(f)
            if callback is not None:
                callback(iteration, f)
            if len(history) > 1:
                pairs.add(w - accepted, g - g_accepted)
            accepted, f_accepted, g_accepted, scale = w, f, g, 1.0
            step = pairs.direction(g, factor.solve)
            before, decrement = decrement, 0.5 * inner(g, step)
            excess = objective.relative(decrement, f)
            # a column that the subsample holds no value of: its curvature, and so the decrement, is not known
            unseen = (factor.diagonal[:d] <= objective.penalty.l2) & (g[:d, 0] != 0)
            w = accepted - step
            if not unseen.any():
                if excess <= tol:
                    reason = f"decrement {excess:.1e} of the objective"
                    return Solution(w, f, length(g), excess, iteration, True, reason, history, factor)
                if decrement <= 0.25 * before:
                    continue
        elif scale == 1.0:
            scale /= 4
            w = accepted - scale * step
            continue
        # once more with more rows; where these fail too (rare columns), all rows cost less than to go on guessing
        few = objective.on_sample(rows * GROWTH)
        if few.examples.n == n or grown:
            return on_all_rows(iteration)
        grown = True
        factor, pairs = Factor(few.hessian(accepted)[2], fixed), Pairs()
        scale, decrement, step = 1.0, math.inf, factor.solve(g_accepted)
        w = accepted - step
    return Solution(
        accepted, f_accepted, length(g_accepted), excess, max_iter, False,
        f"{max_iter} iterations were not enough", history,
    )  # fmt: skip
