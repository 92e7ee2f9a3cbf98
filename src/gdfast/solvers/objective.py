"""The one objective, weighted mean loss + alpha ((1 - l1_ratio) / 2 |w|^2 + l1_ratio |w|_1), as full-data solvers see it,
and what they share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from gdfast import _core
from gdfast.backends import cpu
from gdfast.losses import Loss
from gdfast.penalties import ElasticNet
from gdfast.plan import Examples, NewtonSystem
from gdfast.solvers.journal import Journal
from gdfast.streams import Stream, over_blocks

Array = np.ndarray[Any, Any]


def inner(a: Array, b: Array) -> float:
    """sum_i a_i b_i, without BLAS: its threads, once awake, spin for tens of milliseconds on the cores of ours (measured: 1.6
    times the time of a fit of 50,000 columns)."""
    return float(np.einsum("i,i->", a.ravel(), b.ravel()))


def length(a: Array) -> float:
    """sqrt(sum_i a_i^2), without BLAS"""
    return math.sqrt(inner(a, a))


@dataclass
class Objective:
    """f(w) and its derivatives for w (d + 1, k) in float64, intercept last; X is read once an evaluation.

    The kernels see w rounded to the dtype of the data. The L1 part of the penalty is in ``total`` only: solvers that
    take it handle it by its proximal operator.
    """

    examples: Examples | Stream
    loss: Loss
    penalty: ElasticNet
    fit_intercept: bool = True
    threads: int = 1
    backend: ModuleType = cpu
    passes: int = 0
    first: float | None = None
    journal: Journal | None = None
    proven: bool = False  # a pass over all rows gave finite numbers, which no NaN or infinity in X, y or weight allows

    def __post_init__(self) -> None:
        if self.penalty.factors is not None:
            raise ValueError("factors of a penalty are for mini-batch training; the full-data solvers take none")
        self.total_weight = self.examples.total_weight

    @property
    def shape(self) -> tuple[int, int]:
        return self.examples.d + 1, self.examples.k

    def _penalized(self, value: float, g: Array, w: Array) -> tuple[float, Array]:
        self.passes += 1
        v, l2 = w[:-1], self.penalty.l2
        g /= self.total_weight
        g[:-1] += l2 * v
        f = value / self.total_weight + 0.5 * l2 * inner(v, v)
        if self.first is None:
            self.first = f
        if not self.proven:
            self.proven = math.isfinite(f) and bool(np.isfinite(g).all())
        return f, g

    def on_sample(self, rows: int) -> Objective:
        """The same objective over about ``rows`` of the rows (``Examples.sample``)."""
        examples = self.examples.sample(rows)
        return Objective(examples, self.loss, self.penalty, self.fit_intercept, self.threads, self.backend)

    def gradient(self, w: Array) -> tuple[float, Array]:
        """(f without the L1 part, its gradient)"""
        inner_w, intercept = w.astype(self.examples.dtype), self.fit_intercept
        value, g = self._pass(
            "gradient", w, lambda rows: self.backend.gradient(rows, self.loss, inner_w, intercept, self.threads)
        )
        return self._penalized(value, g, w)

    def _pass(self, kind: str, w: Array, sums: Callable[[Examples], tuple[Any, ...]]) -> tuple[Any, ...]:
        """Over all rows, unless the journal of the run has it."""
        return (self.journal or Journal()).get(kind, w, lambda: over_blocks(self.examples, sums))

    def hessian(self, w: Array) -> tuple[float, Array, Array]:
        """As gradient, and the Hessian (d + 1, d + 1) of output 0."""
        inner_w, intercept = w.astype(self.examples.dtype), self.fit_intercept
        value, g, H = self._pass(
            "hessian", w, lambda rows: self.backend.hessian(rows, self.loss, inner_w, intercept, self.threads)
        )
        f, g = self._penalized(value, g, w)
        H /= self.total_weight
        H[np.diag_indices(len(w) - 1)] += self.penalty.l2
        return f, g, H

    def hessian_product(self, w: Array, p: Array) -> Array:
        """The Hessian at w times p (d + 1, k). p is scaled to 1, so that it keeps its digits in the dtype of the data."""
        size = float(np.abs(p).max())
        if size == 0:
            return np.zeros_like(p)
        dtype = self.examples.dtype
        self.passes += 1
        Hp = self.backend.hessian_product(
            self.examples, self.loss, w.astype(dtype), (p / size).astype(dtype), self.fit_intercept, self.threads
        )
        Hp *= size / self.total_weight
        Hp[:-1] += self.penalty.l2 * p[:-1]
        return Hp

    def margins(self, w: Array) -> Array:
        """X w + b of output 0, (n,) in the dtype of the data; w: (d + 1, 1)"""
        if not w.any():
            return np.zeros(self.examples.n, dtype=self.examples.dtype)
        self.passes += 1
        return np.asarray(self.backend.margins(self.examples.X, w.astype(self.examples.dtype), self.threads)[:, 0])

    def gradient_at(self, w: Array, z: Array) -> tuple[float, Array, Array]:
        """(f, its gradient (d + 1,), the curvatures h (n,)) at w (d + 1,) with the margins z (n,) = X w + b"""
        value, g, h = self.backend.gradient_at(self.examples, self.loss, z, self.fit_intercept, self.threads)
        return *self._penalized(value, g, w), h

    def newton_step(self, h: Array, g: Array, diagonal: Array, share: float, most: int) -> tuple[Array, Array, float]:
        """(s, X s, fall of the quadratic model along s) with (H + l2) s about -g; h and g from ``gradient_at``."""
        system = NewtonSystem(g, diagonal, self.penalty.l2, share, most)
        s, margins, fall, products = self.backend.conjugate_gradients(
            self.examples, h, system, self.fit_intercept, self.threads
        )
        self.passes += products
        return s, margins, fall

    def relative(self, excess: float, f: float) -> float:
        """excess / |f|, |f| not below a millionth of the first value: where f* = 0, f itself is no measure."""
        return excess / max(abs(f), 1e-6 * abs(self.first or 0.0), np.finfo(float).tiny)

    def total(self, f: float, w: Array) -> float:
        """f with the L1 part added."""
        return f + self.penalty.l1 * float(np.abs(w[:-1]).sum())


@dataclass(frozen=True)
class Solution:
    """Where a solver stopped, and why.

    ``excess``: its own estimate of (f - f*) / |f| before the last step; ``reason``: one sentence; ``factor``: of the last
    Hessian, where there was one.
    """

    w: Array
    objective: float
    gradient_norm: float
    excess: float
    n_iter: int
    converged: bool
    reason: str
    history: list[float]
    factor: Factor | PseudoInverse | None = None


class Factor:
    """(H + ridge)^-1 by Cholesky on H scaled to a unit diagonal; the ridge grows from 0 until the factor exists.

    The first ridge is far above rounding (1e-9), so that the directions that H does not determine are not filled with
    rounding noise divided by the ridge.
    """

    def __init__(self, H: Array, fixed: Array) -> None:
        """H: symmetric (p, p), its diagonal kept; ``fixed`` (p,) marks parameters that do not move (no intercept)."""
        if not np.isfinite(H).all():
            raise FloatingPointError("the Hessian is not finite: scale the columns of X, y or sample_weight")
        self.diagonal = np.diag(H).copy()
        diagonal = np.where(fixed | (self.diagonal <= 0), 1.0, self.diagonal)
        self._scale = np.where(fixed, 0.0, 1 / np.sqrt(diagonal))
        scaled = H * self._scale[:, None] * self._scale[None, :]
        scaled[np.diag_indices(len(H))] = 1.0
        self.ridge = 0.0
        while True:
            self._L = scaled.copy()
            self._L[np.diag_indices(len(H))] += self.ridge
            if _core.cholesky(self._L, 1e-13) < 0:
                return
            self.ridge = max(1e-9, self.ridge * 10)
            if self.ridge > 1e3:  # far beyond what any positive semidefinite matrix of unit diagonal needs
                raise FloatingPointError("the Hessian cannot be factored: scale the columns of X, y or sample_weight")

    def solve(self, g: Array) -> Array:
        """g (p, k) -> (H + ridge)^-1 g"""
        n, k = g.shape
        b = np.zeros((n, 1 if k == 1 else -(-k // 8) * 8))
        np.multiply(g, self._scale[:, None], out=b[:, :k])
        _core.cholesky_solve(self._L, b)
        return b[:, :k] * self._scale[:, None]


class PseudoInverse:
    """The w of smallest norm with H (w, b) = g, the last parameter b (the intercept) left out of the norm.

    With G = H, the intercept eliminated: w <- w + (G + ridge)^-1 (g - G w) finds the solution, and what lies in the null
    space of G is what (ridge (G + ridge)^-1)^k w leaves of w. Eigenvalues far below 1e-10 |G| count as 0.
    """

    ROUNDS = 30

    def __init__(self, H: Array, fixed: Array, rounding: float) -> None:
        """H: symmetric positive semidefinite (p, p), right to ``rounding``; ``fixed[-1]``: there is no intercept."""
        self._row = np.zeros(len(H) - 1) if fixed[-1] else H[-1, :-1]
        self._corner = 1.0 if fixed[-1] else float(H[-1, -1])
        self._G = H[:-1, :-1] - np.outer(self._row, self._row) / self._corner
        # above the rounding of G, which is that of H where the mean of the columns outweighs their variation
        self._ridge = 1e-9 * float(np.linalg.norm(self._G)) + 1e4 * rounding * float(np.linalg.norm(H)) or 1.0
        # what varies in X is a small rest of what H is made of: its digits are those of rounding
        self.lost_in_rounding = float(np.linalg.norm(self._G)) < 1e3 * rounding * float(np.linalg.norm(H))
        while True:
            self._L = self._G + self._ridge * np.eye(len(self._G))
            if _core.cholesky(self._L, 0.0) < 0:
                return
            self._ridge *= 10

    def _damped(self, b: Array) -> Array:
        """(G + ridge)^-1 b"""
        n, k = b.shape
        out = np.zeros((n, 1 if k == 1 else -(-k // 8) * 8))
        out[:, :k] = b
        _core.cholesky_solve(self._L, out)
        return out[:, :k]

    def solve(self, g: Array) -> Array:
        """g (p, k) -> (w, b)"""
        b = g[:-1] - np.outer(self._row, g[-1]) / self._corner
        w = self._damped(b)
        for _ in range(self.ROUNDS):
            w = w + self._damped(b - self._G @ w)
        for _ in range(3):  # each time but for the rounding of the one before
            null = w
            for _ in range(self.ROUNDS):
                null = self._ridge * self._damped(null)
            w = w - null
        return np.vstack([w, (g[-1:] - self._row @ w) / self._corner])
