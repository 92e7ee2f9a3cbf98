"""What SGDClassifier and SGDRegressor share: from parameters to a plan, from a plan to a fitted model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import is_classifier

from gdfast import optimizers, runtime
from gdfast.backends import cpu
from gdfast.clipping import ClipNorm, Clipping, ClipValue, NormalizeGradient
from gdfast.estimators.callbacks import CallbackSupportMixin, Tasks
from gdfast.estimators.linear import LinearModel, check_choice, check_flag, check_number, check_seed, check_verbose
from gdfast.estimators.standardize import SPREAD, Standardization, spread
from gdfast.estimators.validation import Held, hold_out
from gdfast.losses import Loss, named
from gdfast.optimizers import SGD, Optimizer
from gdfast.penalties import Bounds, ElasticNet
from gdfast.plan import Examples, Plan, State
from gdfast.schedules import ALL as SCHEDULES
from gdfast.schedules import Constant, InverseScaling, Optimal, ReduceOnPlateau
from gdfast.solvers import learning_rate, minibatch
from gdfast.solvers.stopping import Stopping
from gdfast.sources import Table, as_table, as_target

Array = np.ndarray[Any, Any]

# batch_size="auto": rows a batch with an optimizer of ours; steps an epoch that learning_rate="auto" does not go below
BATCH, STEPS = 256, 32
RUN_BYTES, BLOCKS_A_BATCH = 4096, 16  # shuffle="block": memory read in a run; blocks that a batch is mixed from
LIMITS = {"max_epochs": "max_iter", "max_steps": "max_steps", "max_seconds": "max_seconds"}
SCHEDULED = ("constant", "optimal", "invscaling", "adaptive", "auto")  # names of learning rates


class SGDModel(CallbackSupportMixin, LinearModel):
    """The parameters in common, and the way from them to a plan."""

    def _validate(self) -> None:
        check_flag(self, "fit_intercept", "early_stopping", "warm_start", "positive")
        check_choice(self, "shuffle", (True, False, np.True_, np.False_, "block"))
        check_choice(self, "standardize", ("auto", True, False))
        check_seed(self)
        check_verbose(self)
        check_number(self, "epsilon", low=0)
        check_number(self, "eta0", low=0, closed=False)
        check_number(self, "alpha", low=0)
        check_choice(self, "penalty", ("l2", "l1", "elasticnet", None))
        if self.l1_ratio is not None:
            check_number(self, "l1_ratio", low=0, high=1)
        check_number(self, "accumulate", low=1, integer=True)
        if not isinstance(self.average, (bool, np.bool_)):
            check_number(self, "average", low=0, integer=True)
        if not (isinstance(self.batch_size, str) and self.batch_size in ("auto", "full")):
            check_number(self, "batch_size", low=1, integer=True)
        self._validate_stopping()
        self._optimizer()
        self._clipping()
        self._elastic_net()
        self._bounds()

    def _validate_stopping(self) -> None:
        check_number(self, "max_iter", low=1, integer=True)
        if self.tol is not None:
            check_number(self, "tol", low=-math.inf, infinite=True)
        check_number(self, "n_iter_no_change", low=1, integer=True)
        check_number(self, "validation_fraction", low=0, high=1, closed=False)
        if self.max_steps is not None:
            check_number(self, "max_steps", low=1, integer=True)
        if self.max_seconds is not None:
            check_number(self, "max_seconds", low=0, closed=False)
        for name in ("gradient_tol", "objective_tol"):
            if getattr(self, name) is not None:
                check_number(self, name, low=0)
        if self.target_loss is not None:
            check_number(self, "target_loss", low=-np.finfo(float).max)
        if not all(callable(callback) for callback in self._callbacks()):
            raise ValueError(f"callbacks must be a callable or a list of them, got {self.callbacks!r}")

    def _callbacks(self) -> tuple[Any, ...]:
        if self.callbacks is None:
            return ()
        return tuple(self.callbacks) if isinstance(self.callbacks, (list, tuple)) else (self.callbacks,)

    def _loss(self) -> Loss:
        return named(self.loss, epsilon=self.epsilon)

    def _clipping(self) -> Clipping | None:
        rules: dict[str, type[ClipNorm | ClipValue | NormalizeGradient]]
        rules = {"clip_norm": ClipNorm, "clip_value": ClipValue, "normalize_gradient": NormalizeGradient}
        given = [name for name in rules if getattr(self, name) is not None]
        for name in given:
            check_number(self, name, low=0, closed=False)
        if len(given) > 1:
            raise ValueError(
                f"{given[0]} and {given[1]} are both given, and a step has one rule: set one of them to None"
            )
        return rules[given[0]](getattr(self, given[0])) if given else None

    def _elastic_net(self) -> ElasticNet:
        mix = {"l2": 0.0, "l1": 1.0, "elasticnet": self.l1_ratio or 0.0}
        try:
            factors = None if self.penalty_factors is None else np.asarray(self.penalty_factors, dtype=np.float64)
            penalty = ElasticNet(self.alpha, mix.get(self.penalty, 0.0), factors)
        except (TypeError, ValueError) as error:
            raise ValueError(f"penalty_factors must be None or a number >= 0 for each feature: {error}") from error
        return ElasticNet() if self.penalty is None else penalty

    def _bounds(self) -> Bounds | None:
        if self.bounds is not None and self.positive:
            raise ValueError(
                "bounds and positive=True are both given: put the positivity into bounds, as in (0, upper)"
            )
        if self.positive:
            return Bounds(lower=0.0)
        if self.bounds is None or isinstance(self.bounds, Bounds):
            return self.bounds
        try:
            return Bounds(*(b if np.ndim(b) else float(b) for b in self.bounds))
        except (TypeError, ValueError) as error:
            wanted = "None, a pair (lower, upper) of numbers or of one number a feature, or gdfast.Bounds"
            raise ValueError(f"bounds must be {wanted}, got {self.bounds!r}: {error}") from error

    def _check_features(self, d: int) -> None:
        """Whatever holds a number for each feature holds d of them."""
        bounds = self._bounds()
        held = {"penalty_factors": self.penalty_factors}
        held |= {} if bounds is None else {"bounds: lower": bounds.lower, "bounds: upper": bounds.upper}
        for name, value in held.items():
            if value is not None and np.ndim(value) and len(value) != d:
                raise ValueError(f"{name} holds {len(value)} numbers, expected {d}, one for each feature of X")

    def _optimizer(self) -> Optimizer:
        rate = self.learning_rate
        ours = isinstance(rate, SCHEDULES)
        if not ours:
            rate = check_choice(self, "learning_rate", SCHEDULED)
        if isinstance(self.optimizer, Optimizer):
            if ours or rate == "auto":
                raise ValueError(
                    f"learning_rate={rate!r} and an optimizer that has its own rate: give it to the optimizer, as in "
                    f"{type(self.optimizer).__name__}({rate!r}), or the optimizer by its name"
                )
            return self.optimizer
        if isinstance(self.optimizer, str) and self.optimizer in optimizers.ALL:
            kind = optimizers.ALL[self.optimizer]
            return kind(rate) if ours or rate == "auto" else kind()
        if self.optimizer is not None:
            raise ValueError(
                f"optimizer must be None (scikit-learn's learning_rate), one of {', '.join(map(repr, optimizers.ALL))} "
                f"or an object such as gdfast.Adam(0.001); got {self.optimizer!r}"
            )
        if rate == "auto":
            return SGD("auto", momentum=0.9, nesterov=True)
        return SGD(rate if ours else self._scikit_learns_rate(rate))

    def _scikit_learns_rate(self, kind: str) -> Any:
        check_number(self, "power_t", low=0)
        if kind == "optimal":
            if self.alpha == 0:
                raise ValueError("alpha must be > 0 with learning_rate='optimal', which divides by it; got 0")
            typical = np.array([[-(self.alpha**-0.25)]])
            slope = 1.0 if self.loss == "softmax" else float(self._loss().gradient(typical, np.ones((1, 1)))[0, 0])
            return Optimal(self.alpha, slope)
        eta0 = check_number(self, "eta0", low=0, closed=False)
        if kind == "adaptive" and self.tol is not None and self.tol > -math.inf:
            times = max(0, math.ceil(math.log(eta0 / 1e-6, 5)))  # until the rate is 1e-6 at most
            return ReduceOnPlateau(
                eta0, 0.2, self.n_iter_no_change - 1, self.tol, "absolute", strict=True, max_reductions=times
            )
        return InverseScaling(eta0, self.power_t) if kind == "invscaling" else Constant(eta0)

    def _plan(self, loss: Loss, examples: Examples, mean_weight: float) -> Plan:
        self._check_features(examples.d)
        plan = Plan(
            loss=loss,
            optimizer=self._optimizer(),
            penalty=self._elastic_net(),
            clipping=self._clipping(),
            batch_size=self._batch_size(examples.n),
            accumulate=self.accumulate,
            shuffle=bool(self.shuffle),
            seed=int(check_seed(self).randint(2**31 - 1)),
            fit_intercept=bool(self.fit_intercept),
            average_from=int(self.average),
            mean_weight=mean_weight,
            bounds=self._bounds(),
        )
        return replace(plan, block=_block(examples, plan.rows_per_step)) if isinstance(self.shuffle, str) else plan

    def _batch_size(self, n: int) -> int:
        if not isinstance(self.batch_size, str):
            return int(self.batch_size)
        if self.batch_size == "full":
            return n
        if isinstance(self._optimizer().learning_rate, str):
            return max(1, min(BATCH, n // STEPS))
        return 1 if self.optimizer is None and isinstance(self.learning_rate, str) else BATCH

    def _stopping(self) -> Stopping:
        return Stopping(
            max_epochs=self.max_iter,
            max_steps=self.max_steps,
            max_seconds=self.max_seconds,
            gradient_norm=self.gradient_tol,
            objective_change=self.objective_tol,
            loss=self.target_loss,
            tol=self.tol,
            patience=self.n_iter_no_change,
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

    def _run(
        self,
        table: Table,
        examples: Examples,
        loss: Loss,
        held: Held | None,
        coef_init: Any,
        intercept_init: Any,
        data: dict[str, Any],
    ) -> None:
        """fit: a new run, or one that continues from the last weights with ``warm_start``."""
        if self.warm_start and hasattr(self, "coef_"):
            coef_init = self.coef_ if coef_init is None else coef_init
            intercept_init = self.intercept_ if intercept_init is None else intercept_init
        if held is None and self.early_stopping:
            stratify = is_classifier(self)
            examples, held = hold_out(examples, self.validation_fraction, self.random_state, stratify=stratify)
        plan = self._plan(loss, examples, examples.total_weight / examples.n)
        w = self._start(table.d, examples.k, table.dtype, coef_init, intercept_init)
        standard, why = self._standardization(examples)
        if standard is not None:
            examples, w = standard.apply(examples), standard.to_standard(w)
            plan = replace(plan, bounds=standard.bounds(plan.bounds))
            table = replace(
                table,
                copies=(
                    *table.copies,
                    f"X: standardised, {examples.n * examples.d * examples.dtype.itemsize / 2**20:.1f} MiB",
                ),
            )
        state = State.start(plan, w)
        tasks = Tasks(self, self.max_iter, data, lambda: self._as_if_stopped(state, standard))
        self._train(table, examples, plan, state, self._stopping(), held, standard, tasks)
        self.fit_report_["standardized"] = why
        self.t_ = 1.0 + self.n_iter_ * examples.n
        tasks.end()
        self._warn()

    def _train(
        self,
        table: Table,
        examples: Examples,
        plan: Plan,
        state: State,
        stopping: Stopping,
        held: Held | None = None,
        standard: Standardization | None = None,
        tasks: Tasks | None = None,
    ) -> None:
        threads, began = runtime.threads(self.n_jobs), time.perf_counter()
        progress = self._progress("epoch")
        callbacks = (*self._callbacks(), lambda epoch: progress(epoch.epoch, epoch.objective))
        callbacks += () if tasks is None else (tasks.epoch,)
        validate = None if held is None else self._validator(held, standard, threads)
        with runtime.worker():
            automatic = learning_rate.is_automatic(plan)
            plan = learning_rate.begin(plan, examples, state) if automatic else plan
            history = minibatch.train(
                examples, plan, state, stopping, threads=threads, validate=validate, callbacks=callbacks
            )
            unfinished = history.limit is not None and not history.converged
            norm = minibatch.gradient_norm(examples, plan, state.weights, threads) if unfinished else None
        seconds = time.perf_counter() - began
        self._state = state if standard is None else _in_original_units(plan, state, standard)
        self._set_weights(_original(state.weights, standard))
        self.history_ = history
        self.loss_curve_ = history.objective
        self.n_iter_ = max(1, len(history.loss))
        self.fit_report_ = {
            "solver": f"mini-batch {plan.optimizer.name}, {plan.rows_per_step} rows a step",
            "converged": history.converged,
            "stopped": history.reason,
            "gradient_norm": norm,
            "learning_rate": "auto" if automatic else "given",
            "epochs": len(history.loss),
            "seconds": seconds,
            "rows_per_second": len(history.loss) * examples.n / seconds,
            "threads": threads,
            "instruction_set": runtime.instruction_set(),
            "copies": table.copies,
            "standardized": None,
        }

    def _standardization(self, examples: Examples) -> tuple[Standardization | None, str | None]:
        """(the one to train with, why), or (None, None)."""
        if self.standardize is True:
            return Standardization.of(examples.X, bool(self.fit_intercept)), "standardize=True"
        found = spread(examples, bool(self.fit_intercept)) if self.standardize else 1.0
        if found <= SPREAD:
            return None, None
        why = f"the root mean squares of columns differ by a factor of {found:.1e}, above {SPREAD:g}"
        return Standardization.of(examples.X, bool(self.fit_intercept)), why

    def _held_out(self, X: Any, y: Any, examples: Examples, loss: Loss) -> Held | None:
        if X is None and y is None:
            return None
        if X is None or y is None:
            raise ValueError(f"X_val and y_val must be given both, got only {'y_val' if X is None else 'X_val'}")
        return self._held(X, y, examples, loss)

    def _read_held(self, X: Any, dtype: Any) -> Table:
        table = as_table(X, name="X_val", dtype=dtype)
        if table.d != self.n_features_in_:
            raise ValueError(f"X_val has {table.d} features, X has {self.n_features_in_}")
        return table

    def _as_if_stopped(self, state: State, standard: Standardization | None) -> dict[str, Any]:
        """The attributes that predictions need."""
        model = copy(self)
        model._set_weights(_original(state.weights, standard))
        return {name: value for name, value in vars(model).items() if name.endswith("_") and not name.startswith("_")}

    def _validator(self, held: Held, standard: Standardization | None, threads: int) -> Callable[[Array], float]:
        def validate(w: Array) -> float:
            return self._score_margins(cpu.margins(held.X, _original(w, standard), threads), held.y, held.weight)

        return validate

    def _warn(self) -> None:
        """Tell of a fit that is no good, and what to do about it."""
        history = self.history_
        if history.diverged:
            self._warn_not_converged(
                history.reason,
                "The best weights so far are kept. Lower the learning rate or set learning_rate='auto' or standardize=True.",
            )
        elif history.worse:
            self._warn_not_converged(
                f"ended with an objective above that of its starting weights ({history.reason})",
                "Lower the learning rate or set learning_rate='auto' or standardize=True.",
            )
        elif history.limit is not None and not history.converged:
            name = LIMITS[history.limit]
            rules = ("tol", "gradient_tol", "objective_tol", "target_loss")
            asked = ", ".join(f"{rule}={getattr(self, rule):g}" for rule in rules if getattr(self, rule) is not None)
            self._warn_not_converged(
                f"stopped after {history.reason} before it converged to {asked}; the objective has gradient norm "
                f"{self.fit_report_['gradient_norm']:.2e}",
                f"Set {name} above {getattr(self, name)}.",
            )

    def _continue(self, table: Table, examples: Examples, loss: Loss, first: bool) -> None:
        """partial_fit: one epoch, from the state of the last call (weights, slots, step, epoch)."""
        if self.standardize is True:
            raise ValueError(
                "standardize=True is not possible in partial_fit, which never sees all rows: standardise X before, for "
                "example with a StandardScaler fitted on a part of it, and set standardize=False"
            )
        plan = self._plan(loss, examples, 1.0)
        if first:
            state = State.start(plan, self._start(table.d, examples.k, table.dtype, None, None))
        else:
            state = self._state.copy()  # so that an interrupted call changes nothing
            if state.w.dtype != table.dtype:
                raise ValueError(f"X is {table.dtype}, the calls before were {state.w.dtype}; use one type")
        before = 0.0 if first else self.t_ - 1.0
        self._train(table, examples, plan, state, Stopping(max_epochs=1, tol=None))
        self.t_ = 1.0 + before + examples.n
        if self.history_.diverged:
            self._warn_not_converged(self.history_.reason, "Lower the learning rate or scale the columns of X.")


def _original(w: Array, standard: Standardization | None) -> Array:
    return w.copy() if standard is None else standard.to_original(w)


def _in_original_units(plan: Plan, state: State, standard: Standardization) -> State:
    """Where ``partial_fit`` goes on: the weights and counts, and slots as at the start, which have no original units."""
    other = State.start(plan, standard.to_original(state.w))
    other.step, other.epoch = state.step, state.epoch
    if other.average is not None:
        other.average[:] = standard.to_original(state.weights)
    return other


def _block(examples: Examples, rows_per_step: int) -> int:
    """Rows that stay together with ``shuffle="block"``: as many as fill a run of memory, and not more than a sixteenth of a
    step, so that every step still sees rows from many places."""
    item = examples.dtype.itemsize
    by_rows = not isinstance(examples.X, tuple) and examples.X.strides[1] == item
    run = RUN_BYTES // (item * examples.d) if by_rows else 64 // item  # a line of cache of every column
    return max(1, min(run, rows_per_step // BLOCKS_A_BATCH, examples.n))
