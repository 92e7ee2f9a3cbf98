"""Optimizers: one frozen dataclass a rule, carrying its NumPy formula. These formulas are the specification.

``step(w, g, slots, lr, t)`` changes ``w`` and ``slots`` in place: w, g of equal shapes, slots of shape (n_slots,
*w.shape), lr the rate of this step, t the number of this step, counted from 1. Native kernels receive ``parameters()`` as
doubles, in the order of the fields (the rate travels separately, evaluated from its schedule).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from gdfast.schedules import Rate, as_schedule

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Optimizer:
    learning_rate: Rate = 0.01
    name: ClassVar[str]
    n_slots: ClassVar[int] = 0

    def __post_init__(self) -> None:
        as_schedule(self.learning_rate)

    def parameters(self) -> tuple[float, ...]:
        return tuple(float(getattr(self, f.name)) for f in fields(self) if f.name != "learning_rate")

    def rates(self, first: int, count: int) -> Array:
        """lr of the steps first, first + 1, ...: a float64 array of length count; the first step of a run is 0."""
        return as_schedule(self.learning_rate)(np.arange(first, first + count, dtype=np.float64))

    def step(self, w: Array, g: Array, slots: Array, lr: float, t: int) -> None:
        raise NotImplementedError

    def _check(self, ok: bool, field: str, wanted: str) -> None:
        if not ok:
            raise ValueError(f"{type(self).__name__}: {field} must be {wanted}, got {getattr(self, field)!r}")


@dataclass(frozen=True)
class SGD(Optimizer):
    """v = momentum v + g;  w -= lr v,  with nesterov  w -= lr (g + momentum v)

    The convention of torch.optim.SGD without dampening (Polyak 1964, Nesterov 1983, Sutskever et al. 2013).
    Keras folds lr into v, which differs only while lr changes.
    """

    learning_rate: Rate = 0.01
    momentum: float = 0.0
    nesterov: bool = False
    name = "sgd"
    n_slots = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(0 <= self.momentum < 1, "momentum", "in [0, 1)")
        self._check(not (self.nesterov and self.momentum == 0), "nesterov", "False without momentum")

    def step(self, w: Array, g: Array, slots: Array, lr: float, t: int) -> None:
        v = slots[0]
        v *= self.momentum
        v += g
        w -= lr * (g + self.momentum * v if self.nesterov else v)


@dataclass(frozen=True)
class Adam(Optimizer):
    """m = beta_1 m + (1 - beta_1) g;  v = beta_2 v + (1 - beta_2) g^2;
    w -= lr (m / (1 - beta_1^t)) / (sqrt(v / (1 - beta_2^t)) + epsilon)

    Kingma and Ba 2015, algorithm 1, with epsilon outside the corrected root as in torch.optim.Adam.
    """

    learning_rate: Rate = 0.001
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    name = "adam"
    n_slots = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(0 <= self.beta_1 < 1, "beta_1", "in [0, 1)")
        self._check(0 <= self.beta_2 < 1, "beta_2", "in [0, 1)")
        self._check(self.epsilon > 0, "epsilon", "> 0")

    def step(self, w: Array, g: Array, slots: Array, lr: float, t: int) -> None:
        m, v = slots
        m += (1 - self.beta_1) * (g - m)
        v += (1 - self.beta_2) * (g * g - v)
        w -= lr / (1 - self.beta_1**t) * m / (np.sqrt(v / (1 - self.beta_2**t)) + self.epsilon)


ALL: dict[str, type[Optimizer]] = {kind.name: kind for kind in (SGD, Adam)}
