"""Schedules: the learning rate as a pure, vectorised function of the step count (0 at the first step of a run).

A schedule is evaluated to an array of rates before native code runs, so that resuming at step t needs nothing but t.
``ReduceOnPlateau`` needs to know how training goes as well; what it remembers is a ``Plateau``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Union

import numpy as np

Array = np.ndarray[Any, Any]


def _positive(owner: object, **values: float) -> None:
    for name, value in values.items():
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{type(owner).__name__}: {name} must be a finite number > 0, got {value!r}")


def _not_negative(owner: object, **values: float) -> None:
    for name, value in values.items():
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(f"{type(owner).__name__}: {name} must be a finite number >= 0, got {value!r}")


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


@dataclass(frozen=True)
class PiecewiseConstant:
    """lr(step) = values[number of boundaries below step]: values[0] up to and with boundaries[0], and so on

    As keras.optimizers.schedules.PiecewiseConstantDecay. torch's MultiStepLR changes one step earlier: give it
    ``boundaries`` less 1.
    """

    boundaries: tuple[float, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        object.__setattr__(self, "values", tuple(self.values))
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                f"PiecewiseConstant: values must hold one rate more than boundaries ({len(self.boundaries)}), "
                f"got {len(self.values)}"
            )
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise ValueError(f"PiecewiseConstant: boundaries must rise, got {self.boundaries!r}")
        _positive(self, **{f"values[{i}]": value for i, value in enumerate(self.values)})

    def __call__(self, step: Array) -> Array:
        return np.asarray(self.values, dtype=np.float64)[np.searchsorted(self.boundaries, step, side="left")]


@dataclass(frozen=True)
class StepDecay:
    """lr(step) = initial_learning_rate * gamma ** floor(step / step_size)

    As torch.optim.lr_scheduler.StepLR.
    """

    initial_learning_rate: float
    step_size: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        _positive(self, initial_learning_rate=self.initial_learning_rate, step_size=self.step_size, gamma=self.gamma)

    def __call__(self, step: Array) -> Array:
        return self.initial_learning_rate * self.gamma ** np.floor(np.asarray(step, dtype=np.float64) / self.step_size)


@dataclass(frozen=True)
class InverseTimeDecay:
    """lr(step) = initial_learning_rate / (1 + decay_rate * step / decay_steps), the quotient floored with ``staircase``

    As keras.optimizers.schedules.InverseTimeDecay.
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
        return self.initial_learning_rate / (1 + self.decay_rate * (np.floor(quotient) if self.staircase else quotient))


@dataclass(frozen=True)
class PolynomialDecay:
    """lr(step) = (initial - end) * (1 - min(step, decay_steps) / decay_steps) ** power + end

    ``cycle``: decay_steps grows to the next multiple that is not below step, instead of staying at ``end``. As
    keras.optimizers.schedules.PolynomialDecay.
    """

    initial_learning_rate: float
    decay_steps: int
    end_learning_rate: float = 0.0001
    power: float = 1.0
    cycle: bool = False

    def __post_init__(self) -> None:
        _positive(
            self, initial_learning_rate=self.initial_learning_rate, decay_steps=self.decay_steps, power=self.power
        )
        _not_negative(self, end_learning_rate=self.end_learning_rate)

    def __call__(self, step: Array) -> Array:
        step = np.asarray(step, dtype=np.float64)
        steps: Any = self.decay_steps
        if self.cycle:
            steps = self.decay_steps * np.maximum(1.0, np.ceil(step / self.decay_steps))
        left = 1 - np.minimum(step, steps) / steps
        return (self.initial_learning_rate - self.end_learning_rate) * left**self.power + self.end_learning_rate


@dataclass(frozen=True)
class CosineDecay:
    """lr(step) = end + (initial - end) * (1 + cos(pi min(step, decay_steps) / decay_steps)) / 2,  end = alpha * initial

    As keras.optimizers.schedules.CosineDecay (Loshchilov and Hutter 2017); torch's CosineAnnealingLR rises again after
    ``T_max``, which ``CosineRestarts`` or ``Cyclic`` say plainly.
    """

    initial_learning_rate: float
    decay_steps: int
    alpha: float = 0.0

    def __post_init__(self) -> None:
        _positive(self, initial_learning_rate=self.initial_learning_rate, decay_steps=self.decay_steps)
        _not_negative(self, alpha=self.alpha)

    def __call__(self, step: Array) -> Array:
        part = np.minimum(np.asarray(step, dtype=np.float64), self.decay_steps) / self.decay_steps
        return self.initial_learning_rate * (self.alpha + (1 - self.alpha) * 0.5 * (1 + np.cos(np.pi * part)))


@dataclass(frozen=True)
class CosineRestarts:
    """CosineDecay over periods of first_decay_steps * t_mul ** i steps, each starting at initial * m_mul ** i

    As keras.optimizers.schedules.CosineDecayRestarts; with m_mul = 1 as torch's CosineAnnealingWarmRestarts (SGDR,
    Loshchilov and Hutter 2017).
    """

    initial_learning_rate: float
    first_decay_steps: int
    t_mul: float = 2.0
    m_mul: float = 1.0
    alpha: float = 0.0

    def __post_init__(self) -> None:
        _positive(
            self,
            initial_learning_rate=self.initial_learning_rate,
            first_decay_steps=self.first_decay_steps,
            m_mul=self.m_mul,
        )
        _not_negative(self, alpha=self.alpha)
        if not self.t_mul >= 1:
            raise ValueError(f"CosineRestarts: t_mul must be a number >= 1, got {self.t_mul!r}")

    def __call__(self, step: Array) -> Array:
        done = np.asarray(step, dtype=np.float64) / self.first_decay_steps
        if self.t_mul == 1:
            period = np.floor(done)
            part = done - period
        else:
            period = np.floor(np.log(1 - done * (1 - self.t_mul)) / np.log(self.t_mul) + 1e-12)
            start = (1 - self.t_mul**period) / (1 - self.t_mul)
            part = np.maximum(0.0, done - start) / self.t_mul**period
        cosine = 0.5 * self.m_mul**period * (1 + np.cos(np.pi * part))
        return self.initial_learning_rate * ((1 - self.alpha) * cosine + self.alpha)


@dataclass(frozen=True)
class Cyclic:
    """lr(step) = base + (max - base) * max(0, 1 - |x|) * scale: a triangle of 2 * step_size steps (Smith 2017)

    ``mode``: "triangular" (scale 1), "triangular2" (halved each cycle), "exp_range" (gamma ** step). As
    torch.optim.lr_scheduler.CyclicLR.
    """

    base_learning_rate: float
    max_learning_rate: float
    step_size: int = 2000
    mode: str = "triangular"
    gamma: float = 1.0

    def __post_init__(self) -> None:
        _positive(
            self,
            base_learning_rate=self.base_learning_rate,
            max_learning_rate=self.max_learning_rate,
            step_size=self.step_size,
            gamma=self.gamma,
        )
        if self.mode not in ("triangular", "triangular2", "exp_range"):
            raise ValueError(f"Cyclic: mode must be 'triangular', 'triangular2' or 'exp_range', got {self.mode!r}")

    def __call__(self, step: Array) -> Array:
        step = np.asarray(step, dtype=np.float64)
        cycle = np.floor(1 + step / (2 * self.step_size))
        x = np.abs(step / self.step_size - 2 * cycle + 1)
        scale: Any = 1.0
        if self.mode == "triangular2":
            scale = 2.0 ** (1 - cycle)
        elif self.mode == "exp_range":
            scale = self.gamma**step
        height = self.max_learning_rate - self.base_learning_rate
        return self.base_learning_rate + height * np.maximum(0.0, 1 - x) * scale


@dataclass(frozen=True)
class OneCycle:
    """Up from max / div_factor to max in pct_start of the steps, then down to the start / final_div_factor, by cosines

    As torch.optim.lr_scheduler.OneCycleLR (Smith and Topin 2019); after ``total_steps`` the last rate stays.
    """

    max_learning_rate: float
    total_steps: int
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        _positive(
            self,
            max_learning_rate=self.max_learning_rate,
            total_steps=self.total_steps,
            div_factor=self.div_factor,
            final_div_factor=self.final_div_factor,
        )
        if not 0 < self.pct_start < 1:
            raise ValueError(f"OneCycle: pct_start must lie in (0, 1), got {self.pct_start!r}")

    def __call__(self, step: Array) -> Array:
        step = np.minimum(np.asarray(step, dtype=np.float64), self.total_steps - 1)
        peak, last = self.pct_start * self.total_steps - 1, self.total_steps - 1
        start = self.max_learning_rate / self.div_factor

        def anneal(first: float, final: float, part: Array) -> Array:
            return final + (first - final) / 2 * (1 + np.cos(np.pi * part))

        up = anneal(start, self.max_learning_rate, step / peak if peak > 0 else np.ones_like(step))
        down = anneal(self.max_learning_rate, start / self.final_div_factor, (step - peak) / (last - peak))
        return np.where(step <= peak, up, down)


@dataclass(frozen=True)
class Warmup:
    """lr(step) = after(0) * (step + 1) / steps for the first ``steps`` steps, then after(step - steps)"""

    steps: int
    after: Any

    def __post_init__(self) -> None:
        _positive(self, steps=self.steps)
        _without_feedback(self, self.after)
        object.__setattr__(self, "after", as_schedule(self.after))

    def __call__(self, step: Array) -> Array:
        step = np.asarray(step, dtype=np.float64)
        rising = self.after(np.zeros_like(step)) * (step + 1) / self.steps
        return np.where(step < self.steps, rising, self.after(np.maximum(step - self.steps, 0)))


@dataclass(frozen=True)
class Plateau:
    """What ``ReduceOnPlateau`` remembers of a run: the factor on its rates, the best number seen, how many epochs in a row
    brought nothing better, how many of a pause are left, how often the rate was reduced."""

    scale: float = 1.0
    best: float = math.inf
    quiet: int = 0
    pause: int = 0
    reductions: int = 0


@dataclass(frozen=True)
class ReduceOnPlateau:
    """lr(step) = max(min_learning_rate, scale * learning_rate(step)), scale *= factor after a plateau

    A plateau is more than ``patience`` epochs in a row whose watched number (the objective, or the validation score with
    its sign turned) is not below the best one by ``threshold``, as a share of it or, with ``mode="absolute"``, as it is.
    After a reduction ``cooldown`` epochs are not counted. As torch.optim.lr_scheduler.ReduceLROnPlateau and
    keras.callbacks.ReduceLROnPlateau (where patience counts one epoch more).

    ``strict``: small improvements below the threshold do not add up over epochs, as in scikit-learn's
    ``learning_rate="adaptive"``. ``max_reductions``: so often at most. ``retries``: so often a run that diverges goes on
    from its best weights at a reduced rate.
    """

    learning_rate: Any
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    mode: str = "relative"
    cooldown: int = 0
    min_learning_rate: float = 0.0
    strict: bool = False
    max_reductions: int | None = None
    retries: int = 0

    def __post_init__(self) -> None:
        _without_feedback(self, self.learning_rate)
        as_schedule(self.learning_rate)
        if not 0 < self.factor < 1:
            raise ValueError(f"ReduceOnPlateau: factor must lie in (0, 1), got {self.factor!r}")
        _not_negative(
            self,
            patience=self.patience,
            threshold=self.threshold,
            cooldown=self.cooldown,
            min_learning_rate=self.min_learning_rate,
            max_reductions=self.max_reductions or 0,
            retries=self.retries,
        )
        if self.mode not in ("relative", "absolute"):
            raise ValueError(f"ReduceOnPlateau: mode must be 'relative' or 'absolute', got {self.mode!r}")

    def __call__(self, step: Array, plateau: Plateau = Plateau()) -> Array:
        return np.maximum(self.min_learning_rate, plateau.scale * as_schedule(self.learning_rate)(step))

    def exhausted(self, step: int, plateau: Plateau) -> bool:
        """Whether another reduction would change nothing."""
        if self.max_reductions is not None and plateau.reductions >= self.max_reductions:
            return True
        return bool(self(np.array([step]), plateau)[0] <= self.min_learning_rate)

    def observe(self, value: float, step: int, plateau: Plateau) -> Plateau:
        """What is remembered after an epoch that ended at ``step`` with the number ``value``."""
        margin = self.threshold if self.mode == "absolute" else self.threshold * abs(plateau.best)
        better = value < (plateau.best - margin if math.isfinite(plateau.best) else math.inf)
        best = min(value, plateau.best) if better or self.strict else plateau.best
        quiet, pause = 0 if better or plateau.pause else plateau.quiet + 1, max(0, plateau.pause - 1)
        if quiet <= self.patience or self.exhausted(step, plateau):
            return replace(plateau, best=best, quiet=quiet, pause=pause)
        return Plateau(plateau.scale * self.factor, best, 0, self.cooldown, plateau.reductions + 1)


def _without_feedback(owner: object, rate: Any) -> None:
    if isinstance(rate, ReduceOnPlateau):
        raise TypeError(f"{type(owner).__name__} cannot hold ReduceOnPlateau: put it the other way round")


Schedule = Union[
    Constant,
    CosineDecay,
    CosineRestarts,
    Cyclic,
    ExponentialDecay,
    InverseScaling,
    InverseTimeDecay,
    OneCycle,
    Optimal,
    PiecewiseConstant,
    PolynomialDecay,
    ReduceOnPlateau,
    StepDecay,
    Warmup,
]
Rate = Union[float, str, Schedule]  # "auto": found from the data before a run starts

ALL: tuple[type, ...] = (
    Constant,
    CosineDecay,
    CosineRestarts,
    Cyclic,
    ExponentialDecay,
    InverseScaling,
    InverseTimeDecay,
    OneCycle,
    Optimal,
    PiecewiseConstant,
    PolynomialDecay,
    ReduceOnPlateau,
    StepDecay,
    Warmup,
)


def as_schedule(rate: Rate) -> Schedule:
    """A number becomes ``Constant``; a schedule is returned as it is. Raises TypeError for anything else, and ValueError for
    "auto", which fit replaces by what it finds."""
    if isinstance(rate, str) and rate == "auto":
        raise ValueError("learning_rate='auto' is found from the data by fit: give a number or a schedule here")
    if isinstance(rate, ALL):
        return rate  # type: ignore[return-value]
    if isinstance(rate, (int, float, np.integer, np.floating)) and not isinstance(rate, bool):
        return Constant(float(rate))
    raise TypeError(f"learning_rate must be a number > 0 or a schedule such as ExponentialDecay(...), got {rate!r}")
