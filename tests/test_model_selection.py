"""Many models in one pass: each is the model that is trained alone; scores are those of scikit-learn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn import metrics
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold, RepeatedKFold, ShuffleSplit, StratifiedKFold

from gdfast import SGD, Adam, ClipNorm, ElasticNet, SGDClassifier, SGDRegressor, cross_validate, grid, scores
from gdfast.backends import cpu, reference
from gdfast.losses import ALL, Softmax
from gdfast.optimizers import ALL as OPTIMIZERS
from gdfast.plan import Examples, Member, Plan, State
from gdfast.schedules import ExponentialDecay

Array = np.ndarray[Any, Any]
N, D = 1200, 19
LOSSES = [kind() for kind in ALL.values() if kind is not Softmax]


def data(dtype: Any = np.float64, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((N, D)).astype(dtype)
    y = (rng.random(N) < 1 / (1 + np.exp(-X @ np.linspace(-1, 1, D)))).astype(dtype)
    return X, y


def members(examples: Examples, loss: Any, optimizer: Any, **plan: Any) -> list[Member]:
    """Nine models: three settings, each without fold 0, without fold 2, on all rows."""
    found = []
    for i, alpha in enumerate((0.0, 0.01, 0.1)):
        for fold in (0, 2, -1):
            settings = {
                "loss": loss,
                "optimizer": optimizer,
                "penalty": ElasticNet(alpha, 0.5),
                "batch_size": 100,
                "seed": 5,
            }
            settings |= {"clipping": ClipNorm(0.05) if i == 1 else None, "average_from": 3 * (i == 2)}
            settings |= {"mean_weight": examples.without(fold).total_weight / examples.n}
            p = Plan(**settings | plan)
            w = np.full((D + 1, 1), 0.01, dtype=examples.dtype)
            found.append(Member(p, State.start(p, w), np.linspace(0.02, 0.01, p.steps(examples.n)) * (i + 1), fold))
    return found


def assert_same(a: list[Member], b: list[Member], tolerance: float) -> None:
    for one, other in zip(a, b, strict=True):
        for name in ("w", "slots", "average"):
            mine, its = getattr(one.state, name), getattr(other.state, name)
            if its is not None:
                np.testing.assert_allclose(
                    mine, its, rtol=tolerance, atol=tolerance * max(1, np.abs(its).max(initial=0))
                )
        assert (one.state.step, one.state.epoch) == (other.state.step, other.state.epoch)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-11), (np.float32, 2e-4)])
@pytest.mark.parametrize("weighted", [False, True])
def test_models_in_one_pass_are_those_of_the_reference(loss: Any, dtype: Any, tolerance: float, weighted: bool) -> None:
    X, y = data(dtype)
    y = y + 0.5 if loss.target == "positive" else y
    rng = np.random.default_rng(1)
    weight = rng.uniform(0, 2, N).astype(dtype) if weighted else None
    examples = Examples(X, y, weight, 1, rng.integers(0, 4, N).astype(dtype))
    mine, its = members(examples, loss, SGD()), members(examples, loss, SGD())
    reports, expected = cpu.epochs(examples, mine, 2), reference.epochs(examples, its)
    assert_same(mine, its, tolerance)
    for a, b in zip(reports, expected, strict=True):
        np.testing.assert_allclose(a.loss_sum, b.loss_sum, rtol=tolerance)
        np.testing.assert_allclose(a.losses, b.losses, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(a.norms, b.norms, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("optimizer", [kind() for kind in OPTIMIZERS.values()], ids=lambda o: o.name)
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_every_optimizer_and_layout(optimizer: Any, layout: str) -> None:
    X, y = data()
    fold = np.arange(N) % 4 * 1.0
    examples = Examples(np.asarray(X, order="C" if layout == "rows" else "F"), y, None, 1, fold)
    mine, its = members(examples, ALL["log_loss"](), optimizer), members(examples, ALL["log_loss"](), optimizer)
    for _ in range(2):
        cpu.epochs(examples, mine, 2)
        reference.epochs(examples, its)
    assert_same(mine, its, 1e-9)


@pytest.mark.parametrize("k", [2, 3, 7, 20, 33, 70])
def test_the_same_bits_for_any_number_of_threads(k: int) -> None:
    rng = np.random.default_rng(2)
    X = rng.standard_normal((20_000, 40), dtype=np.float32)
    examples = Examples(X, (X[:, 0] > 0).astype(np.float32), None, 1, rng.integers(0, 5, len(X)).astype(np.float32))
    found = []
    for threads in (1, 2, 3, 4):
        plan = Plan(ALL["log_loss"](), Adam(), batch_size=4000, seed=1)
        some = [
            Member(replace(plan, penalty=ElasticNet(0.01 * i)), State.start(plan, np.zeros((41, 1), np.float32)),
                   np.full(5, 0.01), i % 5)
            for i in range(k)
        ]  # fmt: skip
        cpu.epochs(examples, some, threads)
        found.append(np.stack([member.state.w for member in some]))
    assert np.abs(found[0]).max() > 0
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


def test_a_model_that_diverges_leaves_the_others_alone() -> None:
    X, y = data()
    examples = Examples(X, y, None, 1, np.arange(N) % 4 * 1.0)

    def some(rates: tuple[float, ...]) -> list[Member]:
        plan = Plan(ALL["squared_error"](), SGD(), batch_size=10, shuffle=False)
        return [Member(plan, State.start(plan, np.zeros((D + 1, 1))), np.full(120, rate), -1) for rate in rates]

    mine, alone = some((0.01, 1e30, 0.02)), some((0.01, 0.02))
    reports, expected = cpu.epochs(examples, mine, 2), cpu.epochs(examples, alone, 2)
    assert [report.finite for report in reports] == [True, False, True]
    assert 0 < reports[1].steps < 120
    assert mine[1].state.step == reports[1].steps
    assert_same([mine[0], mine[2]], alone, 1e-12)
    assert [reports[0].steps, reports[2].steps] == [report.steps for report in expected]


SETTINGS = {
    "alpha": [0.0, 1e-2],
    "standardize": [False, True],
    "optimizer": [Adam(0.01), SGD(ExponentialDecay(0.1, 10, 0.9))],
    "clip_norm": [None, 0.05],
    "batch_size": [64, 100],
}


@pytest.mark.parametrize("tol", [None, 5e-3], ids=["3 epochs", "own end"])
@pytest.mark.parametrize("kind", [SGDClassifier, SGDRegressor])
def test_every_model_of_a_grid_is_the_fit_without_its_fold(kind: Any, tol: float | None) -> None:
    X, y = data()
    y = y if kind is SGDClassifier else X @ np.ones(D) + y
    loss = "log_loss" if kind is SGDClassifier else "squared_error"
    epochs = {"max_iter": 3, "tol": None} if tol is None else {"max_iter": 60, "tol": tol, "n_iter_no_change": 2}
    estimator = kind(loss, random_state=1, **epochs)
    weight = np.random.default_rng(3).uniform(0.5, 1.5, N)
    found = grid(estimator, X, y, SETTINGS, cv=3, sample_weight=weight)
    assert sorted(map(len, found.passes)) == [8, 8, 8, 8]
    ends = set()
    for i, setting in enumerate(found.params):
        for f in range(3):
            alone = clone(estimator).set_params(**setting).fit(X, y, sample_weight=weight * (found.fold != f))
            np.testing.assert_allclose(found.weights[i, f, :-1], alone.coef_.ravel(), rtol=1e-9, atol=1e-11)
            np.testing.assert_allclose(found.weights[i, f, -1], np.ravel(alone.intercept_)[0], rtol=1e-9, atol=1e-11)
            assert found.histories[i][f].reason == alone.history_.reason
            ends.add(alone.n_iter_)
            test = found.fold == f
            score = alone.score(X[test], y[test], sample_weight=weight[test])
            name = "accuracy" if kind is SGDClassifier else "r2"
            assert found.scores[name][i, f] == pytest.approx(score, abs=1e-12)
    assert len(ends) == 1 if tol is None else len(ends) > 1
    best = clone(estimator).set_params(**found.best_params).fit(X, y, sample_weight=weight)
    np.testing.assert_array_equal(found.best_estimator.coef_, best.coef_)
    assert found.best_score == found.scores[found.metric].mean(axis=1).max()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ties", [False, True])
def test_scores_of_classification_are_those_of_scikit_learn(weighted: bool, ties: bool) -> None:
    rng = np.random.default_rng(4)
    y = (rng.random(500) < 0.3).astype(float)
    z = y + rng.standard_normal(500)
    z = z.round(1) if ties else z
    weight = rng.uniform(0, 2, 500) if weighted else None
    found = scores.of_decisions(z, y, weight)
    for name, theirs in (
        ("accuracy", metrics.accuracy_score),
        ("precision", metrics.precision_score),
        ("recall", metrics.recall_score),
        ("f1", metrics.f1_score),
    ):
        assert found[name] == pytest.approx(theirs(y, z > 0, sample_weight=weight), rel=1e-12)
    assert scores.roc_auc(z, y, weight) == pytest.approx(metrics.roc_auc_score(y, z, sample_weight=weight), rel=1e-12)
    p = 1 / (1 + np.exp(-z))
    assert scores.log_loss(z, y, weight) == pytest.approx(metrics.log_loss(y, p, sample_weight=weight), rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_scores_of_regression_are_those_of_scikit_learn(weighted: bool) -> None:
    rng = np.random.default_rng(5)
    y, v = rng.standard_normal(300), rng.standard_normal(300)
    weight = rng.uniform(0, 2, 300) if weighted else None
    found = scores.of_values(v, y, weight)
    assert found["r2"] == pytest.approx(metrics.r2_score(y, v, sample_weight=weight), rel=1e-12)
    assert found["rmse"] == pytest.approx(metrics.root_mean_squared_error(y, v, sample_weight=weight), rel=1e-12)


def test_scores_where_nothing_is_to_divide_by() -> None:
    y, z = np.zeros(4), np.full(4, -1.0)
    assert scores.of_decisions(z, y) == {"accuracy": 1.0, "precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert np.isnan(scores.roc_auc(z, y))
    assert scores.of_values(z, z) == {"r2": 1.0, "rmse": 0.0}


def test_cross_validate_and_the_ways_to_give_folds() -> None:
    X, y = data()
    estimator = SGDClassifier("log_loss", optimizer="adam", max_iter=2, tol=None, random_state=0)
    found = cross_validate(estimator, X, y, cv=4)
    assert set(found) == {f"test_{name}" for name in scores.CLASSIFICATION}
    assert all(values.shape == (4,) for values in found.values())
    splitter = StratifiedKFold(4)
    numbers = np.empty(N, dtype=int)
    for f, (_, test) in enumerate(splitter.split(X, y)):
        numbers[test] = f
    for cv in (splitter, list(splitter.split(X, y)), numbers):
        again = cross_validate(estimator, X, y, cv=cv)
        for name, values in found.items():
            np.testing.assert_array_equal(values, again[name])
    hinge = SGDClassifier(optimizer="adam", max_iter=2, tol=None, random_state=0)
    assert "test_log_loss" not in cross_validate(hinge, X, y, cv=KFold(3, shuffle=True, random_state=0))
    partly = np.where(np.arange(N) < 200, -1, np.arange(N) % 2)
    assert cross_validate(estimator, X, y, cv=partly, scoring="roc_auc")["test_roc_auc"].shape == (2,)


def test_one_seed_for_all_and_a_pass_for_each_seed() -> None:
    X, y = data()
    estimator = SGDClassifier("log_loss", optimizer="adam", max_iter=2, tol=None)
    found = grid(estimator, X, y, {"random_state": [0, 1], "alpha": [0.0, 0.1]}, cv=2)
    assert found.passes in ([[0, 2], [1, 3]], [[0, 1], [2, 3]])
    assert len(grid(estimator, X, y, {"alpha": [0.0, 0.1]}, cv=2).passes) == 1
    weights = grid(estimator, X, y, {"class_weight": [{0: 2.0}, {1: 3.0}]}, cv=2)
    assert len(weights.passes) == 2
    falling = grid(estimator, X, y, {"alpha": [0.0, 10.0]}, cv=2, scoring=["log_loss"])
    assert falling.best_params["alpha"] == 0.0


def test_what_diverges_is_reported_and_loses() -> None:
    X = data()[0]
    target = X @ np.ones(D)
    estimator = SGDRegressor(optimizer=SGD(0.01), batch_size=50, max_iter=3, tol=None, random_state=0)
    with pytest.warns(ConvergenceWarning, match="2 of 4 models diverged"):
        found = grid(estimator, X, target, {"optimizer": [SGD(1e6), SGD(0.01)]}, cv=2)
    assert [history.diverged for history in found.histories[0]] == [True, True]
    assert not any(history.diverged for history in found.histories[1])
    assert np.isfinite(found.weights).all()
    assert found.best_index == 1
    with pytest.warns(
        ConvergenceWarning, match=r"2 of 2 models reached max_iter before they converged\. Set max_iter above 3"
    ):
        cross_validate(estimator.set_params(tol=1e-12), X, target, cv=2)


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({"early_stopping": True}, {}, "early_stopping=True is not possible"),
        ({"warm_start": True}, {}, "warm_start=True is not possible"),
        ({"callbacks": print}, {}, "callbacks=.* is not possible"),
        ({"class_weight": "balanced"}, {}, "class_weight='balanced' depends on the fold"),
        ({"optimizer": None, "learning_rate": "auto"}, {}, "learning_rate='auto' goes its own way"),
        ({"alpha": -1}, {}, "alpha must be"),
        ({}, {"scoring": "gini"}, "scoring must be among accuracy"),
        ({}, {"scoring": []}, "scoring must be among accuracy"),
        ({}, {"cv": RepeatedKFold(n_splits=2, n_repeats=2)}, "at most once"),
        ({}, {"cv": ShuffleSplit(2, test_size=0.2, train_size=0.2)}, "at most once"),
        ({}, {"cv": np.zeros(N, dtype=int)}, "at least 2 folds"),
        ({}, {"cv": np.arange(N) % 2 * 2}, "expected 1200 integers"),
        ({}, {"sample_weight": (np.arange(N) < 300).astype(float), "cv": np.arange(N) // 300}, "without fold 0"),
    ],
)
def test_what_cannot_be_done_is_said(changes: dict[str, Any], options: dict[str, Any], words: str) -> None:
    X, y = data()
    estimator = SGDClassifier("log_loss", optimizer="adam", max_iter=2, tol=None).set_params(**changes)
    with pytest.raises(ValueError, match=words):
        cross_validate(estimator, X, y, **options)


def test_estimators_and_targets_of_another_kind_are_refused() -> None:
    X, y = data()
    with pytest.raises(TypeError, match="expected an SGDClassifier or SGDRegressor of gdfast, got KFold"):
        grid(KFold(), X, y, {})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="y has 3 outputs; several models in one pass need two classes"):
        cross_validate(SGDClassifier("log_loss", optimizer="adam"), X, np.arange(N) % 3)
    with pytest.raises(ValueError, match="y has 2 outputs; several models in one pass need one target"):
        cross_validate(SGDRegressor(optimizer="adam"), X, np.column_stack([y, y]))
