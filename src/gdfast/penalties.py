"""Penalties: alpha * ((1 - l1_ratio) / 2 * |w|^2 + l1_ratio * |w|_1), the intercept (last row of w) never included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ElasticNet:
    """alpha ((1 - l1_ratio) / 2 |w|^2 + l1_ratio |w|_1) (Zou and Hastie 2005); l1_ratio 0 is L2, 1 is L1, alpha 0 none

    Raises ValueError for a negative or non-finite alpha and for an l1_ratio outside [0, 1].
    """

    alpha: float = 0.0
    l1_ratio: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.alpha) and self.alpha >= 0):
            raise ValueError(f"alpha must be a finite number >= 0, got {self.alpha!r}")
        if not 0 <= self.l1_ratio <= 1:
            raise ValueError(f"l1_ratio must lie in [0, 1], got {self.l1_ratio!r}")

    @property
    def l1(self) -> float:
        return self.alpha * self.l1_ratio

    @property
    def l2(self) -> float:
        return self.alpha * (1 - self.l1_ratio)

    def value(self, w: Array) -> float:
        """w: (d + 1, k) parameters, intercept last."""
        v = np.asarray(w[:-1], dtype=np.float64)
        if self.alpha == 0:
            return 0.0
        with np.errstate(over="ignore"):  # a run that diverges is told from the infinity
            return 0.5 * self.l2 * float((v * v).sum()) + self.l1 * float(np.abs(v).sum())


def soft_threshold(w: Array, threshold: float) -> Array:
    """sign(w) max(|w| - threshold, 0): the proximal operator of threshold |.|_1"""
    return np.sign(w) * np.maximum(np.abs(w) - threshold, 0)
