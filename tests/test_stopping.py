"""The loop over epochs: every rule that ends it, callbacks, validation, what is remembered and what is told."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import fields, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from gdfast import SGD, Adam, SGDClassifier, SGDRegressor
from gdfast.backends import cpu, reference
from gdfast.losses import LogLoss, SquaredError
from gdfast.penalties import ElasticNet
from gdfast.plan import Examples, Plan, State
from gdfast.schedules import ReduceOnPlateau
from gdfast.solvers import minibatch
from gdfast.solvers.stopping import Epoch, History, Stopping

Array = np.ndarray[Any, Any]
FREE = Stopping(max_epochs=40, tol=None)


def problem(n: int = 640, d: int = 6, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    return X, (X @ rng.standard_normal(d) + rng.standard_normal(n) > 0).astype(float)


def train(stopping: Stopping, plan: Plan | None = None, **options: Any) -> tuple[History, State, Examples, Plan]:
    examples = Examples(*problem(), None)
    plan = plan or Plan(LogLoss(), SGD(0.5), ElasticNet(0.01), batch_size=64)
    state = State.start(plan, np.zeros((examples.d + 1, 1)))
    return minibatch.train(examples, plan, state, stopping, **options), state, examples, plan


# ------------------------------------------------------------------------------------------------------------ the rules


def test_a_limit_of_epochs() -> None:
    history, state, *_ = train(replace(FREE, max_epochs=7))
    assert (history.reason, history.limit) == ("7 epochs", "max_epochs")
    assert (len(history.loss), state.epoch, state.step) == (7, 7, 70)
    assert history.converged  # nothing else was asked for
    assert not train(Stopping(max_epochs=2, tol=1e-9))[0].converged


@pytest.mark.parametrize("steps", [1, 9, 10, 11, 37])
def test_a_limit_of_steps_is_exact(steps: int) -> None:
    history, state, *_ = train(replace(FREE, max_steps=steps))
    assert (history.reason, history.limit, state.step) == (f"{steps} steps", "max_steps", steps)
    assert history.step == [min(10 * e, steps) for e in range(1, -(-steps // 10) + 1)]
    whole, *_ = train(replace(FREE, max_steps=10 * len(history.step)))
    assert whole.loss[:-1] == history.loss[:-1]


def test_a_limit_of_seconds_ends_within_an_epoch() -> None:
    X, y = problem(400_000, 20)
    examples, plan = Examples(X, y, None), Plan(LogLoss(), SGD(1e-3), batch_size=4)
    state = State.start(plan, np.zeros((21, 1)))
    began = time.perf_counter()
    history = minibatch.train(examples, plan, state, Stopping(max_epochs=10**6, max_seconds=0.05, tol=None))
    assert time.perf_counter() - began < 5
    assert (history.reason, history.limit) == ("0.05 seconds", "max_seconds")
    assert state.step % plan.steps(400_000) != 0
    assert history.loss[-1] < 1  # a mean over the rows that were seen


def test_time_that_is_up_before_the_first_step() -> None:
    history, state, *_ = train(replace(FREE, max_seconds=1e-12))
    assert (history.limit, state.step, history.loss) == ("max_seconds", 0, [])


def exact_gradient(examples: Examples, plan: Plan, w: Array) -> Array:
    _, g = reference.gradient(examples, plan.loss, w, True)
    g /= examples.n
    g[:-1] += plan.penalty.l2 * w[:-1]
    return g


def test_the_gradient_norm_of_the_objective() -> None:
    history, state, examples, plan = train(replace(FREE, max_epochs=500, gradient_norm=0.02))
    norm = np.linalg.norm(exact_gradient(examples, plan, state.w))
    assert history.converged
    assert history.limit is None
    assert "gradient norm" in history.reason
    assert history.gradient_norm[-1] == pytest.approx(norm, rel=1e-9)
    assert norm <= 0.02 < min(history.gradient_norm[:-1])
    assert minibatch.gradient_norm(examples, plan, state.w) == pytest.approx(norm, rel=1e-9)


def test_the_gradient_norm_with_l1_is_that_of_the_smallest_subgradient(rng: np.random.Generator) -> None:
    examples = Examples(*problem(), None)
    plan = Plan(LogLoss(), SGD(0.1), ElasticNet(0.3, 0.7))
    w = rng.standard_normal((7, 1))
    w[[1, 4]] = 0
    g = exact_gradient(examples, plan, w)
    for j in range(6):
        ends = [g[j, 0] - plan.penalty.l1, g[j, 0] + plan.penalty.l1]
        if w[j, 0] != 0:
            g[j, 0] = ends[int(w[j, 0] > 0)]
        else:
            g[j, 0] = 0 if ends[0] <= 0 <= ends[1] else min(ends, key=abs)
    assert minibatch.gradient_norm(examples, plan, w) == pytest.approx(np.linalg.norm(g), rel=1e-12)


def test_the_relative_change_of_the_objective() -> None:
    history, *_ = train(replace(FREE, max_epochs=500, objective_change=0.003))
    change = np.abs(np.diff(history.objective)) / np.abs(history.objective[:-1])
    assert history.converged
    assert "objective changed by less than 0.003" in history.reason
    assert change[-1] <= 0.003 < change[:-1].min()


def test_a_threshold_of_the_loss() -> None:
    history, *_ = train(replace(FREE, max_epochs=500, loss=0.5))
    assert history.converged
    assert "below 0.5" in history.reason
    assert history.loss[-1] <= 0.5 < history.loss[-2]


@pytest.mark.parametrize("patience", [1, 3])
def test_no_improvement_by_tol(patience: int) -> None:
    history, *_ = train(Stopping(tol=0.01, patience=patience))
    best, quiet = math.inf, 0
    for epoch, objective in enumerate(history.objective, 1):
        quiet = quiet + 1 if objective > best - 0.01 else 0
        best = min(best, objective)
        assert (quiet == patience) == (epoch == len(history.objective))
    assert history.converged
    assert history.reason == f"no improvement by 0.01 in {patience} epochs"


def test_the_first_rule_that_is_met_ends_the_run() -> None:
    everything = Stopping(100, 55, 60.0, 1e-9, 1e-12, 0.01, 1e-12, 99)
    assert train(everything)[0].limit == "max_steps"
    assert "below 0.55" in train(replace(everything, loss=0.55))[0].reason


# -------------------------------------------------------------------------------------------------- what is remembered


@pytest.mark.parametrize("backend", [cpu, reference], ids=["cpu", "reference"])
def test_the_history_holds_every_number_of_every_epoch(backend: Any) -> None:
    seen: list[Epoch] = []
    history, state, examples, plan = train(replace(FREE, max_epochs=5), callbacks=[seen.append], backend=backend)
    for f in fields(Epoch):
        values = getattr(history, f.name)
        if f.name == "validation_score":
            assert values == []
        else:
            assert values == [getattr(epoch, f.name) for epoch in seen]
            assert len(values) == 5
    assert history.epoch == [1, 2, 3, 4, 5]
    assert history.step == [10, 20, 30, 40, 50]
    for loss, objective in zip(history.loss, history.objective, strict=True):
        assert objective > loss
    assert history.objective[-1] == pytest.approx(history.loss[-1] + plan.penalty.value(state.w))
    np.testing.assert_allclose(np.multiply(history.rows_per_second, history.seconds), examples.n)
    again = State.start(plan, np.zeros((7, 1)))
    reports = [backend.epoch(examples, plan, again, np.full(10, 0.5), 1) for _ in range(5)]
    np.testing.assert_allclose(history.loss, [r.loss_sum / 640 for r in reports], rtol=1e-12)
    np.testing.assert_allclose(history.gradient_norm, [np.sqrt(np.mean(r.norms**2)) for r in reports], rtol=1e-12)


def test_callbacks_end_a_run_and_all_of_them_see_every_epoch() -> None:
    seen: list[int] = []
    stop_at_three = lambda epoch: epoch.epoch == 3  # noqa: E731
    history, *_ = train(FREE, callbacks=[stop_at_three, lambda epoch: seen.append(epoch.step)])
    assert history.reason == "a callback asked for it after epoch 3"
    assert history.limit is None
    assert seen == [10, 20, 30]


def test_callbacks_of_an_estimator_are_callables_one_or_many() -> None:
    X, y = problem()
    seen: list[Epoch] = []

    def watch(epoch: Epoch) -> bool:
        seen.append(epoch)
        return epoch.objective < 0.6

    model = SGDClassifier("log_loss", callbacks=watch, optimizer="sgd", random_state=0).fit(X, y)
    assert [epoch.objective for epoch in seen] == model.history_.objective == model.loss_curve_
    assert model.history_.objective[-1] < 0.6
    assert "callback" in model.fit_report_["stopped"]
    SGDClassifier(callbacks=[watch, watch], max_iter=2, tol=None).fit(X, y)
    for wrong in (3, [watch, "print"]):
        with pytest.raises(ValueError, match="callbacks must be a callable or a list of them, got"):
            SGDClassifier(callbacks=wrong).fit(X, y)


def test_a_callback_that_raises_leaves_the_estimator_as_it_was() -> None:
    X, y = problem()
    model = SGDClassifier(max_iter=3, tol=None, random_state=0).fit(X, y)
    before = model.coef_.copy()

    def fail(epoch: Epoch) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        model.set_params(callbacks=fail).fit(X, 1 - y)
    np.testing.assert_array_equal(model.coef_, before)


# ----------------------------------------------------------------------------------------------------------- validation


@pytest.mark.parametrize("k", [2, 3])
def test_a_given_validation_set_is_scored_and_the_best_weights_are_kept(k: int, dtype: Any) -> None:
    rng = np.random.default_rng(3)
    X = rng.standard_normal((400, 5)).astype(dtype)
    labels = np.array(["a", "b", "c"])[(np.abs(X[:, :k] @ np.eye(k)) + rng.random((400, k))).argmax(axis=1)]
    weights: list[tuple[float, Array]] = []
    model = SGDClassifier("log_loss", learning_rate="constant", eta0=0.5, n_iter_no_change=4, random_state=0)
    model.set_params(callbacks=lambda epoch: weights.append((epoch.validation_score, model)) and False)
    # float64 rows beside float32 ones: converted
    model.fit(X[:300], labels[:300], X_val=X[300:].astype(np.float64), y_val=labels[300:])
    scores = model.history_.validation_score
    assert len(scores) == model.n_iter_ == len(weights)
    assert model.score(X[300:], labels[300:]) == max(scores)
    assert scores[-1] <= max(scores[:-1])
    assert "no improvement by 0.001 in 4 epochs" in model.fit_report_["stopped"]


@pytest.mark.parametrize("shape", [(200,), (200, 1), (200, 2)])
def test_a_given_validation_set_for_regression(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    X = rng.standard_normal((200, 5))
    y = (X @ rng.standard_normal((5, shape[-1] if len(shape) == 2 else 1))).reshape(shape) + 0.1
    model = SGDRegressor(random_state=0).fit(X[:150], y[:150], X_val=X[150:], y_val=y[150:])
    assert model.score(X[150:], y[150:]) == pytest.approx(max(model.history_.validation_score), abs=1e-12)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"X_val": np.ones((4, 6))}, "X_val and y_val must be given both, got only X_val"),
        ({"y_val": np.ones(4)}, "X_val and y_val must be given both, got only y_val"),
        ({"X_val": np.ones((4, 5)), "y_val": np.ones(4)}, "X_val has 5 features, X has 6"),
        ({"X_val": np.ones((4, 6)), "y_val": np.full(4, 7.0)}, "y_val contains the label 7"),
        ({"X_val": np.ones((4, 6)), "y_val": np.ones(3)}, "y_val"),
        ({"X_val": np.full((4, 6), np.nan), "y_val": np.ones(4)}, "X_val"),
    ],
)
def test_bad_validation_sets_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SGDClassifier().fit(*problem(), **given)


# ------------------------------------------------------------------------------------------------------ what is told


@pytest.mark.parametrize(
    ("limit", "action"),
    [
        ({"max_iter": 2}, "Set max_iter above 2."),
        ({"max_steps": 30}, "Set max_steps above 30."),
        ({"max_seconds": 1e-9}, "Set max_seconds above 1e-09."),
    ],
)
@pytest.mark.parametrize("kind", [SGDClassifier, SGDRegressor])
def test_an_unfinished_fit_tells_its_gradient_norm_and_what_to_do(
    kind: Any, limit: dict[str, Any], action: str
) -> None:
    X, y = problem()
    with pytest.warns(ConvergenceWarning) as caught:
        model = kind(random_state=0, tol=1e-9, **limit).fit(X, y)
    (message,) = [str(w.message) for w in caught]
    assert message.endswith(action)
    loss = LogLoss() if kind is SGDClassifier and model.loss == "log_loss" else model._loss()
    w = np.append(model.coef_.ravel(), model.intercept_)[:, None]
    norm = minibatch.gradient_norm(Examples(X, y, None), Plan(loss, SGD(), ElasticNet(1e-4)), w)
    assert f"{norm:.2e}" in message
    assert model.fit_report_["gradient_norm"] == pytest.approx(norm)
    assert not model.fit_report_["converged"]


@pytest.mark.parametrize(
    "rules",
    [
        {"max_steps": 30, "tol": None},
        {"target_loss": 0.5},
        {"gradient_tol": 0.1},
        {"objective_tol": 0.01, "tol": None},
    ],
    ids=str,
)
def test_a_fit_that_ends_as_asked_is_silent_and_says_why(rules: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = SGDClassifier("log_loss", optimizer=Adam(0.05), random_state=0, **rules).fit(*problem())
    assert model.fit_report_["converged"]
    words = {"max_steps": "30 steps", "target_loss": "loss", "gradient_tol": "gradient", "objective_tol": "objective"}
    assert words[next(iter(rules))] in model.fit_report_["stopped"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_steps", 0),
        ("max_steps", 2.5),
        ("max_seconds", 0),
        ("max_seconds", math.inf),
        ("gradient_tol", -1.0),
        ("objective_tol", math.nan),
        ("target_loss", "low"),
        ("shuffle", "rows"),
        ("shuffle", 2),
        ("batch_size", "whole"),
        ("standardize", "yes"),
    ],
)
def test_bad_rules_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be"):
        SGDClassifier(**{name: value}).fit(*problem())


# --------------------------------------------------------------------------------------------- modes, orders, divergence


@pytest.mark.parametrize("batch_size", [1, 32, "full"])
@pytest.mark.parametrize("shuffle", [True, "block"])
@pytest.mark.parametrize("columns", [False, True])
def test_rows_sorted_by_label_train_as_well_as_shuffled_ones(batch_size: Any, shuffle: Any, columns: bool) -> None:
    X, y = problem(2000, 5)
    lie = np.asfortranarray if columns else np.ascontiguousarray
    orders = np.random.default_rng(0).permutation(2000), np.argsort(y, kind="stable")
    scores = []
    for order in orders:
        model = SGDClassifier("log_loss", shuffle=shuffle, batch_size=batch_size, learning_rate="auto", random_state=0)
        scores.append(model.fit(lie(X[order]), y[order]).history_.objective[-1])
    assert scores[1] == pytest.approx(scores[0], rel=2e-3)
    # what this test would miss without shuffling
    if batch_size == 1:
        model = SGDClassifier("log_loss", shuffle=False, learning_rate="constant", eta0=0.5, max_iter=1, tol=None)
        assert model.fit(X[orders[1]], y[orders[1]]).score(X, y) < 0.7


def test_blocks_are_runs_of_memory_and_a_sixteenth_of_a_step() -> None:
    def block(X: Array, **options: Any) -> int:
        model = SGDClassifier(shuffle="block", optimizer="sgd", **options)
        return model._plan(LogLoss(), Examples(X, np.zeros(len(X), X.dtype), None), 1.0).block

    X = np.zeros((5000, 28), np.float32)
    assert block(X, batch_size=1) == block(X, batch_size=16) == 1
    assert block(X, batch_size=256) == 16
    assert block(X, batch_size=4096) == block(X, batch_size="full") == 4096 // 112
    assert block(np.asfortranarray(X), batch_size=4096) == 16
    assert block(np.zeros((5000, 2000)), batch_size="full") == 1


def test_the_full_batch_is_gradient_descent() -> None:
    X, y = problem()
    model = SGDClassifier("log_loss", batch_size="full", learning_rate="constant", eta0=1.0, max_iter=9, tol=None)
    model.fit(X, y)
    plan, w = Plan(LogLoss(), SGD(), ElasticNet(1e-4)), np.zeros((7, 1))
    for _ in range(9):
        w -= exact_gradient(Examples(X, y, None), plan, w)
    np.testing.assert_allclose(np.append(model.coef_, model.intercept_), w[:, 0], rtol=1e-10)
    assert model.fit_report_["solver"].endswith("640 rows a step")


def test_the_weights_of_a_run_that_diverges_are_not_worse_than_its_start() -> None:
    # the loss of an epoch is taken on the way: the weights at its end may be far worse
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 3))
    X[150] *= 1e4
    y = X @ np.ones(3)
    with pytest.warns(ConvergenceWarning, match="diverged"):
        model = SGDRegressor(learning_rate="constant", eta0=0.05, shuffle=False, random_state=0).fit(X, y)
    error = np.mean((model.predict(X) - y) ** 2)
    assert error <= np.mean(y**2)


def test_a_plan_with_feedback_can_be_cut_anywhere() -> None:
    examples = Examples(*problem(), None)
    schedule = ReduceOnPlateau(0.5, 0.5, patience=1, threshold=0.02)
    plan = Plan(LogLoss(), Adam(schedule), batch_size=64)
    whole, part = (State.start(plan, np.zeros((7, 1))) for _ in range(2))
    history = minibatch.train(examples, plan, whole, replace(FREE, max_epochs=12))
    assert len(set(history.learning_rate)) > 2
    rates: list[float] = []
    for epochs in (5, 1, 6):
        rates += minibatch.train(examples, plan, part, replace(FREE, max_epochs=epochs)).learning_rate
    assert rates == history.learning_rate
    assert part.plateau == whole.plateau
    np.testing.assert_array_equal(part.w, whole.w)


def test_squared_error_of_a_rising_rate_is_told() -> None:
    X, y = problem()
    with pytest.warns(ConvergenceWarning, match="diverged in epoch 1"):
        SGDRegressor(optimizer=SGD(50.0), random_state=0).fit(X, y)
    assert SquaredError().curvature_bound == 1


# ------------------------------------------------------------------------------------ scikit-learn's protocol (1.9 on)


class Recorder:
    """A callback of scikit-learn's: keeps the order of its hooks and a score an epoch; ends the fit with the fourth."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.scores: list[float] = []

    def setup(self, estimator: Any, context: Any) -> None:
        self.calls.append("setup")

    def teardown(self, estimator: Any, context: Any) -> None:
        self.calls.append("teardown")

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        self.calls.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator: Any, context: Any, *, X: Any, y: Any, fitted_estimator: Any) -> bool:
        self.calls.append(f"end {context.task_name}")
        self.scores.append(fitted_estimator.score(X, y))
        return self.calls.count("end epoch") == 4


@pytest.mark.skipif(find_spec("sklearn.callback") is None, reason="scikit-learn before 1.9 has no callbacks")
@pytest.mark.parametrize("kind", [SGDClassifier, SGDRegressor])
def test_scikit_learns_callbacks_see_every_epoch(kind: Any) -> None:
    X, y = problem()
    recorder = Recorder()
    model = kind(random_state=0, tol=None, max_iter=9).set_callbacks(recorder).fit(X, y)
    assert recorder.calls == ["setup", "begin fit", *["begin epoch", "end epoch"] * 4, "end fit", "teardown"]
    assert model.n_iter_ == 4
    plain, scores = kind(random_state=0), []
    for _ in range(4):
        plain.partial_fit(X, y, **({"classes": [0, 1]} if kind is SGDClassifier else {}))
        scores.append(plain.score(X, y))
    assert recorder.scores == [*scores, model.score(X, y)]
    assert not [name for name in vars(model) if "callback" in name and name not in ("callbacks", "_skl_callbacks")]
