"""Schedules: the learning rate as a pure, vectorised function of the step count (0 at the first step of a run).

A schedule is evaluated to an array of rates before native code runs, so that resuming at step t needs nothing but t.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Union

import numpy as np

Array = np.ndarray[Any, Any]


def _positive(owner: object, **values: float) -> None:
    for name, value in values.items():
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{type(owner).__name__}: {name} must be a finite number > 0, got {value!r}")


@dataclass(frozen=True)
class Constant:
    """lr(step) = rate"""

    rate: float

    def __post_init__(self) -> None:
        _positive(self, learning_rate=self.rate)

    def __call__(self, step: Array) -> Array:
        return np.full(np.shape(step), float(self.rate))


@dataclass(frozen=True)
class ExponentialDecay:
    """lr(step) = initial_learning_rate * decay_rate ** (step / decay_steps), the quotient floored with ``staircase``

    As keras.optimizers.schedules.ExponentialDecay.
    """

    initial_learning_rate: float
    decay_steps: int
    decay_rate: float
    staircase: bool = False

    def __post_init__(self) -> None:
        _positive(
            self,
            initial_learning_rate=self.initial_learning_rate,
            decay_steps=self.decay_steps,
            decay_rate=self.decay_rate,
        )

    def __call__(self, step: Array) -> Array:
        quotient = np.asarray(step, dtype=np.float64) / self.decay_steps
        return self.initial_learning_rate * self.decay_rate ** (np.floor(quotient) if self.staircase else quotient)


@dataclass(frozen=True)
class InverseScaling:
    """lr(step) = eta0 / (step + 1) ** power_t

    scikit-learn's ``learning_rate="invscaling"``, which counts its steps from 1.
    """

    eta0: float
    power_t: float = 0.5

    def __post_init__(self) -> None:
        _positive(self, eta0=self.eta0)
        if not (np.isfinite(self.power_t) and self.power_t >= 0):
            raise ValueError(f"InverseScaling: power_t must be a finite number >= 0, got {self.power_t!r}")

    def __call__(self, step: Array) -> Array:
        return self.eta0 / (np.asarray(step, dtype=np.float64) + 1) ** self.power_t


@dataclass(frozen=True)
class Optimal:
    """lr(step) = 1 / (alpha (t0 + step)), with 1 / (alpha t0) = s / max(1, |dloss(-s)|), s = alpha ** -1/4

    scikit-learn's ``learning_rate="optimal"`` (Bottou's heuristic); ``slope`` is the loss' gradient at the margin -s of
    a positive example.
    """

    alpha: float
    slope: float = 1.0

    def __post_init__(self) -> None:
        _positive(self, alpha=self.alpha)

    def __call__(self, step: Array) -> Array:
        typical = self.alpha**-0.25
        t0 = max(1.0, abs(self.slope)) / (typical * self.alpha)
        return 1.0 / (self.alpha * (t0 + np.asarray(step, dtype=np.float64)))


Schedule = Union[Constant, ExponentialDecay, InverseScaling, Optimal]
Rate = Union[float, Schedule]

ALL: tuple[type, ...] = (Constant, ExponentialDecay, InverseScaling, Optimal)


def as_schedule(rate: Rate) -> Schedule:
    """A number becomes ``Constant``; a schedule is returned as it is. Raises TypeError for anything else."""
    if isinstance(rate, ALL):
        return rate  # type: ignore[return-value]
    if isinstance(rate, (int, float, np.integer, np.floating)) and not isinstance(rate, bool):
        return Constant(float(rate))
    raise TypeError(f"learning_rate must be a number > 0 or a schedule such as ExponentialDecay(...), got {rate!r}")
