"""Steps over sparse rows at the cost of the entries of their batch: the model is that of steps over all columns, for every
optimizer, penalty and bound; and with ``lazy`` the one of the rule that leaves other columns alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from memory import SPARSE
from rules import every_kernel

from gdfast import losses
from gdfast.backends import cpu, reference
from gdfast.clipping import ClipNorm
from gdfast.layouts import CsrRows, Scaled, to_dense
from gdfast.losses import LogLoss, Loss, Softmax, SquaredError
from gdfast.optimizers import FTRL, SGD, Adagrad, Adam, Optimizer
from gdfast.penalties import Bounds, ElasticNet
from gdfast.plan import EpochReport, Examples, Member, Plan, State
from gdfast.schedules import ExponentialDecay

Array = np.ndarray[Any, Any]
N, D = 120, 200  # entries of a row: 4 or so
FALLING = ExponentialDecay(0.05, 40, 0.8)
FACTORS = np.resize([1.0, 0.0, 2.5], D)
ELSEWHERE = np.resize([0.0, 0.03, -np.inf, -0.2], D)
KERNELS = {
    f"{name}{decay or ''}": replace(optimizer, weight_decay=decay)
    for name, optimizer in every_kernel(FALLING, epsilon=1e-3).items()
    if name != "lion"  # its signs jump where c is nearly 0
    for decay in (0.0, 0.3)
} | {
    "ftrl of its own": FTRL(0.05, l1=0.003, l2=0.1),
    "ftrl of its own, falling": FTRL(FALLING, l1=0.003),
    "adagrad from 0.1": Adagrad(FALLING, initial_accumulator=0.1),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "l2": {"penalty": ElasticNet(0.05)},
    "l1": {"penalty": ElasticNet(0.003, 1.0)},
    "both, by column": {"penalty": ElasticNet(0.01, 0.5, FACTORS)},
    "l1, by column, bounds": {"penalty": ElasticNet(0.003, 1.0, FACTORS), "bounds": Bounds(ELSEWHERE, 0.2)},
    "bounds, clipped": {"bounds": Bounds(-0.02, np.resize([0.1, -0.01, np.inf, 0.2], D)), "clipping": ClipNorm(0.1)},
    "mean": {"average_from": 3},
    "mean, l2": {"average_from": 150, "penalty": ElasticNet(0.05)},
    "mean, l1": {"average_from": 1, "penalty": ElasticNet(0.003, 1.0)},
}


def rows(
    loss: Loss | None = None, *, k: int = 1, dtype: str = "float64", layout: str = "csr", weighted: bool = True
) -> Examples:
    """Columns of power-law frequency, one of them in no row; a row without entries."""
    rng = np.random.default_rng(5)
    X = np.where(rng.random((N, D)) < 0.2 / (1 + np.arange(D) / 3), rng.standard_normal((N, D)), 0).astype(dtype)
    X[:, D // 2], X[N // 3] = 0, 0
    weight = (rng.uniform(0.2, 2, N) * (rng.random(N) > 0.1)).astype(dtype) if weighted else None
    y = rng.integers(0, 2 if k == 1 else k, N) if not isinstance(loss, SquaredError) else rng.standard_normal((N, k))
    y = y.astype(dtype)
    return Examples(SPARSE[layout](X), y[:, 0] if y.ndim == 2 and k == 1 else y, weight, k)


def wide(examples: Examples) -> Examples:
    """The same rows, dense and float64."""
    weight = None if examples.weight is None else examples.weight.astype("f8")
    return Examples(to_dense(examples.X).astype("f8"), examples.y.astype("f8"), weight, examples.k)


def run(
    backend: Any, examples: Examples, plan: Plan, epochs: int = 2, threads: int = 1, start: float = 0.1
) -> tuple[State, EpochReport]:
    w = np.random.default_rng(1).uniform(-start, start, (examples.d + 1, examples.k)).astype(examples.dtype)
    state = State.start(plan, w)
    report = EpochReport(0.0, 0, True, np.empty(0), np.empty(0))
    for _ in range(epochs):
        rates = plan.optimizer.rates(state.step, plan.steps(examples.n))
        report = backend.epoch(examples, plan, state, rates, threads)
    return state, report


def assert_same(state: State, expected: State, tolerance: float) -> None:
    assert (state.step, state.epoch) == (expected.step, expected.epoch)
    for name in ("w", "slots", "average"):
        a, b = getattr(state, name), getattr(expected, name)
        if b is not None and b.size:
            size = np.abs(b).max(axis=tuple(range(b.ndim - 2, b.ndim)), keepdims=True)  # of each slot its own
            assert np.all(np.abs(a - b) <= tolerance * np.maximum(size, 1e-3)), (name, np.abs(a - b).max())


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("optimizer", KERNELS)
def test_the_steps_are_those_of_all_columns(optimizer: str, setting: str) -> None:
    for batch, layout in ((1, "csr"), (7, "csr64")):
        plan = Plan(LogLoss(), KERNELS[optimizer], batch_size=batch, seed=2, mean_weight=0.8, **SETTINGS[setting])
        examples = rows(layout=layout)
        state, report = run(cpu, examples, plan)
        expected, wanted = run(reference, wide(examples), plan)
        assert_same(state, expected, 1e-9)
        np.testing.assert_allclose(report.norms, wanted.norms, rtol=1e-8)
        np.testing.assert_allclose(report.losses, wanted.losses, rtol=1e-8)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("optimizer", KERNELS)
def test_lazy_leaves_columns_alone_that_no_row_of_the_batch_holds(optimizer: str, setting: str) -> None:
    rule = replace(KERNELS[optimizer], lazy=True)
    examples = rows()
    for batch in (1, 70):
        plan = Plan(LogLoss(), rule, batch_size=batch, seed=2, **SETTINGS[setting])
        expected, _ = run(reference, examples, plan)
        assert_same(run(cpu, examples, plan)[0], expected, 1e-9)
    assert expected.w[D // 2] == run(reference, examples, plan, 0)[0].w[D // 2] != 0


@pytest.mark.parametrize("X", ["rows", "scaled"])
def test_lazy_is_nothing_where_every_row_holds_every_column(X: str) -> None:
    examples = rows()
    assert isinstance(examples.X, CsrRows)
    scaled = Scaled(examples.X, np.linspace(0, 0.1, D), np.linspace(0.5, 2, D))
    examples = replace(examples, X=to_dense(examples.X) if X == "rows" else scaled)
    for optimizer in (Adam(0.01), SGD(0.1)):
        plan = Plan(LogLoss(), replace(optimizer, lazy=True), ElasticNet(0.05), batch_size=3)
        expected, _ = run(reference, wide(examples), plan)
        assert_same(run(cpu, examples, plan)[0], expected, 1e-9)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("optimizer", KERNELS)
def test_float32_on_every_instruction_set(isa: str, optimizer: str, lazy: bool) -> None:
    for setting in ("l2", "l1", "mean, l2", "plain"):
        plan = Plan(LogLoss(), replace(KERNELS[optimizer], lazy=lazy), batch_size=2, **SETTINGS[setting])
        examples = rows(dtype="float32")
        expected, _ = run(
            reference, replace(wide(examples), X=replace(examples.X, data=examples.X.data.astype("f8"))), plan
        )
        assert_same(run(cpu, examples, plan)[0], expected, 1e-3)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("loss", [Softmax(), SquaredError()])
def test_many_outputs(loss: Loss, setting: str, lazy: bool) -> None:
    for optimizer in (SGD(FALLING), Adagrad(FALLING), Adam(FALLING, lazy=lazy)):
        plan = Plan(loss, replace(optimizer, lazy=lazy), batch_size=4, **SETTINGS[setting])
        examples = rows(loss, k=3)
        expected, _ = run(reference, examples, plan)
        assert_same(run(cpu, examples, plan)[0], expected, 1e-9)


@pytest.mark.parametrize("rule", [SGD(0.1), Adagrad(0.1), SGD(0.1, lazy=True), Adam(0.1, lazy=True)])
def test_several_models_at_once(rule: Optimizer) -> None:
    examples = replace(rows(), fold=np.random.default_rng(0).integers(0, 3, N).astype("f8"))
    rates = np.geomspace(0.2, 0.05, N)

    def members() -> list[Member]:
        penalties = ElasticNet(0.05 * isinstance(rule, SGD)), ElasticNet(0.003, 1.0), ElasticNet()
        found = []
        for i in range(3):
            plan = Plan(LogLoss(), rule, penalties[i], batch_size=1, average_from=3 * (i < 1))
            found.append(Member(plan, State.start(plan, np.full((D + 1, 1), 0.1)), rates * (i + 1), i - 1))
        return found

    ours, expected = members(), members()
    for report, wanted in zip(cpu.epochs(examples, ours), reference.epochs(examples, expected), strict=True):
        np.testing.assert_allclose(report.losses, wanted.losses, rtol=1e-8)
    for mine, other in zip(ours, expected, strict=True):
        assert_same(mine.state, other.state, 1e-9)


@pytest.mark.parametrize("rate", [0.9, 19.9, 20.0, 20.1, 30.0])
def test_a_penalty_that_shrinks_by_much(rate: float) -> None:
    """lr l2 up to 1 and over it: products vanish, and the sign of the weights changes with every step"""
    examples = rows()
    for penalty in (ElasticNet(0.05), ElasticNet(0.05, 0.1)):
        for average in (0, 5):
            plan = Plan(LogLoss(), SGD(rate), penalty, batch_size=1, average_from=average)
            expected, _ = run(reference, wide(examples), plan, 1)
            assert_same(run(cpu, examples, plan, 1)[0], expected, 1e-9)


def test_float32_keeps_its_digits_over_many_steps() -> None:
    """the column that no row holds, after 200 epochs: a product of 24,000 factors"""
    examples = rows(dtype="float32")
    plan = Plan(LogLoss(), SGD(0.01), ElasticNet(0.01), batch_size=1)
    state, _ = run(cpu, examples, plan, 200)
    expected = run(cpu, examples, plan, 0)[0].w[D // 2, 0] * (1 - 1e-4) ** (200 * N)
    np.testing.assert_allclose(state.w[D // 2, 0], expected, rtol=1e-4)


@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop0.3"])
def test_same_bits_for_any_number_of_threads(optimizer: str, threads: int) -> None:
    one = rows(dtype="float32").X
    assert isinstance(one, CsrRows)
    times = 100  # more than a turn has room for
    indptr = np.append(0, np.cumsum(np.tile(np.diff(one.indptr), times))).astype(one.indptr.dtype)
    X = CsrRows(np.tile(one.data, times), np.tile(one.indices, times), indptr, D)
    examples = Examples(X, np.resize([0, 1, 1], len(indptr) - 1).astype("f4"), None)
    for batch in (1, 16):
        plan = Plan(
            LogLoss(), replace(KERNELS[optimizer], lazy=optimizer == "adam"), ElasticNet(1e-3), batch_size=batch
        )
        state, report = run(cpu, examples, plan, 2)
        again, same = run(cpu, examples, plan, 2, threads)
        for name in ("w", "slots"):
            assert np.array_equal(getattr(state, name), getattr(again, name))
        assert np.array_equal(report.losses, same.losses)
        assert np.array_equal(report.norms, same.norms)


@pytest.mark.parametrize("setting", ["plain", "l2", "l1", "mean, l2"])
def test_a_step_that_cannot_be_made_leaves_the_model_of_those_before(setting: str) -> None:
    examples = rows()
    bad = np.flatnonzero(np.diff(examples.X.indptr))[70]  # type: ignore[union-attr]
    examples.X.data[examples.X.indptr[bad]] = 1e308  # type: ignore[union-attr]
    for optimizer in (SGD(FALLING), Adagrad(FALLING)):
        plan = Plan(SquaredError(), optimizer, shuffle=False, batch_size=1, **SETTINGS[setting])
        state, report = run(cpu, examples, plan, 1)
        assert not report.finite
        assert report.steps == bad
        with np.errstate(over="ignore", invalid="ignore"):
            expected, _ = run(reference, wide(examples), plan, 1)
        assert_same(state, expected, 1e-9)


COST = {
    "sgd": (SGD(0.1), {}),
    "sgd, l2": (SGD(FALLING), {"penalty": ElasticNet(1e-4)}),
    "sgd, l1": (SGD(FALLING), {"penalty": ElasticNet(1e-4, 1.0)}),
    "sgd, elastic net, decay, bounds": (
        SGD(FALLING, weight_decay=1e-3), {"penalty": ElasticNet(1e-4, 0.5), "bounds": Bounds(0.0)}
    ),
    "sgd, l2, mean": (SGD(FALLING), {"penalty": ElasticNet(1e-4), "average_from": 10}),
    "adagrad, l1": (Adagrad(FALLING), {"penalty": ElasticNet(1e-4, 1.0)}),
    "ftrl": (FTRL(0.1, l1=1e-3, l2=1e-3), {}),
    "rmsprop": (KERNELS["rmsprop"], {}),
    "adam, lazy": (Adam(0.1, lazy=True), {"penalty": ElasticNet(1e-4)}),
}  # fmt: skip


@pytest.mark.parametrize("name", COST)
def test_a_step_costs_what_its_entries_cost(name: str) -> None:
    """20,000 steps over 2 million columns: minutes where a step passes over all of them, a second here"""
    optimizer, settings = COST[name]
    n, d = 20_000, 2_000_000
    rng = np.random.default_rng(0)
    columns = np.sort(rng.integers(0, d // 3, (n, 3)) + np.arange(3) * (d // 3))
    X = CsrRows(np.ones(3 * n), columns.ravel(), 3 * np.arange(n + 1), d)
    examples = Examples(X, rng.integers(0, 2, n).astype("f8"), None)
    plan = Plan(LogLoss(), optimizer, batch_size=1, **settings)
    report = cpu.epoch(
        examples, plan, State.start(plan, np.zeros((d + 1, 1))), plan.optimizer.rates(0, n), 1, seconds=20
    )
    assert report.steps == n


def test_every_loss_on_few_entries() -> None:
    for loss in losses.ALL.values():
        if loss().target in ("binary", "real"):
            examples = rows(SquaredError() if loss().target == "real" else None)
            plan = Plan(loss(), SGD(FALLING), ElasticNet(0.01, 0.5), batch_size=2)
            assert_same(run(cpu, examples, plan)[0], run(reference, wide(examples), plan)[0], 1e-9)
