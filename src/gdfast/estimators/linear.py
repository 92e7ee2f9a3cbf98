"""What all estimators share: data in, predictions out, classes and their weights."""

from __future__ import annotations

import numbers
import os
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from gdfast import runtime
from gdfast.backends import cpu
from gdfast.losses import sigmoid
from gdfast.run_folder import Checkpoint
from gdfast.sources import Table, as_labels, as_table, as_weight
from gdfast.streams import Source, Stream, Summary

Array = np.ndarray[Any, Any]
Fit = TypeVar("Fit", bound=Callable[..., Any])


def check_number(
    owner: object,
    name: str,
    *,
    low: float,
    high: float = np.inf,
    closed: bool = True,
    integer: bool = False,
    infinite: bool = False,
) -> Any:
    """The parameter ``name`` of ``owner``, a number from low to high, these included if ``closed``. Raises ValueError
    otherwise, and for infinity unless ``infinite``."""
    value = getattr(owner, name)
    kind = numbers.Integral if integer else numbers.Real
    inside = isinstance(value, kind) and not isinstance(value, (bool, np.bool_)) and not np.isnan(float(value))
    inside = inside and (infinite or bool(np.isfinite(float(value)))) and low <= value <= high
    if not inside or (not closed and value in (low, high) and not np.isinf(value)):
        noun = "an integer" if integer else "a number" if infinite else "a finite number"
        ends = "[]" if closed else "()"
        at_least = f"{'>=' if closed else '>'} {low:g}"
        between = f"in {ends[0]}{low:g}, {high:g}{ends[1]}"
        raise ValueError(f"{name} must be {noun} {between if high < np.inf else at_least}, got {value!r}")
    return value


def check_choice(owner: object, name: str, choices: tuple[Any, ...]) -> Any:
    """The parameter ``name`` of ``owner``, one of ``choices``. Raises ValueError otherwise."""
    value = getattr(owner, name)
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")
    return value


def check_flag(owner: object, *names: str) -> None:
    """The parameters ``names`` of ``owner``, each True or False. Raises ValueError otherwise."""
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError(f"{name} must be True or False, got {value!r}")


def check_seed(owner: object) -> Any:
    """The parameter ``random_state`` of ``owner`` as a numpy.random.RandomState. Raises ValueError otherwise."""
    try:
        return check_random_state(owner.random_state)  # type: ignore[attr-defined]
    except (TypeError, ValueError) as error:
        wanted = "None, an integer from 0 to 2**32 - 1 or a numpy.random.RandomState"
        raise ValueError(f"random_state must be {wanted}, got {owner.random_state!r}") from error  # type: ignore[attr-defined]


def check_verbose(owner: object) -> None:
    """The parameter ``verbose`` of ``owner``: True, False or an integer >= 0. Raises ValueError otherwise."""
    if not isinstance(getattr(owner, "verbose"), (bool, np.bool_)):  # noqa: B009
        check_number(owner, "verbose", low=0, integer=True)


def checkpoint_of(owner: Any) -> Checkpoint | None:
    """The parameter ``checkpoint`` of ``owner``. Raises ValueError for anything but None, a folder and a ``Checkpoint``."""
    value = owner.checkpoint
    if value is None or isinstance(value, Checkpoint):
        return value
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError(f"checkpoint must be None, a folder or gdfast.Checkpoint(folder), got {value!r}")
    return Checkpoint(value)


def all_or_nothing(fit: Fit) -> Fit:
    """A fit that fails or is interrupted leaves the estimator as it was before the call."""

    @wraps(fit)
    def safe_fit(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = vars(self).copy()
        try:
            return fit(self, *args, **kwargs)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    return cast(Fit, safe_fit)


class LinearModel(BaseEstimator):
    """coef_ and intercept_, and the margins X coef_' + intercept_ that every prediction starts from."""

    coef_: Array
    intercept_: Any
    verbose: Any = 0

    def _read(self, X: Any, *, first: bool, check_finite: bool = True) -> Table:
        """X through the door; ``first`` on the first call of a fit, which defines the features."""
        if not first:
            check_is_fitted(self)
        table = as_table(X, check_finite=check_finite, threads=runtime.threads(getattr(self, "n_jobs", None)))
        if hasattr(X, "shape"):
            validate_data(self, X, reset=first, skip_check_array=True)
        else:
            validate_data(self, np.empty((1, table.d), dtype=np.float32), reset=first, skip_check_array=True)
        return table

    def _set_weights(self, w: Array) -> None:
        """w: (d + 1, k), intercept last."""
        self.coef_ = np.ascontiguousarray(w[:-1].T)
        self.intercept_ = w[-1].copy()

    def _weights(self, dtype: Any) -> Array:
        coef = np.atleast_2d(dense_coefficients(self))
        intercept = np.broadcast_to(np.atleast_1d(self.intercept_), (coef.shape[0],))
        return np.ascontiguousarray(np.vstack([coef.T, intercept[None, :]]), dtype=dtype)

    def _name_features(self, source: Source | None) -> None:
        """Those of a source that was learned from."""
        if source is not None and source.names is not None:
            self.feature_names_in_ = np.array(source.names, dtype=object)

    def _margins(self, X: Any) -> Array:
        if isinstance(X, Source):
            check_is_fitted(self)
            known = getattr(self, "feature_names_in_", None)
            if X.d != self.n_features_in_ or (X.names is not None and known is not None and X.names != list(known)):
                raise ValueError(
                    f"the source has the features {X.names or X.d}, the model learned {self.n_features_in_}"
                )
            w, threads = self._weights(X.dtype), runtime.threads(getattr(self, "n_jobs", None))
            return np.concatenate([cpu.margins(rows, w, threads) for _, rows, _, _ in X.blocks(X.divided())])
        table = self._read(X, first=False)
        return cpu.margins(table.X, self._weights(table.dtype), runtime.threads(getattr(self, "n_jobs", None)))

    def to_sklearn(self) -> Any:
        """A fitted estimator of scikit-learn with equal predictions, classes and names of features.

        It is of the same name wherever scikit-learn predicts so, with the parameters that both have. Else the nearest:
        softmax is a LogisticRegression; poisson, gamma and tweedie are the regressors of that name, pinball is a
        QuantileRegressor; an SGDRegressor of several targets is a MultiOutputRegressor.
        """
        from gdfast.export import to_sklearn

        check_is_fitted(self)
        return to_sklearn(self)

    def to_onnx(self) -> Any:
        """An onnx.ModelProto: write it with onnx.save. Needs the extra ``onnx``.

        Input X (rows, d) of the dtype of coef_; outputs of a classifier: label (rows,), and probabilities (rows,
        n_classes) or, where the loss has none, decision; of a regressor: prediction, of the shape that predict has. Names
        of features are a JSON list under ``feature_names`` of the model's properties.
        """
        from gdfast.export import to_onnx

        check_is_fitted(self)
        return to_onnx(self)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _progress(self, unit: str) -> Callable[[int, float], object]:
        """callback(iteration, objective) -> true to stop: prints with ``verbose``, then asks ``_callback`` where one is set."""
        watch = getattr(self, "_callback", None)

        def callback(iteration: int, objective: float) -> object:
            if self.verbose:
                print(f"{type(self).__name__}: {unit} {iteration}, objective {objective:.10g}")
            return watch is not None and watch(iteration, objective)

        return callback

    def _warn_not_converged(self, what: str, advice: str) -> None:
        # the warning belongs to the first line outside gdfast and what scikit-learn puts around a fit
        frame, level, inside = sys._getframe(1), 2, ("gdfast.", "sklearn.callback.")
        while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(inside):
            frame, level = frame.f_back, level + 1
        warnings.warn(f"{type(self).__name__} {what}. {advice}", ConvergenceWarning, stacklevel=level)


def dense_coefficients(model: Any) -> Array:
    """coef_ as an array, whether or not it has been made sparse."""
    return model.coef_ if isinstance(model.coef_, np.ndarray) else np.asarray(model.coef_.toarray())


class SparseCoefficients:
    """coef_ with few non-zeros (L1) may be kept as a SciPy array; predictions are the same."""

    coef_: Any

    def sparsify(self) -> Any:
        """coef_ becomes a scipy.sparse.csr_array."""
        from scipy.sparse import csr_array

        check_is_fitted(self)
        self.coef_ = csr_array(self.coef_)
        return self

    def densify(self) -> Any:
        """coef_ becomes a NumPy array again."""
        check_is_fitted(self)
        self.coef_ = dense_coefficients(self)
        return self


class LinearClassifier(ClassifierMixin, LinearModel):
    """Labels from margins: one output for two classes, one a class otherwise."""

    classes_: Array

    def _encode(self, y: Any, n: int, *, classes: Any = None) -> Array:
        """Class codes of y; sets classes_."""
        codes, self.classes_ = as_labels(y, n, classes=classes)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y: {type(self).__name__} needs samples of at least 2 classes, but the data contains only one class: "
                f"{self.classes_[0]!r}"
            )
        return codes

    def _row_weights(self, codes: Array, sample_weight: Any, class_weight: Any, dtype: Any) -> Array | None:
        weight = as_weight(sample_weight, len(codes), dtype=dtype)
        if class_weight is None:
            return weight
        per_class = class_weights(class_weight, self.classes_, codes, weight)
        rows = per_class[codes] if weight is None else per_class[codes] * weight
        return as_weight(rows, len(codes), dtype=dtype, name="sample_weight * class_weight")

    def _stream_of_classes(
        self,
        source: Source,
        summary: Summary,
        class_weight: Any,
        targets: Callable[[Array], Array],
        k: int,
        held_out: float = 0.0,
    ) -> Stream:
        """targets: those of the kernels from class codes."""
        classes, weights, factor = self.classes_, summary.weights, None
        if class_weight is not None:
            factor = class_weights(class_weight, classes, np.arange(len(classes)), weights).astype(source.dtype)
            weights = weights * factor

        def encode(y: Array, weight: Array | None) -> tuple[Array, Array | None]:
            codes = np.searchsorted(classes, y)
            if factor is not None:
                weight = factor[codes] if weight is None else factor[codes] * weight
            return targets(codes), weight

        return summary.stream(source, encode, k, float(weights.sum()), held_out)

    def decision_function(self, X: Any) -> Array:
        """The margins: (n,) for two classes, positive for ``classes_[1]``; else (n, n_classes)."""
        z = self._margins(X)
        return z[:, 0] if z.shape[1] == 1 else z

    def predict(self, X: Any) -> Array:
        """The class of the largest margin, for each row."""
        z = self._margins(X)
        codes = (z[:, 0] > 0).astype(np.intp) if z.shape[1] == 1 else z.argmax(axis=1)
        return self.classes_[codes]


def class_weights(class_weight: Any, classes: Array, codes: Array, weight: Array | None) -> Array:
    """The weight of each class: from a dict of labels, or "balanced": total weight / (n_classes * weight of the class)."""
    if isinstance(class_weight, str) and class_weight == "balanced":
        counts = np.bincount(codes, weights=weight, minlength=len(classes)).astype(np.float64)
        return np.where(counts > 0, counts.sum() / (len(classes) * np.where(counts > 0, counts, 1)), 0.0)
    if not isinstance(class_weight, dict):
        raise ValueError(f"class_weight must be None, 'balanced' or a dict of labels, got {class_weight!r}")
    labels = classes.tolist()
    unknown = [label for label in class_weight if label not in labels]
    if unknown:
        raise ValueError(f"class_weight names labels that y does not have: {unknown}; the classes are {labels}")
    try:
        found = np.array([class_weight.get(label, 1.0) for label in labels], dtype=np.float64)
    except (TypeError, ValueError):
        found = np.array([np.nan])
    if not (np.isfinite(found).all() and (found >= 0).all()):
        raise ValueError(f"class_weight must hold finite numbers >= 0, got {class_weight!r}")
    return found


def probabilities(z: Array, link: str) -> Array:
    """(n, n_classes) from margins: softmax, or logistic (one output), or logistic outputs divided by their sum."""
    if link == "softmax":
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))
    p = sigmoid(z).astype(z.dtype)
    if z.shape[1] == 1:
        return np.hstack([1 - p, p])
    total = p.sum(axis=1, keepdims=True)
    return np.where(total > 0, p / np.where(total > 0, total, 1), 1 / z.shape[1]).astype(z.dtype)


class LinearRegressor(RegressorMixin, LinearModel):
    """Values from margins: (n,) for one target, (n, k) for k."""

    def _shape_of_targets(self, one: bool) -> None:
        if one:
            self.coef_, self.intercept_ = self.coef_[0], self.intercept_[0]
