"""What SGDClassifier and SGDRegressor share: from a plan to a fitted model."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import fields, replace
from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.utils.validation import validate_data

from gdfast import runtime
from gdfast.backends import cpu
from gdfast.estimators.callbacks import CallbackSupportMixin, Tasks
from gdfast.estimators.linear import LinearModel, SparseCoefficients, dense_coefficients
from gdfast.estimators.parameters import DescentParameters
from gdfast.estimators.validation import Held, hold_out
from gdfast.layouts import CsrRows, Scaled
from gdfast.losses import Loss
from gdfast.plan import Examples, Plan, State
from gdfast.run_folder import RunFolder, fingerprint, identity_of
from gdfast.scaling import LOOK, Scaling, spread
from gdfast.solvers import learning_rate, minibatch
from gdfast.solvers.stopping import Stopping
from gdfast.sources import Table, as_table, as_target
from gdfast.streams import Source, Stream, summarise

Array = np.ndarray[Any, Any]

# of the root mean squares of columns, the intercept's 1 among them; descent needs about its square of steps
SPREAD = 1e3
# bytes of a step from which on a GPU is expected to be faster (docs/gpu.md): 0.1 ms of a CPU at 10 GB/s, two launches of a GPU
WORTH_A_GPU = 10**6
LIMITS = {"max_epochs": "max_iter", "max_steps": "max_steps", "max_seconds": "max_seconds"}


class SGDModel(DescentParameters, CallbackSupportMixin, LinearModel, SparseCoefficients):
    """A run of mini-batches from parameters and rows, and what is kept of it."""

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

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, X_val: Any, y_val: Any, coef_init: Any, intercept_init: Any
    ) -> None:
        """fit: rows in memory, or a source."""
        self._validate()
        source = X if isinstance(X, Source) else None
        if source is not None:
            if not (y is sample_weight is X_val is y_val is None):
                raise ValueError("a source holds labels and weights: y, sample_weight, X_val and y_val must be None")
            if not source.fits:
                self._run_stream(source, coef_init, intercept_init, {"X": X, "y": None, "metadata": {}})
                return
            X, y, sample_weight = source.load()
        table, examples, loss = self._examples(X, y, sample_weight)
        held = self._held_out(X_val, y_val, examples, loss)
        data = {"X": X, "y": y, "metadata": {} if sample_weight is None else {"sample_weight": sample_weight}}
        self._run(table, examples, loss, held, coef_init, intercept_init, data)
        self._name_features(source)

    def _run(
        self,
        table: Table,
        examples: Examples | Stream,
        loss: Loss,
        held: Held | None,
        coef_init: Any,
        intercept_init: Any,
        data: dict[str, Any],
    ) -> None:
        """fit: a new run, or one that continues from the last weights with ``warm_start``."""
        if self.warm_start and hasattr(self, "coef_"):
            coef_init = dense_coefficients(self) if coef_init is None else coef_init
            intercept_init = self.intercept_ if intercept_init is None else intercept_init
        if held is None and self.early_stopping and isinstance(examples, Examples):
            stratify = is_classifier(self)
            examples, held = hold_out(examples, self.validation_fraction, self.random_state, stratify=stratify)
        plan = self._plan(loss, examples, examples.total_weight / examples.n)
        w = self._start(table.d, examples.k, table.dtype, coef_init, intercept_init)
        standard, why = self._scaling(examples)
        if standard is not None:
            examples = (
                replace(examples, X=standard.apply(examples.X))
                if isinstance(examples, Examples)
                else examples.scaled(standard)
            )
            w = standard.to_standard(w)
            plan = replace(plan, bounds=standard.bounds(plan.bounds))
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
        examples: Examples | Stream,
        plan: Plan,
        state: State,
        stopping: Stopping,
        held: Held | None = None,
        standard: Scaling | None = None,
        tasks: Tasks | None = None,
    ) -> None:
        threads, began = runtime.threads(self.n_jobs), time.perf_counter()
        backend, device = self._backend(examples, plan)
        progress = self._progress("epoch")
        callbacks = (*self._callbacks(), lambda epoch: progress(epoch.epoch, epoch.objective))
        callbacks += () if tasks is None else (tasks.epoch,)
        validate = None if held is None else self._validator(held, standard, threads)
        with runtime.worker(), self._folder(examples, plan, state, stopping, held) as folder:
            automatic = learning_rate.is_automatic(plan)
            plan = learning_rate.begin(plan, examples, state) if automatic else plan
            history = minibatch.train(
                examples, plan, state, stopping, threads=threads, validate=validate, callbacks=callbacks, folder=folder,
                backend=backend,
            )  # fmt: skip
            unfinished = history.limit is not None and not history.converged
            norm = minibatch.gradient_norm(examples, plan, state.weights, threads, backend) if unfinished else None
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
            "device": device,
            "transfer_seconds": getattr(backend, "transfer_seconds", 0.0),
            "copies": table.copies,
            "standardized": None,
        }

    def _backend(self, examples: Examples | Stream, plan: Plan) -> tuple[Any, str]:
        """(the backend, its device and, where it was chosen, why)"""
        if self.device == "cpu":
            return cpu, "cpu"
        if self.device != "auto":
            if isinstance(examples, Stream):
                raise ValueError(f"device={self.device!r} takes rows in memory, not read in blocks; use device='cpu'")
            return runtime.backend(self.device), runtime.device(self.device)
        if isinstance(examples, Stream):
            return cpu, "cpu: a GPU takes rows in memory"
        X = examples.X.X if isinstance(examples.X, Scaled) else examples.X
        if examples.k > 1 or isinstance(X, CsrRows):
            return cpu, "cpu: a GPU takes dense rows and one output"
        step = plan.rows_per_step * examples.d * examples.dtype.itemsize
        if step < WORTH_A_GPU:
            return cpu, f"cpu: a GPU is worth it for steps of {WORTH_A_GPU / 1e6:g} MB, these have {step / 1e6:.2g}"
        try:
            return runtime.backend("cuda"), "cuda:0: steps are large enough"
        except RuntimeError as error:
            return cpu, f"cpu: {error}"

    def _folder(
        self, examples: Examples | Stream, plan: Plan, state: State, stopping: Stopping, held: Held | None
    ) -> AbstractContextManager[RunFolder | None]:
        checkpoint = self._checkpoint()
        if checkpoint is None:
            return nullcontext()
        rules = replace(stopping, max_epochs=0, max_steps=None, max_seconds=None)  # limits may change
        settings = {f.name: identity_of(getattr(plan, f.name)) for f in fields(plan)}
        settings |= {"model": type(self).__name__, "stopping": identity_of(rules), "start": identity_of(state.w)}
        settings["validation"] = "none" if held is None else fingerprint(held.X, held.y, held.weight)
        if isinstance(examples, Stream):
            data = examples.source.identity()
            settings["blocks"] = f"of {examples.source.rows_of_block} rows"
            settings["class_weight"] = repr(getattr(self, "class_weight", None))
        else:
            data = fingerprint(examples.X, examples.y, examples.weight)
        return RunFolder(checkpoint, {"data": data, **settings})

    def _scaling(self, examples: Examples | Stream) -> tuple[Scaling | None, str | None]:
        """(the one to train with, why), or (None, None)."""
        why = "standardize=True"
        if self.standardize is not True:
            found = spread(examples.sample(*LOOK).X, bool(self.fit_intercept)) if self.standardize else 1.0
            if found <= SPREAD:
                return None, None
            why = f"the root mean squares of columns differ by a factor of {found:.1e}, above {SPREAD:g}"
        center = bool(self.fit_intercept)
        if isinstance(examples, Stream):
            return Scaling.from_moments(examples.X, *examples.moments, center=center), why
        return Scaling.of(examples.X, center=center, threads=runtime.threads(self.n_jobs)), why

    def _run_stream(self, source: Source, coef_init: Any, intercept_init: Any, data: dict[str, Any]) -> None:
        """fit: a table larger than its memory."""
        share = self.validation_fraction if self.early_stopping else 0.0
        with runtime.worker():
            summary = summarise(source, labels=is_classifier(self), held_out=share)
        stream, loss = self._stream(source, summary, share)
        validate_data(self, np.empty((1, source.d), source.dtype), reset=True, skip_check_array=True)
        self._name_features(source)
        held = None
        if summary.held is not None:
            X, labels, weight = summary.held
            held = Held(X, stream.encode(labels, None)[0], weight)
        table = Table(stream.few.X, source.n, source.d, source.dtype, ())
        self._run(table, stream, loss, held, coef_init, intercept_init, data)

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

    def _as_if_stopped(self, state: State, standard: Scaling | None) -> dict[str, Any]:
        """The attributes that predictions need."""
        model = copy(self)
        model._set_weights(_original(state.weights, standard))
        return {name: value for name, value in vars(model).items() if name.endswith("_") and not name.startswith("_")}

    def _validator(self, held: Held, standard: Scaling | None, threads: int) -> Callable[[Array], float]:
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
        if self.checkpoint is not None:
            raise ValueError("checkpoint is for fit; partial_fit is saved with gdfast.save after a call")
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


def _original(w: Array, standard: Scaling | None) -> Array:
    return w.copy() if standard is None else standard.to_original(w)


def _in_original_units(plan: Plan, state: State, standard: Scaling) -> State:
    """Where ``partial_fit`` goes on: the weights and counts, and slots as at the start, which have no original units."""
    other = State.start(plan, standard.to_original(state.w))
    other.step, other.epoch = state.step, state.epoch
    if other.average is not None:
        other.average[:] = standard.to_original(state.weights)
    return other
