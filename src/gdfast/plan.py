"""What to run and where it stands: plain data, no behaviour. Checkpoint, resume and the backends all read these."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gdfast.clipping import Clipping
from gdfast.layouts import Features, shape_of, take_rows
from gdfast.losses import Loss
from gdfast.optimizers import Optimizer
from gdfast.penalties import Bounds, ElasticNet
from gdfast.schedules import Plateau

Array = np.ndarray[Any, Any]
_BLOCK = 16  # rows that a sample takes in one place


@dataclass(frozen=True)
class Examples:
    """Validated rows to learn from, as the kernels read them.

    X: ``Table.X``; y: (n,) values or class codes for k = 1 output or for codes, else (n, k); weight: (n,) or None for
    ones; fold: (n,) the number of each row's fold, from 0, or None. All of one dtype, float32 or float64.
    """

    X: Features
    y: Array
    weight: Array | None
    k: int = 1
    fold: Array | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.y.dtype

    @property
    def n(self) -> int:
        return shape_of(self.X)[0]

    @property
    def d(self) -> int:
        return shape_of(self.X)[1]

    @property
    def total_weight(self) -> float:
        return float(self.n) if self.weight is None else float(self.weight.sum(dtype=np.float64))

    def blocks(self, plan: Plan, epoch: int, first: int = 0) -> Iterator[tuple[Part, Examples]]:
        """The rows of an epoch in the blocks that are trained one after the other, from number ``first`` on: one, all."""
        if first == 0:
            yield WHOLE, self

    def sample(self, count: int, numbers: int | None = None) -> Examples:
        """About ``count`` rows, fewer where these hold more than so many numbers; all where n <= 2 count.

        Always the same: blocks of 16 at stratified random places. Memory is read in long runs, and rows that are sorted or
        periodic do no harm.
        """
        count = count if numbers is None else max(1, min(count, numbers // self.d))
        if self.n <= 2 * max(count, _BLOCK):
            return self
        blocks = -(-count // _BLOCK)
        stratum = self.n / blocks
        places = np.arange(blocks) * stratum + np.random.default_rng(0).random(blocks) * (stratum - _BLOCK)
        chosen = (places.astype(np.int64)[:, None] + np.arange(_BLOCK)).ravel()
        rows = take_rows(self.X, chosen)
        weight, fold = (None if a is None else a[chosen] for a in (self.weight, self.fold))
        return Examples(rows, self.y[chosen], weight, self.k, fold)

    def without(self, fold: int) -> Examples:
        """The same rows, with weight 0 for those of one fold; -1 for none."""
        if self.fold is None or fold < 0:
            return replace(self, fold=None)
        kept = (self.fold != fold).astype(self.dtype)
        return replace(self, weight=kept if self.weight is None else kept * self.weight, fold=None)


@dataclass(frozen=True)
class Part:
    """Where in an epoch steps are made: of its block number ``block``, from batch ``first`` of that on. ``last``: the epoch
    is over behind them."""

    block: int = 0
    first: int = 0
    last: bool = True


WHOLE = Part()  # an epoch of one block


@dataclass(frozen=True)
class Plan:
    """One run of mini-batch training: the picks that the pipeline of DESIGN fixes the order of.

    A step sees ``batch_size * accumulate`` rows and divides their gradient by that number times ``mean_weight``.
    ``block``: so many consecutive rows stay together when rows are shuffled (see order.py), so that memory is read in runs.
    ``average_from``: the first step (from 1) of the running mean of the weights (Polyak and Juditsky 1992), 0 for none.
    """

    loss: Loss
    optimizer: Optimizer
    penalty: ElasticNet = field(default_factory=ElasticNet)
    clipping: Clipping | None = None
    batch_size: int = 256
    accumulate: int = 1
    shuffle: bool = True
    block: int = 1
    seed: int = 0
    fit_intercept: bool = True
    average_from: int = 0
    mean_weight: float = 1.0
    bounds: Bounds | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate", "block"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be an integer >= 1, got {getattr(self, name)!r}")

    @property
    def rows_per_step(self) -> int:
        return self.batch_size * self.accumulate

    def steps(self, n: int) -> int:
        return -(-n // self.rows_per_step)


@dataclass
class State:
    """Where a run stands. w and average: (d + 1, k), intercept last; slots: (n_slots, d + 1, k); plateau: what a schedule
    that watches training remembers; block, batch: of the epoch under way, how many are behind."""

    w: Array
    slots: Array
    average: Array | None = None
    step: int = 0
    epoch: int = 0
    plateau: Plateau = field(default_factory=Plateau)
    block: int = 0
    batch: int = 0

    @classmethod
    def start(cls, plan: Plan, w: Array) -> State:
        return cls(w=w, slots=plan.optimizer.initial_slots(w), average=w.copy() if plan.average_from else None)

    def copy(self) -> State:
        average = None if self.average is None else self.average.copy()
        return replace(self, w=self.w.copy(), slots=self.slots.copy(), average=average)

    def restore(self, other: State) -> None:
        """Become ``other``, in the same memory."""
        self.w[:], self.slots[:], self.step, self.epoch = other.w, other.slots, other.step, other.epoch
        self.plateau, self.block, self.batch = other.plateau, other.block, other.batch
        if self.average is not None and other.average is not None:
            self.average[:] = other.average

    @property
    def weights(self) -> Array:
        """What the model predicts with: the running mean where there is one, else w."""
        return self.w if self.average is None else self.average


@dataclass(frozen=True)
class Member:
    """One of several models of one output that learn in one pass: its plan, which agrees with those of the others in loss,
    rows a step, order of rows, intercept and laziness; its rates, one a step; the fold that it does not see, -1 for none."""

    plan: Plan
    state: State
    rates: Array
    held_out: int = -1


@dataclass(frozen=True)
class NewtonSystem:
    """(X' diag(h) X / total weight + l2) s = -g of one output, and how far it is worth solving by conjugate gradients from 0:
    until one more product would bring less than about ``share`` of what the average one brought, ``most`` of them.

    g, diagonal: (d + 1,) float64; diagonal > 0 is the preconditioner.
    """

    g: Array
    diagonal: Array
    l2: float
    share: float
    most: int


@dataclass(frozen=True)
class EpochReport:
    """One epoch: the sum of the weighted losses (each row before its own step), the steps made, whether all numbers were
    finite; of every step made the norm of its mean gradient before clipping and the sum of its losses."""

    loss_sum: float
    steps: int
    finite: bool
    norms: Array = field(repr=False)
    losses: Array = field(repr=False)
