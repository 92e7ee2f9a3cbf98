"""How rows of features lie in memory: what kernels read, and the little that Python itself does with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Union

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class CsrRows:
    """Row i holds data[p] in column indices[p] for indptr[i] <= p < indptr[i + 1], and zeros: see ``sparse.open_sparse``.

    data: (entries,) float32 or float64; indices (entries,) and indptr (n + 1,): both int32, or both int64.
    """

    data: Array
    indices: Array
    indptr: Array
    d: int

    @property
    def n(self) -> int:
        return len(self.indptr) - 1

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.data.dtype

    @property
    def nbytes(self) -> int:
        return self.data.nbytes + self.indices.nbytes + self.indptr.nbytes


@dataclass(frozen=True, eq=False)
class Scaled:
    """The columns (x_j - offset_j) * factor_j of X, which is neither copied nor changed.

    offset, factor: (d,) of the dtype of X. Sparse rows stay sparse: their weights are scaled instead.
    """

    X: Any  # one of the other layouts
    offset: Array
    factor: Array


# rows or columns of an array, one array a column, or sparse rows: see sources.Table; and any of them scaled
Features = Union[Array, tuple[Array, ...], CsrRows, Scaled]


def shape_of(X: Features) -> tuple[int, int]:
    """(n, d)"""
    if isinstance(X, Scaled):
        return shape_of(X.X)
    if isinstance(X, CsrRows):
        return X.n, X.d
    return (len(X[0]), len(X)) if isinstance(X, tuple) else (int(X.shape[0]), int(X.shape[1]))


def dtype_of(X: Features) -> np.dtype[Any]:
    if isinstance(X, Scaled):
        return dtype_of(X.X)
    return X[0].dtype if isinstance(X, tuple) else X.dtype


def numbers_of_row(X: Features) -> float:
    """That a row holds, the average one of sparse rows; at least 1."""
    if isinstance(X, Scaled):
        return numbers_of_row(X.X)
    return max(1.0, len(X.data) / X.n if isinstance(X, CsrRows) else shape_of(X)[1])


def bytes_of_row(X: Features) -> float:
    """What a row, the average one of sparse rows, has in one place; 0 where columns lie in one place each."""
    if isinstance(X, Scaled):
        return bytes_of_row(X.X)
    if isinstance(X, CsrRows):
        return (X.data.nbytes + X.indices.nbytes) / X.n
    return X.shape[1] * X.itemsize if not isinstance(X, tuple) and X.strides[1] == X.itemsize else 0.0


def take_rows(X: Features, rows: Array | slice) -> Any:
    """Some rows, in the same layout; a view only where ``rows`` is a slice and X holds rows."""
    if isinstance(X, Scaled):
        return Scaled(take_rows(X.X, rows), X.offset, X.factor)
    if isinstance(X, tuple):
        return tuple(x[rows].copy() for x in X)
    if not isinstance(X, CsrRows):
        return X[rows] if X.strides[1] == X.itemsize else np.asfortranarray(X[rows])
    starts, ends = X.indptr[:-1][rows], X.indptr[1:][rows]
    indptr = np.append(0, np.cumsum(ends - starts)).astype(X.indptr.dtype)
    entries = np.repeat(starts - indptr[:-1], ends - starts) + np.arange(indptr[-1])
    return CsrRows(X.data[entries], X.indices[entries], indptr, X.d)


def to_dense(X: Features) -> Array:
    """(n, d); a view where X is an array."""
    if isinstance(X, Scaled):
        return np.asarray((to_dense(X.X) - X.offset) * X.factor)
    if isinstance(X, tuple):
        return np.column_stack(X)
    if not isinstance(X, CsrRows):
        return X
    out = np.zeros((X.n, X.d), dtype=X.dtype)
    out[np.repeat(np.arange(X.n), np.diff(X.indptr)), X.indices] = X.data
    return out


def as_matrix(X: Features, dtype: Any) -> Any:
    """An array, or a scipy.sparse.csr_array where X is sparse: @, *, abs and sum are the same for both."""
    if not isinstance(X, CsrRows):
        return np.asarray(to_dense(X), dtype=dtype)
    from scipy.sparse import csr_array

    return csr_array((X.data.astype(dtype), X.indices, X.indptr), shape=(X.n, X.d))
