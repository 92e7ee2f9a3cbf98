"""Backends: the same small set of functions, once a machine. ``reference`` is the specification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from gdfast.layouts import Features
from gdfast.losses import Loss
from gdfast.plan import EpochReport, Examples, Member, NewtonSystem, Part, Plan, State

Array = np.ndarray[Any, Any]


class Backend(Protocol):
    """Every argument is validated by the door before; w is (d + 1, k), intercept last, of the dtype of the data."""

    def margins(self, X: Features, w: Array, threads: int) -> Array:
        """z = X w + b, (n, k)"""

    def gradient(
        self, examples: Examples, loss: Loss, w: Array, fit_intercept: bool, threads: int
    ) -> tuple[float, Array]:
        """(sum of the weighted losses, sum of the weighted gradients as float64 (d + 1, k))"""

    def hessian(
        self, examples: Examples, loss: Loss, w: Array, fit_intercept: bool, threads: int
    ) -> tuple[float, Array, Array]:
        """As gradient, and X' diag(weight * curvature of output 0) X as float64 (d + 1, d + 1)"""

    def hessian_product(
        self, examples: Examples, loss: Loss, w: Array, p: Array, fit_intercept: bool, threads: int
    ) -> Array:
        """The second derivative of the sum of the weighted losses at w, times p (d + 1, k), as float64"""

    def gradient_at(
        self, examples: Examples, loss: Loss, z: Array, fit_intercept: bool, threads: int
    ) -> tuple[float, Array, Array]:
        """(sum of the weighted losses, sum of the weighted gradients as float64 (d + 1,), weight * curvature (n,)) at the
        margins z (n,) of one output"""

    def conjugate_gradients(
        self, examples: Examples, h: Array, system: NewtonSystem, fit_intercept: bool, threads: int
    ) -> tuple[Array, Array, float, int]:
        """(s (d + 1,), X s (n,), fall of the quadratic model along s, products with the Hessian)"""

    def epoch(
        self, examples: Examples, plan: Plan, state: State, rates: Array, threads: int, seconds: float, part: Part
    ) -> EpochReport:
        """One epoch of mini-batches or a part of it, in place on ``state``; one rate a step, fewer of them than there are
        batches end it early, and so do ``seconds``."""

    def epochs(self, examples: Examples, members: Sequence[Member], threads: int, seconds: float) -> list[EpochReport]:
        """One epoch of several models in one pass over the rows: as ``epoch`` of each alone, without the rows held out."""
