"""Mini-batch gradient descent: the loop over epochs. The loop over batches is the backend's."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np

from gdfast.backends import cpu
from gdfast.layouts import numbers_of_row
from gdfast.losses import Loss
from gdfast.penalties import of_each, soft_threshold
from gdfast.plan import EpochReport, Examples, Member, Part, Plan, State
from gdfast.run_folder import RunFolder
from gdfast.schedules import Plateau, ReduceOnPlateau, as_schedule
from gdfast.solvers.stopping import Epoch, History, Stopping, Watch
from gdfast.streams import Stream, over_blocks

Array = np.ndarray[Any, Any]
Callback = Callable[[Epoch], object]

# An epoch whose mean loss exceeds the loss of the starting weights by this factor has diverged, finite or not. A falling
# rate may still make good for what its first steps did; a run that can be taken back need not wait for that.
DIVERGED, DIVERGED_WHILE_FALLING, TAKEN_BACK = 1e3, 1e12, 2.0
NEGLIGIBLE = 1e-6  # share of the first objective: to fall further is no progress that a rate should wait for
SAMPLE, NUMBERS = 65_536, 2**23  # rows and numbers, at most, that the loss of weights is taken from
MARK = 2**22  # numbers of X between two marks where a run can be saved: some milliseconds
MOST_TARGETS = 2**22  # of zero weights


def train(
    examples: Examples | Stream,
    plan: Plan,
    state: State,
    stopping: Stopping,
    *,
    threads: int = 1,
    validate: Callable[[Array], float] | None = None,
    callbacks: Iterable[Callback] = (),
    backend: ModuleType = cpu,
    folder: RunFolder | None = None,
) -> History:
    """Runs epochs on ``state`` in place until ``stopping`` says so; ``validate(w)`` gives a score, higher is better.

    With a ``folder`` the run continues what it holds and is saved there as it goes; the result is the same bits, however
    often it was killed on the way.

    A callback that returns something true ends the run. A run that diverges stops within the epoch and leaves the best
    weights so far in ``state``; so does a run with validation. Weights are never left with NaN or infinity.
    """
    run = _Run(examples, plan, state, stopping, threads, validate, tuple(callbacks), backend, folder=folder)
    run.resume()
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
            run.sums.add(report, member.rates, run.plan, examples.n, Part())
            run.observe(began)
        going = [(run, fold) for run, fold in going if not run.history.reason]
    for run in runs:
        run.end(run.history.objective[-1] if run.history.objective else None)
    return [run.history for run in runs]


def _objective_of_zero(examples: Examples | Stream, loss: Loss) -> float:
    """Of weights of zero, at least 1 for classes. It needs no X, so that it sees many more rows than a sample of them."""
    if loss.target in ("binary", "class"):
        return 1.0
    some = slice(None, None, max(1, len(examples.y) // MOST_TARGETS))
    y = examples.y[some].reshape(-1, examples.k)
    weight = None if examples.weight is None else examples.weight[some]
    if weight is not None and not weight.any():
        return 0.0
    losses = loss.value(np.zeros_like(y), y).sum(axis=1, dtype=np.float64)
    return abs(float(np.average(losses, weights=weight)))


def gradient_norm(
    examples: Examples | Stream, plan: Plan, w: Array, threads: int = 1, backend: ModuleType = cpu
) -> float:
    """|gradient of the objective over all rows| at w: the smallest subgradient where there is an L1 part, without what
    pushes against a bound that is reached."""
    _, g = over_blocks(examples, lambda rows: backend.gradient(rows, plan.loss, w, plan.fit_intercept, threads))
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


@dataclass
class Sums:
    """What the steps of an epoch came to up to now; squares: of the norms of their gradients."""

    loss: float = 0.0
    squares: float = 0.0
    rows: int = 0
    steps: int = 0
    finite: bool = True
    whole: bool = False
    first_rate: float = math.nan
    last_rate: float = math.nan

    def add(self, report: EpochReport, rates: Array, plan: Plan, n: int, part: Part) -> None:
        """rates: of ``part`` of an epoch, in a block of n rows."""
        if len(rates) and self.steps == 0:
            self.first_rate = float(rates[0])
        if report.steps:
            self.last_rate = float(rates[report.steps - 1])
        self.loss += report.loss_sum
        self.squares += float(np.square(report.norms[: report.steps]).sum())
        done, per_step = part.first + report.steps, plan.rows_per_step
        self.rows += min(done * per_step, n) - min(part.first * per_step, n)
        self.steps += report.steps
        self.finite, self.whole = self.finite and report.finite, part.last


def _plateau(values: Array) -> Plateau:
    """From floats, in the types of the fields."""
    kinds = [type(value) for value in astuple(Plateau())]
    return Plateau(*(kind(value) for kind, value in zip(kinds, values.tolist(), strict=True)))


class _Run:
    """One call of ``train``."""

    def __init__(
        self,
        examples: Examples | Stream,
        plan: Plan,
        state: State,
        stopping: Stopping,
        threads: int,
        validate: Callable[[Array], float] | None,
        callbacks: tuple[Callback, ...],
        backend: ModuleType,
        start: float | None = None,
        folder: RunFolder | None = None,
    ) -> None:
        self.examples, self.plan, self.state, self.stopping = examples, plan, state, stopping
        self.threads, self.validate, self.callbacks, self.backend = threads, validate, callbacks, backend
        self.history, self.watch = History(), Watch(stopping)
        self.schedule = as_schedule(plan.optimizer.learning_rate)
        self.feedback = self.schedule if isinstance(self.schedule, ReduceOnPlateau) else None
        self.began, self.epochs, self.retries = time.perf_counter(), 0, 0
        self.total_weight, self.folder, self.sums = examples.total_weight, folder, Sums()
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
        """One epoch, or what is left of it; sets the reason where it is the last one."""
        began, state = time.perf_counter(), self.state
        for block, rows in self.examples.blocks(self.plan, state.epoch, state.block):
            while (batches := self.plan.steps(rows.n)) > state.batch:
                if not self._steps(block, rows, batches):
                    self._cut(began)
                    return
                if state.batch < batches or not block.last:
                    self._save_if_due()
                    if self.folder is not None and self.seconds_left() <= 0:
                        self._cut(began)
                        return
            state.block, state.batch = (0, 0) if block.last else (block.block + 1, 0)
        self.observe(began)
        self._save_if_due()

    def _steps(self, block: Part, rows: Examples, batches: int) -> bool:
        """Those up to the next mark where the run may be saved; false where it was cut short."""
        first, seconds = self.state.batch, self.seconds_left()
        wanted = batches
        if self.folder is not None:
            wanted, seconds = min(batches, first + self._steps_to_mark(rows)), math.inf
        rates = self.rates(wanted - first)
        if self.folder is not None and len(rates) < wanted - first:
            self.folder.save(*self._snapshot())
        part = Part(block.block, first, block.last and first + len(rates) == batches)
        report = self.backend.epoch(rows, self.plan, self.state, rates, self.threads, seconds, part)
        self.sums.add(report, rates, self.plan, rows.n, part)
        self.state.batch += report.steps
        return report.finite and first + report.steps == wanted

    def _cut(self, began: float) -> None:
        """The end of an epoch that cannot be continued; the last checkpoint can."""
        self.state.epoch += self.sums.finite and not self.sums.whole
        self.state.block = self.state.batch = 0
        if self.sums.finite:
            self.folder = None
        self.observe(began)
        self._save_if_due()

    def _steps_to_mark(self, rows: Examples) -> int:
        """A function of the data and the plan alone: steps that catch up columns at rest do so at marks."""
        return max(1, int(MARK / (self.plan.rows_per_step * numbers_of_row(rows.X))))

    def seconds_left(self) -> float:
        if self.stopping.max_seconds is None:
            return math.inf
        return self.stopping.max_seconds - (time.perf_counter() - self.began)

    def observe(self, began: float) -> None:
        """What an epoch came to."""
        self.epochs += 1
        sums, self.sums = self.sums, Sums()
        if sums.finite and sums.steps == 0:
            self._limit()
            return
        weight = self.total_weight if sums.rows == self.examples.n else sums.rows * self.plan.mean_weight
        loss = sums.loss / max(weight, np.finfo(float).tiny)
        objective = loss + self.plan.penalty.value(self.state.w)
        fine = sums.finite and objective <= self.bound and bool(np.isfinite(self.state.w).all())
        watched = max(self.objective(), NEGLIGIBLE * self.start) if fine and self._careful else objective
        if not (fine and watched <= self.bound):  # NaN too
            self._diverged(sums.first_rate)
            return
        norm, score = self._norm(sums), None if self.validate is None else float(self.validate(self.state.weights))
        took = time.perf_counter() - began
        epoch = Epoch(
            self.epochs, self.state.step, loss, objective, norm, sums.last_rate, score, took, sums.rows / took
        )
        self.history.append(epoch)
        self._judge(epoch, watched if score is None else -score)

    def rates(self, count: int | None = None) -> Array:
        """Of the next steps: all of an epoch, or so many."""
        count = self.plan.steps(self.examples.n) if count is None else count
        if self.stopping.max_steps is not None:
            count = min(count, self.stopping.max_steps - self.steps)
        steps = np.arange(self.state.step, self.state.step + count, dtype=np.float64)
        return self.schedule(steps) if self.feedback is None else self.feedback(steps, self.state.plateau)

    def _norm(self, sums: Sums) -> float:
        if self.stopping.gradient_norm is None:
            return math.sqrt(sums.squares / sums.steps)
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

    def _save_if_due(self) -> None:
        """At a mark; always at the end of the run and of its time."""
        if self.folder is not None and (self.folder.is_due or self.history.reason or self.seconds_left() <= 0):
            self.folder.save(*self._snapshot())

    def _snapshot(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """(copies of the arrays, the rest): all that the next step and the next epoch depend on."""
        arrays: dict[str, Array] = {}
        meta: dict[str, Any] = {"reason": self.history.reason, "limit": self.history.limit, "retries": self.retries}
        meta |= {"converged": self.history.converged, "diverged": self.history.diverged, "epochs": self.epochs}
        for name, state in {"state": self.state.copy(), "first": self.first, "best": self.best}.items():
            arrays |= {f"{name}.w": state.w, f"{name}.slots": state.slots}
            arrays |= {} if state.average is None else {f"{name}.average": state.average}
            meta[name] = [state.step, state.epoch, state.block, state.batch]
            arrays[f"{name}.plateau"] = np.array(astuple(state.plateau), dtype=np.float64)
        watch = (self.watch.best, self.watch.quiet, self.watch.last, self.best_watched)
        arrays["watch"] = np.array(watch, dtype=np.float64)  # infinities, which JSON has no word for
        arrays["sums"] = np.array(astuple(self.sums), dtype=np.float64)
        for name, values in self._lists().items():
            arrays[f"history.{name}"] = np.array(values, dtype=np.float64)
        return arrays, meta

    def _lists(self) -> dict[str, list[Any]]:
        return {name: value for name, value in vars(self.history).items() if isinstance(value, list)}

    def resume(self) -> None:
        """Become the run that the folder holds, if any."""
        found = None if self.folder is None else self.folder.newest()
        if found is None:
            return
        arrays, meta = found
        for name, state in {"state": self.state, "first": self.first, "best": self.best}.items():
            average, plateau = arrays.get(f"{name}.average"), _plateau(arrays[f"{name}.plateau"])
            w, slots = arrays[f"{name}.w"], arrays[f"{name}.slots"]
            step, epoch, block, batch = meta[name]
            state.restore(State(w, slots, average, step, epoch, plateau, block, batch))
        self.watch.best, quiet, self.watch.last, self.best_watched = arrays["watch"].tolist()
        self.watch.quiet = int(quiet)
        loss, squares, rows, steps, finite, whole, *rates = arrays["sums"].tolist()
        self.sums = Sums(loss, squares, int(rows), int(steps), bool(finite), bool(whole), *rates)
        for name, values in self._lists().items():
            counts = name in ("epoch", "step")
            values[:] = arrays[f"history.{name}"].astype(np.int64 if counts else np.float64).tolist()
        history = self.history
        self.retries, self.epochs = meta["retries"], meta["epochs"]
        history.converged, history.diverged = meta["converged"], meta["diverged"]
        history.reason, history.limit = meta["reason"], meta["limit"]
        if history.limit is not None:  # which may be another one now
            history.reason, history.limit, history.converged = "", None, False
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
