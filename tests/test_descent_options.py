"""Estimator parameters for what a step can do: clipping, factors of the penalty, bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gdfast
from gdfast import Bounds, ClipNorm, ClipValue, ElasticNet, NormalizeGradient, SGDClassifier, SGDRegressor, optimizers

Array = np.ndarray[Any, Any]


def problem() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 5))
    return X, X @ [2.0, -1.0, 0.5, 0.0, 0.1] + 3 + 0.1 * rng.standard_normal(300)


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"clip_norm": 0.5}, ClipNorm(0.5)),
        ({"clip_value": 0.5}, ClipValue(0.5)),
        ({"normalize_gradient": 2.0}, NormalizeGradient(2.0)),
    ],
)
def test_clipping_is_one_rule(given: dict[str, float], rule: Any) -> None:
    X, y = problem()
    model = SGDRegressor(optimizer="sgd", batch_size="full", alpha=0, max_iter=1, tol=None, **given).fit(X, y)
    g = rule(np.append(-X.T @ y, -y.sum()) / len(y))
    np.testing.assert_allclose(np.append(model.coef_, model.intercept_), -0.01 * g, rtol=1e-12)
    with pytest.raises(ValueError, match=r"clip_\w+ and \w+ are both given, and a step has one rule"):
        SGDRegressor(**{"clip_norm": 1.0, "clip_value": 1.0, **given}).fit(X, y)


@pytest.mark.parametrize("name", optimizers.ALL)
def test_bounds_hold_with_every_optimizer(name: str) -> None:
    X, y = problem()
    options: dict[str, Any] = {"optimizer": name, "learning_rate": "auto", "random_state": 0, "alpha": 0}
    positive = SGDRegressor(positive=True, **options).fit(X, y)
    assert (positive.coef_ >= 0).all()
    assert positive.coef_[1] == 0
    lower = [-np.inf, -0.5, -1, -1, -1]
    for bounds in ((lower, 1.0), Bounds(np.array(lower), 1.0)):
        coef = SGDRegressor(bounds=bounds, **options).fit(X, y).coef_
        assert (coef >= lower).all()
        assert (coef <= 1).all()
        np.testing.assert_allclose(coef[:2], [1.0, -0.5], atol=1e-4)
    with pytest.raises(ValueError, match="bounds and positive=True are both given"):
        SGDRegressor(bounds=(0, 1), positive=True).fit(X, y)


def test_a_fit_at_its_bounds_has_a_gradient_of_zero() -> None:
    X, y = problem()
    options: dict[str, Any] = {"batch_size": "full", "learning_rate": "auto", "alpha": 0, "tol": None}
    model = SGDRegressor(positive=True, gradient_tol=1e-4, **options).fit(X, y)
    assert model.coef_[1] == 0
    assert "gradient norm" in model.fit_report_["stopped"]


@pytest.mark.parametrize("penalty", ["l1", "l2"])
def test_factors_weigh_the_penalty_of_each_feature(penalty: str) -> None:
    X, y = problem()
    options: dict[str, Any] = {"penalty": penalty, "learning_rate": "auto", "random_state": 0}
    model = SGDRegressor(alpha=10.0, penalty_factors=[0, 1, 1, 1, 1], **options).fit(X, y)
    assert model.coef_[0] == pytest.approx(2, abs=0.3)
    assert (np.abs(model.coef_[1:]) < 0.15).all()
    if penalty == "l1":
        assert (model.coef_[1:] == 0).all()
    twice = SGDRegressor(alpha=0.01, penalty_factors=np.full(5, 2.0), **options).fit(X, y)
    once = SGDRegressor(alpha=0.02, **options).fit(X, y)
    np.testing.assert_allclose(twice.coef_, once.coef_, rtol=1e-4, atol=1e-6)
    assert ElasticNet(0.01, 0.0, np.full(5, 2.0)).l2 == 0.01


def test_models_with_these_options_can_be_saved(tmp_path: Any) -> None:
    X, y = problem()
    for bounds in ((0, [1.0, 2, 3, 4, 5]), Bounds(np.zeros(5), np.inf), Bounds(upper=3.0), None):
        model = SGDClassifier(bounds=bounds, penalty_factors=np.arange(5.0), random_state=0).fit(X, y > 3)
        gdfast.save(model, tmp_path / "m.gdfast")
        again = gdfast.load(tmp_path / "m.gdfast")
        np.testing.assert_array_equal(again.penalty_factors, model.penalty_factors)
        np.testing.assert_array_equal(again.fit(X, y > 3).coef_, model.coef_)
