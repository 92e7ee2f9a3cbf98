"""The pipeline in plain NumPy: the specification of what gdfast computes, the oracle of the tests, the baseline of the
benches. Every question about the order of operations is answered by ``epoch`` and ``update``."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from gdfast.clipping import Clipping
from gdfast.layouts import CsrRows, Features, take_rows, to_dense
from gdfast.losses import Loss, one_column_per_class
from gdfast.optimizers import Optimizer
from gdfast.order import keys_of, order_rows
from gdfast.penalties import Bounds, ElasticNet, of_each, soft_threshold
from gdfast.plan import WHOLE, EpochReport, Examples, Member, NewtonSystem, Part, Plan, State

Array = np.ndarray[Any, Any]


def _targets(examples: Examples) -> Array:
    y = examples.y
    if y.ndim == 2:
        return y
    return y[:, None] if examples.k == 1 else one_column_per_class(y, examples.k, y.dtype)


def margins(X: Features, w: Array, threads: int = 1) -> Array:
    return np.asarray(to_dense(X) @ w[:-1] + w[-1])


def _loss_and_gradient(X: Array, y: Array, weight: Any, loss: Loss, w: Array) -> tuple[Any, Array]:
    z = X @ w[:-1] + w[-1]
    r = weight * loss.gradient(z, y)
    return (weight * loss.value(z, y)).sum(), np.vstack([X.T @ r, r.sum(axis=0, keepdims=True)])


def gradient(examples: Examples, loss: Loss, w: Array, fit_intercept: bool, threads: int = 1) -> tuple[float, Array]:
    weight = 1.0 if examples.weight is None else examples.weight[:, None]
    value, g = _loss_and_gradient(to_dense(examples.X), _targets(examples), weight, loss, w)
    if not fit_intercept:
        g[-1] = 0
    return float(value), g.astype(np.float64)


def hessian(
    examples: Examples, loss: Loss, w: Array, fit_intercept: bool, threads: int = 1
) -> tuple[float, Array, Array]:
    value, g = gradient(examples, loss, w, fit_intercept)
    X = np.column_stack([to_dense(examples.X), np.full(examples.n, float(fit_intercept), dtype=examples.dtype)])
    h = loss.curvature(margins(examples.X, w), _targets(examples))[:, :1]
    if examples.weight is not None:
        h = h * examples.weight[:, None]
    return value, g, ((X * h).T @ X).astype(np.float64)


def update(
    optimizer: Optimizer,
    w: Array,
    g: Array,
    slots: Array,
    lr: float,
    t: int,
    *,
    penalty: ElasticNet,
    clipping: Clipping | None,
    bounds: Bounds | None,
    n_penalized: int,
) -> None:
    """g -> clip -> + l2 w -> step -> decoupled decay -> soft threshold -> bounds, in place. w, g: (n,); slots: (_, n);
    penalty, decay and bounds cover the first n_penalized numbers."""
    covered = np.arange(len(w)) < n_penalized
    factor = covered.astype(w.dtype)
    if penalty.factors is not None:
        factor[covered] = of_each("factors", penalty.factors, n_penalized)
    before = w.copy()
    if clipping is not None:
        g = clipping(g)
    threshold = optimizer.step(w, g + penalty.l2 * factor * w, slots, lr, t, penalty.l1 * factor, factor)
    w -= lr * optimizer.weight_decay * covered * before
    if penalty.l1:
        w[:] = soft_threshold(w, threshold)
    if bounds is not None:
        w[covered] = bounds.project(w[covered])


def hessian_product(examples: Examples, loss: Loss, w: Array, p: Array, fit_intercept: bool, threads: int = 1) -> Array:
    X = to_dense(examples.X)
    u = loss.times_curvature(X @ w[:-1] + w[-1], _targets(examples), X @ p[:-1] + (p[-1] if fit_intercept else 0))
    u = u if examples.weight is None else u * examples.weight[:, None]
    last = u.sum(axis=0, keepdims=True) if fit_intercept else np.zeros_like(p[-1:])
    return np.vstack([X.T @ u, last]).astype(np.float64)


def gradient_at(
    examples: Examples, loss: Loss, z: Array, fit_intercept: bool, threads: int = 1
) -> tuple[float, Array, Array]:
    X, y, margin = to_dense(examples.X), _targets(examples), z[:, None]
    weight = 1.0 if examples.weight is None else examples.weight[:, None]
    r, h = (weight * loss.gradient(margin, y))[:, 0], (weight * loss.curvature(margin, y))[:, 0]
    value = float((weight * loss.value(margin, y)).sum())
    return value, np.append(X.T @ r, r.sum() * fit_intercept).astype(np.float64), h


def conjugate_gradients(
    examples: Examples, h: Array, system: NewtonSystem, fit_intercept: bool, threads: int = 1
) -> tuple[Array, Array, float, int]:
    X = np.column_stack([to_dense(examples.X), np.full(examples.n, float(fit_intercept))])
    ridge = np.append(np.full(examples.d, system.l2), 0.0)
    s, r, products = np.zeros(len(system.g)), -system.g, 0
    fall: Any = 0.0
    p = y = r / system.diagonal
    rz = r @ y
    while products < system.most and rz > 0:
        Hp = X.T @ (h * (X @ p)) / examples.total_weight + ridge * p
        products += 1
        if not p @ Hp > 0:
            break
        a = rz / (p @ Hp)
        s, r, fall = s + a * p, r - a * Hp, fall + 0.5 * a * rz
        if products * 0.5 * a * rz <= system.share * fall:
            break
        y = r / system.diagonal
        p, rz = y + (r @ y) / rz * p, r @ y
    return s, (X @ s).astype(h.dtype), float(fall), products


def _not_held(X: Features, rows: Any) -> Any:
    """The columns in which none of the rows holds an entry: what a lazy step leaves alone."""
    if not isinstance(X, CsrRows):
        return slice(0, 0)
    held = take_rows(X, rows).indices
    return np.setdiff1d(np.arange(X.d), held)


def epoch(
    examples: Examples,
    plan: Plan,
    state: State,
    rates: Array,
    threads: int = 1,
    seconds: float = math.inf,
    part: Part = WHOLE,
) -> EpochReport:
    began = time.perf_counter()
    X, y, n, w = to_dense(examples.X), _targets(examples), examples.n, state.w
    order = (
        order_rows(n, keys_of(plan.seed, state.epoch, part.block), block=min(plan.block, n)) if plan.shuffle else None
    )
    norms, losses = np.zeros(len(rates)), np.zeros(len(rates))
    made, finite = 0, True
    for b, lr in enumerate(rates):
        at = part.first + b
        if time.perf_counter() - began >= seconds:
            break
        batch = slice(at * plan.rows_per_step, min((at + 1) * plan.rows_per_step, n))
        rows = batch if order is None else order[batch]
        weight = 1.0 if examples.weight is None else examples.weight[rows, None]
        value, g = _loss_and_gradient(X[rows], y[rows], weight, plan.loss, w)
        losses[b] = value
        g /= (batch.stop - batch.start) * plan.mean_weight
        if not plan.fit_intercept:
            g[-1] = 0
        norms[b] = np.sqrt(np.square(g, dtype=np.float64).sum())
        if not (np.isfinite(value) and np.isfinite(norms[b])):
            finite = False
            break
        made += 1
        state.step += 1
        rests = _not_held(examples.X, rows) if plan.optimizer.lazy else slice(0, 0)
        resting = w[rests].copy(), state.slots[:, rests].copy()
        update(
            plan.optimizer,
            w.reshape(-1),
            g.reshape(-1),
            state.slots.reshape(len(state.slots), w.size),
            float(lr),
            state.step,
            penalty=plan.penalty,
            clipping=plan.clipping,
            bounds=plan.bounds,
            n_penalized=w.size - w.shape[1],
        )
        w[rests], state.slots[:, rests] = resting
        if state.average is not None and state.step >= plan.average_from:
            state.average += (w - state.average) / (state.step - plan.average_from + 1)
    state.epoch += finite and part.last
    return EpochReport(float(losses.sum()), made, finite, norms, losses)


def epochs(
    examples: Examples, members: Sequence[Member], threads: int = 1, seconds: float = math.inf
) -> list[EpochReport]:
    """Every model alone, with weight 0 on the rows that are held out from it: what the pass over all of them computes."""
    return [
        epoch(examples.without(member.held_out), member.plan, member.state, member.rates, threads, seconds)
        for member in members
    ]
