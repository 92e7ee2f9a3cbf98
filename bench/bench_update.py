"""The fused optimizer step on 10^7 parameters: against NumPy, and Adam against torch's fused one with the same threads."""

from __future__ import annotations

import numpy as np
import pytest

from gdfast import Adam, ClipNorm, _core, ops, optimizers, runtime
from gdfast.optimizers import Optimizer


def numbers(race, optimizer: Optimizer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = 1000 if race.small else 10_000_000
    w, g = np.random.default_rng(0).standard_normal((2, n), dtype=np.float32)
    return w, g, optimizer.initial_slots(w)


@pytest.mark.parametrize("name", sorted(optimizers.ALL))
def bench_clipped_step(race, name):
    optimizer, threads = optimizers.ALL[name](0.001), runtime.threads()
    w, g, slots = numbers(race, optimizer)

    def in_numpy():
        optimizer.step(w, ClipNorm(1.0)(g), slots, 0.001, 1)

    with _core.Worker():
        race(
            f"clip by norm and {name} step, {w.size} float32 parameters, {threads} threads",
            {
                "gdfast, fused": lambda: ops.step_(optimizer, w, g, slots, 1, clipping=ClipNorm(1.0), threads=threads),
                "gdfast, fused, one thread": lambda: ops.step_(optimizer, w, g, slots, 1, clipping=ClipNorm(1.0)),
                "NumPy reference": in_numpy,
            },
            rounds=5,
            work=(2 * optimizer.n_slots + 4) * w.nbytes,
        )


def bench_adam_against_torch(race):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    optimizer, clipping, threads = Adam(0.001), ClipNorm(1.0), runtime.threads()
    w, g, slots = numbers(race, optimizer)
    parameter = torch.nn.Parameter(torch.from_numpy(w.copy()))
    parameter.grad = torch.from_numpy(g.copy())
    theirs = torch.optim.Adam([parameter], 0.001, fused=True)

    def torch_clipped():
        torch.nn.utils.clip_grad_norm_([parameter], 1.0)
        theirs.step()

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with _core.Worker():
            race(
                f"Adam, {w.size} float32 parameters, {threads} threads",
                {
                    "gdfast": lambda: ops.step_(optimizer, w, g, slots, 1, threads=threads),
                    "torch, fused": theirs.step,
                    "gdfast, clipped by norm": lambda: ops.step_(
                        optimizer, w, g, slots, 1, clipping=clipping, threads=threads
                    ),
                    "torch, clip_grad_norm_ and fused": torch_clipped,
                },
                work=7 * w.nbytes,
            )
    finally:
        torch.set_num_threads(before)
