"""Columns of mean 0 and standard deviation 1, for gradient descent: the model of StandardScaler and fit, in original units.

With x' = (x - offset) / scale a margin is  x' w' + b' = x w + b  for  w = w' / scale,  b = b' - offset . w.  The penalty is
that of w', as in a pipeline.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gdfast.penalties import Bounds
from gdfast.plan import Examples, Features

Array = np.ndarray[Any, Any]

ROWS, NUMBERS = 4096, 2**20  # at most, that the spread of the columns is taken from
SPREAD = (
    1e3  # of the root mean squares of columns, the intercept's 1 among them; descent needs about its square of steps
)
CHUNK = 2**20  # numbers worked on at a time


def spread(examples: Examples, fit_intercept: bool) -> float:
    """The largest root mean square of a column over the smallest that is not 0, the intercept's 1 among them."""
    X = examples.sample(max(1, min(ROWS, NUMBERS // examples.d))).X
    columns = X if isinstance(X, tuple) else X.T
    sizes = [float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) for x in columns]
    sizes = [size for size in (*sizes, float(fit_intercept)) if size > 0]
    return max(sizes) / min(sizes) if sizes else 1.0


@dataclass(frozen=True)
class Standardization:
    """offset, scale: (d,) float64."""

    offset: Array
    scale: Array

    @classmethod
    def of(cls, X: Features, center: bool) -> Standardization:
        """Means and standard deviations of the columns, in two passes in float64; the scale of a constant column is 1.
        ``center`` False leaves the offset 0: without an intercept it could not be undone."""
        n = len(X[0]) if isinstance(X, tuple) else X.shape[0]
        d = len(X) if isinstance(X, tuple) else X.shape[1]
        parts = _parts(n, d)
        mean = sum(_rows(X, part).sum(axis=0) for part in parts) / n
        variance = sum(np.square(_rows(X, part) - mean).sum(axis=0) for part in parts) / n
        # below it, what varies is the rounding of the mean (as in StandardScaler)
        constant = variance <= n * np.finfo(float).eps * variance + (n * mean * np.finfo(float).eps) ** 2
        return cls(mean if center else np.zeros_like(mean), np.where(constant, 1.0, np.sqrt(variance)))

    def apply(self, examples: Examples) -> Examples:
        """The same rows with a standardised copy of X, row by row, of the same type."""
        X = np.empty((examples.n, examples.d), dtype=examples.dtype)
        for part in _parts(examples.n, examples.d):
            X[part] = (_rows(examples.X, part) - self.offset) / self.scale
        return replace(examples, X=X)

    def to_standard(self, w: Array) -> Array:
        """w' from w, both (d + 1, k)."""
        inner = np.asarray(w[:-1], dtype=np.float64)
        return np.vstack([inner * self.scale[:, None], w[-1:] + self.offset @ inner]).astype(w.dtype)

    def to_original(self, w: Array) -> Array:
        """w from w', both (d + 1, k)."""
        inner = w[:-1] / self.scale[:, None]
        return np.vstack([inner, w[-1:] - self.offset @ inner]).astype(w.dtype)

    def bounds(self, bounds: Bounds | None) -> Bounds | None:
        """Those of w' from those of w."""
        if bounds is None:
            return None
        with np.errstate(invalid="ignore"):
            return Bounds(np.asarray(bounds.lower) * self.scale, np.asarray(bounds.upper) * self.scale)


def _parts(n: int, d: int) -> list[slice]:
    rows = max(1, CHUNK // d)
    return [slice(first, min(first + rows, n)) for first in range(0, n, rows)]


def _rows(X: Features, part: slice) -> Array:
    rows = np.column_stack([x[part] for x in X]) if isinstance(X, tuple) else X[part]
    return np.asarray(rows, dtype=np.float64)
