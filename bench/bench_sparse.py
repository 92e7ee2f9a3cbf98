"""A loss-and-gradient pass over sparse rows with columns of power-law frequency: against SciPy's two products."""

from __future__ import annotations

import numpy as np
import problems
import pytest

from gdfast import _core, runtime
from gdfast.backends import cpu
from gdfast.losses import LogLoss
from gdfast.plan import Examples
from gdfast.sources import as_table


@pytest.mark.parametrize("index", ["int32", "int64"])
@pytest.mark.parametrize("threads", sorted({1, min(2, runtime.cores())}))
def bench_sparse_gradient_pass(race, threads, index):
    n, d = (500, 1000) if race.small else (250_000, 50_000)
    X = problems.power_law(n, d).copy()
    X.indices, X.indptr = X.indices.astype(index), X.indptr.astype(index)
    table = as_table(X)
    y = (np.asarray(X.sum(axis=1)) > np.median(X.sum(axis=1))).astype(X.dtype)
    examples, w = Examples(table.X, y, None), np.full((d + 1, 1), 0.1, dtype=X.dtype)
    r = np.ones(n, dtype=X.dtype)
    with _core.Worker():
        race(
            f"sparse gradient pass, log_loss, float32 {n} x {d}, {X.nnz / n:.0f} non-zeros a row, {index}, {threads} threads",
            {
                "gdfast, loss and gradient": lambda: cpu.gradient(examples, LogLoss(), w, True, threads),
                "gdfast, margins": lambda: cpu.margins(table.X, w, threads),
                "SciPy X @ w and X.T @ r": lambda: (X @ w[:-1, 0], X.T @ r),
                "gdfast, check of the matrix": lambda: _core.check_csr(table.X, True, threads),
            },
            work=X.data.nbytes + X.indices.nbytes,
            rounds=7,
        )
