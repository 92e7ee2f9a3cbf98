"""The whole `fit`, validation and label encoding included, against scikit-learn, to the same objective."""

from __future__ import annotations

import warnings

import numpy as np
import problems
import pytest
from sklearn import linear_model
from sklearn.exceptions import ConvergenceWarning

import gdfast
from gdfast.losses import LogLoss


def objective(model, X, y, C):
    """mean log-loss + |w|^2 / (2 C n), in float64"""
    z = X.astype(np.float64) @ model.coef_[0].astype(np.float64) + float(model.intercept_[0])
    return LogLoss().value(z, y).mean() + np.square(model.coef_, dtype=np.float64).sum() / (2 * C * len(y))


def _fit(model, X, y):
    def run():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return model.fit(X, y)

    return run


@pytest.mark.parametrize("d", [28, 100])
def bench_logistic_regression(race, d):
    n = 2000 if race.small else 56_000_000 // d
    examples = problems.logistic(n, d)
    X, y = examples.X, examples.y
    models = {
        "gdfast": gdfast.LogisticRegression(),
        "scikit-learn lbfgs": linear_model.LogisticRegression(tol=1e-6),
        "scikit-learn newton-cholesky": linear_model.LogisticRegression(solver="newton-cholesky", tol=1e-6),
    }
    race(f"LogisticRegression().fit, float32 {n} x {d}", {k: _fit(m, X, y) for k, m in models.items()}, rounds=3)
    reached = {name: objective(model, X, y, 1.0) for name, model in models.items()}
    best = min(reached.values())
    for name, value in reached.items():
        race.note(f"{name:<30} excess over the best objective: {value / best - 1:.1e}")
    assert reached["gdfast"] <= best * (1 + 1e-6)


def bench_ridge(race):
    n, d = (2000, 20) if race.small else (500_000, 100)
    examples = problems.logistic(n, d)
    y = (examples.X @ np.arange(d, dtype=np.float32)) + examples.y
    models = {"gdfast": gdfast.Ridge(), "scikit-learn": linear_model.Ridge()}
    race(f"Ridge().fit, float32 {n} x {d}", {k: _fit(m, examples.X, y) for k, m in models.items()}, rounds=5)


def bench_sgd_epoch(race):
    examples = problems.logistic(2000 if race.small else 500_000, 28)
    plain = {"loss": "log_loss", "max_iter": 1, "tol": None, "random_state": 0}
    models = {
        "gdfast, batch 1": gdfast.SGDClassifier(**plain),
        "gdfast, Adam, batch 1,024": gdfast.SGDClassifier(optimizer="adam", batch_size=1024, **plain),
        "scikit-learn, batch 1": linear_model.SGDClassifier(**plain),
    }
    race(
        f"SGDClassifier, one epoch, float32 {examples.n} x 28",
        {k: _fit(m, examples.X, examples.y) for k, m in models.items()},
        rounds=5,
    )
