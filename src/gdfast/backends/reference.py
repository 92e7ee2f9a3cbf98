"""The pipeline in plain NumPy: the specification of what gdfast computes, the oracle of the tests, the baseline of the
benches. Every question about the order of operations is answered by ``epoch``."""

from __future__ import annotations

from typing import Any

import numpy as np

from gdfast.losses import Loss, one_column_per_class
from gdfast.order import keys_of, order_rows
from gdfast.penalties import soft_threshold
from gdfast.plan import EpochReport, Examples, Features, Plan, State

Array = np.ndarray[Any, Any]


def _matrix(X: Features) -> Array:
    return np.column_stack(X) if isinstance(X, tuple) else X


def _targets(examples: Examples) -> Array:
    y = examples.y
    if y.ndim == 2:
        return y
    return y[:, None] if examples.k == 1 else one_column_per_class(y, examples.k, y.dtype)


def margins(X: Features, w: Array, threads: int = 1) -> Array:
    return np.asarray(_matrix(X) @ w[:-1] + w[-1])


def _loss_and_gradient(X: Array, y: Array, weight: Any, loss: Loss, w: Array) -> tuple[Any, Array]:
    z = X @ w[:-1] + w[-1]
    r = weight * loss.gradient(z, y)
    return (weight * loss.value(z, y)).sum(), np.vstack([X.T @ r, r.sum(axis=0, keepdims=True)])


def gradient(examples: Examples, loss: Loss, w: Array, fit_intercept: bool, threads: int = 1) -> tuple[float, Array]:
    weight = 1.0 if examples.weight is None else examples.weight[:, None]
    value, g = _loss_and_gradient(_matrix(examples.X), _targets(examples), weight, loss, w)
    if not fit_intercept:
        g[-1] = 0
    return float(value), g.astype(np.float64)


def hessian(
    examples: Examples, loss: Loss, w: Array, fit_intercept: bool, threads: int = 1
) -> tuple[float, Array, Array]:
    value, g = gradient(examples, loss, w, fit_intercept)
    X = np.column_stack([_matrix(examples.X), np.full(examples.n, float(fit_intercept), dtype=examples.dtype)])
    h = loss.curvature(margins(examples.X, w), _targets(examples))[:, :1]
    if examples.weight is not None:
        h = h * examples.weight[:, None]
    return value, g, ((X * h).T @ X).astype(np.float64)


def epoch(examples: Examples, plan: Plan, state: State, rates: Array, threads: int = 1) -> EpochReport:
    X, y, n, w = _matrix(examples.X), _targets(examples), examples.n, state.w
    order = order_rows(n, keys_of(plan.seed, state.epoch)) if plan.shuffle else None
    l1, l2 = plan.penalty.l1, plan.penalty.l2
    loss_sum, norms = 0.0, np.zeros(len(rates))
    for b, lr in enumerate(rates):
        batch = slice(b * plan.rows_per_step, min((b + 1) * plan.rows_per_step, n))
        rows = batch if order is None else order[batch]
        weight = 1.0 if examples.weight is None else examples.weight[rows, None]
        value, g = _loss_and_gradient(X[rows], y[rows], weight, plan.loss, w)
        loss_sum += float(value)
        g /= (batch.stop - batch.start) * plan.mean_weight
        if not plan.fit_intercept:
            g[-1] = 0
        norms[b] = np.sqrt(np.square(g, dtype=np.float64).sum())
        if not (np.isfinite(value) and np.isfinite(norms[b])):
            return EpochReport(loss_sum, b, False, norms)
        if plan.clipping is not None:
            g = plan.clipping(g)
        g[:-1] += l2 * w[:-1]
        state.step += 1
        plan.optimizer.step(w, g, state.slots, float(lr), state.step)
        if l1:
            w[:-1] = soft_threshold(w[:-1], lr * l1)
        if state.average is not None and state.step >= plan.average_from:
            state.average += (w - state.average) / (state.step - plan.average_from + 1)
    state.epoch += 1
    return EpochReport(loss_sum, len(rates), True, norms)
