"""Optimizers: one frozen dataclass a rule, carrying its NumPy formula. These formulas are the specification.

``step(w, g, slots, lr, t)`` changes ``w`` and ``slots`` in place: w, g of equal shapes, slots of shape (n_slots,
*w.shape), lr the rate of this step, t the number of this step, counted from 1. What changes with t alone (corrections of
bias, running products of momenta) is ``coefficients(t)``, a pure function, so that a run goes on from step t by its slots
and t. Native kernels receive ``parameters()`` and one row of ``coefficients`` a step as doubles, and the rate beside them.

Every optimizer takes ``weight_decay``: w -= lr weight_decay w, w as it was before the step, the intercept never. This is
the decoupled decay of Loshchilov and Hutter 2019 and of Keras, for every rule. It is not the ``weight_decay`` of
torch.optim.SGD and the like, which is added to the gradient: that is the L2 part of ``ElasticNet``.

Every optimizer takes ``lazy``, which matters for sparse rows alone: a step then changes only the columns in which a row of
its batch holds an entry, their slots, penalties, decay and bounds included, and the intercept; it costs what the entries of
the batch cost. Columns between two of their batches go without the moves that momentum and Adam's m would still make, and
without their penalty: another rule than the one on dense rows, the one of torch.optim.SparseAdam and of TensorFlow's
LazyAdam. Without ``lazy``, sparse and dense rows give the same model. SGD, and Adagrad, Adadelta, RMSprop and FTRL without
L2 and momentum, are as fast without it: what a column has missed is a sum over steps, made up for when a row holds it again.

L1 is a proximal step in the metric of the optimizer. ``step`` returns its threshold: l1 times the effective step of each
coordinate, which is the factor between a gradient that stays the same and the move that it makes. A stationary point is
then one of the objective, whatever the optimizer (Duchi et al. 2011; Yun et al. 2021): soft(w - s g, s l1) = w if and only
if -g is in l1 d|w|. A threshold of lr l1 would give Adam, whose move at rest is lr whatever the gradient, other zeros.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Union

import numpy as np

from gdfast.schedules import Rate, as_schedule

Array = np.ndarray[Any, Any]
Number = Union[Array, float]  # one for all coordinates, or one each


@dataclass(frozen=True)
class Optimizer:
    """What all rules share. ``slot_names``: the arrays that a rule keeps, in the order of the first axis of ``slots``."""

    learning_rate: Rate = 0.01
    weight_decay: float = field(default=0.0, kw_only=True)
    lazy: bool = field(default=False, kw_only=True)
    name: ClassVar[str]
    rule: ClassVar[str] = ""  # the name of the native kernel where another one's is used
    slots: ClassVar[tuple[str, ...]] = ()
    optional_slots: ClassVar[
        dict[str, str]
    ] = {}  # option -> the slot that it needs; each choice is a kernel of its own

    def __post_init__(self) -> None:
        if not (isinstance(self.learning_rate, str) and self.learning_rate == "auto"):
            as_schedule(self.learning_rate)
        self._check_number("weight_decay", positive=False)

    @property
    def _options(self) -> list[str]:
        return [option for option in self.optional_slots if getattr(self, option)]

    @property
    def slot_names(self) -> tuple[str, ...]:
        return (*self.slots, *(self.optional_slots[option] for option in self._options))

    @property
    def n_slots(self) -> int:
        return len(self.slot_names)

    @property
    def kernel(self) -> str:
        """Name of the native kernel: that of the rule and its options that need a slot."""
        return "-".join((self.rule or self.name, *self._options))

    def initial_slots(self, w: Array) -> Array:
        """The slots before the first step, for parameters of the shape and dtype of w."""
        return np.zeros((self.n_slots, *w.shape), dtype=w.dtype)

    def parameters(self) -> tuple[float, ...]:
        """The constants of the native kernel."""
        return ()

    def coefficients(self, t: Array) -> Array:
        """What changes with the step number alone: (len(t), n) for steps t (float64, from 1)."""
        return np.empty((len(t), 0))

    def coefficients_of(self, first: int, count: int) -> Array:
        """``coefficients`` of the steps first + 1, ..., first + count, cut short where all the rest equal the last row."""
        rows = min(count, 1024)
        while rows < count and not np.array_equal(self._at(first + rows), self._at(first + count)):
            rows = min(2 * rows, count)
        return self.coefficients(np.arange(first + 1, first + rows + 1, dtype=np.float64))

    def rates(self, first: int, count: int) -> Array:
        """lr of the steps first, first + 1, ...: a float64 array of length count; the first step of a run is 0."""
        return as_schedule(self.learning_rate)(np.arange(first, first + count, dtype=np.float64))

    def step(
        self, w: Array, g: Array, slots: Array, lr: float, t: int, l1: Number = 0.0, factor: Number = 1.0
    ) -> Number:
        """Moves w and the slots; returns the threshold of the proximal step that follows.

        l1: strength of the L1 penalty of each coordinate; factor: that of its penalties, 0 for an intercept (FTRL's own).
        """
        raise NotImplementedError

    def _at(self, t: int) -> Array:
        return self.coefficients(np.array([t], dtype=np.float64))[0]

    def _check(self, ok: bool, name: str, wanted: str) -> None:
        if not ok:
            raise ValueError(f"{type(self).__name__}: {name} must be {wanted}, got {getattr(self, name)!r}")

    def _check_number(self, *names: str, positive: bool = True) -> None:
        for name in names:
            value = getattr(self, name)
            ok = np.isfinite(value) and (value > 0 if positive else value >= 0)
            self._check(bool(ok), name, "a finite number > 0" if positive else "a finite number >= 0")

    def _check_fraction(self, *names: str) -> None:
        for name in names:
            self._check(0 <= getattr(self, name) < 1, name, "in [0, 1)")


@dataclass(frozen=True)
class SGD(Optimizer):
    """w -= lr g;  with momentum v = momentum v + (1 - dampening) g, v = g in the first step, w -= lr v;
    with nesterov w -= lr (g + momentum v)

    The convention of torch.optim.SGD (Polyak 1964, Nesterov 1983, Sutskever et al. 2013). Keras folds lr into v, which
    differs only while lr changes.
    """

    learning_rate: Rate = 0.01
    momentum: float = 0.0
    nesterov: bool = False
    dampening: float = 0.0
    name = "sgd"
    optional_slots: ClassVar[dict[str, str]] = {"momentum": "velocity"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_fraction("momentum", "dampening")
        self._check(not (self.nesterov and self.momentum == 0), "nesterov", "False without momentum")
        self._check(not (self.dampening and self.momentum == 0), "dampening", "0 without momentum")
        self._check(not (self.nesterov and self.dampening), "dampening", "0 with nesterov")

    def parameters(self) -> tuple[float, ...]:
        return (self.momentum, float(self.nesterov)) if self.momentum else ()

    def coefficients(self, t: Array) -> Array:
        """(weight of g, v after t steps of g = 1)"""
        if not self.momentum:
            return super().coefficients(t)
        kept = self.momentum ** (t - 1)
        v = kept + (1 - self.dampening) * (1 - kept) / (1 - self.momentum)
        gain = 1 + self.momentum * v if self.nesterov else v
        return np.stack([np.where(t == 1, 1.0, 1 - self.dampening), gain], axis=1)

    def step(
        self, w: Array, g: Array, slots: Array, lr: float, t: int, l1: Number = 0.0, factor: Number = 1.0
    ) -> Number:
        if not self.momentum:
            w -= lr * g
            return lr * l1
        (v,), (taken, gain) = slots, self._at(t)
        v *= self.momentum
        v += taken * g
        w -= lr * (g + self.momentum * v if self.nesterov else v)
        return lr * gain * l1


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """accumulator += g^2;  w -= lr g / (sqrt(accumulator) + epsilon)

    Duchi et al. 2011, with epsilon as in torch.optim.Adagrad; ``keras_epsilon``: sqrt(accumulator + epsilon), as in Keras,
    whose initial_accumulator is 0.1. torch's lr_decay is the schedule InverseTimeDecay.
    """

    learning_rate: Rate = 0.01
    initial_accumulator: float = 0.0
    epsilon: float = 1e-10
    keras_epsilon: bool = False
    name = "adagrad"
    slots = ("accumulator",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("initial_accumulator", positive=False)
        self._check_number("epsilon")

    def initial_slots(self, w: Array) -> Array:
        return np.full((1, *w.shape), self.initial_accumulator, dtype=w.dtype)

    def parameters(self) -> tuple[float, ...]:
        """epsilon (inside, outside) the root"""
        return (self.epsilon, 0.0) if self.keras_epsilon else (0.0, self.epsilon)

    def step(
        self, w: Array, g: Array, slots: Array, lr: float, t: int, l1: Number = 0.0, factor: Number = 1.0
    ) -> Number:
        (accumulator,), (inside, outside) = slots, self.parameters()
        accumulator += g * g
        size = lr / (np.sqrt(accumulator + inside) + outside)
        w -= size * g
        return size * l1


@dataclass(frozen=True)
class Adadelta(Optimizer):
    """v = rho v + (1 - rho) g^2;  s = sqrt(u + epsilon) / sqrt(v + epsilon);  u = rho u + (1 - rho) (s g)^2;  w -= lr s g

    Zeiler 2012; epsilon stands inside both roots in torch.optim.Adadelta and in Keras (rho 0.95, epsilon 1e-7).
    """

    learning_rate: Rate = 1.0
    rho: float = 0.9
    epsilon: float = 1e-6
    name = "adadelta"
    slots = ("v", "u")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_fraction("rho")
        self._check_number("epsilon")

    def parameters(self) -> tuple[float, ...]:
        return self.rho, self.epsilon

    def step(
        self, w: Array, g: Array, slots: Array, lr: float, t: int, l1: Number = 0.0, factor: Number = 1.0
    ) -> Number:
        v, u = slots
        v += (1 - self.rho) * (g * g - v)
        size = np.sqrt((u + self.epsilon) / (v + self.epsilon))
        u += (1 - self.rho) * ((size * g) ** 2 - u)
        w -= lr * (size * g)
        return lr * size * l1


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """v = rho v + (1 - rho) g^2;  w -= lr g / (sqrt(v) + epsilon)

    ``centered``: mean = rho mean + (1 - rho) g, and v - mean^2 stands for v under the root. ``momentum``: velocity =
    momentum velocity + g / (sqrt(v) + epsilon), w -= lr velocity. Tieleman and Hinton 2012, Graves 2013, as
    torch.optim.RMSprop (its alpha is rho). ``keras_epsilon``: sqrt(v + epsilon), as in Keras (rho 0.9, epsilon 1e-7), which
    folds lr into velocity; that differs only while lr changes.
    """

    learning_rate: Rate = 0.01
    rho: float = 0.99
    epsilon: float = 1e-8
    centered: bool = False
    momentum: float = 0.0
    keras_epsilon: bool = False
    name = "rmsprop"
    slots = ("v",)
    optional_slots: ClassVar[dict[str, str]] = {"centered": "mean", "momentum": "velocity"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_fraction("rho", "momentum")
        self._check_number("epsilon")

    def parameters(self) -> tuple[float, ...]:
        """rho, momentum, epsilon (inside, outside) the root"""
        return self.rho, self.momentum, *((self.epsilon, 0.0) if self.keras_epsilon else (0.0, self.epsilon))

    def coefficients(self, t: Array) -> Array:
        """(velocity after t steps of g / (sqrt(v) + epsilon) = 1)"""
        return ((1 - self.momentum**t) / (1 - self.momentum))[:, None]

    def step(
        self, w: Array, g: Array, slots: Array, lr: float, t: int, l1: Number = 0.0, factor: Number = 1.0
    ) -> Number:
        slot, (inside, outside), (gain,) = (
            dict(zip(self.slot_names, slots, strict=True)),
            self.parameters()[2:],
            self._at(t),
        )
        v = slot["v"]
        v += (1 - self.rho) * (g * g - v)
        if self.centered:
            slot["mean"] += (1 - self.rho) * (g - slot["mean"])
            v = np.maximum(v - slot["mean"] ** 2, 0)
        size = 1 / (np.sqrt(v + inside) + outside)
        move = size * g
        if self.momentum:
            velocity = slot["velocity"]
            velocity *= self.momentum
            velocity += move
            move = velocity
        w -= lr * move
        return lr * gain * size * l1


@dataclass(frozen=True)
class Adam(Optimizer):
    """m = beta_1 m + (1 - beta_1) g;  v = beta_2 v + (1 - beta_2) g^2;
    w -= lr (m / (1 - beta_1^t)) / (sqrt(v / (1 - beta_2^t)) + epsilon)

    Kingma and Ba 2015, algorithm 1, with epsilon outside the corrected root as in torch.optim.Adam. ``keras_epsilon``:
    epsilon beside sqrt(v) before its correction (the paper's epsilon-hat), as in Keras (epsilon 1e-7). ``amsgrad``: the
    largest v so far stands for v (Reddi et al. 2018), uncorrected v compared, as in torch and Keras.
    """

    learning_rate: Rate = 0.001
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    amsgrad: bool = False
    keras_epsilon: bool = False
    name = "adam"
    slots = ("m", "v")
    optional_slots: ClassVar[dict[str, str]] = {"amsgrad": "v_max"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_fraction("beta_1", "beta_2")
        self._check_number("epsilon")

    def parameters(self) -> tuple[float, ...]:
        return self.beta_1, self.beta_2

    def coefficients(self, t: Array) -> Array:
        """(correction of m, of v, epsilon beside the corrected root)"""
        out = np.empty((len(t), 3))
        out[:, 0], out[:, 1] = 1 / (1 - self.beta_1**t), 1 / (1 - self.beta_2**t)
        out[:, 2] = self.epsilon * np.sqrt(out[:, 1]) if self.keras_epsilon else self.epsilon
        return out

    def step(
        self, w: Array, g: Array, slots: Array, lr: float, t: int, l1: Number = 0.0, factor: Number = 1.0
    ) -> Number:
        (m, v, *v_max), (of_m, of_v, epsilon) = slots, self._at(t)
        m += (1 - self.beta_1) * (g - m)
        v += (1 - self.beta_2) * (g * g - v)
        second = np.maximum(v_max[0], v, out=v_max[0]) if self.amsgrad else v
        size = lr / (np.sqrt(of_v * second) + epsilon)
        w -= size * (of_m * m)
        return size * l1


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay, w -= lr weight_decay w beside it (Loshchilov and Hutter 2019)

    As torch.optim.AdamW and, with ``keras_epsilon`` and weight_decay 0.004, as Keras.
    """

    weight_decay: float = field(default=0.01, kw_only=True)
    name = "adamw"
    rule = "adam"


@dataclass(frozen=True)
class Nadam(Optimizer):
    """m and v as in Adam;  mu_t = beta_1 (1 - 0.96^(t momentum_decay) / 2);  P_t = mu_1 ... mu_t;
    w -= lr (mu_(t+1) m / (1 - P_(t+1)) + (1 - mu_t) g / (1 - P_t)) / (sqrt(v / (1 - beta_2^t)) + epsilon)

    Dozat 2016, as torch.optim.NAdam; Keras is the same with momentum_decay 1 and epsilon 1e-7.
    """

    learning_rate: Rate = 0.002
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    momentum_decay: float = 0.004
    name = "nadam"
    slots = ("m", "v")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_fraction("beta_1", "beta_2")
        self._check_number("epsilon")
        self._check_number("momentum_decay", positive=False)

    def parameters(self) -> tuple[float, ...]:
        return self.beta_1, self.beta_2, self.epsilon

    def _momenta(self, t: Array) -> Array:
        return np.asarray(self.beta_1 * (1 - 0.5 * 0.96 ** (t * self.momentum_decay)))

    def coefficients(self, t: Array) -> Array:
        """(weight of m, of g, correction of v, the move by m and g after t steps of g = 1)"""
        # P_t <= beta_1^t: from some t on, 1 - P_t is 1 in float64
        vanished = 1 if self.beta_1 == 0 else int(np.log(1e-17) / np.log(self.beta_1)) + 1
        last = int(min(t.max(initial=0) + 1, vanished))
        products = np.cumprod(self._momenta(np.arange(1.0, last + 1)))
        here, there = (1 - products[np.minimum(i, last).astype(np.int64) - 1] for i in (t, t + 1))
        of_m, of_g = self._momenta(t + 1) / there, (1 - self._momenta(t)) / here
        return np.stack([of_m, of_g, 1 / (1 - self.beta_2**t), of_m * (1 - self.beta_1**t) + of_g], axis=1)

    def step(
        self, w: Array, g: Array, slots: Array, lr: float, t: int, l1: Number = 0.0, factor: Number = 1.0
    ) -> Number:
        (m, v), (of_m, of_g, of_v, gain) = slots, self._at(t)
        m += (1 - self.beta_1) * (g - m)
        v += (1 - self.beta_2) * (g * g - v)
        size = lr / (np.sqrt(of_v * v) + self.epsilon)
        w -= size * (of_m * m + of_g * g)
        return size * gain * l1


@dataclass(frozen=True)
class Adamax(Optimizer):
    """m = beta_1 m + (1 - beta_1) g;  u = max(beta_2 u, |g| + epsilon);  w -= lr m / ((1 - beta_1^t) u)

    Kingma and Ba 2015, algorithm 2, with epsilon as in torch.optim.Adamax; ``keras_epsilon``: u = max(beta_2 u, |g|) and
    u + epsilon below the fraction, as in Keras (epsilon 1e-7).
    """

    learning_rate: Rate = 0.002
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    keras_epsilon: bool = False
    name = "adamax"
    slots = ("m", "u")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_fraction("beta_1", "beta_2")
        self._check_number("epsilon")

    def parameters(self) -> tuple[float, ...]:
        """beta_1, beta_2, epsilon (inside, outside) the maximum"""
        return self.beta_1, self.beta_2, *((0.0, self.epsilon) if self.keras_epsilon else (self.epsilon, 0.0))

    def coefficients(self, t: Array) -> Array:
        """(correction of m)"""
        return (1 / (1 - self.beta_1**t))[:, None]

    def step(
        self, w: Array, g: Array, slots: Array, lr: float, t: int, l1: Number = 0.0, factor: Number = 1.0
    ) -> Number:
        (m, u), (inside, outside), (of_m,) = slots, self.parameters()[2:], self._at(t)
        m += (1 - self.beta_1) * (g - m)
        np.maximum(self.beta_2 * u, np.abs(g) + inside, out=u)
        size = lr / (u + outside)
        w -= size * (of_m * m)
        return size * l1


@dataclass(frozen=True)
class Lion(Optimizer):
    """c = beta_1 m + (1 - beta_1) g;  w -= lr sign(c);  m = beta_2 m + (1 - beta_2) g

    Chen et al. 2023, algorithm 2, as in Keras. Every coordinate moves by lr: the steepest descent within |u - w|_inf <= lr.
    With L1 it is that of c u + l1 |u|: as before where |c| > l1, else by lr towards zero and no further.
    """

    learning_rate: Rate = 0.0001
    beta_1: float = 0.9
    beta_2: float = 0.99
    name = "lion"
    slots = ("m",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_fraction("beta_1", "beta_2")

    def parameters(self) -> tuple[float, ...]:
        return self.beta_1, self.beta_2

    def step(
        self, w: Array, g: Array, slots: Array, lr: float, t: int, l1: Number = 0.0, factor: Number = 1.0
    ) -> Number:
        (m,) = slots
        c = m + (1 - self.beta_1) * (g - m)
        m += (1 - self.beta_2) * (g - m)
        held = (np.abs(c) <= l1) & (np.asarray(l1) > 0)
        w -= np.where(held, 0, lr * np.sign(c))
        return np.where(held, lr, 0.0)


@dataclass(frozen=True)
class FTRL(Optimizer):
    """n += g^2;  D = beta + sqrt(n) + lr l2;  z += lr g - D w;  w = soft(-z, lr l1) / D;  z = min(max(z, -lr l1), lr l1)

    FTRL-Proximal (McMahan et al. 2013, algorithm 1; lr is its alpha): its z, times lr, is this z - D w. Written so, the
    weights may start anywhere, be decayed or projected, and lr may change, which weighs the gradients. ``l1`` and ``l2``
    are its own, counted once for the whole run, not once a step, so their weight fades; the intercept and the factors of
    the penalty hold for them too. Keras is the same with beta 0, initial_accumulator 0.1 and twice its l2.
    """

    learning_rate: Rate = 0.1
    beta: float = 1.0
    l1: float = 0.0
    l2: float = 0.0
    initial_accumulator: float = 0.0
    name = "ftrl"
    slots = ("z", "n")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("beta", "l1", "l2", "initial_accumulator", positive=False)
        self._check(self.beta + self.initial_accumulator > 0, "beta", "> 0 where initial_accumulator is 0")

    def initial_slots(self, w: Array) -> Array:
        slots = super().initial_slots(w)
        slots[1] = self.initial_accumulator
        return slots

    def parameters(self) -> tuple[float, ...]:
        return self.beta, self.l1, self.l2

    def step(
        self, w: Array, g: Array, slots: Array, lr: float, t: int, l1: Number = 0.0, factor: Number = 1.0
    ) -> Number:
        z, n = slots
        n += g * g
        metric = self.beta + np.sqrt(n) + lr * self.l2 * factor
        z += lr * g - metric * w
        held = np.clip(z, -lr * self.l1 * factor, lr * self.l1 * factor)
        w[...] = (held - z) / metric
        z[...] = held
        return lr / metric * l1


ALL: dict[str, type[Optimizer]] = {
    kind.name: kind
    for kind in (SGD, Adagrad, Adadelta, RMSprop, Adam, AdamW, Nadam, Adamax, Lion, FTRL)
}  # fmt: skip
