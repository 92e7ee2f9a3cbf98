"""How rows of features lie in memory: what kernels read, and the little that Python itself does with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Union

import numpy as np

Array = np.ndarray[Any, Any]

QUANTIZED = ("float16", "bfloat16", "int8", "uint8")


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
class Quantized:
    """x_ij = scale_j data_ij + offset_j, held in two bytes a number or one, converted where the kernels read it; never copied.

    data: (n, d) array of float16, bfloat16 (of ml_dtypes), int8 or uint8, each row in one place. scale, offset: numbers, or
    (d,) arrays. Everything is computed in float32.

    Raises ValueError: another type or shape of data, scale or offset; columns in one place each.
    """

    data: Array
    scale: Any = None
    offset: Any = None

    def __post_init__(self) -> None:
        data = self.data
        if (
            not isinstance(data, np.ndarray)
            or str(data.dtype) not in QUANTIZED
            or data.ndim != 2
            or min(data.shape) == 0
        ):
            what = f"{data.dtype} of shape {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
            raise ValueError(f"data is {what}, expected an (n, d) array of {', '.join(QUANTIZED)}.")
        if data.strides[1] != data.itemsize and data.shape[1] > 1:
            raise ValueError(
                "the columns of data lie in one place each, expected rows: np.ascontiguousarray(data) holds them."
            )
        if self.scale is None and self.offset is None:
            return
        for name, default in (("scale", 1.0), ("offset", 0.0)):
            value = np.asarray(default if getattr(self, name) is None else getattr(self, name), dtype=np.float32)
            if value.shape not in ((), (self.d,)) or not np.isfinite(value).all():
                got = (
                    f"{name} has shape {value.shape}" if value.shape not in ((), (self.d,)) else f"{name} is not finite"
                )
                raise ValueError(f"{got}, expected one finite number, or {self.d} of them, one a column.")
            object.__setattr__(self, name, np.ascontiguousarray(np.broadcast_to(value, self.d)))

    @property
    def stored(self) -> str:
        return str(self.data.dtype)

    @property
    def bits(self) -> Array:
        return self.data.view(np.uint16) if self.data.itemsize == 2 else self.data

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    @property
    def n(self) -> int:
        return int(self.data.shape[0])

    @property
    def d(self) -> int:
        return int(self.data.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        return self.n, self.d

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, rows: Any) -> Quantized:
        return Quantized(self.data[rows], self.scale, self.offset)


@dataclass(frozen=True, eq=False)
class Scaled:
    """The columns (x_j - offset_j) * factor_j of X, which is neither copied nor changed.

    offset, factor: (d,) of the dtype of X. Sparse rows stay sparse: their weights are scaled instead.
    """

    X: Any  # one of the other layouts
    offset: Array
    factor: Array


# rows or columns of an array, one array a column, or other rows: see sources.Table; and any of them scaled
Features = Union[Array, tuple[Array, ...], CsrRows, Quantized, Scaled]


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
    if isinstance(X, Quantized):
        return X.d * X.data.itemsize
    return X.shape[1] * X.itemsize if not isinstance(X, tuple) and X.strides[1] == X.itemsize else 0.0


def take_rows(X: Features, rows: Array | slice) -> Any:
    """Some rows, in the same layout; a view only where ``rows`` is a slice and X holds rows."""
    if isinstance(X, Scaled):
        return Scaled(take_rows(X.X, rows), X.offset, X.factor)
    if isinstance(X, tuple):
        return tuple(x[rows].copy() for x in X)
    if isinstance(X, Quantized):
        return X[rows]
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
    if isinstance(X, Quantized):
        dense = X.data.astype(np.float32)
        return dense if X.scale is None else dense * X.scale + X.offset
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
