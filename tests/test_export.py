"""What leaves gdfast predicts as it did: scikit-learn's estimators and ONNX graphs."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone, is_classifier
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.multioutput import MultiOutputRegressor

import gdfast as ours
from gdfast import Adam, ExponentialDecay, losses

Array = np.ndarray[Any, Any]

BINARY = [name for name, loss in losses.ALL.items() if loss.target == "binary"]
REAL = [name for name, loss in losses.ALL.items() if loss.target not in ("binary", "class")]
SAME = ("squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive")
OTHER = {
    "poisson": "PoissonRegressor",
    "gamma": "GammaRegressor",
    "tweedie": "TweedieRegressor",
    "pinball": "QuantileRegressor",
}
QUICK: dict[str, Any] = {"random_state": 0, "max_iter": 3, "tol": None, "eta0": 0.01, "learning_rate": "constant"}

# (estimator, outputs, the class it becomes)
CLASSIFIERS = [
    *[(ours.LogisticRegression(**options), k, "LogisticRegression") for k in (2, 4) for options in (
        {}, {"l1_ratio": 1, "C": 0.3}, {"l1_ratio": 0.4}, {"C": np.inf, "tol": 1e-2}, {"solver": "newton"},
        {"solver": "liblinear", "fit_intercept": False}, {"class_weight": "balanced", "n_jobs": 2},
    )],
    *[(ours.LogisticRegressionCV(cv=3, **options), k, "LogisticRegressionCV") for k in (2, 4) for options in (
        {"Cs": 3}, {"l1_ratios": (0.0, 0.5), "Cs": [0.1, 1.0], "use_legacy_attributes": False},
    )],
    *[(ours.SGDClassifier(loss, **QUICK), k, "SGDClassifier") for k in (2, 4) for loss in (*BINARY, *SAME, "pinball")],
    (ours.SGDClassifier("softmax", **QUICK), 2, "SGDClassifier"),
    (ours.SGDClassifier("softmax", **QUICK), 4, "LogisticRegression"),
    (ours.SGDClassifier("log_loss", **QUICK | {"optimizer": Adam(ExponentialDecay(0.1, 10, 0.9)), "shuffle": "block"}), 3,
     "SGDClassifier"),
]  # fmt: skip
REGRESSORS = [
    *[(kind(), k, kind.__name__) for kind in (ours.LinearRegression, ours.Ridge) for k in (None, 1, 3)],
    *[(ours.RidgeCV(), k, "RidgeCV") for k in (None, 3)],
    (ours.Ridge(solver="lbfgs", fit_intercept=False), None, "Ridge"),
    *[(ours.SGDRegressor(loss, **QUICK), None, OTHER.get(loss, "SGDRegressor")) for loss in REAL],
    *[(ours.SGDRegressor(loss, **QUICK), 3, "MultiOutputRegressor") for loss in ("huber", "poisson")],
    (ours.SGDRegressor("gamma", penalty=None, **QUICK), None, "GammaRegressor"),
]
CASES = [*CLASSIFIERS, *REGRESSORS]


def label(case: Any) -> str:
    model, k, _ = case
    return f"{' '.join(repr(model).split())}-{k}"


def fitted(case: Any, dtype: Any = np.float64, *, names: bool = False) -> tuple[Any, Array]:
    """The estimator of a case, fitted, and rows near and far to predict."""
    model, k, _ = case
    rng = np.random.default_rng(0)
    X = rng.standard_normal((150, 5))
    z = X @ rng.standard_normal((5, k or 1)) + rng.gumbel(size=(150, k or 1))
    if is_classifier(model):
        y = np.array(["a", "b", "c", "d"])[z.argmax(axis=1)] if k > 2 else z.argmax(axis=1)
    else:
        y = np.exp(0.3 * z) if k else np.exp(0.3 * z[:, 0])
    given: Any = X.astype(dtype)
    if names:
        pd = pytest.importorskip("pandas", reason="pandas is not installed")
        given = pd.DataFrame(given, columns=[f"column {j}" for j in range(5)])
    far = np.vstack([X, 5 * X, -5 * X, np.zeros((1, 5))]).astype(dtype)
    return clone(model).fit(given, y), far


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES, ids=label)
def test_scikit_learns_estimator_predicts_the_same(case: Any, dtype: Any) -> None:
    model, X = fitted(case, dtype)
    peer = model.to_sklearn()
    assert type(peer).__name__ == case[2]
    assert type(peer).__module__.startswith("sklearn.")
    assert peer.n_features_in_ == 5
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    if is_classifier(model):
        assert peer.classes_.tolist() == model.classes_.tolist()
        np.testing.assert_allclose(
            peer.decision_function(X), model.decision_function(X), rtol=tolerance, atol=tolerance
        )
        near = np.abs(np.atleast_2d(model.decision_function(X).T).T).min(axis=1) > 1e-4
        assert (peer.predict(X) == model.predict(X))[near].all()
        assert hasattr(peer, "predict_proba") == hasattr(model, "predict_proba")
        if hasattr(model, "predict_proba"):
            np.testing.assert_allclose(peer.predict_proba(X), model.predict_proba(X), rtol=0, atol=tolerance)
    else:
        assert peer.predict(X).shape == model.predict(X).shape
        np.testing.assert_allclose(peer.predict(X), model.predict(X), rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("case", CASES, ids=label)
def test_scikit_learns_estimator_has_valid_parameters_and_fits_again(case: Any) -> None:
    model, X = fitted(case)
    peer = model.to_sklearn()
    y = np.resize(model.classes_, len(X)) if is_classifier(model) else model.predict(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        fresh = clone(peer).fit(X, y)
    assert np.shape(getattr(fresh, "coef_", 0)) == np.shape(getattr(peer, "coef_", 0))
    inner = peer.estimator if isinstance(peer, MultiOutputRegressor) else peer
    assert inner.fit_intercept == model.fit_intercept
    if type(model).__name__ == type(inner).__name__:
        for name in {"alpha", "C", "loss", "class_weight", "eta0", "penalty"} & set(inner.get_params()):
            if not (model.__class__ is ours.SGDClassifier and getattr(model, "loss", "") in ("softmax", "pinball")):
                assert getattr(inner, name) == getattr(model, name)


def test_training_goes_on_in_scikit_learn() -> None:
    model, X = fitted((ours.SGDClassifier("log_loss", **QUICK), 2, ""))
    peer = model.to_sklearn()
    y = model.predict(X)
    assert peer.t_ == model.t_
    peer.partial_fit(X, y)
    assert peer.t_ == model.t_ + len(X)
    assert peer.score(X, y) > 0.95


@pytest.mark.parametrize("case", [CASES[0], CASES[-1], REGRESSORS[0], REGRESSORS[-2]], ids=label)
def test_names_of_features_are_kept(case: Any) -> None:
    model, X = fitted(case, names=True)
    peer = model.to_sklearn()
    assert peer.feature_names_in_.tolist() == [f"column {j}" for j in range(5)]
    with pytest.warns(UserWarning, match="feature names"):
        peer.predict(X)


def test_sparse_coefficients_are_exported() -> None:
    model, X = fitted((ours.LogisticRegression(l1_ratio=1, C=0.1), 2, ""))
    expected = model.predict_proba(X)
    np.testing.assert_allclose(model.sparsify().to_sklearn().predict_proba(X), expected, rtol=0, atol=1e-12)


def test_the_exported_estimator_is_on_its_own() -> None:
    model, X = fitted((ours.Ridge(), None, ""))
    expected = model.predict(X)
    peer = model.to_sklearn()
    peer.coef_ += 1
    np.testing.assert_array_equal(model.predict(X), expected)


@pytest.mark.parametrize(
    "name",
    [
        "LogisticRegression",
        "LogisticRegressionCV",
        "LinearRegression",
        "Ridge",
        "RidgeCV",
        "SGDClassifier",
        "SGDRegressor",
    ],
)
@pytest.mark.parametrize("method", ["to_sklearn", "to_onnx"])
def test_an_estimator_must_be_fitted_first(name: str, method: str) -> None:
    with pytest.raises(NotFittedError):
        getattr(getattr(ours, name)(), method)()


# --- ONNX -------------------------------------------------------------------------------------------------------------


def run(model: Any, X: Array) -> dict[str, Array]:
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    session = runtime.InferenceSession(model.to_onnx().SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"X": X}), strict=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES, ids=label)
def test_onnxruntime_predicts_the_same(case: Any, dtype: Any) -> None:
    model, X = fitted(case, dtype)
    found = run(model, X)
    scale = 1 + np.abs(np.asarray(model.coef_)).max() * 20  # float32 margins are right to their size
    if not is_classifier(model):
        assert set(found) == {"prediction"}
        assert found["prediction"].dtype == dtype
        assert found["prediction"].shape == model.predict(X).shape
        np.testing.assert_allclose(found["prediction"], model.predict(X), rtol=5e-6, atol=1e-6 * scale)
        return
    margins = model.decision_function(X)
    clear = np.abs(margins) > 1e-5 if margins.ndim == 1 else np.diff(np.sort(margins, axis=1))[:, -1] > 1e-5
    assert clear.sum() >= len(X) - 2
    assert (found["label"] == model.predict(X))[clear].all()
    if hasattr(model, "predict_proba"):
        assert set(found) == {"label", "probabilities"}
        assert found["probabilities"].dtype == dtype
        np.testing.assert_allclose(found["probabilities"], model.predict_proba(X), rtol=0, atol=1e-6)
    else:
        assert set(found) == {"label", "decision"}
        np.testing.assert_allclose(found["decision"], margins, rtol=1e-6, atol=1e-6 * scale)


@pytest.mark.parametrize("loss", ["log_loss", "modified_huber"])
def test_rows_that_no_class_wants(loss: str) -> None:
    model, _ = fitted((ours.SGDClassifier(loss, **QUICK), 4, ""))
    model.coef_[:], model.intercept_[:] = 0, -2000.0
    X = np.ones((3, 5))
    np.testing.assert_array_equal(model.predict_proba(X), 0.25)
    np.testing.assert_array_equal(run(model, X)["probabilities"], 0.25)
    if loss == "modified_huber":  # of log_loss, scikit-learn divides 0 by 0
        np.testing.assert_allclose(model.to_sklearn().predict_proba(X), 0.25)


@pytest.mark.parametrize("labels", [[False, True], [3, 9], [0.0, 2.0], ["late", "on time"]], ids=str)
def test_labels_of_every_kind(labels: list[Any]) -> None:
    X = np.random.default_rng(0).standard_normal((50, 2))
    y = np.array(labels)[(X[:, 0] > 0).astype(int)]
    model = ours.LogisticRegression().fit(X, y)
    assert run(model, X)["label"].tolist() == model.predict(X).tolist()


def test_what_an_onnx_graph_says_of_itself() -> None:
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    model, _ = fitted(CASES[0], names=True)
    graph = model.to_onnx()
    properties = {entry.key: entry.value for entry in graph.metadata_props}
    assert json.loads(properties["feature_names"]) == [f"column {j}" for j in range(5)]
    assert (graph.producer_name, graph.producer_version) == ("gdfast", ours.__version__)
    assert graph.graph.name == "LogisticRegression"


def test_a_missing_onnx_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    model, _ = fitted(CASES[0])
    with pytest.raises(ImportError, match=r'pip install "gdfast\[onnx\]"'):
        model.to_onnx()
