"""Proximal gradient with acceleration (FISTA, Beck and Teboulle 2009; restart of O'Donoghue and Candes 2015).

w <- soft_threshold(v - D g(v) / L, D l1 / L), in units where every column has the same curvature (D = 1 / mean x^2), so
that the scales of the columns do not matter; L is found by backtracking. Exact zeros, any smooth loss, any outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gdfast.scaling import mean_squares
from gdfast.solvers.objective import Objective, Solution, inner, length

Array = np.ndarray[Any, Any]


def _column_curvature(objective: Objective) -> Array:
    """mean x_j^2 of every column, 1 for the intercept and for empty columns: (d + 1, 1)"""
    examples = objective.examples
    mean = np.append(mean_squares(examples.X, examples.weight, objective.threads), 1.0)
    return np.where(mean > 0, mean, 1.0)[:, None]


def smallest_subgradient(objective: Objective, w: Array, g: Array) -> Array:
    """The smallest subgradient of f + l1 |w|_1 at w, where f has the gradient g."""
    l1 = objective.penalty.l1
    out = g.copy()
    v, gv = w[:-1], g[:-1]
    out[:-1] = np.where(v != 0, gv + l1 * np.sign(v), np.sign(gv) * np.maximum(np.abs(gv) - l1, 0))
    return out


def minimize(
    objective: Objective,
    w: Array,
    *,
    tol: float,
    max_iter: int,
    callback: Callable[[int, float], object] | None = None,
) -> Solution:
    """Until the estimated excess over the optimum, s' D s / (2 L) with s the smallest subgradient, is below tol |f|."""
    curvature = _column_curvature(objective)
    threshold = np.full_like(curvature, objective.penalty.l1)
    threshold[-1] = 0
    bound = objective.loss.curvature_bound or 1.0
    lipschitz = bound
    v, momentum = w.copy(), 1.0
    f_v, g_v = objective.gradient(v)
    if not (math.isfinite(f_v) and np.isfinite(g_v).all() and np.isfinite(curvature).all()):
        raise FloatingPointError("the objective is not finite: scale the columns of X, y or sample_weight")
    total, history = objective.total(f_v, v), []
    excess, norm = math.inf, math.inf
    for iteration in range(1, max_iter + 1):
        while True:
            size = 1 / (lipschitz * curvature)
            moved = v - size * g_v
            new = np.sign(moved) * np.maximum(np.abs(moved) - size * threshold, 0)
            step = new - v
            f_new, g_new = objective.gradient(new)
            model = f_v + inner(g_v, step) + 0.5 * lipschitz * float((curvature * step * step).sum())
            if math.isfinite(f_new) and f_new <= model + 1e-12 * abs(f_v):
                break
            lipschitz *= 2
            if not lipschitz < 1e300:
                raise FloatingPointError("the objective is not finite: scale the columns of X, y or sample_weight")
        total_new = objective.total(f_new, new)
        history.append(total_new)
        if callback is not None:
            callback(iteration, total_new)
        s = smallest_subgradient(objective, new, g_new)
        norm = length(s)
        excess = objective.relative(0.5 * float((s * s / curvature).sum()) / bound, total_new)
        if excess <= tol * 1e-2:
            return Solution(new, total_new, norm, excess, iteration, True, f"subgradient norm {norm:.1e}", history)
        if inner(curvature * (v - new), new - w) > 0:  # the momentum points uphill
            momentum = 1.0
        grown = 0.5 * (1 + math.sqrt(1 + 4 * momentum * momentum))
        v = new + (momentum - 1) / grown * (new - w)
        w, total, momentum = new, total_new, grown
        f_v, g_v = objective.gradient(v) if not np.array_equal(v, new) else (f_new, g_new.copy())
        lipschitz *= 0.95
    return Solution(w, total, norm, excess, max_iter, False, f"{max_iter} iterations were not enough", history)
