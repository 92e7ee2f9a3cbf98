"""What the same bits for any number of threads cost: fixed shards against one partial sum a thread."""

from __future__ import annotations

import numpy as np
import problems
import pytest

from gdfast import _core, runtime

AT_MOST = 1.03


@pytest.mark.parametrize("d", [28, 100, 3000])
def bench_fixed_shards(race, d):
    threads = runtime.threads()
    examples = problems.logistic(1000 if race.small else 224_000_000 // (4 * d), d)
    w = np.full((d + 1, 1), 0.1, dtype=np.float32)
    g = np.empty(w.shape)

    def gradient(shards):
        return lambda: _core.gradient(examples.X, examples.y, None, w, g, None, "log_loss", (), True, threads, shards)

    with _core.Worker():
        medians = race(
            f"gradient pass, float32 {examples.n} x {d}, {threads} threads",
            {"fixed shards": gradient(0), "one partial sum a thread": gradient(threads)},
            work=examples.X.nbytes,
            rounds=31,
        )
    if not race.small:
        assert medians["fixed shards"] <= AT_MOST * medians["one partial sum a thread"]
