"""Scores of predictions, from margins z and targets y (n,), with weights (n,) or None for ones.

Classification: y is 0 or 1, a row is predicted 1 where z > 0. Regression: values against y. Numbers as in sklearn.metrics.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gdfast.losses import LogLoss

Array = np.ndarray[Any, Any]

CLASSIFICATION = ("accuracy", "precision", "recall", "f1", "roc_auc", "log_loss")
REGRESSION = ("r2", "rmse")
FALLING = ("log_loss", "rmse")  # the lower, the better


def _sum(chosen: Array, weight: Array | None) -> float:
    return float(np.count_nonzero(chosen)) if weight is None else float(weight[chosen].sum(dtype=np.float64))


def _mean(values: Array, weight: Array | None) -> float:
    return float(np.average(values.astype(np.float64, copy=False), weights=weight))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def of_decisions(z: Array, y: Array, weight: Array | None = None) -> dict[str, float]:
    """With tp, fp, fn the weights of true and false positives and of false negatives:

    accuracy = share of right ones, precision = tp / (tp + fp), recall = tp / (tp + fn), f1 = 2 tp / (2 tp + fp + fn); 0 for
    0 / 0.
    """
    chosen, positive = z > 0, y == 1
    tp = _sum(chosen & positive, weight)
    fp, fn = _sum(chosen, weight) - tp, _sum(positive, weight) - tp
    total = float(len(y)) if weight is None else float(weight.sum(dtype=np.float64))
    return {
        "accuracy": 1 - _ratio(fp + fn, total),
        "precision": _ratio(tp, tp + fp),
        "recall": _ratio(tp, tp + fn),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
    }


def roc_auc(z: Array, y: Array, weight: Array | None = None) -> float:
    """P(z of a positive row > z of a negative one) + P(equal) / 2 (Mann and Whitney 1947); NaN where one class is missing."""
    positive = y == 1
    above, below = z[positive], z[~positive]
    if not len(above) or not len(below):
        return float("nan")
    if weight is None:
        above, below = np.sort(above), np.sort(below)
        ranks = np.searchsorted(below, above).sum() + np.searchsorted(below, above, "right").sum()
        return float(ranks) / 2 / len(above) / len(below)
    order = np.argsort(below, kind="stable")
    heights = np.concatenate([[0.0], np.cumsum(weight[~positive][order], dtype=np.float64)])
    below, w = below[order], weight[positive].astype(np.float64)
    ranks = heights[np.searchsorted(below, above)] + heights[np.searchsorted(below, above, "right")]
    return _ratio(float(w @ ranks) / 2, float(w.sum()) * float(heights[-1]))


def log_loss(z: Array, y: Array, weight: Array | None = None) -> float:
    """mean of log(1 + exp(z)) - y z"""
    return _mean(LogLoss().value(z, y), weight)


def of_values(values: Array, y: Array, weight: Array | None = None) -> dict[str, float]:
    """r2 = 1 - sum (y - v)^2 / sum (y - mean y)^2, 1 for 0 / 0 and 0 for other / 0; rmse = (mean (y - v)^2)^(1/2)"""
    y = y.astype(np.float64)
    error, spread = _mean((y - values) ** 2, weight), _mean((y - np.average(y, weights=weight)) ** 2, weight)
    r2 = 1 - error / spread if spread else float(error == 0)
    return {"r2": r2, "rmse": error**0.5}
