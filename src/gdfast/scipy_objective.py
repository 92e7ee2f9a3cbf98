"""An objective for SciPy's minimizers: value, gradient and Hessian times a vector, each from one reading of X."""

from __future__ import annotations

from typing import Any

import numpy as np

from gdfast import runtime
from gdfast.losses import Loss, named
from gdfast.ops import examples_of
from gdfast.penalties import ElasticNet
from gdfast.solvers import objective
from gdfast.sources import as_table, as_target

Array = np.ndarray[Any, Any]


class Objective:
    """f(w) = sum_i s_i loss(x_i w + b, y_i) / sum_i s_i + l2 / 2 sum_j factors_j |w_j|^2, and its derivatives

    ``minimize(f, f.zeros(), jac=True, method="L-BFGS-B")`` (or TNC, BFGS, CG, ...), and with ``hessp=f.hessp`` Newton-CG,
    trust-ncg, trust-krylov, trust-constr.

    Parameters
    ----------
    X : (n, d) array or data frame; float32 and float64 are used in place.
    y : (n,) or (n, k) values of a regression loss; (n,) numbers in [0, 1] for log_loss and other losses of two classes; (n,)
        class codes from 0 for softmax.
    loss : a name, or a ``Loss``.
    penalty : ``ElasticNet(alpha)`` or None. An L1 part is refused: it has no gradient at 0.
    sample_weight : (n,) or None.
    fit_intercept : the intercept is the last row of w, and not penalised; False: w has d rows.
    n_jobs : threads; None for what OpenMP allows, -1 for all cores.

    w is a vector as SciPy hands it over, or of ``shape`` (d + 1, k); what comes back is float64 and shaped as w. float32 data
    are multiplied in float32: f is then right to 1e-7, and a tolerance below that has a line search end for want of progress.
    ``passes`` counts how often X was read.
    """

    def __init__(
        self,
        X: Any,
        y: Any,
        loss: str | Loss = "squared_error",
        penalty: ElasticNet | None = None,
        *,
        sample_weight: Any = None,
        fit_intercept: bool = True,
        n_jobs: int | None = None,
    ) -> None:
        chosen = named(loss)
        penalty = ElasticNet() if penalty is None else penalty
        if not isinstance(penalty, ElasticNet):
            raise TypeError(f"penalty must be an ElasticNet or None, got {penalty!r}")
        if penalty.l1 > 0:
            raise ValueError(
                f"penalty: l1_ratio={penalty.l1_ratio!r} has an L1 part, which has no gradient at 0; use l1_ratio=0, or "
                "LogisticRegression and SGDClassifier, which take it by its proximal operator"
            )
        if not isinstance(fit_intercept, (bool, np.bool_)):
            raise ValueError(f"fit_intercept must be True or False, got {fit_intercept!r}")
        table = as_table(X)
        target = as_target(y, table.n, dtype=table.dtype)
        outputs = int(target.max()) + 1 if chosen.target == "class" else target.size // table.n
        examples = examples_of(table, target, outputs, chosen, sample_weight)
        threads = runtime.threads(n_jobs)
        factors = np.ones(table.d) if penalty.factors is None else penalty.factors
        if len(factors) != table.d:
            raise ValueError(
                f"penalty: factors holds {len(factors)} numbers, expected one for each of {table.d} features"
            )
        self._l2 = penalty.l2 * factors[:, None]
        self._objective = objective.Objective(examples, chosen, ElasticNet(), bool(fit_intercept), threads)
        self.shape = (table.d + bool(fit_intercept), outputs)
        self._at: Array | None = None
        self._found: tuple[float, Array] = (0.0, np.empty(0))

    @property
    def passes(self) -> int:
        return self._objective.passes

    def zeros(self) -> Array:
        """A starting point: a vector of zeros, float64."""
        return np.zeros(self.shape[0] * self.shape[1])

    def __call__(self, w: Any) -> tuple[float, Array]:
        """(f(w), its gradient), for ``minimize(..., jac=True)``"""
        v = self._vector(w, "w")
        if self._at is None or not np.array_equal(v, self._at):  # value and gradient of one w cost one reading
            parameters = self._parameters(v)
            f, g = self._objective.gradient(parameters)
            shrink = self._l2 * parameters[:-1]
            g[:-1] += shrink
            f += 0.5 * float(np.vdot(shrink, parameters[:-1]))
            self._at, self._found = v, (f, g[: self.shape[0]].reshape(-1))
        f, g = self._found
        return f, g.reshape(np.shape(w)).copy()

    def value(self, w: Any) -> float:
        """f(w)"""
        return self(w)[0]

    def gradient(self, w: Any) -> Array:
        """d f / d w, shaped as w"""
        return self(w)[1]

    def hessp(self, w: Any, p: Any) -> Array:
        """H p, with H = d2 f / d w d w, shaped as p; of a loss with kinks the curvature of its smooth pieces."""
        direction = self._parameters(self._vector(p, "p"))
        Hp = self._objective.hessian_product(self._parameters(self._vector(w, "w")), direction)
        Hp[:-1] += self._l2 * direction[:-1]
        return Hp[: self.shape[0]].reshape(np.shape(p))

    def _vector(self, w: Any, name: str) -> Array:
        a = np.array(w, dtype=np.float64)  # a copy: SciPy goes on to write into its own
        if a.size != self.shape[0] * self.shape[1] or a.shape not in ((a.size,), self.shape):
            raise ValueError(
                f"{name}: expected {self.shape[0] * self.shape[1]} numbers, or {self.shape}; got {a.shape}"
            )
        return a.reshape(-1)

    def _parameters(self, v: Array) -> Array:
        """(d + 1, k): the row of the intercept is there, and 0, where none is fitted."""
        w = v.reshape(self.shape)
        return w if self._objective.fit_intercept else np.vstack([w, np.zeros((1, self.shape[1]))])
