"""The door for SciPy's sparse matrices and arrays: CSR in place, everything else converted to it, all of it checked."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import numpy as np

from gdfast._core import check_csr, count_non_zeros, pick_non_zeros
from gdfast.conversion import convert, float_type, require_cells, size_of
from gdfast.layouts import CsrRows, Features

__all__ = ["is_sparse", "open_sparse", "without_zeros"]

Array = np.ndarray[Any, Any]


def is_sparse(X: Any) -> bool:
    sparse = sys.modules.get("scipy.sparse")  # where it was never imported, nobody holds a sparse matrix
    return sparse is not None and bool(sparse.issparse(X))


def open_sparse(
    X: Any, name: str, wanted: np.dtype[Any] | None, check_finite: bool, threads: int
) -> tuple[CsrRows, tuple[str, ...]]:
    """(rows, a sentence for every copy made). Index arrays are never trusted: wrong ones would be read as memory.

    Legal and copied: rows whose columns are not in order; entries of one cell, which are summed.

    Raises ValueError: not 2-d, no rows, no columns, index arrays of wrong sizes or pointing outside, complex, NaN,
    infinity.
    """
    if X.ndim != 2:
        raise ValueError(f"Expected 2D array, got {X.ndim}D array instead: {name} is sparse, of shape {X.shape}.")
    require_cells(X.shape, name)
    copies: list[str] = []

    def copied(reason: str, rows: CsrRows) -> CsrRows:
        copies.append(f"{name}: {reason}, {size_of(rows.nbytes)}")
        return rows

    made = X.format != "csr"
    rows = _in_kernel_layout(_to_csr(X, name) if made else X, name, wanted)
    if made or rows.data is not X.data:
        kinds = [] if not made else [f"{X.format} converted to csr"]
        kinds += [f"{X.dtype} converted to {rows.dtype}"] if X.dtype != rows.dtype else []
        if kinds or not np.shares_memory(rows.data, X.data):
            copied(" and ".join(kinds) or "values copied", rows)
    fault, row = check_csr(rows, check_finite, threads)
    if fault == "order":
        from scipy.sparse import csr_array

        ordered = csr_array((rows.data, rows.indices, rows.indptr), shape=(rows.n, rows.d), copy=True)
        ordered.sum_duplicates()
        rows = copied("columns of each row sorted and summed", _in_kernel_layout(ordered, name, None))
        fault, row = check_csr(rows, check_finite, threads)
    if fault is not None:
        _refuse(rows, name, fault, row)
    return rows, tuple(copies)


def _to_csr(X: Any, name: str) -> Any:
    """SciPy trusts index arrays, so they are looked at before it converts them."""
    if X.format == "csc":
        columns = _in_kernel_layout(X.T, name, None, what="column")
        fault, at = check_csr(columns, False)
        if fault in ("indptr", "index"):
            _refuse(columns, name, fault, at, unit="column")
    if X.format == "coo" and X.nnz:
        for index, size, unit in zip((X.row, X.col), X.shape, ("row", "column"), strict=True):
            if index.min() < 0 or index.max() >= size:
                i = int(np.argmax((index < 0) | (index >= size)))
                raise ValueError(
                    f"{name} is not a valid sparse matrix: entry {i} is in {unit} {index[i]} of {size}; "
                    f"it must be in 0 to {size - 1}."
                )
    return X.tocsr()


def _in_kernel_layout(X: Any, name: str, wanted: np.dtype[Any] | None, what: str = "row") -> CsrRows:
    (n, d), data, indices, indptr = X.shape, X.data, X.indices, X.indptr
    if indptr.shape != (n + 1,) or indices.ndim != 1 or data.ndim != 1 or min(len(indices), len(data)) < indptr[-1]:
        sizes = f"{len(data)} values, {len(indices)} indices and {len(indptr)} offsets that end at {indptr[-1:]}"
        raise ValueError(f"{name} is not a valid sparse matrix: {n} {what}s with {sizes}; they must agree.")
    entries = max(0, int(indptr[-1]))  # SciPy allows memory behind the last one
    kinds = {indices.dtype.newbyteorder("="), indptr.dtype.newbyteorder("=")}
    whole = np.dtype(np.int32) if kinds == {np.dtype(np.int32)} else np.dtype(np.int64)
    data, dtype = data[:entries], wanted or float_type(data.dtype)
    if data.dtype != dtype or not (data.flags.c_contiguous and data.flags.aligned):
        data = convert(data, dtype, name)
    indices, indptr = (np.require(a, whole, ["C", "ALIGNED"]) for a in (indices[:entries], indptr))
    return CsrRows(data, indices, indptr, d)


def _refuse(X: CsrRows, name: str, fault: str, row: int, unit: str = "row") -> NoReturn:
    other = "column" if unit == "row" else "row"
    begin, end = int(X.indptr[row]), int(X.indptr[row + 1])
    if fault == "indptr":
        held = f"indptr says that {unit} {row} is entries {begin} to {end} of {len(X.data)}"
        raise ValueError(f"{name} is not a valid sparse matrix: {held}; it must start at 0 and never fall.")
    if fault == "index":
        indices = X.indices[begin:end]
        bad = indices[(indices < 0) | (indices >= X.d)][0]
        raise ValueError(
            f"{name} is not a valid sparse matrix: {unit} {row} has an entry in {other} {bad} of {X.d}; "
            f"it must be in 0 to {X.d - 1}."
        )
    at = begin + int(np.argmin(np.isfinite(X.data[begin:end])))
    what = "NaN" if np.isnan(X.data[at]) else f"infinity or a value too large for {X.dtype!r}"
    place = f"row {row}, column {X.indices[at]} is the first"
    raise ValueError(f"Input {name} contains {what} ({place}). Expected finite values: drop or fill them.")


def without_zeros(X: Features, threads: int, *, most: float) -> CsrRows | None:
    """Dense rows as sparse ones, where no more than this share of their numbers is not 0 in a sample; None elsewhere."""
    if not isinstance(X, np.ndarray) or X.strides[1] != X.itemsize or X.shape[1] >= 2**31:
        return None
    n, d = X.shape
    some = X[:: max(1, n // 256)]
    if np.count_nonzero(some) > most * some.size:
        return None
    starts = np.empty(n + 1, dtype=np.int64)
    count_non_zeros(X, starts, threads)
    entries = int(starts[-1])
    x, columns = np.empty(entries, dtype=X.dtype), np.zeros(entries, dtype=np.int32)
    pick_non_zeros(X, starts, x, columns, threads)
    if entries < 2**31:
        return CsrRows(x, columns, starts.astype(np.int32), d)
    return CsrRows(x, columns.astype(np.int64), starts, d)
