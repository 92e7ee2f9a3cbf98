"""Estimators in scikit-learn's habits and spelling."""

from __future__ import annotations

from gdfast.estimators.full import LinearRegression, LogisticRegression, Ridge
from gdfast.estimators.logistic_cv import LogisticRegressionCV
from gdfast.estimators.ridge_cv import RidgeCV
from gdfast.estimators.sgd import SGDClassifier, SGDRegressor

__all__ = [
    "LinearRegression",
    "LogisticRegression",
    "LogisticRegressionCV",
    "Ridge",
    "RidgeCV",
    "SGDClassifier",
    "SGDRegressor",
]
