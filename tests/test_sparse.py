"""Sparse rows and dense ones of the same numbers give the same model, by every estimator, solver and building block."""

from __future__ import annotations

import tracemalloc
import warnings
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

import gdfast as ours
from gdfast import SGD, Adam, _core, models, ops, runtime
from gdfast.backends import cpu, reference
from gdfast.losses import LogLoss, Softmax
from gdfast.optimizers import ALL as OPTIMIZERS
from gdfast.plan import Examples
from gdfast.sources import as_table
from gdfast.sparse import without_zeros

Array = np.ndarray[Any, Any]
NAMES = ("LogisticRegression", "SGDClassifier", "LinearRegression", "Ridge", "SGDRegressor")


def rows(
    n: int = 300, d: int = 12, *, density: float = 0.25, dtype: str = "float64", seed: int = 0
) -> tuple[Any, Array, Array]:
    """(X sparse with an empty row and an empty column, values, labels of two classes)"""
    rng = np.random.default_rng(seed)
    X = (rng.standard_normal((n, d)) * (rng.random((n, d)) < density)).astype(dtype)
    X[n // 2], X[:, d // 3] = 0, 0
    z = X @ rng.standard_normal(d) + 0.3 + 0.5 * rng.standard_normal(n)
    return sparse.csr_array(X), z.astype(dtype), (z > np.median(z)).astype(int)


def same_models(model: Any, X: Any, y: Array, weight: Array | None = None, *, rtol: float = 1e-7) -> Any:
    a = model.fit(X, y, sample_weight=weight)
    coef, intercept = a.coef_.copy(), np.copy(a.intercept_)
    b = type(model)(**model.get_params()).fit(X.toarray(), y, sample_weight=weight)
    size = np.abs(b.coef_).max()
    np.testing.assert_allclose(coef, b.coef_, rtol=0, atol=rtol * size)
    np.testing.assert_allclose(intercept, b.intercept_, rtol=0, atol=rtol * max(size, 1))
    assert a.fit_report_["copies"] == ()
    np.testing.assert_allclose(a.predict(X), b.predict(X.toarray()), rtol=1e-4, atol=1e-4)
    return a


@pytest.mark.parametrize("index", ["int32", "int64"])
@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize(
    "parameters", [{}, {"l1_ratio": 1.0, "solver": "saga"}, {"solver": "lbfgs"}, {"fit_intercept": False}]
)
def test_logistic_regression(parameters: dict[str, Any], k: int, index: str) -> None:
    X, z, _ = rows()
    X.indices, X.indptr = X.indices.astype(index), X.indptr.astype(index)
    y = np.digitize(z, np.quantile(z, np.arange(1, k) / k))
    weight = np.random.default_rng(1).uniform(0.5, 2, len(y))
    same_models(ours.LogisticRegression(C=1.0, tol=1e-9, max_iter=5000, **parameters), X, y, weight, rtol=1e-5)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("model", [ours.LinearRegression(), ours.Ridge(0.5), ours.Ridge(0.5, fit_intercept=False)])
def test_least_squares(model: Any, k: int) -> None:
    X, z, _ = rows()
    y = z if k == 1 else np.column_stack([z, z**2, -z])
    same_models(model, X, y, np.random.default_rng(1).uniform(0.5, 2, len(y)), rtol=1e-6)


def test_more_columns_than_any_hessian_has() -> None:
    X, z, y = rows(400, 2300, density=0.02)
    a = same_models(ours.LogisticRegression(tol=1e-9, max_iter=2000), X, y, rtol=1e-4)
    assert a.fit_report_["solver"] == "newton_cg"
    same_models(ours.Ridge(1.0, tol=1e-10), X, z, rtol=1e-4)
    same_models(ours.LogisticRegression(C=10, l1_ratio=1.0, tol=1e-9, max_iter=5000), X, y, rtol=1e-3)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_makes_the_same_steps(optimizer: str) -> None:
    X, z, y = rows()
    settings = {"optimizer": optimizer, "batch_size": 16, "max_iter": 3, "tol": None, "random_state": 0}
    for penalty in ("l1", "elasticnet"):
        same_models(ours.SGDClassifier("log_loss", penalty=penalty, alpha=0.01, **settings), X, y)
        same_models(ours.SGDRegressor(penalty=penalty, alpha=0.01, **settings), X, z)


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 1},
        {"batch_size": 50, "average": True, "shuffle": False},
        {"early_stopping": True, "max_iter": 20},
        {"optimizer": SGD("auto")},
        {"shuffle": "block", "batch_size": 64, "accumulate": 2},
        {"optimizer": Adam(0.01), "clip_norm": 0.1},
    ],
)
def test_descent_of_every_kind(settings: dict[str, Any]) -> None:
    X, _, y = rows()
    settings = {"max_iter": 4, "tol": None, "random_state": 0, "learning_rate": "constant", "eta0": 0.01} | settings
    same_models(ours.SGDClassifier("log_loss", **settings), X, y)


def test_partial_fit_of_sparse_and_dense_parts() -> None:
    X, _, y = rows()
    parts = [ours.SGDClassifier("log_loss", random_state=0), ours.SGDClassifier("log_loss", random_state=0)]
    for i in range(0, 300, 100):
        part = slice(i, i + 100)
        parts[0].partial_fit(X[part], y[part], classes=[0, 1])
        parts[1].partial_fit(X[part].toarray() if i else X[part], y[part], classes=[0, 1])
    np.testing.assert_allclose(parts[0].coef_, parts[1].coef_, rtol=1e-9)


@pytest.mark.parametrize("name", ["LogisticRegression", "SGDClassifier", "SGDRegressor"])
def test_sparse_coefficients_predict_travel_and_start_warm(name: str, tmp_path: Any) -> None:
    X, z, y = rows()
    settings = (
        {}
        if name == "LogisticRegression"
        else {"random_state": 0, "max_iter": 3, "tol": None, "learning_rate": "constant"}
    )
    model = getattr(ours, name)(warm_start=True, **settings).fit(X, z if name == "SGDRegressor" else y)
    before, coef = model.predict(X), model.coef_
    assert sparse.issparse(model.sparsify().coef_)
    assert np.array_equal(model.predict(X), before)
    assert np.array_equal(model.predict(X.toarray()), before) or name == "SGDRegressor"
    models.save(model, tmp_path / "model.gdfast")
    assert np.array_equal(models.load(tmp_path / "model.gdfast").coef_, coef)
    model.fit(X, z if name == "SGDRegressor" else y)
    assert isinstance(model.coef_, np.ndarray)
    assert np.array_equal(model.sparsify().densify().coef_, model.coef_)


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_building_blocks(isa: str, dtype: Any, k: int, weighted: bool) -> None:
    X, z, _ = rows(dtype=dtype.name)
    rng = np.random.default_rng(2)
    w = rng.standard_normal((13, k) if k > 1 else 13).astype(dtype)
    y = rng.integers(0, k, 300).astype(dtype) if k > 1 else (z > 0).astype(dtype)
    settings = {
        "loss": "softmax" if k > 1 else "log_loss",
        "sample_weight": rng.uniform(0, 2, 300) if weighted else None,
    }
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-11, "atol": 1e-13}
    value, g = ops.loss_and_gradient(X, y, w, **settings)
    dense_value, dense_g = ops.loss_and_gradient(X.toarray(), y, w, **settings)
    np.testing.assert_allclose(value, dense_value, **tolerance)
    np.testing.assert_allclose(g, dense_g, **tolerance)
    np.testing.assert_allclose(ops.margins(X, w), ops.margins(X.toarray(), w), **tolerance)
    direction = rng.standard_normal(w.shape).astype(dtype)
    np.testing.assert_allclose(
        ops.hessian_product(X, y, w, direction, **settings),
        ops.hessian_product(X.toarray(), y, w, direction, **settings),
        **tolerance,
    )


@pytest.mark.parametrize("k", [1, 3])
def test_wide_rows_have_the_same_bits_for_any_number_of_threads(isa: str, dtype: Any, k: int) -> None:
    n, d, each = 30_000, 20_000, 20
    rng = np.random.default_rng(k)
    columns = np.sort(rng.integers(0, d, (n, each)), axis=1)
    columns += np.arange(each)  # all different
    X = sparse.csr_array(
        (rng.standard_normal(n * each).astype(dtype), columns.ravel(), np.arange(n + 1) * each), shape=(n, d + each)
    )
    table = as_table(X)
    assert _core.shards_of(n, table.X, k) >= 4
    w = rng.standard_normal((table.d + 1, k)).astype(dtype)
    examples = Examples(table.X, rng.integers(0, max(k, 2), n).astype(dtype), None, k)
    loss = LogLoss() if k == 1 else Softmax()
    with runtime.worker():
        z, (value, g) = cpu.margins(table.X, w, 1), cpu.gradient(examples, loss, w, True, 1)
        for threads in (2, 3, 8):
            assert np.array_equal(cpu.margins(table.X, w, threads), z)
            same = cpu.gradient(examples, loss, w, True, threads)
            assert same[0] == value
            assert np.array_equal(same[1], g)
    exact = X.astype("f8") @ w[:-1].astype("f8") + w[-1]
    np.testing.assert_allclose(
        z, exact, rtol=1e-4 if dtype == np.float32 else 1e-10, atol=1e-4 if dtype == np.float32 else 1e-10
    )


def test_a_small_batch_of_wide_rows_is_summed_in_one_part() -> None:
    X = as_table(sparse.random_array((10_000, 50_000), density=1e-3, format="csr", rng=0)).X
    assert _core.shards_of(256, X, 1) == 1  # 13,000 numbers against the 50,000 sums of every further part
    assert _core.shards_of(10_000, X, 1) > 1


def test_a_fit_never_makes_the_rows_dense() -> None:
    X = sparse.random_array((3000, 40_000), density=1e-3, format="csr", rng=0)  # 1.5 MB; 960 MB if dense
    y = (np.asarray(X[:, :20_000].sum(axis=1)) > np.asarray(X[:, 20_000:].sum(axis=1))).astype(int)
    for model in (
        ours.LogisticRegression(max_iter=20, tol=1e-2),
        ours.LogisticRegression(l1_ratio=1.0, max_iter=20, tol=1e-2),
        ours.Ridge(max_iter=20, tol=1e-2),
        ours.SGDClassifier("log_loss", optimizer=SGD("auto"), max_iter=2, tol=None, standardize=False),
    ):
        tracemalloc.start()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(X, y)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 60e6, (model, peak)


@pytest.mark.parametrize("loss", [LogLoss(), Softmax()])
def test_the_hessian_of_sparse_rows(isa: str, dtype: Any, loss: Any) -> None:
    X, _, y = rows(dtype=dtype.name)
    k = 1 if loss.name == "log_loss" else 3
    w = np.random.default_rng(3).standard_normal((13, k)).astype(dtype)
    mine = cpu.hessian(Examples(as_table(X).X, y.astype(dtype), None, k), loss, w, True)
    true = reference.hessian(Examples(X.toarray().astype("f8"), y.astype("f8"), None, k), loss, w.astype("f8"), True)
    for got, expected in zip(mine, true, strict=True):
        np.testing.assert_allclose(
            got, expected, rtol=0, atol=np.abs(expected).max() * (1e-5 if dtype == np.float32 else 1e-13)
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("k", [2, 3, 4, 5, 8, 9, 16, 17, 40])
def test_many_outputs(isa: str, k: int, dtype: str) -> None:
    """Few columns are summed in the dtype of the data, many in double."""
    for n, d, density in ((700, 9, 0.5), (300, 3000, 0.01)):
        X = rows(n, d, density=density, dtype=dtype)[0]
        rng = np.random.default_rng(k)
        w = (rng.standard_normal((d + 1, k)) / 4).astype(dtype)
        y = rng.integers(0, k, n).astype(dtype)
        weight = rng.uniform(0.5, 2, n).astype(dtype)
        table = as_table(X)
        eps = float(np.finfo(dtype).eps)
        z = X.toarray().astype(np.float64) @ w[:-1].astype(np.float64) + w[-1]
        np.testing.assert_allclose(cpu.margins(table.X, w), z, rtol=0, atol=40 * eps * np.abs(z).max())
        value, g = cpu.gradient(Examples(table.X, y, weight, k), Softmax(), w, True, 2)
        dense = Examples(X.toarray().astype(np.float64), y.astype(np.float64), weight.astype(np.float64), k)
        expected, slope = reference.gradient(dense, Softmax(), w.astype(np.float64), True)
        np.testing.assert_allclose(value, expected, rtol=100 * eps)
        np.testing.assert_allclose(g, slope, rtol=0, atol=200 * eps * np.abs(slope).max())


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dense_rows_without_their_zeros(isa: str, dtype: str, threads: int) -> None:
    for n, d in ((1, 1), (5, 16), (300, 33), (1000, 200)):
        wide = rows(n, d + 3, density=0.2, dtype=dtype)[0].toarray()
        wide[n // 3, :d] = 0
        wide[0, 0] = np.nan  # left to the pass that finds it
        X = wide[:, :d]
        found = without_zeros(X, threads, most=1.0)
        expected = sparse.csr_array(X)
        assert found is not None
        for name in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert found.indices.dtype == found.indptr.dtype == np.int32
    assert without_zeros(np.ones((10, 3)), threads, most=0.9) is None
    assert without_zeros(np.asfortranarray(X), threads, most=1.0) is None


def test_softmax_on_dense_rows_of_zeros_is_solved_on_sparse_ones() -> None:
    X, z, _ = rows(900, 20)
    y = np.digitize(z, np.quantile(z, [0.2, 0.4, 0.6, 0.8]))
    a = ours.LogisticRegression(tol=1e-9, max_iter=1000).fit(X.toarray(), y)
    (copy,) = a.fit_report_["copies"]
    assert copy.startswith("X: its non-zeros as sparse rows")
    b = ours.LogisticRegression(tol=1e-9, max_iter=1000).fit(X, y)
    np.testing.assert_allclose(a.coef_, b.coef_, rtol=0, atol=1e-6 * np.abs(b.coef_).max())
    broken = X.toarray()
    broken[7, 3] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        ours.LogisticRegression().fit(broken, y)
