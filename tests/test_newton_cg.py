"""Newton's method by conjugate gradients: its passes against the specification, its optimum against independent solvers."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

import gdfast
from gdfast import losses
from gdfast.backends import cpu, reference
from gdfast.layouts import Scaled
from gdfast.plan import Examples, NewtonSystem
from gdfast.scaling import mean_squares

Array = np.ndarray[Any, Any]
LOSSES = {name: kind(**{f.name: 0.7 * f.default for f in fields(kind)}) for name, kind in losses.ALL.items()}
SMOOTH = [name for name, loss in LOSSES.items() if loss.twice_differentiable and loss.target != "class"]
N, D = 333, 19


def examples_of(name: str, layout: Any, dtype: Any, rng: np.random.Generator) -> tuple[Examples, Examples]:
    """(as the kernels see them, the same in float64)"""
    X = rng.standard_normal((N, D)) * (rng.random((N, D)) < 0.5)
    X = X.astype(dtype)
    target = {"binary": rng.uniform(size=N), "real": rng.standard_normal(N)}
    y = target.get(LOSSES[name].target, rng.gamma(2.0, 0.5, N) + 0.01).astype(dtype)
    weight = rng.uniform(0, 2, N).astype(dtype)
    return Examples(layout(X), y, weight), Examples(X.astype(float), y.astype(float), weight.astype(float))


@pytest.mark.parametrize("kind", ["rows", "columns", "csr", "csr64"])
@pytest.mark.parametrize("name", SMOOTH)
def test_a_gradient_at_kept_margins_equals_the_specification(
    isa: str, name: str, kind: str, layouts: Any, dtype: Any, rng: np.random.Generator
) -> None:
    examples, wide = examples_of(name, layouts[kind], dtype, rng)
    z = rng.standard_normal(N).astype(dtype)
    accuracy = 2e-5 if dtype == np.float32 else 1e-12
    for intercept in (True, False):
        f, g, h = cpu.gradient_at(examples, LOSSES[name], z, intercept)
        true_f, true_g, true_h = reference.gradient_at(wide, LOSSES[name], z.astype(float), intercept)
        assert f == pytest.approx(true_f, rel=accuracy)
        np.testing.assert_allclose(g, true_g, rtol=0, atol=accuracy * np.abs(true_g).max())
        np.testing.assert_allclose(h, true_h, rtol=10 * accuracy, atol=accuracy * np.abs(true_h).max())


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("kind", ["rows", "columns", "csr", "csr64"])
def test_conjugate_gradients_solve_newtons_system(
    isa: str, kind: str, scaled: bool, layouts: Any, dtype: Any, rng: np.random.Generator
) -> None:
    examples, wide = examples_of("log_loss", layouts[kind], dtype, rng)
    offset, factor = rng.standard_normal(D).astype(dtype), rng.uniform(0.5, 2, D).astype(dtype)
    if scaled:
        examples = Examples(Scaled(examples.X, offset, factor), examples.y, examples.weight)
        wide = Examples(Scaled(wide.X, offset, factor), wide.y, wide.weight)
    h, g = rng.uniform(0.1, 0.3, N).astype(dtype), rng.standard_normal(D + 1)
    diagonal = rng.uniform(0.5, 2, D + 1)
    accuracy = 3e-5 if dtype == np.float32 else 1e-10
    for intercept, share, most in ((True, 0.0, 80), (False, 0.0, 80), (True, 0.3, 80), (True, 0.0, 3)):
        if not intercept:
            g[-1] = 0
        system = NewtonSystem(g, diagonal, 0.1, share, most)
        s, margins, fall, products = cpu.conjugate_gradients(examples, h, system, intercept)
        true_s, true_margins, true_fall, true_products = reference.conjugate_gradients(
            wide, h.astype(float), system, intercept
        )
        if most == 3 or share:
            assert products == true_products <= most
        size = np.abs(true_s).max()
        np.testing.assert_allclose(s, true_s, rtol=0, atol=accuracy * size)
        np.testing.assert_allclose(margins, true_margins, rtol=0, atol=10 * accuracy * np.abs(true_margins).max())
        assert fall == pytest.approx(true_fall, rel=10 * accuracy)
    A = np.column_stack([np.asarray(reference.to_dense(wide.X), dtype=float), np.ones(N)])
    H = (A.T * h.astype(float)) @ A / wide.total_weight + np.diag(np.append(np.full(D, 0.1), 0))
    s = cpu.conjugate_gradients(examples, h, NewtonSystem(g, diagonal, 0.1, 0.0, 80), True)[0]
    np.testing.assert_allclose(H @ s, -g, rtol=0, atol=100 * accuracy)


def test_the_mean_squares_of_sparse_columns(isa: str, layouts: Any, dtype: Any, rng: np.random.Generator) -> None:
    X = (rng.standard_normal((5000, 30)) * (rng.random((5000, 30)) < 0.1)).astype(dtype)
    weight = rng.uniform(0, 2, 5000).astype(dtype)
    for kind in ("csr", "csr64"):
        one = mean_squares(layouts[kind](X), weight)
        np.testing.assert_allclose(one, np.average(np.square(X, dtype=float), weights=weight, axis=0), rtol=1e-6)
        np.testing.assert_array_equal(one, mean_squares(layouts[kind](X), weight, 3))


@pytest.mark.parametrize("C", [1e-2, 1.0, 1e2])
def test_many_sparse_columns(C: float, dtype: Any) -> None:
    """Text-like: 1,200 columns of very unlike frequency, more of them than most rows say anything about."""
    rng = np.random.default_rng(0)
    n, d, draws = 1500, 1200, 20
    columns = (10 * ((d + 10) / 10) ** rng.random((n, draws)) - 10).astype(int).clip(0, d - 1)
    X = csr_array((rng.random(n * draws), columns.ravel(), np.arange(n + 1) * draws), shape=(n, d)).astype(dtype)
    X.sum_duplicates()
    y = (rng.random(n) < 1 / (1 + np.exp(-(X @ rng.standard_normal(d))))).astype(int)
    model = gdfast.LogisticRegression(C=C, tol=1e-6).fit(X, y)
    assert model.fit_report_["solver"] == "newton_cg"
    assert model.fit_report_["converged"]
    A, w, ridge = np.column_stack([X.toarray(), np.ones(n)]).astype(float), np.zeros(d + 1), 1 / (C * n)
    penalty = np.append(np.full(d, ridge), 0)

    def value(w: Array) -> float:
        return float(np.logaddexp(0, A @ w).mean() - (y * (A @ w)).mean() + 0.5 * penalty @ (w * w))

    for _ in range(15):
        p = 1 / (1 + np.exp(-(A @ w)))
        H = (A.T * (p * (1 - p))) @ A / n + np.diag(penalty)
        w = w - np.linalg.solve(H, A.T @ (p - y) / n + penalty * w)
    assert value(np.append(model.coef_[0], model.intercept_)) <= value(w) * (1 + 1e-6)


def test_no_column_holds_anything(dtype: Any) -> None:
    X = csr_array((300, 2000), dtype=dtype)
    model = gdfast.LogisticRegression().fit(X, np.arange(300) % 3 == 0)
    assert not model.coef_.any()
    assert model.intercept_[0] == pytest.approx(np.log(1 / 2), abs=1e-4)


def test_squared_error_of_many_columns() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((500, 2500)), rng.standard_normal(500)
    from sklearn.linear_model import Ridge

    ours, theirs = gdfast.Ridge(alpha=10.0, tol=1e-8).fit(X, y), Ridge(alpha=10.0).fit(X, y)
    assert ours.fit_report_["solver"] == "newton_cg"
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)
