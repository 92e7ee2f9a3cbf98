"""The learning-rate range test (Smith 2017): train while the rate rises from batch to batch, and watch the loss."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import clone

from gdfast import runtime
from gdfast.backends import cpu
from gdfast.estimators.minibatch import SGDModel
from gdfast.plan import Examples, Plan, State
from gdfast.solvers import learning_rate

if TYPE_CHECKING:
    from gdfast.displays import LearningRateDisplay

Array = np.ndarray[Any, Any]

FEWEST_STEPS = 500  # an epoch of fewer steps is repeated
WINDOW = 0.05  # of the steps that the loss is smoothed over
RISEN = 4.0  # times the lowest smoothed loss, counted from there: diverged


@dataclass(frozen=True)
class LearningRateTest:
    """What ``lr_find`` saw, up to where the loss diverged. All arrays: (steps,) float64.

    learning_rate: of each step; loss: mean loss of its batch before the step, without the penalty; smoothed: its
    exponential mean; suggestion: the rate where the loss falls most steeply against the logarithm of the rate, None
    where it never falls; diverged: whether the end of the range was not reached.
    """

    learning_rate: Array = field(repr=False)
    loss: Array = field(repr=False)
    smoothed: Array = field(repr=False)
    suggestion: float | None
    diverged: bool

    def plot(self, ax: Any = None, **line: Any) -> LearningRateDisplay:
        """Draw loss against rate, on ``ax`` or a figure of its own; needs matplotlib."""
        from gdfast.displays import LearningRateDisplay

        return LearningRateDisplay(self).plot(ax, **line)


def lr_find(
    estimator: SGDModel,
    X: Any,
    y: Any,
    *,
    sample_weight: Any = None,
    start: float | None = None,
    end: float | None = None,
) -> LearningRateTest:
    """Train a copy of ``estimator`` for one epoch while the rate rises exponentially from ``start`` to ``end``.

    The estimator, an SGDClassifier or SGDRegressor, is not changed; its optimizer, batch size, loss and penalty are used,
    its learning rate is not. start and end: by default 1e-4 and 1e3 times what ``learning_rate="auto"`` would start with.
    Epochs of fewer than 500 steps are repeated. Raises TypeError for another estimator, ValueError for a range that does
    not rise.
    """
    if not isinstance(estimator, SGDModel):
        raise TypeError(f"estimator must be an SGDClassifier or SGDRegressor, got {type(estimator).__name__}")
    model = clone(estimator)
    model._validate()
    _, examples, loss = model._examples(X, y, sample_weight)
    plan = model._plan(loss, examples, examples.total_weight / examples.n)
    standard, _ = model._scaling(examples)
    if standard is not None:
        examples, plan = (
            replace(examples, X=standard.apply(examples.X)),
            replace(plan, bounds=standard.bounds(plan.bounds)),
        )
    middle = 1.0 if start is not None and end is not None else learning_rate.first_rate(plan, examples)
    low, high = 1e-4 * middle if start is None else start, 1e3 * middle if end is None else end
    if not 0 < low < high < np.inf:
        raise ValueError(f"start and end must be rates 0 < start < end, got {start!r} and {end!r}")
    steps = plan.steps(examples.n)
    rates = np.geomspace(low, high, steps * -(-FEWEST_STEPS // steps))
    losses = _train(examples, plan, rates, runtime.threads(model.n_jobs))
    return _judge(rates, losses)


def _train(examples: Examples, plan: Plan, rates: Array, threads: int) -> Array:
    """The mean loss of every batch, up to the last finite one."""
    plan = replace(plan, average_from=0)
    state = State.start(plan, np.zeros((examples.d + 1, examples.k), dtype=examples.dtype))
    steps, found = plan.steps(examples.n), []
    rows = np.minimum(plan.rows_per_step, examples.n - plan.rows_per_step * np.arange(steps))
    with runtime.worker():
        for part in rates.reshape(-1, steps):
            report = cpu.epoch(examples, plan, state, part, threads)
            found.append((report.losses / (rows * plan.mean_weight))[: report.steps])
            if not (report.finite and np.isfinite(state.w).all()):
                break
    return np.concatenate(found)


def _judge(rates: Array, losses: Array) -> LearningRateTest:
    keep = 1 - 1 / max(2.0, WINDOW * len(rates))
    smoothed, mean = np.empty(len(losses)), 0.0
    for i, value in enumerate(losses):
        mean = keep * mean + (1 - keep) * value
        smoothed[i] = mean / (1 - keep ** (i + 1))
    last = len(losses)
    if last:
        lowest = np.minimum.accumulate(smoothed)
        risen = np.flatnonzero(smoothed - lowest > (RISEN - 1) * np.maximum(np.abs(lowest), 1e-300))
        last = int(risen[0]) + 1 if len(risen) else last
    suggestion = _steepest(rates[:last], losses[:last], max(2, round(WINDOW * len(rates))))
    return LearningRateTest(rates[:last], losses[:last], smoothed[:last], suggestion, last < len(rates))


def _steepest(rates: Array, losses: Array, window: int) -> float | None:
    """The rate between the two neighbouring windows of batches whose mean losses fall most from one to the other."""
    if len(losses) < 2 * window:
        return None
    sums = np.cumsum(np.concatenate([[0.0], losses]))
    means = (sums[window:] - sums[:-window]) / window
    change = means[window:] - means[:-window]
    at = int(change.argmin())
    return float(rates[at + window]) if change[at] < 0 else None
