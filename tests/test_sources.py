"""The door: what is used in place, what is copied and said to be, and what is refused with which words."""

from __future__ import annotations

import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided, sliding_window_view
from scipy import sparse

from gdfast.layouts import CsrRows, take_rows, to_dense
from gdfast.sources import Table, as_labels, as_table, as_target, as_weight, feature_names

N, D = 6, 4
FLOATS = ("float32", "float64")
FRAMES = ("pandas", "polars", "pyarrow", "pyarrow-batch")
NEEDED = "the frame library is not installed"


def numbers(dtype: Any = "float64") -> np.ndarray:
    return np.random.default_rng(0).integers(-50, 50, (N, D)).astype(dtype)


def values(table: Table) -> np.ndarray:
    return np.column_stack(table.X) if isinstance(table.X, tuple) else np.array(table.X)


def assert_kernel_layout(table: Table) -> None:
    assert table.dtype.isnative
    assert table.dtype.name in FLOATS
    arrays = table.X if isinstance(table.X, tuple) else (table.X,)
    assert all(type(a) is np.ndarray and a.dtype == table.dtype and a.flags.aligned for a in arrays)
    if isinstance(table.X, tuple):
        assert len(arrays) == table.d
        assert all(a.shape == (table.n,) and a.flags.c_contiguous for a in arrays)
    else:
        assert table.X.shape == (table.n, table.d)
        assert table.X.strides[1] == table.X.itemsize or (table.X.strides[0] == table.X.itemsize < table.X.strides[1])


def misaligned(a: np.ndarray) -> np.ndarray:
    out = np.empty(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    out[:] = a
    return out


def padded(a: np.ndarray, order: str) -> np.ndarray:
    out = np.full((2 * N, 2 * D), 7, a.dtype, order=order)  # type: ignore[call-overload]
    out[::2, ::2] = a
    return out


def frozen(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


IN_PLACE = {
    "C": lambda a: a.copy(),
    "F": np.asfortranarray,
    "C rows strided": lambda a: np.repeat(a, 2, axis=0)[::2],
    "C rows reversed": lambda a: a[::-1].copy()[::-1],
    "C slice of columns": lambda a: np.hstack([a, a])[:, :D],
    "F columns strided": lambda a: np.asfortranarray(np.repeat(a, 2, axis=1))[:, ::2],
    "F slice of rows": lambda a: np.asfortranarray(np.vstack([a, a]))[:N],
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "one row broadcast": lambda a: np.broadcast_to(a[:1], (N, D)),
    "windows": lambda a: sliding_window_view(a.ravel().copy(), D)[:N],
    "read-only": frozen,
    "one column of C": lambda a: a[:, 1:2],
    "one column of F": lambda a: np.asfortranarray(a)[:, 1:2],
    "one column, odd strides": lambda a: a[::-2, ::2][:, :1],
    "one column broadcast": lambda a: np.broadcast_to(a[:1, :1], (N, 1)),
    "one row": lambda a: a[1:2],
    "one row of F with d strides": lambda a: np.asfortranarray(a[1:2]),
    "one row, odd row stride": lambda a: as_strided(a, (1, D), (a.itemsize + 1, a.itemsize)),
    "1 x 1": lambda a: np.asfortranarray(a)[2:3, 2:3],
    "unmasked np.ma": np.ma.array,
}
COPIED = {
    "columns strided": lambda a: padded(a, "C")[::2, ::2],
    "columns reversed": lambda a: a[:, ::-1],
    "F rows strided": lambda a: padded(a, "F")[::2, ::2],
    "F columns reversed": lambda a: np.asfortranarray(a)[:, ::-1],
    "column broadcast": lambda a: np.broadcast_to(a[:, :1], (N, D)),
    "scalar broadcast": lambda a: np.broadcast_to(a[0, 0], (N, D)),
    "one row of F": lambda a: np.asfortranarray(a)[1:2],
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "byte-swapped F": lambda a: np.asfortranarray(a.astype(a.dtype.newbyteorder())),
    "misaligned": misaligned,
    "field of packed records": lambda a: np.array(
        [(0, row) for row in a], dtype=[("tag", "i1"), ("row", a.dtype, (D,))]
    )["row"],
}


def buffer_of(a: Any) -> bytes:
    owner = a
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    return owner.tobytes()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layout", IN_PLACE)
def test_kernel_layouts_are_used_in_place(layout: str, dtype: str) -> None:
    X = IN_PLACE[layout](numbers(dtype))
    before = buffer_of(X)
    table = as_table(X)
    assert_kernel_layout(table)
    assert np.shares_memory(table.X, X)
    assert table.copies == ()
    assert table.dtype == dtype
    assert np.array_equal(values(table), np.array(X))
    assert buffer_of(X) == before


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layout", COPIED)
def test_other_layouts_are_copied_once_and_said_to_be(layout: str, dtype: str) -> None:
    X = COPIED[layout](numbers(dtype))
    before = buffer_of(X)
    table = as_table(X)
    assert_kernel_layout(table)
    assert not np.shares_memory(table.X, X)
    assert table.X.flags.c_contiguous
    assert table.dtype == dtype
    assert len(table.copies) == 1
    assert table.copies[0].startswith("X: ")
    assert table.copies[0].endswith(f", {table.X.nbytes} B")
    assert np.array_equal(values(table), np.array(X))
    assert buffer_of(X) == before


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(t, "float64") for t in ("bool", "int8", "uint8", "int32", "int64", "uint64", "longdouble", "object")]
    + [("float16", "float32"), (">f4", "float32"), (">f8", "float64"), (">i4", "float64")],
)
def test_other_dtypes_are_converted(dtype: str, expected: str) -> None:
    if np.dtype(dtype) == expected:
        pytest.skip(f"this machine has no {dtype} apart from {expected}")
    X = numbers("uint8").astype(dtype, order="F")
    table = as_table(X, name="Z")
    assert table.X.dtype == expected
    assert table.X.flags.c_contiguous
    assert table.copies == (f"Z: {X.dtype} converted to {expected}, {table.X.nbytes} B",)
    assert np.array_equal(table.X, X.astype(expected))


@pytest.mark.parametrize("have", FLOATS)
@pytest.mark.parametrize("want", FLOATS)
def test_a_dtype_is_converted_only_on_request(have: str, want: str) -> None:
    X = numbers(have)
    table = as_table(X, dtype=want)
    assert table.dtype == want
    assert np.array_equal(table.X, X)
    assert np.shares_memory(table.X, X) == (have == want) == (table.copies == ())


def test_size_of_a_copy_is_in_megabytes() -> None:
    assert as_table(np.zeros((1000, 1000), np.int64)).copies == ("X: int64 converted to float64, 8.0 MB",)


@pytest.mark.parametrize(
    "X", [[[1, 2], [3, 4]], ((1.0, 2.0), (3.0, 4.0)), [np.array([1.0, 2.0]), np.array([3.0, 4.0])]]
)
def test_python_sequences_are_a_copy(X: Any) -> None:
    table = as_table(X)
    assert np.array_equal(table.X, [[1.0, 2.0], [3.0, 4.0]])
    assert table.copies == ("X: Python sequence converted to float64, 32 B",)


def test_memory_map_is_used_in_place_and_keeps_its_file(tmp_path: Path) -> None:
    path = tmp_path / "X.npy"
    np.save(path, numbers())
    before = path.read_bytes()
    X = np.load(path, mmap_mode="r")
    table = as_table(X)
    assert type(table.X) is np.ndarray
    assert np.shares_memory(table.X, X)
    assert table.copies == ()
    del table, X
    assert path.read_bytes() == before


def test_array_interface_is_used_in_place() -> None:
    class Holder:
        def __init__(self, a: np.ndarray) -> None:
            self.a = a

        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return self.a

    X = numbers()
    table = as_table(Holder(X))
    assert np.shares_memory(table.X, X)
    assert table.copies == ()


def peak(work: Any) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_used() -> None:
    X = np.ones((8000, 100))
    as_table(X[:2])
    assert peak(lambda: as_table(X)) < X.nbytes / 10
    assert peak(lambda: as_table(np.asfortranarray(X))) < X.nbytes * 1.1
    assert peak(lambda: as_table(X[:, ::-1])) < X.nbytes * 1.1
    assert peak(lambda: as_table(X, dtype="float32")) < X.nbytes * 0.6


# --- refusals: X


@pytest.mark.parametrize(
    ("X", "error", "words"),
    [
        (np.empty((0, 3)), ValueError, "Found array with 0 sample(s) (shape=(0, 3)) while a minimum of 1 is required."),
        (np.empty((5, 0)), ValueError, "0 feature(s) (shape=(5, 0)) while a minimum of 1 is required."),
        (np.ones(3), ValueError, "Expected 2D array, got 1D array instead"),
        (np.ones(3), ValueError, "Reshape your data either using array.reshape(-1, 1) if your data has a single"),
        ([], ValueError, "Expected 2D array, got 1D array instead"),
        (np.float64(3), ValueError, "Expected 2D array, got scalar array instead"),
        (None, ValueError, "Expected 2D array, got scalar array instead"),
        (np.ones((2, 2, 2)), ValueError, "Found array with dim 3"),
        (np.ones((2, 2), complex), ValueError, "Complex data not supported"),
        (np.ones((2, 2), "datetime64[s]"), ValueError, "datetime64[s], expected real numbers"),
        (np.ones((2, 2), "timedelta64[s]"), ValueError, "timedelta64[s], expected real numbers"),
        (np.zeros((2, 2), [("a", "f8")]), ValueError, "expected real numbers"),
        (np.array([["a", "b"]]), ValueError, "could not convert string to float: 'a'"),
        ([["a", 1]], ValueError, "could not convert string"),
        (np.array([[1, "b"]], object), ValueError, "could not convert string to float: 'b'"),
        (np.array([[1, "b"]], object), ValueError, "one-hot"),
        (np.array([[1, {"foo": "bar"}]], object), TypeError, "argument must be a string or a real number"),
        (np.array([[1, 10**400]], object), ValueError, "int too large"),
        (np.array([[1, None]], object), ValueError, "Input {} contains NaN (row 0, column 1"),
        ([[1], [None]], ValueError, "Input {} contains NaN (row 1, column 0"),
        ([[1, 2], [3]], ValueError, "inhomogeneous"),
        (np.ma.array(np.ones((2, 2)), mask=[[0, 0], [0, 1]]), ValueError, "{}.filled(value)"),
        (np.array([[1.0, 1e300]]), ValueError, "infinity or a value too large for dtype('float32')"),
    ],
)
def test_refused_table(X: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=re.escape(words.format("Z"))) as caught:
        as_table(X, name="Z", dtype="float32")
    assert re.search(r"\bZ\b", str(caught.value))


# --- sparse matrices

INDICES = ("int32", "int64")


def sparse_numbers(dtype: str = "float32", index: str = "int32") -> Any:
    """7 x 5, row 2 and column 3 empty."""
    X = np.random.default_rng(4).standard_normal((7, 5)).astype(dtype)
    X[2], X[:, 3], X[0, :2] = 0, 0, 0
    S = sparse.csr_array(X)
    S.indices, S.indptr = S.indices.astype(index), S.indptr.astype(index)
    return S


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.csr_matrix])
def test_csr_is_used_in_place(kind: Any, dtype: str, index: str) -> None:
    S = kind(sparse_numbers(dtype, index))
    S.indices, S.indptr = S.indices.astype(index), S.indptr.astype(index)
    table = as_table(S)
    assert isinstance(table.X, CsrRows)
    assert (table.n, table.d, table.dtype, table.copies) == (7, 5, np.dtype(dtype), ())
    for part in ("data", "indices", "indptr"):
        assert np.shares_memory(getattr(table.X, part), getattr(S, part))
    assert np.array_equal(to_dense(table.X), S.toarray())
    for rows in (slice(None, None, 3), np.array([2, 0, 6, 6])):
        assert np.array_equal(to_dense(take_rows(table.X, rows)), S.toarray()[rows])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", ["csc", "coo", "lil", "dok", "bsr", "dia"])
def test_other_sparse_matrices_become_csr_and_say_so(kind: str, dtype: str) -> None:
    S = sparse_numbers(dtype)
    table = as_table(S.asformat(kind))
    assert np.array_equal(to_dense(table.X), S.toarray())
    assert len(table.copies) == 1
    assert f"{kind} converted to csr" in table.copies[0]


@pytest.mark.parametrize(("kind", "becomes"), [("?", "f8"), ("i4", "f8"), ("u1", "f8"), (">f8", "f8"), (">f4", "f4")])
def test_sparse_numbers_of_other_types_are_converted_as_dense_ones(kind: str, becomes: str) -> None:
    S = sparse_numbers("float64")
    S.data = np.abs(4 * S.data).astype(kind)
    table = as_table(S)
    assert table.dtype == becomes
    assert np.array_equal(to_dense(table.X), S.toarray().astype(becomes))
    assert len(table.copies) == 1
    assert as_table(S, dtype="float32").dtype == np.float32


def test_columns_out_of_order_are_sorted_and_entries_of_one_cell_summed() -> None:
    S = sparse.csr_array(([1.0, 2.0, 4.0, 8.0], [3, 1, 3, 0], [0, 3, 4]), shape=(2, 4))
    table = as_table(S)
    assert np.array_equal(to_dense(table.X), [[0, 2, 0, 5], [8, 0, 0, 0]])
    assert np.array_equal(table.X.indices, [1, 3, 0])
    assert "sorted and summed" in table.copies[0]
    assert np.array_equal(S.indices, [3, 1, 3, 0])  # what came is not written to
    S.data[:] = 1e308, 0, 1e308, 0
    with pytest.raises(ValueError, match=r"X contains infinity.*row 0, column 3"):
        as_table(S)


def test_indices_of_two_kinds_and_memory_behind_the_last_entry() -> None:
    S = sparse_numbers()
    expected = S.toarray()
    S.indptr = S.indptr.astype("int64")
    S.indices, S.data = np.append(S.indices, 99).astype("int32"), np.append(S.data, np.float32(np.nan))
    table = as_table(S)
    assert table.X.indices.dtype == table.X.indptr.dtype == np.int64
    assert np.array_equal(to_dense(table.X), expected)


@pytest.mark.parametrize(
    ("part", "at", "value", "words"),
    [
        ("indptr", 0, 1, "indptr says that row 0"),
        ("indptr", 4, -1, "indptr says that row"),
        ("indptr", 4, 10**6, "indptr says that row"),
        ("indptr", -1, 10**6, "not a valid sparse matrix"),
        ("indices", 3, 5, "in column 5 of 5"),
        ("indices", -1, -1, "row 6 has an entry in column -1 of 5"),
        ("indices", -1, 2**31 - 1, "in column 2147483647 of 5"),
        ("data", -1, np.nan, "NaN (row 6, column"),
        ("data", 0, -np.inf, "infinity"),
    ],
)
@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_malformed_csr_is_refused(
    isa: str, dtype: str, index: str, part: str, at: int, value: float, words: str
) -> None:
    S = sparse_numbers(dtype, index)
    getattr(S, part)[at] = value
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        as_table(S, name="Z")
    assert re.search(r"\bZ\b", str(caught.value))
    if part == "data":
        as_table(S, check_finite=False)
    else:
        with pytest.raises(ValueError, match=re.escape(words)):
            as_table(S, check_finite=False)


def test_the_first_malformed_row_of_many_is_named() -> None:
    for at in (0, 4095, 4096, 39_999):
        S = sparse.csr_array(np.ones((40_000, 3), dtype=np.float32))
        S.indices[[3 * at + 1, -1]] = 3
        for threads in (1, 2):
            with pytest.raises(ValueError, match=rf"row {at} has an entry in column 3 of 3"):
                as_table(S, threads=threads)


def test_other_malformed_sparse_matrices_are_refused_before_scipy_reads_them() -> None:
    by_column = sparse_numbers().tocsc()
    by_column.indices[1] = 10**6
    with pytest.raises(ValueError, match=r"column 0 has an entry in row 1000000 of 7"):
        as_table(by_column)
    cells = sparse_numbers().tocoo()
    cells.coords[1][2] = -3
    with pytest.raises(ValueError, match=r"entry 2 is in column -3 of 5"):
        as_table(cells)


def test_empty_sparse_matrices_and_vectors_are_refused() -> None:
    for shape, words in (((0, 3), "0 sample"), ((3, 0), "0 feature")):
        with pytest.raises(ValueError, match=words):
            as_table(sparse.csr_array(shape))
    with pytest.raises(ValueError, match="Expected 2D array, got 1D"):
        as_table(sparse.coo_array(np.ones(3)))
    assert as_table(sparse.csr_array((4, 3))).n == 4  # no entry at all


@pytest.mark.parametrize("kind", ["csr_array", "csc_matrix", "coo_array"])
def test_sparse_targets_are_refused(kind: str) -> None:
    S = getattr(sparse, kind)(np.eye(3))
    for door in (
        lambda y: as_target(y, 3, dtype="f8"),
        lambda y: as_labels(y, 3),
        lambda y: as_weight(y, 3, dtype="f8"),
    ):
        with pytest.raises(TypeError, match=r"is a sparse .*, expected a dense array"):
            door(S)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layout", ["C", "F", "C rows reversed", "F columns strided", "columns reversed", "misaligned"])
@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
@pytest.mark.parametrize("cell", [(0, 0), (N - 1, D - 1), (3, 1)])
def test_non_finite_cell_is_named(cell: tuple[int, int], value: float, word: str, layout: str, dtype: str) -> None:
    a = numbers(dtype)
    a[cell] = value
    X = (IN_PLACE | COPIED)[layout](a)
    i, j = np.argwhere(~np.isfinite(np.array(X)))[0]
    with pytest.raises(ValueError, match=rf"Input Z contains {word}.* \(row {i}, column {j} is the first\)"):
        as_table(X, name="Z")
    assert np.array_equal(as_table(X, check_finite=False).X, X, equal_nan=True)


# --- data frames


def frame(kind: str, columns: list[Any], names: list[str] | None = None) -> Any:
    """A frame of the given library, every column (a 1-d array or a list) on its own memory where the library can."""
    names = names or [f"c{j}" for j in range(len(columns))]
    lib = pytest.importorskip(kind.removesuffix("-batch"), reason=NEEDED)
    if kind == "pandas":
        out = lib.concat([lib.Series(c) for c in columns], axis=1)
        out.columns = names
        return out
    if kind == "polars":
        return lib.DataFrame([lib.Series(name, c) for name, c in zip(names, columns, strict=True)])
    table = lib.table([lib.array(c) for c in columns], names=names)
    return table.to_batches()[0] if kind == "pyarrow-batch" else table


def native_columns(X: Any) -> list[np.ndarray]:
    if hasattr(X, "iloc"):
        return [X.iloc[:, j].to_numpy() for j in range(X.shape[1])]
    return [np.asarray(c) for c in (X.columns if hasattr(X, "column_names") else X.get_columns())]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", FRAMES)
def test_float_frames_are_used_in_place(kind: str, dtype: str) -> None:
    a = numbers(dtype)
    X = frame(kind, list(a.T.copy()))
    table = as_table(X)
    assert_kernel_layout(table)
    assert table.copies == ()
    assert table.dtype == dtype
    assert np.array_equal(values(table), a)
    columns = table.X if isinstance(table.X, tuple) else table.X.T
    assert all(np.shares_memory(mine, its) for mine, its in zip(columns, native_columns(X), strict=True))


@pytest.mark.parametrize("dtype", FLOATS)
def test_one_pandas_block_is_one_array(dtype: str) -> None:
    pd = pytest.importorskip("pandas", reason=NEEDED)
    X = pd.DataFrame(numbers(dtype))
    table = as_table(X)
    assert isinstance(table.X, np.ndarray)
    assert np.shares_memory(table.X, X.to_numpy(copy=False))
    assert table.copies == ()
    assert as_table(X.astype("int16")).copies == (f"X: int16 converted to float64, {8 * N * D} B",)


def test_several_pandas_blocks_are_columns() -> None:
    pd = pytest.importorskip("pandas", reason=NEEDED)
    X = pd.DataFrame(np.asfortranarray(numbers()))
    X["more"] = 1.0
    table = as_table(X)
    assert isinstance(table.X, tuple)
    assert table.copies == ()
    assert np.array_equal(values(table), X.to_numpy())
    assert all(np.shares_memory(mine, its) for mine, its in zip(table.X, native_columns(X), strict=True))


@pytest.mark.parametrize("kind", FRAMES)
def test_mixed_frames_convert_column_by_column(kind: str) -> None:
    f8, i8, b, f4 = np.arange(3.0), np.arange(3), np.array([True, False, True]), np.arange(3, dtype="f4")
    X = frame(kind, [f8, i8, i8, b, f4])
    table = as_table(X)
    assert_kernel_layout(table)
    assert isinstance(table.X, tuple)
    assert np.array_equal(values(table), np.column_stack([f8, i8, i8, b, f4]))
    assert np.shares_memory(table.X[0], native_columns(X)[0])
    assert table.copies == (
        "X: 2 of 5 columns int64 converted to float64, 48 B",
        "X: 1 of 5 columns bool converted to float64, 24 B",
        "X: 1 of 5 columns float32 converted to float64, 24 B",
    )


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize(
    ("others", "expected", "copied"),
    [
        ("bool", "float32", {"bool"}),
        ("int8", "float32", {"int8"}),
        ("int32", "float64", {"float32", "int32"}),
        ("int64", "float64", {"float32", "int64"}),
        ("float64", "float64", {"float32"}),
    ],
)
def test_columns_meet_in_the_type_that_holds_them_all(kind: str, others: str, expected: str, copied: set[str]) -> None:
    f4, other = np.arange(2, dtype="f4"), np.arange(2).astype(others)
    table = as_table(frame(kind, [f4, other]))
    size = 2 * table.dtype.itemsize
    assert table.dtype == expected
    assert set(table.copies) == {f"X: 1 of 2 columns {c} converted to {expected}, {size} B" for c in copied}
    assert as_table(frame(kind, [f4, other]), dtype="float32").dtype == "float32"


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize(
    ("column", "row"), [([1.0, None, 2.0], 1), ([1, 2, None], 2), ([None, True, False], 0), ([np.nan] * 3, 0)]
)
def test_missing_values_are_named(kind: str, column: list[Any], row: int) -> None:
    X = frame(kind, [np.arange(3.0), column], ["whole", "holed"])
    with pytest.raises(ValueError, match=rf"Input X contains NaN \(row {row}, column 'holed' is the first\)"):
        as_table(X)
    assert np.isnan(values(as_table(X, check_finite=False))[row, 1])


@pytest.mark.parametrize("kind", FRAMES)
def test_infinity_in_a_frame_is_named(kind: str) -> None:
    X = frame(kind, [np.arange(2.0), np.array([1.0, np.inf])], ["a", "b"])
    with pytest.raises(ValueError, match=r"Input X contains infinity.*row 1, column 'b'"):
        as_table(X)


@pytest.mark.parametrize(
    "dtype", ["Int64", "boolean", "Float32", "float64[pyarrow]", "int64[pyarrow]", "bool[pyarrow]"]
)
def test_nullable_pandas_columns(dtype: str) -> None:
    pd = pytest.importorskip("pandas", reason=NEEDED)
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow", reason=NEEDED)
    X = pd.DataFrame({"a": pd.array([1, 0, 1], dtype=dtype), "b": pd.array([0, 1, 1], dtype=dtype)})
    assert np.array_equal(values(as_table(X)), [[1, 0], [0, 1], [1, 1]])
    X.loc[1, "b"] = pd.NA
    with pytest.raises(ValueError, match=r"Input X contains NaN \(row 1, column 'b' is the first\)"):
        as_table(X)


def test_pandas_objects_are_numbers_where_they_can_be() -> None:
    pd = pytest.importorskip("pandas", reason=NEEDED)
    X = pd.DataFrame({"a": np.array([1, 2.5, True], object), "b": [1.0, 2.0, 3.0]})
    assert np.array_equal(values(as_table(X)), [[1, 1], [2.5, 2], [1, 3]])
    for hole in (None, pd.NA, pd.NaT, np.nan):
        X["a"] = np.array([1, 2, hole], object)
        with pytest.raises(ValueError, match=r"Input X contains NaN \(row 2, column 'a'"):
            as_table(X)
    X["a"] = np.array([1, "x", 3], object)
    with pytest.raises(ValueError, match=r"could not convert string to float: 'x'\. column 'a' of X"):
        as_table(X)


@pytest.mark.parametrize("kind", FRAMES)
def test_text_columns_are_refused_with_advice(kind: str) -> None:
    X = frame(kind, [np.arange(2.0), ["UA", "AA"]], ["delay", "carrier"])
    with pytest.raises(ValueError, match=r"could not convert string.*column 'carrier' of X holds String.*one-hot"):
        as_table(X)


def test_categorical_and_date_columns_are_refused() -> None:
    pd = pytest.importorskip("pandas", reason=NEEDED)
    for column in (pd.Categorical([1, 2]), pd.to_datetime(["2013-01-01", "2013-01-02"]), pd.to_timedelta([1, 2])):
        with pytest.raises(ValueError, match=r"column 'c' of X holds (Categorical|Datetime|Duration)"):
            as_table(pd.DataFrame({"x": [1.0, 2.0], "c": column}))
    with pytest.raises(ValueError, match="Complex data not supported: column 'c' of X"):
        as_table(pd.DataFrame({"x": [1.0, 2.0], "c": [1j, 2j]}))
    pl = pytest.importorskip("polars", reason=NEEDED)
    for column in (pl.Series(["a", "b"], dtype=pl.Categorical), pl.Series([[1.0], [2.0]])):
        with pytest.raises(ValueError, match=r"column 'c' of X holds (Categorical|List)"):
            as_table(pl.DataFrame({"x": [1.0, 2.0], "c": column}))


def test_frames_of_text_only_are_refused_by_column() -> None:
    pd = pytest.importorskip("pandas", reason=NEEDED)
    for column in (np.array(["x", "y"], object), np.array([1, "y"], object)):
        with pytest.raises(ValueError, match=r"could not convert string.*column 'a' of X"):
            as_table(pd.DataFrame({"a": column}))


@pytest.mark.parametrize("awkward", [lambda a: np.repeat(a, 2)[::2], lambda a: a[::-1].copy()[::-1], misaligned])
def test_awkward_pandas_columns_are_gathered(awkward: Any) -> None:
    pd = pytest.importorskip("pandas", reason=NEEDED)
    columns = {"a": awkward(np.arange(3.0)), "b": np.arange(3.0), "c": np.arange(3)}
    table = as_table(pd.DataFrame(columns, copy=False))
    assert_kernel_layout(table)
    assert table.copies == ("X: 1 of 3 columns gathered, 24 B", "X: 1 of 3 columns int64 converted to float64, 24 B")
    assert np.array_equal(values(table), np.repeat(np.arange(3.0), 3).reshape(3, 3))


def test_chunked_columns_are_gathered() -> None:
    pa = pytest.importorskip("pyarrow", reason=NEEDED)
    whole = pa.chunked_array([pa.array([0.0, 1.0, 2.0, 3.0])])
    halves = pa.chunked_array([pa.array([0.0, 1.0]), pa.array([2.0, 3.0])])
    table = as_table(pa.table({"a": whole, "b": halves}))
    assert table.copies == ("X: 1 of 2 columns gathered, 32 B",)
    assert np.array_equal(values(table), np.repeat(np.arange(4.0), 2).reshape(4, 2))
    pl = pytest.importorskip("polars", reason=NEEDED)
    frame = pl.DataFrame({"a": [1.0, 2.0]})
    table = as_table(pl.concat([frame, frame], rechunk=False))
    assert table.copies == ("X: 1 of 1 columns gathered, 32 B",)


def test_decimals_and_wide_integers() -> None:
    pl = pytest.importorskip("polars", reason=NEEDED)
    wide = getattr(pl, "Int128", pl.Int64)
    X = pl.DataFrame([pl.Series("a", [1, 2], pl.Decimal(10, 2)), pl.Series("b", [3, 4], wide)])
    assert np.array_equal(values(as_table(X)), [[1, 3], [2, 4]])


@pytest.mark.parametrize("kind", ["pandas", "pyarrow", "pyarrow-batch"])
@pytest.mark.parametrize("second", [np.array([3.0, 4.0]), np.array([3, 4])])
def test_column_names_may_repeat(kind: str, second: np.ndarray) -> None:
    X = frame(kind, [np.array([1.0, 2.0]), second], ["a", "a"])
    assert np.array_equal(values(as_table(X)), [[1, 3], [2, 4]])
    assert feature_names(X) == ["a", "a"]


@pytest.mark.parametrize("kind", FRAMES)
def test_empty_frames_are_refused(kind: str) -> None:
    X = frame(kind, [np.arange(3.0), np.arange(3.0)])
    rows = X.slice(0, 0) if hasattr(X, "slice") else X.iloc[:0]
    with pytest.raises(ValueError, match=r"0 sample\(s\) \(shape=\(0, 2\)\) while a minimum of 1 is required"):
        as_table(rows)
    if kind == "pandas":
        with pytest.raises(ValueError, match=r"0 feature\(s\) \(shape=\(3, 0\)\) while a minimum of 1 is required"):
            as_table(X[[]])


def test_narwhals_frames_are_opened() -> None:
    nw, pl = pytest.importorskip("narwhals", reason=NEEDED), pytest.importorskip("polars", reason=NEEDED)
    X = nw.from_native(pl.DataFrame({"a": [1.0, 2.0]}))
    assert as_table(X).copies == ()
    assert feature_names(X) == ["a"]


def test_lazy_frames_are_refused() -> None:
    pl = pytest.importorskip("polars", reason=NEEDED)
    with pytest.raises(TypeError, match=r"X is a LazyFrame, expected a table in memory; .*X.collect\(\)"):
        as_table(pl.LazyFrame({"a": [1.0]}))


@pytest.mark.parametrize("kind", FRAMES)
def test_feature_names(kind: str) -> None:
    assert feature_names(frame(kind, [np.arange(2.0), np.arange(2.0)], ["x", "y"])) == ["x", "y"]


def test_no_feature_names() -> None:
    assert feature_names(numbers()) is None
    assert feature_names([[1]]) is None
    pd = pytest.importorskip("pandas", reason=NEEDED)
    assert feature_names(pd.DataFrame(numbers())) is None
    assert feature_names(pd.DataFrame({"a": [1], 0: [2]})) is None
    assert feature_names(pd.DataFrame(index=[0, 1])) is None


def test_error_names_the_position_of_a_column_without_a_name() -> None:
    pd = pytest.importorskip("pandas", reason=NEEDED)
    with pytest.raises(ValueError, match=r"NaN \(row 1, column 0 is the first\)"):
        as_table(pd.DataFrame([[1.0], [np.nan]]))


def series(kind: str, column: Any) -> Any:
    lib = pytest.importorskip(kind, reason=NEEDED)
    return lib.array(column) if kind == "pyarrow" else lib.Series(column)


# --- targets


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(N,), (N, 1), (N, D)])
def test_target_is_used_in_place(shape: tuple[int, ...], dtype: str) -> None:
    y = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
    out = as_target(y, N, dtype=dtype)
    assert np.shares_memory(out, y)
    assert out.shape == shape
    assert as_target(y, N, dtype="f4" if dtype == "float64" else "f8").shape == shape


@pytest.mark.parametrize("layout", [*IN_PLACE, *COPIED])
def test_target_of_any_layout_is_contiguous(layout: str) -> None:
    y = (IN_PLACE | COPIED)[layout](numbers())
    before = buffer_of(y)
    out = as_target(y, len(y), dtype="float64")
    assert out.strides == np.empty(out.shape).strides
    assert out.flags.aligned
    assert out.dtype == np.float64
    assert np.array_equal(out, np.array(y))
    assert buffer_of(y) == before


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow"])
def test_target_and_weight_from_series(kind: str) -> None:
    s = series(kind, [1.5, 2.0])
    assert np.array_equal(as_target(s, 2, dtype="float64"), [1.5, 2.0])
    assert np.array_equal(as_weight(s, 2, dtype="float32"), [1.5, 2.0])
    with pytest.raises(ValueError, match=r"Input y contains NaN \(row 1 is the first\)"):
        as_target(series(kind, [1, None]), 2, dtype="float64")


@pytest.mark.parametrize("kind", FRAMES)
def test_target_from_frame(kind: str) -> None:
    out = as_target(frame(kind, [np.arange(3.0), np.arange(3)]), 3, dtype="float64")
    assert out.flags.c_contiguous
    assert np.array_equal(out, [[0, 0], [1, 1], [2, 2]])


@pytest.mark.parametrize(
    ("y", "error", "words"),
    [
        (None, ValueError, "requires y to be passed, but the target y is None"),
        ([1.0, 2.0], ValueError, "inconsistent numbers of samples: X has 3 rows, y has 2"),
        (3.0, ValueError, "y is a single float, expected an array with one entry per row, 3"),
        (np.ones((3, 2, 2)), ValueError, "y has shape (3, 2, 2), expected (3,), or (3, k)"),
        (np.ones((3, 0)), ValueError, "y has shape (3, 0)"),
        ([1, np.nan, 2], ValueError, "Input y contains NaN (row 1 is the first)"),
        (
            [[1, 1], [2, 2], [3, np.inf]],
            ValueError,
            "Input y contains infinity or a value too large for dtype('float32')",
        ),
        ([[1, 1], [2, 2], [3, np.inf]], ValueError, "(row 2, column 1 is the first)"),
        ([1e300, 0, 0], ValueError, "infinity or a value too large"),
        ([1j, 1, 2], ValueError, "Complex data not supported: y "),
        (["a", "b", "c"], ValueError, "could not convert string to float: 'a'. y "),
        (np.array(["2013-01-01"] * 3, "M8[D]"), ValueError, "y has dtype datetime64[D], expected real numbers"),
        (np.array([1, {}, 2], object), TypeError, "y has dtype object, expected real numbers"),
        (np.ma.array([1.0, 2, 3], mask=[0, 1, 0]), ValueError, "y.filled(value)"),
        ([[1, 2], [3], [4]], ValueError, "y cannot be read as an array"),
    ],
)
def test_refused_target(y: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=re.escape(words)):
        as_target(y, 3, dtype="float32")


# --- labels


@pytest.mark.parametrize(
    ("y", "codes", "classes"),
    [
        ([3, 1, 3], [1, 0, 1], np.array([1, 3])),
        ([2.0, -1.0, 2.0], [1, 0, 1], np.array([-1.0, 2.0])),
        (np.array([2, 0, 2], "f2"), [1, 0, 1], np.array([0, 2], "f2")),
        ([True, False, True], [1, 0, 1], np.array([False, True])),
        (["b", "a", "b"], [1, 0, 1], np.array(["a", "b"])),
        (np.array(["b", "a", "b"], object), [1, 0, 1], np.array(["a", "b"], object)),
        (np.array([3, 1, 3], object), [1, 0, 1], np.array([1, 3])),
        (np.array([3, 1, 3], ">i4"), [1, 0, 1], np.array([1, 3])),
        (np.array([3, 9, 1, 9, 3])[::2], [1, 0, 1], np.array([1, 3])),
        ([5, 5, 5], [0, 0, 0], np.array([5])),
        (np.array([2**63, 0, 2**63], np.uint64), [1, 0, 1], np.array([0, 2**63], np.uint64)),
    ],
)
def test_labels(y: Any, codes: list[int], classes: np.ndarray) -> None:
    got, known = as_labels(y, 3)
    assert got.dtype.kind in "iu"
    assert got.tolist() == codes
    assert known.dtype.kind == classes.dtype.kind
    assert known.tolist() == classes.tolist()
    again, same = as_labels(y, 3, classes=classes[::-1])
    assert again.tolist() == codes
    assert same.tolist() == classes.tolist()


@pytest.mark.skipif(not hasattr(getattr(np, "dtypes", None), "StringDType"), reason="this NumPy has no StringDType")
def test_labels_of_variable_width_strings() -> None:
    codes, classes = as_labels(np.array(["bb", "a", "bb"], np.dtypes.StringDType()), 3, classes=["bb", "a"])
    assert codes.tolist() == [1, 0, 1]
    assert classes.tolist() == ["a", "bb"]


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow"])
def test_labels_from_series(kind: str) -> None:
    for column in (["b", "a", "b"], [True, False, True], [7, 2, 7]):
        codes, classes = as_labels(series(kind, column), 3)
        assert codes.tolist() == [1, 0, 1]
        assert classes.tolist() == sorted(set(column))
        with pytest.raises(ValueError, match=r"Input y contains NaN \(row 1 is the first\)"):
            as_labels(series(kind, [column[0], None, column[1]]), 3)


def test_labels_from_categories() -> None:
    pd = pytest.importorskip("pandas", reason=NEEDED)
    for y in (pd.Series(["b", "a", "b"], dtype="category"), pd.Categorical(["b", "a", "b"])):
        assert as_labels(y, 3)[0].tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="Input y contains NaN"):
        as_labels(pd.Series(["b", None, "b"], dtype="category"), 3)
    pl = pytest.importorskip("polars", reason=NEEDED)
    assert as_labels(pl.Series(["b", "a", "b"], dtype=pl.Categorical), 3)[1].tolist() == ["a", "b"]


@pytest.mark.parametrize("kind", [*FRAMES, "numpy"])
def test_one_column_of_labels_is_ravelled_with_a_warning(kind: str) -> None:
    sklearn = pytest.importorskip("sklearn.exceptions", reason="scikit-learn is not installed")
    y = np.array([[3], [1], [3]]) if kind == "numpy" else frame(kind, [["b", "a", "b"]])
    with pytest.warns(sklearn.DataConversionWarning, match="A column-vector y was passed when a 1d array was expected"):
        codes, _ = as_labels(y, 3)
    assert codes.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (None, "requires y to be passed, but the target y is None"),
        ([1, 2], "inconsistent numbers of samples: X has 3 rows, y has 2"),
        ("abc", "y is a single str"),
        (np.ones((3, 2)), "y should be a 1d array of class labels, got an array of shape (3, 2) instead"),
        ([0.5, 1.0, 2.0], "Unknown label type: continuous"),
        (np.array([0.5, 1.0, 2.0], object), "Unknown label type: continuous"),
        ([0.0, np.nan, 1.0], "Input y contains NaN (row 1 is the first)"),
        ([0.0, 1.0, -np.inf], "Input y contains infinity or a value too large for dtype('float64') (row 2"),
        (["a", None, "b"], "Input y contains NaN (row 1 is the first)"),
        (["a", "b", np.nan], "Input y contains NaN (row 2 is the first)"),
        (["a", 1, "b"], "Unknown label type: y holds int, str"),
        (np.array(["a", 1, "b"], object), "Unknown label type: y holds int, str"),
        (np.array([{}, 1, 2], object), "Unknown label type: y holds dict, int"),
        (np.array([2**70, 1, 2], object), "Unknown label type: y holds int"),
        ([1j, 1, 2], "Complex data not supported: y "),
        (np.array(["2013-01-01"] * 3, "M8[D]"), "y has dtype datetime64[D]"),
        (np.ma.array([1, 2, 3], mask=[0, 1, 0]), "y.filled(value)"),
    ],
)
def test_refused_labels(y: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        as_labels(y, 3)


@pytest.mark.parametrize(
    ("y", "classes", "words"),
    [
        (["a", "zebra"], ["a", "b"], "y contains the label 'zebra' (row 1), which is not among the classes ['a', 'b']"),
        ([1, 3], [1, 2], "y contains the label 3 (row 1), which is not among the classes [1, 2]"),
        ([1, 3], [5, 7], "the label 1 (row 0)"),
        ([1, 3], ["1", "3"], "y holds labels of dtype int64 and classes of dtype <U1, expected numbers in both"),
        (["1", "3"], [1, 3], "expected numbers in both or strings in both"),
        ([1, 3], [1, np.nan], "Input classes contains NaN"),
        ([1, 3], [1.5, 3], "Unknown label type: continuous. classes holds 1.5"),
    ],
)
def test_labels_against_classes(y: Any, classes: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        as_labels(y, 2, classes=classes)


def test_a_long_list_of_classes_is_abbreviated() -> None:
    with pytest.raises(ValueError, match="not among the classes") as caught:
        as_labels([-1], 1, classes=np.arange(500))
    assert len(str(caught.value)) < 200


# --- weights


@pytest.mark.parametrize("dtype", FLOATS)
def test_weight(dtype: str) -> None:
    assert as_weight(None, 3, dtype=dtype) is None
    w = np.array([0, 1, 2], dtype)
    assert np.shares_memory(as_weight(w, 3, dtype=dtype), w)
    for given in ([0, 1, 2], np.array([0, 9, 1, 9, 2.0])[::2], frozen(w), w.astype(w.dtype.newbyteorder())):
        out = as_weight(given, 3, dtype=dtype)
        assert out is not None
        assert out.dtype == dtype
        assert out.flags.c_contiguous
        assert out.tolist() == [0, 1, 2]
    for scalar in (2, np.float32(2), np.array(2)):
        out = as_weight(scalar, 3, dtype=dtype)
        assert out is not None
        assert out.flags.c_contiguous
        assert out.dtype == dtype
        assert out.tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        ([1.0, 2.0], "inconsistent numbers of samples: X has 3 rows, {} has 2"),
        (np.ones((3, 1)), "{} has shape (3, 1), expected one weight per row, shape (3,), or a scalar"),
        ([1, -2, 3], "{} contains the negative weight -2.0 (row 1), expected weights >= 0"),
        (-1.0, "{} contains the negative weight -1.0 (row 0)"),
        ([0, 0, 0], "{} is zero for every row"),
        (0, "{} is zero for every row"),
        ([1e-300, 0, 0], "{} is zero for every row"),
        ([1, np.nan, 1], "Input {} contains NaN (row 1 is the first)"),
        (np.nan, "Input {} contains NaN (row 0 is the first)"),
        ([1, 1, np.inf], "Input {} contains infinity"),
        ([1j, 1, 1], "Complex data not supported: {} "),
        (["a", "b", "c"], "could not convert string to float: 'a'. {} "),
        (np.ma.array([1.0, 2, 3], mask=[0, 1, 0]), "{}.filled(value)"),
    ],
)
def test_refused_weight(weight: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words.format("sample_weight"))):
        as_weight(weight, 3, dtype="float32")


def test_libraries_stay_unloaded_for_plain_arrays() -> None:
    """Checked in a child with every optional package barred, so that any import of one is an error."""
    code = """if True:
        import sys
        import numpy as np
        for barred in ("sklearn", "scipy", "pandas", "polars", "pyarrow", "narwhals"):
            sys.modules[barred] = None
        from gdfast.sources import as_labels, as_table, as_target, as_weight, feature_names
        X = np.ones((3, 2))
        assert as_table(X).n == as_table([[1, 2]] * 3).n == 3 and feature_names(X) is None
        as_target([1, 2, 3], 3, dtype="f8"), as_labels(["a", "b", "a"], 3), as_weight(2, 3, dtype="f8")
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
