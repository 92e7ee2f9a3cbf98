"""Every full-data solver ends at the optimum, or says that it did not, on data that are not kind to it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import gdfast
from gdfast.losses import LogLoss, Loss, Poisson
from gdfast.penalties import ElasticNet
from gdfast.plan import Examples
from gdfast.solvers import choose, lbfgs, newton, newton_cg, subsampled_newton
from gdfast.solvers.objective import Objective

Array = np.ndarray[Any, Any]
Data = tuple[Array, Array, "Array | None"]

N, D = 6000, 5  # of which the first Hessian is taken from 840 rows
TOL = 1e-8


def plain(rng: np.random.Generator) -> Data:
    X = rng.standard_normal((N, D))
    z = X @ np.linspace(-1, 1, D) + 0.3
    return X, (rng.random(N) < 1 / (1 + np.exp(-z))).astype(float), None


def sorted_by_label(rng: np.random.Generator) -> Data:
    X, y, _ = plain(rng)
    order = np.argsort(y, kind="stable")
    return X[order], y[order], None


def sorted_by_a_column(rng: np.random.Generator) -> Data:
    X, y, _ = plain(rng)
    order = np.argsort(X[:, 0])
    return X[order], y[order], None


def periodic(rng: np.random.Generator) -> Data:
    """What one row in seven looks like says nothing about the others."""
    X, y, _ = plain(rng)
    X[::7] *= 20
    return X, y, None


def scaled(rng: np.random.Generator) -> Data:
    X, y, _ = plain(rng)
    return X * np.exp(2 * rng.standard_normal(D)), y, None


def shifted(rng: np.random.Generator) -> Data:
    X, y, _ = plain(rng)
    return X + 30, y, None


def weighted(rng: np.random.Generator) -> Data:
    """A third of the rows bears no weight; a first tenth bears most of it."""
    X, y, _ = plain(rng)
    weight = rng.uniform(0, 2, N) * (rng.random(N) > 1 / 3)
    weight[: N // 10] *= 50
    return X, y, weight


def few_rows_bear_weight(rng: np.random.Generator) -> Data:
    X, y, _ = plain(rng)
    weight = np.zeros(N)
    weight[2000:2040] = 1
    return X, y, weight


def duplicated_columns(rng: np.random.Generator) -> Data:
    X, y, _ = plain(rng)
    X[:, 1] = X[:, 0]
    return X, y, None


def rare_column(rng: np.random.Generator) -> Data:
    """One column is 0 in all but 12 rows, most of them of one class."""
    X, y, _ = plain(rng)
    rare = rng.choice(N, 12, replace=False)
    X[:, 2] = 0
    X[rare, 2] = 1
    y[rare[:11]] = 1
    y[rare[11:]] = 0
    return X, y, None


def empty_column(rng: np.random.Generator) -> Data:
    X, y, _ = plain(rng)
    X[:, 2] = 0
    return X, y, None


def heavy_tails(rng: np.random.Generator) -> Data:
    X, y, _ = plain(rng)
    return np.sign(X) * np.exp(3 * np.abs(X)), y, None


def separable(rng: np.random.Generator) -> Data:
    X = rng.standard_normal((N, D))
    X[:, 0] += np.sign(X[:, 0])
    return X, (X[:, 0] > 0).astype(float), None


def one_label_but_for_three_rows(rng: np.random.Generator) -> Data:
    X = rng.standard_normal((N, D))
    y = np.zeros(N)
    y[[10, 3000, 5990]] = 1
    return X, y, None


KINDS: dict[str, Callable[[np.random.Generator], Data]] = {
    f.__name__: f
    for f in (
        plain, sorted_by_label, sorted_by_a_column, periodic, scaled, shifted, weighted, few_rows_bear_weight,
        duplicated_columns, rare_column, empty_column, heavy_tails, separable, one_label_but_for_three_rows,
    )
}  # fmt: skip


def value(loss: Loss, data: Data, w: Array, l2: float) -> float:
    X, y, weight = data
    losses = loss.value(X @ w[:-1] + w[-1], y)
    return float(np.average(losses, weights=weight) + l2 / 2 * (w[:-1] @ w[:-1]))


def optimum(loss: Loss, data: Data, l2: float) -> float:
    """The smallest value, by damped Newton steps in float64 on columns of unit scale."""
    X, y, weight = data
    weight = np.ones(len(y)) if weight is None else weight
    scale = np.append(np.where((s := np.sqrt((X**2).mean(0))) > 0, s, 1), 1)
    A = np.column_stack([X, np.ones(len(y))]) / scale
    ridge = np.append(np.full(X.shape[1], l2), 0) / scale**2
    w, f = np.zeros(A.shape[1]), np.inf
    for _ in range(300):
        z = A @ w
        g = A.T @ (weight * loss.gradient(z, y)) / weight.sum() + ridge * w
        H = (A.T * (weight * loss.curvature(z, y))) @ A / weight.sum() + np.diag(ridge)
        step, t = np.linalg.lstsq(H + 1e-14 * np.trace(H) * np.eye(len(w)), g, rcond=None)[0], 1.0
        f = value(loss, data, w / scale, l2)
        with np.errstate(over="ignore"):
            while t > 1e-12 and not value(loss, data, (w - t * step) / scale, l2) <= f - 1e-4 * t * (g @ step):
                t /= 2
        if t <= 1e-12 or g @ step < 1e-15 * f:
            break
        w = w - t * step
    return f


def solved(
    solver: ModuleType, loss: Loss, data: Data, l2: float, dtype: Any, threads: int = 1
) -> tuple[Any, Objective]:
    X, y, weight = (None if a is None else np.ascontiguousarray(a, dtype=dtype) for a in data)
    assert X is not None
    assert y is not None
    objective = Objective(Examples(X, y, weight), loss, ElasticNet(l2), threads=threads)
    return solver.minimize(objective, np.zeros((X.shape[1] + 1, 1)), tol=TOL, max_iter=200), objective


@pytest.mark.parametrize(
    "solver", [subsampled_newton, newton, newton_cg, lbfgs], ids=lambda s: s.__name__.rpartition(".")[2]
)
@pytest.mark.parametrize("C", [1e-2, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("kind", KINDS)
def test_the_optimum_is_reached_or_the_failure_is_told(kind: str, C: float, solver: ModuleType, dtype: Any) -> None:
    data = KINDS[kind](np.random.default_rng(0))
    data = data[0].astype(dtype).astype(float), data[1], data[2]  # what the kernels see
    total = N if data[2] is None else data[2].sum()
    l2, loss = 1 / (C * total), LogLoss()
    best, start = optimum(loss, data, l2), value(loss, data, np.zeros(D + 1), l2)
    solution, objective = solved(solver, loss, data, l2, dtype)
    reached = value(loss, data, solution.w[:, 0], l2)
    excess = (reached - best) / max(best, 1e-6 * start)
    assert excess > -1e-9, "the reference is not the optimum"
    rounding = 1e-6 if dtype == np.float32 else 1e-10
    if solver not in (lbfgs, newton_cg) and dtype == np.float64:
        assert solution.converged
    if solution.converged:
        assert excess <= 100 * TOL + rounding
    assert objective.proven


@pytest.mark.parametrize("kind", ["plain", "separable"])
def test_without_a_penalty(kind: str, dtype: Any) -> None:
    data = KINDS[kind](np.random.default_rng(0))
    solution, _ = solved(subsampled_newton, LogLoss(), data, 0.0, dtype)
    reached = value(LogLoss(), data, solution.w[:, 0], 0.0)
    assert np.isfinite(solution.w).all()
    if kind == "plain":
        assert reached <= optimum(LogLoss(), data, 0.0) * (1 + 1e-6)
    else:
        assert reached < 1e-6 * np.log(2) or not solution.converged


def test_a_loss_of_unbounded_curvature(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, D))
    data = X, rng.poisson(np.exp(X @ np.linspace(-1, 1, D) + 0.3)).astype(float), None
    solution, _ = solved(subsampled_newton, Poisson(), data, 1e-4, dtype)
    best = optimum(Poisson(), data, 1e-4)
    assert solution.converged
    assert value(Poisson(), data, solution.w[:, 0], 1e-4) <= best + 1e-6 * abs(best)


def test_levels_that_a_subsample_hardly_sees_cost_no_detour() -> None:
    """Dummies of rare levels, standardised, as those of the flights: 33 passes before, where Newton's method needs 4."""
    rng = np.random.default_rng(0)
    dummies = []
    for levels in (16, 12, 100):
        share = 1 / np.arange(1, levels + 1) ** 2
        dummies.append(np.eye(levels, dtype=np.float32)[rng.choice(levels, 60_000, p=share / share.sum())])
    X = np.hstack(dummies)
    X = X[:, X.any(axis=0)]
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    z = X[:, :40] @ rng.standard_normal(40) * 0.2 - 1
    model = gdfast.LogisticRegression().fit(X, rng.random(60_000) < 1 / (1 + np.exp(-z)))
    assert model.fit_report_["converged"]
    assert model.fit_report_["passes"] <= 15


def test_few_passes_do_where_a_subsample_shows_what_all_rows_do() -> None:
    data = plain(np.random.default_rng(0))
    solution, objective = solved(subsampled_newton, LogLoss(), data, 1e-9, np.float64)
    assert solution.converged
    assert solution.n_iter == objective.passes <= 5


def test_the_same_bits_for_any_number_of_threads(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60_000, 10))
    data = X, (rng.random(len(X)) < 1 / (1 + np.exp(-X.sum(1)))).astype(float), None
    for solver in (subsampled_newton, newton_cg):
        bits = {solved(solver, LogLoss(), data, 1e-6, dtype, threads)[0].w.tobytes() for threads in (1, 2, 3, 7)}
        assert len(bits) == 1


def test_it_starts_warm() -> None:
    data = plain(np.random.default_rng(0))
    solution, objective = solved(subsampled_newton, LogLoss(), data, 1e-6, np.float64)
    again = subsampled_newton.minimize(objective, solution.w, tol=TOL, max_iter=50)
    assert again.converged
    assert again.objective <= solution.objective * (1 + 1e-12)


@pytest.mark.parametrize(
    ("n", "d", "chosen"), [(200_000, 30, subsampled_newton), (2000, 30, newton), (30, 1500, newton_cg)]
)
def test_what_is_chosen(n: int, d: int, chosen: ModuleType) -> None:
    X = np.broadcast_to(np.float32(1), (n, d))
    assert choose(Objective(Examples(X, np.zeros(n, np.float32), None), LogLoss(), ElasticNet(1e-3)))[0] is chosen


# --- through the estimator


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["LogisticRegression", "Ridge", "LinearRegression"])
@pytest.mark.parametrize("where", [0, 123_456, 199_999])
@pytest.mark.parametrize("rows_of_no_weight", [False, True])
def test_a_value_that_is_not_finite_is_found_wherever_it_is(
    name: str, where: int, value: float, rows_of_no_weight: bool
) -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200_000, 8)).astype(np.float32)
    y = (rng.random(len(X)) < 0.5).astype(int)
    X[where, 5] = value
    weight = np.ones(len(X))
    weight[where] = not rows_of_no_weight
    model = getattr(gdfast, name)()
    word = "NaN" if np.isnan(value) else "infinity"
    with pytest.raises(ValueError, match=rf"contains {word}.*row {where}, column 5"):
        model.fit(X, y, sample_weight=weight)
    assert not hasattr(model, "coef_")


@pytest.mark.parametrize("C", [1.0, np.inf])
def test_classes_that_a_column_separates(C: float) -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((100_000, 20))
    y = X[:, 3] > 0
    model = gdfast.LogisticRegression(C=C)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, y)
    told = any(issubclass(w.category, ConvergenceWarning) for w in caught)
    assert told == (not model.fit_report_["converged"])
    assert model.score(X, y) > 0.999
    assert np.isfinite(model.coef_).all()


def test_more_columns_than_rows() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((60, 300)), rng.integers(0, 2, 60)
    model = gdfast.LogisticRegression(C=1e3, tol=1e-8).fit(X, y)
    best = optimum(LogLoss(), (X, y.astype(float), None), 1 / (1e3 * 60))
    w = np.append(model.coef_[0], model.intercept_)
    assert value(LogLoss(), (X, y, None), w, 1 / (1e3 * 60)) <= best * (1 + 1e-6)
