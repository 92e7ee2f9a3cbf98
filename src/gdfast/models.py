"""Fitted estimators as files: what ``checkpoint`` stores, and a description in JSON. No pickle, no code.

Arrays `coef_` and `intercept_`, and of a mini-batch estimator the state that ``partial_fit`` continues from (`state_w`,
`state_slots`, `state_average`). Everything else is metadata: class, version, parameters, labels, names of the features.
Reports of the fit (``fit_report_``, curves) are not stored. The suffix is .gdfast by convention.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import astuple, fields
from typing import Any

import numpy as np

from gdfast import __version__, estimators, optimizers, schedules
from gdfast.checkpoint import CheckpointError, load_arrays, save_arrays
from gdfast.estimators.linear import LinearClassifier, LinearModel, dense_coefficients
from gdfast.penalties import Bounds
from gdfast.plan import State
from gdfast.schedules import Plateau

Array = np.ndarray[Any, Any]

_MODELS: dict[str, type[LinearModel]] = {name: getattr(estimators, name) for name in estimators.__all__}
_SCHEDULES: dict[str, type] = {kind.__name__: kind for kind in schedules.ALL}
_ATTRIBUTES = (
    "C_",
    "alpha_",
    "best_score_",
    "classes_",
    "feature_names_in_",
    "l1_ratio_",
    "n_features_in_",
    "n_iter_",
    "solver_",
    "t_",
)
_NUMBERS = ("bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)), *("float32", "float64"))
_LARGEST_TEXT = 2**30  # bytes that an array of text may take: NumPy gives every entry the room of the longest


def save(model: Any, path: str | os.PathLike[str], *, extra: Mapping[str, Any] | None = None) -> None:
    """Write a fitted estimator of gdfast; ``extra``: further JSON (str keys, lists, plain values), back by ``read``.

    A ``random_state`` that is no integer, ``callbacks`` and ``checkpoint`` are stored as None. A failed save leaves the
    previous file as it was.

    Raises TypeError for a model that is not exactly one of ours and for a parameter that JSON cannot express, naming
    it; NotFittedError; CheckpointError for a failure of the file system.
    """
    from sklearn.utils.validation import check_is_fitted

    name = type(model).__name__
    if _MODELS.get(name) is not type(model):
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        raise TypeError(f"model is {kind}, expected one of gdfast's own: {', '.join(_MODELS)}")
    check_is_fitted(model, "coef_")
    parameters = model.get_params(deep=False)
    if "random_state" in parameters and not isinstance(parameters["random_state"], (int, np.integer)):
        parameters["random_state"] = None
    for key in ("callbacks", "checkpoint"):
        if key in parameters:
            parameters[key] = None
    arrays = {"coef_": dense_coefficients(model), "intercept_": np.asarray(model.intercept_)}
    attributes = {key: getattr(model, key) for key in _ATTRIBUTES if hasattr(model, key)}
    state: State | None = getattr(model, "_state", None)
    if state is not None:
        attributes |= {"step": state.step, "epoch": state.epoch, "plateau": list(astuple(state.plateau))}
        arrays |= {"state_w": state.w, "state_slots": state.slots}
        arrays |= {} if state.average is None else {"state_average": state.average}
    meta = {
        "kind": "model",
        "class": name,
        "gdfast": __version__,
        "parameters": {key: _encode(value, f"parameter {key}") for key, value in parameters.items()},
        "attributes": {key: _encode(value, key) for key, value in attributes.items()},
        "extra": dict(extra or {}),
    }
    save_arrays(path, arrays, meta)


def load(path: str | os.PathLike[str]) -> Any:
    """The estimator in the file: fitted, its predictions those of the saved one, bit for bit on the same instruction set.

    Safe on a file from a stranger: only classes of gdfast are made, only numbers and text are read.
    Raises CheckpointError for anything but a whole model file.
    """
    return read(path)[0]


def read(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
    """(the estimator, the ``extra`` that was saved with it); see ``load``."""
    arrays, meta = load_arrays(path)
    if meta.get("kind") != "model":
        raise CheckpointError(f"{path} holds {meta.get('kind')!r}, expected a model written by gdfast.save")
    name = meta.get("class")
    if not isinstance(name, str) or name not in _MODELS:
        by = f"was written by gdfast {meta.get('gdfast')}, here is {__version__}"
        raise CheckpointError(f"{path} holds the class {name!r}, expected one of {', '.join(_MODELS)}; it {by}")
    try:
        model = _restore(_MODELS[name], arrays, meta)
        extra = {**meta["extra"]}
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path} is no whole {name} of gdfast {meta.get('gdfast')}: {reason}") from error
    return model, extra


def _restore(kind: type[LinearModel], arrays: dict[str, Array], meta: dict[str, Any]) -> LinearModel:
    model = kind(**{key: _decode(value) for key, value in meta["parameters"].items()})
    stored = {key: _decode(value) for key, value in meta["attributes"].items()}
    if "state_w" in arrays:
        average = arrays.get("state_average")
        where = int(stored.pop("step")), int(stored.pop("epoch")), Plateau(*stored.pop("plateau"))
        model._state = state = State(arrays["state_w"], arrays["state_slots"], average, *where)
        if any(a.shape[-2:] != state.w.shape or a.dtype != state.w.dtype for a in (state.slots, state.weights)):
            raise ValueError("the arrays of the training state do not agree")
    if unknown := set(stored) - set(_ATTRIBUTES):
        raise ValueError(f"unknown attributes {sorted(unknown)}")
    model.__dict__.update(stored)
    model.coef_ = arrays["coef_"]
    model.intercept_ = arrays["intercept_"][()]  # of no dimension: a NumPy scalar, as after fit
    _check_shapes(model, stored)
    return model


def _check_shapes(model: LinearModel, stored: dict[str, Any]) -> None:
    """Refuse a forged file whose parts do not fit together, before native code meets them."""
    coef, intercept, d = model.coef_, np.asarray(model.intercept_), stored["n_features_in_"]
    k = coef.shape[0] if coef.ndim == 2 else 1
    if coef.ndim not in (1, 2) or coef.shape[-1] != d or intercept.ndim > 1 or intercept.size not in (1, k):
        raise ValueError(f"coef_ {coef.shape} and intercept_ {intercept.shape} do not fit {d!r} features")
    if not all(a.dtype.kind == "f" and np.isfinite(a).all() for a in (coef, intercept)):
        raise ValueError("coef_ and intercept_ must hold finite floats")
    if len(stored.get("feature_names_in_", range(d))) != d:
        raise ValueError(f"feature_names_in_ does not name {d} features")
    if isinstance(model, LinearClassifier):
        classes = len(stored["classes_"])
        if classes < 2 or coef.ndim != 2 or k != (1 if classes == 2 else classes):
            raise ValueError(f"coef_ {coef.shape} does not fit {classes} classes")
    if hasattr(model, "_state") and model._state.w.shape != (d + 1, k):
        raise ValueError(f"the training state {model._state.w.shape} does not fit {d} features and {k} outputs")


def _encode(value: Any, what: str) -> Any:
    """``value`` as JSON from which ``_decode`` makes an equal one; every object in it has a tag as its first key."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value)):
        return value
    if type(value) is float:
        return {"float": str(value)}
    if type(value) is list:
        return [_encode(item, what) for item in value]
    if type(value) is tuple:
        return {"tuple": [_encode(item, what) for item in value]}
    if type(value) is dict:
        return {"pairs": [[_encode(key, what), _encode(item, what)] for key, item in value.items()]}
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return _encode_array(value, what)
    if isinstance(value, optimizers.Optimizer) and optimizers.ALL.get(value.name) is type(value):
        return {"optimizer": value.name, "fields": _encode_fields(value, what)}
    if isinstance(value, Bounds):
        return {"bounds": [_encode(value.lower, what), _encode(value.upper, what)]}
    if _SCHEDULES.get(type(value).__name__) is type(value):
        return {"schedule": type(value).__name__, "fields": _encode_fields(value, what)}
    raise TypeError(
        f"{what} is {type(value).__name__}, which a model file cannot hold; expected None, a number, a str, a list, a "
        "dict, a 1-d array, or an optimizer or schedule of gdfast. Set it to one of these before saving"
    )


def _encode_fields(value: Any, what: str) -> dict[str, Any]:
    return {f.name: _encode(getattr(value, f.name), f"{what}.{f.name}") for f in fields(value)}


def _encode_array(a: Array, what: str) -> dict[str, Any]:
    if a.dtype.name in _NUMBERS:
        return {"array": a.dtype.name, "values": [_encode(item, what) for item in a.tolist()]}
    if not all(isinstance(item, str) for item in a.tolist()):
        raise TypeError(f"{what} is an array of {a.dtype}, which a model file cannot hold; expected numbers or text")
    width = a.dtype.itemsize // 4
    return {"array": "object" if a.dtype == object else f"U{width}", "values": [str(item) for item in a]}


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value), "")
    content: Any = value.get(tag)
    if tag == "float":
        return float(content)
    if tag == "pairs":
        return {_decode(key): _decode(item) for key, item in content}
    if tag == "tuple":
        return tuple(map(_decode, content))
    if tag == "bounds":
        return Bounds(*map(_decode, content))
    if tag == "array":
        return _decode_array(content, _decode(value["values"]))
    registry: Mapping[str, type] = {"optimizer": optimizers.ALL, "schedule": _SCHEDULES}[tag]
    return registry[content](**{key: _decode(item) for key, item in value["fields"].items()})


def _decode_array(dtype: str, values: list[Any]) -> Array:
    width = int(dtype[1:]) if dtype[:1] == "U" else 0
    if not (width or dtype == "object" or dtype in _NUMBERS):
        raise ValueError(f"unknown type of array {dtype!r}")
    if dtype not in _NUMBERS and not all(type(item) is str for item in values):
        raise ValueError(f"an array of {dtype} holds what is no text")
    if 4 * width * len(values) > _LARGEST_TEXT:
        raise ValueError(f"{len(values)} texts of {dtype} take more than 1 GB")
    a = np.array(values, dtype=dtype)
    if a.ndim != 1:
        raise ValueError(f"an array of {a.ndim} dimensions, expected 1")
    return a
