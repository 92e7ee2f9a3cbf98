"""Newton's method by conjugate gradients (Lin, Weng and Keerthi 2008): smooth losses of one output with many columns.

(H + ridge) s = -g is solved by products with H alone, preconditioned by its diagonal, and no further than the model of the
objective is worth (Nash and Sofer 1990). The margins X w and X s are kept from pass to pass: a product reads X once, and so
does a new gradient, without its margins; steps along s are tried without reading X w again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gdfast.scaling import mean_squares
from gdfast.solvers.newton import ROUNDING
from gdfast.solvers.objective import Objective, Solution, inner, length

Array = np.ndarray[Any, Any]

ENOUGH = 0.3  # conjugate gradients end where a further one would bring less than about this share of the average one
MOST_PRODUCTS = 500  # of one step


class _Place:
    """An objective at w: f, its gradient g (d + 1,), and what products with its Hessian need."""

    def __init__(self, objective: Objective, w: Array, z: Array) -> None:
        """w: (d + 1,) float64; z: (n,) X w + b"""
        self._objective = objective
        self.w, self.z = w, z
        self.f, self.g, self._h = objective.gradient_at(w, z)

    def diagonal(self) -> Array:
        """Of the Hessian: (d + 1,)"""
        objective = self._objective
        mass = float(self._h.sum(dtype=np.float64)) / objective.total_weight
        if not mass > 0:
            return np.ones_like(self.w)
        objective.passes += 1
        squares = mass * mean_squares(objective.examples.X, self._h, objective.threads) + objective.penalty.l2
        return np.append(squares, mass if objective.fit_intercept else 1.0)

    def step(self, diagonal: Array) -> tuple[Array, Array, float]:
        """(s, X s, fall of the model along s)"""
        return self._objective.newton_step(self._h, self.g, diagonal, ENOUGH, MOST_PRODUCTS)

    def beyond(self, s: Array, margins: Array, t: float) -> _Place:
        """The place w + t s; margins: X s."""
        return _Place(self._objective, self.w + t * s, self.z + self.z.dtype.type(t) * margins)


def minimize(
    objective: Objective,
    w: Array,
    *,
    tol: float,
    max_iter: int,
    callback: Callable[[int, float], object] | None = None,
) -> Solution:
    """Until the fall of the model along a step is below tol |f|."""
    rounding = ROUNDING[objective.examples.dtype]
    place = _Place(objective, w[:, 0].copy(), objective.margins(w))
    if not (math.isfinite(place.f) and np.isfinite(place.g).all()):
        raise FloatingPointError("the objective is not finite: scale the columns of X, y or sample_weight")
    history, excess = [place.f], math.inf
    diagonal = np.ones_like(place.g)

    def solution(w: Array, n_iter: int, converged: bool, reason: str) -> Solution:
        return Solution(w[:, None], place.f, length(place.g), excess, n_iter, converged, reason, history)

    for iteration in range(1, max_iter + 1):
        if callback is not None:
            callback(iteration, place.f)
        if iteration <= 2:  # later ones hardly differ
            diagonal = place.diagonal()
            diagonal = np.where(diagonal > 0, diagonal, 1.0)
        s, margins, fall = place.step(diagonal)
        excess = objective.relative(fall, place.f)
        if excess <= tol:
            return solution(
                place.w + s, iteration, True, f"a step of Newton's method promises {excess:.1e} of the objective"
            )
        slope, t = inner(place.g, s), 1.0
        while True:
            trial = place.beyond(s, margins, t)
            if math.isfinite(trial.f) and trial.f <= place.f + 1e-4 * t * slope + rounding * abs(place.f):
                break
            t *= 0.25
            if t < 1e-8:
                reason = "no step along Newton's direction lowers the objective further"
                return solution(place.w, iteration, excess < 1e3 * rounding, reason)
        place = trial
        history.append(place.f)
    return solution(place.w, max_iter, False, f"{max_iter} iterations were not enough")
