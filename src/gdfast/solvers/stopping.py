"""When a run of epochs ends, and what it left on its way."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Stopping:
    """The rules that end a run, looked at after each epoch; the first one met ends it, None switches one off.

    Limits, which say nothing about convergence: ``max_epochs``; ``max_steps``, exact; ``max_seconds``, looked at after
    every few batches.

    gradient_norm : |gradient of the objective over all rows| <= it, the smallest subgradient where there is an L1 part;
        costs one more pass over the data an epoch.
    objective_change : |f_t - f_(t-1)| <= it * |f_(t-1)| for the objectives of two epochs.
    loss : mean loss of an epoch <= it.
    tol, patience : for ``patience`` epochs the watched number did not improve on the best one by ``tol``. It is the
        objective of the epoch or, with validation, the score.

    The loss of an epoch is the mean over its rows, each taken before its own step; the objective adds the penalty.
    """

    max_epochs: int = 1000
    max_steps: int | None = None
    max_seconds: float | None = None
    gradient_norm: float | None = None
    objective_change: float | None = None
    loss: float | None = None
    tol: float | None = 1e-3
    patience: int = 5

    @property
    def for_convergence(self) -> bool:
        """Whether any rule is more than a limit."""
        return not (self.gradient_norm is self.objective_change is self.loss is self.tol is None)


@dataclass(frozen=True)
class Epoch:
    """One epoch, as callbacks see it.

    epoch counts from 1 in this run, step over all runs of a state; gradient_norm is that of ``Stopping.gradient_norm``
    where it is asked for, else the root mean square over the batches; seconds and rows_per_second are of this epoch.
    """

    epoch: int
    step: int
    loss: float
    objective: float
    gradient_norm: float
    learning_rate: float
    validation_score: float | None
    seconds: float
    rows_per_second: float


@dataclass
class History:
    """What happened: one list a number of ``Epoch``, one entry an epoch, and how the run ended.

    ``reason`` says why in one sentence; ``converged``: by a rule that is no limit; ``limit``: the parameter of ``Stopping``
    that ended it otherwise; ``worse``: than the start, though it did not diverge.
    """

    epoch: list[int] = field(default_factory=list)
    step: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    objective: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    validation_score: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    rows_per_second: list[float] = field(default_factory=list)
    reason: str = ""
    converged: bool = False
    diverged: bool = False
    worse: bool = False
    limit: str | None = None

    def append(self, epoch: Epoch) -> None:
        for f in fields(Epoch):
            value = getattr(epoch, f.name)
            if value is not None:
                getattr(self, f.name).append(value)


@dataclass
class Watch:
    """Applies the rules of ``Stopping`` epoch by epoch; ``best`` and ``quiet`` are those of tol and patience."""

    stopping: Stopping
    best: float = math.inf
    quiet: int = 0
    last: float = math.inf

    def converged(self, epoch: Epoch, watched: float, waiting: bool) -> str:
        """Why the run is done, or nothing. ``watched`` falls with progress; ``waiting``: a lower rate comes before an end
        by ``tol``."""
        rules, last, self.last = self.stopping, self.last, epoch.objective
        if rules.tol is not None:
            self.quiet = self.quiet + 1 if watched > self.best - rules.tol else 0
            self.best = min(self.best, watched)
        if rules.gradient_norm is not None and epoch.gradient_norm <= rules.gradient_norm:
            return f"the gradient norm {epoch.gradient_norm:.3g} is below {rules.gradient_norm:g}"
        if (
            rules.objective_change is not None
            and abs(epoch.objective - last) <= rules.objective_change * abs(last) < math.inf
        ):
            return f"the objective changed by less than {rules.objective_change:g} of it in an epoch"
        if rules.loss is not None and epoch.loss <= rules.loss:
            return f"the loss {epoch.loss:.3g} is below {rules.loss:g}"
        if rules.tol is not None and self.quiet >= rules.patience and not waiting:
            return f"no improvement by {rules.tol:g} in {rules.patience} epochs"
        return ""

    def limit(self, epochs: int, steps: int, seconds: float) -> tuple[str, str] | None:
        """(parameter, sentence) of the limit that is reached, or None."""
        rules = self.stopping
        if epochs >= rules.max_epochs:
            return "max_epochs", f"{rules.max_epochs} epochs"
        if rules.max_steps is not None and steps >= rules.max_steps:
            return "max_steps", f"{rules.max_steps} steps"
        if rules.max_seconds is not None and seconds >= rules.max_seconds:
            return "max_seconds", f"{rules.max_seconds:g} seconds"
        return None
