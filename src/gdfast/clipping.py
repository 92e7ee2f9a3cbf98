"""Clipping: one rule applied to the mean gradient of a batch, before the penalty and the optimizer's step.

The native core is given every rule as three numbers: the norm is brought into ``norm_range`` by one factor for all
components (a gradient of zeros stays), then each component into [-limit, limit].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Union

import numpy as np

Array = np.ndarray[Any, Any]


def _check(name: str, value: float) -> None:
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a finite number > 0, got {value!r}")


def _norm(g: Array) -> float:
    return float(np.sqrt(np.square(g, dtype=np.float64).sum()))


@dataclass(frozen=True)
class ClipNorm:
    """g * min(1, max_norm / |g|), |g| the Euclidean norm over all parameters (Pascanu et al. 2013)"""

    max_norm: float
    limit: ClassVar[float] = np.inf
    name = "norm"

    def __post_init__(self) -> None:
        _check("max_norm", self.max_norm)

    @property
    def norm_range(self) -> tuple[float, float]:
        return 0.0, self.max_norm

    def __call__(self, g: Array) -> Array:
        norm = _norm(g)
        return g * (self.max_norm / norm) if norm > self.max_norm else g


@dataclass(frozen=True)
class NormalizeGradient:
    """norm g / |g|, 0 where g is 0: normalised gradient descent (Nesterov 2004, section 3.2.3; Hazan et al. 2015)"""

    norm: float = 1.0
    limit: ClassVar[float] = np.inf
    name = "normalize"

    def __post_init__(self) -> None:
        _check("norm", self.norm)

    @property
    def norm_range(self) -> tuple[float, float]:
        return self.norm, self.norm

    def __call__(self, g: Array) -> Array:
        norm = _norm(g)
        return g * (self.norm / norm) if norm > 0 else g


@dataclass(frozen=True)
class ClipValue:
    """min(max(g, -limit), limit) elementwise"""

    limit: float
    norm_range: ClassVar[tuple[float, float]] = (0.0, np.inf)
    name = "value"

    def __post_init__(self) -> None:
        _check("limit", self.limit)

    def __call__(self, g: Array) -> Array:
        return np.clip(g, -self.limit, self.limit)


Clipping = Union[ClipNorm, NormalizeGradient, ClipValue]
