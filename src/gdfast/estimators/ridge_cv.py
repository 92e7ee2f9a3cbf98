"""Ridge regression that chooses its penalty by cross-validation, from one Gram matrix."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin

from gdfast import runtime
from gdfast.backends import cpu
from gdfast.estimators.folds import CrossValidated, rows_of
from gdfast.estimators.full import LeastSquares
from gdfast.estimators.linear import all_or_nothing, check_choice, check_flag
from gdfast.layouts import take_rows, to_dense
from gdfast.losses import SquaredError
from gdfast.plan import Examples
from gdfast.scaling import LOOK, Scaling
from gdfast.sources import as_target, as_weight
from gdfast.streams import Source

Array = np.ndarray[Any, Any]

_AT_ONCE = 64  # outputs of one product with X


class _Identity(RegressorMixin, BaseEstimator):
    """Predicts what it is given: scorers want an estimator."""

    def predict(self, X: Any) -> Any:
        return X


@dataclass(frozen=True)
class _Moments:
    """S = sum_i s_i; H = sum_i s_i x_i x_i' and c = sum_i s_i x_i y_i', both with 1 as the last entry of x_i."""

    S: float
    H: Array
    c: Array

    @classmethod
    def of(cls, examples: Examples, threads: int) -> _Moments:
        zero = np.zeros((examples.d + 1, examples.k), dtype=examples.dtype)
        _, g, H = cpu.hessian(examples, SquaredError(), zero, True, threads)
        return cls(examples.total_weight, H, -g)

    def __sub__(self, other: _Moments) -> _Moments:
        return _Moments(self.S - other.S, self.H - other.H, self.c - other.c)


class _Path:
    """w(alpha) = (G + alpha)^-1 g for every alpha, from the eigenvectors V of G = V diag(values) V'."""

    def __init__(self, moments: _Moments, fit_intercept: bool) -> None:
        S, H, c = moments.S, moments.H, moments.c
        self.mean = H[-1, :-1] / S if fit_intercept else np.zeros(len(H) - 1)
        self.mean_y = c[-1] / S if fit_intercept else np.zeros(c.shape[1])
        G = H[:-1, :-1] - S * np.outer(self.mean, self.mean)
        values, self.V = np.linalg.eigh(G)
        self.values = np.maximum(values, 0.0)
        self.g = self.V.T @ (c[:-1] - S * np.outer(self.mean, self.mean_y))

    def weights(self, alpha: float) -> Array:
        """(d + 1, k), intercept last"""
        scale = self.values + alpha
        w = self.V @ (self.g / np.where(scale > 0, scale, np.inf)[:, None])
        return np.vstack([w, self.mean_y - self.mean @ w])


class RidgeCV(CrossValidated, LeastSquares):
    """minimise  sum_i s_i |y_i - x_i w - b|^2 + alpha |w|^2,  alpha the one of ``alphas`` that predicts best what is left out

    scikit-learn's parameters and meaning. One pass over X makes the moments that all alphas and folds need: those of the
    rows to train on are the whole less the fold. A second one scores. With ``cv=None`` every row is left out by itself:
    its error is  (y_i - x_i w - b) / (1 - s_i / S - s_i |(G + alpha)^-1/2 (x_i - mean)|^2)  (Golub, Heath and Wahba 1979).

    Parameters
    ----------
    alphas : numbers > 0. scoring, cv, store_cv_results, alpha_per_target : as in scikit-learn.
    gcv_mode : accepted for scikit-learn's sake; nothing here depends on it. n_jobs : threads, as in ``Ridge``.

    Attributes: coef_ (d,) or (k, d), intercept_, alpha_, best_score_, cv_results_ (n, n_alphas) or (n, k, n_alphas) with
    ``store_cv_results``, n_features_in_, feature_names_in_, fit_report_.
    """

    alpha_: Any
    best_score_: Any
    _scored_by = "r2"

    def __init__(
        self,
        alphas: Any = (0.1, 1.0, 10.0),
        *,
        fit_intercept: bool = True,
        scoring: Any = None,
        cv: Any = None,
        gcv_mode: str | None = None,
        store_cv_results: bool = False,
        alpha_per_target: bool = False,
        n_jobs: int | None = None,
    ) -> None:
        self.alphas = alphas
        self.fit_intercept = fit_intercept
        self.scoring = scoring
        self.cv = cv
        self.gcv_mode = gcv_mode
        self.store_cv_results = store_cv_results
        self.alpha_per_target = alpha_per_target
        self.n_jobs = n_jobs

    def _check(self) -> Array:
        check_flag(self, "fit_intercept", "store_cv_results", "alpha_per_target")
        check_choice(self, "gcv_mode", (None, "auto", "svd", "eigen"))
        alphas = np.atleast_1d(np.asarray(self.alphas))
        good = alphas.ndim == 1 and alphas.size > 0 and alphas.dtype.kind in "iuf"
        if not good or not np.isfinite(alphas).all() or (alphas <= 0).any():
            raise ValueError(f"alphas must be finite numbers > 0, got {self.alphas!r}")
        for name in ("store_cv_results", "alpha_per_target"):
            if self.cv is not None and getattr(self, name):
                raise ValueError(f"{name}=True needs cv=None, which leaves out every row by itself; got cv={self.cv!r}")
        return alphas.astype(np.float64)

    @all_or_nothing
    def fit(self, X: Any, y: Any, sample_weight: Any = None, **params: Any) -> RidgeCV:
        """X: (n, d) array, sparse matrix or data frame; y: (n,) or (n, k); sample_weight: (n,), a number or None."""
        began, alphas, threads = time.perf_counter(), self._check(), runtime.threads(self.n_jobs)
        if isinstance(X, Source):
            raise ValueError("RidgeCV learns from rows in memory: pass X, y, sample_weight = source.load()")
        split, score = self._routed("fit", sample_weight, params)
        table = self._read(X, first=True)
        y = as_target(y, table.n, dtype=table.dtype)
        weight = as_weight(sample_weight, table.n, dtype=table.dtype)
        one, columns = y.ndim == 1, y.reshape(table.n, -1)
        examples, far, turn = Examples(table.X, columns, weight, columns.shape[1]), None, None
        if table.n <= table.d:  # as many directions as rows: the others have no data
            rows = to_dense(table.X).astype(np.float64)
            center = rows.mean(axis=0) if self.fit_intercept else np.zeros(table.d)
            U, values, turn = np.linalg.svd(rows - center, full_matrices=False)
            kept = values > table.n * np.finfo(float).eps * max(values.max(), np.finfo(float).tiny)
            turn, kept_rows = turn[kept], U[:, kept] * values[kept]
            if not kept.any():
                turn, kept_rows = np.zeros((1, table.d)), np.zeros((table.n, 1))
            doubled = None if weight is None else weight.astype(np.float64)
            examples = Examples(np.ascontiguousarray(kept_rows), columns.astype(np.float64), doubled, columns.shape[1])
        elif self.fit_intercept:
            far = Scaling.of_far_columns(examples.sample(*LOOK).X)
        if examples.k == 1:
            examples = replace(examples, y=np.ascontiguousarray(examples.y[:, 0]))
        examples = examples if far is None else replace(examples, X=far.apply(examples.X))
        with runtime.worker():
            if self.cv is None:
                w = self._leave_one_out(examples, alphas, one, y, score, threads)
            else:
                w = self._by_folds(examples, alphas, self._splits(y, split), y, score, threads)
        if far is not None:
            w = far.to_original(w)
        if turn is not None:
            inner = turn.T @ w[:-1]
            w = np.vstack([inner, w[-1:] - center @ inner])
        self._set_weights(w.astype(table.dtype))
        self._shape_of_targets(one)
        if self.coef_.shape[0] == 1:
            self.coef_ = self.coef_.ravel()
        if not self.fit_intercept:
            self.intercept_ = 0.0
        self.fit_report_ = {
            "solver": "eigenvectors of the Gram matrix",
            "seconds": time.perf_counter() - began,
            "threads": threads,
            "instruction_set": runtime.instruction_set(),
            "copies": table.copies,
        }
        return self

    def _leave_one_out(
        self, examples: Examples, alphas: Array, one: bool, y: Array, score: dict[str, Any], threads: int
    ) -> Array:
        """Sets alpha_ and best_score_; the weights (d + 1, k)."""
        n, k = examples.n, examples.k
        path = _Path(_Moments.of(examples, threads), self.fit_intercept)
        s = np.ones(n) if examples.weight is None else examples.weight.astype(np.float64)
        free = 1 - s / s.sum() if self.fit_intercept else np.ones(n)
        lever = np.zeros((n, len(alphas)))
        for first in range(0, len(path.values), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            V = np.vstack([path.V[:, part], -path.mean @ path.V[:, part]])
            z = cpu.margins(examples.X, np.ascontiguousarray(V, dtype=examples.dtype), threads)
            lever += np.square(z, dtype=np.float64) @ (1 / (path.values[part, None] + alphas))
        paths = [path.weights(alpha) for alpha in alphas]
        fitted = self._values(examples, paths, threads)
        columns = y.reshape(n, k).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            # a row that nothing else says anything of is predicted by no data: its residual is 0, and so is what is left
            left = np.maximum(free[:, None] - s[:, None] * lever, np.finfo(float).tiny)
            errors = (columns[:, :, None] - fitted) / left[:, None, :]
        if self.scoring is None:
            found = s[:, None, None] * np.square(errors)
            scores = -found.mean(axis=0) if self.alpha_per_target else -found.mean(axis=(0, 1))[None]
        else:
            found, scorer = columns[:, :, None] - errors, self._scorer()

            def of(a: int, target: Any) -> float:
                truth, values = columns[:, target], found[:, target, a]
                return float(scorer(_Identity(), values[:, 0] if one and values.ndim == 2 else values,
                                    truth[:, 0] if one and truth.ndim == 2 else truth, **score))  # fmt: skip

            targets: Any = range(k) if self.alpha_per_target else [slice(None)]
            scores = np.array([[of(a, target) for a in range(len(alphas))] for target in targets])
        best = scores.argmax(axis=1)
        several = self.alpha_per_target and k > 1
        chosen = scores[np.arange(len(scores)), best]
        self.alpha_, self.best_score_ = (
            (alphas[best], chosen) if several else (float(alphas[best[0]]), float(chosen[0]))
        )
        if self.store_cv_results:
            self.cv_results_ = (found[:, 0] if one else found).astype(examples.dtype)
        which = best if several else np.full(k, best[0])
        return np.column_stack([paths[a][:, j] for j, a in enumerate(which)])

    def _by_folds(
        self, examples: Examples, alphas: Array, splits: Any, y: Array, score: dict[str, Any], threads: int
    ) -> Array:
        """Sets alpha_ and best_score_; the weights (d + 1, k)."""
        n, scorer = examples.n, self._scorer()
        seen = np.bincount(np.concatenate([test for _, test in splits]), minlength=n)
        partition = (seen == 1).all() and all(len(train) + len(test) == n for train, test in splits)
        tests = [_take(examples, test) for _, test in splits]
        if partition:  # the moments of all rows are those of the folds
            parts = [_Moments.of(test, threads) for test in tests]
            whole = _Moments(*(sum(getattr(p, name) for p in parts) for name in ("S", "H", "c")))
            train = [whole - part for part in parts]
        else:
            whole = _Moments.of(examples, threads)
            train = [_Moments.of(_take(examples, rows), threads) for rows, _ in splits]
        scores = np.empty((len(splits), len(alphas)))
        for f, (moments, test, (_, rows)) in enumerate(zip(train, tests, splits, strict=True)):
            path = _Path(moments, self.fit_intercept)
            values = self._values(test, [path.weights(alpha) for alpha in alphas], threads)
            mine = rows_of(score, rows, n)
            for a in range(len(alphas)):
                found = values[:, 0, a] if y.ndim == 1 else values[:, :, a]
                scores[f, a] = scorer(_Identity(), found, y[rows], **mine)
        means = scores.mean(axis=0)
        best = int(np.nan_to_num(means, nan=-np.inf).argmax())
        self.alpha_, self.best_score_ = float(alphas[best]), float(means[best])
        return _Path(whole, self.fit_intercept).weights(alphas[best])

    @staticmethod
    def _values(examples: Examples, paths: list[Array], threads: int) -> Array:
        """(n, k, alphas): predictions of all alphas, X read once."""
        w = np.concatenate([path[:, :, None] for path in paths], axis=2)
        together = np.ascontiguousarray(w.reshape(len(w), -1), dtype=examples.dtype)
        return cpu.margins(examples.X, together, threads).reshape(examples.n, w.shape[1], w.shape[2])


def _take(examples: Examples, rows: Array) -> Examples:
    weight = None if examples.weight is None else examples.weight[rows]
    return replace(examples, X=take_rows(examples.X, rows), y=examples.y[rows], weight=weight)
