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
    """w (p,) of the working set and the intercept's change; ``fall``: of the model, ``left``: what it could still fall."""

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

    def __init__(self, objective: Objective, bound: float | None = None) -> None:
        """``bound``: taken for the curvature of the loss everywhere."""
        X: Features = objective.examples.X
        inner = X.X if isinstance(X, Scaled) else X
        self._objective, self._bound = objective, bound
        self._gram = _core.SparseGram(X, objective.threads) if isinstance(inner, CsrRows) else None
        self._c = 1.0  # of the last model

    def model(self, w: Array, columns: Array) -> Model:
        """At w (d + 1, 1), over increasing columns."""
        objective = self._objective
        p, total, intercept = len(columns), objective.total_weight, objective.fit_intercept
        h = self._of_rows(w)
        objective.passes += 1
        if self._gram is not None:
            c = float(h.sum(dtype=np.float64)) / total
            self._c = c if c > 0 else 1.0
            self._gram.set(h, 1 / total, objective.penalty.l2)
            return self._extended(np.empty(0, dtype=np.int64), columns)
        H = np.empty((p + 1, p + 1))
        _core.gram(objective.examples.X, columns, h, H, intercept, objective.threads)
        H /= total
        sums, c, H = H[-1, :-1].copy(), float(H[-1, -1]), H[:-1, :-1].copy()
        H[np.diag_indices(p)] += objective.penalty.l2
        return Model(columns, H, sums, sums, c if c > 0 else 1.0, intercept)

    def covering(self, model: Model, columns: Array) -> Model | None:
        """The last model with these columns among its own; None where that needs a new one."""
        missing = np.setdiff1d(columns, model.columns, assume_unique=True)
        if len(missing) == 0:
            return model
        return None if self._gram is None else self._extended(model.columns, missing)

    def _of_rows(self, w: Array) -> Array:
        """weight times the curvature of the loss: (n,)"""
        examples, loss = self._objective.examples, self._objective.loss
        h = np.empty(examples.n, dtype=examples.dtype)
        if self._bound is not None:
            h[:] = self._bound if examples.weight is None else self._bound * examples.weight
            return h
        self._objective.passes += 1
        w, threads = w.astype(examples.dtype), self._objective.threads
        _core.curvatures(examples.X, examples.y, examples.weight, w, h, loss.name, loss.parameters(), threads)
        return h

    def _extended(self, columns: Array, more: Array) -> Model:
        assert self._gram is not None
        self._gram.add(more.astype(np.int32), self._objective.threads)
        *H, raw = self._gram.matrix()
        columns, X = np.append(columns, more), self._objective.examples.X
        if not self._objective.fit_intercept:
            return Model(columns, tuple(H), np.zeros(len(raw)), np.zeros(len(raw)), 1.0, False)
        sums = raw
        if isinstance(X, Scaled):
            sums = raw - self._c * (X.offset.astype(np.float64) * X.factor)[columns]
        return Model(columns, tuple(H), sums, raw, self._c, True)
