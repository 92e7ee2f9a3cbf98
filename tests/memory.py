"""How rows may lie in memory: the axis of layouts that the tests are parametrised over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gdfast.layouts import CsrRows

Array = np.ndarray[Any, Any]
Features = Any  # an array, or a tuple of columns


def _inside(X: Array) -> Array:
    """The same rows in the middle of wider ones: a row stride above d."""
    wide = np.full((X.shape[0], X.shape[1] + 3), np.nan, dtype=X.dtype)
    wide[:, 1:-2] = X
    return wide[:, 1:-2]


# What the kernels read: every layout holds the same numbers. Memory around them is NaN, so that reading it shows.
LAYOUTS: dict[str, Callable[[Array], Features]] = {
    "rows": np.ascontiguousarray,
    "columns": np.asfortranarray,
    "tuple": lambda X: tuple(x.copy() for x in X.T),
    "strided": _inside,
    "reversed": lambda X: np.ascontiguousarray(X[::-1])[::-1],
}


def _csr(index: str) -> Callable[[Array], Features]:
    def sparse(X: Array) -> Features:
        rows, columns = np.nonzero(X)
        memory = np.full(len(rows) + 64, np.nan, dtype=X.dtype)
        data = memory[: len(rows)]
        data[:] = X[rows, columns]
        indptr = np.append(0, np.cumsum(np.bincount(rows, minlength=len(X))))
        return CsrRows(data, columns.astype(index), indptr.astype(index), X.shape[1])

    return sparse


# The same for numbers of which many are 0.
SPARSE: dict[str, Callable[[Array], Features]] = {"csr": _csr("int32"), "csr64": _csr("int64")}
