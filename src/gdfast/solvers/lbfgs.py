"""L-BFGS (Liu and Nocedal 1989) with a preconditioner in the middle of its two loops: any smooth loss, any outputs.

The preconditioner is the bound of Boehning (1992), H <= c X'X / n + l2 with c the loss' largest curvature: its Cholesky
factor where d is small, else its diagonal. It makes the solver indifferent to the scales of the columns.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from gdfast.losses import SquaredError
from gdfast.plan import Examples
from gdfast.scaling import mean_squares
from gdfast.solvers.newton import ROUNDING
from gdfast.solvers.objective import Factor, Objective, Solution, inner, length

Array = np.ndarray[Any, Any]
Solve = Callable[[Array], Array]

LARGEST_FACTOR = 1500  # columns; a factor beyond costs more than the iterations that it saves
LARGEST_SAMPLE = 2**23  # numbers that a diagonal is taken from


class Pairs:
    """The last steps s and changes of the gradient y, and the two loops over them."""

    MEMORY = 20

    def __init__(self) -> None:
        self._pairs: deque[tuple[Array, Array, float]] = deque(maxlen=self.MEMORY)

    def add(self, s: Array, y: Array) -> float:
        """s'y, or 0 where the pair shows no curvature and is left out."""
        sy = inner(s, y)
        if not sy > 1e-10 * float(length(s) * length(y)):
            return 0.0
        self._pairs.append((s, y, 1 / sy))
        return sy

    def clear(self) -> None:
        self._pairs.clear()

    def direction(self, g: Array, solve: Solve, scale: float = 1.0) -> Array:
        """B^-1 g, with scale * solve(.) as B^-1 before the pairs."""
        q, coefficients = g.copy(), []
        for s, y, rho in reversed(self._pairs):
            a = rho * inner(s, q)
            coefficients.append(a)
            q -= a * y
        out = scale * solve(q)
        for (s, y, rho), a in zip(self._pairs, reversed(coefficients), strict=True):
            out += (a - rho * inner(y, out)) * s
        return out


def preconditioner(objective: Objective) -> Solve:
    """g -> P^-1 g with P about c X'X / n + l2, from a sample of the rows."""
    examples, d = objective.examples, objective.examples.d
    if objective.loss.name == "squared_error" and objective.penalty.l2 == 0 and examples.n <= d:
        return lambda g: g  # steps along rows of X only, which lead to the solution of smallest norm
    c = objective.loss.curvature_bound or 1.0
    few = examples.sample(max(4000, 10 * d)) if d <= LARGEST_FACTOR else examples.sample(4000, LARGEST_SAMPLE)
    fixed = np.zeros(d + 1, dtype=bool)
    fixed[-1] = not objective.fit_intercept
    gram = Examples(few.X, np.zeros(few.n, dtype=few.dtype), few.weight)
    total = gram.total_weight
    if total <= 0:  # every sampled row has weight 0
        return lambda g: g
    l2 = objective.penalty.l2
    if d <= LARGEST_FACTOR:
        zero = np.zeros((d + 1, 1), dtype=few.dtype)
        H = objective.backend.hessian(gram, SquaredError(), zero, objective.fit_intercept, objective.threads)[2]
        H *= c / total
        H[np.diag_indices(d)] += l2
        return Factor(H, fixed).solve
    diagonal = np.append(c * mean_squares(few.X, few.weight, objective.threads) + l2, c)
    inverse = np.where(fixed, 0.0, 1 / np.where(diagonal > 0, diagonal, 1.0))[:, None]
    return lambda g: inverse * g


def minimize(
    objective: Objective,
    w: Array,
    *,
    tol: float,
    max_iter: int,
    callback: Callable[[int, float], object] | None = None,
) -> Solution:
    """Until the model's decrement g' B^-1 g / 2 is below tol |f| twice in a row. One pass over X an iteration, seldom two."""
    rounding = ROUNDING[objective.examples.dtype]
    solve = preconditioner(objective)
    pairs = Pairs()
    f, g = objective.gradient(w)
    if not (math.isfinite(f) and np.isfinite(g).all()):
        raise FloatingPointError("the objective is not finite: scale the columns of X, y or sample_weight")
    history, scale, quiet = [f], 1.0, 0
    excess = math.inf
    for iteration in range(1, max_iter + 1):
        if callback is not None:
            callback(iteration, f)
        direction = pairs.direction(g, solve, scale)
        slope = inner(g, direction)
        norm = length(g)
        excess = objective.relative(0.5 * slope, f)
        quiet = quiet + 1 if excess <= tol else 0
        if quiet == 2 or norm == 0:
            return Solution(w, f, norm, excess, iteration, True, f"decrement {excess:.1e} of the objective", history)
        t = 1.0
        while True:
            trial = w - t * direction
            f_trial, g_trial = objective.gradient(trial)
            if math.isfinite(f_trial) and f_trial <= f - 1e-4 * t * slope + rounding * abs(f):
                break
            t *= 0.25
            if t < 1e-8:
                return Solution(
                    w, f, norm, excess, iteration, excess < 1e3 * rounding,
                    "no step along the direction lowers the objective further", history,
                )  # fmt: skip
        s, y = trial - w, g_trial - g
        if sy := pairs.add(s, y):
            scale = sy / max(inner(y, solve(y)), np.finfo(float).tiny)
        w, f, g = trial, f_trial, g_trial
        history.append(f)
    return Solution(w, f, length(g), excess, max_iter, False, f"{max_iter} iterations were not enough", history)
