"""Clipping: one rule applied to the mean gradient of a batch, before the penalty and the optimizer's step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Union

import numpy as np

Array = np.ndarray[Any, Any]


def _check(name: str, value: float) -> None:
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a finite number > 0, got {value!r}")


@dataclass(frozen=True)
class ClipNorm:
    """g * min(1, max_norm / |g|), |g| the Euclidean norm over all parameters (Pascanu et al. 2013)"""

    max_norm: float
    name = "norm"

    def __post_init__(self) -> None:
        _check("max_norm", self.max_norm)

    def __call__(self, g: Array) -> Array:
        norm = float(np.sqrt(np.square(g, dtype=np.float64).sum()))
        return g * (self.max_norm / norm) if norm > self.max_norm else g


@dataclass(frozen=True)
class ClipValue:
    """min(max(g, -limit), limit) elementwise"""

    limit: float
    name = "value"

    def __post_init__(self) -> None:
        _check("limit", self.limit)

    def __call__(self, g: Array) -> Array:
        return np.clip(g, -self.limit, self.limit)


Clipping = Union[ClipNorm, ClipValue]
