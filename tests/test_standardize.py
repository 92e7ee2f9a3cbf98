"""Standardization: the model of StandardScaler and fit, in original units; ill-scaled data converge by default."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gdfast import Adam, SGDClassifier, SGDRegressor, lr_find
from gdfast.scaling import spread

Array = np.ndarray[Any, Any]


def problem(
    name: str, dtype: Any = np.float64, scales: Any = (0.01, 1, 5, 20), shift: float = 3.0
) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    Z = rng.standard_normal((500, len(scales))) + shift
    z = Z @ np.linspace(1, -1, len(scales)) + 0.3 * rng.standard_normal(500)
    return (Z * scales).astype(dtype), z > np.median(z) if name == "SGDClassifier" else z.astype(dtype)


def make(name: str, **options: Any) -> Any:
    kind: Any = SGDClassifier if name == "SGDClassifier" else SGDRegressor
    return kind(**{"random_state": 0, "max_iter": 30, "tol": None, **options})


@pytest.mark.parametrize("name", ["SGDClassifier", "SGDRegressor"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": Adam(0.05)},
        {"average": True, "penalty": "l1", "alpha": 0.01},
        {"learning_rate": "auto", "early_stopping": True},
        {"fit_intercept": False},
    ],
    ids=str,
)
def test_it_is_the_model_of_a_pipeline(name: str, options: dict[str, Any], layout: Any) -> None:
    X, y = problem(name)
    Z = layout(X)
    Z = np.column_stack(Z) if isinstance(Z, tuple) else Z
    weight = np.random.default_rng(1).uniform(0.5, 1.5, 500)
    ours = make(name, standardize=True, **options).fit(Z, y, sample_weight=weight)
    scaler = StandardScaler(with_mean=options.get("fit_intercept", True)).fit(X)
    theirs = make(name, standardize=False, **options).fit(scaler.transform(X), y, sample_weight=weight)
    np.testing.assert_allclose(ours.coef_, theirs.coef_ / scaler.scale_, rtol=1e-9, atol=1e-12)
    expected = (
        theirs.decision_function(scaler.transform(X))
        if name == "SGDClassifier"
        else theirs.predict(scaler.transform(X))
    )
    got = ours.decision_function(X) if name == "SGDClassifier" else ours.predict(X)
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(ours.history_.objective, theirs.history_.objective, rtol=1e-9)
    assert ours.fit_report_["standardized"] == "standardize=True"


@pytest.mark.parametrize("name", ["SGDClassifier", "SGDRegressor"])
@pytest.mark.parametrize(
    "options", [{}, {"optimizer": "adam", "learning_rate": "auto"}, {"learning_rate": "auto"}], ids=str
)
def test_columns_from_a_millionth_to_a_million_converge_by_default(
    name: str, options: dict[str, Any], dtype: Any
) -> None:
    X, y = problem(name, dtype, np.logspace(-6, 6, 7))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = make(name, tol=1e-3, max_iter=1000, **options).fit(X, y)
    assert model.score(X, y) > 0.93
    assert "differ by a factor of" in model.fit_report_["standardized"]
    pipeline = make_pipeline(StandardScaler(), make(name, tol=1e-3, max_iter=1000, **options)).fit(X, y)
    assert model.score(X, y) == pytest.approx(pipeline.score(X, y), abs=0.01)


def test_far_columns_too() -> None:
    X, y = problem("SGDRegressor", scales=(1, 1, 1), shift=1e5)
    model = make("SGDRegressor", tol=1e-3, max_iter=1000).fit(X, y)
    assert model.score(X, y) > 0.9


@pytest.mark.parametrize("name", ["SGDClassifier", "SGDRegressor"])
def test_ordinary_columns_are_left_alone_by_default(name: str) -> None:
    X, y = problem(name, scales=(0.1, 1, 2), shift=0.0)
    auto, off = (make(name, standardize=choice).fit(X, y) for choice in ("auto", False))
    np.testing.assert_array_equal(auto.coef_, off.coef_)
    assert auto.fit_report_["standardized"] is off.fit_report_["standardized"] is None
    assert spread(X, True) < 1000
    ill, y = problem(name, scales=(1e-6, 1), shift=0.0)
    assert make(name, standardize=False, max_iter=2).fit(ill, y).fit_report_["standardized"] is None


def test_starting_weights_bounds_and_the_next_part_are_in_original_units() -> None:
    X, y = problem("SGDRegressor")
    start = np.array([3.0, -1.0, 0.5, 0.01])
    model = make("SGDRegressor", standardize=True, optimizer=Adam(1e-12), max_iter=1)
    model.fit(X, y, coef_init=start, intercept_init=[2.0])
    np.testing.assert_allclose(model.coef_, start, rtol=1e-6)
    np.testing.assert_allclose(model.intercept_, 2.0, rtol=1e-6)
    bounded = make("SGDRegressor", standardize=True, bounds=([-np.inf, 0, 0, -1], [0.5, 1, 2, 3])).fit(X, y)
    assert (bounded.coef_ <= [0.5, 1, 2, 3]).all()
    assert (bounded.coef_[1:] >= [0, 0, -1]).all()
    assert bounded.coef_[0] == pytest.approx(0.5)
    model = make("SGDRegressor", standardize=True, learning_rate="constant", eta0=1e-9).fit(X, y)
    before = model.coef_.copy()
    model.set_params(standardize="auto").partial_fit(X, y)
    np.testing.assert_allclose(model.coef_, before, rtol=1e-4, atol=1e-4)
    again = make("SGDRegressor", standardize=True, warm_start=True).fit(X, y)
    first = again.history_.objective[0]
    assert again.fit(X, y).history_.objective[0] < first


def test_partial_fit_refuses_it_and_says_why() -> None:
    X, y = problem("SGDRegressor")
    with pytest.raises(ValueError, match="standardize=True is not possible in partial_fit, which never sees all rows"):
        SGDRegressor(standardize=True).partial_fit(X, y)
    assert SGDRegressor().partial_fit(X / 20, y).fit_report_["standardized"] is None


def test_the_range_test_sees_standardised_columns() -> None:
    X, y = problem("SGDRegressor", scales=np.logspace(-6, 6, 7))
    found = lr_find(SGDRegressor(optimizer="sgd", random_state=0), X, y)
    assert found.suggestion is not None
    assert 1e-5 < found.suggestion < 1


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_raw_wine_converges_where_the_rate_would_diverge(loss: str) -> None:
    from sklearn.datasets import load_wine

    X, y = load_wine(return_X_y=True)
    model = SGDRegressor(loss, random_state=0).fit(X, y)
    assert model.fit_report_["converged"]
    assert model.score(X, y) > 0.8
