"""Estimators of mini-batch gradient descent: SGDClassifier and SGDRegressor, with every knob."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split
from sklearn.utils.metaestimators import available_if

from gdfast import optimizers, runtime
from gdfast.backends import cpu
from gdfast.clipping import ClipNorm
from gdfast.estimators.linear import (
    LinearClassifier,
    LinearModel,
    LinearRegressor,
    all_or_nothing,
    check_choice,
    check_flag,
    check_number,
    check_seed,
    check_verbose,
    probabilities,
)
from gdfast.losses import ALL as LOSSES
from gdfast.losses import Loss, named
from gdfast.ops import check_target_range
from gdfast.optimizers import SGD, Optimizer
from gdfast.penalties import ElasticNet
from gdfast.plan import Examples, Plan, State
from gdfast.schedules import Constant, InverseScaling, Optimal
from gdfast.solvers import minibatch
from gdfast.sources import Table, as_labels, as_target, as_weight

Array = np.ndarray[Any, Any]

# rows a batch where `batch_size="auto"` meets an optimizer of ours
BATCH = 256


class SGDModel(LinearModel):
    """The parameters in common, and the way from them to a plan."""

    def _validate(self) -> None:
        check_flag(self, "fit_intercept", "shuffle", "early_stopping", "warm_start")
        check_seed(self)
        check_verbose(self)
        check_number(self, "epsilon", low=0)
        check_number(self, "eta0", low=0, closed=False)
        check_number(self, "alpha", low=0)
        check_choice(self, "penalty", ("l2", "l1", "elasticnet", None))
        if self.l1_ratio is not None:
            check_number(self, "l1_ratio", low=0, high=1)
        check_number(self, "max_iter", low=1, integer=True)
        if self.tol is not None:
            check_number(self, "tol", low=-math.inf, infinite=True)
        check_number(self, "n_iter_no_change", low=1, integer=True)
        check_number(self, "validation_fraction", low=0, high=1, closed=False)
        check_number(self, "accumulate", low=1, integer=True)
        if not isinstance(self.average, (bool, np.bool_)):
            check_number(self, "average", low=0, integer=True)
        if self.batch_size != "auto":
            check_number(self, "batch_size", low=1, integer=True)
        self._optimizer()
        self._clipping()

    def _loss(self) -> Loss:
        return named(self.loss, epsilon=self.epsilon)

    def _clipping(self) -> ClipNorm | None:
        return None if self.clip_norm is None else ClipNorm(check_number(self, "clip_norm", low=0, closed=False))

    def _elastic_net(self) -> ElasticNet:
        mix = {"l2": 0.0, "l1": 1.0, "elasticnet": self.l1_ratio or 0.0}
        return ElasticNet() if self.penalty is None else ElasticNet(self.alpha, mix[self.penalty])

    def _optimizer(self) -> Optimizer:
        if isinstance(self.optimizer, Optimizer):
            return self.optimizer
        if isinstance(self.optimizer, str) and self.optimizer in optimizers.ALL:
            return optimizers.ALL[self.optimizer]()
        if self.optimizer is not None:
            raise ValueError(
                f"optimizer must be None (scikit-learn's learning_rate), one of {', '.join(map(repr, optimizers.ALL))} "
                f"or an object such as gdfast.Adam(0.001); got {self.optimizer!r}"
            )
        kind = check_choice(self, "learning_rate", ("constant", "optimal", "invscaling", "adaptive"))
        check_number(self, "power_t", low=0)
        if kind == "optimal":
            if self.alpha == 0:
                raise ValueError("alpha must be > 0 with learning_rate='optimal', which divides by it; got 0")
            typical = np.array([[-(self.alpha**-0.25)]])
            slope = 1.0 if self.loss == "softmax" else float(self._loss().gradient(typical, np.ones((1, 1)))[0, 0])
            return SGD(Optimal(self.alpha, slope))
        eta0 = check_number(self, "eta0", low=0, closed=False)
        return SGD(InverseScaling(eta0, self.power_t) if kind == "invscaling" else Constant(eta0))

    def _plan(self, loss: Loss, mean_weight: float) -> Plan:
        auto = 1 if self.optimizer is None else BATCH
        return Plan(
            loss=loss,
            optimizer=self._optimizer(),
            penalty=self._elastic_net(),
            clipping=self._clipping(),
            batch_size=auto if isinstance(self.batch_size, str) else self.batch_size,
            accumulate=self.accumulate,
            shuffle=bool(self.shuffle),
            seed=int(check_seed(self).randint(2**31 - 1)),
            fit_intercept=bool(self.fit_intercept),
            average_from=int(self.average),
            mean_weight=mean_weight,
        )

    def _start(self, d: int, k: int, dtype: Any, coef_init: Any, intercept_init: Any) -> Array:
        w = np.zeros((d + 1, k), dtype=dtype)
        if coef_init is not None:
            if np.size(coef_init) != d * k:
                raise ValueError(f"coef_init: expected shape ({k}, {d}), got {np.shape(coef_init)}")
            w[:-1] = as_target(np.reshape(coef_init, -1), d * k, dtype=dtype, name="coef_init").reshape(k, d).T
        if intercept_init is not None:
            if np.size(intercept_init) != k:
                raise ValueError(f"intercept_init: expected shape ({k},), got {np.shape(intercept_init)}")
            w[-1] = as_target(np.reshape(intercept_init, -1), k, dtype=dtype, name="intercept_init")
        return w

    def _run(self, table: Table, examples: Examples, loss: Loss, coef_init: Any, intercept_init: Any) -> None:
        """fit: a new run, or one that continues from the last weights with ``warm_start``."""
        if self.warm_start and hasattr(self, "coef_"):
            coef_init = self.coef_ if coef_init is None else coef_init
            intercept_init = self.intercept_ if intercept_init is None else intercept_init
        validate = None
        if self.early_stopping:
            examples, validate = self._hold_out(table, examples)
        plan = self._plan(loss, examples.total_weight / examples.n)
        w = self._start(table.d, examples.k, table.dtype, coef_init, intercept_init)
        state = State.start(plan, w)
        stopping = minibatch.Stopping(
            self.max_iter, self.tol, self.n_iter_no_change, self.optimizer is None and self.learning_rate == "adaptive"
        )
        self._train(table, examples, plan, state, stopping, validate)
        self.t_ = 1.0 + self.n_iter_ * examples.n
        history = self.history_
        if history.diverged:
            self._warn_not_converged(
                history.reason, "The best weights so far are kept. Lower the learning rate or scale the columns of X."
            )
        elif history.worse:
            self._warn_not_converged(
                f"ended with an objective above that of its starting weights ({history.reason})",
                "Lower the learning rate or scale the columns of X.",
            )
        elif not history.converged and self.tol is not None:
            self._warn_not_converged(
                f"stopped after {history.reason} while the loss was still improving by more than tol={self.tol:g}; "
                f"last gradient norm {history.gradient_norm[-1]:.2e}",
                f"Set max_iter above {self.max_iter}.",
            )

    def _train(
        self, table: Table, examples: Examples, plan: Plan, state: State, stopping: minibatch.Stopping, validate: Any
    ) -> None:
        threads, began = runtime.threads(self.n_jobs), time.perf_counter()
        with runtime.worker():
            history = minibatch.train(
                examples, plan, state, stopping, threads=threads, validate=validate, callback=self._progress("epoch")
            )
        seconds = time.perf_counter() - began
        self._state = state
        self._set_weights(state.weights.copy())
        self.history_ = history
        self.loss_curve_ = history.loss
        self.n_iter_ = max(1, len(history.loss))
        self.fit_report_ = {
            "solver": f"mini-batch {plan.optimizer.name}, {plan.rows_per_step} rows a step",
            "converged": history.converged,
            "stopped": history.reason,
            "epochs": len(history.loss),
            "seconds": seconds,
            "rows_per_second": len(history.loss) * examples.n / seconds,
            "threads": threads,
            "instruction_set": runtime.instruction_set(),
            "copies": table.copies,
        }

    def _hold_out(self, table: Table, examples: Examples) -> tuple[Examples, Any]:
        """The rows of the validation set get weight 0, so that X is not copied; they are scored after each epoch."""
        stratify = examples.y if is_classifier(self) else None
        rows = train_test_split(
            np.arange(examples.n), test_size=self.validation_fraction, random_state=self.random_state, stratify=stratify
        )[1]
        weight = np.ones(examples.n, dtype=table.dtype) if examples.weight is None else examples.weight.copy()
        held_weight, held_y = weight[rows], examples.y[rows]
        weight[rows] = 0
        if not (weight.any() and held_weight.any()):
            raise ValueError(
                "sample_weight: no weight is left among the rows to train on or among those held out for early stopping; "
                f"drop rows of weight 0 or change validation_fraction={self.validation_fraction}"
            )
        X = table.X
        held = tuple(x[rows] for x in X) if isinstance(X, tuple) else np.ascontiguousarray(X[rows])
        threads = runtime.threads(self.n_jobs)

        def validate(w: Array) -> float:
            return self._score_margins(cpu.margins(held, w, threads), held_y, held_weight)

        return Examples(X, examples.y, weight, examples.k), validate

    def _continue(self, table: Table, examples: Examples, loss: Loss, first: bool) -> None:
        """partial_fit: one epoch, from the state of the last call (weights, slots, step, epoch)."""
        plan = self._plan(loss, 1.0)
        if first:
            state = State.start(plan, self._start(table.d, examples.k, table.dtype, None, None))
        else:
            state = self._state.copy()  # so that an interrupted call changes nothing
            if state.w.dtype != table.dtype:
                raise ValueError(f"X is {table.dtype}, the calls before were {state.w.dtype}; use one type")
        before = 0.0 if first else self.t_ - 1.0
        self._train(table, examples, plan, state, minibatch.Stopping(1, None), None)
        self.t_ = 1.0 + before + examples.n
        if self.history_.diverged:
            self._warn_not_converged(self.history_.reason, "Lower the learning rate or scale the columns of X.")


class SGDClassifier(LinearClassifier, SGDModel):
    """minimise  sum_i s_i loss(x_i w + b, y_i) / sum_i s_i + alpha ((1 - l1_ratio) / 2 |w|^2 + l1_ratio |w|_1)

    by mini-batch gradient descent. scikit-learn's parameters and meaning; more than two classes are learned one against
    the rest, all in one pass, or together with ``loss="softmax"``. New:

    optimizer : None uses scikit-learn's ``learning_rate`` and ``eta0``; or "sgd", "adam", or an object: ``Adam(0.001)``.
    batch_size : rows a batch; "auto" is 1 with scikit-learn's learning rates and 256 with an optimizer.
    clip_norm : largest norm of the mean gradient of a step, None for no limit.
    accumulate : batches whose gradients are added before a step.
    n_jobs : threads; None for what OpenMP allows. The result is the same for any number, bit for bit.

    A step divides by its number of rows times the mean weight, so that weights act as the objective says.
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
        shuffle: bool = True,
        verbose: int = 0,
        epsilon: float = 0.1,
        n_jobs: int | None = None,
        random_state: Any = None,
        learning_rate: str = "optimal",
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

    def _validate(self) -> None:
        check_choice(
            self, "loss", tuple(n for n, kind in LOSSES.items() if kind.target not in ("positive", "nonnegative"))
        )
        super()._validate()

    def _examples(self, X: Any, y: Any, sample_weight: Any, classes: Any, first: bool) -> tuple[Table, Examples, Loss]:
        table = self._read(X, first=first)
        codes = self._encode(y, table.n, classes=classes)
        weight = self._row_weights(codes, sample_weight, self.class_weight, table.dtype)
        k, loss = len(self.classes_), self._loss()
        if k == 2:
            k, loss = 1, named("log_loss") if loss.target == "class" else loss
        if loss.target in ("binary", "class"):
            return table, Examples(table.X, codes.astype(table.dtype), weight, k), loss
        # a regression loss learns the targets -1 and 1, as in scikit-learn
        signs = np.where(codes[:, None] == (np.arange(k) if k > 1 else [1]), 1, -1).astype(table.dtype)
        check_target_range(signs, loss)
        return table, Examples(table.X, np.ascontiguousarray(signs if k > 1 else signs[:, 0]), weight, k), loss

    @all_or_nothing
    def fit(
        self, X: Any, y: Any, coef_init: Any = None, intercept_init: Any = None, sample_weight: Any = None
    ) -> SGDClassifier:
        """X: (n, d) array or data frame; y: (n,) labels; sample_weight: (n,) or None."""
        self._validate()
        table, examples, loss = self._examples(X, y, sample_weight, None, True)
        self._run(table, examples, loss, coef_init, intercept_init)
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
        table, examples, loss = self._examples(X, y, sample_weight, known, first)
        self._continue(table, examples, loss, first)
        return self

    def _score_margins(self, z: Array, y: Array, weight: Array) -> float:
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
        shuffle: bool = True,
        verbose: int = 0,
        epsilon: float = 0.1,
        random_state: Any = None,
        learning_rate: str = "invscaling",
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

    def _validate(self) -> None:
        check_choice(self, "loss", tuple(n for n, kind in LOSSES.items() if kind.target not in ("binary", "class")))
        check_number(self, "quantile", low=0, high=1, closed=False)
        check_number(self, "power", low=1, high=2, closed=False)
        super()._validate()

    def _loss(self) -> Loss:
        return named(self.loss, epsilon=self.epsilon, quantile=self.quantile, power=self.power)

    def _examples(self, X: Any, y: Any, sample_weight: Any, first: bool) -> tuple[Table, Examples, Loss]:
        table, loss = self._read(X, first=first), self._loss()
        target = as_target(y, table.n, dtype=table.dtype)
        check_target_range(target, loss)
        k = 1 if target.ndim == 1 else target.shape[1]
        self._one_target = target.ndim == 1
        target = target[:, 0].copy() if target.ndim == 2 and k == 1 else target
        return table, Examples(table.X, target, as_weight(sample_weight, table.n, dtype=table.dtype), k), loss

    def _set_weights(self, w: Array) -> None:
        super()._set_weights(w)
        if self._one_target:
            self.coef_ = self.coef_[0]

    @all_or_nothing
    def fit(
        self, X: Any, y: Any, coef_init: Any = None, intercept_init: Any = None, sample_weight: Any = None
    ) -> SGDRegressor:
        """X: (n, d) array or data frame; y: (n,) or (n, k); sample_weight: (n,) or None."""
        self._validate()
        table, examples, loss = self._examples(X, y, sample_weight, True)
        self._run(table, examples, loss, coef_init, intercept_init)
        return self

    @all_or_nothing
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> SGDRegressor:
        """One epoch over these rows, continuing rate, optimizer and weights."""
        self._validate()
        first = not hasattr(self, "_state")
        table, examples, loss = self._examples(X, y, sample_weight, first)
        self._continue(table, examples, loss, first)
        return self

    def _score_margins(self, z: Array, y: Array, weight: Array) -> float:
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
        return tags
