"""The native core: packs plan and data into one call."""

from __future__ import annotations

from typing import Any

import numpy as np

from gdfast import _core
from gdfast.clipping import ClipNorm, ClipValue
from gdfast.losses import Loss
from gdfast.order import keys_of
from gdfast.plan import EpochReport, Examples, Features, Plan, State

Array = np.ndarray[Any, Any]


def margins(X: Features, w: Array, threads: int = 1) -> Array:
    n = len(X[0]) if isinstance(X, tuple) else X.shape[0]
    z = np.empty((n, w.shape[1]), dtype=w.dtype)
    _core.margins(X, w, z, threads)
    return z


def _pass(
    examples: Examples, loss: Loss, w: Array, fit_intercept: bool, threads: int, H: Array | None
) -> tuple[float, Array]:
    g = np.empty(w.shape, dtype=np.float64)
    value = _core.gradient(
        examples.X, examples.y, examples.weight, w, g, H, loss.name, loss.parameters(), fit_intercept, threads
    )
    return value, g


def gradient(examples: Examples, loss: Loss, w: Array, fit_intercept: bool, threads: int = 1) -> tuple[float, Array]:
    return _pass(examples, loss, w, fit_intercept, threads, None)


def hessian(
    examples: Examples, loss: Loss, w: Array, fit_intercept: bool, threads: int = 1
) -> tuple[float, Array, Array]:
    H = np.empty((len(w), len(w)), dtype=np.float64)
    value, g = _pass(examples, loss, w, fit_intercept, threads, H)
    return value, g, H


def epoch(examples: Examples, plan: Plan, state: State, rates: Array, threads: int = 1) -> EpochReport:
    clipping = plan.clipping
    norms = np.zeros(len(rates))
    loss_sum, steps, finite = _core.epoch(
        X=examples.X,
        y=examples.y,
        weight=examples.weight,
        w=state.w,
        slots=state.slots,
        average=state.average,
        loss=plan.loss.name,
        loss_parameters=plan.loss.parameters(),
        optimizer=plan.optimizer.name,
        optimizer_parameters=plan.optimizer.parameters(),
        rates=rates,
        norms=norms,
        keys=keys_of(plan.seed, state.epoch) if plan.shuffle else None,
        batch=plan.rows_per_step,
        first_step=state.step,
        average_from=plan.average_from,
        l1=plan.penalty.l1,
        l2=plan.penalty.l2,
        clip_norm=clipping.max_norm if isinstance(clipping, ClipNorm) else np.inf,
        clip_value=clipping.limit if isinstance(clipping, ClipValue) else np.inf,
        mean_weight=plan.mean_weight,
        intercept=plan.fit_intercept,
        threads=threads,
    )
    state.step += steps
    state.epoch += bool(finite)
    return EpochReport(loss_sum, steps, finite, norms)
