"""L-BFGS (Liu and Nocedal 1989) with a preconditioner in the middle of its two loops: any smooth loss, any outputs.

The preconditioner is one weighted Gram matrix for all outputs, X' diag(h) X / n + l2 with h the mean of their curvatures (as
Boehning 1992, who takes a bound of them): its Cholesky factor where d is small, else its diagonal. It makes the solver
indifferent to the scales of the columns.
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
LOOK_AGAIN = 8  # the iteration that takes the curvatures where the weights are then; few pairs are forgotten so early
LEAST_CURVATURE = 0.1  # of the mean: rows far from every boundary bear next to none now, but may tomorrow


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


class Preconditioner:
    """g -> P^-1 g with P = X' diag(h) X / n + l2 from a sample of the rows, h the mean curvature of the outputs at the weights
    last seen; where the loss has none, its bound."""

    def __init__(self, objective: Objective) -> None:
        examples, d = objective.examples, objective.examples.d
        self._objective = objective
        self._fixed = np.zeros(d + 1, dtype=bool)
        self._fixed[-1] = not objective.fit_intercept
        self._few = examples.sample(max(4000, 10 * d)) if d <= LARGEST_FACTOR else examples.sample(4000, LARGEST_SAMPLE)
        # steps along rows of X only lead to the solution of smallest norm
        shortest = objective.loss.name == "squared_error" and objective.penalty.l2 == 0 and examples.n <= d
        self._none = shortest or self._few.total_weight <= 0  # the last where every sampled row has weight 0
        self._mean = 0.0  # curvature
        self.solve: Solve = lambda g: g

    def misleads(self, w: Array) -> bool:
        """Is the curvature at w far below the one seen? Then a decrement by it promises an optimum that is not there."""
        return not self._none and float(self._curvatures(w).mean(dtype=np.float64)) < self._mean / 4

    def look(self, w: Array) -> None:
        """From now on with the curvatures at w."""
        if self._none:
            return
        objective, few, d = self._objective, self._few, self._few.d
        total, l2, weight = few.total_weight, objective.penalty.l2, self._curvatures(w)
        self._mean = float(weight.mean(dtype=np.float64))
        if d <= LARGEST_FACTOR:
            gram = Examples(few.X, np.zeros(few.n, dtype=few.dtype), weight)
            zero = np.zeros((d + 1, 1), dtype=few.dtype)
            H = objective.backend.hessian(gram, SquaredError(), zero, objective.fit_intercept, objective.threads)[2]
            H /= total
            H[np.diag_indices(d)] += l2
            self.solve = Factor(H, self._fixed).solve
            return
        mass = float(weight.sum(dtype=np.float64)) / total
        diagonal = np.append(mass * mean_squares(few.X, weight, objective.threads) + l2, mass)
        inverse = np.where(self._fixed, 0.0, 1 / np.where(diagonal > 0, diagonal, 1.0))[:, None]
        self.solve = lambda g: inverse * g

    def _curvatures(self, w: Array) -> Array:
        """(n,) of the sampled rows, times their weights"""
        objective, few = self._objective, self._few
        weight = np.ones(few.n, dtype=few.dtype) if few.weight is None else few.weight
        if not objective.loss.twice_differentiable:
            return weight * few.dtype.type(objective.loss.curvature_bound or 1.0)
        z = objective.backend.margins(few.X, w.astype(few.dtype), objective.threads)
        targets = few.y.reshape(few.n, -1)
        h = objective.loss.curvature(z, targets).mean(axis=1, dtype=np.float64)
        return (weight * np.maximum(h, LEAST_CURVATURE * h.mean())).astype(few.dtype)


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
    preconditioner, pairs = Preconditioner(objective), Pairs()
    preconditioner.look(w)
    f, g = objective.gradient(w)
    if not (math.isfinite(f) and np.isfinite(g).all()):
        raise FloatingPointError("the objective is not finite: scale the columns of X, y or sample_weight")
    history, scale, quiet, stuck = [f], 1.0, 0, False
    excess = math.inf
    for iteration in range(1, max_iter + 1):
        if callback is not None:
            callback(iteration, f)
        if iteration == LOOK_AGAIN or ((quiet == 1 or stuck) and preconditioner.misleads(w)):
            quiet, stuck = 0, False
            preconditioner.look(w)
            pairs.clear()
            scale = 1.0
        direction = pairs.direction(g, preconditioner.solve, scale)
        slope = inner(g, direction)
        norm = length(g)
        excess = objective.relative(0.5 * slope, f)
        quiet = quiet + 1 if excess <= tol else 0
        if quiet == 2 or norm == 0:
            return Solution(w, f, norm, excess, iteration, True, f"decrement {excess:.1e} of the objective", history)
        if stuck:
            reason = "no step along the direction lowers the objective further"
            return Solution(w, f, norm, excess, iteration, excess < 10 * rounding, reason, history)
        t = 1.0
        while True:
            trial = w - t * direction
            f_trial, g_trial = objective.gradient(trial)
            if math.isfinite(f_trial) and f_trial <= f - 1e-4 * t * slope + rounding * abs(f):
                break
            t *= 0.25
            stuck = t < 1e-8
            if stuck:
                break
        if stuck:
            continue
        s, y = trial - w, g_trial - g
        if sy := pairs.add(s, y):
            scale = sy / max(inner(y, preconditioner.solve(y)), np.finfo(float).tiny)
        w, f, g = trial, f_trial, g_trial
        history.append(f)
    return Solution(w, f, length(g), excess, max_iter, False, f"{max_iter} iterations were not enough", history)
