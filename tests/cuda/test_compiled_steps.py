"""The compiled update of every optimizer, and the order of rows, in the interpreter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rules import every_kernel

from gdfast.backends import cuda, reference
from gdfast.clipping import ClipNorm
from gdfast.losses import LogLoss
from gdfast.order import keys_of, order_rows
from gdfast.penalties import Bounds, ElasticNet
from gdfast.plan import Plan, State

launches = pytest.importorskip("launches", reason='numba-cuda is missing: pip install ".[test-cuda]"')
machine_code = pytest.importorskip("machine_code")
ptx = pytest.importorskip("ptx")

D, BLOCKS, STEPS, ROWS, THREADS = 40, 3, 4, 10, 64


def build_update(real: str, rule: str) -> Any:
    from numba import float64, int64, types

    from gdfast.backends.cuda.update import update_kernel

    a, whole = launches.KIND[real][::1], float64[::1]
    signature = types.void(a, int64, a, a, a, a, a, a, int64, a, whole, whole, int64, int64, int64)
    return machine_code.build(update_kernel(real, rule, THREADS), signature)


CASES = [("float32", rule) for rule in every_kernel(0.05)] + [("float64", "adam"), ("float64", "ftrl")]


@pytest.mark.parametrize(("real", "rule"), CASES)
def test_every_optimizer_over_several_steps(real: str, rule: str) -> None:
    built = build_update(real, rule)
    figures = machine_code.figures(built.cubin)
    assert figures.stack == figures.local == 0
    kernel = ptx.Kernel(built.ptx)
    plan = Plan(
        loss=LogLoss(), optimizer=replace(every_kernel(0.05)[rule], weight_decay=0.01), penalty=ElasticNet(0.05, 0.5),
        clipping=ClipNorm(0.5), batch_size=ROWS, average_from=2, bounds=Bounds(-0.5, 0.6),
    )  # fmt: skip
    random = np.random.default_rng(0)
    state = State.start(plan, random.standard_normal((D + 1, 1)) * 0.2)
    dtype = np.dtype(real)
    w, average = (ptx.aligned(a.astype(dtype)) for a in (state.w, state.w))
    slots = ptx.aligned(state.slots.astype(dtype) if state.slots.size else np.zeros(1, dtype))
    g = ptx.aligned(np.full(D + 1, np.nan, dtype))
    constants = ptx.aligned(np.array(plan.optimizer.parameters() or (0.0,), dtype))
    table = plan.optimizer.coefficients(np.arange(1.0, STEPS + 1))
    coefficients = ptx.aligned(np.append(table.ravel(), 0).astype(dtype))
    of_each = ptx.aligned(cuda._of_each(plan, D, D, dtype))
    rates = plan.optimizer.rates(0, STEPS)
    numbers = cuda._numbers(plan, state, rates, STEPS * ROWS)
    records = ptx.aligned(np.append(np.zeros(2 * STEPS + 1), 1.0))
    for b in range(STEPS):
        parts = random.standard_normal((BLOCKS, D + 2)).astype(dtype)
        found = kernel.launch(
            1, THREADS, ptx.aligned(parts), BLOCKS, w, g, slots, average, constants, coefficients, b * table.shape[1],
            of_each, ptx.aligned(numbers[b]), records, STEPS, 1, b, seed=b + 1,
        )  # fmt: skip
        assert not found
        mean = parts[:, :-1].sum(axis=0, dtype=np.float64) / ROWS
        reference.update(
            plan.optimizer, state.w.reshape(-1), mean, state.slots.reshape(len(state.slots), D + 1), float(rates[b]), b + 1,
            penalty=plan.penalty, clipping=plan.clipping, bounds=plan.bounds, n_penalized=D,
        )  # fmt: skip
        if b + 1 >= plan.average_from:
            state.average += (state.w - state.average) / (b + 2 - plan.average_from)
        assert records[b] == pytest.approx(np.linalg.norm(mean), rel=1e-12)
        assert records[STEPS + b] == pytest.approx(parts[:, -1].sum(dtype=np.float64), rel=1e-12)
    tolerance = 3e-6 if real == "float32" else 1e-13
    np.testing.assert_allclose(w, state.w[:, 0], rtol=0, atol=tolerance)
    np.testing.assert_allclose(average, state.weights[:, 0], rtol=0, atol=tolerance)
    if state.slots.size:
        np.testing.assert_allclose(slots, state.slots.ravel(), rtol=tolerance, atol=3 * tolerance)
    assert records[2 * STEPS] == STEPS


def test_a_step_that_is_not_finite_changes_nothing() -> None:
    kernel = ptx.Kernel(build_update("float32", "sgd").ptx)
    a = {name: ptx.aligned(np.ones(size, np.float32)) for name, size in (("w", 5), ("g", 5), ("rest", 12))}
    parts = np.ones((1, 6), np.float32)
    parts[0, 2] = np.nan
    records = ptx.aligned(np.array([0.0, 0.0, 0.0, 0.0, 0.0, 1.0]))
    numbers = ptx.aligned(np.array([1.0, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0, np.inf, np.inf]))
    for b in range(2):
        arguments = (
            1,
            a["w"],
            a["g"],
            a["rest"],
            a["rest"],
            a["rest"],
            a["rest"],
            0,
            a["rest"],
            numbers,
            records,
            2,
            1,
            b,
        )
        assert not kernel.launch(1, THREADS, ptx.aligned(parts), *arguments)
        parts[0, 2] = 1  # the second step would be fine, and is not made
    assert (a["w"] == 1).all()
    assert records[4] == 0
    assert records[5] == 0


@pytest.mark.parametrize(("n", "block"), [(1, 1), (1000, 1), (1003, 16)])
def test_the_order_of_rows(n: int, block: int) -> None:
    from numba import int64, types

    from gdfast.backends.cuda.update import order_kernel

    kernel = ptx.Kernel(machine_code.build(order_kernel(), types.void(int64[::1], *[int64] * 13)).ptx)
    keys = [int(key) for key in keys_of(7, 2)]
    blocks = n // block
    a = int(np.ceil(np.sqrt(blocks)))
    cut = 0 if block == 1 else ((keys[0] << 31) ^ keys[1]) % n
    out = ptx.aligned(np.full(n, -1, dtype=np.int64))
    assert not kernel.launch(-(-n // 128), 128, out, 0, n, blocks, block, cut, a, -(-blocks // a), *keys)
    assert np.array_equal(out, order_rows(n, keys_of(7, 2), block=block))
