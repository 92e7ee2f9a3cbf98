"""Columns of mean 0 and standard deviation 1, for gradient descent: the model of StandardScaler and fit, in original units.

With x' = (x - offset) / scale a margin is  x' w' + b' = x w + b  for  w = w' / scale,  b = b' - offset . w.  The penalty is
that of w', as in a pipeline.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gdfast.layouts import CsrRows, Features, Scaled, column_squares, dtype_of, shape_of, take_rows, to_dense
from gdfast.penalties import Bounds
from gdfast.plan import Examples

Array = np.ndarray[Any, Any]

ROWS, NUMBERS = 4096, 2**20  # at most, that the spread of the columns is taken from
SPREAD = (
    1e3  # of the root mean squares of columns, the intercept's 1 among them; descent needs about its square of steps
)
CHUNK = 2**20  # numbers worked on at a time


def spread(examples: Examples, fit_intercept: bool) -> float:
    """The largest root mean square of a column over the smallest that is not 0, the intercept's 1 among them."""
    few = examples.sample(max(1, min(ROWS, NUMBERS // examples.d)))
    sizes = np.sqrt(column_squares(few.X, None) / few.n).tolist()
    sizes = [size for size in (*sizes, float(fit_intercept)) if size > 0]
    return max(sizes) / min(sizes) if sizes else 1.0


@dataclass(frozen=True)
class Standardization:
    """offset, factor: (d,) of the dtype of X, factor being 1 / scale as the kernels see it."""

    offset: Array
    factor: Array

    @classmethod
    def of(cls, X: Features, center: bool) -> Standardization:
        """From the means and standard deviations of the columns; the scale of a constant column is 1. ``center`` False
        leaves the offset 0: without an intercept it could not be undone."""
        n, _ = shape_of(X)
        mean, variance = moments(X)
        # below it, what varies is the rounding of the mean (as in StandardScaler)
        constant = variance <= n * np.finfo(float).eps * variance + (n * mean * np.finfo(float).eps) ** 2
        scale = np.where(constant, 1.0, np.sqrt(variance))
        offset = mean if center else np.zeros_like(mean)
        return cls(offset.astype(dtype_of(X)), (1 / scale).astype(dtype_of(X)))

    def apply(self, examples: Examples) -> Examples:
        """The same rows, standardised in the kernels: X is not copied, and sparse rows stay sparse."""
        return replace(examples, X=Scaled(examples.X, self.offset, self.factor))

    def to_standard(self, w: Array) -> Array:
        """w' from w, both (d + 1, k)."""
        inner = np.asarray(w[:-1], dtype=np.float64)
        return np.vstack([inner / self._factor, w[-1:] + self.offset @ inner]).astype(w.dtype)

    def to_original(self, w: Array) -> Array:
        """w from w', both (d + 1, k)."""
        inner = w[:-1] * self._factor
        return np.vstack([inner, w[-1:] - self.offset @ inner]).astype(w.dtype)

    def bounds(self, bounds: Bounds | None) -> Bounds | None:
        """Those of w' from those of w."""
        if bounds is None:
            return None
        scale = 1 / self._factor[:, 0]
        with np.errstate(invalid="ignore"):
            return Bounds(np.asarray(bounds.lower) * scale, np.asarray(bounds.upper) * scale)

    @property
    def _factor(self) -> Array:
        return self.factor.astype(np.float64)[:, None]


def moments(X: Features) -> tuple[Array, Array]:
    """Mean and variance of every column, (d,) float64: in two passes."""
    n, d = shape_of(X)
    if isinstance(X, CsrRows):
        mean = np.bincount(X.indices, X.data, minlength=d) / n
        squares = np.bincount(X.indices, np.square(X.data - mean[X.indices]), minlength=d)
        return mean, (squares + (n - np.bincount(X.indices, minlength=d)) * mean**2) / n
    parts = _parts(n, d)
    mean = sum(_rows(X, part).sum(axis=0) for part in parts) / n
    return mean, sum(np.square(_rows(X, part) - mean).sum(axis=0) for part in parts) / n


def _parts(n: int, d: int) -> list[slice]:
    rows = max(1, CHUNK // d)
    return [slice(first, min(first + rows, n)) for first in range(0, n, rows)]


def _rows(X: Features, part: slice) -> Array:
    return np.asarray(to_dense(take_rows(X, part)), dtype=np.float64)
