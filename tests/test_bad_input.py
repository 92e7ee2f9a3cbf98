"""Bad input gets an error that names the argument, says what came and what to do; and nothing is lost by it."""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.preprocessing import StandardScaler

import gdfast
from gdfast import SGD, Adam, ExponentialDecay, losses

Array = np.ndarray[Any, Any]

N, D = 60, 4
REFUSED = (ValueError, TypeError)
CLASSIFIERS = ("LogisticRegression", "SGDClassifier")
REGRESSORS = ("LinearRegression", "Ridge", "SGDRegressor")
NAMES = (*CLASSIFIERS, *REGRESSORS)
STREAMS = ("SGDClassifier", "SGDRegressor")

# words that tell the reader what was wanted, or what to do now
ADVICE = re.compile(
    r"expected|expects|expecting|must|should|need|required|requires|require|use|pass|drop|fill|encode|reshape|choose|"
    r"convert|remove|start|set|collect|densify|give|leave|among the classes|the classes are|not the same as",
    re.IGNORECASE,
)


def make(name: str, **parameters: Any) -> Any:
    if name.startswith("SGD"):
        tame = {"learning_rate": "constant", "eta0": 0.01}
        parameters = {"random_state": 0, "max_iter": 3, "tol": None, **tame, **parameters}
    return getattr(gdfast, name)(**parameters)


def good(name: str) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, D))
    z = X @ rng.standard_normal(D) + rng.standard_normal(N)
    return X, (z > 0).astype(np.int64) if name in CLASSIFIERS else z


def methods(name: str, *, training: bool) -> tuple[str, ...]:
    if training:
        return ("fit", "partial_fit") if name in STREAMS else ("fit",)
    extra = ("decision_function", "predict_proba", "predict_log_proba") if name in CLASSIFIERS else ()
    return ("predict", "score", *extra)


def call(model: Any, method: str, X: Any, y: Any = None, weight: Any = None) -> Any:
    if method in ("fit", "partial_fit"):
        first = {"classes": [0, 1]} if method == "partial_fit" and hasattr(model, "decision_function") else {}
        return getattr(model, method)(X, y, sample_weight=weight, **first)
    return model.score(X, y, sample_weight=weight) if method == "score" else getattr(model, method)(X)


def condition(model: Any, X: Array) -> tuple[Any, ...]:
    """All that a user can see of a fitted estimator."""
    public = {key: repr(value) for key, value in vars(model).items() if not key.startswith("_")}
    return public, model.predict(X).tobytes(), np.asarray(model.coef_).tobytes()


def refuses(action: Callable[[], Any], argument: str, came: str = "") -> str:
    """The words of the error, which names the argument, what came (a regular expression) and what to do."""
    with pytest.raises(REFUSED) as caught:
        action()
    message = str(caught.value)
    assert re.search(rf"(?<![A-Za-z_]){argument}(?![A-Za-z_])", message), f"{argument} is not named in: {message}"
    assert re.search(came, message), f"{came!r} is not in: {message}"
    assert ADVICE.search(message), f"no advice in: {message}"
    return message


def assert_nothing_lost(name: str, action: Callable[[Any], Any], argument: str, came: str, **parameters: Any) -> None:
    """A fresh estimator stays unfitted, a fitted one stays as it was, and both train as if nothing had been."""
    X, y = good(name)
    fresh = make(name, **parameters)
    refuses(lambda: action(fresh), argument, came)
    with pytest.raises(NotFittedError):
        fresh.predict(X)
    reference = make(name, **parameters).fit(X, y)
    fitted = make(name, **parameters).fit(X, y)
    before = condition(fitted, X)
    refuses(lambda: action(fitted), argument, came)
    assert condition(fitted, X) == before
    if name in STREAMS:
        assert fitted.partial_fit(X, y).coef_.tobytes() == reference.partial_fit(X, y).coef_.tobytes()
    assert fresh.fit(X, y).coef_.tobytes() == make(name, **parameters).fit(X, y).coef_.tobytes()


# --- X ----------------------------------------------------------------------------------------------------------------


def spoilt_csr(X: Array, part: str, at: int, value: float) -> Any:
    out = sparse.csr_array(X)
    getattr(out, part)[at] = value
    return out


BAD_X: dict[str, tuple[Callable[[Array], Any], str]] = {
    "1-d": (lambda X: X[:, 0], r"1D.*\(60,\)"),
    "3-d": (lambda X: X[None], r"3.*\(1, 60, 4\)"),
    "scalar": (lambda X: 3.5, "scalar"),
    "None": (lambda X: None, ""),
    "no rows": (lambda X: X[:0], r"0 sample.*\(0, 4\)"),
    "no columns": (lambda X: X[:, :0], r"0 feature.*\(60, 0\)"),
    "masked": (lambda X: np.ma.array(X, mask=X > 1), "masked"),
    "complex": (lambda X: X + 1j, "(?i)complex"),
    "strings": (lambda X: X.astype(str), "could not convert string to float"),
    "words": (lambda X: np.full(X.shape, "late"), "late"),
    "objects": (lambda X: np.where(X > 2, "late", X.astype(object)), "object"),
    "dictionaries": (lambda X: np.full(X.shape, {"a": 1}, dtype=object), "object"),
    "None inside": (lambda X: np.where(np.arange(D) == 2, None, X), "NaN"),
    "dates": (lambda X: np.zeros(X.shape, "datetime64[D]"), "datetime64"),
    "records": (lambda X: np.zeros(X.shape, [("a", "f4")]), "(?i)record"),
    "ragged": (lambda X: [[1.0, 2.0], [3.0]] * (N // 2), "inhomogeneous"),
    "dictionary": (lambda X: {"a": X}, "dict|object"),
    "sparse with NaN": (lambda X: spoilt_csr(X, "data", 7, np.nan), r"NaN.*row 1, column 3"),
    "sparse, a column outside": (lambda X: spoilt_csr(X, "indices", 9, D), r"row 2 has an entry in column 4 of 4"),
    "sparse, a column below 0": (lambda X: spoilt_csr(X, "indices", 9, -1), r"row 2 has an entry in column -1 of 4"),
    "sparse, rows that overlap": (lambda X: spoilt_csr(X, "indptr", 3, 2), r"row 2 is entries 8 to 2"),
    "sparse, rows behind the end": (lambda X: spoilt_csr(X, "indptr", N, 4 * N + 1), "61 offsets that end at"),
    "sparse, of complex numbers": (lambda X: sparse.csr_matrix(X + 1j), "(?i)complex"),
}


@pytest.mark.parametrize("case", BAD_X)
@pytest.mark.parametrize(("name", "method"), [(n, m) for n in NAMES for m in methods(n, training=True)])
def test_bad_rows_to_learn_from(name: str, method: str, case: str) -> None:
    X, y = good(name)
    bad, came = BAD_X[case]
    assert_nothing_lost(name, lambda model: call(model, method, bad(X), y), "X", came)


@pytest.mark.parametrize("case", [*BAD_X, "too few columns", "too many columns"])
@pytest.mark.parametrize(("name", "method"), [(n, m) for n in NAMES for m in methods(n, training=False)])
def test_bad_rows_to_predict(name: str, method: str, case: str) -> None:
    X, y = good(name)
    more: dict[str, tuple[Callable[[Array], Any], str]] = {
        "too few columns": (lambda X: X[:, :3], "3 features.* 4 features"),
        "too many columns": (lambda X: np.hstack([X, X]), "8 features.* 4 features"),
    }
    bad, came = {**BAD_X, **more}[case]
    model = make(name, **({"loss": "log_loss"} if name == "SGDClassifier" else {})).fit(X, y)
    before = condition(model, X)
    refuses(lambda: call(model, method, bad(X), y), "X", came)
    assert condition(model, X) == before


# a corner each, and places that only a scan of everything finds
CELLS = [(0, 0), (N - 1, D - 1), *map(tuple, np.random.default_rng(1).integers(0, (N, D), (4, 2)).tolist())]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("cell", CELLS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_nan_and_infinity_in_rows_are_found(name: str, cell: tuple[int, int], value: float, dtype: Any) -> None:
    X, y = good(name)
    bad = X.astype(dtype)
    bad[cell] = value
    came = ("NaN" if math.isnan(value) else "infinity") + f".*row {cell[0]}, column {cell[1]}"
    model = make(name).fit(X, y)
    before = condition(model, X)
    for method in methods(name, training=True):
        refuses(lambda method=method: call(model, method, bad, y), "X", came)
    for method in ("predict", "score"):
        refuses(lambda method=method: call(model, method, bad, y), "X", came)
    assert condition(model, X) == before


@pytest.mark.parametrize("name", NAMES)
def test_every_single_cell_is_looked_at(name: str) -> None:
    X, y = good(name)
    model = make(name)
    for i in range(N):
        for j in range(D):
            kept = X[i, j]
            X[i, j] = math.nan
            with pytest.raises(ValueError, match=f"row {i}, column {j}"):
                model.fit(X, y)
            X[i, j] = kept
    model.fit(X, y)


@pytest.mark.parametrize("name", NAMES)
def test_what_looks_odd_but_holds_good_numbers_is_taken(name: str) -> None:
    X, y = good(name)
    expected = make(name).fit(X, y).coef_
    for odd in (X.astype(object), np.ma.array(X), X.tolist(), np.ma.array(X, mask=np.zeros_like(X, bool))):
        assert make(name).fit(odd, y).coef_.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("size", "dtype"),
    [(1e30, np.float64), (1e160, np.float64), (1e300, np.float64), (1e18, np.float32), (1e36, np.float32)],
)
@pytest.mark.parametrize("where", ["a column", "all of X", "y"])
def test_huge_numbers_never_become_nan_in_silence(name: str, where: str, size: float, dtype: Any) -> None:
    X, y = good(name)
    if where == "y":
        y = np.where(y == 1, 10**15, -1) if name in CLASSIFIERS else (y * size).astype(dtype)
    else:
        X[:, 1 if where == "a column" else slice(None)] *= size
    X = X.astype(dtype)
    model = make(name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model.fit(X, y)
        except (*REFUSED, FloatingPointError) as error:
            assert ADVICE.search(str(error)) or "scale" in str(error)  # noqa: PT017
            return
    assert np.isfinite(model.coef_).all()
    assert np.isfinite(model.intercept_).all()
    if caught:
        assert any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
        return
    with np.errstate(over="ignore"):
        if name in CLASSIFIERS:
            assert model.score(X, y) > 0.5
        else:  # no worse than the mean
            residual = (model.predict(X).astype(np.float64) - y) / np.abs(y).max()
            assert np.mean(residual**2) <= np.var(y / np.abs(y).max()) * (1 + 1e-6)


# --- y ----------------------------------------------------------------------------------------------------------------

BAD_LABELS: dict[str, tuple[Callable[[Array], Any], str]] = {
    "too short": (lambda y: y[:-1], "60.*59"),
    "too long": (lambda y: np.append(y, 0), "60.*61"),
    "empty": (lambda y: y[:0], "60.*0"),
    "None": (lambda y: None, "None"),
    "scalar": (lambda y: 1, "single int"),
    "two columns": (lambda y: np.stack([y, y], axis=1), r"\(60, 2\)"),
    "3-d": (lambda y: y[:, None, None], r"\(60, 1, 1\)"),
    "one class": (np.zeros_like, "one class.*0"),
    "one class of text": (lambda y: np.full(N, "late"), "one class.*late"),
    "continuous": (lambda y: y + 0.5, "continuous"),
    "complex": (lambda y: y + 0j, "(?i)complex"),
    "NaN": (lambda y: np.where(np.arange(N) == 7, math.nan, y), "NaN.*row 7"),
    "infinity": (lambda y: np.where(np.arange(N) == N - 1, math.inf, y), "infinity.*row 59"),
    "masked": (lambda y: np.ma.array(y, mask=y == 0), "masked"),
    "mixed": (lambda y: np.where(y == 0, "late", y.astype(object)), "(?i)unknown label type|only strings"),
    "missing": (lambda y: np.where(y == 0, None, "late"), "NaN"),
    "dates": (lambda y: y.astype("datetime64[D]"), "datetime64"),
    "dictionary": (lambda y: {0: 1}, "dict"),
}
BAD_TARGETS: dict[str, tuple[Callable[[Array], Any], str]] = {
    "too short": (lambda y: y[:-1], "60.*59"),
    "too long": (lambda y: np.append(y, 0), "60.*61"),
    "empty": (lambda y: y[:0], "60.*0"),
    "no targets": (lambda y: np.empty((N, 0)), r"\(60, 0\)"),
    "None": (lambda y: None, "None"),
    "scalar": (lambda y: 1.5, "single float"),
    "3-d": (lambda y: y[:, None, None], r"\(60, 1, 1\)"),
    "strings": (lambda y: np.full(N, "late"), "late"),
    "objects": (lambda y: np.where(y > 1, "late", y.astype(object)), "late|object"),
    "complex": (lambda y: y + 0j, "(?i)complex"),
    "NaN": (lambda y: np.where(np.arange(N) == 7, math.nan, y), "NaN.*row 7"),
    "infinity": (lambda y: np.where(np.arange(N) == N - 1, -math.inf, y), "infinity.*row 59"),
    "masked": (lambda y: np.ma.array(y, mask=y > 1), "masked"),
    "dates": (lambda y: y.astype("datetime64[D]"), "datetime64"),
    "sparse": (lambda y: sparse.csr_matrix(y[:, None]), "(?i)sparse"),
}


def bad_y() -> list[Any]:
    return [
        pytest.param(name, method, case, id=f"{name}-{method}-{case}")
        for name in NAMES
        for method in methods(name, training=True)
        for case in (BAD_LABELS if name in CLASSIFIERS else BAD_TARGETS)
        # a part of a stream may hold one class only
        if not (method == "partial_fit" and case == "one class")
    ]


@pytest.mark.parametrize(("name", "method", "case"), bad_y())
def test_bad_targets(name: str, method: str, case: str) -> None:
    X, y = good(name)
    bad, came = (BAD_LABELS if name in CLASSIFIERS else BAD_TARGETS)[case]
    if method == "partial_fit" and "one class" in case:
        came = "<U4"
    assert_nothing_lost(name, lambda model: call(model, method, X, bad(y)), "y", came)


@pytest.mark.parametrize("row", [0, 17, N - 1])
@pytest.mark.parametrize("loss", [n for n, loss in losses.ALL.items() if loss.target in ("positive", "nonnegative")])
def test_targets_outside_the_range_of_the_loss(loss: str, row: int) -> None:
    X, y = good("SGDRegressor")
    lowest = 0.0 if losses.ALL[loss].target == "positive" else -0.5
    bad = np.exp(y)
    bad[row] = lowest
    for method in ("fit", "partial_fit"):
        message = refuses(
            lambda method=method: call(make("SGDRegressor", loss=loss), method, X, bad), "y", f"{lowest:g}"
        )
        assert loss in message


def test_a_change_of_the_number_of_targets_in_a_stream() -> None:
    X, y = good("SGDRegressor")
    model = make("SGDRegressor").partial_fit(X, y)
    before = condition(model, X)
    refuses(lambda: model.partial_fit(X, np.stack([y, y], axis=1)), "y", "2")
    assert condition(model, X) == before
    assert (
        model.partial_fit(X, y).coef_.tobytes()
        == make("SGDRegressor").partial_fit(X, y).partial_fit(X, y).coef_.tobytes()
    )


def test_a_change_of_the_number_of_columns_in_a_stream() -> None:
    X, y = good("SGDRegressor")
    model = make("SGDRegressor").partial_fit(X, y)
    before = condition(model, X)
    refuses(lambda: model.partial_fit(X[:, :2], y), "X", "2 features.* 4 features")
    assert condition(model, X) == before


def test_labels_that_were_not_announced() -> None:
    X, y = good("SGDClassifier")
    model = make("SGDClassifier")
    refuses(lambda: model.partial_fit(X, y), "classes")
    refuses(lambda: model.partial_fit(X, y, classes=[0, 2]), "y", "label 1")
    refuses(lambda: model.partial_fit(X, y, classes=[1]), "classes|y")
    model.partial_fit(X, y, classes=[0, 1])
    before = condition(model, X)
    refuses(lambda: model.partial_fit(X, y + 1), "y", "label 2")
    refuses(lambda: model.partial_fit(X, y, classes=[0, 1, 2]), "classes", "2")
    refuses(lambda: model.partial_fit(X, y.astype(str)), "y", "<U")
    assert condition(model, X) == before


@pytest.mark.parametrize("bad", [[], [0, math.nan], [[0], [1, 2]], "01", 1, [0, None]], ids=repr)
def test_bad_classes(bad: Any) -> None:
    X, y = good("SGDClassifier")
    refuses(lambda: make("SGDClassifier").partial_fit(X, y, classes=bad), "classes|y")


# --- weights ----------------------------------------------------------------------------------------------------------

BAD_WEIGHTS: dict[str, tuple[Callable[[Array], Any], str]] = {
    "too short": (lambda w: w[:-1], "60.*59"),
    "too long": (lambda w: np.append(w, 1), "60.*61"),
    "empty": (lambda w: w[:0], "60.*0"),
    "one column": (lambda w: w[:, None], r"\(60, 1\)"),
    "NaN": (lambda w: np.where(np.arange(N) == 0, math.nan, w), "NaN.*row 0"),
    "NaN last": (lambda w: np.where(np.arange(N) == N - 1, math.nan, w), "NaN.*row 59"),
    "infinity": (lambda w: np.where(np.arange(N) == 31, math.inf, w), "infinity.*row 31"),
    "negative": (lambda w: np.where(np.arange(N) == 31, -0.5, w), "-0.5.*row 31"),
    "zero": (np.zeros_like, "zero"),
    "scalar zero": (lambda w: 0.0, "zero"),
    "masked": (lambda w: np.ma.array(w, mask=w > 1), "masked"),
    "complex": (lambda w: w + 0j, "(?i)complex"),
    "strings": (lambda w: np.full(N, "heavy"), "heavy"),
    "objects": (lambda w: np.full(N, {}, dtype=object), "object"),
    "a word": (lambda w: "balanced", "balanced|str"),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
@pytest.mark.parametrize(("name", "method"), [(n, m) for n in NAMES for m in methods(n, training=True)])
def test_bad_weights(name: str, method: str, case: str) -> None:
    X, y = good(name)
    bad, came = BAD_WEIGHTS[case]
    weight = np.random.default_rng(3).uniform(0.1, 2, N)
    assert_nothing_lost(name, lambda model: call(model, method, X, y, bad(weight)), "sample_weight", came)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_weights_that_leave_nothing(name: str) -> None:
    X, y = good(name)
    refuses(lambda: make(name, class_weight={0: 0, 1: 0}).fit(X, y), "class_weight")
    model = make(name, class_weight={0: 0})
    refuses(lambda: model.fit(X, y, sample_weight=(y == 0).astype(float)), "sample_weight")


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", STREAMS)
def test_weights_that_leave_nothing_beside_the_held_out_rows(name: str, seed: int) -> None:
    """With early stopping the rows with weight may all be held out: an error or a model, never NaN."""
    X, y = good(name)
    weight = np.zeros(N)
    weight[[3, 5]] = 1.0
    model = make(name, early_stopping=True, validation_fraction=0.8, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model.fit(X, y, sample_weight=weight)
        except ValueError as error:
            assert re.search("sample_weight|validation_fraction", str(error)), error  # noqa: PT017
            return
    assert np.isfinite(model.coef_).all()
    assert np.isfinite(model.loss_curve_).all()
    assert np.isfinite(model.history_.validation_score).all()


BAD_START: dict[str, tuple[Any, str]] = {
    "wrong size": (np.ones(D + 1), "5"),
    "NaN": (np.array([1.0, math.nan, 1.0, 1.0]), "NaN"),
    "infinity": (np.array([1.0, math.inf, 1.0, 1.0]), "infinity"),
    "text": (np.full(D, "a"), "a"),
    "complex": (np.ones(D) + 1j, "(?i)complex"),
    "None inside": ([1.0, None, 1.0, 1.0], ""),
}


@pytest.mark.parametrize("case", BAD_START)
@pytest.mark.parametrize("name", STREAMS)
def test_bad_starting_weights(name: str, case: str) -> None:
    X, y = good(name)
    start, came = BAD_START[case]
    assert_nothing_lost(name, lambda model: model.fit(X, y, coef_init=start), "coef_init", came)
    if case != "None inside":
        wrong = [1.0, 2.0] if case == "wrong size" else np.asarray(start)[1:2]
        refuses(lambda: make(name).fit(X, y, intercept_init=wrong), "intercept_init")


# --- parameters -------------------------------------------------------------------------------------------------------

NOT_A_NUMBER = ["1.0", None, math.nan, [1.0], True, 1j, object()]
NOT_A_COUNT = ["10", None, math.nan, 1.5, 0, -1, True, [3]]
NOT_A_FLAG = ["yes", 2, 0.5, None, [True]]
NOT_A_NAME = ["unknown", 3, ["l2"], True]
NOT_THREADS = [0, 1.5, "2", True, [2]]
NOT_A_SEED = ["seed", -1, 1.5, [[1]]]
NOT_VERBOSE = ["loud", -1, [1]]

Row = tuple[dict[str, Any], list[Any]]
SGD_PARAMETERS: dict[str, Row] = {
    "penalty": ({}, ["l3", 3, True]),
    "alpha": ({}, [*NOT_A_NUMBER, -1.0, math.inf]),
    "l1_ratio": ({"penalty": "elasticnet"}, ["a", math.nan, -0.1, 1.1, True, [0.5]]),
    "fit_intercept": ({}, NOT_A_FLAG),
    "max_iter": ({}, NOT_A_COUNT),
    "tol": ({}, ["a", math.nan, True, [1e-3]]),
    "shuffle": ({}, [*NOT_A_FLAG, "rows"]),
    "verbose": ({}, NOT_VERBOSE),
    "epsilon": ({"loss": "huber"}, [*NOT_A_NUMBER, -1.0, 0.0, math.inf]),
    "n_jobs": ({}, NOT_THREADS),
    "random_state": ({}, NOT_A_SEED),
    "learning_rate": ({}, [*NOT_A_NAME, None, 0.1]),
    "eta0": ({"learning_rate": "constant"}, [*NOT_A_NUMBER, -1.0, 0.0, math.inf]),
    "power_t": ({"learning_rate": "invscaling"}, [*NOT_A_NUMBER, math.inf]),
    "early_stopping": ({}, NOT_A_FLAG),
    "validation_fraction": ({"early_stopping": True}, [*NOT_A_NUMBER, 0.0, 1.0, 1.5, -0.1]),
    "n_iter_no_change": ({"tol": 1e-3, "max_iter": 1000}, NOT_A_COUNT),
    "warm_start": ({}, NOT_A_FLAG),
    "average": ({}, ["yes", -1, 1.5, None, [1]]),
    "optimizer": ({}, ["adamw?", Adam, 0.1, True, object(), {"name": "adam"}]),
    "batch_size": ({}, ["big", None, 0, -1, 1.5, True, [32]]),
    "clip_norm": ({}, ["a", math.nan, 0.0, -1.0, True, math.inf, [1.0]]),
    "accumulate": ({}, NOT_A_COUNT),
    "clip_value": ({}, ["a", math.nan, 0.0, -1.0, True, math.inf, [1.0]]),
    "normalize_gradient": ({}, ["a", math.nan, 0.0, -1.0, True, math.inf, [1.0]]),
    "penalty_factors": ({}, ["a", 1.0, [1.0], [-1.0] * 4, [math.nan] * 4, [[1.0] * 4]]),
    "bounds": ({}, ["a", 1.0, (1.0, 0.0), (math.nan, 1.0), (0.0, [1.0]), (0, 1, 2), ("low", "high")]),
    "positive": ({}, NOT_A_FLAG),
    "standardize": ({}, ["yes", None, 2, [True]]),
    "max_steps": ({}, [bad for bad in NOT_A_COUNT if bad is not None]),
    "max_seconds": ({}, ["a", math.nan, 0.0, -1.0, True, math.inf, [1.0]]),
    "gradient_tol": ({}, ["a", math.nan, -1.0, True, math.inf]),
    "objective_tol": ({}, ["a", math.nan, -1.0, True, math.inf]),
    "target_loss": ({}, ["a", math.nan, True, math.inf]),
    "callbacks": ({}, ["print", 3, [print, None], True]),
    "checkpoint": ({"random_state": 0}, [3, True, 1.5, ["folder"]]),
    "device": ({}, ["gpu", "cuda:x", 3, None, True]),
}
CLASS_WEIGHTS: Row = ({}, ["unbalanced", {7: 1.0}, {0: -1.0}, {0: math.nan}, {0: "a"}, [1, 2], 2.0, True])
BAD_PARAMETERS: dict[str, dict[str, Row]] = {
    "LogisticRegression": {
        "penalty": ({}, ["l3", 3, True]),
        "C": ({}, [*NOT_A_NUMBER, 0.0, -1.0]),
        "l1_ratio": ({}, ["a", math.nan, -0.1, 1.1, True, [0.5]]),
        "dual": ({}, NOT_A_FLAG),
        "tol": ({}, [*NOT_A_NUMBER, -1.0]),
        "fit_intercept": ({}, NOT_A_FLAG),
        "intercept_scaling": ({}, ["a", None, math.nan]),
        "class_weight": CLASS_WEIGHTS,
        "random_state": ({}, NOT_A_SEED),
        "solver": ({}, [*NOT_A_NAME, None]),
        "checkpoint": ({}, [3, True, 1.5, ["folder"]]),
        "max_iter": ({}, NOT_A_COUNT),
        "verbose": ({}, NOT_VERBOSE),
        "warm_start": ({}, NOT_A_FLAG),
        "n_jobs": ({}, NOT_THREADS),
    },
    "LinearRegression": {
        "fit_intercept": ({}, NOT_A_FLAG),
        "copy_X": ({}, NOT_A_FLAG),
        "tol": ({}, [*NOT_A_NUMBER, -1.0]),
        "n_jobs": ({}, NOT_THREADS),
        "positive": ({}, [*NOT_A_FLAG, True]),
    },
    "Ridge": {
        "alpha": ({}, [-1.0, "a", math.nan, math.inf, [1.0, 2.0], [-1.0], None, True, 1j, [[1.0]]]),
        "fit_intercept": ({}, NOT_A_FLAG),
        "copy_X": ({}, NOT_A_FLAG),
        "max_iter": ({}, [bad for bad in NOT_A_COUNT if bad is not None]),
        "tol": ({}, [*NOT_A_NUMBER, -1.0]),
        "solver": ({}, [*NOT_A_NAME, None]),
        "positive": ({}, [*NOT_A_FLAG, True]),
        "random_state": ({}, NOT_A_SEED),
        "n_jobs": ({}, NOT_THREADS),
    },
    "SGDClassifier": {
        "loss": ({}, [*NOT_A_NAME, None, "poisson", "gamma", "tweedie"]),
        "class_weight": CLASS_WEIGHTS,
        **SGD_PARAMETERS,
    },
    "SGDRegressor": {
        "loss": ({}, [*NOT_A_NAME, None, *(n for n, loss in losses.ALL.items() if loss.target in ("binary", "class"))]),
        "quantile": ({"loss": "pinball"}, [*NOT_A_NUMBER, 0.0, 1.0, -0.1, 1.5]),
        "power": ({"loss": "tweedie"}, [*NOT_A_NUMBER, 1.0, 2.0, 0.0, 3.0]),
        **SGD_PARAMETERS,
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_in_the_table(name: str) -> None:
    assert set(inspect.signature(getattr(gdfast, name)).parameters) == set(BAD_PARAMETERS[name])


def bad_parameters() -> list[Any]:
    return [
        pytest.param(name, parameter, around, bad, id=f"{name}-{parameter}-{type(bad).__name__} {number}")
        for name, table in BAD_PARAMETERS.items()
        for parameter, (around, values) in table.items()
        for number, bad in enumerate(values)
    ]


@pytest.mark.parametrize(("name", "parameter", "around", "bad"), bad_parameters())
def test_bad_parameters(name: str, parameter: str, around: dict[str, Any], bad: Any) -> None:
    X, y = good(name)
    y = np.exp(y) if around.get("loss") == "tweedie" else y
    model = make(name, **around)
    setting = {parameter: bad}
    model.set_params(**setting)  # accepted here, as in scikit-learn: looked at in fit
    for method in methods(name, training=True):
        refuses(lambda method=method: call(model, method, X, y), parameter)
        assert not hasattr(model, "coef_")
    assert model.get_params(deep=False)[parameter] is bad
    fitted = make(name, **around).fit(X, y)
    before = condition(fitted, X)[1:]
    fitted.set_params(**setting)
    refuses(lambda: fitted.fit(X, y), parameter)
    if parameter not in ("n_jobs", "loss", "epsilon", "quantile", "power"):  # predict reads these too
        assert condition(fitted, X)[1:] == before


GOOD_PARAMETERS: dict[str, list[Any]] = {
    "alpha": [np.float32(0.1), np.int64(1), 1],
    "C": [np.float32(0.1), np.int64(1), 1, math.inf],
    "tol": [np.float64(1e-4), 1],
    "max_iter": [np.int32(200)],
    "fit_intercept": [np.bool_(True), np.bool_(False)],
    "shuffle": [np.bool_(False)],
    "early_stopping": [np.bool_(True)],
    "warm_start": [np.bool_(True)],
    "copy_X": [False, np.bool_(True)],
    "dual": [False],
    "n_jobs": [np.int64(2), None, -1, -2, 100],
    "random_state": [np.int64(3), None, np.random.RandomState(0)],
    "verbose": [0, False],
    "average": [0, 1, np.int64(10), np.bool_(True)],
    "batch_size": [np.int64(7), 10**9],
    "accumulate": [np.int8(3)],
    "clip_norm": [np.float32(1), 3],
    "l1_ratio": [None, 0, 1, np.float32(0.5)],
    "optimizer": ["sgd", "adam", SGD(0.01, momentum=0.9), Adam(ExponentialDecay(0.1, 10, 0.9))],
    "eta0": [1, np.float32(0.01)],
    "n_iter_no_change": [np.int64(5), 10**6],
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", NAMES)
def test_parameters_of_numpys_types_are_taken(name: str) -> None:
    X, y = good(name)
    for parameter in set(GOOD_PARAMETERS) & set(BAD_PARAMETERS[name]):
        for value in GOOD_PARAMETERS[parameter]:
            setting = {parameter: value}
            assert np.isfinite(make(name, **setting).fit(X, y).coef_).all(), setting


@pytest.mark.parametrize(
    ("build", "argument"),
    [
        (lambda: Adam(-1), "learning_rate"),
        (lambda: Adam(math.nan), "learning_rate"),
        (lambda: Adam("fast"), "learning_rate"),
        (lambda: Adam(beta_1=1.0), "beta_1"),
        (lambda: Adam(beta_2=-0.1), "beta_2"),
        (lambda: Adam(epsilon=0), "epsilon"),
        (lambda: SGD(0), "learning_rate"),
        (lambda: SGD(momentum=1), "momentum"),
        (lambda: SGD(nesterov=True), "nesterov"),
        (lambda: ExponentialDecay(0, 10, 0.9), "initial_learning_rate"),
        (lambda: ExponentialDecay(0.1, 0, 0.9), "decay_steps"),
        (lambda: ExponentialDecay(0.1, 10, math.inf), "decay_rate"),
        (lambda: gdfast.ClipNorm(0), "max_norm"),
        (lambda: gdfast.ClipValue(math.nan), "limit"),
        (lambda: gdfast.ElasticNet(-1), "alpha"),
        (lambda: gdfast.ElasticNet(1, 2), "l1_ratio"),
        (lambda: gdfast.runtime.threads(0), "n_jobs"),
        (lambda: gdfast.runtime.use("avx1024"), "avx1024"),
    ],
)
def test_bad_building_blocks(build: Callable[[], Any], argument: str) -> None:
    refuses(build, argument)


# --- learning rates that diverge --------------------------------------------------------------------------------------


def real(name: str, *, scaled: bool = True) -> tuple[Array, Array]:
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return (StandardScaler().fit_transform(X) if scaled else X), y


def overlapping(k: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(5)
    X = rng.standard_normal((500, 8))
    return X, (X @ rng.standard_normal((8, k)) + rng.gumbel(size=(500, k))).argmax(axis=1)


def objective(model: Any, X: Array, y: Array, *, coef: Array, intercept: Array) -> float:
    """Mean loss + penalty by the formulas, in float64: infinity where they overflow."""
    loss = model._loss()
    w = np.atleast_2d(coef).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        z = np.asarray(X, np.float64) @ w.T + intercept
        if hasattr(model, "classes_"):
            target = np.searchsorted(model.classes_, y)[:, None]
            target = (target == np.arange(w.shape[0])) if w.shape[0] > 1 else target
            y = (target if loss.target in ("binary", "class") else 2.0 * target - 1).astype(np.float64)
            loss = losses.LogLoss() if loss.target == "class" and w.shape[0] == 1 else loss
        else:
            y = y.reshape(z.shape)
        value = loss.value(z, y).sum(axis=1).mean() + 0.5 * model.alpha * (w**2).sum()
    return float(value) if np.isfinite(value) else math.inf


def assert_not_worse_than_the_start(model: Any, X: Array, y: Array) -> None:
    assert np.isfinite(model.coef_).all()
    assert np.isfinite(model.intercept_).all()
    start = objective(model, X, y, coef=np.zeros_like(model.coef_), intercept=np.zeros_like(model.intercept_))
    end = objective(model, X, y, coef=model.coef_, intercept=model.intercept_)
    assert end <= start * (1 + 1e-6)


def assert_divergence_is_told(caught: Any, *, within: int = 2) -> None:
    assert len(caught) == 1
    message = str(caught[0].message)
    epoch = re.search(r"diverged in epoch (\d+)", message)
    assert epoch is not None, message
    assert int(epoch[1]) <= within, message
    assert re.search("(?i)lower the (learning )?rate|lower (eta0|alpha)|raise alpha", message), message


def one_line(model: Any) -> str:
    return re.sub(r"\s+|learning_rate=|loss=|000000.0|_1=0.9, beta_2=.*?e-08", "", repr(model))


DIVERGENT: dict[str, tuple[Any, Callable[[], tuple[Array, Array]]]] = {
    f"{one_line(model)} on {data}": (model, load)
    for data, load, models in [
        *[
            (
                data,
                load,
                [
                    gdfast.SGDClassifier("log_loss", learning_rate="constant", eta0=1e6),
                    gdfast.SGDClassifier("hinge", learning_rate="constant", eta0=1e6),
                    gdfast.SGDClassifier("squared_error", learning_rate="constant", eta0=1e6),
                    gdfast.SGDClassifier("squared_hinge", learning_rate="invscaling", eta0=1e6),
                    gdfast.SGDClassifier("squared_error", learning_rate="adaptive", eta0=1e6),
                    gdfast.SGDClassifier("log_loss", optimizer=Adam(1e9)),
                    gdfast.SGDClassifier("softmax", optimizer=Adam(1e9), batch_size=16),
                    gdfast.SGDClassifier("log_loss", optimizer=SGD(1e6, momentum=0.9), batch_size=16),
                    gdfast.SGDClassifier("log_loss", learning_rate="constant", eta0=1e6, average=True),
                ],
            )
            for data, load in [
                ("two overlapping classes", lambda: overlapping(2)),
                ("four overlapping classes", lambda: overlapping(4)),
                ("breast cancer", lambda: real("breast_cancer")),
                ("raw wine", lambda: real("wine", scaled=False)),
            ]
        ],
        *[
            (
                data,
                load,
                [
                    gdfast.SGDRegressor(learning_rate="constant", eta0=1e6),
                    gdfast.SGDRegressor(learning_rate="invscaling", eta0=1e6),
                    gdfast.SGDRegressor(learning_rate="adaptive", eta0=1e6),
                    gdfast.SGDRegressor("huber", learning_rate="constant", eta0=1e6),
                    gdfast.SGDRegressor("poisson", learning_rate="constant", eta0=1e6),
                    gdfast.SGDRegressor(optimizer=Adam(1e9)),
                    gdfast.SGDRegressor(optimizer=SGD(1e6), batch_size=16),
                    gdfast.SGDRegressor(learning_rate="constant", eta0=1e6, early_stopping=True),
                ],
            )
            for data, load in [
                ("diabetes", lambda: real("diabetes")),
                ("raw diabetes", lambda: real("diabetes", scaled=False)),
            ]
        ],
        ("diabetes", lambda: real("diabetes"), [gdfast.SGDRegressor(learning_rate="optimal", alpha=1e-20)]),
        # scikit-learn's own defaults on columns that nobody scaled
        ("raw wine", lambda: real("wine", scaled=False), [gdfast.SGDClassifier("squared_error", standardize=False)]),
        ("two overlapping classes", lambda: overlapping(2), [gdfast.SGDClassifier("squared_error", alpha=1e-6)]),
        (
            "raw wine as values",
            lambda: real("wine", scaled=False),
            [gdfast.SGDRegressor(standardize=False), gdfast.SGDRegressor("poisson", standardize=False)],
        ),
    ]
    for model in models
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", DIVERGENT)
def test_a_learning_rate_that_diverges(case: str, dtype: Any) -> None:
    model, load = DIVERGENT[case]
    X, y = load()
    model = type(model)(**{**model.get_params(), "random_state": 0})
    with pytest.warns(ConvergenceWarning) as caught:
        model.fit(X.astype(dtype), y)
    assert_divergence_is_told(caught)
    assert model.n_iter_ <= 2
    assert model.fit_report_["converged"] is False
    assert "diverged" in model.fit_report_["stopped"]
    assert_not_worse_than_the_start(model, X, y)
    assert model.predict(X.astype(dtype)).shape == (len(y),)
    assert np.isfinite(model.score(X.astype(dtype), y))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("learning_rate", ["constant", "invscaling", "adaptive"])
@pytest.mark.parametrize("exponent", range(-2, 9))
def test_at_every_rate_the_result_is_no_worse_than_the_start_or_it_is_told(
    exponent: int, learning_rate: str, dtype: Any
) -> None:
    X, y = real("diabetes")
    model = gdfast.SGDRegressor(learning_rate=learning_rate, eta0=10.0**exponent, random_state=0, max_iter=20, tol=None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X.astype(dtype), y)
    assert np.isfinite(model.coef_).all()
    assert np.isfinite(model.intercept_).all()
    if caught:
        assert_divergence_is_told(caught, within=20)
        assert_not_worse_than_the_start(model, X, y)
    else:
        start = objective(model, X, y, coef=np.zeros_like(model.coef_), intercept=np.zeros(1))
        assert objective(model, X, y, coef=model.coef_, intercept=model.intercept_) <= 2 * start


@pytest.mark.parametrize("parameters", [{"learning_rate": "constant", "eta0": 1e6}, {"optimizer": Adam(1e30)}], ids=str)
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_goes_on_after_it_diverged(name: str, parameters: dict[str, Any]) -> None:
    X, y = overlapping(2) if name == "SGDClassifier" else real("diabetes")
    X = X.astype(np.float32)
    first = {"classes": [0, 1]} if name == "SGDClassifier" else {}
    adam = Adam(0.01 if name == "SGDClassifier" else 1.0)
    tame: dict[str, Any] = {"optimizer": adam} if "optimizer" in parameters else {"eta0": 1e-3}
    loss = "log_loss" if name == "SGDClassifier" else "squared_error"
    model, twin = (make(name, loss=loss, batch_size=16, **{**parameters, **tame}) for _ in range(2))
    for each in (model, twin):
        each.partial_fit(X, y, **first)
    before = condition(model, X)[1:]
    model.set_params(**parameters)
    with pytest.warns(ConvergenceWarning) as caught:
        model.partial_fit(X, y)
    assert_divergence_is_told(caught)
    assert condition(model, X)[1:] == before
    model.set_params(**tame)
    for each in (model, twin):
        for _ in range(20):
            each.partial_fit(X, y)
    assert_not_worse_than_the_start(model, X, y)
    assert model.score(X, y) == pytest.approx(twin.score(X, y), abs=0.05)


def test_the_weights_of_the_best_epoch_are_given_back() -> None:
    """A schedule that begins tame and explodes later: what was learned before is kept."""
    X, y = real("diabetes")
    growing = SGD(ExponentialDecay(1e-4, decay_steps=442, decay_rate=4.0))
    model = gdfast.SGDRegressor(optimizer=growing, batch_size=1, random_state=0, max_iter=50, tol=None)
    with pytest.warns(ConvergenceWarning) as caught:
        model.fit(X, y)
    assert_divergence_is_told(caught, within=12)
    assert model.n_iter_ > 2
    assert model.score(X, y) > 0.3
    assert_not_worse_than_the_start(model, X, y)
