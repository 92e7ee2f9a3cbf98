"""The fused optimizer step on 10^7 parameters: against NumPy, and against separate calls."""

from __future__ import annotations

import numpy as np
import pytest

from gdfast import ops, optimizers
from gdfast.clipping import ClipNorm


@pytest.mark.parametrize("name", sorted(optimizers.ALL))
def bench_clipped_step(race, name):
    n = 1000 if race.small else 10_000_000
    rng = np.random.default_rng(0)
    optimizer = optimizers.ALL[name](0.001)
    w, g = rng.standard_normal((2, n), dtype=np.float32)
    slots = np.zeros((optimizer.n_slots, n), dtype=np.float32)

    def in_numpy():
        optimizer.step(w, ClipNorm(1.0)(g), slots, 0.001, 1)

    race(
        f"clip by norm and {name} step, {n} float32 parameters, one thread",
        {
            "gdfast, fused": lambda: ops.step_(optimizer, w, g, slots, 1, clipping=ClipNorm(1.0)),
            "NumPy reference": in_numpy,
        },
        rounds=5,
    )
