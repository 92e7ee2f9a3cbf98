"""Mini-batch gradient descent: the loop over epochs. The loop over batches is the backend's."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from gdfast.backends import cpu
from gdfast.plan import Examples, Plan, State

Array = np.ndarray[Any, Any]

# An epoch whose mean loss exceeds the loss of the starting weights by this factor has diverged, finite or not. A falling
# rate may still make good for what its first steps did.
DIVERGED, DIVERGED_WHILE_FALLING = 1e3, 1e12
SAMPLE = 65_536  # rows that the loss of the starting weights is taken from


@dataclass(frozen=True)
class Stopping:
    """When to stop: after ``max_epochs``, or when for ``patience`` epochs the watched number did not improve by ``tol``.

    The watched number is the objective of the epoch (falling) or, with a validation score, that score (rising).
    ``adaptive``: instead of stopping, divide the rate by 5, until it is below 1e-6 (scikit-learn's "adaptive").
    """

    max_epochs: int = 1000
    tol: float | None = 1e-3
    patience: int = 5
    adaptive: bool = False


@dataclass
class History:
    """What happened, one entry an epoch; ``reason`` says in one sentence why the run stopped."""

    loss: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    validation_score: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    converged: bool = False
    diverged: bool = False
    worse: bool = False  # than the start, though it did not diverge
    reason: str = ""


def train(
    examples: Examples,
    plan: Plan,
    state: State,
    stopping: Stopping,
    *,
    threads: int = 1,
    validate: Callable[[Array], float] | None = None,
    callback: Callable[[int, float], object] | None = None,
    backend: ModuleType = cpu,
) -> History:
    """Runs epochs on ``state`` in place until ``stopping`` says so; ``validate(w)`` gives a score, higher is better.

    A run that diverges stops within the epoch and leaves the best weights so far in ``state``; so does a run with
    validation. Weights are never left with NaN or infinity.
    """
    history, total_weight = History(), examples.total_weight
    few = examples.sample(SAMPLE)
    few_weight = max(few.total_weight, np.finfo(float).tiny)

    def objective() -> float:
        total = backend.gradient(few, plan.loss, state.weights, plan.fit_intercept, threads)[0]
        return abs(total) / few_weight + plan.penalty.value(state.weights)

    # zero weights are no measure for a loss that is 0 there (perceptron)
    start = max(objective(), 1.0 if plan.loss.target in ("binary", "class") else 1e-12)
    falling = stopping.adaptive or not _rate_is_constant(plan)
    bound = (DIVERGED_WHILE_FALLING if falling else DIVERGED) * start
    best, best_loss = state.copy(), math.inf
    watched, quiet, scale = math.inf, 0, 1.0
    for epoch in range(1, stopping.max_epochs + 1):
        began = time.perf_counter()
        rates = plan.optimizer.rates(state.step, plan.steps(examples.n)) * scale
        report = backend.epoch(examples, plan, state, rates, threads)
        loss = report.loss_sum / total_weight + plan.penalty.value(state.w)
        if not (report.finite and math.isfinite(loss) and loss <= bound and np.isfinite(state.w).all()):
            history.diverged = True
            history.reason = f"the loss diverged in epoch {epoch} (rate {rates[0]:.3g})"
            break
        history.loss.append(loss)
        history.gradient_norm.append(float(report.norms[-1]))
        history.learning_rate.append(float(rates[-1]))
        score = -loss
        if validate is not None:
            score = validate(state.weights)
            history.validation_score.append(score)
        if -score < best_loss:
            best_loss, best = -score, state.copy()
        history.seconds.append(time.perf_counter() - began)
        stop = callback is not None and callback(epoch, loss)
        if stop:
            history.reason = f"the callback asked for it after epoch {epoch}"
            break
        if stopping.tol is None:
            continue
        quiet = quiet + 1 if -score > watched - stopping.tol else 0
        watched = min(watched, -score)
        if quiet < stopping.patience:
            continue
        if stopping.adaptive and rates[-1] > 1e-6:
            scale, quiet = scale / 5, 0
            continue
        history.converged = True
        history.reason = f"no improvement by {stopping.tol:g} in {stopping.patience} epochs"
        break
    else:
        history.reason = f"{stopping.max_epochs} epochs"
        history.converged = stopping.tol is None
    if history.diverged or validate is not None:
        state.restore(best)
    elif stopping.max_epochs > 1:
        history.worse = not objective() <= (DIVERGED if falling else 2) * start
    return history


def _rate_is_constant(plan: Plan) -> bool:
    rates = plan.optimizer.rates(0, 2)
    return bool(rates[0] == rates[1])
