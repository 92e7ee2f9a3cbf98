"""The quadratic model of an objective over some of its columns, as proximal Newton methods minimise it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gdfast import _core
from gdfast.layouts import CsrRows, Features, Scaled
from gdfast.solvers.objective import Objective

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Step:
    """w (p,) of the working set and the intercept's change; ``fall``: of the model, ``left``: about what it could fall further."""

    w: Array
    intercept: float
    fall: float
    left: float
    converged: bool


@dataclass(frozen=True)
class Model:
    """s -> g's + s' H s / 2 over ``columns`` and the intercept, which is eliminated: H - h h' / c is what is left of H.

    H: (p, p), or (starts, columns, values) of its rows; h: (p,); c: the curvature of the intercept. ``raw`` is h of columns
    without their offsets, which H is of: centred by the intercept, both are the same.
    """

    columns: Array
    H: Any
    h: Array
    raw: Array
    c: float
    fit_intercept: bool

    def minimize(self, g: Array, w: Array, l1: float, *, precision: float, enough: float, rounds: int) -> Step:
        """The model's minimum with l1 |w|_1, from the gradient g (d + 1,) at w (d + 1,): to ``precision`` of its fall, or
        to ``enough``."""
        g_b = float(g[-1]) if self.fit_intercept else 0.0
        before = w[self.columns]
        after = before.copy()
        slope = g[self.columns] - self.h * (g_b / self.c)
        fall, left, converged = _core.minimize_model(
            self.H, self.raw, self.c, slope, l1, after, precision, enough, rounds
        )
        shift = -(g_b + float(self.h @ (after - before))) / self.c if self.fit_intercept else 0.0
        return Step(after, shift, fall + 0.5 * g_b * g_b / self.c, left, converged)


class Curvature:
    """Makes models of one objective. Sparse rows are copied once, column by column."""

    def __init__(self, objective: Objective) -> None:
        X: Features = objective.examples.X
        self._objective = objective
        inner = X.X if isinstance(X, Scaled) else X
        self._sparse = _core.SparseColumns(inner, objective.threads) if isinstance(inner, CsrRows) else None

    def model(self, w: Array, columns: Array, bound: float | None = None) -> Model:
        """At w (d + 1, 1), over increasing ``columns``; with ``bound``, of a loss of that curvature everywhere."""
        objective = self._objective
        examples, threads, total = objective.examples, objective.threads, objective.total_weight
        if bound is None:
            objective.passes += 1
            loss, h = objective.loss, np.empty(examples.n, dtype=examples.dtype)
            at = w.astype(examples.dtype)
            _core.curvatures(examples.X, examples.y, examples.weight, at, h, loss.name, loss.parameters(), threads)
        else:
            weight = np.ones(examples.n) if examples.weight is None else examples.weight
            h = (bound * weight).astype(examples.dtype)
        objective.passes += 1
        p, intercept, l2 = len(columns), objective.fit_intercept, objective.penalty.l2
        if self._sparse is None:
            H = np.empty((p + 1, p + 1))
            _core.gram(examples.X, columns, h, H, intercept, threads)
            H /= total
            sums, c, H = H[-1, :-1].copy(), float(H[-1, -1]), H[:-1, :-1].copy()
            H[np.diag_indices(p)] += l2
            return Model(columns, H, sums, sums, c if c > 0 else 1.0, intercept)
        raw = np.empty(p)
        H = self._sparse.gram(columns.astype(np.int32), h, 1 / total, l2, raw, threads)
        c = float(h.sum(dtype=np.float64)) / total
        if not intercept:
            return Model(columns, H, np.zeros(p), np.zeros(p), 1.0, False)
        sums = raw
        if isinstance(examples.X, Scaled):
            sums = raw - c * (examples.X.offset * examples.X.factor)[columns]
        return Model(columns, H, sums, raw, c if c > 0 else 1.0, True)
