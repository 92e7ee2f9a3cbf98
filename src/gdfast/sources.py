"""The door: every array, data frame and Arrow table is validated here, once, and leaves as kernels can read it.

What comes in is never written to. float32 and float64 are never converted unless the caller asks; whatever had to be
copied is listed in `Table.copies`. Behind this door code trusts its input.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import ArrayLike, DTypeLike, NDArray

from gdfast._core import find_non_finite
from gdfast.conversion import ENCODE, convert, float_type, require_cells, require_real, size_of, where_missing
from gdfast.layouts import Features, Quantized, to_dense
from gdfast.sparse import is_sparse, open_sparse

__all__ = ["Table", "as_labels", "as_table", "as_target", "as_weight", "feature_names"]

_Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of features as the kernels read them: validated, in place wherever possible, never written to.

    X       one of five layouts, aligned and of `dtype`: (a) 2-d, unit stride along a row, any row stride; (b) 2-d,
            unit stride along a column, positive column stride; (c) a tuple of d contiguous columns of length n;
            (d) ``CsrRows``, the columns of each row in increasing order; (e) ``Quantized``.
    n, d    rows and columns, both at least 1.
    dtype   float32 or float64 in native byte order.
    copies  a sentence for every copy that had to be made, with its reason and size; () for data used in place.
    """

    X: Features
    n: int
    d: int
    dtype: np.dtype[Any]
    copies: tuple[str, ...]


def as_table(
    X: Any, *, name: str = "X", dtype: DTypeLike | None = None, check_finite: bool = True, threads: int = 1
) -> Table:
    """Open a 2-d array, list of rows, data frame, Arrow table or SciPy sparse matrix of numbers as a `Table`.

    dtype: float32 or float64 to convert to. None keeps these two and makes float32 of float16, float64 of all others;
    unlike columns of a frame meet where NumPy's promotion puts them (float32 with bool: float32, with int32: float64).
    check_finite=False saves one pass over X, with so many threads, and lets NaN (missing values of a frame too) and
    infinity through.

    Raises ValueError: not 2-d, no rows, no columns, masked, text, dates, complex, NaN, infinity, a sparse matrix whose
    indices point outside of it. TypeError: a lazy frame, objects that are not numbers.
    """
    wanted = None if dtype is None else np.dtype(dtype)
    if is_sparse(X):
        csr, copies = open_sparse(X, name, wanted, check_finite, threads)
        return Table(csr, csr.n, csr.d, csr.dtype, copies)
    if isinstance(X, np.ndarray) and str(X.dtype) in ("float16", "bfloat16") and X.ndim == 2 and X.flags.c_contiguous:
        if (wanted is None or wanted == np.float32) and min(X.shape) > 0:
            X = Quantized(X)
        elif X.dtype.kind == "V":  # NumPy itself does not know bfloat16
            X = X.astype(np.float32)
    if isinstance(X, Quantized):
        return _open_quantized(X, name, wanted, check_finite)
    names: list[Any] | None = None
    if _is_frame(X):
        names, content = _open_frame(X, name)
        require_cells((len(X), len(names)), name)
        in_one = isinstance(content, np.ndarray)
        table = _from_array(content, name, wanted) if in_one else _from_columns(content, names, name, wanted)
    else:
        table = _from_array(_array(X, name), name, wanted, python=isinstance(X, (list, tuple)))
    if check_finite:
        _require_finite(table.X, name, names, threads)
    return table


def as_target(y: Any, n: int, *, dtype: DTypeLike, name: str = "y") -> _Array:
    """Real-valued y as a finite C-contiguous (n,) or (n, k) array of `dtype`, in place if it is one. (n, 1) stays 2-d.

    Raises ValueError: None, not 1-d or 2-d, not n rows, masked, text, dates, complex, NaN, infinity.
    TypeError: sparse, objects that are not numbers.
    """
    a = _rows(y, n, name)
    if a.ndim > 2 or a.size == 0:
        raise ValueError(f"{name} has shape {a.shape}, expected ({n},), or ({n}, k) with one column per target.")
    return _finite_contiguous(a, np.dtype(dtype), name)


def as_labels(y: Any, n: int, *, name: str = "y", classes: ArrayLike | None = None) -> tuple[NDArray[Any], _Array]:
    """codes[i] = position of y[i] among the sorted classes: (codes, integers of shape (n,), and classes).

    Labels are strings, bools, integers or integral floats. One column (n, 1) is ravelled with a DataConversionWarning.
    classes: the labels to expect, in any order; None takes those found in y.

    Raises ValueError: None, several columns, not n rows, continuous or mixed labels, NaN, infinity, complex, a label
    that is not among `classes`. TypeError: sparse.
    """
    a = _rows(y, n, name)
    if a.ndim == 2 and a.shape[1] == 1:
        from sklearn.exceptions import DataConversionWarning

        passed = f"A column-vector {name} was passed when a 1d array was expected."
        advice = f"Please change the shape of {name} to (n_samples,), for example using ravel()."
        warnings.warn(f"{passed} {advice}", DataConversionWarning, stacklevel=3)
    elif a.ndim != 1:
        raise ValueError(f"{name} should be a 1d array of class labels, got an array of shape {a.shape} instead.")
    a = a.reshape(-1)
    numeric = classes is None and a.dtype.kind in "biuf" and not isinstance(y, (list, tuple))
    if numeric and (two := _two_labels(a)) is not None:
        return two
    labels = _label_values(y, a, name)
    known = labels if classes is None else _label_values(classes, _array(classes, "classes").reshape(-1), "classes")
    # to hash Python strings is 20 times faster than to sort all of them
    known = np.array(sorted(set(known)), dtype=object) if known.dtype == object else np.unique(known)
    if (known.dtype.kind in "biuf") != (labels.dtype.kind in "biuf"):
        sorts = f"{name} holds labels of dtype {labels.dtype} and classes of dtype {known.dtype}"
        raise ValueError(f"{sorts}, expected numbers in both or strings in both.")
    codes = np.searchsorted(known, labels).astype(np.int64, copy=False)
    unknown = known[np.minimum(codes, len(known) - 1)] != labels
    if unknown.any():
        i = int(unknown.argmax())
        label = labels[i : i + 1].tolist()[0]
        expected = np.array2string(known, threshold=20, separator=", ")
        raise ValueError(f"{name} contains the label {label!r} (row {i}), which is not among the classes {expected}.")
    return codes, known


def as_weight(sample_weight: Any, n: int, *, dtype: DTypeLike, name: str = "sample_weight") -> _Array | None:
    """A weight >= 0 per row as a finite C-contiguous (n,) array of `dtype`; a scalar is for every row, None stays None.

    Raises ValueError: not 1-d, not n rows, negative, zero for every row, masked, text, complex, NaN, infinity.
    TypeError: sparse, objects that are not numbers.
    """
    if sample_weight is None:
        return None
    a = _array(sample_weight, name)
    a = _rows(np.broadcast_to(a, n) if a.ndim == 0 else a, n, name)
    if a.ndim != 1:
        raise ValueError(f"{name} has shape {a.shape}, expected one weight per row, shape ({n},), or a scalar.")
    a = _finite_contiguous(a, np.dtype(dtype), name)
    i = int(a.argmin())
    if a[i] < 0:
        raise ValueError(f"{name} contains the negative weight {a[i]} (row {i}), expected weights >= 0.")
    if not a.any():
        raise ValueError(f"{name} is zero for every row, expected at least one weight > 0.")
    return a


def feature_names(X: Any) -> list[str] | None:
    """Column names of a data frame or Arrow table if all of them are strings, else None."""
    names = _open_frame(X, "X")[0] if _is_frame(X) else []
    return [str(label) for label in names] if names and all(isinstance(label, str) for label in names) else None


def _array(value: Any, name: str) -> _Array:
    """`value` as an ndarray of any shape and dtype, in place where it can be."""
    if is_sparse(value):
        raise TypeError(f"{name} is a sparse {type(value).__name__}, expected a dense array: {name}.toarray() is one.")
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        what = f"{name} is a masked array with masked values, expected plain numbers"
        raise ValueError(f"{what}; fill them with {name}.filled(value) or drop their rows.")
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} cannot be read as an array: {error}") from error


def _from_array(a: _Array, name: str, wanted: np.dtype[Any] | None, *, python: bool = False) -> Table:
    if a.ndim < 2:
        what = f"has shape {a.shape}" if a.ndim or a.dtype != object else f"is of type {type(a[()]).__name__}"
        got = f"Expected 2D array, got {'1D' if a.ndim else 'scalar'} array instead: {name} {what}."
        advice = "Reshape your data either using array.reshape(-1, 1) if your data has a single feature or"
        raise ValueError(f"{got} {advice} array.reshape(1, -1) if it contains a single sample.")
    if a.ndim > 2:
        raise ValueError(f"Found array with dim {a.ndim}, expected 2: {name} has shape {a.shape}, not (rows, columns).")
    require_cells(a.shape, name)
    dtype = wanted or float_type(a.dtype)
    X = _in_kernel_layout(a) if a.dtype == dtype else None
    if X is not None and not python:
        return Table(X, a.shape[0], a.shape[1], dtype, ())
    if python or a.dtype != dtype:
        reason = f"{'Python sequence' if python else a.dtype} converted to {dtype}"
    else:
        reason = f"{dtype} with strides {a.strides} copied" if a.flags.aligned else f"misaligned {dtype} copied"
    X = convert(a, dtype, name) if X is None else X
    return Table(X, a.shape[0], a.shape[1], dtype, (f"{name}: {reason}, {size_of(X.nbytes)}",))


def _open_quantized(X: Quantized, name: str, wanted: np.dtype[Any] | None, check_finite: bool) -> Table:
    if wanted is not None and wanted != X.dtype:
        dense = to_dense(X).astype(wanted)
        return Table(
            dense, X.n, X.d, dense.dtype, (f"{name}: {X.stored} converted to {wanted}, {size_of(dense.nbytes)}",)
        )
    for start in range(0, X.n if check_finite and X.stored in ("float16", "bfloat16") else 0, 4096):
        part = X[start : start + 4096]
        finite = np.isfinite(part.data)
        if not finite.all():
            i, j = divmod(int(np.argmin(finite)), X.d)
            _refuse_value(float(part.data[i, j]), X.data.dtype, name, start + i, j)
    return Table(X, X.n, X.d, X.dtype, ())


def _in_kernel_layout(a: _Array) -> _Array | None:
    """The same memory in layout (a) or (b) of `Table`, strides of axes of length 1 made regular; None if in neither."""
    (n, d), (row, step), item = a.shape, a.strides, a.itemsize
    row, step = row if n > 1 else d * item, step if d > 1 else item
    if not a.flags.aligned or row % item or step % item:
        return None
    if step == item:
        return a if (row, step) == a.strides else as_strided(a, strides=(row, step))
    return a if row == item and step > 0 and n > 1 else None


def _rows(value: Any, n: int, name: str) -> _Array:
    if value is None:
        raise ValueError(f"This estimator requires y to be passed, but the target {name} is None.")
    a = _array(value, name)
    if a.ndim == 0:
        raise ValueError(f"{name} is a single {type(value).__name__}, expected an array with one entry per row, {n}.")
    if a.shape[0] != n:
        sizes = f"X has {n} rows, {name} has {a.shape[0]}"
        raise ValueError(f"Found input variables with inconsistent numbers of samples: {sizes}; both need as many.")
    return a


def _finite_contiguous(a: _Array, dtype: np.dtype[Any], name: str) -> _Array:
    if a.dtype != dtype or not (a.flags.c_contiguous and a.flags.aligned):
        a = convert(a, dtype, name)
    a = a.ravel().reshape(a.shape)  # a view: one row counts as contiguous with any stride, and kernels look at strides
    _require_finite(a, name)
    return a


def _two_labels(a: _Array) -> tuple[NDArray[np.uint8], _Array] | None:
    """(codes, classes) of numbers that are only two, and whole; None of all others. Sorting them costs 20 times as much."""
    low, high = a.min(), a.max()
    upper = a == high
    if low == high or np.count_nonzero(a == low) + np.count_nonzero(upper) != len(a):
        return None
    if a.dtype.kind == "f" and not (np.isfinite([low, high]).all() and low == np.floor(low) and high == np.floor(high)):
        return None
    return upper.view(np.uint8), np.array([low, high])


def _label_values(y: Any, a: _Array, name: str) -> _Array:
    """The 1-d labels `a`, read from `y`, all of one sort: bools, integers, integral floats, or strings."""
    python = isinstance(y, (list, tuple))
    if a.dtype.kind in "OT" or (python and a.dtype.kind in "SU"):
        # from y: NumPy has made text of every None and NaN in a list of strings
        values = np.asarray(y, dtype=object).reshape(-1) if python else a.astype(object)
        missing = where_missing(values)
        if missing.any():
            _refuse_value(np.nan, a.dtype, name, int(missing.argmax()))
        sorts = set(map(type, values))
        texts = [issubclass(sort, str) for sort in sorts]
        a = np.array(values.tolist()) if not any(texts) else a if a.dtype.kind == "U" else values
        if a.ndim != 1 or (a.dtype.kind in "OU" and not all(texts)):
            held = ", ".join(sorted(sort.__name__ for sort in sorts))
            raise ValueError(f"Unknown label type: {name} holds {held}, expected only strings or only integers.")
    require_real(a, name)
    if a.dtype.kind == "f":
        _finite_contiguous(a, float_type(a.dtype), name)
        fractional = a != np.floor(a)
        if fractional.any():
            i = int(fractional.argmax())
            held = f"{name} holds {a[i]} (row {i}), expected class labels"
            raise ValueError(f"Unknown label type: continuous. {held}; use a regressor for real-valued targets.")
    return a


def _require_finite(X: Any, name: str, names: list[Any] | None = None, threads: int = 1) -> None:
    """Scan in place; an error names the first bad cell (of the first bad column where X is a tuple of columns)."""
    for k, a in enumerate(X if isinstance(X, tuple) else (X,)):
        at = find_non_finite(a, threads)
        if at < 0:
            continue
        if a.ndim == 1 and not isinstance(X, tuple):
            _refuse_value(a[at], a.dtype, name, at)
        i, j = divmod(at, a.shape[1]) if a.ndim == 2 else (at, k)
        _refuse_value(a[i, j] if a.ndim == 2 else a[i], a.dtype, name, i, names[j] if names else j)


def _refuse_value(value: Any, dtype: np.dtype[Any], name: str, row: int, column: Any = None) -> NoReturn:
    what = "NaN" if np.isnan(value) else f"infinity or a value too large for {dtype!r}"
    place = f"row {row}" if column is None else f"row {row}, column {column!r}"
    raise ValueError(f"Input {name} contains {what} ({place} is the first). Expected finite values: drop or fill them.")


def _is_frame(X: Any) -> bool:
    # asked of the type: on a lazy frame .columns runs the query
    return not isinstance(X, (np.ndarray, list, tuple)) and hasattr(type(X), "columns")


def _open_frame(X: Any, name: str) -> tuple[list[Any], Any]:
    """(names, one 2-d array or an iterator of columns), by position: names may repeat, which narwhals refuses."""
    import narwhals as nw

    X = nw.to_native(X, pass_through=True)
    if nw.dependencies.is_pandas_like_dataframe(X):
        block = _pandas_block(X)
        return list(X.columns), (X.iloc[:, j] for j in range(X.shape[1])) if block is None else block
    pa = nw.dependencies.get_pyarrow()
    if pa is not None and isinstance(X, (pa.Table, pa.RecordBatch)):
        return X.column_names, iter((X if isinstance(X, pa.Table) else pa.Table.from_batches([X])).columns)
    try:
        frame = nw.from_native(X, eager_only=True)
    except TypeError as error:
        what = f"{name} is a {type(X).__name__}, expected a table in memory"
        raise TypeError(f"{what}; collect a lazy frame with {name}.collect().") from error
    return frame.columns, map(nw.to_native, frame.iter_columns())


def _pandas_block(X: Any) -> _Array | None:
    """The one block of numbers that a homogeneous pandas frame is, as a view, or None."""
    dtype = X.dtypes.iloc[0] if len(set(X.dtypes)) == 1 else None
    if len(X) == 0 or not isinstance(dtype, np.dtype) or dtype.kind not in "fiub":
        return None
    one_row = X.iloc[:1].to_numpy(copy=False)  # one row only: were there several blocks, this would gather them
    return X.to_numpy(copy=False) if np.shares_memory(one_row, X.iloc[:, 0].to_numpy()) else None


def _from_columns(columns: Iterator[Any], names: list[Any], name: str, wanted: np.dtype[Any] | None) -> Table:
    labels = [f"column {label!r} of {name}" for label in names]
    read = [_read_column(column, label) for column, label in zip(columns, labels, strict=True)]
    dtype = wanted or float_type(np.result_type(*(a.dtype for a, _ in read)))
    arrays: list[_Array] = []
    copied: dict[str, list[int]] = {}
    for (a, in_place), label in zip(read, labels, strict=True):
        usable = a.dtype == dtype and a.flags.c_contiguous and a.flags.aligned
        arrays.append(a if usable else convert(a, dtype, label))
        if not (usable and in_place):
            reason = "gathered" if a.dtype == dtype else f"{a.dtype} converted to {dtype}"
            copied.setdefault(reason, []).append(arrays[-1].nbytes)
    of = f"of {len(arrays)} columns"
    copies = tuple(f"{name}: {len(sizes)} {of} {reason}, {size_of(sum(sizes))}" for reason, sizes in copied.items())
    return Table(tuple(arrays), len(arrays[0]), len(arrays), dtype, copies)


def _read_column(column: Any, what: str) -> tuple[_Array, bool]:
    """(values, whether they are the frame's own memory). Missing values are NaN or, among bools and objects, None."""
    import narwhals as nw

    s = nw.from_native(column, series_only=True)
    if not (s.dtype.is_numeric() or s.dtype in (nw.Boolean, nw.Object, nw.Unknown)):
        raise ValueError(f"could not convert string to float: {what} holds {s.dtype}, expected numbers; {ENCODE}.")
    if s.dtype in (nw.Int128, nw.UInt128):  # NumPy has no such numbers
        s = s.cast(nw.Float64)
    a = s.to_numpy()
    return a, np.shares_memory(a[:1], s[:1].to_numpy())
