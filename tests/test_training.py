"""Whole epochs: the native loop against the specification, the same bits for any number of threads, accumulation,
divergence, and the accuracy of float32 over many rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest
from rules import every_kernel

from gdfast import _core, losses, ops, runtime
from gdfast.backends import cpu, reference
from gdfast.clipping import ClipNorm, Clipping, ClipValue, NormalizeGradient
from gdfast.layouts import to_dense
from gdfast.losses import LogLoss, Loss, SquaredError
from gdfast.optimizers import SGD, Adam, AdamW, Nadam, Optimizer
from gdfast.penalties import Bounds, ElasticNet
from gdfast.plan import EpochReport, Examples, Plan, State
from gdfast.schedules import ExponentialDecay

Array = np.ndarray[Any, Any]
LOSSES = {name: kind(**{f.name: 0.7 * f.default for f in fields(kind)}) for name, kind in losses.ALL.items()}
THREADS = (2, 3, 4, 7, 16)
SMALL_WORK = 1 << 20  # bytes; below, one thread does it all

RATE = ExponentialDecay(0.02, 40, 0.8)
OPTIMIZERS: tuple[Optimizer, ...] = (
    SGD(RATE, momentum=0.8, nesterov=True),
    AdamW(RATE, weight_decay=0.2),
    *(o for o in every_kernel(RATE, epsilon=1e-3).values() if o.name != "lion"),  # its signs jump where c is nearly 0
)
CLIPPINGS: tuple[Clipping | None, ...] = (None, ClipNorm(0.5), ClipValue(0.1), NormalizeGradient(0.5))


def factors(d: int) -> Array:
    return np.resize([1.0, 0.0, 2.5], d)


PENALTIES: tuple[Callable[[int], ElasticNet], ...] = (
    lambda d: ElasticNet(),
    lambda d: ElasticNet(0.1),
    lambda d: ElasticNet(0.1, 1.0),
    lambda d: ElasticNet(0.1, 0.5, factors(d)),
)
BOUNDS: tuple[Callable[[int], Bounds | None], ...] = (
    lambda d: None,
    lambda d: Bounds(lower=0.0),
    lambda d: Bounds(-0.1 * factors(d), 0.2),
)


@dataclass(frozen=True)
class Case:
    loss: str
    layout: str
    dtype: str
    k: int
    batch: int  # 0: as many as there are rows, -1: more
    weighted: bool
    shuffle: bool
    average_from: int
    optimizer: int
    clipping: int
    penalty: int
    bounds: int
    intercept: bool
    d: int
    block: int

    def __str__(self) -> str:
        return "-".join(str(getattr(self, f.name)) for f in fields(self))


def cases() -> Iterator[tuple[str, Case]]:
    """For each loss 16 cases: every value of every axis once at least."""
    rng = np.random.default_rng(13)
    for name, loss in LOSSES.items():
        axes: tuple[tuple[Any, ...], ...] = (
            tuple(runtime.instruction_sets()),
            ("rows", "columns", "tuple", "strided", "reversed", "csr", "csr64"),
            ("float32", "float64"),
            tuple(k for k in (1, 2, 5, 17) if k > 1 or loss.target != "class"),
            (1, 7, 64, 0, -1),
            (False, True),
            (True, True, False),
            (0, 1, 6),
            tuple(range(len(OPTIMIZERS))),
            tuple(range(len(CLIPPINGS))),
            tuple(range(len(PENALTIES))),
            (0, *range(len(BOUNDS))),
            (True, True, False),
            (1, 3, 7, 28, 33, 70),
            (1, 5, 16),
        )
        drawn = [rng.permutation(np.resize(np.arange(len(values)), 16)) for values in axes]
        for picks in zip(*drawn, strict=True):
            isa, *rest = (values[i] for values, i in zip(axes, picks, strict=True))
            yield isa, Case(name, *rest)


def targets(loss: Loss, n: int, k: int, rng: np.random.Generator, dtype: Any) -> Array:
    if loss.target == "class" or (loss.target == "binary" and k > 1):
        return rng.integers(0, k, n).astype(dtype)
    draw = {
        "binary": lambda shape: rng.integers(0, 2, shape),
        "real": rng.standard_normal,
        "positive": lambda shape: rng.gamma(2.0, 0.5, shape) + 0.01,
        "nonnegative": lambda shape: rng.poisson(1.5, shape),
    }
    return draw[loss.target](n if k == 1 else (n, k)).astype(dtype)


def widened(examples: Examples, dtype: Any) -> Examples:
    weight = None if examples.weight is None else examples.weight.astype(dtype)
    return Examples(to_dense(examples.X).astype(dtype), examples.y.astype(dtype), weight, examples.k)


def run(backend: Any, examples: Examples, plan: Plan, epochs: int, threads: int = 1) -> tuple[State, list[EpochReport]]:
    state = State.start(plan, np.full((examples.d + 1, examples.k), 0.01, examples.dtype))
    reports = []
    for _ in range(epochs):
        rates = plan.optimizer.rates(state.step, plan.steps(examples.n))
        reports.append(backend.epoch(examples, plan, state, rates, threads))
    return state, reports


@pytest.mark.parametrize(("isa", "case"), list(cases()), indirect=["isa"], ids=str)
def test_epochs_equal_the_specification(isa: str, case: Case, layouts: dict[str, Callable[[Array], Any]]) -> None:
    n, loss = 203, LOSSES[case.loss]
    rng = np.random.default_rng([case.d, case.k])
    X = (rng.standard_normal((n, case.d)) / np.sqrt(case.d)).astype(case.dtype)
    if case.layout.startswith("csr"):
        X *= rng.random(X.shape) < 0.3
    weight = (rng.uniform(0.2, 2, n) * (rng.random(n) > 0.1)).astype(case.dtype) if case.weighted else None
    examples = Examples(layouts[case.layout](X), targets(loss, n, case.k, rng, case.dtype), weight, case.k)
    plan = Plan(
        loss=loss,
        optimizer=OPTIMIZERS[case.optimizer],
        penalty=PENALTIES[case.penalty](case.d),
        bounds=BOUNDS[case.bounds](case.d),
        clipping=CLIPPINGS[case.clipping],
        batch_size=case.batch if case.batch > 0 else n - 100 * case.batch,
        shuffle=case.shuffle,
        block=case.block,
        seed=3,
        fit_intercept=case.intercept,
        average_from=case.average_from,
        mean_weight=1.0 if weight is None else float(weight.mean(dtype=np.float64)),
    )
    state, reports = run(cpu, examples, plan, 3)
    exact, expected = run(reference, widened(examples, np.float64), plan, 3)
    # trajectory: relative to the weights and to the losses of an epoch
    tolerance = 1e-4 if case.dtype == "float32" else 1e-11
    assert (state.step, state.epoch) == (exact.step, exact.epoch) == (3 * plan.steps(n), 3)
    for got, spec in zip(reports, expected, strict=True):
        assert (got.steps, got.finite) == (plan.steps(n), True)
        assert got.loss_sum == pytest.approx(spec.loss_sum, rel=tolerance)
        np.testing.assert_allclose(got.norms, spec.norms, rtol=100 * tolerance, atol=tolerance * spec.norms.max())
    size = np.abs(exact.w).max()
    np.testing.assert_allclose(state.w, exact.w, rtol=0, atol=tolerance * size)
    np.testing.assert_allclose(state.slots, exact.slots, rtol=0, atol=tolerance * np.abs(exact.slots).max(initial=0))
    if case.average_from:
        np.testing.assert_allclose(state.weights, exact.weights, rtol=0, atol=tolerance * size)
    if not case.intercept:
        assert (state.w[-1] == np.dtype(case.dtype).type(0.01)).all()


def test_the_sample_of_cases_has_every_value_of_every_axis_for_every_loss() -> None:
    drawn = list(cases())
    for name in LOSSES:
        mine = [case for _, case in drawn if case.loss == name]
        assert {isa for isa, case in drawn if case.loss == name} == set(runtime.instruction_sets())
        sizes = {
            "layout": 7,
            "dtype": 2,
            "batch": 5,
            "weighted": 2,
            "shuffle": 2,
            "average_from": 3,
            "d": 6,
            "block": 3,
        }
        sizes |= {"optimizer": len(OPTIMIZERS), "clipping": len(CLIPPINGS), "penalty": len(PENALTIES), "intercept": 2}
        sizes |= {"bounds": len(BOUNDS)}
        assert {axis: len({getattr(case, axis) for case in mine}) for axis in sizes} == sizes


# ---------------------------------------------------------------------------------------------- any number of threads


def large(dtype: Any, k: int, layout: Callable[[Array], Any], weighted: bool = True) -> Examples:
    """Work enough for a team, in several parts."""
    n, d = 24_000, 29
    rng = np.random.default_rng(k)
    X = rng.standard_normal((n, d)).astype(dtype)
    weight = rng.uniform(0, 2, n).astype(dtype) if weighted else None
    examples = Examples(layout(X), rng.integers(0, max(k, 2), n).astype(dtype), weight, k)
    assert X.nbytes * k > SMALL_WORK
    assert _core.shards_of(n, examples.X, k) >= 16
    return examples


@pytest.mark.parametrize("name", ["rows", "columns", "tuple", "csr"])
@pytest.mark.parametrize("k", [1, 5])
def test_passes_have_the_same_bits_for_any_number_of_threads(
    isa: str, dtype: Any, k: int, name: str, layouts: dict[str, Callable[[Array], Any]], rng: np.random.Generator
) -> None:
    examples = large(dtype, k, layouts[name])
    loss = LOSSES["log_loss" if k == 1 else "softmax"]
    w = rng.standard_normal((examples.d + 1, k)).astype(dtype)
    with runtime.worker():
        z = cpu.margins(examples.X, w, 1)
        value, g = cpu.gradient(examples, loss, w, True, 1)
        h_value, h_g, H = cpu.hessian(examples, loss, w, True, 1)
        for threads in THREADS:
            assert np.array_equal(cpu.margins(examples.X, w, threads), z)
            same_value, same_g = cpu.gradient(examples, loss, w, True, threads)
            assert same_value == value
            assert np.array_equal(same_g, g)
            same_value, same_g, same_H = cpu.hessian(examples, loss, w, True, threads)
            assert same_value == h_value
            assert np.array_equal(same_g, h_g)
            assert np.array_equal(same_H, H)


@pytest.mark.parametrize("batch", [1500, 4096, 12_000])
@pytest.mark.parametrize("name", ["rows", "tuple", "csr"])
@pytest.mark.parametrize("k", [1, 5])
def test_epochs_have_the_same_bits_for_any_number_of_threads(
    dtype: Any, k: int, name: str, batch: int, layouts: dict[str, Callable[[Array], Any]]
) -> None:
    examples = large(dtype, k, layouts[name])
    plan = Plan(
        loss=LOSSES["log_loss" if k == 1 else "softmax"],
        optimizer=Adam(0.01),
        penalty=ElasticNet(0.01, 0.5),
        clipping=ClipNorm(0.1),
        batch_size=batch,
        seed=1,
        average_from=3,
    )
    assert _core.shards_of(batch, examples.X, k) > 4
    with runtime.worker():
        state, reports = run(cpu, examples, plan, 2, 1)
        for threads in THREADS:
            other, others = run(cpu, examples, plan, 2, threads)
            assert np.array_equal(other.w, state.w)
            assert np.array_equal(other.slots, state.slots)
            assert np.array_equal(other.weights, state.weights)
            for a, b in zip(reports, others, strict=True):
                assert a.loss_sum == b.loss_sum
                assert np.array_equal(a.norms, b.norms)


def test_many_parameters_are_updated_with_the_same_bits_by_any_number_of_threads(dtype: Any) -> None:
    # more parameters than one block of the update, so that threads share the norm and the step
    rng = np.random.default_rng(2)
    X, y = rng.standard_normal((512, 1500)).astype(dtype), rng.integers(0, 5, 512).astype(dtype)
    examples, plan = (
        Examples(X, y, None, 5),
        Plan(LOSSES["softmax"], SGD(0.1, momentum=0.9), ElasticNet(1e-3), ClipNorm(0.01), 128),
    )
    state, _ = run(cpu, examples, plan, 2, 1)
    for threads in THREADS:
        other, _ = run(cpu, examples, plan, 2, threads)
        assert np.array_equal(other.w, state.w)
        assert np.array_equal(other.slots, state.slots)
    exact, _ = run(reference, widened(examples, np.float64), plan, 2)
    np.testing.assert_allclose(state.w, exact.w, rtol=0, atol=1e-4 if dtype == np.float32 else 1e-12)


# --------------------------------------------------------------------------------------- accumulation, resume, seeds


def examples_of(n: int, d: int, dtype: Any = np.float64, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)).astype(dtype)
    return Examples(X, (X[:, 0] + rng.standard_normal(n) > 0).astype(dtype), None)


@pytest.mark.parametrize("backend", [cpu, reference], ids=["cpu", "reference"])
@pytest.mark.parametrize("accumulate", [2, 3, 8])
def test_accumulation_is_a_larger_batch(dtype: Any, backend: Any, accumulate: int) -> None:
    examples = examples_of(500, 12, dtype)
    plan = Plan(LogLoss(), Adam(0.01), batch_size=10, accumulate=accumulate, clipping=ClipNorm(0.2))
    state, reports = run(backend, examples, plan, 2)
    other, others = run(backend, examples, replace(plan, batch_size=10 * accumulate, accumulate=1), 2)
    assert state.step == other.step == 2 * -(-500 // (10 * accumulate))
    assert np.array_equal(state.w, other.w)
    assert [r.loss_sum for r in reports] == [r.loss_sum for r in others]


@pytest.mark.parametrize("clipping", CLIPPINGS, ids=str)
def test_micro_batches_are_clipped_and_decayed_once(dtype: Any, clipping: Clipping | None) -> None:
    """An epoch of accumulated batches is a loop of building blocks: sum over the micro-batches, one step."""
    examples, (size, k) = examples_of(240, 12, dtype), (10, 4)
    plan = Plan(
        LogLoss(), AdamW(0.05), ElasticNet(0.01, 0.5), clipping, size, k, shuffle=False, bounds=Bounds(-0.2, 0.2)
    )
    state, (report,) = run(cpu, examples, plan, 1)
    w = np.full((13, 1), 0.01, dtype)
    slots, X = plan.optimizer.initial_slots(w), np.asarray(examples.X)
    for t in range(1, plan.steps(240) + 1):
        total = np.zeros((13, 1))
        for first in range((t - 1) * size * k, t * size * k, size):
            micro = Examples(X[first : first + size], examples.y[first : first + size], None)
            total += cpu.gradient(micro, plan.loss, w, True, 1)[1]
        g = (total / (size * k)).astype(dtype)
        assert report.norms[t - 1] == pytest.approx(ops.norm(g), rel=1e-5)
        ops.step_(
            plan.optimizer, w, g, slots, t, clipping=clipping, penalty=plan.penalty, bounds=plan.bounds, n_penalized=12
        )
    np.testing.assert_allclose(state.w, w, rtol=0, atol=2e-5 if dtype == np.float32 else 1e-13)
    assert (np.abs(w[:-1]) <= np.float32(0.2)).all()
    assert not (w[:-1] == 0).all()


@pytest.mark.parametrize("backend", [cpu, reference], ids=["cpu", "reference"])
def test_an_epoch_ends_with_its_rates_or_its_time(dtype: Any, backend: Any) -> None:
    examples, plan = examples_of(300, 5, dtype), Plan(LogLoss(), Adam(RATE), batch_size=32, block=4)
    state = State.start(plan, np.zeros((6, 1), dtype))
    whole = backend.epoch(examples, plan, state, plan.optimizer.rates(0, 10), 1)
    assert (whole.steps, len(whole.losses)) == (10, 10)
    assert whole.losses.sum() == pytest.approx(whole.loss_sum, rel=1e-12)
    part = State.start(plan, np.zeros((6, 1), dtype))
    first = backend.epoch(examples, plan, part, plan.optimizer.rates(0, 4), 1)
    assert (first.steps, part.step, part.epoch) == (4, 4, 1)
    np.testing.assert_array_equal(first.losses, whole.losses[:4])
    np.testing.assert_array_equal(first.norms, whole.norms[:4])
    late = backend.epoch(examples, plan, part, plan.optimizer.rates(4, 10), 1, 0.0)
    assert (late.steps, late.finite, part.step) == (0, True, 4)


def test_a_long_epoch_is_ended_by_the_clock() -> None:
    examples, plan = examples_of(400_000, 20), Plan(LogLoss(), SGD(0.01), batch_size=8)
    state = State.start(plan, np.zeros((21, 1)))
    for threads in (1, 2):
        report = cpu.epoch(examples, plan, state, plan.optimizer.rates(0, plan.steps(examples.n)), threads, 0.005)
        assert 0 < report.steps < plan.steps(examples.n)


@pytest.mark.parametrize("kind", [Adam, Nadam, SGD], ids=str)
def test_epochs_can_be_cut_anywhere(dtype: Any, kind: Any) -> None:
    optimizer = kind(RATE, **({"momentum": 0.9} if kind is SGD else {}))
    examples, plan = examples_of(300, 5, dtype), Plan(LogLoss(), optimizer, average_from=4, batch_size=32)
    whole, reports = run(cpu, examples, plan, 4)
    half, first = run(cpu, examples, plan, 2)
    resumed = State(half.w.copy(), half.slots.copy(), half.average.copy(), half.step, half.epoch)
    for report in reports[2:]:
        rates = plan.optimizer.rates(resumed.step, plan.steps(300))
        assert cpu.epoch(examples, plan, resumed, rates, 1).loss_sum == report.loss_sum
    assert np.array_equal(resumed.w, whole.w)
    assert np.array_equal(resumed.weights, whole.weights)
    assert [r.loss_sum for r in first] == [r.loss_sum for r in reports[:2]]


def test_seeds_repeat_and_differ(dtype: Any) -> None:
    examples, plan = examples_of(300, 5, dtype), Plan(LogLoss(), SGD(0.1), batch_size=32, seed=5)
    w = run(cpu, examples, plan, 2)[0].w
    assert np.array_equal(run(cpu, examples, plan, 2)[0].w, w)
    assert not np.array_equal(run(cpu, examples, replace(plan, seed=6), 2)[0].w, w)
    assert not np.array_equal(run(cpu, examples, replace(plan, shuffle=False), 2)[0].w, w)


def test_every_row_counts_once_an_epoch() -> None:
    examples, plan = examples_of(1001, 4), Plan(LogLoss(), SGD(1e-12), batch_size=64)
    state, (report,) = run(cpu, examples, plan, 1)
    total, _ = cpu.gradient(examples, LogLoss(), np.full((5, 1), 0.01), True)
    assert report.loss_sum == pytest.approx(total, rel=1e-9)
    assert state.step == 16


# ------------------------------------------------------------------------------------------------------- divergence


@pytest.mark.parametrize("backend", [cpu, reference], ids=["cpu", "reference"])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, in the specification
def test_a_step_that_is_not_finite_is_not_made(backend: Any, dtype: Any, shuffle: bool) -> None:
    examples = examples_of(640, 6, dtype)
    plan = Plan(SquaredError(), Adam(0.01), batch_size=64, shuffle=shuffle, average_from=1)
    order = reference.order_rows(640, reference.keys_of(0, 0)) if shuffle else np.arange(640)
    examples.X[order[200]] = np.finfo(dtype).max / 4  # the fourth batch: its loss overflows
    clean = Examples(examples.X[order[:192]].copy(), examples.y[order[:192]].copy(), None)
    expected, _ = run(backend, clean, replace(plan, shuffle=False), 1)
    state, (report,) = run(backend, examples, plan, 1)
    assert (report.finite, report.steps) == (False, 3)
    assert (state.step, state.epoch) == (3, 0)
    assert np.array_equal(state.w, expected.w)
    assert np.array_equal(state.slots, expected.slots)
    assert np.array_equal(state.weights, expected.weights)
    assert not np.isfinite(report.loss_sum)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_rate_that_diverges_is_noticed_within_the_epoch(dtype: Any, threads: int) -> None:
    examples = large(dtype, 1, np.ascontiguousarray)
    plan = Plan(SquaredError(), SGD(1e6), batch_size=256)
    state, (report,) = run(cpu, examples, plan, 1, threads)
    assert not report.finite
    assert 0 < report.steps < plan.steps(examples.n)
    assert state.step == report.steps


# --------------------------------------------------------------------------------------------------------- accuracy


@pytest.mark.parametrize("name", ["log_loss", "squared_error"])
def test_a_float32_gradient_over_ten_million_rows_is_within_1e_6_of_float64(name: str) -> None:
    n, d = 10_000_000, 4
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d), dtype=np.float32)
    w = np.array([[0.5], [-1.0], [0.25], [0.1], [0.3]], np.float32)
    y = (X[:, 0] > 0.3).astype(np.float32)
    _, g = cpu.gradient(Examples(X, y, None), LOSSES[name], w, True, 2)
    wide = X.astype(np.float64)
    r = LOSSES[name].gradient(wide @ w[:-1].astype(np.float64) + np.float64(w[-1]), y[:, None].astype(np.float64))
    exact = np.append(wide.T @ r, r.sum())
    assert np.linalg.norm(g[:, 0] - exact) <= 1e-6 * np.linalg.norm(exact)


@pytest.mark.parametrize("name", ["rows", "columns"])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("loss", LOSSES)
def test_float32_gradients_are_within_1e_6_of_float64(
    loss: str, k: int, name: str, layouts: dict[str, Callable[[Array], Any]]
) -> None:
    n, d = 100_000, 4
    rng = np.random.default_rng(0)
    k = max(k, 2) if LOSSES[loss].target == "class" else k
    X, w = rng.standard_normal((n, d)).astype(np.float32), rng.standard_normal((d + 1, k)).astype(np.float32)
    examples = Examples(layouts[name](X), targets(LOSSES[loss], n, k, rng, np.float32), None, k)
    value, g = cpu.gradient(examples, LOSSES[loss], w, True, 1)
    exact_value, exact = cpu.gradient(widened(examples, np.float64), LOSSES[loss], w.astype(np.float64), True, 1)
    assert np.linalg.norm(g - exact) <= 1e-6 * np.linalg.norm(exact)
    assert value == pytest.approx(exact_value, rel=1e-6)
