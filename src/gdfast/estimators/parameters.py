"""What SGDClassifier and SGDRegressor share: parameters checked, and made into a plan and rules to stop by."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from gdfast import optimizers, runtime
from gdfast.clipping import ClipNorm, Clipping, ClipValue, NormalizeGradient
from gdfast.estimators.linear import check_choice, check_flag, check_number, check_seed, check_verbose, checkpoint_of
from gdfast.layouts import bytes_of_row
from gdfast.losses import Loss, named
from gdfast.optimizers import SGD, Optimizer
from gdfast.penalties import Bounds, ElasticNet
from gdfast.plan import Examples, Plan
from gdfast.run_folder import Checkpoint
from gdfast.schedules import ALL as SCHEDULES
from gdfast.schedules import Constant, InverseScaling, Optimal, ReduceOnPlateau
from gdfast.solvers.stopping import Stopping
from gdfast.streams import Stream

# batch_size="auto": rows a batch with an optimizer of ours; steps an epoch that learning_rate="auto" does not go below
BATCH, STEPS = 256, 32
RUN_BYTES, BLOCKS_A_BATCH = 4096, 16  # shuffle="block": memory read in a run; blocks that a batch is mixed from
SCHEDULED = ("constant", "optimal", "invscaling", "adaptive", "auto")  # names of learning rates


class DescentParameters(BaseEstimator):
    """The parameters in common; heirs define them in ``__init__``."""

    def _validate(self) -> None:
        check_flag(self, "fit_intercept", "early_stopping", "warm_start", "positive")
        check_choice(self, "shuffle", (True, False, np.True_, np.False_, "block"))
        check_choice(self, "standardize", ("auto", True, False))
        check_seed(self)
        check_verbose(self)
        runtime.check_device(self.device)
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
        self._checkpoint()
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

    def _checkpoint(self) -> Checkpoint | None:
        if self.checkpoint is None:
            return None
        if not isinstance(self.random_state, (int, np.integer)):
            raise ValueError(
                f"checkpoint needs an integer random_state, so that a run can be repeated; got {self.random_state!r}"
            )
        return checkpoint_of(self)

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

    def _plan(self, loss: Loss, examples: Examples | Stream, mean_weight: float) -> Plan:
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
        if isinstance(examples, Stream) and plan.rows_per_step > (most := examples.source.rows_of_block):
            raise ValueError(
                f"a step takes {plan.rows_per_step:,} rows, of which a block of memory_limit="
                f"{examples.source.memory_limit!r} holds {most:,}: lower batch_size, or raise the limit"
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


def _block(examples: Examples | Stream, rows_per_step: int) -> int:
    """Rows that stay together with ``shuffle="block"``: as many as fill a run of memory, and not more than a sixteenth of a
    step, so that every step still sees rows from many places."""
    row = bytes_of_row(examples.X)
    run = int(RUN_BYTES / row) if row else 64 // examples.dtype.itemsize  # a line of cache of every column
    return max(1, min(run, rows_per_step // BLOCKS_A_BATCH, examples.n))
