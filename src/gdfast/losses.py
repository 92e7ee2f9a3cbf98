"""Losses: one frozen dataclass a loss, carrying its NumPy formula. These formulas are the specification.

Every loss is a function of the margin ``z = x . w + b`` and the target ``y``; the link is merged into it, so that it
stays exact for margins of any size. ``gradient`` is d value / d z and ``curvature`` is d2 value / d z2 (of the smooth
pieces). All three are elementwise on arrays of shape (n, k), except ``Softmax``, which sees a whole row: its value has
shape (n, 1), its curvature is the diagonal of the row's Hessian.

Targets: classification losses take ``y`` in [0, 1] (a class code; for k > 1 outputs, one column a class); regression
losses take real numbers. Native kernels receive ``parameters()`` as doubles, in the order of the fields.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any, ClassVar

import numpy as np

Array = np.ndarray[Any, Any]


def sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z)), without overflow for any z."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, e) / (1.0 + e)


@dataclass(frozen=True)
class Loss:
    """What every loss knows about itself, so that nothing else has to branch on its name."""

    name: ClassVar[str]
    target: ClassVar[str] = (
        "real"  # "real", "positive", "nonnegative", "binary" (y in [0, 1]) or "class" (y a class code)
    )
    link: ClassVar[str] = "identity"  # mean of y = identity(z), logistic(z), softmax(z) or exp(z)
    twice_differentiable: ClassVar[bool] = False
    curvature_bound: ClassVar[float | None] = None  # sup of the curvature over z, None where there is none

    def parameters(self) -> tuple[float, ...]:
        return tuple(float(p) for p in astuple(self))

    def value(self, z: Array, y: Array) -> Array:
        raise NotImplementedError

    def gradient(self, z: Array, y: Array) -> Array:
        raise NotImplementedError

    def curvature(self, z: Array, y: Array) -> Array:
        raise NotImplementedError

    def times_curvature(self, z: Array, y: Array, u: Array) -> Array:
        """(d2 value / d z d z) u, row by row; u: (n, k), a direction of z"""
        return self.curvature(z, y) * u


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


@dataclass(frozen=True)
class SquaredError(Loss):
    """(z - y)^2 / 2"""

    name = "squared_error"
    twice_differentiable = True
    curvature_bound = 1.0

    def value(self, z: Array, y: Array) -> Array:
        return 0.5 * (z - y) ** 2

    def gradient(self, z: Array, y: Array) -> Array:
        return z - y

    def curvature(self, z: Array, y: Array) -> Array:
        return np.ones_like(z)


@dataclass(frozen=True)
class LogLoss(Loss):
    """log(1 + exp(z)) - y z, written as max(z, 0) - y z + log1p(exp(-|z|))"""

    name = "log_loss"
    target = "binary"
    link = "logistic"
    twice_differentiable = True
    curvature_bound = 0.25

    def value(self, z: Array, y: Array) -> Array:
        return (np.maximum(z, 0) - y * z) + np.log1p(np.exp(-np.abs(z)))

    def gradient(self, z: Array, y: Array) -> Array:
        return sigmoid(z) - y

    def curvature(self, z: Array, y: Array) -> Array:
        return sigmoid(z) * sigmoid(-z)


@dataclass(frozen=True)
class Softmax(Loss):
    """log(sum_j exp(z_j)) - sum_j y_j z_j over the k outputs of a row, y the one-hot class"""

    name = "softmax"
    target = "class"
    link = "softmax"
    twice_differentiable = True
    curvature_bound = 0.5

    def value(self, z: Array, y: Array) -> Array:
        top = z.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(z - top).sum(axis=1, keepdims=True))
        return log_sum - ((z - top) * y).sum(axis=1, keepdims=True)

    def gradient(self, z: Array, y: Array) -> Array:
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True) - y

    def curvature(self, z: Array, y: Array) -> Array:
        p = self.gradient(z, np.zeros_like(z))
        return p * (1 - p)

    def times_curvature(self, z: Array, y: Array, u: Array) -> Array:
        p = self.gradient(z, np.zeros_like(z))
        return p * (u - (p * u).sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class Huber(Loss):
    """r^2 / 2 where |r| <= epsilon, else epsilon |r| - epsilon^2 / 2, with r = z - y (Huber 1964)"""

    epsilon: float = 1.35
    name = "huber"
    curvature_bound = 1.0

    def __post_init__(self) -> None:
        _require(0 < self.epsilon < np.inf, f"huber: epsilon must be a finite number > 0, got {self.epsilon!r}")

    def value(self, z: Array, y: Array) -> Array:
        a = np.abs(z - y)
        return np.where(a <= self.epsilon, 0.5 * a * a, self.epsilon * a - 0.5 * self.epsilon**2)

    def gradient(self, z: Array, y: Array) -> Array:
        return np.clip(z - y, -self.epsilon, self.epsilon)

    def curvature(self, z: Array, y: Array) -> Array:
        return np.where(np.abs(z - y) <= self.epsilon, 1.0, 0.0).astype(z.dtype)


@dataclass(frozen=True)
class Hinge(Loss):
    """max(0, 1 - s z), with s = 2 y - 1"""

    name = "hinge"
    target = "binary"

    def value(self, z: Array, y: Array) -> Array:
        return np.maximum(0, 1 - (2 * y - 1) * z)

    def gradient(self, z: Array, y: Array) -> Array:
        s = 2 * y - 1
        return np.where(s * z < 1, -s, 0)

    def curvature(self, z: Array, y: Array) -> Array:
        return np.zeros_like(z)


@dataclass(frozen=True)
class Perceptron(Loss):
    """max(0, -s z), with s = 2 y - 1 (Rosenblatt 1958)"""

    name = "perceptron"
    target = "binary"

    def value(self, z: Array, y: Array) -> Array:
        return np.maximum(0, -(2 * y - 1) * z)

    def gradient(self, z: Array, y: Array) -> Array:
        s = 2 * y - 1
        return np.where(s * z <= 0, -s, 0)

    def curvature(self, z: Array, y: Array) -> Array:
        return np.zeros_like(z)


@dataclass(frozen=True)
class SquaredHinge(Loss):
    """max(0, 1 - s z)^2, with s = 2 y - 1"""

    name = "squared_hinge"
    target = "binary"
    curvature_bound = 2.0

    def value(self, z: Array, y: Array) -> Array:
        return np.maximum(0, 1 - (2 * y - 1) * z) ** 2

    def gradient(self, z: Array, y: Array) -> Array:
        s = 2 * y - 1
        return -2 * s * np.maximum(0, 1 - s * z)

    def curvature(self, z: Array, y: Array) -> Array:
        s = 2 * y - 1
        return np.where(s * z < 1, 2 * s * s, 0.0).astype(z.dtype)


@dataclass(frozen=True)
class ModifiedHuber(Loss):
    """max(0, 1 - s z)^2 where s z >= -1, else -4 s z, with s = 2 y - 1 (Zhang 2004)"""

    name = "modified_huber"
    target = "binary"
    curvature_bound = 2.0

    def value(self, z: Array, y: Array) -> Array:
        m = (2 * y - 1) * z
        return np.where(m >= -1, np.maximum(0, 1 - m) ** 2, -4 * m)

    def gradient(self, z: Array, y: Array) -> Array:
        s = 2 * y - 1
        return -s * np.where(s * z >= -1, 2 * np.maximum(0, 1 - s * z), 4)

    def curvature(self, z: Array, y: Array) -> Array:
        s = 2 * y - 1
        return np.where((s * z >= -1) & (s * z < 1), 2 * s * s, 0.0).astype(z.dtype)


@dataclass(frozen=True)
class EpsilonInsensitive(Loss):
    """max(0, |z - y| - epsilon) (Vapnik 1995)"""

    epsilon: float = 0.1
    name = "epsilon_insensitive"

    def __post_init__(self) -> None:
        _require(
            0 <= self.epsilon < np.inf,
            f"epsilon_insensitive: epsilon must be a finite number >= 0, got {self.epsilon!r}",
        )

    def value(self, z: Array, y: Array) -> Array:
        return np.maximum(0, np.abs(z - y) - self.epsilon)

    def gradient(self, z: Array, y: Array) -> Array:
        return np.where(np.abs(z - y) > self.epsilon, np.sign(z - y), 0)

    def curvature(self, z: Array, y: Array) -> Array:
        return np.zeros_like(z)


@dataclass(frozen=True)
class SquaredEpsilonInsensitive(Loss):
    """max(0, |z - y| - epsilon)^2"""

    epsilon: float = 0.1
    name = "squared_epsilon_insensitive"
    curvature_bound = 2.0

    def __post_init__(self) -> None:
        ok = 0 <= self.epsilon < np.inf
        _require(ok, f"squared_epsilon_insensitive: epsilon must be a finite number >= 0, got {self.epsilon!r}")

    def value(self, z: Array, y: Array) -> Array:
        return np.maximum(0, np.abs(z - y) - self.epsilon) ** 2

    def gradient(self, z: Array, y: Array) -> Array:
        return 2 * np.sign(z - y) * np.maximum(0, np.abs(z - y) - self.epsilon)

    def curvature(self, z: Array, y: Array) -> Array:
        return np.where(np.abs(z - y) > self.epsilon, 2.0, 0.0).astype(z.dtype)


@dataclass(frozen=True)
class Pinball(Loss):
    """max(quantile (y - z), (quantile - 1) (y - z)) (Koenker and Bassett 1978)"""

    quantile: float = 0.5
    name = "pinball"

    def __post_init__(self) -> None:
        _require(0 < self.quantile < 1, f"pinball: quantile must lie in (0, 1), got {self.quantile!r}")

    def value(self, z: Array, y: Array) -> Array:
        return np.maximum(self.quantile * (y - z), (self.quantile - 1) * (y - z))

    def gradient(self, z: Array, y: Array) -> Array:
        return np.where(z > y, 1 - self.quantile, np.where(z < y, -self.quantile, 0.0)).astype(z.dtype)

    def curvature(self, z: Array, y: Array) -> Array:
        return np.zeros_like(z)


@dataclass(frozen=True)
class Poisson(Loss):
    """exp(z) - y z: half the Poisson deviance with log link, up to a constant in y"""

    name = "poisson"
    target = "nonnegative"
    link = "exp"
    twice_differentiable = True

    def value(self, z: Array, y: Array) -> Array:
        return np.exp(z) - y * z

    def gradient(self, z: Array, y: Array) -> Array:
        return np.exp(z) - y

    def curvature(self, z: Array, y: Array) -> Array:
        return np.exp(z)


@dataclass(frozen=True)
class Gamma(Loss):
    """z + y exp(-z): half the gamma deviance with log link, up to a constant in y"""

    name = "gamma"
    target = "positive"
    link = "exp"
    twice_differentiable = True

    def value(self, z: Array, y: Array) -> Array:
        return z + y * np.exp(-z)

    def gradient(self, z: Array, y: Array) -> Array:
        return 1 - y * np.exp(-z)

    def curvature(self, z: Array, y: Array) -> Array:
        return y * np.exp(-z)


@dataclass(frozen=True)
class Tweedie(Loss):
    """exp((2 - p) z) / (2 - p) - y exp((1 - p) z) / (1 - p): half the Tweedie deviance, log link, up to a constant in y

    1 < p < 2 (compound Poisson-gamma); p = 1 is ``Poisson`` and p = 2 is ``Gamma`` (Jorgensen 1987).
    """

    power: float = 1.5
    name = "tweedie"
    target = "nonnegative"
    link = "exp"
    twice_differentiable = True

    def __post_init__(self) -> None:
        _require(
            1 < self.power < 2,
            f"tweedie: power must lie strictly between 1 and 2, got {self.power!r}; 'poisson' is 1 and 'gamma' is 2",
        )

    def value(self, z: Array, y: Array) -> Array:
        a, b = 2 - self.power, 1 - self.power
        return np.exp(a * z) / a - self._weighted(z, y) / b

    def gradient(self, z: Array, y: Array) -> Array:
        return np.exp((2 - self.power) * z) - self._weighted(z, y)

    def curvature(self, z: Array, y: Array) -> Array:
        a, b = 2 - self.power, 1 - self.power
        return a * np.exp(a * z) - b * self._weighted(z, y)

    def _weighted(self, z: Array, y: Array) -> Array:
        """y exp((1 - power) z), which is 0 for y = 0 however large the exponential"""
        return y * np.exp((1 - self.power) * np.where(y > 0, z, 0)).astype(z.dtype)


ALL: dict[str, type[Loss]] = {
    loss.name: loss
    for loss in (
        SquaredError,
        LogLoss,
        Softmax,
        Huber,
        Hinge,
        Perceptron,
        SquaredHinge,
        ModifiedHuber,
        EpsilonInsensitive,
        SquaredEpsilonInsensitive,
        Pinball,
        Poisson,
        Gamma,
        Tweedie,
    )
}


def named(loss: str | Loss, **parameters: float) -> Loss:
    """The loss of that name; ``parameters`` the loss does not have are ignored. A ``Loss`` is returned as it is.

    Raises ValueError for an unknown name.
    """
    if isinstance(loss, Loss):
        return loss
    if loss not in ALL:
        raise ValueError(f"loss={loss!r} is unknown; choose one of {', '.join(sorted(ALL))}")
    kind = ALL[loss]
    return kind(**{k: v for k, v in parameters.items() if k in kind.__dataclass_fields__})


def one_column_per_class(y: Array, k: int, dtype: Any) -> Array:
    """Y[i, j] = 1 where y[i] == j, else 0. y: (n,) class codes."""
    return (y[:, None] == np.arange(k)[None, :]).astype(dtype)
