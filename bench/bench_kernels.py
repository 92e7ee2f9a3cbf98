"""A loss-and-gradient pass over X larger than every cache: against NumPy, and as a share of the read bandwidth."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import problems
import pytest

from gdfast import _core, runtime
from gdfast.backends import cpu, reference
from gdfast.losses import LogLoss

BYTES = 224_000_000


@pytest.mark.parametrize("threads", sorted({1, min(2, runtime.cores())}))
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("d", [8, 28, 100, 1000])
def bench_gradient_pass(race, d, order, threads):
    n = 1000 if race.small else BYTES // (4 * d)
    examples = problems.logistic(n, d, order=order)
    w = np.full((d + 1, 1), 0.1, dtype=np.float32)
    with _core.Worker(), ThreadPoolExecutor(threads) as pool:
        medians = race(
            f"gradient pass, log_loss, float32 {n} x {d}, {'rows' if order == 'C' else 'columns'}, {threads} threads",
            {
                "gdfast": lambda: cpu.gradient(examples, LogLoss(), w, True, threads),
                "bare read": lambda: problems.read_everything(examples.X, threads, pool),
                "NumPy reference": lambda: reference.gradient(examples, LogLoss(), w, True),
            },
            work=examples.X.nbytes,
            rounds=7,
        )
    race.note(f"share of the read bandwidth: {medians['bare read'] / medians['gdfast']:.2f}")


@pytest.mark.parametrize("isa", runtime.instruction_sets())
def bench_instruction_sets(race, isa):
    examples = problems.logistic(1000 if race.small else 1_000_000, 28)
    w = np.full((29, 1), 0.1, dtype=np.float32)
    before = runtime.instruction_set()
    try:
        runtime.use(isa)
        race(
            f"gradient pass, 28 columns, one thread, {isa}",
            {"gdfast": lambda: cpu.gradient(examples, LogLoss(), w, True, 1)},
            work=examples.X.nbytes,
        )
    finally:
        runtime.use(before)


@pytest.mark.parametrize(
    ("n", "d"), [(12_000, 28), (20_000, 28), (200_000, 28), (40_000, 8), (4_000, 100), (2_000, 1000)]
)
def bench_calls_outside_of_a_fit(race, n, d):
    """Never slower with two threads than with one."""
    examples, w = problems.logistic(n, d), np.full((d + 1, 1), 0.1, dtype=np.float32)
    contestants = {
        f"{threads} threads": lambda threads=threads: [
            cpu.gradient(examples, LogLoss(), w, True, threads) for _ in range(20)
        ]
        for threads in (1, min(2, runtime.cores()))
    }
    medians = list(race(f"20 gradient passes, float32 {n} x {d}, outside of a worker", contestants).values())
    assert race.small or medians[-1] <= 1.05 * medians[0]
