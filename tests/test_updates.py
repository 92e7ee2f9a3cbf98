"""The fused update against the order of the pipeline: g -> clip -> + l2 w -> optimizer -> soft threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gdfast import ops, optimizers
from gdfast.clipping import ClipNorm, Clipping, ClipValue
from gdfast.optimizers import SGD, Adam, Optimizer
from gdfast.penalties import ElasticNet, soft_threshold
from gdfast.schedules import ExponentialDecay

Array = np.ndarray[Any, Any]
WIDER = {np.dtype(np.float32): np.dtype(np.float64), np.dtype(np.float64): np.dtype(np.longdouble)}
RATE = ExponentialDecay(0.05, 4, 0.7)
OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": SGD(RATE),
    "sgd-momentum": SGD(RATE, momentum=0.9),
    "sgd-nesterov": SGD(RATE, momentum=0.9, nesterov=True),
    "adam": Adam(RATE),
    "adam-coarse": Adam(RATE, beta_1=0.5, beta_2=0.9, epsilon=1e-2),
}
PENALTIES = {
    "none": ElasticNet(),
    "l2": ElasticNet(0.3),
    "l1": ElasticNet(0.3, 1.0),
    "elastic": ElasticNet(0.3, 0.4),
}
CLIPPINGS: dict[str, Clipping | None] = {
    "free": None,
    "norm": ClipNorm(0.7),
    "wide": ClipNorm(1e6),
    "value": ClipValue(0.4),
}


def step_by_the_book(
    optimizer: Optimizer,
    w: Array,
    g: Array,
    slots: Array,
    t: int,
    clipping: Clipping | None,
    penalty: ElasticNet,
    n_penalized: int,
) -> None:
    lr = float(optimizer.rates(t - 1, 1)[0])
    g = g.copy() if clipping is None else np.array(clipping(g))
    g[:n_penalized] += penalty.l2 * w[:n_penalized]
    optimizer.step(w, g, slots, lr, t)
    w[:n_penalized] = soft_threshold(w[:n_penalized], lr * penalty.l1) if penalty.l1 else w[:n_penalized]


@pytest.mark.parametrize("clipping", CLIPPINGS)
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steps_equal_the_specification(isa: str, dtype: Any, optimizer: str, penalty: str, clipping: str) -> None:
    rule, rng, eps = OPTIMIZERS[optimizer], np.random.default_rng(11), np.finfo(dtype).eps
    for n, k in ((1, 1), (5, 3), (64, 1), (111, 3)):
        w = rng.standard_normal((n, k)).astype(dtype)
        slots = np.zeros((rule.n_slots, n, k), dtype)
        n_penalized = (n - 1) * k
        exact, exact_slots = w.ravel().astype(WIDER[dtype]), slots.reshape(rule.n_slots, -1).astype(WIDER[dtype])
        for t in range(1, 11):
            g = (rng.standard_normal((n, k)) * 10.0 ** rng.integers(-2, 2)).astype(dtype)
            before = g.copy()
            ops.step_(
                rule, w, g, slots, t, clipping=CLIPPINGS[clipping], penalty=PENALTIES[penalty], n_penalized=n_penalized
            )
            step_by_the_book(
                rule,
                exact,
                g.ravel().astype(WIDER[dtype]),
                exact_slots,
                t,
                CLIPPINGS[clipping],
                PENALTIES[penalty],
                n_penalized,
            )
            assert np.array_equal(g, before)
            # trajectory: a few rounding errors a step, of the size of w and of what moved it so far
            if t in (1, 10):
                scale = 1 + np.abs(exact) + np.abs(exact_slots).max(initial=0) * 0.05
                assert (np.abs(w.ravel() - exact) <= 4 * eps * t * scale).all()
                allowed = 4 * eps * t * (1 + np.abs(exact_slots).max(axis=1, keepdims=True))
                assert (np.abs(slots.reshape(rule.n_slots, -1) - exact_slots) <= allowed).all()


def test_every_optimizer_is_stepped() -> None:
    assert {rule.name for rule in OPTIMIZERS.values()} == set(optimizers.ALL)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_l1_gives_exact_zeros_and_spares_the_intercept(isa: str, dtype: Any, optimizer: str) -> None:
    rule = OPTIMIZERS[optimizer]
    threshold = 0.05 * 2.0  # the rate of the first step times l1
    w = np.array([0.09, -0.09, 0.0, 0.11, -0.11, 0.05], dtype)
    start, g = w.copy(), np.zeros(6, dtype)
    ops.step_(rule, w, g, np.zeros((rule.n_slots, 6), dtype), 1, penalty=ElasticNet(2.0, 1.0), n_penalized=5)
    assert w[:3].tolist() == [0.0, 0.0, 0.0]
    np.testing.assert_allclose(w[3:5], start[3:5] - threshold * np.sign(start[3:5]), rtol=1e-5)
    assert w[5] == start[5]


@pytest.mark.parametrize("penalty", ["l2", "l1", "elastic"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_penalty_covers_the_first_numbers_only(
    isa: str, dtype: Any, optimizer: str, penalty: str, rng: np.random.Generator
) -> None:
    rule = OPTIMIZERS[optimizer]
    w, g = rng.standard_normal((2, 100)).astype(dtype)
    plain, penalized = w.copy(), w.copy()
    ops.step_(rule, plain, g, np.zeros((rule.n_slots, 100), dtype), 1)
    ops.step_(rule, penalized, g, np.zeros((rule.n_slots, 100), dtype), 1, penalty=PENALTIES[penalty], n_penalized=97)
    assert np.array_equal(plain[97:], penalized[97:])
    changed = plain[:97] != penalized[:97]
    # the first step of Adam does not depend on the size of the gradient
    assert changed.mean() > 0.9 if penalty != "l2" or rule.name == "sgd" else changed.any()


def test_l2_is_added_after_clipping(isa: str, dtype: Any) -> None:
    w, g = np.full(4, 10.0, dtype), np.full(4, 3.0, dtype)
    ops.step_(SGD(0.5), w, g, np.zeros((1, 4), dtype), 1, clipping=ClipNorm(1.0), penalty=ElasticNet(0.1))
    np.testing.assert_allclose(w, 10 - 0.5 * (0.5 + 0.1 * 10), rtol=1e-6)
    w = np.full(4, 10.0, dtype)
    ops.step_(SGD(0.5), w, g, np.zeros((1, 4), dtype), 1, clipping=ClipValue(1.0), penalty=ElasticNet(0.1))
    np.testing.assert_allclose(w, 10 - 0.5 * (1.0 + 0.1 * 10), rtol=1e-6)


@pytest.mark.parametrize("clipping", CLIPPINGS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_nan_in_the_gradient_is_never_lost(isa: str, dtype: Any, optimizer: str, clipping: str) -> None:
    rule = OPTIMIZERS[optimizer]
    for at in (0, 7, 39):
        w, g = np.ones(40, dtype), np.ones(40, dtype)
        g[at] = np.nan
        ops.step_(rule, w, g, np.zeros((rule.n_slots, 40), dtype), 1, clipping=CLIPPINGS[clipping])
        assert not np.isfinite(w[at])
