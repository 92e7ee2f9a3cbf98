"""However an array lies in memory: the bits of the result are those of its plain copy, and its own bytes stay."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import gdfast
from gdfast import Adam, losses, ops

Array = np.ndarray[Any, Any]

FLOATS = ("float32", "float64")
CLASSIFIERS = ("LogisticRegression", "SGDClassifier")
NAMES = (*CLASSIFIERS, "LinearRegression", "Ridge", "SGDRegressor")


def surrounded(shape: tuple[int, ...], dtype: Any) -> Array:
    """NaN all around: a kernel that reads beside the array shows."""
    return np.full(shape, np.nan, dtype=dtype)


def read_only(a: Array, path: Path) -> Array:
    out = a.copy()
    out.flags.writeable = False
    return out


def strided(a: Array, path: Path) -> Array:
    wide = surrounded(tuple(2 * size for size in a.shape), a.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in a.shape)]
    view[...] = a
    return view


def rows_strided(a: Array, path: Path) -> Array:
    wide = surrounded((3 * len(a), *a.shape[1:]), a.dtype)
    wide[::3] = a
    return wide[::3]


def row_stride_above_d(a: Array, path: Path) -> Array:
    wide = surrounded((*a.shape[:-1], a.shape[-1] + 3), a.dtype) if a.ndim > 1 else surrounded((len(a) + 3,), a.dtype)
    view = wide[..., 1:-2]
    view[...] = a
    return view


def reversed_rows(a: Array, path: Path) -> Array:
    return a[::-1].copy()[::-1]


def reversed_all(a: Array, path: Path) -> Array:
    back = tuple(slice(None, None, -1) for _ in a.shape)
    return a[back].copy()[back]


def reversed_and_strided(a: Array, path: Path) -> Array:
    wide = surrounded((2 * len(a), *a.shape[1:]), a.dtype)
    wide[::-2] = a
    return wide[::-2]


def byte_swapped(a: Array, path: Path) -> Array:
    return a.astype(a.dtype.newbyteorder())


def misaligned(a: Array, path: Path) -> Array:
    out = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    out[...] = a
    return out


def misaligned_and_swapped(a: Array, path: Path) -> Array:
    return misaligned(byte_swapped(a, path), path)


def memory_mapped(a: Array, path: Path) -> Array:
    np.save(path / "data.npy", a)
    return np.load(path / "data.npy", mmap_mode="r")


def memory_mapped_behind_a_header(a: Array, path: Path) -> Array:
    (path / "data.bin").write_bytes(b"odd" + a.tobytes())
    return np.memmap(path / "data.bin", dtype=a.dtype, mode="r", offset=3, shape=a.shape)


def field_of_records(a: Array, path: Path) -> Array:
    out = np.zeros(len(a), dtype=np.dtype([("tag", "i1"), ("x", a.dtype, a.shape[1:])]))
    out["x"] = a
    return out["x"]


def from_bytes(a: Array, path: Path) -> Array:
    return np.frombuffer(a.tobytes(), dtype=a.dtype).reshape(a.shape)


LAYOUTS: dict[str, Callable[[Array, Path], Array]] = {
    layout.__name__: layout
    for layout in (
        read_only,
        strided,
        rows_strided,
        row_stride_above_d,
        reversed_rows,
        reversed_all,
        reversed_and_strided,
        byte_swapped,
        misaligned,
        misaligned_and_swapped,
        memory_mapped,
        memory_mapped_behind_a_header,
        field_of_records,
        from_bytes,
    )
}


def owner_of(a: Array) -> Array:
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a


def digest(a: Array) -> str:
    """Of the whole memory that `a` is a view of, not only of the numbers it shows."""
    return hashlib.sha256(owner_of(a).tobytes()).hexdigest()


def problem(name: str, dtype: Any, n: int = 700, d: int = 9) -> tuple[Array, Array, Array]:
    """X, y, weights; more than a megabyte of nothing: small work and a shard or two."""
    rng = np.random.default_rng(11)
    X = rng.standard_normal((n, d)).astype(dtype)
    z = X @ rng.standard_normal(d) + rng.standard_normal(n)
    y = z.astype(dtype) if name not in CLASSIFIERS else (z > 0).astype(dtype)
    return X, y, rng.uniform(0.5, 2, n).astype(dtype)


def make(name: str) -> Any:
    if not name.startswith("SGD"):
        return getattr(gdfast, name)()
    return getattr(gdfast, name)(
        "log_loss" if name == "SGDClassifier" else "huber",
        random_state=0,
        max_iter=2,
        tol=None,
        batch_size=100,
        average=True,
    )


def native(a: Array) -> Array:
    """Labels keep the type of y, its byte order too: their values are compared."""
    return a.astype(a.dtype.newbyteorder("="))


def results(name: str, X: Array, y: Array, weight: Array) -> dict[str, bytes]:
    """The bits of everything that an estimator computes from these arrays."""
    model = make(name).fit(X, y, sample_weight=weight)
    found = {"coef_": model.coef_, "intercept_": model.intercept_, "predict": model.predict(X)}
    for method in ("decision_function", "predict_proba", "predict_log_proba"):
        if hasattr(model, method):
            found[method] = getattr(model, method)(X)
    found["score"] = model.score(X, y, sample_weight=weight)
    if hasattr(model, "partial_fit"):
        found["partial_fit"] = model.partial_fit(X, y, sample_weight=weight).coef_
        started = make(name).fit(X, y, coef_init=X[0], intercept_init=y[:1])
        found["coef_init"] = started.coef_
    return {key: native(np.asarray(value)).tobytes() for key, value in found.items()}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_estimators_see_the_numbers_and_not_the_layout(name: str, layout: str, dtype: str, tmp_path: Path) -> None:
    plain = problem(name, dtype)
    views = []
    for i, a in enumerate(plain):
        folder = tmp_path / str(i)
        folder.mkdir()
        views.append(LAYOUTS[layout](a, folder))
        assert np.array_equal(views[-1], a)
    before = [digest(view) for view in views]
    expected = results(name, *(np.ascontiguousarray(a.copy()) for a in plain))
    assert results(name, *views) == expected
    assert [digest(view) for view in views] == before


@pytest.mark.parametrize(
    "layout", ["row_stride_above_d", "rows_strided", "reversed_rows", "misaligned", "memory_mapped"]
)
@pytest.mark.parametrize("name", NAMES)
def test_large_arrays_of_any_layout_on_two_threads(name: str, layout: str, tmp_path: Path) -> None:
    X, y, weight = problem(name, "float32", n=40_000)
    batches = {"batch_size": 3000} if name.startswith("SGD") else {}
    view = LAYOUTS[layout](X, tmp_path)
    before = digest(view)
    fits = [make(name).set_params(n_jobs=2, **batches).fit(a, y, sample_weight=weight) for a in (view, X)]
    assert fits[0].coef_.tobytes() == fits[1].coef_.tobytes()
    assert fits[0].predict(view).tobytes() == fits[1].predict(X).tobytes()
    assert digest(view) == before


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", NAMES)
def test_broadcast_rows_columns_targets_and_weights(name: str, dtype: str) -> None:
    X, y, weight = problem(name, dtype)
    n, d = X.shape
    one_row = as_strided(X, shape=(n, d), strides=(0, X.itemsize), writeable=False)
    one_column = np.broadcast_to(X[:, 2:3], (n, d))
    one_weight = np.broadcast_to(np.asarray(1.5, dtype=dtype), n)
    one_target = np.broadcast_to(np.asarray(2.5, dtype=dtype), n)
    cases = [(one_row, y, weight), (one_column, y, weight), (X, y, one_weight)]
    if name not in CLASSIFIERS:
        cases.append((X, one_target, weight))
    for case in cases:
        before = [digest(a) for a in case]
        views = results(name, *case)
        assert views == results(name, *(np.ascontiguousarray(a.copy()) for a in case))
        assert [digest(a) for a in case] == before


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", NAMES)
def test_windows_that_overlap(name: str, dtype: str) -> None:
    _, y, weight = problem(name, dtype)
    signal = np.random.default_rng(3).standard_normal(len(y) + 8).astype(dtype)
    windows = np.lib.stride_tricks.sliding_window_view(signal, 9)
    assert results(name, windows, y, weight) == results(name, windows.copy(), y, weight)


FORTRAN: dict[str, Callable[[Array], Array]] = {
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "read-only": lambda a: np.frombuffer(a.tobytes("F"), dtype=a.dtype).reshape(a.shape[::-1]).T,
    "some columns": lambda a: np.asfortranarray(np.repeat(a, 2, axis=1))[:, ::2],
    "some rows": lambda a: np.asfortranarray(np.vstack([a, a]))[: len(a)],
    "reversed columns": lambda a: np.asfortranarray(a[:, ::-1])[:, ::-1],
    "byte-swapped": lambda a: np.asfortranarray(a.astype(a.dtype.newbyteorder())),
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layout", FORTRAN)
@pytest.mark.parametrize("name", NAMES)
def test_columns_of_any_layout(name: str, layout: str, dtype: str) -> None:
    """Columns are summed by other kernels than rows: equal to the last digits, and bit for bit among equal layouts."""
    X, y, weight = problem(name, dtype)
    view = FORTRAN[layout](X)
    before = digest(view)
    model, plain = (make(name).fit(a, y, sample_weight=weight) for a in (view, X))
    np.testing.assert_allclose(model.coef_, plain.coef_, rtol=0, atol=2e-4 if dtype == "float32" else 1e-8)
    expected = np.asfortranarray(X) if layout not in ("reversed columns", "byte-swapped") else X
    assert results(name, view, y, weight) == results(name, expected, y, weight)
    assert digest(view) == before


@pytest.mark.parametrize("kind", ["i1", "u2", "i4", "i8", "?"])
@pytest.mark.parametrize("name", NAMES)
def test_other_types_are_their_converted_copy(name: str, kind: str) -> None:
    X, y, weight = problem(name, "float64")
    X = (np.abs(4 * X)).astype(kind)
    for view in (X, X[::-1].copy()[::-1], X.astype(X.dtype.newbyteorder())):
        before = digest(view)
        expected = results(name, X.astype(np.float64), y.astype("f8"), weight)
        assert results(name, view, y.astype("f8"), weight) == expected
        assert digest(view) == before


# --- building blocks --------------------------------------------------------------------------------------------------


def block_results(loss: str, X: Array, y: Array, w: Array, weight: Array) -> dict[str, bytes]:
    value, g = ops.loss_and_gradient(X, y, w, loss=loss, sample_weight=weight)
    return {
        "margins": ops.margins(X, w).tobytes(),
        "value": np.float64(value).tobytes(),
        "gradient": g.tobytes(),
        "loss": np.float64(ops.loss(X, y, w, loss=loss, sample_weight=weight)).tobytes(),
        "norm": np.float64(ops.norm(X)).tobytes(),
    }


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("loss", ["squared_error", "log_loss", "softmax"])
def test_blocks_see_the_numbers_and_not_the_layout(loss: str, layout: str, dtype: str, tmp_path: Path) -> None:
    k = 3 if loss == "softmax" else 1
    X, _, weight = problem("Ridge", dtype)
    rng = np.random.default_rng(2)
    y = rng.integers(0, 2 if k == 1 else k, len(X)).astype(dtype)
    w = rng.standard_normal((X.shape[1] + 1, k) if k > 1 else X.shape[1] + 1).astype(dtype)
    views = []
    for i, a in enumerate((X, y, w, weight)):
        folder = tmp_path / str(i)
        folder.mkdir()
        views.append(LAYOUTS[layout](a, folder))
    before = [digest(view) for view in views]
    assert block_results(loss, *views) == block_results(loss, X, y, w, weight)
    assert [digest(view) for view in views] == before


def adam_step(w: Array, g: Array, slots: Array) -> None:
    ops.step_(Adam(0.1), w, g, slots, 1)


IN_PLACE: dict[str, tuple[str, Callable[[Array, Array], Any]]] = {
    "clip_by_norm_": ("g", lambda a, path: ops.clip_by_norm_(a, 0.1)),
    "clip_by_value_": ("g", lambda a, path: ops.clip_by_value_(a, 0.1)),
    "step_ of w": ("w", lambda a, plain: adam_step(a, plain.copy(), np.zeros((2, *plain.shape), plain.dtype))),
    "loss_and_gradient": (
        "out",
        lambda a, plain: ops.loss_and_gradient(np.ones((3, len(a) - 1), plain.dtype), np.ones(3), plain, out=a),
    ),
}
# what an in-place function would have to copy, so that the result would be lost in the copy
REFUSED = ("read_only", "strided", "reversed_rows", "byte_swapped", "misaligned", "memory_mapped", "field_of_records")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layout", REFUSED)
@pytest.mark.parametrize("function", IN_PLACE)
def test_in_place_blocks_refuse_what_they_would_have_to_copy(
    function: str, layout: str, dtype: str, tmp_path: Path
) -> None:
    plain = np.random.default_rng(0).standard_normal(12).astype(dtype)
    view = LAYOUTS[layout](plain, tmp_path)
    before = digest(view)
    argument, call = IN_PLACE[function]
    with pytest.raises((ValueError, TypeError), match=rf"^{argument}: "):
        call(view, plain)
    assert digest(view) == before


@pytest.mark.parametrize(
    "bad", [np.zeros(12, "i8"), np.zeros(12, "f2"), np.zeros(12, "c16"), np.zeros(12, object), [0.0] * 12]
)
@pytest.mark.parametrize("function", IN_PLACE)
def test_in_place_blocks_refuse_other_types(function: str, bad: Any) -> None:
    argument, call = IN_PLACE[function]
    with pytest.raises((ValueError, TypeError), match=rf"^{argument}: "):
        call(bad, np.zeros(12))


@pytest.mark.parametrize("dtype", FLOATS)
def test_an_output_of_another_precision_is_refused(dtype: str) -> None:
    X, y, w = np.ones((3, 11), dtype), np.ones(3, dtype), np.ones(12, dtype)
    out = np.zeros(12, "float64" if dtype == "float32" else "float32")
    with pytest.raises((ValueError, TypeError), match=r"^out: "):
        ops.loss_and_gradient(X, y, w, out=out)
    assert (out == 0).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_slots_and_gradients_of_a_step_are_refused_too(dtype: str, tmp_path: Path) -> None:
    w, g = np.ones(12, dtype), np.ones(12, dtype)
    for layout in REFUSED:
        slots = LAYOUTS[layout](np.zeros((2, 12), dtype), tmp_path)
        with pytest.raises((ValueError, TypeError), match=r"^slots: "):
            adam_step(w, g, slots)
    other = np.ones(12, "float64" if dtype == "float32" else "float32")
    for bad in (
        other,
        np.ones(13, dtype),
        np.ones(24, dtype)[::2],
        g.astype(g.dtype.newbyteorder()),
        misaligned(g, tmp_path),
    ):
        with pytest.raises((ValueError, TypeError), match=r"^g: "):
            adam_step(w, bad, np.zeros((2, 12), dtype))
    assert (w == 1).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_read_only_gradient_may_be_read(dtype: str, tmp_path: Path) -> None:
    g = np.random.default_rng(0).standard_normal(12).astype(dtype)
    w, expected = np.ones(12, dtype), np.ones(12, dtype)
    adam_step(w, read_only(g, tmp_path), np.zeros((2, 12), dtype))
    adam_step(expected, g, np.zeros((2, 12), dtype))
    assert w.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", FLOATS)
def test_outputs_that_overlap_inputs_are_refused(dtype: str) -> None:
    memory = np.zeros(200, dtype)
    X, y, w = np.ones((5, 11), dtype), np.ones(5, dtype), np.ones(12, dtype)
    inside = {
        "X": (memory[:55].reshape(5, 11), y, w, memory[40:52]),
        "y": (X, memory[8:13], w, memory[:12]),
        "w": (X, y, memory[11:23], memory[:12]),
        "the same as w": (X, y, memory[:12], memory[:12]),
    }
    for where, (X_, y_, w_, out) in inside.items():
        with pytest.raises(ValueError, match="overlap"):
            ops.loss_and_gradient(X_, y_, w_, out=out)
        assert (memory == 0).all(), where
    with pytest.raises(ValueError, match="overlap"):
        ops.loss_and_gradient(X, y, w, sample_weight=memory[:5], out=memory[4:16])
    with pytest.raises(ValueError, match="overlap"):
        ops.loss_and_gradient(memory[:55].reshape(5, 11)[::-1], y, w, out=memory[:12])
    for w_, g, slots in [
        (memory[:12], memory[6:18], memory[100:124].reshape(2, 12)),
        (memory[:12], memory[:12], memory[100:124].reshape(2, 12)),
        (memory[:12], memory[20:32], memory[11:35].reshape(2, 12)),
        (memory[:12], memory[30:42], memory[41:65].reshape(2, 12)),
    ]:
        with pytest.raises(ValueError, match="overlap"):
            adam_step(w_, g, slots)
    # neighbours in one block of memory do not overlap
    adam_step(memory[:12], memory[12:24], memory[24:48].reshape(2, 12))
    ops.loss_and_gradient(X, y, memory[:12], out=memory[12:24])
    assert (memory[12:24] != 0).any()


@pytest.mark.parametrize("loss", [name for name, kind in losses.ALL.items() if kind.target == "real"])
def test_an_output_is_the_same_bits_as_a_returned_gradient(loss: str) -> None:
    X, y, _ = problem("Ridge", "float32")
    w = np.random.default_rng(0).standard_normal(X.shape[1] + 1).astype("f4")
    out = np.full_like(w, np.nan)
    value, g = ops.loss_and_gradient(X, y, w, loss=loss)
    assert ops.loss_and_gradient(X, y, w, loss=loss, out=out) == value
    assert out.tobytes() == g.tobytes()
