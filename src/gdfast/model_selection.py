"""Many models in one pass: cross-validation and grids of settings, trained side by side.

Every pair of a setting and a fold is one model of one output; all of them learn from the same batches, read once, as one
matrix product. Each has its own optimizer, rate, penalty, clipping, divergence and end, and its result is that of the
estimator's ``fit`` with weight 0 on the rows held out.
"""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import ParameterGrid, check_cv
from sklearn.utils import check_random_state

from gdfast import runtime, scores
from gdfast.backends import cpu
from gdfast.estimators.minibatch import SGDModel
from gdfast.layouts import Features
from gdfast.losses import Loss
from gdfast.plan import Examples, Plan, State
from gdfast.scaling import Scaling
from gdfast.solvers import learning_rate, minibatch
from gdfast.solvers.stopping import History

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class GridResult:
    """What ``grid`` found.

    params : one dict a setting. scores : for each metric an array (settings, folds), on the rows held out.
    histories : (settings, folds) of ``History``. weights : (settings, folds, d + 1), intercept last.
    fold : (n,) the fold that holds each row out, -1 for none. passes : for each pass over the rows, the settings in it.
    best_index, best_params, best_score : by the mean over the folds of ``metric``. best_estimator : fitted to all rows,
    None with ``refit=False``.
    """

    params: list[dict[str, Any]]
    scores: dict[str, Array]
    histories: list[list[History]]
    weights: Array = field(repr=False)
    fold: Array = field(repr=False)
    passes: list[list[int]]
    metric: str
    best_index: int
    best_estimator: Any = None

    @property
    def best_params(self) -> dict[str, Any]:
        return self.params[self.best_index]

    @property
    def best_score(self) -> float:
        return float(self.scores[self.metric][self.best_index].mean())


def grid(
    estimator: SGDModel,
    X: Any,
    y: Any,
    params: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Sequence[Any]]],
    *,
    cv: Any = 5,
    sample_weight: Any = None,
    scoring: str | Sequence[str] | None = None,
    refit: bool = True,
) -> GridResult:
    """Scores of every setting of ``params`` on every fold; the best setting is fitted to all rows.

    estimator : an SGDClassifier of two classes or an SGDRegressor of one target. params : as in
    sklearn.model_selection.ParameterGrid. cv : number of folds (stratified for classifiers), an array (n,) of fold numbers,
    or a splitter or list of scikit-learn's that holds out every row at most once.
    scoring : names of metrics, all that fit the estimator by default; the first one chooses the best setting.

    Settings share a pass where they agree in loss, rows a step, order of rows (random_state, shuffle), intercept, class
    weights, max_steps; the others make passes of their own, and ``passes`` says which. With random_state=None one seed is
    drawn for all. Raises ValueError for what no pass can share: early_stopping, warm_start, callbacks,
    learning_rate="auto", class_weight="balanced", several outputs.
    """
    if not isinstance(estimator, SGDModel):
        raise TypeError(f"expected an SGDClassifier or SGDRegressor of gdfast, got {type(estimator).__name__}")
    settings = [dict(setting) for setting in ParameterGrid(params)]
    seed = estimator.random_state
    if not isinstance(seed, numbers.Integral):
        seed = check_random_state(seed).randint(2**31 - 1)
    estimators = [clone(estimator).set_params(**{"random_state": seed, **setting}) for setting in settings]
    for each in estimators:
        _check(each)
    classifier = is_classifier(estimator)
    names = _metrics(scoring, estimators)
    tasks, features = _tasks(estimators, X, y, sample_weight)
    fold = _fold_numbers(cv, y, tasks[0].examples.n, classifier)
    passes = _passes([task.key for task in tasks])
    threads = runtime.threads(estimator.n_jobs)
    folds, first = int(fold.max()) + 1, tasks[0].examples
    weights = np.empty((len(settings), folds, first.d + 1), dtype=first.dtype)
    histories: list[list[History]] = [[] for _ in settings]
    with runtime.worker():
        for members in passes:
            _train([tasks[i] for i in members], fold, folds, threads, [weights[i] for i in members], members, histories)
        z = cpu.margins(features, np.ascontiguousarray(weights.reshape(-1, first.d + 1).T), threads)
    found = _scores(z.reshape(-1, len(settings), folds), tasks, fold, names, threads)
    _warn(histories, estimators)
    signs = -1 if names[0] in scores.FALLING else 1
    means = np.nan_to_num(signs * found[names[0]].mean(axis=1), nan=-np.inf)
    best = int(means.argmax())
    fitted = estimators[best].fit(X, y, sample_weight=sample_weight) if refit else None
    return GridResult(settings, found, histories, weights, fold, passes, names[0], best, fitted)


def cross_validate(
    estimator: SGDModel, X: Any, y: Any, *, cv: Any = 5, sample_weight: Any = None, scoring: Any = None
) -> dict[str, Array]:
    """{"test_" + metric: scores of the folds}; arguments as in ``grid``, the folds trained in one pass."""
    found = grid(estimator, X, y, {}, cv=cv, sample_weight=sample_weight, scoring=scoring, refit=False)
    return {f"test_{name}": values[0] for name, values in found.scores.items()}


@dataclass(frozen=True)
class _Task:
    """One setting: its estimator, the rows as it sees them (standardised where it asks for it), its plan for all of them."""

    estimator: Any
    examples: Examples
    plan: Plan
    standard: Scaling | None

    @property
    def key(self) -> tuple[Any, ...]:
        """What all settings of a pass agree in."""
        plan, order = self.plan, (self.plan.shuffle, self.plan.block, self.plan.seed)
        steps = plan.loss, plan.rows_per_step, plan.fit_intercept, plan.optimizer.lazy
        return id(self.examples), steps, order, self.estimator.max_steps


def _tasks(estimators: Sequence[Any], X: Any, y: Any, sample_weight: Any) -> tuple[list[_Task], Features]:
    """Settings that see the same rows share them: they are read and validated once. Also X as it was read."""
    known: dict[tuple[Any, ...], tuple[Examples, Loss, Scaling | None]] = {}
    tasks = []
    for each in estimators:
        weight = getattr(each, "class_weight", None) or {}
        weights = tuple(sorted((repr(label), float(w)) for label, w in weight.items()))
        key = each._loss(), weights, each.standardize, each.fit_intercept
        if key not in known:
            table, examples, loss = each._examples(X, y, sample_weight)
            standard = each._scaling(examples)[0]
            known[key] = (
                examples if standard is None else replace(examples, X=standard.apply(examples.X)),
                loss,
                standard,
            )
        examples, loss, standard = known[key]
        if examples.k > 1:
            kind = "two classes" if is_classifier(each) else "one target"
            raise ValueError(f"y has {examples.k} outputs; several models in one pass need {kind}")
        plan = each._plan(loss, examples, 1.0)
        plan = plan if standard is None else replace(plan, bounds=standard.bounds(plan.bounds))
        tasks.append(_Task(each, examples, plan, standard))
    return tasks, table.X


def _passes(keys: Iterable[tuple[Any, ...]]) -> list[list[int]]:
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def _check(estimator: Any) -> None:
    estimator._validate()
    advice = {
        "early_stopping": "the folds hold rows out already; set early_stopping=False and tol or max_iter",
        "warm_start": "every model starts from zero; set warm_start=False",
        "callbacks": "there is one history a model in the result; set callbacks=None",
    }
    for name, what in advice.items():
        if getattr(estimator, name):
            raise ValueError(
                f"{name}={getattr(estimator, name)!r} is not possible with several models in one pass: {what}"
            )
    if estimator.device != "cpu":
        raise ValueError(
            f"device={estimator.device!r} is not possible with several models in one pass: set device='cpu'"
        )
    if isinstance(getattr(estimator, "class_weight", None), str):
        raise ValueError("class_weight='balanced' depends on the fold; pass a dict of weights")


def _metrics(scoring: str | Sequence[str] | None, estimators: Sequence[Any]) -> list[str]:
    classifier = is_classifier(estimators[0])
    known: tuple[str, ...] = scores.CLASSIFICATION if classifier else scores.REGRESSION
    if classifier and any(each.loss not in ("log_loss", "softmax") for each in estimators):
        known = tuple(name for name in known if name != "log_loss")  # margins of other losses are no log-odds
    names = list(known) if scoring is None else [scoring] if isinstance(scoring, str) else list(scoring)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"scoring must be among {', '.join(known)}; got {scoring!r}")
    return names


def _fold_numbers(cv: Any, y: Any, n: int, classifier: bool) -> Array:
    """(n,) the fold that holds each row out, -1 for none."""
    if isinstance(cv, np.ndarray) and cv.ndim == 1:
        if len(cv) != n or cv.dtype.kind not in "iu" or cv.min() < -1 or len(np.unique(cv[cv >= 0])) != cv.max() + 1:
            raise ValueError(f"cv: expected {n} integers, the folds 0, 1, ... of the rows and -1 for none")
        fold = cv.astype(np.int64)
    else:
        fold = np.full(n, -1, dtype=np.int64)
        for number, (train, test) in enumerate(check_cv(cv, y, classifier=classifier).split(np.empty((n, 0)), y)):
            if len(train) + len(test) != n or (fold[test] >= 0).any():
                raise ValueError("cv: expected folds that hold out every row at most once and train on all others")
            fold[test] = number
    if fold.max() < 1:
        raise ValueError(f"cv: expected at least 2 folds, got {int(fold.max()) + 1}")
    return fold


def _train(
    tasks: Sequence[_Task],
    fold: Array,
    folds: int,
    threads: int,
    weights: Sequence[Array],
    numbers: Sequence[int],
    histories: list[list[History]],
) -> None:
    """One pass over the rows an epoch, for all folds of these settings."""
    examples = replace(tasks[0].examples, fold=fold.astype(tasks[0].examples.dtype))
    means = [examples.without(f).total_weight / examples.n for f in range(folds)]
    if not min(means) > 0:
        raise ValueError(f"sample_weight: no weight is left to train on without fold {int(np.argmin(means))}")
    plans, states, held_out, stopping = [], [], [], []
    for task in tasks:
        for f in range(folds):
            if learning_rate.is_automatic(task.plan):
                raise ValueError("learning_rate='auto' goes its own way with every model: give a rate, see lr_find")
            plans.append(replace(task.plan, mean_weight=means[f]))
            states.append(State.start(plans[-1], np.zeros((examples.d + 1, 1), dtype=examples.dtype)))
            held_out.append(f)
            stopping.append(task.estimator._stopping())
    found = minibatch.train_together(examples, plans, states, held_out, stopping, threads=threads)
    for i, (number, out) in enumerate(zip(numbers, weights, strict=True)):
        for f in range(folds):
            w, standard = states[i * folds + f].weights, tasks[i].standard
            out[f] = (w if standard is None else standard.to_original(w))[:, 0]
        histories[number].extend(found[i * folds : (i + 1) * folds])


def _scores(z: Array, tasks: Sequence[_Task], fold: Array, names: Sequence[str], threads: int) -> dict[str, Array]:
    """z: (n, settings, folds)"""
    _, settings, folds = z.shape
    found = {name: np.empty((settings, folds)) for name in names}

    def score(f: int) -> None:
        rows = np.flatnonzero(fold == f)
        margins = np.ascontiguousarray(z[rows][:, :, f].T)
        for i, task in enumerate(tasks):
            weight = task.examples.weight
            of = _of_one(
                margins[i], task.examples.y[rows], None if weight is None else weight[rows], names, task.plan.loss
            )
            for name in names:
                found[name][i, f] = of[name]

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(score, range(folds)))
    return found


def _of_one(z: Array, y: Array, weight: Array | None, names: Sequence[str], loss: Loss) -> dict[str, float]:
    if names[0] in scores.REGRESSION:
        return scores.of_values(np.exp(z) if loss.link == "exp" else z, y, weight)
    y = y if loss.target in ("binary", "class") else (y > 0).astype(y.dtype)  # a regression loss learns -1 and 1
    found = scores.of_decisions(z, y, weight)
    if "roc_auc" in names:
        found["roc_auc"] = scores.roc_auc(z, y, weight)
    if "log_loss" in names:
        found["log_loss"] = scores.log_loss(z, y, weight)
    return found


def _warn(histories: Sequence[Sequence[History]], estimators: Sequence[Any]) -> None:
    every = [history for row in histories for history in row]
    bad = sum(history.diverged or history.worse for history in every)
    short = sum(history.limit is not None and not history.converged for history in every)
    if bad:
        what = f"{bad} of {len(every)} models diverged or ended worse than they began; their best weights are scored"
        warnings.warn(
            f"{what}. Leave out high learning rates or scale the columns of X.", ConvergenceWarning, stacklevel=3
        )
    elif short:
        what = f"{short} of {len(every)} models reached max_iter before they converged"
        highest = max(each.max_iter for each in estimators)
        warnings.warn(f"{what}. Set max_iter above {highest}, or tol=None.", ConvergenceWarning, stacklevel=3)
