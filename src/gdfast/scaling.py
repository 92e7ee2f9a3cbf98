"""Columns as the losses see them, x' = (x - offset) / scale, without a copy of X: the kernels do it on the way.

A margin is  x' w' + b' = x w + b  for  w = w' / scale,  b = b' - offset . w.  A penalty is that of w'.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gdfast import _core
from gdfast.layouts import CsrRows, Features, Scaled, dtype_of, shape_of
from gdfast.penalties import Bounds

Array = np.ndarray[Any, Any]

LOOK = (4096, 2**20)  # rows and numbers, at most, that are enough to see which columns need it
FAR = 100.0  # standard deviations from 0: a sum of squares has lost 4 digits of the variance


@dataclass(frozen=True, eq=False)
class Scaling:
    """offset, scale: (d,) float64, such that offset and 1 / scale are numbers of the dtype of X: what the kernels use."""

    offset: Array
    scale: Array

    @classmethod
    def of(cls, X: Features, *, center: bool, weight: Array | None = None, threads: int = 1) -> Scaling:
        """Weighted means and standard deviations of the columns; the scale is 1 for a constant column, and for one
        whose squares are infinite.

        ``center`` False leaves the offset 0: without an intercept it could not be undone.
        """
        return cls.from_moments(X, *column_moments(X, weight, threads), center=center)

    @classmethod
    def from_moments(cls, X: Features, mean: Array, variance: Array, *, center: bool) -> Scaling:
        """As ``of``; X is looked at for its dtype only."""
        # below it, what varies is the rounding of the mean
        constant = np.sqrt(variance) <= 1e3 * np.finfo(float).eps * np.abs(mean)
        scale = np.where(constant | ~np.isfinite(variance), 1.0, np.sqrt(variance))
        return cls._rounded(X, mean if center else np.zeros_like(mean), scale)

    @classmethod
    def of_far_columns(cls, X: Features) -> Scaling | None:
        """Offsets of the columns that are many standard deviations away from 0 (a constant one: from that of the intercept,
        1), scale 1 for all; None where there are none. Any offset is right: some rows are enough to find it."""
        mean, variance = column_moments(X, None, 1)
        with np.errstate(invalid="ignore"):  # X may hold NaN and infinity, which are told by who trains
            deviation = np.where(variance > 0, np.sqrt(variance), 1.0)
            far = np.isfinite(variance) & (np.abs(mean) > FAR * deviation)
        return cls._rounded(X, np.where(far, mean, 0.0), np.ones_like(mean)) if far.any() else None

    @classmethod
    def _rounded(cls, X: Features, offset: Array, scale: Array) -> Scaling:
        dtype = dtype_of(X)
        with np.errstate(over="ignore", under="ignore", divide="ignore"):
            return cls(offset.astype(dtype).astype(np.float64), 1 / (1 / scale).astype(dtype).astype(np.float64))

    def apply(self, X: Features) -> Scaled:
        """The columns x' of X, scaled in the kernels: X is not copied, and sparse rows stay sparse."""
        dtype = dtype_of(X)
        return Scaled(X, self.offset.astype(dtype), (1 / self.scale).astype(dtype))

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


def column_moments(X: Features, weight: Array | None = None, threads: int = 1) -> tuple[Array, Array]:
    """mean_j = sum_i s_i x_ij / sum_i s_i,  variance_j = sum_i s_i (x_ij - mean_j)^2 / sum_i s_i:  (d,) each, float64.

    Dense rows are read once, tile by tile, each in two passes in cache (Chan, Golub and LeVeque 1979): an offset of 1e8
    cancels nothing. Sparse rows are read twice and stay sparse. The same bits for any number of threads.
    """
    d = shape_of(X)[1]
    mean, variance = np.empty(d), np.empty(d)
    _core.moments(X, weight, mean, variance, threads)
    return mean, variance


def mean_squares(X: Features, weight: Array | None = None, threads: int = 1) -> Array:
    """sum_i s_i x_ij^2 / sum_i s_i of every column j: (d,) float64"""
    if isinstance(X, Scaled):
        mean, variance = column_moments(X.X, weight, threads)
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray((variance + np.square(mean - X.offset)) * np.square(X.factor, dtype=np.float64))
    if isinstance(X, CsrRows):
        out = np.empty(X.d)
        _core.mean_squares(X, weight, out, threads)
        return out
    mean, variance = column_moments(X, weight, threads)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(variance + np.square(mean))


def spread(X: Features, fit_intercept: bool) -> float:
    """The largest root mean square of a column over the smallest that is not 0, the intercept's 1 among them."""
    sizes = np.append(np.sqrt(mean_squares(X)), float(fit_intercept))
    sizes = sizes[(sizes > 0) & np.isfinite(sizes)]
    return float(sizes.max() / sizes.min()) if len(sizes) else 1.0
