"""Estimators with cross-validation inside choose what scikit-learn's choose."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import sklearn
from scipy.sparse import csr_array
from sklearn import linear_model as theirs
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import get_scorer
from sklearn.model_selection import GroupKFold, KFold, ShuffleSplit
from sklearn.preprocessing import StandardScaler

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


# --- logistic regression ----------------------------------------------------------------------------------------------

SETS = {"breast_cancer": load_breast_cancer, "digits": load_digits, "iris": load_iris}
LOGISTIC: dict[str, dict[str, Any]] = {
    "accuracy": {"Cs": [1e-4, 1e-3, 0.01, 0.1, 1.0]},
    "log loss": {"scoring": "neg_log_loss", "Cs": [0.01, 0.1, 1.0, 10.0]},
    "new attributes": {"use_legacy_attributes": False, "Cs": [1e-3, 0.03, 1.0], "cv": 3},
    "no refit": {"refit": False, "Cs": [0.003, 0.1, 3.0], "cv": 4},
    "balanced, no intercept": {"class_weight": "balanced", "fit_intercept": False, "Cs": [0.01, 1.0]},
    "splits that overlap": {"cv": ShuffleSplit(3, random_state=0), "Cs": [0.1, 1.0], "scoring": "neg_brier_score"},
}


def standard(name: str) -> tuple[Array, Array]:
    X, y = SETS[name](return_X_y=True)
    return StandardScaler().fit_transform(X), np.array([f"label {i}" for i in range(10)])[y]


def peer_of(model: Any, **options: Any) -> Any:
    """scikit-learn's, to its optimum."""
    found = {key: value for key, value in model.get_params().items() if key not in ("solver", "tol", "max_iter")}
    found |= {"random_state": 0}
    found["l1_ratios"] = np.array([0.0] if found["l1_ratios"] is None else found["l1_ratios"])
    return theirs.LogisticRegressionCV(**found, **{"tol": 1e-8, "max_iter": 20_000, **options})


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("case", LOGISTIC)
@pytest.mark.parametrize("name", SETS)
def test_logistic_regression_cv_chooses_what_scikit_learns_does(name: str, case: str, weighted: bool) -> None:
    X, y = standard(name)
    if name == "digits":
        X, y = X[:250], y[:250]
    weight = np.random.default_rng(0).uniform(0.2, 3, len(y)) if weighted else None
    model = ours.LogisticRegressionCV(tol=1e-9, max_iter=1000, **LOGISTIC[case]).fit(X, y, sample_weight=weight)
    peer = peer_of(model).fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(model.C_, peer.C_)
    np.testing.assert_array_equal(model.Cs_, peer.Cs_)
    np.testing.assert_allclose(model.coef_, peer.coef_, rtol=0, atol=2e-4 * max(1, np.abs(peer.coef_).max()))
    np.testing.assert_allclose(model.predict_proba(X), peer.predict_proba(X), rtol=0, atol=1e-4)
    # a row at the border may go either way
    if model.scoring == "neg_brier_score":  # of labels that are text, scikit-learn's has no positive one
        p = model.predict_proba(X)
        squares = ((p - (y[:, None] == model.classes_)) ** 2).sum(axis=1).mean()
        assert model.score(X, y) == pytest.approx(-squares / (2 if p.shape[1] == 2 else 1), abs=1e-12)
    else:
        assert model.score(X, y) == pytest.approx(peer.score(X, y), abs=2 / len(y))
    tolerance = 1e-3 if "scoring" in LOGISTIC[case] else 3 * 3 / len(y) * 5
    if model.use_legacy_attributes:
        assert list(model.scores_) == list(model.coefs_paths_) == list(peer.scores_)
        for label in peer.scores_:
            np.testing.assert_allclose(model.scores_[label], peer.scores_[label][:, :, 0], rtol=0, atol=tolerance)
            assert model.coefs_paths_[label].shape == peer.coefs_paths_[label][:, :, 0].shape
        assert model.n_iter_.shape == peer.n_iter_.shape[:3]
        label = model.classes_[-1]
        # the weakest penalties have no optimum that float64 finds within the budget of scikit-learn
        some = np.asarray(model.Cs_) < 10
        np.testing.assert_allclose(
            model.coefs_paths_[label][:, some], peer.coefs_paths_[label][:, some, 0], rtol=2e-3, atol=2e-3
        )
    else:
        assert isinstance(model.C_, float)
        assert isinstance(model.l1_ratio_, float)
        np.testing.assert_allclose(model.scores_, peer.scores_, rtol=0, atol=tolerance)
        assert model.coefs_paths_.shape == peer.coefs_paths_.shape
        assert model.n_iter_.shape == peer.n_iter_.shape


@pytest.mark.parametrize("refit", [True, False])
@pytest.mark.parametrize("k", [2, 3])
def test_l1_ratios_are_chosen_too(k: int, refit: bool) -> None:
    rng = np.random.default_rng(0)  # columns that are not correlated: saga finds the optimum
    X = rng.standard_normal((240, 6))
    y = (X @ rng.standard_normal((6, k)) * [[1, 0.5, 0.2][:k]] + rng.gumbel(size=(240, k))).argmax(axis=1)
    options: dict[str, Any] = {"Cs": [0.1, 0.5], "l1_ratios": [0.0, 0.5, 1.0], "cv": 3, "scoring": "neg_log_loss"}
    model = ours.LogisticRegressionCV(tol=1e-7, max_iter=1000, refit=refit, **options).fit(X, y)
    peer = peer_of(model, solver="saga", tol=1e-6).fit(X, y)
    np.testing.assert_allclose(model.C_, peer.C_)
    np.testing.assert_allclose(model.l1_ratio_, peer.l1_ratio_)
    np.testing.assert_array_equal(model.l1_ratios_, peer.l1_ratios_)
    np.testing.assert_allclose(model.coef_, peer.coef_, rtol=0, atol=1e-3)
    for label in peer.scores_:
        np.testing.assert_allclose(model.scores_[label], peer.scores_[label], rtol=0, atol=1e-4)
        np.testing.assert_allclose(model.coefs_paths_[label], peer.coefs_paths_[label], rtol=0, atol=1e-3)
    assert model.n_iter_.shape == peer.n_iter_.shape


def test_a_fold_of_the_path_is_a_fit_of_its_rows() -> None:
    X, y = standard("iris")
    splits = list(KFold(3, shuffle=True, random_state=0).split(X))
    model = ours.LogisticRegressionCV(Cs=[0.1, 1.0], cv=splits, tol=1e-10, use_legacy_attributes=False).fit(X, y)
    for f, (train, test) in enumerate(splits):
        for c, C in enumerate(model.Cs_):
            alone = ours.LogisticRegression(C=C, tol=1e-10).fit(X[train], y[train])
            np.testing.assert_allclose(model.coefs_paths_[f, 0, c, :, :-1], alone.coef_, rtol=0, atol=1e-4)
            assert model.scores_[f, 0, c] == alone.score(X[test], y[test])
    assert model.fit_report_["fits_on_folds"] == 6
    assert model.fit_report_["passes_on_folds"] > model.fit_report_["passes"]


def test_fits_on_folds_that_end_early_are_counted_in_one_warning() -> None:
    X, y = standard("breast_cancer")
    with pytest.warns(ConvergenceWarning) as caught:
        ours.LogisticRegressionCV(Cs=2, cv=3, max_iter=1).fit(X, y)
    assert len(caught) == 2  # the folds, and the last fit
    assert "6 fits on the folds" in str(caught[0].message)
    assert caught[0].filename == __file__


def test_metadata_of_logistic_regression_cv() -> None:
    X, y = standard("breast_cancer")
    weight, groups = np.random.default_rng(0).uniform(0.2, 3, len(y)), np.arange(len(y)) % 7
    with sklearn.config_context(enable_metadata_routing=True):
        scorer = get_scorer("neg_log_loss").set_score_request(sample_weight=True)
        model = ours.LogisticRegressionCV(Cs=[0.1, 1], cv=GroupKFold(3), scoring=scorer, tol=1e-8)
        model.set_fit_request(sample_weight=True).fit(X, y, sample_weight=weight, groups=groups)
        peer = peer_of(model).set_fit_request(sample_weight=True).fit(X, y, sample_weight=weight, groups=groups)
        assert model.score(X, y, sample_weight=weight) == pytest.approx(
            peer.score(X, y, sample_weight=weight), rel=1e-5
        )
    np.testing.assert_allclose(model.scores_["label 1"], peer.scores_["label 1"][:, :, 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"Cs": 0}, "Cs must be an integer >= 1"),
        ({"Cs": [1.0, 0.0]}, "Cs must be numbers > 0"),
        ({"Cs": [1.0, np.nan]}, "Cs must be a list of numbers"),
        ({"l1_ratios": [0.5, 2.0]}, "l1_ratios must be a list of numbers from 0 to 1"),
        ({"l1_ratios": []}, "l1_ratios must be a list"),
        ({"penalty": "elasticnet"}, "needs l1_ratios"),
        ({"refit": 2}, "refit must be True or False"),
        ({"scoring": "no such"}, "no such"),
    ],
    ids=str,
)
def test_logistic_regression_cv_refuses(options: dict[str, Any], message: str) -> None:
    X, y = standard("iris")
    with pytest.raises(ValueError, match=message):
        ours.LogisticRegressionCV(**options).fit(X, y)
