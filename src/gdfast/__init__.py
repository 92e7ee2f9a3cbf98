"""gdfast: linear and logistic models by gradient descent, as fast as the memory bus allows."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

try:
    from gdfast import _core
except ImportError as error:
    raise ImportError(
        f"gdfast's native core cannot be loaded ({error}); build it: `pip install .` in its root"
    ) from error

__version__ = "0.1.0"

# Loaded on first use, so that `import gdfast` stays fast and imports neither scikit-learn nor scipy.
_HOME = {
    "FTRL": "optimizers",
    "SGD": "optimizers",
    "Adadelta": "optimizers",
    "Adagrad": "optimizers",
    "Adam": "optimizers",
    "AdamW": "optimizers",
    "Adamax": "optimizers",
    "Lion": "optimizers",
    "Nadam": "optimizers",
    "RMSprop": "optimizers",
    "Checkpoint": "run_folder",
    "CheckpointError": "checkpoint",
    "ClipNorm": "clipping",
    "ClipValue": "clipping",
    "NormalizeGradient": "clipping",
    "ArraySource": "streams",
    "BatchSource": "streams",
    "Bounds": "penalties",
    "DataChangedError": "run_folder",
    "ElasticNet": "penalties",
    "ExponentialDecay": "schedules",
    "HistoryDisplay": "displays",
    "LearningRateDisplay": "displays",
    "LinearRegression": "estimators",
    "LogisticRegression": "estimators",
    "LogisticRegressionCV": "estimators",
    "NpySource": "streams",
    "Objective": "scipy_objective",
    "ParquetSource": "arrow_files",
    "Quantized": "layouts",
    "ReduceOnPlateau": "schedules",
    "Ridge": "estimators",
    "RidgeCV": "estimators",
    "SGDClassifier": "estimators",
    "SGDRegressor": "estimators",
    "cross_validate": "model_selection",
    "grid": "model_selection",
    "load": "models",
    "lr_find": "estimators.lr_find",
    "save": "models",
}
_MODULES = ("losses", "ops", "optimizers", "runtime", "schedules")

__all__ = [*sorted(_HOME), *_MODULES, "__version__"]

if TYPE_CHECKING:
    from gdfast import losses, ops, optimizers, runtime, schedules
    from gdfast.arrow_files import ParquetSource
    from gdfast.checkpoint import CheckpointError
    from gdfast.clipping import ClipNorm, ClipValue, NormalizeGradient
    from gdfast.displays import HistoryDisplay, LearningRateDisplay
    from gdfast.estimators import (
        LinearRegression,
        LogisticRegression,
        LogisticRegressionCV,
        Ridge,
        RidgeCV,
        SGDClassifier,
        SGDRegressor,
    )
    from gdfast.estimators.lr_find import lr_find
    from gdfast.layouts import Quantized
    from gdfast.model_selection import cross_validate, grid
    from gdfast.models import load, save
    from gdfast.optimizers import FTRL, SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, Lion, Nadam, RMSprop
    from gdfast.penalties import Bounds, ElasticNet
    from gdfast.run_folder import Checkpoint, DataChangedError
    from gdfast.schedules import ExponentialDecay, ReduceOnPlateau
    from gdfast.scipy_objective import Objective
    from gdfast.streams import ArraySource, BatchSource, NpySource


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"gdfast.{name}")
    if name in _HOME:
        return getattr(import_module(f"gdfast.{_HOME[name]}"), name)
    raise AttributeError(f"module 'gdfast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
