"""A pass over columns that are standardised on the way, against the same pass over X as it is and against a copy first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import problems
import pytest

from gdfast import _core, runtime
from gdfast.backends import cpu
from gdfast.losses import LogLoss
from gdfast.scaling import Scaling, column_moments

BYTES = 112_000_000


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("d", [8, 28, 300])
def bench_standardized_pass(race, d, order):
    n = 1000 if race.small else BYTES // (4 * d)
    threads = min(2, runtime.cores())
    examples = problems.logistic(n, d, order=order)
    scaling = Scaling.of(examples.X, center=True)
    scaled = replace(examples, X=scaling.apply(examples.X))
    w = np.full((d + 1, 1), 0.1, dtype=np.float32)

    def of_a_copy():
        X = (examples.X - scaled.X.offset) * scaled.X.factor
        return cpu.gradient(replace(examples, X=X), LogLoss(), w, True, threads)

    with _core.Worker():
        race(
            f"gradient pass, log_loss, float32 {n} x {d}, {'rows' if order == 'C' else 'columns'}, {threads} threads",
            {
                "standardised in the tiles": lambda: cpu.gradient(scaled, LogLoss(), w, True, threads),
                "X as it is": lambda: cpu.gradient(examples, LogLoss(), w, True, threads),
                "a standardised copy first": of_a_copy,
                "moments of the columns": lambda: column_moments(examples.X, None, threads),
            },
            work=examples.X.nbytes,
            rounds=7,
        )
