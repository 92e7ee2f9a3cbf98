"""Objective: finite differences, SciPy's minimizers to the optimum of independent solvers, one reading of X an evaluation."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from scipy.optimize import approx_fprime, minimize
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

import gdfast
from gdfast import losses, ops, runtime
from gdfast.backends import cpu, reference
from gdfast.penalties import ElasticNet
from gdfast.plan import Examples

Array = np.ndarray[Any, Any]
LOSSES = {name: kind(**{f.name: 0.7 * f.default for f in fields(kind)}) for name, kind in losses.ALL.items()}
SMOOTH = [name for name, loss in LOSSES.items() if loss.twice_differentiable]


def targets_of(loss: Any, n: int, k: int, rng: np.random.Generator) -> Array:
    if loss.target == "class":
        return np.append(rng.integers(0, k, n - 1), k - 1)
    shape = (n,) if k == 1 else (n, k)
    drawn = {"binary": rng.uniform(size=shape), "real": rng.standard_normal(shape)}
    return drawn.get(loss.target, rng.gamma(2.0, 0.5, shape) + 0.01)


def problem(name: str, k: int, rng: np.random.Generator, **options: Any) -> tuple[gdfast.Objective, Array]:
    X, y = rng.standard_normal((60, 4)), targets_of(LOSSES[name], 60, k, rng)
    penalty = ElasticNet(0.1, factors=[1.0, 0.0, 2.0, 1.0])
    objective = gdfast.Objective(X, y, LOSSES[name], penalty, sample_weight=rng.uniform(0, 2, 60), **options)
    return objective, 0.3 * rng.standard_normal(objective.shape)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("name", SMOOTH)
def test_gradient_and_hessp_are_the_finite_differences(
    name: str, k: int, fit_intercept: bool, rng: np.random.Generator
) -> None:
    if LOSSES[name].target == "class" and k == 1:
        k = 2
    objective, w = problem(name, k, rng, fit_intercept=fit_intercept)
    assert objective.shape == (4 + fit_intercept, k)
    w = w.reshape(-1)
    f, g = objective(w)
    assert f == objective.value(w)
    np.testing.assert_array_equal(g, objective.gradient(w))
    np.testing.assert_allclose(g, approx_fprime(w, objective.value, 1e-7), atol=3e-6)
    for p in (np.eye(len(w))[0], np.eye(len(w))[-1], rng.standard_normal(len(w)), 1e-30 * rng.standard_normal(len(w))):
        h = 1e-5 / np.abs(p).max()
        slope = (objective.gradient(w + h * p) - objective.gradient(w - h * p)) / (2 * h)
        np.testing.assert_allclose(objective.hessp(w, p), slope, rtol=1e-5, atol=1e-7 * np.abs(p).max())


@pytest.mark.parametrize("k", [1, 3, 17])
@pytest.mark.parametrize("name", ["log_loss", "softmax", "tweedie"])
def test_products_equal_the_specification(
    isa: str, name: str, k: int, dtype: Any, layout: Any, rng: np.random.Generator
) -> None:
    if LOSSES[name].target == "class" and k == 1:
        k = 2
    X = rng.standard_normal((333, 19))
    y, weight = targets_of(LOSSES[name], 333, k, rng), rng.uniform(0, 2, 333)
    w, p = (rng.standard_normal((20, k)) / 5).astype(dtype), rng.standard_normal((20, k)).astype(dtype)
    for intercept in (True, False):
        examples = Examples(layout(X.astype(dtype)), y.astype(dtype), weight.astype(dtype), k)
        wide = Examples(X.astype(dtype).astype(np.float64), examples.y.astype(float), examples.weight.astype(float), k)
        true = reference.hessian_product(wide, LOSSES[name], w.astype(float), p.astype(float), intercept)
        got = cpu.hessian_product(examples, LOSSES[name], w, p, intercept)
        terms = np.abs(true).max()
        np.testing.assert_allclose(got, true, rtol=0, atol=(2e-5 if dtype == np.float32 else 1e-13) * terms)


@pytest.mark.parametrize("k", [1, 4])
def test_products_have_the_same_bits_for_any_threads(k: int, rng: np.random.Generator) -> None:
    X = rng.standard_normal((40_000, 30), dtype=np.float32)
    y = rng.integers(0, max(k, 2), 40_000).astype(np.float32)
    loss = LOSSES["softmax" if k > 1 else "log_loss"]
    w, p = rng.standard_normal((2, 31, k), dtype=np.float32)
    one, *others = (cpu.hessian_product(Examples(X, y, None, k), loss, w, p, True, threads) for threads in (1, 2, 3, 8))
    for other in others:
        np.testing.assert_array_equal(one, other)


def test_a_product_with_the_columns_of_1_is_the_hessian(rng: np.random.Generator) -> None:
    X, y = rng.standard_normal((500, 6)), rng.integers(0, 2, 500)
    w = rng.standard_normal((7, 1))
    H = cpu.hessian(Examples(X, y.astype(float), None), LOSSES["log_loss"], w, True)[2] / 500
    columns = [ops.hessian_product(X, y, w[:, 0], p, loss="log_loss") for p in np.eye(7)]
    np.testing.assert_allclose(np.array(columns), H, atol=1e-15)


# ------------------------------------------------------------------------------------------------------------- SciPy

FIRST_ORDER = ("TNC", "L-BFGS-B", "BFGS", "CG")
SECOND_ORDER = ("Newton-CG", "trust-ncg", "trust-krylov", "trust-constr")
MORE = {"TNC": {"maxfun": 2000}, "trust-constr": {"maxiter": 2000}, "CG": {"maxiter": 2000}}


def solve(objective: gdfast.Objective, method: str) -> Any:
    hessp = objective.hessp if method in SECOND_ORDER else None
    # trust-krylov multiplies memory that it has not written yet (SciPy 1.17, with a plain NumPy function too)
    with np.errstate(all="ignore" if method == "trust-krylov" else "warn"):
        return minimize(
            objective, objective.zeros(), jac=True, hessp=hessp, method=method, tol=1e-9, options=MORE.get(method, {})
        )


@pytest.mark.parametrize("method", FIRST_ORDER + SECOND_ORDER)
def test_every_method_finds_the_logistic_optimum(method: str) -> None:
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    objective = gdfast.Objective(X, y, "log_loss", ElasticNet(1 / len(y)))
    found = solve(objective, method)
    peer = LogisticRegression(solver="newton-cholesky", tol=1e-10).fit(X, y)
    best = objective.value(np.append(peer.coef_, peer.intercept_))
    assert best * (1 - 1e-9) <= found.fun <= best * (1 + 1e-6)
    np.testing.assert_allclose(found.x[:-1], peer.coef_[0], atol=0.02)


@pytest.mark.parametrize("method", ["L-BFGS-B", "Newton-CG", "trust-krylov"])
def test_softmax_optimum(method: str) -> None:
    X, y = load_digits(return_X_y=True)
    X = X / 16
    objective = gdfast.Objective(X, y, "softmax", ElasticNet(1 / len(y)))
    found = solve(objective, method)
    peer = LogisticRegression(solver="newton-cg", tol=1e-8).fit(X, y)
    best = objective.value(np.vstack([peer.coef_.T, peer.intercept_]))
    assert best * (1 - 1e-9) <= found.fun <= best * (1 + 1e-5)


@pytest.mark.parametrize("method", ["TNC", "L-BFGS-B", "Newton-CG"])
def test_ridge_optimum_with_two_targets_and_no_intercept(method: str, rng: np.random.Generator) -> None:
    X = rng.standard_normal((200, 5))
    y = X @ rng.standard_normal((5, 2)) + rng.standard_normal((200, 2))
    objective = gdfast.Objective(X, y, penalty=ElasticNet(3 / 200), fit_intercept=False)
    peer = Ridge(3.0, fit_intercept=False).fit(X, y)
    np.testing.assert_allclose(solve(objective, method).x.reshape(5, 2), peer.coef_.T, atol=1e-4)


def test_x_is_read_once_an_evaluation(rng: np.random.Generator) -> None:
    objective, w = problem("log_loss", 1, rng)
    objective(w)
    objective.value(w)
    objective.gradient(w)
    assert objective.passes == 1
    objective.hessp(w, w)
    assert objective.passes == 2
    np.testing.assert_array_equal(objective.hessp(w, np.zeros_like(w)), np.zeros_like(w))
    assert objective.passes == 2
    found = solve(objective, "Newton-CG")
    assert objective.passes <= 2 + found.nfev + found.nhev


def test_results_are_the_callers_own(rng: np.random.Generator) -> None:
    objective, w = problem("squared_error", 1, rng)
    first = objective.gradient(w)
    first[:] = np.nan
    assert np.isfinite(objective.gradient(w)).all()
    moved = w.copy()
    before = objective.value(moved)
    moved += 1  # in place, as SciPy's own vectors are
    assert objective.value(moved) != before


def test_float32_frames_and_threads(rng: np.random.Generator) -> None:
    pd = pytest.importorskip("pandas")
    X = rng.standard_normal((300, 3), dtype=np.float32)
    y = X @ np.array([1.0, -2.0, 0.5]) + 3
    objective = gdfast.Objective(pd.DataFrame(X), y, n_jobs=runtime.cores())
    np.testing.assert_allclose(solve(objective, "L-BFGS-B").x, [1, -2, 0.5, 3], atol=1e-3)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"penalty": ElasticNet(1.0, 0.5)}, ValueError, "l1_ratio=0.5 has an L1 part"),
        ({"penalty": 0.1}, TypeError, "penalty must be an ElasticNet or None, got 0.1"),
        (
            {"penalty": ElasticNet(1.0, factors=[1.0])},
            ValueError,
            "factors holds 1 numbers, expected one for each of 2",
        ),
        ({"fit_intercept": "no"}, ValueError, "fit_intercept must be True or False, got 'no'"),
        ({"sample_weight": np.zeros(3)}, ValueError, "sample_weight is zero for every row"),
        ({"loss": "log_loss"}, ValueError, r"log_loss expects targets in \[0, 1\], got 0 to 2"),
        ({"loss": "nothing"}, ValueError, "loss='nothing' is unknown"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        gdfast.Objective(np.eye(3)[:, :2], np.arange(3.0), **options)


@pytest.mark.parametrize("w", [np.zeros(2), np.zeros((3, 2)), np.zeros((1, 3)), 0.0])
def test_a_vector_of_another_size_is_refused(w: Any) -> None:
    objective = gdfast.Objective(np.eye(3)[:, :2], np.arange(3.0))
    with pytest.raises(ValueError, match=r"w: expected 3 numbers, or \(3, 1\)"):
        objective(w)
    with pytest.raises(ValueError, match=r"p: expected 3 numbers, or \(3, 1\)"):
        objective.hessp(np.zeros(3), w)
    with pytest.raises(ValueError, match="p: expected the shape of w"):
        ops.hessian_product(np.eye(3)[:, :2], np.arange(3.0), np.zeros(3), np.zeros((3, 1)))
