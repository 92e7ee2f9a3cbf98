"""Mini-batch gradient descent: the loop over epochs. The loop over batches is the backend's."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np

from gdfast.backends import cpu
from gdfast.losses import Loss
from gdfast.penalties import of_each, soft_threshold
from gdfast.plan import EpochReport, Examples, Member, Plan, State
from gdfast.schedules import ReduceOnPlateau, as_schedule
from gdfast.solvers.stopping import Epoch, History, Stopping, Watch

Array = np.ndarray[Any, Any]
Callback = Callable[[Epoch], object]

# An epoch whose mean loss exceeds the loss of the starting weights by this factor has diverged, finite or not. A falling
# rate may still make good for what its first steps did; a run that can be taken back need not wait for that.
DIVERGED, DIVERGED_WHILE_FALLING, TAKEN_BACK = 1e3, 1e12, 2.0
NEGLIGIBLE = 1e-6  # share of the first objective: to fall further is no progress that a rate should wait for
SAMPLE, NUMBERS = 65_536, 2**23  # rows and numbers, at most, that the loss of weights is taken from
MOST_TARGETS = 2**22  # of zero weights


def train(
    examples: Examples,
    plan: Plan,
    state: State,
    stopping: Stopping,
    *,
    threads: int = 1,
    validate: Callable[[Array], float] | None = None,
    callbacks: Iterable[Callback] = (),
    backend: ModuleType = cpu,
) -> History:
    """Runs epochs on ``state`` in place until ``stopping`` says so; ``validate(w)`` gives a score, higher is better.

    A callback that returns something true ends the run. A run that diverges stops within the epoch and leaves the best
    weights so far in ``state``; so does a run with validation. Weights are never left with NaN or infinity.
    """
    run = _Run(examples, plan, state, stopping, threads, validate, tuple(callbacks), backend)
    while not run.history.reason:
        run.epoch()
    run.end()
    return run.history


def train_together(
    examples: Examples,
    plans: Sequence[Plan],
    states: Sequence[State],
    held_out: Sequence[int],
    stopping: Sequence[Stopping],
    *,
    threads: int = 1,
    backend: ModuleType = cpu,
) -> list[History]:
    """As ``train`` of every model on its own, without the rows of the fold that is held out from it (-1 for none), but in one
    pass over the rows an epoch. A model that stops leaves the others, and the pass.

    The plans agree in loss, rows a step, order of rows and intercept; the states start with weights of zero.
    """
    parts = {fold: examples.without(fold) for fold in set(held_out)}
    starts = {fold: _objective_of_zero(part, plans[0].loss) for fold, part in parts.items()}
    runs = [
        _Run(parts[fold], plan, state, rules, threads, None, (), backend, starts[fold])
        for plan, state, fold, rules in zip(plans, states, held_out, stopping, strict=True)
    ]
    going = list(zip(runs, held_out, strict=True))
    while going:
        began = time.perf_counter()
        members = [Member(run.plan, run.state, run.rates(), fold) for run, fold in going]
        seconds = min(run.seconds_left() for run, _ in going)
        reports = backend.epochs(examples, members, threads, seconds)
        for (run, _), member, report in zip(going, members, reports, strict=True):
            run.observe(report, member.rates, began)
        going = [(run, fold) for run, fold in going if not run.history.reason]
    for run in runs:
        run.end(run.history.objective[-1] if run.history.objective else None)
    return [run.history for run in runs]


def _objective_of_zero(examples: Examples, loss: Loss) -> float:
    """Of weights of zero, at least 1 for classes. It needs no X, so that it sees many more rows than a sample of them."""
    if loss.target in ("binary", "class"):
        return 1.0
    some = slice(None, None, max(1, examples.n // MOST_TARGETS))
    y = examples.y[some].reshape(-1, examples.k)
    weight = None if examples.weight is None else examples.weight[some]
    if weight is not None and not weight.any():
        return 0.0
    losses = loss.value(np.zeros_like(y), y).sum(axis=1, dtype=np.float64)
    return abs(float(np.average(losses, weights=weight)))


def gradient_norm(examples: Examples, plan: Plan, w: Array, threads: int = 1, backend: ModuleType = cpu) -> float:
    """|gradient of the objective over all rows| at w: the smallest subgradient where there is an L1 part, without what
    pushes against a bound that is reached."""
    _, g = backend.gradient(examples, plan.loss, w, plan.fit_intercept, threads)
    g /= examples.total_weight
    v, inner = w[:-1].astype(np.float64).reshape(-1), g[:-1].reshape(-1)
    factors = 1.0 if plan.penalty.factors is None else of_each("factors", plan.penalty.factors, v.size)
    inner += plan.penalty.l2 * factors * v
    inner[:] = np.where(
        v == 0, soft_threshold(inner, plan.penalty.l1 * factors), inner + plan.penalty.l1 * factors * np.sign(v)
    )
    if plan.bounds is not None:
        lower, upper = plan.bounds.of_each(v.size)
        inner[((v <= lower) & (inner > 0)) | ((v >= upper) & (inner < 0))] = 0
    return float(np.linalg.norm(g))


class _Run:
    """One call of ``train``."""

    def __init__(
        self,
        examples: Examples,
        plan: Plan,
        state: State,
        stopping: Stopping,
        threads: int,
        validate: Callable[[Array], float] | None,
        callbacks: tuple[Callback, ...],
        backend: ModuleType,
        start: float | None = None,
    ) -> None:
        self.examples, self.plan, self.state, self.stopping = examples, plan, state, stopping
        self.threads, self.validate, self.callbacks, self.backend = threads, validate, callbacks, backend
        self.history, self.watch = History(), Watch(stopping)
        self.schedule = as_schedule(plan.optimizer.learning_rate)
        self.feedback = self.schedule if isinstance(self.schedule, ReduceOnPlateau) else None
        self.began, self.epochs, self.retries = time.perf_counter(), 0, 0
        self.total_weight = examples.total_weight
        # zero weights are no measure for a loss that is 0 there (perceptron), a sample none for rows that it misses
        start = max(self.objective(), _objective_of_zero(examples, plan.loss)) if start is None else start
        self.start = max(start, 1e-12)
        self.bound = self._bound() * self.start
        self.first, self.best, self.best_watched = state.copy(), state.copy(), math.inf

    @cached_property
    def few(self) -> Examples:
        return self.examples.sample(SAMPLE, NUMBERS)

    def objective(self, state: State | None = None) -> float:
        """At the weights of now, or of another state, over a sample of the rows."""
        w = (state or self.state).weights
        total = self.backend.gradient(self.few, self.plan.loss, w, self.plan.fit_intercept, self.threads)[0]
        return abs(total) / max(self.few.total_weight, np.finfo(float).tiny) + self.plan.penalty.value(w)

    @property
    def steps(self) -> int:
        return self.state.step - self.first.step

    @property
    def _careful(self) -> bool:
        """Whether the rate hangs on the objective, so that it is taken at the end of an epoch, not over its course."""
        return self.feedback is not None and self.feedback.retries > 0

    def _bound(self) -> float:
        if self.feedback is not None:
            return TAKEN_BACK if self.feedback.retries else DIVERGED_WHILE_FALLING
        first, second = self.schedule(np.array([0.0, 1.0]))
        return DIVERGED if first == second else DIVERGED_WHILE_FALLING

    def epoch(self) -> None:
        """One epoch; sets the reason where it is the last one."""
        began, rates = time.perf_counter(), self.rates()
        report = self.backend.epoch(self.examples, self.plan, self.state, rates, self.threads, self.seconds_left())
        self.observe(report, rates, began)

    def seconds_left(self) -> float:
        if self.stopping.max_seconds is None:
            return math.inf
        return self.stopping.max_seconds - (time.perf_counter() - self.began)

    def observe(self, report: EpochReport, rates: Array, began: float) -> None:
        """What an epoch came to."""
        self.epochs += 1
        if report.finite and report.steps == 0:
            self._limit()
            return
        rows = min(report.steps * self.plan.rows_per_step, self.examples.n)
        weight = self.total_weight if rows == self.examples.n else rows * self.plan.mean_weight
        loss = report.loss_sum / max(weight, np.finfo(float).tiny)
        objective = loss + self.plan.penalty.value(self.state.w)
        fine = report.finite and objective <= self.bound and bool(np.isfinite(self.state.w).all())
        watched = max(self.objective(), NEGLIGIBLE * self.start) if fine and self._careful else objective
        if not (fine and watched <= self.bound):  # NaN too
            self._diverged(float(rates[0]))
            return
        norm, score = self._norm(report), None if self.validate is None else float(self.validate(self.state.weights))
        took, rate = time.perf_counter() - began, float(rates[report.steps - 1])
        epoch = Epoch(self.epochs, self.state.step, loss, objective, norm, rate, score, took, rows / took)
        self.history.append(epoch)
        self._judge(epoch, watched if score is None else -score)

    def rates(self) -> Array:
        count = self.plan.steps(self.examples.n)
        if self.stopping.max_steps is not None:
            count = min(count, self.stopping.max_steps - self.steps)
        steps = np.arange(self.state.step, self.state.step + count, dtype=np.float64)
        return self.schedule(steps) if self.feedback is None else self.feedback(steps, self.state.plateau)

    def _norm(self, report: EpochReport) -> float:
        if self.stopping.gradient_norm is None:
            return float(np.sqrt(np.mean(np.square(report.norms[: report.steps]))))
        return gradient_norm(self.examples, self.plan, self.state.weights, self.threads, self.backend)

    def _judge(self, epoch: Epoch, watched: float) -> None:
        """Remember the best; reduce the rate; look at the rules, the callbacks and the limits."""
        history, feedback, state = self.history, self.feedback, self.state
        waiting = feedback is not None and not feedback.exhausted(state.step, state.plateau)
        history.reason = self.watch.converged(epoch, watched, waiting)
        history.converged = bool(history.reason)
        if feedback is not None:
            before, state.plateau = state.plateau, feedback.observe(watched, state.step, state.plateau)
            if state.plateau.reductions > before.reductions:
                self.watch.quiet = 0
        if watched < self.best_watched:
            self.best_watched, self.best = watched, state.copy()
        asked = [callback(epoch) for callback in self.callbacks]  # every one sees every epoch
        if any(asked) and not history.reason:
            history.reason = f"a callback asked for it after epoch {epoch.epoch}"
        if not history.reason:
            self._limit()

    def _limit(self) -> None:
        seconds = time.perf_counter() - self.began
        found = self.watch.limit(self.epochs, self.steps, seconds)
        if found is not None:
            self.history.limit, self.history.reason = found
            self.history.converged = not self.stopping.for_convergence

    def _diverged(self, rate: float) -> None:
        if self.feedback is not None and self.retries < self.feedback.retries:
            self.retries, self.epochs = self.retries + 1, self.epochs - 1
            plateau = self.state.plateau
            self._take_back()
            self.state.plateau = replace(plateau, scale=plateau.scale * self.feedback.factor)
            self._limit()
            return
        self.history.diverged = True
        self.history.reason = f"the loss diverged in epoch {self.epochs} (rate {rate:.3g})"

    def _take_back(self) -> None:
        """To the best weights. The loss of their epoch was taken on the way: at its end they may be worse than the first."""
        better = self.objective(self.best) <= self.objective(self.first)
        self.state.restore(self.best if better else self.first)

    def end(self, objective: float | None = None) -> None:
        """``objective``: at the last weights, over a sample of the rows unless it is known."""
        if self.history.diverged:
            self._take_back()
        elif self.validate is not None:
            self.state.restore(self.best)
        elif self.stopping.max_epochs > 1:
            last = self.objective() if objective is None else objective
            self.history.worse = not last <= (2 if self.bound == DIVERGED * self.start else DIVERGED) * self.start
