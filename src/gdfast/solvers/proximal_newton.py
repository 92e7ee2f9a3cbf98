"""Proximal Newton on a working set (Yuan, Ho and Lin 2012; Lee, Sun and Saunders 2014): L1 and elastic net of one output.

The working set are the columns whose weight is not 0, or whose gradient exceeds l1 and so wants it not to be. Over these the
objective is replaced by its quadratic model, which coordinate descent and conjugate gradients minimise in memory; the step is
shortened where the objective itself does not fall with it. A loss whose curvature jumps is replaced by one of its largest
curvature everywhere: the model is then above the objective, and made once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gdfast.layouts import CsrRows, Scaled
from gdfast.solvers import proximal
from gdfast.solvers.newton import ROUNDING
from gdfast.solvers.objective import Objective, Solution, length
from gdfast.solvers.working_set import Curvature, Model, Step

Array = np.ndarray[Any, Any]

LARGEST_DENSE, LARGEST_SPARSE = 2000, 8000  # working sets
PRECISION, ROUNDS = 1e-2, 20  # of the minimum of a model
SLOW = 0.1  # a model is worn out when its steps do not shrink to so much of the one before
FIRST_ROWS = 8  # one row in so many makes the first model, which is of a place far from the optimum


def takes(objective: Objective) -> bool:
    """Whether this solver can: one output, a loss with a curvature."""
    X, loss = objective.examples.X, objective.loss
    if isinstance(X, Scaled) and isinstance(X.X, CsrRows) and X.offset.any() and not objective.fit_intercept:
        return False
    if isinstance(X, CsrRows) and max(X.n, X.d) >= 2**31:
        return False
    return objective.examples.k == 1 and (loss.twice_differentiable or loss.curvature_bound is not None)


def _start(objective: Objective, w: Array) -> Array:
    """w or, where that is 0, the intercept that predicts the mean of y."""
    examples, loss = objective.examples, objective.loss
    if w.any() or not objective.fit_intercept or not objective.total_weight > 0:
        return w
    mean: Any = np.average(examples.y.astype(np.float64), weights=examples.weight)
    with np.errstate(all="ignore"):
        if loss.target == "binary":
            mean = np.log(mean / (1 - mean)) if loss.link == "logistic" else 0.0
        elif loss.link == "exp":
            mean = np.log(mean)
    w = w.copy()
    w[-1] = mean if np.isfinite(mean) else 0.0
    return w


class _Models:
    """The models of an objective, at one w after the other. The first is of some of the rows. The second and further ones
    are used again while the steps to their minima shrink: what they are of, the curvature, changes less and less."""

    def __init__(self, objective: Objective) -> None:
        loss = objective.loss
        self._objective = objective
        self._constant = loss.name == "squared_error" or not loss.twice_differentiable
        self._curvature: Curvature | None = None
        self._last: Model | None = None
        self._first = not self._constant

    def at(self, w: Array, columns: Array) -> tuple[Model, bool]:
        """(model, whether it was made elsewhere)"""
        if self._first:
            self._first = False
            few = self._objective.on_sample(max(self._objective.examples.n // FIRST_ROWS, 30 * len(columns)))
            if few.examples is not self._objective.examples and few.total_weight > 0:
                return Curvature(few).model(w, columns), False
        if self._last is not None and self._curvature is not None:
            known = self._curvature.covering(self._last, columns)
            if known is not None:
                self._last = known
                return known, not self._constant
        return self.new(w, columns), False

    def new(self, w: Array, columns: Array) -> Model:
        bound = self._objective.loss.curvature_bound if self._constant else None
        self._curvature = self._curvature or Curvature(self._objective, bound)
        self._last = self._curvature.model(w, columns)
        return self._last


def _working_set(g: Array, v: Array, l1: float, largest: int) -> tuple[Array, bool]:
    """(columns, whether all that belong there are among them): where there are too many, those of the largest gradients"""
    excess = np.abs(g) - l1
    wanted = (v != 0) | (excess > 0)
    columns = np.flatnonzero(wanted)
    if len(columns) <= largest:
        return columns, True
    excess[v != 0] = np.inf
    return np.sort(np.argpartition(-excess, largest)[:largest]), False


def minimize(
    objective: Objective,
    w: Array,
    *,
    tol: float,
    max_iter: int,
    callback: Callable[[int, float], object] | None = None,
) -> Solution:
    """Until the model's fall to its minimum is below tol |f|. Each iteration reads X once, a new model twice more."""
    examples, l1, rounding = objective.examples, objective.penalty.l1, ROUNDING[objective.examples.dtype]
    X = examples.X.X if isinstance(examples.X, Scaled) else examples.X
    largest = LARGEST_SPARSE if isinstance(X, CsrRows) else LARGEST_DENSE
    models = _Models(objective)
    w = _start(objective, w)
    f, g = objective.gradient(w)
    if not (math.isfinite(f) and np.isfinite(g).all()):
        raise FloatingPointError("the objective is not finite: scale the columns of X, y or sample_weight")
    total, history = objective.total(f, w), []
    excess, norm, fall = math.inf, math.inf, math.inf
    for iteration in range(1, max_iter + 1):
        history.append(total)
        if callback is not None:
            callback(iteration, total)
        with np.errstate(over="ignore"):
            norm = length(proximal.smallest_subgradient(objective, w, g))
        if not math.isfinite(norm):
            raise FloatingPointError("the gradient is too large: scale the columns of X, y or sample_weight")
        if np.count_nonzero(w[:-1]) > largest:
            return proximal.minimize(objective, w, tol=tol, max_iter=max_iter, callback=callback)
        columns, complete = _working_set(g[:-1, 0], w[:-1, 0], l1, largest)
        scale = max(abs(total), 1e-6 * abs(objective.first or 0.0))

        def minimum(model: Model, w: Array = w, g: Array = g, enough: float = 0.1 * tol * scale) -> Step:
            return model.minimize(g[:, 0], w[:, 0], l1, precision=PRECISION, enough=enough, rounds=ROUNDS)

        model, elsewhere = models.at(w, columns)
        found = minimum(model)
        if elsewhere and found.fall > SLOW * fall:
            model = models.new(w, columns)
            found = minimum(model)
        fall = found.fall
        step = np.zeros_like(w)
        step[model.columns, 0] = found.w - w[model.columns, 0]
        step[-1] = found.intercept
        excess = objective.relative(found.fall + found.left, total)
        if complete and found.converged and excess <= tol:
            reason = f"a model of the objective falls by {excess:.1e} of it"
            return Solution(w + step, total, norm, excess, iteration, True, reason, history)
        t = 1.0
        while True:
            trial = w + t * step
            f_trial, g_trial = objective.gradient(trial)
            total_trial = objective.total(f_trial, trial)
            if math.isfinite(total_trial) and total_trial <= total - 1e-4 * t * found.fall + rounding * abs(total):
                break
            t *= 0.25
            if t < 1e-8:
                return Solution(
                    w, total, norm, excess, iteration, excess < 1e3 * rounding,
                    "no step towards the minimum of its model lowers the objective further", history,
                )  # fmt: skip
        w, f, g, total = trial, f_trial, g_trial, total_trial
    return Solution(w, total, norm, excess, max_iter, False, f"{max_iter} iterations were not enough", history)
