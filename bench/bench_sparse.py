"""Sparse rows: a loss-and-gradient pass against SciPy's two products, and steps, which cost what their entries cost."""

from __future__ import annotations

import warnings

import numpy as np
import problems
import pytest
from sklearn import linear_model
from sklearn.exceptions import ConvergenceWarning

from gdfast import SGDClassifier, _core, runtime
from gdfast.backends import cpu
from gdfast.layouts import CsrRows
from gdfast.losses import LogLoss
from gdfast.optimizers import SGD, Adam
from gdfast.penalties import ElasticNet
from gdfast.plan import Examples, Plan, State
from gdfast.sources import as_table


@pytest.mark.parametrize("index", ["int32", "int64"])
@pytest.mark.parametrize("threads", sorted({1, min(2, runtime.cores())}))
def bench_sparse_gradient_pass(race, threads, index):
    n, d = (500, 1000) if race.small else (250_000, 50_000)
    X = problems.power_law(n, d).copy()
    X.indices, X.indptr = X.indices.astype(index), X.indptr.astype(index)
    table = as_table(X)
    y = (np.asarray(X.sum(axis=1)) > np.median(X.sum(axis=1))).astype(X.dtype)
    examples, w = Examples(table.X, y, None), np.full((d + 1, 1), 0.1, dtype=X.dtype)
    r = np.ones(n, dtype=X.dtype)
    with _core.Worker():
        race(
            f"sparse gradient pass, log_loss, float32 {n} x {d}, {X.nnz / n:.0f} non-zeros a row, {index}, {threads} threads",
            {
                "gdfast, loss and gradient": lambda: cpu.gradient(examples, LogLoss(), w, True, threads),
                "gdfast, margins": lambda: cpu.margins(table.X, w, threads),
                "SciPy X @ w and X.T @ r": lambda: (X @ w[:-1, 0], X.T @ r),
                "gdfast, check of the matrix": lambda: _core.check_csr(table.X, True, threads),
            },
            work=X.data.nbytes + X.indices.nbytes,
            rounds=7,
        )


@pytest.mark.parametrize("threads", sorted({1, min(2, runtime.cores())}))
@pytest.mark.parametrize("rule", ["sgd", "adam, lazy"])
def bench_steps_cost_their_entries(race, rule, threads):
    """An epoch of steps of 16 rows, 30 entries a row, over ever more columns: the entries are the same."""
    n = 200 if race.small else 100_000
    rng = np.random.default_rng(0)
    data, y = rng.standard_normal(30 * n).astype("f4"), rng.integers(0, 2, n).astype("f4")
    plan = Plan(
        LogLoss(),
        SGD(0.1) if rule == "sgd" else Adam(0.01, lazy=True),
        ElasticNet(1e-6 * (rule == "sgd")),
        batch_size=16,
    )

    def epoch_over(d):
        strata = np.arange(30) * (d // 30)
        columns = (rng.integers(0, d // 30, (n, 30)) + strata).astype(np.int32)
        examples = Examples(CsrRows(data, columns.ravel(), 30 * np.arange(n + 1, dtype=np.int32), d), y, None)
        state, rates = State.start(plan, np.zeros((d + 1, 1), "f4")), plan.optimizer.rates(0, plan.steps(n))
        return lambda: cpu.epoch(examples, plan, state, rates, threads)

    sizes = (50, 500) if race.small else (50_000, 500_000, 5_000_000)
    with _core.Worker():
        race(
            f"{rule}, 16 rows a step, one epoch, float32 {n} rows, 30 non-zeros a row, {threads} threads",
            {f"d = {d:,}": epoch_over(d) for d in sizes},
            work=8 * len(data),
            rounds=5,
        )


def bench_sgd_epoch_sparse(race):
    """SGDClassifier.fit, one epoch, against scikit-learn's with the same rule."""
    n, d = (500, 1000) if race.small else (250_000, 50_000)
    X = problems.power_law(n, d).copy()
    X.indices, X.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)  # scikit-learn takes no others
    y = (np.asarray(X.sum(axis=1)) > 0).astype(int)
    plain = {
        "loss": "log_loss", "alpha": 1e-6, "max_iter": 1, "tol": None, "random_state": 0,
        "learning_rate": "constant", "eta0": 0.1,
    }  # fmt: skip
    models = {
        "gdfast, batch 1, 1 thread": SGDClassifier(**plain, batch_size=1, n_jobs=1),
        "gdfast, batch 1": SGDClassifier(**plain, batch_size=1, n_jobs=-1),
        "gdfast, batch 16": SGDClassifier(**plain, batch_size=16, n_jobs=-1),
        "gdfast, batch 256": SGDClassifier(**plain, batch_size=256, n_jobs=-1),
        "scikit-learn, batch 1": linear_model.SGDClassifier(**plain),
    }

    def fit(model):
        def run():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(X, y)

        return run

    race(
        f"SGDClassifier.fit, one epoch, float32 {n} x {d}, {X.nnz / n:.0f} non-zeros a row",
        {name: fit(model) for name, model in models.items()},
        work=8 * X.nnz,
        rounds=5,
    )
