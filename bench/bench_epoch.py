"""One epoch of mini-batch Adam: against the NumPy reference, and as a share of the read bandwidth."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import problems
import pytest

from gdfast import _core, runtime
from gdfast.backends import cpu, reference
from gdfast.losses import LogLoss
from gdfast.optimizers import Adam
from gdfast.penalties import ElasticNet
from gdfast.plan import Plan, State

AT_LEAST = 5.0  # times the reference, at 1,024 rows a batch in order


def _epoch(backend, examples, plan, threads):
    state = State.start(plan, np.zeros((examples.d + 1, 1), dtype=examples.dtype))
    rates = plan.optimizer.rates(0, plan.steps(examples.n))
    return lambda: backend.epoch(examples, plan, state, rates, threads)


@pytest.mark.parametrize("block", [0, 1, 16], ids=["in order", "shuffled", "runs of 16"])
@pytest.mark.parametrize("batch", [256, 1024, 4096])
def bench_adam_epoch(race, batch, block):
    threads = runtime.threads()
    examples = problems.logistic(5000 if race.small else 2_000_000, 28)
    plan = Plan(LogLoss(), Adam(0.001), ElasticNet(1e-4), batch_size=batch, shuffle=block > 0, block=max(block, 1))
    with _core.Worker(), ThreadPoolExecutor(threads) as pool:
        medians = race(
            f"Adam epoch, float32 {examples.n} x {examples.d}, {batch} rows a batch, "
            f"{f'shuffled in runs of {block}' if block else 'in order'}, {threads} threads",
            {
                "gdfast": _epoch(cpu, examples, plan, threads),
                "gdfast, one thread": _epoch(cpu, examples, plan, 1),
                "bare read": lambda: problems.read_everything(examples.X, threads, pool),
                "NumPy reference": _epoch(reference, examples, plan, 1),
            },
            work=examples.X.nbytes,
            rounds=7,
        )
    race.note(f"share of the read bandwidth: {medians['bare read'] / medians['gdfast']:.2f}")
    if not race.small and batch == 1024:
        assert medians["NumPy reference"] / medians["gdfast"] >= AT_LEAST
