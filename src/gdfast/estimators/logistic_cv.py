"""Logistic regression that chooses its penalty by cross-validation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from sklearn.utils.metadata_routing import UNUSED

from gdfast import runtime
from gdfast.backends import cpu
from gdfast.estimators.folds import CrossValidated, knowing_classes, rows_of
from gdfast.estimators.full import LOGISTIC_SOLVERS, LogisticRegression, solve
from gdfast.estimators.linear import (
    all_or_nothing,
    check_choice,
    check_flag,
    check_number,
    check_seed,
    check_verbose,
)
from gdfast.layouts import take_rows
from gdfast.losses import LogLoss, Loss, Softmax
from gdfast.penalties import ElasticNet
from gdfast.plan import Examples
from gdfast.solvers.objective import Objective
from gdfast.sources import Table
from gdfast.streams import Source

Array = np.ndarray[Any, Any]


class _OfMargins(LogisticRegression):
    """Is given margins where others are given rows: what scorers ask of all settings costs one product."""

    def _margins(self, X: Any) -> Array:
        return np.asarray(X)


class LogisticRegressionCV(CrossValidated, LogisticRegression):
    """minimise  sum_i s_i loss_i / sum_i s_i + alpha ((1 - l1_ratio) / 2 |w|^2 + l1_ratio |w|_1),  alpha = 1 / (C sum_i s_i)

    with the C of ``Cs`` and the l1_ratio of ``l1_ratios`` that score best on rows left out. scikit-learn's parameters and
    meaning. X is never copied: rows of other folds have weight 0, every C starts from the weights of the one before, and
    the rows of a fold are read once to score all settings.

    Parameters
    ----------
    Cs : numbers > 0, or so many from 1e-4 to 1e4. l1_ratios : numbers in [0, 1]; None is the penalty L2.
    scoring : as in scikit-learn; None is the accuracy. cv : as in scikit-learn; None is 5 stratified folds.
    refit : fit all rows with the best setting; False takes the mean of the weights that are best on each fold.
    use_legacy_attributes : dicts of classes, as scikit-learn has until 1.10; False: arrays, as from then on.
    The others : as in ``LogisticRegression``.

    Attributes
    ----------
    coef_, intercept_, classes_, Cs_, l1_ratios_, n_features_in_, feature_names_in_, optimality_, fit_report_, and
    C_, l1_ratio_, scores_, coefs_paths_, n_iter_: arrays (n_classes,) [(1,) for two], dicts {class: (folds, Cs)}, {class:
    (folds, Cs, d + 1)} and an array (1, folds, Cs), each with an axis of l1_ratios behind the Cs unless these are None; or
    without legacy attributes two numbers, (folds, l1_ratios, Cs), (folds, l1_ratios, Cs, classes, d + 1) and (folds,
    l1_ratios, Cs). Without an intercept d + 1 is d.
    """

    __metadata_request__score: ClassVar[dict[str, Any]] = {"sample_weight": UNUSED}  # goes to the scorer

    fit_report_: dict[str, Any]
    n_iter_: Any
    C_: Any
    l1_ratio_: Any
    scores_: Any
    coefs_paths_: Any

    def __init__(
        self,
        *,
        Cs: Any = 10,
        l1_ratios: Any = None,
        fit_intercept: bool = True,
        cv: Any = None,
        dual: bool = False,
        penalty: str = "deprecated",
        scoring: Any = None,
        solver: str = "auto",
        tol: float = 1e-4,
        max_iter: int = 100,
        class_weight: Any = None,
        n_jobs: int | None = None,
        verbose: int = 0,
        refit: bool = True,
        intercept_scaling: float = 1.0,
        random_state: Any = None,
        use_legacy_attributes: bool = True,
    ) -> None:
        self.Cs = Cs
        self.l1_ratios = l1_ratios
        self.fit_intercept = fit_intercept
        self.cv = cv
        self.dual = dual
        self.penalty = penalty
        self.scoring = scoring
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.class_weight = class_weight
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.refit = refit
        self.intercept_scaling = intercept_scaling
        self.random_state = random_state
        self.use_legacy_attributes = use_legacy_attributes

    def _settings(self) -> tuple[Array, Array]:
        """(Cs, l1_ratios), checked, and all other parameters too."""
        check_choice(self, "solver", LOGISTIC_SOLVERS)
        check_flag(self, "dual", "fit_intercept", "refit", "use_legacy_attributes")
        check_number(self, "intercept_scaling", low=0, closed=False)
        check_number(self, "tol", low=0, infinite=True)
        check_number(self, "max_iter", low=1, integer=True)
        check_seed(self)
        check_verbose(self)
        named = check_choice(self, "penalty", ("deprecated", "l1", "l2", "elasticnet"))
        if np.ndim(self.Cs) == 0:
            Cs = np.logspace(-4, 4, check_number(self, "Cs", low=1, integer=True))
        else:
            Cs = _numbers("Cs", self.Cs, 0.0, np.inf)
            if (Cs == 0).any():
                raise ValueError(f"Cs must be numbers > 0, got {self.Cs!r}")
        if named in ("l1", "l2"):
            return Cs, np.array([1.0 if named == "l1" else 0.0])
        if self.l1_ratios is None:
            if named == "elasticnet":
                raise ValueError("penalty='elasticnet' needs l1_ratios, a list of numbers in [0, 1]; got None")
            return Cs, np.zeros(1)
        return Cs, _numbers("l1_ratios", self.l1_ratios, 0.0, 1.0)

    @all_or_nothing
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, **params: Any) -> LogisticRegressionCV:
        """X: (n, d) array, sparse matrix or data frame; y: (n,) labels; sample_weight: (n,) or None; params: metadata for
        the splitter and the scorer, where scikit-learn's routing is enabled."""
        Cs, ratios = self._settings()
        if isinstance(X, Source):
            raise ValueError(
                "LogisticRegressionCV learns from rows in memory: pass X, y, sample_weight = source.load()"
            )
        split, score = self._routed("fit", sample_weight, params)
        table, examples = self._rows(X, y, sample_weight)
        labels = self.classes_[examples.y.astype(np.int64)]
        splits = self._splits(labels, split)
        scorer = knowing_classes(self._scorer(), self.classes_)
        shape = len(splits), len(ratios), len(Cs)
        paths = np.empty((*shape, table.d + 1, examples.k))
        scores, n_iter, passes, short = np.empty(shape), np.empty(shape, dtype=np.int32), 0, 0
        judge = _OfMargins()
        judge.classes_ = self.classes_
        for f, (train, test) in enumerate(splits):
            times = np.bincount(train, minlength=examples.n).astype(examples.dtype)
            weight = times if examples.weight is None else times * examples.weight
            if not weight.any():
                raise ValueError(f"sample_weight: no weight is left to train on without fold {f}")
            some = replace(examples, weight=weight)
            for r, ratio in enumerate(ratios):
                w = np.zeros((table.d + 1, examples.k))
                for c, C in enumerate(Cs):
                    w, steps = self._to_optimum(X, table, some, C, ratio, w, quiet=True)
                    paths[f, r, c], n_iter[f, r, c] = w, steps
                    passes += self.fit_report_["passes"]
                    short += not self.fit_report_["converged"]
            z = _margins_of_all(take_rows(examples.X, test), paths[f], examples.dtype, runtime.threads(self.n_jobs))
            mine = rows_of(score, test, examples.n)
            for r, c in np.ndindex(shape[1:]):
                scores[f, r, c] = scorer(judge, z[:, r, c], labels[test], **mine)
        if short:
            what = f"stopped before tol={self.tol:g} was reached in {short} of {scores.size} fits on the folds"
            self._warn_not_converged(what, f"Set max_iter above {self.max_iter}, or scale the columns of X.")
        if self.refit:
            best = np.unravel_index(scores.sum(axis=0).T.argmax(), shape[:0:-1])[::-1]
            C, ratio = float(Cs[best[1]]), float(ratios[best[0]])
            w, _ = self._to_optimum(X, table, examples, C, ratio, paths[:, best[0], best[1]].mean(axis=0))
        else:
            flat = scores.transpose(0, 2, 1).reshape(len(splits), -1).argmax(axis=1)
            c_best, r_best = np.unravel_index(flat, shape[:0:-1])
            C, ratio = float(Cs[c_best].mean()), float(ratios[r_best].mean())
            w = paths[np.arange(len(splits)), r_best, c_best].mean(axis=0)
        self.fit_report_ = {**self.fit_report_, "fits_on_folds": scores.size, "passes_on_folds": passes}
        self._set_weights(w.astype(table.dtype))
        self.Cs_, self.l1_ratios_ = Cs, np.asarray([None] if self.l1_ratios is None else ratios)
        self._set_paths(C, ratio, paths if self.fit_intercept else paths[..., :-1, :], scores, n_iter)
        return self

    def _to_optimum(
        self, X: Any, table: Table, examples: Examples, C: float, ratio: float, w: Array, *, quiet: bool = False
    ) -> tuple[Array, int]:
        """(the weights at the optimum from w on, iterations)"""
        loss: Loss = LogLoss() if examples.k == 1 else Softmax()
        penalty = ElasticNet(1 / (C * examples.total_weight), float(ratio))
        objective = Objective(examples, loss, penalty, bool(self.fit_intercept), runtime.threads(self.n_jobs))
        options: dict[str, Any] = {"solver": self.solver, "tol": self.tol, "max_iter": self.max_iter, "quiet": quiet}
        solution = solve(self, X, table, objective, w, **options)
        return solution.w, solution.n_iter

    def _set_paths(self, C: float, ratio: float, paths: Array, scores: Array, n_iter: Array) -> None:
        """paths: (folds, l1_ratios, Cs, d + 1, k)"""
        paths = paths.swapaxes(3, 4)
        if not self.use_legacy_attributes:
            self.C_, self.l1_ratio_, self.coefs_paths_, self.scores_, self.n_iter_ = C, ratio, paths, scores, n_iter
            return
        k = paths.shape[3]
        several = slice(None) if self.l1_ratios is not None else 0
        labels = self.classes_[1:] if k == 1 else self.classes_
        self.C_, self.l1_ratio_ = np.full(k, C), np.full(k, ratio)
        self.coefs_paths_ = {c: paths[:, :, :, j].swapaxes(1, 2)[:, :, several] for j, c in enumerate(labels)}
        self.scores_ = {c: scores.swapaxes(1, 2)[:, :, several].copy() for c in labels}
        self.n_iter_ = n_iter.swapaxes(1, 2)[None, :, :, several]

    def score(self, X: Any, y: Any, *, sample_weight: Any = None, **params: Any) -> float:
        """The metric of ``scoring``; the accuracy where that is None."""
        _, score = self._routed("score", sample_weight, params)
        return float(knowing_classes(self._scorer(), self.classes_)(self, X, y, **score))


def _numbers(name: str, values: Any, low: float, high: float) -> Array:
    found = np.asarray(values)
    if (
        found.ndim != 1
        or found.size == 0
        or found.dtype.kind not in "iuf"
        or not ((low <= found) & (found <= high)).all()
    ):
        raise ValueError(f"{name} must be a list of numbers from {low:g} to {high:g}, got {values!r}")
    return found.astype(np.float64)


def _margins_of_all(X: Any, paths: Array, dtype: Any, threads: int) -> Array:
    """(n, l1_ratios, Cs, k) from (l1_ratios, Cs, d + 1, k): X is read once."""
    together = np.ascontiguousarray(paths.transpose(2, 0, 1, 3).reshape(paths.shape[2], -1), dtype=dtype)
    with runtime.worker():
        z = cpu.margins(X, together, threads)
    return z.reshape(len(z), *paths.shape[:2], paths.shape[3])
