"""Estimators of mini-batch gradient descent: SGDClassifier and SGDRegressor, with every knob."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils.metaestimators import available_if

from gdfast.estimators.callbacks import with_callbacks
from gdfast.estimators.linear import (
    LinearClassifier,
    LinearRegressor,
    all_or_nothing,
    check_choice,
    check_number,
    probabilities,
)
from gdfast.estimators.minibatch import SGDModel
from gdfast.estimators.validation import Held
from gdfast.losses import ALL as LOSSES
from gdfast.losses import Loss, named
from gdfast.ops import check_target_range
from gdfast.plan import Examples
from gdfast.sources import Table, as_labels, as_target, as_weight
from gdfast.streams import Source, Stream, Summary

Array = np.ndarray[Any, Any]


class SGDClassifier(LinearClassifier, SGDModel):
    """minimise  sum_i s_i loss(x_i w + b, y_i) / sum_i s_i + alpha ((1 - l1_ratio) / 2 |w|^2 + l1_ratio |w|_1)

    by mini-batch gradient descent. scikit-learn's parameters and meaning; more than two classes are learned one against
    the rest, all in one pass, or together with ``loss="softmax"``. New:

    optimizer : None uses scikit-learn's ``learning_rate`` and ``eta0``; or "sgd", "adam", or an object: ``Adam(0.001)``.
    learning_rate : also "auto" or a schedule, for an optimizer given by name or None (SGD; with "auto" Nesterov's, of
        momentum 0.9). "auto" takes the first rate from the data, takes back epochs that diverge, and halves the rate on
        plateaus of the objective; an optimizer object has it as ``Adam("auto")``.
    batch_size : rows a batch, or "full". "auto" is 1 with scikit-learn's learning rates and 256 with an optimizer, fewer
        where learning_rate="auto" would make less than 32 steps an epoch.
    shuffle : also "block": runs of consecutive rows are shuffled, so that memory is read in runs too.
    clip_norm, clip_value, normalize_gradient : largest norm of the mean gradient of a step, largest magnitude of one of its
        components, or the norm that it is given; at most one of them.
    penalty_factors : (d,) numbers >= 0 that the penalty of each feature is multiplied by; 0 leaves one free.
    bounds, positive : lower and upper bound of the coefficients, numbers or one a feature, as a pair or ``gdfast.Bounds``;
        positive=True is the bounds (0, inf). Never on the intercept.
    accumulate : batches whose gradients are added before a step.
    n_jobs : threads; None for what OpenMP allows. The result is the same for any number, bit for bit.
    standardize : True trains on columns of mean 0 (with an intercept) and standard deviation 1 and gives coefficients in
        original units: the model of StandardScaler and this estimator. "auto" does so only where descent could hardly
        converge otherwise: the root mean squares of the columns, and the intercept's 1, differ by a factor of more than
        1000; ``fit_report_["standardized"]`` says it. partial_fit never does.
    max_steps, max_seconds : further limits beside max_iter (epochs).
    gradient_tol, objective_tol, target_loss : further rules to stop by: norm of the gradient of the objective over all rows
        (one more pass an epoch), relative change of the objective in an epoch, mean loss of an epoch.
    callbacks : a callable or a list of them, called after each epoch with a ``gdfast.solvers.stopping.Epoch``; a true
        answer stops the fit. scikit-learn's own callbacks are set by ``set_callbacks``.
    checkpoint : a folder, or ``gdfast.Checkpoint(folder, seconds=30)``: fit is saved there as it goes, and a fit with the same
        data and settings continues what it finds, to the same bits as if it had never been stopped. Limits (max_iter,
        max_steps, max_seconds), n_jobs, verbose and callbacks may differ. Other data are a ``gdfast.DataChangedError``.
    device : "cpu"; "cuda" or "cuda:1", which trains dense rows and one output on that GPU; "auto", which takes a GPU where
        there is one and it is worth it: see ``fit_report_["device"]`` and docs/gpu.md. No GPU has been tried yet.

    A step divides by its number of rows times the mean weight, so that weights act as the objective says. The loss of an
    epoch is the mean over its rows, each taken before its own step.
    Attributes: coef_, intercept_, classes_, n_iter_ (epochs), t_, history_, loss_curve_, fit_report_.
    """

    def __init__(
        self,
        loss: str = "hinge",
        *,
        penalty: str | None = "l2",
        alpha: float = 0.0001,
        l1_ratio: float | None = 0.15,
        fit_intercept: bool = True,
        max_iter: int = 1000,
        tol: float | None = 1e-3,
        shuffle: bool | str = True,
        verbose: int = 0,
        epsilon: float = 0.1,
        n_jobs: int | None = None,
        random_state: Any = None,
        learning_rate: Any = "optimal",
        eta0: float = 0.01,
        power_t: float = 0.5,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        class_weight: Any = None,
        warm_start: bool = False,
        average: bool | int = False,
        optimizer: Any = None,
        batch_size: int | str = "auto",
        clip_norm: float | None = None,
        accumulate: int = 1,
        clip_value: float | None = None,
        normalize_gradient: float | None = None,
        penalty_factors: Any = None,
        bounds: Any = None,
        positive: bool = False,
        standardize: bool | str = "auto",
        max_steps: int | None = None,
        max_seconds: float | None = None,
        gradient_tol: float | None = None,
        objective_tol: float | None = None,
        target_loss: float | None = None,
        callbacks: Any = None,
        checkpoint: Any = None,
        device: str = "cpu",
    ) -> None:
        self.loss = loss
        self.penalty = penalty
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.tol = tol
        self.shuffle = shuffle
        self.verbose = verbose
        self.epsilon = epsilon
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.learning_rate = learning_rate
        self.eta0 = eta0
        self.power_t = power_t
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.average = average
        self.optimizer = optimizer
        self.batch_size = batch_size
        self.clip_norm = clip_norm
        self.accumulate = accumulate
        self.clip_value = clip_value
        self.normalize_gradient = normalize_gradient
        self.penalty_factors = penalty_factors
        self.bounds = bounds
        self.positive = positive
        self.standardize = standardize
        self.max_steps = max_steps
        self.max_seconds = max_seconds
        self.gradient_tol = gradient_tol
        self.objective_tol = objective_tol
        self.target_loss = target_loss
        self.callbacks = callbacks
        self.checkpoint = checkpoint
        self.device = device

    def _validate(self) -> None:
        check_choice(
            self, "loss", tuple(n for n, kind in LOSSES.items() if kind.target not in ("positive", "nonnegative"))
        )
        super()._validate()

    def _examples(
        self, X: Any, y: Any, sample_weight: Any, *, first: bool = True, classes: Any = None
    ) -> tuple[Table, Examples, Loss]:
        table = self._read(X, first=first)
        codes = self._encode(y, table.n, classes=classes)
        weight = self._row_weights(codes, sample_weight, self.class_weight, table.dtype)
        k, loss = len(self.classes_), self._loss()
        if k == 2:
            k, loss = 1, named("log_loss") if loss.target == "class" else loss
        return table, Examples(table.X, _targets(codes, loss, k, table.dtype), weight, k), loss

    def _stream(self, source: Source, summary: Summary, held_out: float) -> tuple[Stream, Loss]:
        self._encode(summary.labels, len(summary.labels))
        k, loss = len(self.classes_), self._loss()
        if k == 2:
            k, loss = 1, named("log_loss") if loss.target == "class" else loss

        def targets(codes: Array) -> Array:
            return _targets(codes, loss, k, source.dtype)

        return self._stream_of_classes(source, summary, self.class_weight, targets, k, held_out), loss

    def _held(self, X: Any, y: Any, like: Examples, loss: Loss) -> Held:
        table = self._read_held(X, like.dtype)
        codes = as_labels(y, table.n, name="y_val", classes=self.classes_)[0]
        return Held(table.X, _targets(codes, loss, like.k, table.dtype), None)

    @all_or_nothing
    @with_callbacks
    def fit(
        self,
        X: Any,
        y: Any = None,
        coef_init: Any = None,
        intercept_init: Any = None,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
    ) -> SGDClassifier:
        """X: (n, d) array, sparse matrix or data frame; y: (n,) labels; sample_weight: (n,) or None; X_val, y_val: rows
        to score after each epoch, which turn early stopping on. X may be a source (``gdfast.ParquetSource``), which holds
        labels and weights."""
        self._fit(X, y, sample_weight, X_val, y_val, coef_init, intercept_init)
        return self

    @all_or_nothing
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> SGDClassifier:
        """One epoch over these rows, continuing rate, optimizer and weights. ``classes`` is needed on the first call."""
        self._validate()
        first = not hasattr(self, "_state")
        if isinstance(self.class_weight, str):
            raise ValueError(
                "class_weight='balanced' is not known in partial_fit, which sees a part of the rows; pass a dict of weights"
            )
        if first and classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        if classes is not None and (np.ndim(classes) != 1 or len(classes) < 2):
            raise ValueError(f"classes must be a list of at least 2 labels, got {classes!r}")
        known = self.classes_ if classes is None else as_labels(classes, len(classes), name="classes")[1]
        if not first and not np.array_equal(known, self.classes_):
            raise ValueError(
                f"`classes={classes!r}` is not the same as on last call to partial_fit, was: {self.classes_!r}"
            )
        table, examples, loss = self._examples(X, y, sample_weight, first=first, classes=known)
        self._continue(table, examples, loss, first)
        return self

    def _score_margins(self, z: Array, y: Array, weight: Array | None) -> float:
        codes = (z[:, 0] > 0).astype(y.dtype) if z.shape[1] == 1 else z.argmax(axis=1).astype(y.dtype)
        truth = y if y.ndim == 1 else y.argmax(axis=1)
        if self._loss().target not in ("binary", "class") and y.ndim == 1:
            truth = (y > 0).astype(y.dtype)
        return float(accuracy_score(truth, codes, sample_weight=weight))

    @available_if(lambda self: self._has_probabilities())
    def predict_proba(self, X: Any) -> Array:
        """(n, n_classes) probabilities: logistic outputs (divided by their sum for more than two classes), softmax, or for
        modified_huber (clip(z, -1, 1) + 1) / 2 (Zadrozny and Elkan 2002)."""
        z = self._margins(X)
        if self.loss == "modified_huber":
            p = (np.clip(z, -1, 1) + 1) / 2
            if z.shape[1] == 1:
                return np.hstack([1 - p, p])
            total = p.sum(axis=1, keepdims=True)
            return np.where(total > 0, p / np.where(total > 0, total, 1), 1 / z.shape[1]).astype(z.dtype)
        return probabilities(z, "softmax" if self.loss == "softmax" and z.shape[1] > 1 else "logistic")

    @available_if(lambda self: self._has_probabilities())
    def predict_log_proba(self, X: Any) -> Array:
        """log of ``predict_proba``"""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def _has_probabilities(self) -> bool:
        if self.loss not in ("log_loss", "modified_huber", "softmax"):
            raise AttributeError(f"probability estimates are not available for loss={self.loss!r}")
        return True


def _targets(codes: Array, loss: Loss, k: int, dtype: Any) -> Array:
    """Class codes as ``Examples`` wants them; a regression loss learns the targets -1 and 1, as in scikit-learn."""
    if loss.target in ("binary", "class"):
        return codes.astype(dtype)
    signs = np.where(codes[:, None] == (np.arange(k) if k > 1 else [1]), 1, -1).astype(dtype)
    check_target_range(signs, loss)
    return np.ascontiguousarray(signs if k > 1 else signs[:, 0])


class SGDRegressor(LinearRegressor, SGDModel):
    """minimise  sum_i s_i loss(x_i w + b, y_i) / sum_i s_i + alpha ((1 - l1_ratio) / 2 |w|^2 + l1_ratio |w|_1)

    by mini-batch gradient descent. scikit-learn's parameters and meaning, and the new ones of
    ``SGDClassifier``. ``epsilon`` is the width of huber and of the epsilon-insensitive losses. Losses with a log link
    (poisson, gamma, tweedie) predict exp(x w + b). y: (n,) or (n, k).
    """

    def __init__(
        self,
        loss: str = "squared_error",
        *,
        penalty: str | None = "l2",
        alpha: float = 0.0001,
        l1_ratio: float | None = 0.15,
        fit_intercept: bool = True,
        max_iter: int = 1000,
        tol: float | None = 1e-3,
        shuffle: bool | str = True,
        verbose: int = 0,
        epsilon: float = 0.1,
        random_state: Any = None,
        learning_rate: Any = "invscaling",
        eta0: float = 0.01,
        power_t: float = 0.25,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        warm_start: bool = False,
        average: bool | int = False,
        optimizer: Any = None,
        batch_size: int | str = "auto",
        clip_norm: float | None = None,
        accumulate: int = 1,
        quantile: float = 0.5,
        power: float = 1.5,
        n_jobs: int | None = None,
        clip_value: float | None = None,
        normalize_gradient: float | None = None,
        penalty_factors: Any = None,
        bounds: Any = None,
        positive: bool = False,
        standardize: bool | str = "auto",
        max_steps: int | None = None,
        max_seconds: float | None = None,
        gradient_tol: float | None = None,
        objective_tol: float | None = None,
        target_loss: float | None = None,
        callbacks: Any = None,
        checkpoint: Any = None,
        device: str = "cpu",
    ) -> None:
        self.loss = loss
        self.penalty = penalty
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.tol = tol
        self.shuffle = shuffle
        self.verbose = verbose
        self.epsilon = epsilon
        self.random_state = random_state
        self.learning_rate = learning_rate
        self.eta0 = eta0
        self.power_t = power_t
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.average = average
        self.optimizer = optimizer
        self.batch_size = batch_size
        self.clip_norm = clip_norm
        self.accumulate = accumulate
        self.quantile = quantile
        self.power = power
        self.n_jobs = n_jobs
        self.clip_value = clip_value
        self.normalize_gradient = normalize_gradient
        self.penalty_factors = penalty_factors
        self.bounds = bounds
        self.positive = positive
        self.standardize = standardize
        self.max_steps = max_steps
        self.max_seconds = max_seconds
        self.gradient_tol = gradient_tol
        self.objective_tol = objective_tol
        self.target_loss = target_loss
        self.callbacks = callbacks
        self.checkpoint = checkpoint
        self.device = device

    def _validate(self) -> None:
        check_choice(self, "loss", tuple(n for n, kind in LOSSES.items() if kind.target not in ("binary", "class")))
        check_number(self, "quantile", low=0, high=1, closed=False)
        check_number(self, "power", low=1, high=2, closed=False)
        super()._validate()

    def _loss(self) -> Loss:
        return named(self.loss, epsilon=self.epsilon, quantile=self.quantile, power=self.power)

    def _examples(self, X: Any, y: Any, sample_weight: Any, *, first: bool = True) -> tuple[Table, Examples, Loss]:
        table, loss = self._read(X, first=first), self._loss()
        target = as_target(y, table.n, dtype=table.dtype)
        check_target_range(target, loss)
        k = 1 if target.ndim == 1 else target.shape[1]
        self._one_target = target.ndim == 1
        target = target[:, 0].copy() if target.ndim == 2 and k == 1 else target
        return table, Examples(table.X, target, as_weight(sample_weight, table.n, dtype=table.dtype), k), loss

    def _stream(self, source: Source, summary: Summary, held_out: float) -> tuple[Stream, Loss]:
        loss = self._loss()
        self._one_target = True

        def encode(y: Array, weight: Array | None) -> tuple[Array, Array | None]:
            target = as_target(y, len(y), dtype=source.dtype)
            check_target_range(target, loss)
            return target, weight

        return summary.stream(source, encode, 1, summary.total_weight, held_out), loss

    def _held(self, X: Any, y: Any, like: Examples, loss: Loss) -> Held:
        table = self._read_held(X, like.dtype)
        target = as_target(y, table.n, dtype=table.dtype, name="y_val")
        if target.size != table.n * like.k:
            raise ValueError(f"y_val has shape {target.shape}, expected {like.k} targets a row as in y")
        check_target_range(target, loss)
        return Held(table.X, target.reshape(table.n, like.k)[:, 0] if like.k == 1 else target, None)

    def _set_weights(self, w: Array) -> None:
        super()._set_weights(w)
        if self._one_target:
            self.coef_ = self.coef_[0]

    @all_or_nothing
    @with_callbacks
    def fit(
        self,
        X: Any,
        y: Any = None,
        coef_init: Any = None,
        intercept_init: Any = None,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
    ) -> SGDRegressor:
        """X: (n, d) array, sparse matrix or data frame; y: (n,) or (n, k); sample_weight: (n,) or None; X_val, y_val: rows
        to score after each epoch, which turn early stopping on. X may be a source (``gdfast.ParquetSource``), which holds
        targets and weights."""
        self._fit(X, y, sample_weight, X_val, y_val, coef_init, intercept_init)
        return self

    @all_or_nothing
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> SGDRegressor:
        """One epoch over these rows, continuing rate, optimizer and weights."""
        self._validate()
        first = not hasattr(self, "_state")
        table, examples, loss = self._examples(X, y, sample_weight, first=first)
        self._continue(table, examples, loss, first)
        return self

    def _score_margins(self, z: Array, y: Array, weight: Array | None) -> float:
        values = np.exp(z) if self._loss().link == "exp" else z
        return float(r2_score(y.reshape(values.shape), values, sample_weight=weight))

    def predict(self, X: Any) -> Array:
        """X coef_' + intercept_, or its exponential for a log link."""
        z = self._margins(X)
        values = np.exp(z) if self._loss().link == "exp" else z
        return values[:, 0] if self.coef_.ndim == 1 else values

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        kind = LOSSES.get(self.loss)
        tags.target_tags.positive_only = kind is not None and kind.target in ("positive", "nonnegative")
        return tags
