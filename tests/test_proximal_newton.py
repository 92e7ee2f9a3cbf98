"""Proximal Newton: the conditions of the optimum, in float64, on data of many kinds; the native parts against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from gdfast import _core, losses
from gdfast.layouts import CsrRows
from gdfast.penalties import ElasticNet
from gdfast.plan import Examples
from gdfast.solvers import proximal, proximal_newton
from gdfast.solvers.objective import Objective

Array = np.ndarray[Any, Any]
LOSSES = {name: kind(**{f.name: 0.7 * f.default for f in fields(kind)}) for name, kind in losses.ALL.items()}
TAKEN = [
    name for name, loss in LOSSES.items()
    if loss.target != "class" and (loss.twice_differentiable or loss.curvature_bound is not None)
]  # fmt: skip
N, D = 3000, 40


def plain(rng: np.random.Generator) -> Array:
    return rng.standard_normal((N, D)) * (rng.random((N, D)) < 0.5)


def scaled(rng: np.random.Generator) -> Array:
    return plain(rng) * np.exp(rng.standard_normal(D))


def shifted(rng: np.random.Generator) -> Array:
    return plain(rng) + 3


def collinear(rng: np.random.Generator) -> Array:
    """Two groups of one-hot columns, each of which sums to one, and one column twice."""
    X = plain(rng)
    X[:, :8], X[:, 8:20] = np.eye(8)[rng.integers(0, 8, N)], np.eye(12)[rng.integers(0, 12, N)]
    X[:, 21] = X[:, 20]
    return X


def sorted_rows(rng: np.random.Generator) -> Array:
    X = plain(rng)
    return X[np.argsort(X[:, 0])]


def wide(rng: np.random.Generator) -> Array:
    return rng.standard_normal((60, 200)) * (rng.random((60, 200)) < 0.5)


KINDS: dict[str, Callable[[np.random.Generator], Array]] = {
    f.__name__: f for f in (plain, scaled, shifted, collinear, sorted_rows, wide)
}


def targets(name: str, X: Array, rng: np.random.Generator) -> Array:
    z = X[:, ::5] @ np.linspace(-1, 1, X[:, ::5].shape[1]) / 2
    kinds = {"binary": rng.random(len(X)) < 1 / (1 + np.exp(-z)), "real": z + rng.standard_normal(len(X))}
    return np.asarray(kinds.get(LOSSES[name].target, rng.gamma(2.0, np.exp(np.clip(z, -2, 2)) / 2) + 0.01), dtype=float)


def solve(X: Any, y: Array, name: str, l1: float, l2: float, dtype: Any, **options: Any) -> tuple[Any, Objective]:
    penalty = ElasticNet(l1 + l2, l1 / (l1 + l2))
    weight = options.pop("weight", None)
    examples = Examples(X, y.astype(dtype), None if weight is None else weight.astype(dtype))
    objective = Objective(examples, LOSSES[name], penalty, **options)
    w = np.zeros(objective.shape)
    return proximal_newton.minimize(objective, w, tol=1e-9, max_iter=200), objective


def subgradient(X: Array, y: Array, name: str, l1: float, l2: float, w: Array, weight: Array | None = None) -> Array:
    """The smallest one of the objective at w, each column in units of its length; 0 at the optimum."""
    r = LOSSES[name].gradient(X @ w[:-1] + w[-1], y)
    weight = np.ones(len(y)) if weight is None else weight
    g = np.append(X.T @ (weight * r) / weight.sum() + l2 * w[:-1], (weight * r).sum() / weight.sum())
    v = w[:-1]
    g[:-1] = np.where(v != 0, g[:-1] + l1 * np.sign(v), np.sign(g[:-1]) * np.maximum(np.abs(g[:-1]) - l1, 0))
    size = np.sqrt((X**2).mean(axis=0))
    return g / np.append(np.where(size > 0, size, 1), 1)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("l1_ratio", [0.5, 1.0])
@pytest.mark.parametrize("alpha", [1e-3, 1e-1])
@pytest.mark.parametrize("kind", KINDS)
def test_the_conditions_of_the_optimum(
    kind: str, alpha: float, l1_ratio: float, sparse: bool, layouts: Any, dtype: Any
) -> None:
    rng = np.random.default_rng(0)
    X = KINDS[kind](rng).astype(dtype).astype(float)
    y, l1, l2 = targets("log_loss", X, rng), alpha * l1_ratio, alpha * (1 - l1_ratio)
    solution, objective = solve(layouts["csr" if sparse else "rows"](X.astype(dtype)), y, "log_loss", l1, l2, dtype)
    assert solution.converged
    left = np.abs(subgradient(X, y, "log_loss", l1, l2, solution.w[:, 0])).max()
    assert left < (2e-4 if dtype == np.float32 else 2e-5)
    assert objective.proven


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("name", TAKEN)
def test_every_loss_with_a_curvature(name: str, fit_intercept: bool, layouts: Any) -> None:
    rng = np.random.default_rng(1)
    X = plain(rng)
    y, weight = targets(name, X, rng), rng.uniform(0, 2, N)
    for kind in ("rows", "columns", "csr"):
        options: dict[str, Any] = {"weight": weight, "fit_intercept": fit_intercept}
        solution, objective = solve(layouts[kind](X), y, name, 0.02, 0.01, np.float64, **options)
        other = proximal.minimize(objective, np.zeros(objective.shape), tol=1e-9, max_iter=20_000)
        assert solution.objective <= other.objective + 1e-7 * abs(other.objective)
        assert fit_intercept or solution.w[-1, 0] == 0


def test_no_weight_is_worth_it(layouts: Any, dtype: Any) -> None:
    rng = np.random.default_rng(2)
    X = plain(rng).astype(dtype)
    y = (rng.random(N) < 0.3).astype(float)
    for kind in ("rows", "csr"):
        solution, _ = solve(layouts[kind](X), y, "log_loss", 10.0, 0.0, dtype)
        assert not solution.w[:-1].any()
        assert solution.w[-1, 0] == pytest.approx(np.log(y.mean() / (1 - y.mean())), abs=1e-4)


def test_classes_that_a_column_separates(layouts: Any, dtype: Any) -> None:
    rng = np.random.default_rng(3)
    X = rng.standard_normal((N, D))
    y = (X[:, 3] > 0).astype(float)
    X[:, 3] += np.sign(X[:, 3])
    X = X.astype(dtype)
    for kind in ("rows", "csr"):
        solution, _ = solve(layouts[kind](X), y, "log_loss", 1e-5, 0.0, dtype)
        assert np.isfinite(solution.w).all()
        if solution.converged:
            assert np.abs(subgradient(X.astype(float), y, "log_loss", 1e-5, 0.0, solution.w[:, 0])).max() < 1e-5


@pytest.mark.parametrize("sparse", [False, True])
def test_the_same_bits_for_any_number_of_threads(sparse: bool, layouts: Any, dtype: Any) -> None:
    rng = np.random.default_rng(4)
    X = (rng.standard_normal((60_000, 30)) * (rng.random((60_000, 30)) < 0.3)).astype(dtype)
    y = (rng.random(len(X)) < 1 / (1 + np.exp(-X.sum(axis=1)))).astype(float)
    X = layouts["csr" if sparse else "rows"](X)
    bits = {solve(X, y, "log_loss", 1e-3, 1e-3, dtype, threads=threads)[0].w.tobytes() for threads in (1, 2, 3, 4)}
    assert len(bits) == 1


def test_few_passes_over_one_hot_rows() -> None:
    rng = np.random.default_rng(5)
    levels = (12, 31, 24, 900)
    starts = np.cumsum([0, *levels[:-1]])
    share = [1 / np.arange(1, count + 1) for count in levels]
    codes = np.column_stack([
        rng.choice(count, 40_000, p=s / s.sum()) for count, s in zip(levels, share, strict=True)
    ])  # fmt: skip
    X = CsrRows(
        np.ones(codes.size, dtype=np.float32), (codes + starts).astype(np.int32).ravel(),
        np.arange(len(codes) + 1, dtype=np.int32) * codes.shape[1], sum(levels),
    )  # fmt: skip
    effect = 0.5 * rng.standard_normal(sum(levels))
    y = (rng.random(len(codes)) < 1 / (1 + np.exp(-effect[codes + starts].sum(axis=1)))).astype(float)
    solution, objective = solve(X, y, "log_loss", 1e-4, 1e-4, np.float32)
    assert solution.converged
    assert objective.passes <= 15
    assert 0 < np.count_nonzero(solution.w[:-1]) < sum(levels)


@pytest.mark.parametrize("sparse", [False, True])
def test_the_minimum_of_a_model(sparse: bool) -> None:
    """Against coordinate descent in NumPy, run to the end."""
    rng = np.random.default_rng(6)
    p, l1, c = 25, 0.3, 0.7
    A = rng.standard_normal((60, p)) * (rng.random((60, p)) < 0.4)
    h = 0.1 * rng.standard_normal(p)
    H, g, before = A.T @ A / 60 + 0.1 * np.eye(p) + np.outer(h, h) / c, rng.standard_normal(p), rng.standard_normal(p)
    before[::3] = 0
    model = H - np.outer(h, h) / c
    w = before.copy()
    for _ in range(2000):
        for j in range(p):
            slope = g[j] + model[j] @ (w - before) - model[j, j] * w[j]
            w[j] = -np.sign(slope) * max(abs(slope) - l1, 0) / model[j, j]

    def value(w: Array) -> float:
        return float(g @ (w - before) + 0.5 * (w - before) @ model @ (w - before) + l1 * np.abs(w).sum())

    rows, columns = np.nonzero(H)
    matrix: Any = (
        (np.append(0, np.cumsum(np.bincount(rows))), columns.astype(np.int32), H[rows, columns]) if sparse else H
    )
    ours = before.copy()
    fall, left, converged = _core.minimize_model(matrix, h, c, g, l1, ours, 1e-12, 1e-14, 500)
    assert converged
    assert left <= 1e-12
    assert value(ours) == pytest.approx(value(w), abs=1e-10)
    assert fall == pytest.approx(value(before) - value(w), abs=1e-9)
    np.testing.assert_array_equal(ours != 0, w != 0)
