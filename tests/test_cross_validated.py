"""Estimators with cross-validation inside choose what scikit-learn's choose."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import sklearn
from scipy.sparse import csr_array
from sklearn import linear_model as theirs
from sklearn.datasets import load_diabetes
from sklearn.metrics import get_scorer
from sklearn.model_selection import GroupKFold, KFold, ShuffleSplit

import gdfast as ours

Array = np.ndarray[Any, Any]
ALPHAS = np.logspace(-4, 3, 15)


def diabetes(columns: str, targets: int | None) -> tuple[Array, Array, Array]:
    """Rows, targets and weights; ``columns``: as they are, far from 0, or more of them than rows."""
    X, y = load_diabetes(return_X_y=True)
    rng = np.random.default_rng(0)
    if columns == "far":
        X = 50 * X + 1000
    if columns == "wide":
        X, y = np.hstack([X, rng.standard_normal((len(X), 100)) / 20])[:90], y[:90]
    Y = np.column_stack([y, 50 * rng.standard_normal(len(y)) + 900 * X[:, 3], -y])
    return X, y if targets is None else Y[:, :targets], rng.uniform(0.2, 3, len(y))


RIDGE: dict[str, dict[str, Any]] = {
    "leave one out": {"store_cv_results": True},
    "without intercept": {"fit_intercept": False, "store_cv_results": True},
    "scored": {"scoring": "neg_mean_absolute_error", "store_cv_results": True},
    "an alpha a target": {"alpha_per_target": True},
    "an alpha a target, scored": {"alpha_per_target": True, "scoring": "neg_median_absolute_error"},
    "folds": {"cv": 5},
    "folds, scored": {"cv": 4, "scoring": "neg_mean_squared_error", "fit_intercept": False},
    "shuffled folds": {"cv": KFold(3, shuffle=True, random_state=0)},
    "splits that overlap": {"cv": ShuffleSplit(4, random_state=0)},
}


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("targets", [None, 1, 3])
@pytest.mark.parametrize("columns", ["near", "far", "wide"])
@pytest.mark.parametrize("case", RIDGE)
def test_ridge_cv_chooses_what_scikit_learns_does(case: str, columns: str, targets: int | None, weighted: bool) -> None:
    if targets is None and case == "an alpha a target, scored":
        targets = 1  # scikit-learn fails on a y of one dimension
    X, y, weight = diabetes(columns, targets)
    model, peer = (kind(ALPHAS, **RIDGE[case]) for kind in (ours.RidgeCV, theirs.RidgeCV))
    for each in (model, peer):
        each.fit(X, y, sample_weight=weight if weighted else None)
    np.testing.assert_array_equal(model.alpha_, peer.alpha_)
    np.testing.assert_allclose(model.best_score_, peer.best_score_, rtol=1e-6)
    assert model.coef_.shape == peer.coef_.shape
    assert np.shape(model.intercept_) == np.shape(peer.intercept_)
    np.testing.assert_allclose(model.coef_, peer.coef_, rtol=1e-5, atol=1e-7 * np.abs(peer.coef_).max())
    np.testing.assert_allclose(model.intercept_, peer.intercept_, rtol=1e-5, atol=1e-7)
    if hasattr(peer, "cv_results_"):
        scale = np.abs(peer.cv_results_).max()
        # not centred, a Gram matrix of condition 1e13: scikit-learn's errors jump by 2e-3 from alpha to alpha
        tolerance = 1e-2 if columns == "far" and case == "without intercept" else 1e-5
        np.testing.assert_allclose(model.cv_results_, peer.cv_results_, rtol=tolerance, atol=1e-4 * tolerance * scale)


def test_ridge_cv_leaves_every_row_out_in_turn() -> None:
    X, y, weight = diabetes("near", 2)
    X, y, weight = X[:40], y[:40], weight[:40]
    model = ours.RidgeCV(ALPHAS[::5], store_cv_results=True).fit(X, y, sample_weight=weight)
    for i in (0, 17, 39):
        others = np.arange(40) != i
        for a, alpha in enumerate(ALPHAS[::5]):
            alone = theirs.Ridge(alpha).fit(X[others], y[others], sample_weight=weight[others])
            error = y[i] - alone.predict(X[i : i + 1])[0]
            np.testing.assert_allclose(model.cv_results_[i, :, a], weight[i] * error**2, rtol=1e-7)


@pytest.mark.parametrize("cv", [None, 5])
@pytest.mark.parametrize("form", ["float32", "columns", "sparse", "pandas"])
def test_ridge_cv_on_every_layout(form: str, cv: Any) -> None:
    X, y, _ = diabetes("near", None)
    expected = theirs.RidgeCV(ALPHAS, cv=cv).fit(X, y)
    if form == "pandas":
        pd = pytest.importorskip("pandas", reason="pandas is not installed")
        given: Any = pd.DataFrame(X, columns=[f"column {j}" for j in range(X.shape[1])])
    else:
        given = {"float32": X.astype(np.float32), "columns": np.asfortranarray(X), "sparse": csr_array(X)}[form]
    model = ours.RidgeCV(ALPHAS, cv=cv).fit(given, y)
    assert model.alpha_ == expected.alpha_
    tolerance = 1e-3 if form == "float32" else 1e-7
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=tolerance, atol=tolerance * 100)
    assert model.coef_.dtype == (np.float32 if form == "float32" else np.float64)


@pytest.mark.parametrize("cv", [None, 4])
def test_ridge_cv_is_the_same_for_any_number_of_threads(cv: Any) -> None:
    X, y, _ = diabetes("near", 2)
    one, two = (ours.RidgeCV(ALPHAS, cv=cv, n_jobs=threads).fit(X, y) for threads in (1, 2))
    assert one.coef_.tobytes() == two.coef_.tobytes()
    assert one.best_score_ == two.best_score_
    assert pickle.loads(pickle.dumps(one)).predict(X).tobytes() == one.predict(X).tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alphas": []}, "alphas must be finite numbers > 0"),
        ({"alphas": [1.0, 0.0]}, "alphas must be finite numbers > 0"),
        ({"alphas": ["a"]}, "alphas must be finite numbers > 0"),
        ({"cv": 3, "store_cv_results": True}, "store_cv_results=True needs cv=None"),
        ({"cv": 3, "alpha_per_target": True}, "alpha_per_target=True needs cv=None"),
        ({"gcv_mode": "fast"}, "gcv_mode must be one of"),
        ({"scoring": "no such metric", "cv": 3}, "scoring|no such metric"),
        ({"scoring": 3}, "scoring must be None"),
    ],
    ids=str,
)
def test_ridge_cv_refuses(options: dict[str, Any], message: str) -> None:
    X, y, _ = diabetes("near", None)
    with pytest.raises(ValueError, match=message):
        ours.RidgeCV(**options).fit(X, y)


def test_metadata_goes_to_the_splitter_and_to_the_scorer() -> None:
    X, y, weight = diabetes("near", None)
    groups = np.arange(len(y)) % 7
    with pytest.raises(ValueError, match="enable_metadata_routing"):
        ours.RidgeCV(ALPHAS, cv=3).fit(X, y, groups=groups)
    with sklearn.config_context(enable_metadata_routing=True):
        for requested in (True, False):
            scorer = get_scorer("neg_mean_squared_error").set_score_request(sample_weight=requested)
            fitted = []
            for kind in (ours.RidgeCV, theirs.RidgeCV):
                model = kind(ALPHAS, cv=GroupKFold(3), scoring=scorer).set_fit_request(sample_weight=True)
                fitted.append(model.fit(X, y, sample_weight=weight, groups=groups))
            assert fitted[0].alpha_ == fitted[1].alpha_
            assert fitted[0].best_score_ == pytest.approx(fitted[1].best_score_, rel=1e-7)
            np.testing.assert_allclose(fitted[0].coef_, fitted[1].coef_, rtol=1e-6)
