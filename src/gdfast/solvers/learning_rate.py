"""``learning_rate="auto"``: a rate from the data to start with, halved where it turns out too large.

For SGD from the curvature of the objective: with rows x (an intercept's 1 included), h the largest curvature of the loss in
its margin, b rows a step and momentum m,

    1 / rate = h (lambda + R2 / (b (1 - m))) + l2,   lambda the largest eigenvalue of E[x x'],  R2 = E[|x|^4] / E[|x|^2],

the inverse of the Lipschitz constant of the gradient and, beside it, the step at which the noise of small batches still
contracts (Bach and Moulines 2013). Rules that normalise the gradient move each weight by about the rate: it is set so that
one step moves the margin of a mean row by STRIDE of its scale. The steps of Adagrad and FTRL fall with the root of their
number, and begin LONGER. Adadelta finds the scale of the weights itself: its rate is 1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from gdfast.layouts import CsrRows, Features, Scaled, as_matrix, shape_of
from gdfast.losses import Loss
from gdfast.optimizers import FTRL, SGD, Adadelta, Adagrad
from gdfast.plan import Examples, Plan, State
from gdfast.schedules import Plateau, ReduceOnPlateau
from gdfast.streams import Stream

Array = np.ndarray[Any, Any]

ROWS, NUMBERS = 4096, 2**22  # looked at, at most
STRIDE, LONGER = 0.5, 10.0
STEPS = 32  # without progress that make a plateau, at least
ROUNDS = 50  # of the power iteration: lambda to a few per cent
# Found by trial over optimizers and data: the smallest patience that no noise of batches sets off too early, and ten
# halvings, so that what noise the last rate leaves is a thousandth.
AUTOMATIC = ReduceOnPlateau(1.0, factor=0.5, patience=5, threshold=1e-6, max_reductions=10, retries=30)


def is_automatic(plan: Plan) -> bool:
    return isinstance(plan.optimizer.learning_rate, str)


def begin(plan: Plan, examples: Examples | Stream, state: State) -> Plan:
    """The plan that runs instead of one with ``learning_rate="auto"``; the rate found is in ``state.plateau``, so that a
    run that is continued keeps it."""
    if state.plateau == Plateau():
        state.plateau = Plateau(scale=first_rate(plan, examples))
    patience = max(AUTOMATIC.patience, -(-STEPS // plan.steps(examples.n)))
    return replace(plan, optimizer=replace(plan.optimizer, learning_rate=replace(AUTOMATIC, patience=patience)))


def first_rate(plan: Plan, examples: Examples | Stream) -> float:
    """The rate of the first step, for ``plan.optimizer``, batch size, loss and penalty; from about ROWS rows."""
    if isinstance(plan.optimizer, Adadelta):
        return 1.0
    few = examples.sample(ROWS, NUMBERS)
    (X, shift), one = _matrix(few.X), float(plan.fit_intercept)
    weight = np.ones(few.n) if few.weight is None else few.weight.astype(np.float64) / plan.mean_weight
    if not isinstance(plan.optimizer, SGD):
        far = float(np.abs(shift).sum()) + one
        reach = float((weight @ (abs(X).sum(axis=1) + far)) / max(weight.sum(), np.finfo(float).tiny))
        stride = STRIDE * (LONGER if isinstance(plan.optimizer, (Adagrad, FTRL)) else 1)
        return stride * _scale_of_margins(plan.loss, few) / max(reach, 1e-30)
    squares = (X * X).sum(axis=1) - 2 * (X @ shift) + shift @ shift + one
    noise = 0.0
    if plan.rows_per_step < examples.n:
        noise = float((weight * squares) @ squares / max(weight @ squares, np.finfo(float).tiny))
        noise /= plan.rows_per_step * (1 - plan.optimizer.momentum)
    L = _curvature(plan.loss, few) * (_largest_eigenvalue(X, shift, one, weight) + noise) + plan.penalty.l2
    return 1 / max(L, 1e-30)


def _matrix(X: Features) -> tuple[Any, Array]:
    """(A, shift) such that A - shift are the rows in float64; A is sparse where they are."""
    zeros = np.zeros(shape_of(X)[1])
    if not (isinstance(X, Scaled) and isinstance(X.X, CsrRows)):
        return as_matrix(X, np.float64), zeros
    factor = X.factor.astype(np.float64)
    return as_matrix(X.X, np.float64) * factor[None, :], X.offset * factor


def _largest_eigenvalue(X: Any, shift: Array, one: float, weight: Array) -> float:
    """Of A' diag(weight) A / n, A = (X - shift, one), by power iteration."""
    v = np.random.default_rng(0).standard_normal(X.shape[1] + 1)
    found = 0.0
    for _ in range(ROUNDS):
        u = weight * (X @ v[:-1] - shift @ v[:-1] + one * v[-1]) / len(weight)
        v = np.append(X.T @ u - shift * u.sum(), one * u.sum())
        found = float(np.linalg.norm(v))
        if found == 0:
            break
        v /= found
    return found


def _middle(loss: Loss, y: Array) -> Array:
    """The margin that predicts the mean of y."""
    mean = y.mean(axis=0, keepdims=True)
    return np.broadcast_to(np.log(np.maximum(mean, 1e-12)) if loss.link == "exp" else mean, y.shape)


def _scale_of_margins(loss: Loss, examples: Examples) -> float:
    """How far margins are apart: 1 for classes and for a logarithmic link, else the standard deviation of y."""
    if loss.target != "real":
        return 1.0
    return float(np.asarray(examples.y, dtype=np.float64).std(axis=0).max()) or 1.0


def _curvature(loss: Loss, examples: Examples) -> float:
    """A bound on the curvature in the margin; where there is none, the largest one at the mean of y (unbounded losses) or
    one over the scale of the margins (losses of corners, whose slope is about 1)."""
    if loss.curvature_bound is not None:
        return loss.curvature_bound
    if loss.twice_differentiable:
        y = np.asarray(examples.y, dtype=np.float64).reshape(examples.n, -1)
        return float(loss.curvature(_middle(loss, y), y).max())
    return 1 / _scale_of_margins(loss, examples)
