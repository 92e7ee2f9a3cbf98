"""Estimators that go to the optimum: LogisticRegression, LinearRegression, Ridge."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from gdfast import runtime
from gdfast.conversion import size_of
from gdfast.estimators.linear import (
    LinearClassifier,
    LinearModel,
    LinearRegressor,
    SparseCoefficients,
    all_or_nothing,
    check_choice,
    check_flag,
    check_number,
    check_seed,
    check_verbose,
    checkpoint_of,
    probabilities,
)
from gdfast.losses import LogLoss, Loss, Softmax, SquaredError
from gdfast.penalties import ElasticNet
from gdfast.plan import Examples
from gdfast.run_folder import Checkpoint, RunFolder, fingerprint, identity_of
from gdfast.scaling import LOOK, Scaling
from gdfast.solvers import choose, lbfgs, newton, newton_cg, subsampled_newton
from gdfast.solvers.journal import Journal
from gdfast.solvers.objective import Objective, Solution
from gdfast.sources import Table, as_table, as_target, as_weight
from gdfast.sparse import without_zeros
from gdfast.streams import Source, Stream, summarise

Array = np.ndarray[Any, Any]

# scikit-learn's names; all of its solvers go to the same optimum, so a name only says which way
LOGISTIC_SOLVERS = ("auto", "newton", "lbfgs", "liblinear", "newton-cg", "newton-cholesky", "sag", "saga")
_NEWTON = {"newton": newton, "newton-cholesky": newton, "newton-cg": newton_cg}
# dense rows with so few non-zeros are read faster as sparse ones, by so many outputs
MANY_OUTPUTS, WORTH_SPARSE = 5, 0.3
_SMOOTH = (lbfgs, newton_cg, subsampled_newton)  # where they may be asked for instead
_RIDGE_SOLVERS = ("auto", "svd", "cholesky", "lsqr", "sparse_cg", "sag", "saga", "lbfgs")


def solve(
    model: LinearModel,
    X: Any,
    table: Table,
    objective: Objective,
    w: Array,
    *,
    solver: str,
    tol: float,
    max_iter: int,
    quiet: bool = False,
) -> Solution:
    """Solves, sets fit_report_ and optimality_, and warns where the optimum was not reached, unless ``quiet``.

    ``table`` was opened without a scan of X: a pass with a finite gradient is proof that X is finite. Without one, X is
    opened again, to name what is wrong with it.
    """
    began = time.perf_counter()
    far = Scaling.of_far_columns(objective.examples.sample(*LOOK).X) if objective.fit_intercept else None
    if far is not None:
        examples = objective.examples
        scaled = replace(examples, X=far.apply(examples.X)) if isinstance(examples, Examples) else examples.scaled(far)
        objective, w = replace(objective, examples=scaled), far.to_standard(w)
    chosen, why = choose(objective)
    if solver == "lbfgs" and objective.penalty.l1 == 0:
        chosen, why = lbfgs, "asked for"
    elif solver in _NEWTON and chosen in _SMOOTH and objective.examples.k == 1:
        chosen, why = _NEWTON[solver], "asked for"
    copies = table.copies
    try:
        with runtime.worker(), np.errstate(invalid="ignore"):
            if chosen is lbfgs and objective.examples.k >= MANY_OUTPUTS and isinstance(objective.examples, Examples):
                rows = without_zeros(objective.examples.X, objective.threads, most=WORTH_SPARSE)
                if rows is not None:
                    objective.examples = replace(objective.examples, X=rows)
                    copies += (f"X: its non-zeros as sparse rows for the solver, {size_of(rows.nbytes)}",)
            solution: Solution = chosen.minimize(
                objective, w, tol=tol * 1e-2, max_iter=max_iter, callback=model._progress("iteration")
            )
    except FloatingPointError:
        if not isinstance(objective.examples, Stream):  # whose numbers are looked at as they are read
            as_table(X, threads=objective.threads)
        raise
    if objective.journal is not None:
        objective.journal.save()
    if not (objective.proven or isinstance(objective.examples, Stream)):
        as_table(X, threads=objective.threads)
    if not np.isfinite(solution.w).all():
        raise FloatingPointError(f"{type(model).__name__}: the solver produced NaN or infinity; scale the columns of X")
    model.optimality_ = {"relative_excess": solution.excess, "gradient_norm": solution.gradient_norm}
    model.fit_report_ = {
        "solver": chosen.__name__.rpartition(".")[2],
        "why": why,
        "converged": solution.converged,
        "stopped": solution.reason,
        "objective": solution.objective,
        "iterations": solution.n_iter,
        "passes": objective.passes,
        "seconds": time.perf_counter() - began,
        "threads": objective.threads,
        "instruction_set": runtime.instruction_set(),
        "copies": copies,
        **model.optimality_,
    }
    model.objective_curve_ = solution.history
    if not (solution.converged or quiet):
        model._warn_not_converged(
            f"stopped before tol={tol:g} was reached: {solution.reason}, gradient norm {solution.gradient_norm:.2e}",
            f"Set max_iter above {max_iter}, or scale the columns of X.",
        )
    return solution if far is None else replace(solution, w=far.to_original(solution.w))


class LogisticRegression(LinearClassifier, SparseCoefficients):
    """minimise  sum_i s_i loss_i / sum_i s_i + alpha ((1 - l1_ratio) / 2 |w|^2 + l1_ratio |w|_1),  alpha = 1 / (C sum_i s_i)

    The loss is the log-loss for two classes and softmax cross-entropy (true multinomial) for more; s are the sample
    weights times the class weights; the intercept is never penalised. scikit-learn's parameters and meaning.

    Parameters
    ----------
    penalty : {"l1", "l2", "elasticnet", None}: older spelling, turned into ``l1_ratio`` and ``C``.
    C : inverse strength of the penalty, > 0; ``inf`` for none.
    l1_ratio : 0 is L2, 1 is L1 (exact zeros), between them elastic net.
    tol : the solver stops when its estimate of (f - f*) / f is below tol / 100; ``optimality_`` holds that estimate.
    solver : "auto" chooses from shape, loss and penalty, and says why in ``fit_report_``; "newton" and "lbfgs" force
        one. scikit-learn's names are accepted: all lead to the same optimum.
    n_jobs : threads; None for what OpenMP allows, -1 for all cores.
    checkpoint : a folder, or ``gdfast.Checkpoint(folder, seconds=30)``: what each pass over all rows gave is saved there, and a
        fit with the same data and settings continues what it finds, to the same bits. Not with an L1 part.
    dual, intercept_scaling, random_state : accepted for scikit-learn's sake; nothing here depends on them.

    Attributes
    ----------
    coef_ (1, d) or (n_classes, d), intercept_, classes_, n_iter_ (1,), n_features_in_, feature_names_in_, optimality_,
    fit_report_, objective_curve_.
    """

    def __init__(
        self,
        penalty: Any = "deprecated",
        *,
        C: float = 1.0,
        l1_ratio: float | None = 0.0,
        dual: bool = False,
        tol: float = 1e-4,
        fit_intercept: bool = True,
        intercept_scaling: float = 1,
        class_weight: Any = None,
        random_state: Any = None,
        solver: str = "auto",
        max_iter: int = 100,
        verbose: int = 0,
        warm_start: bool = False,
        n_jobs: int | None = None,
        checkpoint: Any = None,
    ) -> None:
        self.penalty = penalty
        self.C = C
        self.l1_ratio = l1_ratio
        self.dual = dual
        self.tol = tol
        self.fit_intercept = fit_intercept
        self.intercept_scaling = intercept_scaling
        self.class_weight = class_weight
        self.random_state = random_state
        self.solver = solver
        self.max_iter = max_iter
        self.verbose = verbose
        self.warm_start = warm_start
        self.n_jobs = n_jobs
        self.checkpoint = checkpoint

    def _elastic_net(self, total_weight: float) -> ElasticNet:
        C = check_number(self, "C", low=0, closed=False, infinite=True)
        named = check_choice(self, "penalty", ("deprecated", "l1", "l2", "elasticnet", None))
        mix = 0.0 if self.l1_ratio is None else check_number(self, "l1_ratio", low=0, high=1)
        if named is None:
            return ElasticNet()
        return ElasticNet(1 / (C * total_weight), {"l1": 1.0, "l2": 0.0}.get(named, float(mix)))

    @all_or_nothing
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> LogisticRegression:
        """X: (n, d) array, sparse matrix or data frame; y: (n,) labels; sample_weight: (n,) or None. X may be a source
        (``gdfast.ParquetSource``), which holds labels and weights.

        Raises ValueError for what cannot be learned from (shapes, NaN, one class, negative weights, ...), naming it.
        """
        check_choice(self, "solver", LOGISTIC_SOLVERS)
        check_flag(self, "dual", "fit_intercept", "warm_start")
        check_number(self, "intercept_scaling", low=0, closed=False)
        check_seed(self)
        check_verbose(self)
        tol = check_number(self, "tol", low=0, infinite=True)
        max_iter = check_number(self, "max_iter", low=1, integer=True)
        self._elastic_net(1.0)
        checkpoint = checkpoint_of(self)
        threads = runtime.threads(self.n_jobs)
        before = getattr(self, "classes_", None)
        source = X if isinstance(X, Source) else None
        if source is not None and not (y is None and sample_weight is None):
            raise ValueError("a source holds labels and weights: y and sample_weight must be None")
        examples: Examples | Stream
        if source is not None and not source.fits:
            table, examples = self._stream(source)
        else:
            X, y, sample_weight = (X, y, sample_weight) if source is None else source.load()
            table, examples = self._rows(X, y, sample_weight)
        k = examples.k
        loss: Loss = LogLoss() if k == 1 else Softmax()
        penalty = self._elastic_net(examples.total_weight)
        w = np.zeros((table.d + 1, k))
        known = before is not None and np.array_equal(before, self.classes_)
        if self.warm_start and known and self.coef_.shape == (k, table.d):
            w = self._weights(np.float64)
        with self._folder(checkpoint, examples, penalty, w, tol) as folder:
            journal = None if folder is None else Journal(folder)
            objective = Objective(examples, loss, penalty, bool(self.fit_intercept), threads, journal=journal)
            solution = solve(self, X, table, objective, w, solver=self.solver, tol=tol, max_iter=max_iter)
        self._set_weights(solution.w.astype(table.dtype))
        self._name_features(source)
        self.n_iter_ = np.array([solution.n_iter], dtype=np.int32)
        return self

    def _rows(self, X: Any, y: Any, sample_weight: Any) -> tuple[Table, Examples]:
        table = self._read(X, first=True, check_finite=False)
        codes = self._encode(y, table.n)
        weight = self._row_weights(codes, sample_weight, self.class_weight, table.dtype)
        k = 1 if len(self.classes_) == 2 else len(self.classes_)
        return table, Examples(table.X, codes.astype(table.dtype), weight, k)

    def _stream(self, source: Source) -> tuple[Table, Stream]:
        with runtime.worker():
            summary = summarise(source, labels=True)
        self._encode(summary.labels, len(summary.labels))
        k = 1 if len(self.classes_) == 2 else len(self.classes_)
        stream = self._stream_of_classes(
            source, summary, self.class_weight, lambda codes: codes.astype(source.dtype), k
        )
        self.n_features_in_ = source.d
        self.__dict__.pop("feature_names_in_", None)
        return Table(stream.few.X, source.n, source.d, source.dtype, ()), stream

    def _folder(
        self, checkpoint: Checkpoint | None, examples: Examples | Stream, penalty: ElasticNet, w: Array, tol: float
    ) -> AbstractContextManager[RunFolder | None]:
        if checkpoint is None:
            return nullcontext()
        settings = {"model": type(self).__name__, "penalty": identity_of(penalty), "start": identity_of(w)}
        settings |= {"tol": identity_of(tol), "solver": self.solver, "class_weight": repr(self.class_weight)}
        settings |= {"fit_intercept": repr(bool(self.fit_intercept))}
        if isinstance(examples, Stream):
            data = examples.source.identity()
            settings["blocks"] = f"of {examples.source.rows_of_block} rows"
        else:
            data = fingerprint(examples.X, examples.y, examples.weight)
        return RunFolder(checkpoint, {"data": data, **settings})

    def predict_proba(self, X: Any) -> Array:
        """(n, n_classes) probabilities, in the order of ``classes_``."""
        z = self._margins(X)
        return probabilities(z, "logistic" if z.shape[1] == 1 else "softmax")

    def predict_log_proba(self, X: Any) -> Array:
        """log of ``predict_proba``"""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))


class LeastSquares(LinearRegressor):
    """Squared error with an L2 penalty to its optimum: what LinearRegression and Ridge share."""

    def _fit(self, X: Any, y: Any, sample_weight: Any, alpha: Any, *, tol: float, max_iter: int, solver: str) -> None:
        threads = runtime.threads(getattr(self, "n_jobs", None))
        source = X if isinstance(X, Source) else None
        if source is not None:
            if not (y is None and sample_weight is None):
                raise ValueError("a source holds targets and weights: y and sample_weight must be None")
            if not source.fits:
                self._fit_stream(source, alpha, threads, tol=tol, max_iter=max_iter, solver=solver)
                return
            X, y, sample_weight = source.load()
        table = self._read(X, first=True, check_finite=False)
        target = as_target(y, table.n, dtype=table.dtype)
        weight = as_weight(sample_weight, table.n, dtype=table.dtype)
        one = target.ndim == 1
        columns = target[:, None] if one else target
        if np.ndim(alpha) > 0 and np.shape(alpha) != (columns.shape[1],):
            raise ValueError(f"alpha has {np.size(alpha)} numbers, y has {columns.shape[1]} targets: they must agree")
        alphas = np.broadcast_to(np.asarray(alpha, dtype=np.float64), (columns.shape[1],))
        groups = [np.flatnonzero(alphas == value) for value in np.unique(alphas)]
        w = np.empty((table.d + 1, columns.shape[1]))
        iterations = []
        for group in groups:
            part = columns[:, group]
            examples = Examples(
                table.X, np.ascontiguousarray(part[:, 0] if len(group) == 1 else part), weight, len(group)
            )
            penalty = ElasticNet(float(alphas[group[0]]) / examples.total_weight)
            objective = Objective(examples, SquaredError(), penalty, bool(self.fit_intercept), threads)
            start = np.zeros((table.d + 1, len(group)))
            solution = solve(self, X, table, objective, start, solver=solver, tol=tol, max_iter=max_iter)
            w[:, group] = solution.w
            iterations.append(solution.n_iter)
        self._set_weights(w.astype(table.dtype))
        self._name_features(source)
        self._shape_of_targets(one)
        if not self.fit_intercept:
            self.intercept_ = 0.0
        self.n_iter_ = max(iterations)

    def _fit_stream(self, source: Source, alpha: Any, threads: int, *, tol: float, max_iter: int, solver: str) -> None:
        if np.ndim(alpha) > 0 and np.shape(alpha) != (1,):
            raise ValueError(f"alpha has {np.size(alpha)} numbers, a source has one target: they must agree")
        with runtime.worker():
            summary = summarise(source, labels=False)

        def encode(y: Array, weight: Array | None) -> tuple[Array, Array | None]:
            return as_target(y, len(y), dtype=source.dtype), weight

        stream = summary.stream(source, encode, 1, summary.total_weight)
        penalty = ElasticNet(float(np.max(alpha)) / stream.total_weight)
        objective = Objective(stream, SquaredError(), penalty, bool(self.fit_intercept), threads)
        table = Table(stream.few.X, source.n, source.d, source.dtype, ())
        w = np.zeros((source.d + 1, 1))
        solution = solve(self, source, table, objective, w, solver=solver, tol=tol, max_iter=max_iter)
        self.n_features_in_ = source.d
        self.__dict__.pop("feature_names_in_", None)
        self._name_features(source)
        self._set_weights(solution.w.astype(source.dtype))
        self._shape_of_targets(True)
        if not self.fit_intercept:
            self.intercept_ = 0.0
        self.n_iter_ = solution.n_iter

    def predict(self, X: Any) -> Array:
        """X coef_' + intercept_"""
        z = self._margins(X)
        return z[:, 0] if self.coef_.ndim == 1 else z

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = True
        return tags

    def _check_flags(self) -> None:
        check_flag(self, "fit_intercept", "copy_X", "positive")
        if self.positive:
            raise ValueError(f"positive=True is not available in gdfast.{type(self).__name__}; leave it False")


class LinearRegression(LeastSquares):
    """minimise  sum_i s_i |y_i - x_i w - b|^2;  the solution of smallest norm where there are many

    scikit-learn's parameters and meaning; ``copy_X`` has no effect: X is never written to.

    Attributes: coef_ (d,) or (k, d), intercept_, n_iter_, n_features_in_, feature_names_in_, optimality_, fit_report_.
    """

    def __init__(
        self,
        *,
        fit_intercept: bool = True,
        copy_X: bool = True,
        tol: float = 1e-6,
        n_jobs: int | None = None,
        positive: bool = False,
    ) -> None:
        self.fit_intercept = fit_intercept
        self.copy_X = copy_X
        self.tol = tol
        self.n_jobs = n_jobs
        self.positive = positive

    @all_or_nothing
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> LinearRegression:
        """X: (n, d) array, sparse matrix or data frame; y: (n,) or (n, k); sample_weight: (n,) or None; or X a
        source (``gdfast.ParquetSource``), which holds targets and weights."""
        self._check_flags()
        tol = check_number(self, "tol", low=0, infinite=True)
        self._fit(X, y, sample_weight, 0.0, tol=tol, max_iter=1000, solver="auto")
        return self


class Ridge(LeastSquares):
    """minimise  sum_i s_i |y_i - x_i w - b|^2 + alpha |w|^2

    scikit-learn's parameters and meaning; ``alpha`` may be one number a target. ``solver`` takes scikit-learn's names:
    all lead to the same optimum. ``copy_X`` and ``random_state`` have no effect.

    Attributes: coef_ (d,) or (k, d), intercept_, n_iter_, solver_, n_features_in_, feature_names_in_, optimality_,
    fit_report_.
    """

    def __init__(
        self,
        alpha: Any = 1.0,
        *,
        fit_intercept: bool = True,
        copy_X: bool = True,
        max_iter: int | None = None,
        tol: float = 1e-4,
        solver: str = "auto",
        positive: bool = False,
        random_state: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.copy_X = copy_X
        self.max_iter = max_iter
        self.tol = tol
        self.solver = solver
        self.positive = positive
        self.random_state = random_state
        self.n_jobs = n_jobs

    @all_or_nothing
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Ridge:
        """X: (n, d) array, sparse matrix or data frame; y: (n,) or (n, k); sample_weight: (n,) or None; or X a
        source (``gdfast.ParquetSource``), which holds targets and weights."""
        self._check_flags()
        check_seed(self)
        check_choice(self, "solver", _RIDGE_SOLVERS)
        tol = check_number(self, "tol", low=0, infinite=True)
        alpha = np.asarray(self.alpha)
        if alpha.dtype.kind not in "iuf" or not np.isfinite(alpha).all() or (alpha < 0).any():
            raise ValueError(f"alpha must be a finite number >= 0, or one such number a target; got {self.alpha!r}")
        max_iter = 1000 if self.max_iter is None else check_number(self, "max_iter", low=1, integer=True)
        self._fit(X, y, sample_weight, alpha, tol=tol, max_iter=max_iter, solver=self.solver)
        if self.coef_.shape[0] == 1:  # y of shape (n, 1): as in scikit-learn, where LinearRegression differs
            self.coef_ = self.coef_.ravel()
        self.solver_ = self.fit_report_["solver"]
        return self
