"""Penalties: alpha * ((1 - l1_ratio) / 2 * |w|^2 + l1_ratio * |w|_1), and bounds. The intercept (last row of w) is never
penalised and never bounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def _vector(name: str, values: Any) -> Array:
    """A float64 copy of one number a feature, read-only."""
    a = np.array(values, dtype=np.float64)
    if a.ndim != 1:
        raise ValueError(f"{name} must hold one number a feature, shape (d,), got shape {a.shape}")
    a.flags.writeable = False
    return a


def of_each(name: str, values: Array, count: int) -> Array:
    """Numbers of the features (d,) as numbers of the first ``count`` parameters, d rows of count / d outputs."""
    k, rest = divmod(count, len(values)) if len(values) else (0, count)
    if rest or k < 1:
        raise ValueError(f"{name} holds {len(values)} numbers, expected one for each feature of {count} parameters")
    return np.repeat(values, k)


@dataclass(frozen=True, eq=False)
class ElasticNet:
    """alpha sum_j factors_j ((1 - l1_ratio) / 2 |w_j|^2 + l1_ratio |w_j|) (Zou and Hastie 2005)

    l1_ratio 0 is L2, 1 is L1, alpha 0 none. factors: (d,) numbers >= 0, one a feature, 0 for one that is free; None for
    ones. They are taken as they are (glmnet's penalty.factor is scaled to a sum of d first).
    Raises ValueError for a negative or non-finite alpha or factor, and for an l1_ratio outside [0, 1].
    """

    alpha: float = 0.0
    l1_ratio: float = 0.0
    factors: Array | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.alpha) and self.alpha >= 0):
            raise ValueError(f"alpha must be a finite number >= 0, got {self.alpha!r}")
        if not 0 <= self.l1_ratio <= 1:
            raise ValueError(f"l1_ratio must lie in [0, 1], got {self.l1_ratio!r}")
        if self.factors is not None:
            factors = _vector("factors", self.factors)
            if not (np.isfinite(factors).all() and factors.min(initial=0) >= 0):
                raise ValueError(f"factors must be finite numbers >= 0, got {factors}")
            object.__setattr__(self, "factors", factors)

    @property
    def l1(self) -> float:
        return self.alpha * self.l1_ratio

    @property
    def l2(self) -> float:
        return self.alpha * (1 - self.l1_ratio)

    def _factors(self, count: int) -> Array | float:
        return 1.0 if self.factors is None else of_each("factors", self.factors, count)

    def value(self, w: Array) -> float:
        """w: (d + 1, k) parameters, intercept last."""
        v = np.asarray(w[:-1], dtype=np.float64).reshape(-1)
        if self.alpha == 0:
            return 0.0
        factors = self._factors(v.size)
        with np.errstate(over="ignore"):  # a run that diverges is told from the infinity
            return 0.5 * self.l2 * float((factors * v * v).sum()) + self.l1 * float((factors * np.abs(v)).sum())

    def prox(self, v: Array, step: float) -> Array:
        """argmin_u |u - v|^2 / 2 + step penalty(u) = soft(v, step l1) / (1 + step l2). v: (d,) or (d, k), no intercept."""
        factors = self._factors(v.size)
        u = soft_threshold(v.reshape(-1), step * self.l1 * factors) / (1 + step * self.l2 * factors)
        return np.asarray(u.reshape(v.shape))


@dataclass(frozen=True, eq=False)
class Bounds:
    """lower <= w <= upper, by projection: min(max(w, lower), upper) after every step

    A number for all features or (d,), one each; ``Bounds(lower=0)`` is positivity.
    Raises ValueError for NaN, and where lower exceeds upper.
    """

    lower: float | Array = -np.inf
    upper: float | Array = np.inf

    def __post_init__(self) -> None:
        for name in ("lower", "upper"):
            value = getattr(self, name)
            if np.ndim(value):
                object.__setattr__(self, name, _vector(name, value))
            if np.isnan(getattr(self, name)).any():
                raise ValueError(f"{name} must not hold NaN, got {value!r}")
        if np.ndim(self.lower) and np.ndim(self.upper) and np.shape(self.lower) != np.shape(self.upper):
            raise ValueError(f"lower {np.shape(self.lower)} and upper {np.shape(self.upper)} differ in shape")
        if not np.all(self.lower <= self.upper) or np.any(self.lower == np.inf) or np.any(self.upper == -np.inf):
            raise ValueError(f"lower must not exceed upper and finite numbers lie between, got {self}")

    def of_each(self, count: int) -> tuple[float | Array, float | Array]:
        """(lower, upper) of the first ``count`` parameters."""
        lower, upper = self.lower, self.upper
        return (
            of_each("lower", lower, count) if isinstance(lower, np.ndarray) else float(lower),
            of_each("upper", upper, count) if isinstance(upper, np.ndarray) else float(upper),
        )

    def project(self, v: Array) -> Array:
        """v: (d,) or (d, k), no intercept."""
        lower, upper = self.of_each(v.size)
        return np.asarray(np.clip(v.reshape(-1), lower, upper).reshape(v.shape))


def soft_threshold(w: Array, threshold: float | Array) -> Array:
    """sign(w) max(|w| - threshold, 0): the proximal operator of threshold |.|_1"""
    return np.sign(w) * np.maximum(np.abs(w) - threshold, 0)
