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

from gdfast.layouts import CsrRows, Quantized, Scaled
from gdfast.solvers import proximal
from gdfast.solvers.newton import ROUNDING
from gdfast.solvers.objective import Objective, Solution, length
from gdfast.solvers.subsampled_newton import rows_of_hessian
from gdfast.solvers.working_set import Curvature, Model, Step

Array = np.ndarray[Any, Any]

LARGEST_DENSE, LARGEST_SPARSE = 2000, 8000  # working sets
PRECISION, ROUNDS = 1e-3, 20  # of the minimum of a model
SLOW = 0.4  # a model is worn out when its steps do not shrink to so much of the one before
FIRST_ROWS, FEWEST_ROWS = 8, 4096  # one row in so many makes the first model, which is of a place far from the optimum


def takes(objective: Objective) -> bool:
    """Whether this solver can: one output, a loss with a curvature."""
    X, loss = objective.examples.X, objective.loss
    if isinstance(X, Scaled) and isinstance(X.X, CsrRows) and X.offset.any() and not objective.fit_intercept:
        return False
    if isinstance(X, CsrRows) and max(X.n, X.d) >= 2**31:
        return False
    if isinstance(X.X if isinstance(X, Scaled) else X, Quantized):  # its columns are never gathered
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
    """The models of an objective, at one w after the other; the first ones are of some of the rows.

    One is used again while the steps to the minima shrink: the curvature, which it is made of, changes less and less. Few
    dense rows do for many steps. Of rare columns of sparse rows few rows show too little: only the first model is theirs.
    """

    def __init__(self, objective: Objective, few: Objective | None) -> None:
        loss = objective.loss
        constant = loss.name == "squared_error" or not loss.twice_differentiable
        self._bound = loss.curvature_bound if constant else None
        self._objectives = [objective] if few is None else [few, objective]
        self._curvature: Curvature | None = None
        self._last: Model | None = None
        self._made_here = False

    def at(self, w: Array, columns: Array) -> Model:
        self._made_here = False
        if self._last is not None and self._curvature is not None:
            self._last = self._curvature.covering(self._last, columns)
        return self._last or self._new(w, columns)

    @property
    def best(self) -> bool:
        """Was the last one made at the last w, of all rows?"""
        return len(self._objectives) == 1 and (self._made_here or self._bound is not None)

    def better(self, w: Array, columns: Array) -> Model:
        """One made at w or, where the last one was, of all rows."""
        if self._made_here or self._bound is not None:
            self.of_all_rows()
        return self._new(w, columns)

    def of_all_rows(self) -> None:
        """All from the next one on."""
        if len(self._objectives) > 1:
            del self._objectives[0]
            self._curvature = self._last = None

    def _new(self, w: Array, columns: Array) -> Model:
        self._curvature = self._curvature or Curvature(self._objectives[0], self._bound)
        self._last, self._made_here = self._curvature.model(w, columns), True
        return self._last


def _on_few_rows(objective: Objective, sparse: bool) -> Objective | None:
    """The objective on as many rows as the first models are of; None where these are no fewer than all."""
    n, d = objective.examples.n, objective.examples.d
    few = objective.on_sample(max(n // FIRST_ROWS, FEWEST_ROWS) if sparse else rows_of_hessian(n, d))
    return few if few.examples is not objective.examples and few.total_weight > 0 else None


def _working_set(g: Array, v: Array, l1: float, largest: int) -> tuple[Array, bool]:
    """(columns, whether all that belong there are among them): where there are too many, those of the largest gradients"""
    excess = np.abs(g) - l1
    wanted = (v != 0) | (excess > 0)
    columns = np.flatnonzero(wanted)
    if len(columns) <= largest:
        return columns, True
    excess[v != 0] = np.inf
    return np.sort(np.argpartition(-excess, largest)[:largest]), False


def _from_few_rows(few: Objective, w: Array) -> Array:
    """Their minimum, whose excess is about columns / rows; w where they have none."""
    try:
        solution = minimize(few, w, tol=few.examples.d / few.examples.n, max_iter=25)
    except FloatingPointError:
        return w
    return solution.w if np.isfinite(solution.w).all() else w


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
    sparse = isinstance(examples.X.X if isinstance(examples.X, Scaled) else examples.X, CsrRows)
    largest = LARGEST_SPARSE if sparse else LARGEST_DENSE
    w = _start(objective, w)
    few = _on_few_rows(objective, sparse)
    if few is not None and not sparse:
        w = _from_few_rows(few, w)
    models = _Models(objective, few)
    f, g = objective.gradient(w)
    if not (math.isfinite(f) and np.isfinite(g).all()):
        raise FloatingPointError("the objective is not finite: scale the columns of X, y or sample_weight")
    total = objective.total(f, w)
    history = [total]
    excess, norm, fall = math.inf, math.inf, math.inf
    for iteration in range(1, max_iter + 1):
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

        model = models.at(w, columns)
        found = minimum(model)
        while found.fall > SLOW * fall and not models.best:
            model = models.better(w, columns)
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
            with np.errstate(over="ignore"):
                trial = w + t * step
                f_trial, g_trial = objective.gradient(trial)
            total_trial = objective.total(f_trial, trial)
            if math.isfinite(total_trial) and total_trial <= total - 1e-4 * t * found.fall + rounding * abs(total):
                w, f, g, total = trial, f_trial, g_trial, total_trial
                history.append(total)
                if sparse:
                    models.of_all_rows()
                break
            fall = 0.0  # no other model will do but the best one
            if not models.best:
                break
            t *= 0.25
            if t < 1e-8:
                return Solution(
                    w, total, norm, excess, iteration, excess < 1e3 * rounding,
                    "no step towards the minimum of its model lowers the objective further", history,
                )  # fmt: skip
    return Solution(w, total, norm, excess, max_iter, False, f"{max_iter} iterations were not enough", history)
