"""A pass of gradients of many outputs against the two products of matrices that it contains, by NumPy's BLAS."""

from __future__ import annotations

import numpy as np
import problems
import pytest

from gdfast import _core, runtime
from gdfast.backends import cpu
from gdfast.losses import LogLoss, Softmax
from gdfast.plan import Examples

THREADS = min(2, runtime.cores())


@pytest.mark.parametrize("d", [28, 100, 784])
@pytest.mark.parametrize(("loss", "k"), [(Softmax(), 10), (LogLoss(), 4), (LogLoss(), 20), (LogLoss(), 64)])
def bench_gradient_of_outputs(race, loss, k, d):
    from threadpoolctl import threadpool_limits

    n = 1000 if race.small else 40_000_000 // d
    X = problems.logistic(n, d).X
    y = (np.arange(n) * 7 % k).astype(np.float32)
    examples, w = Examples(X, y, None, k), np.full((d + 1, k), 0.01, dtype=np.float32)
    w[::2] *= -1
    W, Z, R, G = w[:-1].copy(), np.empty((n, k), np.float32), np.ones((n, k), np.float32), np.empty((d, k), np.float32)
    with _core.Worker(), threadpool_limits(THREADS):
        medians = race(
            f"gradient pass, {k} outputs, {loss.name}, float32 {n} x {d}, {THREADS} threads",
            {
                "gdfast": lambda: cpu.gradient(examples, loss, w, True, THREADS),
                "margins alone": lambda: _core.margins(X, w, Z, THREADS),
                "X @ W": lambda: np.matmul(X, W, out=Z),
                "X.T @ R": lambda: np.matmul(X.T, R, out=G),
            },
            rounds=7,
        )
    products = medians["X @ W"] + medians["X.T @ R"]
    race.note(f"speed of the two products: {products / medians['gdfast']:.2f} of it, loss and residuals included")
