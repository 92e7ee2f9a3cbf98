"""Columns as the losses see them: the kernels against a scaled copy, moments, and least squares far from 0."""

from __future__ import annotations

import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LinearRegression as PeerLinear
from sklearn.preprocessing import StandardScaler

import gdfast as ours
from gdfast import _core, losses, runtime
from gdfast.backends import cpu, reference
from gdfast.layouts import Scaled
from gdfast.optimizers import SGD, Adam
from gdfast.penalties import ElasticNet
from gdfast.plan import Examples, Plan, State
from gdfast.scaling import Scaling, column_moments, spread

Array = np.ndarray[Any, Any]
ALL = ("rows", "columns", "tuple", "strided", "reversed", "csr", "csr64")


def examples_of(
    layout: str, layouts: dict[str, Any], dtype: Any, k: int, n: int = 300, d: int = 37
) -> tuple[Examples, Examples]:
    """(in the layout, the same numbers in plain float64), scaled."""
    rng = np.random.default_rng([k, d])
    X = (rng.standard_normal((n, d)) + 0.5).astype(dtype)
    if layout.startswith("csr"):
        X *= rng.random(X.shape) < 0.3
    X *= np.logspace(-3, 3, d).astype(dtype)
    y, weight = rng.integers(0, max(2, k), n).astype(dtype), rng.uniform(0, 2, n).astype(dtype)
    scaling = Scaling.of(X, center=True, weight=weight)
    plain = Examples(scaling.apply(X.astype("f8")), y.astype("f8"), weight.astype("f8"), k)
    return Examples(scaling.apply(layouts[layout](X)), y, weight, k), plain


@pytest.mark.parametrize("k", [1, 3, 9])
@pytest.mark.parametrize("layout", ALL)
def test_passes_over_scaled_columns(
    isa: str, dtype: Any, layout: str, k: int, layouts: dict[str, Callable[[Array], Any]]
) -> None:
    examples, plain = examples_of(layout, layouts, dtype, k)
    loss = losses.named("log_loss" if k == 1 else "softmax")
    rng = np.random.default_rng(0)
    w, p = rng.standard_normal((2, examples.d + 1, k)).astype(dtype)
    tolerance = 2e-5 if dtype == np.float32 else 1e-12
    for intercept in (True, False):
        for got, true in (
            (cpu.gradient(examples, loss, w, intercept), reference.gradient(plain, loss, w.astype("f8"), intercept)),
            (cpu.hessian(examples, loss, w, intercept), reference.hessian(plain, loss, w.astype("f8"), intercept)),
            (
                (cpu.hessian_product(examples, loss, w, p, intercept),),
                (reference.hessian_product(plain, loss, w.astype("f8"), p.astype("f8"), intercept),),
            ),
        ):
            for a, b in zip(got, true, strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())
    # without the scaling it is another problem
    assert (
        abs(
            cpu.gradient(replace(examples, X=examples.X.X), loss, w, True)[0] / cpu.gradient(examples, loss, w, True)[0]
            - 1
        )
        > 0.1
    )


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("d", [5, 37, 9000])  # the last one: several blocks of parameters
@pytest.mark.parametrize("layout", ALL)
def test_epochs_over_scaled_columns(
    dtype: Any, layout: str, d: int, k: int, shuffle: bool, layouts: dict[str, Callable[[Array], Any]]
) -> None:
    examples, plain = examples_of(layout, layouts, dtype, k, 60 if d > 1000 else 300, d)
    for optimizer in (SGD(0.01 / d, momentum=0.5), Adam(0.001)):
        plan = Plan(
            loss=losses.named("log_loss" if k == 1 else "softmax"),
            optimizer=optimizer,
            penalty=ElasticNet(0.01, 0.5),
            batch_size=25,
            shuffle=shuffle,
            seed=1,
            average_from=3,
        )
        found = []
        for backend, rows in ((cpu, examples), (reference, plain)):
            state = State.start(plan, np.full((d + 1, k), 0.1 / d, rows.dtype))
            reports = [
                backend.epoch(rows, plan, state, plan.optimizer.rates(state.step, plan.steps(rows.n))) for _ in range(2)
            ]
            found.append((state, reports))
        (state, reports), (exact, expected) = found
        tolerance = 2e-4 if dtype == np.float32 else 1e-10
        np.testing.assert_allclose(state.w, exact.w, rtol=0, atol=tolerance * np.abs(exact.w).max())
        np.testing.assert_allclose(state.weights, exact.weights, rtol=0, atol=tolerance * np.abs(exact.w).max())
        for got, true in zip(reports, expected, strict=True):
            assert got.loss_sum == pytest.approx(true.loss_sum, rel=tolerance)
            np.testing.assert_allclose(got.norms, true.norms, rtol=10 * tolerance)


@pytest.mark.parametrize("layout", ["rows", "columns", "csr"])
def test_scaled_columns_have_the_same_bits_for_any_number_of_threads(
    dtype: Any, layout: str, layouts: dict[str, Callable[[Array], Any]]
) -> None:
    n, d = 12_000, 40
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d)).astype(dtype) + 1
    y = rng.integers(0, 2, n).astype(dtype)
    X = layouts[layout](X)
    loss, w = losses.named("log_loss"), rng.standard_normal((d + 1, 1)).astype(dtype)
    with runtime.worker():
        moments = column_moments(X, y)
        for threads in (2, 3, 7):
            for a, b in zip(moments, column_moments(X, y, threads), strict=True):
                assert np.array_equal(a, b)
        examples = Examples(Scaling.of(X, center=True).apply(X), y, None, 1)
        plan = Plan(loss=loss, optimizer=Adam(0.01), batch_size=3000, seed=1)
        once = cpu.gradient(examples, loss, w, True, 1), cpu.hessian(examples, loss, w, True, 1)
        state = State.start(plan, w.copy())
        cpu.epoch(examples, plan, state, plan.optimizer.rates(0, plan.steps(n)), 1)
        for threads in (2, 3, 7):
            again = cpu.gradient(examples, loss, w, True, threads), cpu.hessian(examples, loss, w, True, threads)
            for a, b in zip((*once[0], *once[1]), (*again[0], *again[1]), strict=True):
                assert np.array_equal(a, b)
            other = State.start(plan, w.copy())
            cpu.epoch(examples, plan, other, plan.optimizer.rates(0, plan.steps(n)), threads)
            assert np.array_equal(other.w, state.w)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("layout", ALL)
def test_moments_equal_those_of_scikit_learn(
    isa: str,
    dtype: Any,
    layout: str,
    weighted: bool,
    layouts: dict[str, Callable[[Array], Any]],
    rng: np.random.Generator,
) -> None:
    for n, d in ((1, 1), (3, 2), (2000, 5), (5000, 70)):
        X = rng.standard_normal((n, d)).astype(dtype) * (rng.random((n, d)) < 0.6)
        weight = (
            (rng.uniform(0, 2, n) * (rng.random(n) < 0.7) + (np.arange(n) == 0)).astype(dtype) if weighted else None
        )
        if weighted and n > 1000:
            weight[:700] = 0  # whole parts without weight
        mean, variance = column_moments(layouts[layout](X), weight)
        s = np.ones(n) if weight is None else weight.astype(np.longdouble)
        exact = X.astype(np.longdouble)
        true = (s[:, None] * exact).sum(axis=0) / s.sum()
        np.testing.assert_allclose(mean, true.astype("f8"), rtol=1e-12, atol=1e-14)
        true = (s[:, None] * (exact - true) ** 2).sum(axis=0) / s.sum()
        np.testing.assert_allclose(variance, true.astype("f8"), rtol=1e-11, atol=1e-20)


@pytest.mark.parametrize("layout", ["rows", "columns", "tuple", "csr"])
@pytest.mark.parametrize("offset", [1e8, -1e8, 1e12])
def test_an_offset_cancels_nothing(layout: str, offset: float, layouts: dict[str, Callable[[Array], Any]]) -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20_000, 3)) + offset
    X[:, 2] = offset  # constant
    X[0, 1] = 1  # far from all others
    mean, variance = column_moments(layouts[layout](X))
    exact = X.astype(np.longdouble)
    np.testing.assert_allclose(mean, exact.mean(axis=0).astype("f8"), rtol=1e-14)
    np.testing.assert_allclose(
        variance[:2], exact.var(axis=0).astype("f8")[:2], rtol=1e-6 if abs(offset) < 1e10 else 1e-2
    )
    scale = Scaling.of(layouts[layout](X), center=True).scale
    assert scale[2] == 1
    assert scale[0] == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("layout", ["rows", "columns", "csr"])
def test_what_is_not_finite_shows_in_the_moments(layout: str, layouts: dict[str, Callable[[Array], Any]]) -> None:
    X = np.random.default_rng(0).standard_normal((500, 3)) * 1e200
    mean, variance = column_moments(layouts[layout](X))
    assert np.isfinite(mean).all()
    assert np.isinf(variance).all()
    assert (Scaling.of(layouts[layout](X), center=True).scale == 1).all()
    assert spread(layouts[layout](X), True) == 1
    assert Scaling.of_far_columns(layouts[layout](X)) is None
    X[7, 1] = np.nan
    assert np.isnan(column_moments(layouts[layout](X))[0]).tolist() == [False, True, False]
    assert Scaling.of_far_columns(layouts[layout](X)) is None


@pytest.mark.parametrize("layout", ["rows", "columns", "tuple", "strided"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("model", [ours.LinearRegression(), ours.Ridge(1e-3)])
def test_least_squares_far_from_zero(
    model: Any, layout: str, weighted: bool, layouts: dict[str, Callable[[Array], Any]]
) -> None:
    rng = np.random.default_rng(0)
    Z = rng.standard_normal((500, 4))
    shift = np.array([1e8, -1e8, 0, 3])
    X = Z + shift
    y = Z @ [1.0, -2.0, 0.5, 3.0] + 7 + 0.01 * rng.standard_normal(500)
    weight = rng.uniform(0.5, 2, 500) if weighted else None
    laid = layouts[layout](X)
    laid = np.column_stack(laid) if isinstance(laid, tuple) else laid
    model.fit(laid, y, sample_weight=weight)
    # the numbers that X holds, exactly centred
    peer = PeerLinear().fit(X - shift, y, sample_weight=weight)
    np.testing.assert_allclose(model.coef_, peer.coef_, rtol=1e-4)
    np.testing.assert_allclose(model.predict(X), peer.predict(X - shift), atol=1e-4)
    assert model.fit_report_["converged"]


def test_logistic_regression_far_from_zero() -> None:
    rng = np.random.default_rng(0)
    Z = rng.standard_normal((500, 3))
    y = (Z @ [1.0, -2.0, 0.5] + rng.standard_normal(500) > 0).astype(int)
    near, far = ours.LogisticRegression().fit(Z, y), ours.LogisticRegression().fit(Z + np.array([1e6, -1e7, 0]), y)
    np.testing.assert_allclose(far.coef_, near.coef_, rtol=1e-3)


@pytest.mark.parametrize("name", ["SGDClassifier", "SGDRegressor"])
def test_sparse_rows_are_standardised_and_stay_sparse(name: str, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    X = (rng.standard_normal((400, 12)) + 1) * (rng.random((400, 12)) < 0.3) * np.logspace(-6, 6, 12)
    X = X.astype(dtype)
    y = (X[:, 5] / X[:, 5].std() - X[:, 11] / X[:, 11].std() > 0).astype(dtype)
    settings = {"random_state": 0, "max_iter": 5, "tol": None, "optimizer": Adam(0.01)}
    found = getattr(ours, name)(standardize=True, **settings).fit(sparse.csr_array(X), y)
    scaler = StandardScaler().fit(X.astype("f8"))
    peer = getattr(ours, name)(standardize=False, **settings).fit(scaler.transform(X.astype("f8")), y.astype("f8"))
    rtol = 2e-2 if dtype == np.float32 else 1e-8
    np.testing.assert_allclose(found.coef_ * scaler.scale_, peer.coef_, rtol=rtol, atol=rtol * 0.01)


def test_wide_sparse_rows_are_never_made_dense() -> None:
    X = sparse.random_array((3000, 40_000), density=1e-3, format="csr", rng=0)
    y = (np.asarray(X[:, :20_000].sum(axis=1)) > np.asarray(X[:, 20_000:].sum(axis=1))).astype(int)
    model = ours.SGDClassifier(
        "log_loss", optimizer=SGD("auto"), max_iter=2, tol=None, standardize=True, early_stopping=True
    )
    tracemalloc.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6
    assert model.fit_report_["standardized"] == "standardize=True"


def test_columns_that_are_near_zero_are_not_packed(rng: np.random.Generator) -> None:
    X = rng.standard_normal((500, 4)) + 3
    assert Scaling.of_far_columns(X) is None
    X[:, 1] = 1  # a column of ones
    assert Scaling.of_far_columns(X) is None
    X[:, 1] = 2020 + rng.integers(0, 5, 500)
    found = Scaling.of_far_columns(X)
    assert found is not None
    assert found.offset.tolist()[::2] == [0, 0]
    assert (found.scale == 1).all()


def test_bad_scaling_is_refused_by_the_core() -> None:
    X, y, w, g = np.ones((4, 3)), np.ones(4), np.ones((4, 1)), np.ones((4, 1))
    for scaled in (Scaled(X, np.ones(2), np.ones(3)), Scaled(X, np.ones(3), np.ones(3, "f4"))):
        with pytest.raises(ValueError, match=r"^X\.(offset|factor): "):
            _core.gradient(scaled, y, None, w, g, None, "squared_error", (), True, 1)
