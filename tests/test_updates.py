"""The fused update against its specification, ``reference.update``, in higher precision: every optimizer, penalty, bound,
clipping, type and instruction set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rules import every_kernel

from gdfast import FTRL, Adagrad, Adam, Adamax, AdamW, Bounds, Lion, Nadam, RMSprop, ops
from gdfast.backends import reference
from gdfast.clipping import ClipNorm, Clipping, ClipValue, NormalizeGradient
from gdfast.optimizers import SGD, Optimizer
from gdfast.penalties import ElasticNet
from gdfast.schedules import ExponentialDecay

Array = np.ndarray[Any, Any]
WIDER = {np.dtype(np.float32): np.dtype(np.float64), np.dtype(np.float64): np.dtype(np.longdouble)}
RATE = ExponentialDecay(0.05, 4, 0.7)
KERNELS: dict[str, Optimizer] = every_kernel(RATE)
OPTIMIZERS = KERNELS | {
    "sgd-nesterov": SGD(RATE, momentum=0.9, nesterov=True),
    "sgd-dampening": SGD(RATE, momentum=0.9, dampening=0.5),
    "adagrad-keras": Adagrad(RATE, initial_accumulator=0.1, epsilon=1e-2, keras_epsilon=True),
    "rmsprop-keras": RMSprop(RATE, centered=True, epsilon=1e-2, keras_epsilon=True),
    "adam-coarse": Adam(RATE, beta_1=0.5, beta_2=0.9, epsilon=1e-2),
    "adam-keras": Adam(RATE, epsilon=1e-2, keras_epsilon=True),
    "adamw": AdamW(RATE, weight_decay=0.5),
    "nadam-keras": Nadam(RATE, epsilon=1e-2, momentum_decay=1.0),
    "adamax-keras": Adamax(RATE, epsilon=1e-2, keras_epsilon=True),
    "lion-decayed": Lion(RATE, beta_1=0.6, beta_2=0.8, weight_decay=0.5),
    "ftrl-penalised": FTRL(RATE, beta=0.5, l1=0.4, l2=0.3, initial_accumulator=0.1),
}
FACTORS = np.resize([0.0, 1.0, 2.5, 0.7], 44)
PENALTIES = {
    "none": ElasticNet(),
    "l2": ElasticNet(0.3),
    "l1": ElasticNet(0.3, 1.0),
    "elastic": ElasticNet(0.3, 0.4),
    "factors": ElasticNet(0.3, 0.4, FACTORS),
    "factors of l2": ElasticNet(0.3, 0.0, FACTORS),
}
BOUNDS = {
    "free": None,
    "positive": Bounds(lower=0.0),
    "box": Bounds(np.resize([-1.0, -0.5, -np.inf, 0.2], 44), np.resize([np.inf, 0.5, 1.0, 0.2], 44)),
}
CLIPPINGS: dict[str, Clipping | None] = {
    "free": None,
    "norm": ClipNorm(0.7),
    "wide": ClipNorm(1e6),
    "value": ClipValue(0.4),
    "normalised": NormalizeGradient(3.0),
}


def compare(dtype: Any, optimizer: Optimizer, **parts: Any) -> None:
    """Ten steps on 44 features and 3 outputs, in ``dtype`` by the core and wider by the specification."""
    rng, eps, d, k = np.random.default_rng(11), float(np.finfo(dtype).eps), 44, 3
    w = rng.standard_normal((d + 1, k)).astype(dtype)
    slots = optimizer.initial_slots(w)
    exact, exact_slots = w.ravel().astype(WIDER[dtype]), slots.reshape(-1, w.size).astype(WIDER[dtype])
    shaken, shaken_slots = exact.copy(), exact_slots.copy()
    for t in range(1, 11):
        g = (rng.standard_normal((d + 1, k)) * 10.0 ** rng.integers(-2, 2)).astype(dtype)
        before, wide = g.copy(), g.ravel().astype(WIDER[dtype])
        ops.step_(optimizer, w, g, slots, t, n_penalized=d * k, **parts)
        assert np.array_equal(g, before)
        lr = float(optimizer.rates(t - 1, 1)[0])
        reference.update(optimizer, exact, wide, exact_slots, lr, t, n_penalized=d * k, **parts)
        noise = 1 + 2 * eps * rng.choice([-1, 1], wide.size)
        reference.update(optimizer, shaken, wide * noise, shaken_slots, lr, t, n_penalized=d * k, **parts)
        if t not in (1, 10):
            continue
        # trajectory: a few rounding errors a step, of the size of w and of what moved it so far, and what rounding g may do
        scale = 1 + np.abs(exact) + np.abs(exact_slots).max(initial=0) * 0.05
        off = np.abs(w.ravel() - exact) > 4 * eps * t * scale + 16 * np.abs(shaken - exact)
        # where the c of Lion is nearly 0 or l1, rounding decides about a whole step
        assert off.mean() < 0.02 if optimizer.name == "lion" else not off.any(), (t, off)
        allowed = 4 * eps * t * (1 + np.abs(exact_slots).max(axis=1, keepdims=True)) + 16 * np.abs(
            shaken_slots - exact_slots
        )
        assert (np.abs(slots.reshape(-1, w.size) - exact_slots) <= allowed).all()


# Everything with every kernel; what differs in constants only, with the most and the least of it.
PRODUCT = [
    (optimizer, penalty, clipping)
    for optimizer in OPTIMIZERS
    for penalty in PENALTIES
    for clipping in CLIPPINGS
    if optimizer in KERNELS or (penalty in ("none", "factors") and clipping in ("free", "value"))
]


@pytest.mark.parametrize(("optimizer", "penalty", "clipping"), PRODUCT)
def test_steps_equal_the_specification(isa: str, dtype: Any, optimizer: str, penalty: str, clipping: str) -> None:
    compare(dtype, OPTIMIZERS[optimizer], clipping=CLIPPINGS[clipping], penalty=PENALTIES[penalty], bounds=None)


@pytest.mark.parametrize("bounds", [name for name in BOUNDS if name != "free"])
@pytest.mark.parametrize("penalty", ["none", "factors"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_bounded_steps_equal_the_specification(isa: str, dtype: Any, optimizer: str, penalty: str, bounds: str) -> None:
    compare(dtype, OPTIMIZERS[optimizer], clipping=None, penalty=PENALTIES[penalty], bounds=BOUNDS[bounds])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_l1_gives_exact_zeros_and_spares_the_intercept(isa: str, dtype: Any, optimizer: str) -> None:
    rule = OPTIMIZERS[optimizer]
    g, start = np.full(6, 0.1, dtype), np.array([1e-4, -1e-4, 0.0, 1e3, -1e3, 1e-4], dtype)
    w, alone = start.copy(), start.copy()
    slots, plain = rule.initial_slots(w), rule.initial_slots(w)
    for t in range(1, 4):
        ops.step_(rule, w, g, slots, t, penalty=ElasticNet(2.0, 1.0), n_penalized=5)
        ops.step_(rule, alone, g, plain, t, n_penalized=5)
    assert w[:3].tolist() == [0.0, 0.0, 0.0]
    assert (np.abs(w[3:5]) < np.abs(start[3:5])).all()
    assert w[3:].all()
    assert w[5] == alone[5]


def test_steps_cross_strips_and_blocks(isa: str, dtype: Any, rng: np.random.Generator) -> None:
    """More parameters than a strip and a block of the kernel hold; the intercepts behind them."""
    for d, k in ((1, 1), (257, 1), (1500, 3), (4096, 1)):
        rule, wide = Adam(0.1, amsgrad=True, weight_decay=0.1), WIDER[dtype]
        w, g = rng.standard_normal((2, d + 1, k)).astype(dtype)
        slots, exact = rule.initial_slots(w), w.ravel().astype(wide)
        parts: dict[str, Any] = {"clipping": ClipNorm(1.0), "penalty": ElasticNet(0.3, 0.4, rng.uniform(0, 2, d))}
        parts |= {"bounds": Bounds(np.full(d, -1.0), 1.0), "n_penalized": d * k}
        norm = ops.step_(rule, w, g, slots, 1, **parts)
        assert norm == pytest.approx(np.linalg.norm(g.astype(np.float64)), rel=1e-12)
        reference.update(rule, exact, g.ravel().astype(wide), rule.initial_slots(exact), 0.1, 1, **parts)
        np.testing.assert_allclose(w.ravel(), exact, rtol=0, atol=100 * np.finfo(dtype).eps)


@pytest.mark.parametrize("penalty", ["l2", "l1", "elastic"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_penalty_covers_the_first_numbers_only(
    isa: str, dtype: Any, optimizer: str, penalty: str, rng: np.random.Generator
) -> None:
    rule = OPTIMIZERS[optimizer]
    w, g = rng.standard_normal((2, 100)).astype(dtype)
    plain, penalized = w.copy(), w.copy()
    ops.step_(rule, plain, g, rule.initial_slots(w), 1, n_penalized=97)
    ops.step_(rule, penalized, g, rule.initial_slots(w), 1, penalty=PENALTIES[penalty], n_penalized=97)
    assert np.array_equal(plain[97:], penalized[97:])
    assert (plain[:97] != penalized[:97]).any()


def test_l2_is_added_after_clipping(isa: str, dtype: Any) -> None:
    w, g = np.full(4, 10.0, dtype), np.full(4, 3.0, dtype)
    ops.step_(SGD(0.5), w, g, np.zeros((0, 4), dtype), 1, clipping=ClipNorm(1.0), penalty=ElasticNet(0.1))
    np.testing.assert_allclose(w, 10 - 0.5 * (0.5 + 0.1 * 10), rtol=1e-6)
    w = np.full(4, 10.0, dtype)
    ops.step_(SGD(0.5), w, g, np.zeros((0, 4), dtype), 1, clipping=ClipValue(1.0), penalty=ElasticNet(0.1))
    np.testing.assert_allclose(w, 10 - 0.5 * (1.0 + 0.1 * 10), rtol=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_decay_is_decoupled_and_spares_the_intercept(
    isa: str, dtype: Any, optimizer: str, rng: np.random.Generator
) -> None:
    name = OPTIMIZERS[optimizer].kernel
    plain, decayed = every_kernel(0.1)[name], every_kernel(0.1, weight_decay=0.5)[name]
    w, g = rng.standard_normal((2, 40)).astype(dtype)
    a, b = w.copy(), w.copy()
    ops.step_(plain, a, g, plain.initial_slots(w), 1, n_penalized=39)
    ops.step_(decayed, b, g, plain.initial_slots(w), 1, n_penalized=39)
    np.testing.assert_allclose(a[:39] - b[:39], 0.1 * 0.5 * w[:39], rtol=1e-4, atol=8 * np.finfo(dtype).eps)
    assert a[39] == b[39]


@pytest.mark.parametrize("clipping", CLIPPINGS)
@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("optimizer", KERNELS)
def test_a_nan_in_the_gradient_is_never_lost(
    isa: str, dtype: Any, optimizer: str, clipping: str, constrained: bool
) -> None:
    rule = OPTIMIZERS[optimizer]
    parts: dict[str, Any] = {"penalty": ElasticNet(0.1, 0.5), "bounds": Bounds(-2.0, 2.0)} if constrained else {}
    for at in (0, 7, 39):
        w, g = np.ones(40, dtype), np.ones(40, dtype)
        g[at] = np.nan
        ops.step_(rule, w, g, rule.initial_slots(w), 1, clipping=CLIPPINGS[clipping], **parts)
        assert not np.isfinite(w[at])


@pytest.mark.parametrize("kernel", every_kernel(0.1))
def test_threads_do_not_change_the_bits_of_a_step(isa: str, dtype: Any, kernel: str, rng: np.random.Generator) -> None:
    rule, n = every_kernel(0.1)[kernel], 300_001
    start, g = rng.standard_normal((2, n)).astype(dtype)
    results = []
    for threads in (1, 2, 3):
        w, slots = start.copy(), rule.initial_slots(start)
        norms = [
            ops.step_(
                rule,
                w,
                g,
                slots,
                t,
                clipping=ClipNorm(1.0),
                penalty=ElasticNet(0.1, 0.5),
                n_penalized=n - 5,
                threads=threads,
            )
            for t in (1, 2)
        ]
        results.append((norms, w.tobytes(), slots.tobytes()))
    assert results[0] == results[1] == results[2]
    assert results[0][0][0] == pytest.approx(np.linalg.norm(g.astype(np.float64)))
