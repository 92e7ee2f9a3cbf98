"""Rates that look at the data or at the run: ReduceOnPlateau, learning_rate="auto", lr_find."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler

import gdfast
from gdfast import SGD, Adam, LogisticRegression, Ridge, SGDClassifier, SGDRegressor, losses, optimizers
from gdfast.demo import read_flights
from gdfast.estimators.lr_find import lr_find
from gdfast.plan import Examples, Plan, State
from gdfast.schedules import CosineDecay, ExponentialDecay, Plateau, ReduceOnPlateau, Warmup
from gdfast.solvers import learning_rate

Array = np.ndarray[Any, Any]

# --------------------------------------------------------------------------------------------------- reduce on a plateau


def run(schedule: ReduceOnPlateau, values: list[float]) -> list[float]:
    """The rate of each epoch whose watched number is in ``values``."""
    plateau, rates = Plateau(), []
    for step, value in enumerate(values):
        rates.append(float(schedule(np.array([step]), plateau)[0]))
        plateau = schedule.observe(value, step, plateau)
    return rates


def by_the_documentation(values: list[float], o: ReduceOnPlateau) -> list[float]:
    """torch.optim.lr_scheduler.ReduceLROnPlateau, mode "min", from its documentation."""
    rate, best, bad, rest, rates = float(o.learning_rate), math.inf, 0, 0, []
    for value in values:
        rates.append(rate)
        target = best * (1 - o.threshold) if o.mode == "relative" else best - o.threshold
        if value < target:
            best, bad = value, 0
        else:
            bad += 1
        if rest > 0:
            rest, bad = rest - 1, 0
        if bad > o.patience:
            rate, rest, bad = max(rate * o.factor, o.min_learning_rate), o.cooldown, 0
    return rates


@pytest.mark.parametrize("patience", [0, 2])
@pytest.mark.parametrize("mode", ["relative", "absolute"])
@pytest.mark.parametrize("cooldown", [0, 3])
@pytest.mark.parametrize("lowest", [0.0, 0.02])
def test_reduce_on_plateau_is_that_of_torch(patience: int, mode: str, cooldown: int, lowest: float) -> None:
    schedule = ReduceOnPlateau(0.1, 0.5, patience, 0.01, mode, cooldown, lowest)
    rng = np.random.default_rng(0)
    for _ in range(20):
        values = (1 / np.arange(1, 60) + 0.02 * rng.random(59)).tolist()
        expected = by_the_documentation(values, schedule)
        assert len(set(expected)) > 2
        np.testing.assert_allclose(run(schedule, values), expected, rtol=1e-12)


def test_a_plateau_worked_by_hand() -> None:
    # better, better, 2 quiet, reduced after the third; then 0.7 is not 10 % below 0.75
    schedule = ReduceOnPlateau(1.0, 0.1, patience=2, threshold=0.1)
    rates = run(schedule, [1.0, 0.75, 0.74, 0.73, 0.72, 0.7, 0.5, 0.5])
    np.testing.assert_allclose(rates, [1, 1, 1, 1, 1, 0.1, 0.1, 0.1])


def test_small_improvements_add_up_unless_strict() -> None:
    falling = [1 - 0.006 * i for i in range(30)]
    assert set(run(ReduceOnPlateau(1.0, 0.1, 2, 0.01, "absolute"), falling)) == {1.0}
    assert run(ReduceOnPlateau(1.0, 0.1, 2, 0.01, "absolute", strict=True), falling)[4] == pytest.approx(0.1)


def test_reductions_can_be_limited_and_negative_numbers_fall_too() -> None:
    rates = run(ReduceOnPlateau(1.0, 0.5, 0, 0.0, max_reductions=2), [1.0] * 10)
    assert rates == [1, 1, 0.5, *[0.25] * 7]
    scores = [-0.5, -0.6, -0.7, -0.8]
    assert set(run(ReduceOnPlateau(1.0, 0.5, 0, 0.1), scores)) == {1.0}


def test_the_rate_may_follow_a_schedule_too() -> None:
    schedule = ReduceOnPlateau(CosineDecay(0.1, 10), 0.5, 0)
    np.testing.assert_allclose(run(schedule, [1.0] * 3), CosineDecay(0.1, 10)(np.arange(3)) * [1, 1, 0.5])


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: ReduceOnPlateau(-1), ValueError, "-1"),
        (lambda: ReduceOnPlateau(0.1, 1.0), ValueError, "factor must lie in"),
        (lambda: ReduceOnPlateau(0.1, 0.5, -1), ValueError, "patience"),
        (lambda: ReduceOnPlateau(0.1, threshold=math.nan), ValueError, "threshold"),
        (lambda: ReduceOnPlateau(0.1, mode="rel"), ValueError, "mode must be 'relative' or 'absolute', got 'rel'"),
        (lambda: ReduceOnPlateau(0.1, max_reductions=-1), ValueError, "max_reductions"),
        (lambda: ReduceOnPlateau(ReduceOnPlateau(0.1)), TypeError, "the other way round"),
        (lambda: Warmup(10, ReduceOnPlateau(0.1)), TypeError, "the other way round"),
        (lambda: Adam("fast"), TypeError, "learning_rate must be"),
        (lambda: Adam("auto").rates(0, 3), ValueError, "found from the data by fit"),
    ],
)
def test_bad_plateaus_are_refused(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_an_estimator_takes_schedules_of_every_kind() -> None:
    X, y = cancer()[:2]
    for rate in (ReduceOnPlateau(0.05, 0.3, 1, 0.05), ExponentialDecay(0.05, 100, 0.9)):
        options = {"tol": None, "max_iter": 60, "random_state": 0}
        plain = SGDClassifier("log_loss", learning_rate=rate, **options).fit(X, y)
        named = SGDClassifier("log_loss", learning_rate=rate, optimizer="sgd", **options).fit(X, y)
        given = SGDClassifier("log_loss", optimizer=SGD(rate), **options).fit(X, y)
        np.testing.assert_array_equal(named.coef_, given.coef_)
        np.testing.assert_array_equal(plain.coef_, given.coef_)
        assert plain.history_.learning_rate[-1] < 0.05
    with pytest.raises(ValueError, match="an optimizer that has its own rate"):
        SGDClassifier(learning_rate="auto", optimizer=Adam(0.1)).fit(X, y)


def test_a_saved_model_remembers_its_plateau(tmp_path: Any) -> None:
    X, y = cancer()[:2]
    model = SGDClassifier("log_loss", learning_rate="auto", callbacks=print, optimizer="adam", random_state=0)
    model.partial_fit(X, y, classes=[0, 1])
    gdfast.save(model, tmp_path / "m.gdfast")
    again = gdfast.load(tmp_path / "m.gdfast")
    assert again.callbacks is None
    assert again._state.plateau == model._state.plateau != Plateau()
    for _ in range(3):
        model.partial_fit(X, y)
        again.partial_fit(X, y)
    np.testing.assert_array_equal(again.coef_, model.coef_)


# ------------------------------------------------------------------------------------------------ learning_rate="auto"


@cache
def cancer() -> tuple[Array, Array, float]:
    """(X, y, optimum of the objective with alpha = 1 / n)"""
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    best = LogisticRegression(tol=1e-12, max_iter=1000).fit(X, y)
    return X, y, logistic(best, X, y)


def logistic(model: Any, X: Array, y: Array) -> float:
    z = X @ model.coef_.ravel() + model.intercept_
    return float(np.mean(np.logaddexp(0, z) - y * z) + 0.5 / len(y) * np.sum(model.coef_**2))


@cache
def flights(rows: int | None) -> tuple[Array, Array, float]:
    """Ridge on the delays of so many flights, None for all of them"""
    data = read_flights(rows)
    X, y = data.X, data.y
    return X, y, squares(Ridge(alpha=1.0).fit(X.astype(np.float64), y.astype(np.float64)), X, y)


def squares(model: Any, X: Array, y: Array) -> float:
    r = X.astype(np.float64) @ model.coef_.ravel() + model.intercept_ - y
    return float(0.5 * np.mean(r * r) + 0.5 / len(y) * np.sum(model.coef_**2))


def automatic(name: str | None) -> dict[str, Any]:
    if name is None:
        return {"learning_rate": "auto"}
    # decay beside the objective moves the optimum
    return {"optimizer": optimizers.ALL[name]("auto", weight_decay=0.0)}


@pytest.mark.parametrize("name", [None, *optimizers.ALL])
def test_every_optimizer_reaches_the_optimum_of_breast_cancer(name: str | None) -> None:
    X, y, best = cancer()
    # Adadelta divides by a short memory of the gradient, which has a bias where batches are small
    batch_size = 64 if name == "adadelta" else "auto"
    model = SGDClassifier("log_loss", alpha=1 / len(y), batch_size=batch_size, random_state=0, **automatic(name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(X, y)
    assert logistic(model, X, y) <= best * (1 + 1e-3)


@pytest.mark.parametrize("rows", [8000, pytest.param(None, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", [None, *optimizers.ALL])
def test_every_optimizer_reaches_the_optimum_of_the_flights(name: str | None, rows: int | None) -> None:
    X, y, best = flights(rows)
    # Lion sees signs alone: of the skewed delays, those of small batches are no measure of the mean
    batch_size = 4096 if name == "lion" and rows is None else "auto"
    model = SGDRegressor(alpha=1 / len(y), batch_size=batch_size, random_state=0, **automatic(name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(X, y)
    assert squares(model, X, y) <= best * (1 + 1e-3)


@pytest.mark.parametrize("batch_size", [1, 8, 256, "full"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_rate_fits_any_batch_momentum_and_scale(batch_size: Any, momentum: float, scale: float) -> None:
    rng = np.random.default_rng(0)
    X = scale * rng.standard_normal((500, 4))
    y = 100 * X @ rng.standard_normal(4) / scale + 3
    optimizer = SGD("auto", momentum=momentum)
    model = SGDRegressor(optimizer=optimizer, batch_size=batch_size, alpha=0, fit_intercept=scale == 1, random_state=0)
    model.fit(X, y - (scale != 1) * 3)
    assert model.score(X, y - (scale != 1) * 3) > 0.99999


def test_the_first_rate_is_the_inverse_of_the_curvature() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((1000, 5)) * [1, 2, 3, 4, 20], rng.random(1000)
    A = np.hstack([X, np.ones((1000, 1))])
    largest = np.linalg.eigvalsh(A.T @ A / 1000)[-1]
    squares = np.square(A).sum(axis=1)
    noise = np.mean(squares**2) / np.mean(squares)
    for loss, h in ((losses.SquaredError(), 1.0), (losses.LogLoss(), 0.25)):
        for batch, momentum in ((1000, 0.0), (1000, 0.9), (50, 0.0), (50, 0.5)):
            plan = Plan(loss, SGD("auto", momentum=momentum), gdfast.ElasticNet(0.3), batch_size=batch)
            rate = learning_rate.first_rate(plan, Examples(X, y, None))
            L = h * (largest + (noise / batch / (1 - momentum) if batch < 1000 else 0)) + 0.3
            assert rate == pytest.approx(1 / L, rel=0.02)


def test_two_over_the_curvature_diverges_and_one_over_it_does_not() -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 4)) * [1, 1, 1, 30]
    y = X @ np.ones(4) + rng.standard_normal(300)
    plan = Plan(losses.SquaredError(), SGD("auto"), batch_size=300)
    rate = learning_rate.first_rate(plan, Examples(X, y, None))
    given = {"batch_size": "full", "alpha": 0, "tol": None, "max_iter": 200}
    model = SGDRegressor(optimizer=SGD(rate), **given).fit(X, y)
    assert (np.diff(model.history_.objective) <= 0).all()
    with pytest.warns(ConvergenceWarning, match="diverged"):
        SGDRegressor(optimizer=SGD(2.2 * rate), **given).fit(X, y)


def test_a_rate_that_is_too_high_is_halved_and_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y, best = cancer()
    found = learning_rate.first_rate
    monkeypatch.setattr(learning_rate, "first_rate", lambda *args: 1000 * found(*args))
    model = SGDClassifier("log_loss", optimizer="sgd", learning_rate="auto", alpha=1 / len(y), random_state=0)
    model.fit(X, y)
    assert logistic(model, X, y) <= best * (1 + 1e-3)
    assert model.history_.learning_rate[0] < 1000 * model.history_.learning_rate[-1] * 2**10


@pytest.mark.parametrize("name", losses.ALL)
def test_every_loss_finds_a_rate(name: str) -> None:
    loss = losses.ALL[name]()
    rng = np.random.default_rng(1)
    X = rng.standard_normal((400, 5))
    z = X @ rng.standard_normal(5)
    if loss.target in ("binary", "class"):
        model: Any = SGDClassifier(name, learning_rate="auto", random_state=0).fit(X, z > 0)
        assert model.score(X, z > 0) > 0.95
    else:
        y = rng.gamma(5, np.exp(0.5 * z) / 5) + 0.01 if loss.link == "exp" else 50 * z
        model = SGDRegressor(name, learning_rate="auto", random_state=0).fit(X, y)
        assert model.score(X, y) > (0.4 if loss.link == "exp" else 0.98)


def test_partial_fit_keeps_the_rate_that_its_first_part_gave() -> None:
    X, y = cancer()[:2]
    model = SGDClassifier("log_loss", optimizer="sgd", learning_rate="auto", random_state=0)
    rates = [model.partial_fit(X[:200], y[:200], classes=[0, 1]).history_.learning_rate[0]]
    rates += [model.partial_fit(X[200:400], y[200:400]).history_.learning_rate[0]]
    assert rates[1] == rates[0]
    # rows for which it is too high: halved until it is not
    rates += [model.partial_fit(1000 * X[400:], y[400:]).history_.learning_rate[0]]
    assert 0 < rates[2] <= rates[0] / 4
    assert model.n_iter_ == 1


def test_a_state_that_is_continued_keeps_its_plateau() -> None:
    X, y = cancer()[:2]
    examples = Examples(X, y.astype(float), None)
    plan = Plan(losses.LogLoss(), Adam("auto"), batch_size=32)
    state = State.start(plan, np.zeros((31, 1)))
    automatic = learning_rate.begin(plan, examples, state)
    assert learning_rate.is_automatic(plan)
    assert not learning_rate.is_automatic(automatic)
    state.plateau = replace(state.plateau, scale=0.125)
    learning_rate.begin(plan, examples, state)
    assert state.plateau.scale == 0.125


# ------------------------------------------------------------------------------------------- the learning-rate range test


@pytest.mark.parametrize("optimizer", [None, "sgd", "adam"])
def test_the_suggested_rate_trains(optimizer: str | None) -> None:
    X, y, _ = cancer()
    model = SGDClassifier("log_loss", optimizer=optimizer, batch_size=16, random_state=0)
    found = lr_find(model, X, y)
    assert not hasattr(model, "coef_")
    assert len(found.learning_rate) == len(found.loss) == len(found.smoothed) >= 100
    np.testing.assert_allclose(
        np.diff(np.log(found.learning_rate)), np.log(found.learning_rate[1] / found.learning_rate[0])
    )
    assert found.loss[0] == pytest.approx(math.log(2))
    assert found.suggestion is not None
    assert found.learning_rate[0] < found.suggestion < found.learning_rate[-1]
    kind = optimizers.ALL[optimizer or "sgd"]
    trained = SGDClassifier("log_loss", optimizer=kind(found.suggestion), batch_size=16, max_iter=5, tol=None)
    assert trained.fit(X, y).history_.loss[-1] < 0.2


def test_the_losses_are_those_of_the_batches_and_the_test_ends_where_it_diverges() -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((6000, 3))
    y = X @ np.ones(3) + 0.1 * rng.standard_normal(6000)
    model = SGDRegressor(optimizer="sgd", batch_size=10, shuffle=False, alpha=0, random_state=0)
    found = lr_find(model, X, y, start=1e-5, end=100.0)
    assert found.diverged
    assert found.learning_rate[0] == pytest.approx(1e-5)
    assert 0.3 < found.learning_rate[-1] < 5  # twice the inverse of the curvature, 1
    w, smoothed, keep = np.zeros(4), 0.0, 1 - 1 / (0.05 * 600)
    for i, rate in enumerate(found.learning_rate[:300]):
        rows = slice(10 * i, 10 * i + 10)
        r = X[rows] @ w[:3] + w[3] - y[rows]
        assert found.loss[i] == pytest.approx(0.5 * np.mean(r * r))
        smoothed = keep * smoothed + (1 - keep) * found.loss[i]
        assert found.smoothed[i] == pytest.approx(smoothed / (1 - keep ** (i + 1)))
        w -= rate * np.append(X[rows].T @ r, r.sum()) / 10
    assert not lr_find(model, X, y, start=1e-5, end=0.1).diverged


def test_a_range_test_of_what_cannot_fall_suggests_nothing() -> None:
    X = np.ones((600, 1))
    found = lr_find(SGDRegressor(optimizer="sgd", batch_size=2, fit_intercept=False), X, np.zeros(600))
    assert found.suggestion is None
    assert not found.diverged
    assert (found.loss == 0).all()


def test_bad_range_tests_are_refused() -> None:
    X, y, _ = cancer()
    with pytest.raises(TypeError, match="estimator must be an SGDClassifier or SGDRegressor, got LogisticRegression"):
        lr_find(LogisticRegression(), X, y)  # type: ignore[arg-type]
    for start, end in ((1.0, 0.1), (-1.0, 1.0), (0.1, math.inf)):
        with pytest.raises(ValueError, match="start and end must be rates"):
            lr_find(SGDClassifier(), X, y, start=start, end=end)
    with pytest.raises(ValueError, match="batch_size"):
        lr_find(SGDClassifier(batch_size=0), X, y)
