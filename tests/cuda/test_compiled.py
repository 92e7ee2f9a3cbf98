"""Compiled kernels in the interpreter, on memory full of NaN and under several schedules, against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest

from gdfast import losses
from gdfast.backends.cuda.shapes import shape_for

launches = pytest.importorskip("launches", reason='numba-cuda is missing: pip install ".[test-cuda]"')
machine_code = pytest.importorskip("machine_code")
ptx = pytest.importorskip("ptx")

ERROR = {"float32": 2e-6, "float64": 1e-14}
ONE_OUTPUT = sorted(set(losses.ALL) - {"softmax"})


def check(d: int, n: int, real: str, loss: losses.Loss, weighted: bool, scale: float = 1.0, seed: int = 1) -> None:
    kernel = ptx.Kernel(launches.cached_build(d, real, loss.name, (9, 0), weighted).ptx)
    X, y, weight, w = launches.problem(n, d, real, loss, scale)
    weights = weight if weighted else None
    launch = launches.Launch(kernel, X, y, weights, w, loss, seed)
    assert not launch.found
    assert np.isfinite(launch.parts).all()
    wanted, size = launches.expected(X, y, weights, w, loss)
    # the margin has an error of its own, the larger the margin
    np.testing.assert_array_less(np.abs(launch.sums - wanted), ERROR[real] * max(1.0, scale) * (size + size.max()))


@pytest.mark.parametrize("name", ONE_OUTPUT)
def test_every_loss(name: str) -> None:
    loss = losses.ALL[name]()
    check(28, 200, "float32", loss, weighted=False)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 60.0])
@pytest.mark.parametrize("real", ERROR)
def test_margins_of_every_size(real: str, scale: float) -> None:
    check(28, 300, real, losses.LogLoss(), weighted=False, scale=scale)


@pytest.mark.parametrize("n", [1, 127, 1000])
@pytest.mark.parametrize(
    ("d", "real"), [(8, "float32"), (512, "float32"), (4096, "float32"), (28, "float64"), (512, "float64")]
)
def test_shapes_and_tails_under_schedules(d: int, real: str, n: int) -> None:
    for seed in (1, 2, 3) if n == 127 else (n,):
        check(d, n if d < 4096 else min(n, 64), real, losses.LogLoss(), weighted=False, seed=seed)


@pytest.mark.parametrize("real", ERROR)
def test_weights_of_rows(real: str) -> None:
    check(28, 300, real, losses.LogLoss(), weighted=True)


@pytest.mark.parametrize(
    ("d", "real"), [(8, "float32"), (28, "float32"), (512, "float32"), (4096, "float32"), (28, "float64")]
)
def test_sectors_of_memory_are_few(d: int, real: str) -> None:
    n = 6000 if d < 512 else 96
    kernel = ptx.Kernel(launches.cached_build(d, real, "log_loss").ptx)
    X, y, _, w = launches.problem(n, d, real, launches.LOG_LOSS)
    launches.Launch(kernel, X, y, None, w, launches.LOG_LOSS)
    touched = sum(t.sectors for t in kernel.traffic if t.instruction.startswith("ld.global.nc"))
    assert 1.0 <= touched * 32 / X.nbytes < 1.25


@pytest.mark.parametrize("real", ERROR)
def test_the_sum_over_blocks(real: str) -> None:
    kernel = ptx.Kernel(launches.sum_build(real).ptx)
    parts = np.random.default_rng(0).standard_normal((7, 70)).astype(real)
    out = ptx.aligned(np.full(70, np.nan))
    assert not kernel.launch(2, 64, ptx.aligned(parts), 7, 70, out)
    np.testing.assert_allclose(out, parts.sum(axis=0, dtype=np.float64), rtol=1e-14, atol=1e-14)


def test_equal_bits_under_every_schedule() -> None:
    kernel = ptx.Kernel(launches.cached_build(28, "float32", "log_loss").ptx)
    X, y, _, w = launches.problem(500, 28, "float32", launches.LOG_LOSS)
    one, *others = (launches.Launch(kernel, X, y, None, w, launches.LOG_LOSS, seed).parts for seed in (1, 2, 3, 4))
    assert all(np.array_equal(one, other) for other in others)


@pytest.mark.parametrize(("d", "real"), [(28, "float32"), (28, "float64"), (2048, "float32")])
def test_rows_in_an_order_of_their_own(d: int, real: str) -> None:
    built = launches.build(d, real, "log_loss", weighted=True, ordered=True)
    figures = machine_code.figures(built.cubin)
    assert figures.stack == figures.local == 0
    X, y, weight, w = launches.problem(200, d, real, launches.LOG_LOSS)
    order = np.random.default_rng(1).permutation(200)
    shape = shape_for(d, real)
    parts = ptx.aligned(np.full(3 * (d + 2), np.nan, dtype=real))
    found = ptx.Kernel(built.ptx).launch(
        3, shape.threads, ptx.aligned(X), ptx.aligned(y), ptx.aligned(weight), ptx.aligned(w), X.dtype.type(0), parts,
        ptx.aligned(order), 50, 90,
    )  # fmt: skip
    assert not found
    rows = order[50:140]
    wanted, size = launches.expected(X[rows], y[rows], weight[rows], w, launches.LOG_LOSS)
    sums = parts.reshape(3, -1).sum(axis=0, dtype=np.float64)
    np.testing.assert_array_less(np.abs(sums - wanted), ERROR[real] * (size + size.max()))
