"""L1 solutions against scikit-learn's: the same support, the same objective."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
from sklearn import linear_model as theirs
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.preprocessing import StandardScaler

import gdfast as ours
from gdfast import optimizers
from gdfast.losses import LogLoss, SquaredError

Array = np.ndarray[Any, Any]
ALPHA = {"diabetes": 2.0, "breast_cancer": 0.02}
RULES = sorted(name for name in optimizers.ALL if name != "adamw")  # its decay moves the optimum
# the steps of these fall with the root of their number: from its careful start "auto" would need 100,000 of them here
GIVEN = {("adagrad", "breast_cancer"): 1.0, ("ftrl", "breast_cancer"): 1.0}


@cache
def problem(name: str, l1_ratio: float) -> tuple[Array, Array, Array, float]:
    """(X, y, scikit-learn's coefficients, their objective)"""
    X, y = (load_diabetes if name == "diabetes" else load_breast_cancer)(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    alpha = ALPHA[name]
    model: Any
    if name == "diabetes":
        model = theirs.ElasticNet(alpha=alpha, l1_ratio=l1_ratio, tol=1e-12, max_iter=100_000)
    else:
        C = 1 / (alpha * len(y))
        model = theirs.LogisticRegression(
            C=C, l1_ratio=l1_ratio, solver="saga", tol=1e-9, max_iter=100_000, random_state=0
        )
    model.fit(X, y)
    coef, intercept = np.ravel(model.coef_), float(np.ravel(model.intercept_)[0])
    return X, y, coef, objective(name, X, y, coef, intercept, l1_ratio)


def objective(name: str, X: Array, y: Array, coef: Array, intercept: float, l1_ratio: float) -> float:
    """mean loss + alpha ((1 - l1_ratio) / 2 |w|^2 + l1_ratio |w|_1)"""
    loss = SquaredError() if name == "diabetes" else LogLoss()
    penalty = (1 - l1_ratio) / 2 * float(coef @ coef) + l1_ratio * float(np.abs(coef).sum())
    return float(loss.value(X @ coef + intercept, y).mean()) + ALPHA[name] * penalty


def check(name: str, model: Any, l1_ratio: float) -> None:
    X, y, coef, best = problem(name, l1_ratio)
    found, intercept = np.ravel(model.coef_), float(np.ravel(model.intercept_)[0])
    assert objective(name, X, y, found, intercept, l1_ratio) <= best * (1 + 1e-4)
    np.testing.assert_array_equal(found != 0, np.abs(coef) > 1e-6 * np.abs(coef).max())


@pytest.mark.parametrize("l1_ratio", [1.0, 0.6])
@pytest.mark.parametrize("name", ALPHA)
@pytest.mark.parametrize("rule", [None, *RULES])
def test_every_optimizer_finds_scikit_learns_support(rule: str | None, name: str, l1_ratio: float) -> None:
    X, y, *_ = problem(name, l1_ratio)
    kind: Any = ours.SGDRegressor if name == "diabetes" else ours.SGDClassifier
    model = kind(
        "squared_error" if name == "diabetes" else "log_loss",
        penalty="elasticnet",
        alpha=ALPHA[name],
        l1_ratio=l1_ratio,
        optimizer=rule if rule is None else optimizers.ALL[rule](GIVEN.get((rule, name), "auto")),
        learning_rate="auto" if rule is None else "optimal",  # scikit-learn's default, which is not used
        batch_size="full",
        max_iter=20_000,
        tol=1e-9,
        n_iter_no_change=100,
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(name, model.fit(X, y), l1_ratio)


@pytest.mark.parametrize("l1_ratio", [1.0, 0.6])
def test_logistic_regression_finds_scikit_learns_support(l1_ratio: float) -> None:
    X, y, *_ = problem("breast_cancer", l1_ratio)
    C = 1 / (ALPHA["breast_cancer"] * len(y))
    check(
        "breast_cancer", ours.LogisticRegression(C=C, l1_ratio=l1_ratio, tol=1e-6, max_iter=10_000).fit(X, y), l1_ratio
    )
