"""Kernels in the CUDA simulator against NumPy in float64. Run by test_simulator.py in a process of its own: the variable
NUMBA_ENABLE_CUDASIM is read when Numba is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numba.cuda.simulator.kernel
import numpy as np
import pytest
from rules import every_kernel

from gdfast import SGDClassifier, SGDRegressor, losses, ops
from gdfast.backends import cuda as cuda_backend
from gdfast.backends import reference
from gdfast.backends.cuda import Cuda
from gdfast.backends.cuda import losses as device_losses
from gdfast.backends.cuda import optimizers as device_optimizers
from gdfast.backends.cuda.device import SIMULATED
from gdfast.backends.cuda.gradient import gradient_kernel, sum_kernel
from gdfast.backends.cuda.shapes import shape_for
from gdfast.clipping import ClipNorm, ClipValue, NormalizeGradient
from gdfast.losses import Loss
from gdfast.optimizers import SGD, Adam
from gdfast.order import keys_of, order_rows
from gdfast.penalties import Bounds, ElasticNet
from gdfast.plan import EpochReport, Examples, Part, Plan, State
from gdfast.scaling import Scaling

Array = np.ndarray[Any, Any]
ONE_OUTPUT = sorted(set(losses.ALL) - {"softmax"})
ERROR = {"float32": 2e-6, "float64": 1e-14}


@pytest.fixture(autouse=True)
def _fresh_simulator() -> Iterator[None]:
    assert SIMULATED
    yield
    numba.cuda.simulator.kernel._kernel_context = None  # a launch that failed leaves it set


def problem(n: int, d: int, real: str, loss: Loss, seed: int = 0) -> tuple[Array, Array, Array, Array]:
    """X, y, weight, w: targets that the loss takes, weights with zeros among them."""
    random = np.random.default_rng(seed)
    X = (random.standard_normal((n, d)) / np.sqrt(d)).astype(real)
    z = X.sum(axis=1) + random.standard_normal(n)
    y = {"binary": z > 0, "real": z, "positive": np.exp(z), "nonnegative": np.floor(np.exp(z))}[loss.target]
    weight = random.integers(0, 3, n)
    return X, y.astype(real), weight.astype(real), random.standard_normal(d + 1).astype(real)


def launched(X: Array, y: Array, weight: Array | None, w: Array, loss: Loss, blocks: int, threads: int) -> Array:
    """[gradient of the weights, of the intercept, sum of the losses] by the kernels, into memory full of NaN."""
    (n, d), real = X.shape, str(X.dtype)
    shape = shape_for(d, real)
    shape = replace(shape, threads=max(threads, shape.lanes))
    filled, v = np.zeros((n, shape.d), dtype=real), np.zeros(shape.d + 1, dtype=real)
    filled[:, :d], v[:d], v[-1] = X, w[:-1], w[-1]
    parts, out = np.full(blocks * (shape.d + 2), np.nan, dtype=real), np.full(shape.d + 2, np.nan)
    p = X.dtype.type(loss.parameters()[0] if loss.parameters() else 0)
    kernel = gradient_kernel(shape, loss.name, weighted=weight is not None)
    kernel[blocks, shape.threads](
        filled.ravel(), y, y if weight is None else weight, v, p, parts, np.zeros(1, np.int64), 0, n
    )
    sum_kernel()[-(-len(out) // 64), 64](parts, blocks, len(out), out)
    assert np.isfinite(parts).all()
    assert not out[d:-2].any()
    return np.append(out[:d], out[-2:])


def expected(X: Array, y: Array, weight: Array | None, w: Array, loss: Loss) -> Array:
    X, y, w = (a.astype(np.float64) for a in (X, y, w))
    examples = Examples(X, y, None if weight is None else weight.astype(np.float64))
    value, g = reference.gradient(examples, loss, w[:, None], True)
    return np.append(g[:, 0], value)


@pytest.mark.parametrize("real", ERROR)
@pytest.mark.parametrize("name", ONE_OUTPUT)
def test_every_loss_with_and_without_weights(name: str, real: str) -> None:
    loss = losses.ALL[name]()
    X, y, weight, w = problem(37, 6, real, loss)
    for weights in (None, weight):
        found, wanted = launched(X, y, weights, w, loss, 2, 32), expected(X, y, weights, w, loss)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=ERROR[real] * np.abs(wanted).max())


@pytest.mark.parametrize("real", ERROR)
@pytest.mark.parametrize(("d", "n"), [(1, 1), (3, 200), (28, 45), (31, 9), (130, 11), (300, 5), (1100, 5)])
def test_every_shape_and_tail(d: int, n: int, real: str) -> None:
    loss = losses.LogLoss()
    X, y, weight, w = problem(n, d, real, loss, seed=d)
    found, wanted = launched(X, y, weight, w, loss, 2, 64), expected(X, y, weight, w, loss)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=ERROR[real] * max(1.0, np.abs(wanted).max()))


@pytest.mark.parametrize("name", ONE_OUTPUT)
def test_losses_at_kinks_and_far_out(name: str) -> None:
    loss = losses.ALL[name]()
    function, p = device_losses.of("float64")[name], loss.parameters()[0] if loss.parameters() else 0.0
    body = getattr(function, "fn", function)
    targets = {"binary": [0.0, 0.25, 1.0], "real": [0.0, 1.0], "positive": [0.5, 3.0], "nonnegative": [0.0, 2.0]}
    for y in targets[loss.target]:
        kinks = [-1.0, 0.0, 1.0, y, y + p, y - p, 600.0, -600.0] if loss.link != "exp" else [-30.0, 0.0, 30.0]
        for z in kinks:
            value, slope = body(np.float64(z), np.float64(y), np.float64(p))
            at, of = np.array([[z]]), np.array([[y]])
            np.testing.assert_allclose(
                [value, slope], [loss.value(at, of)[0, 0], loss.gradient(at, of)[0, 0]], rtol=1e-14, atol=1e-300
            )


def test_losses_are_those_of_the_formulas() -> None:
    assert sorted(device_losses.of("float32")) == ONE_OUTPUT


def test_equal_runs_give_equal_bits() -> None:
    loss = losses.LogLoss()
    X, y, weight, w = problem(70, 28, "float32", loss)
    one, other = (launched(X, y, weight, w, loss, 3, 32) for _ in range(2))
    assert np.array_equal(one, other)


@pytest.mark.parametrize("weighted", [False, True])
def test_ops_take_a_device(weighted: bool) -> None:
    X, y, weight, w = problem(60, 5, "float32", losses.LogLoss())
    s = weight if weighted else None
    for layout in (X, np.asfortranarray(X)):
        found, g = ops.loss_and_gradient(layout, y, w, loss="log_loss", sample_weight=s, device="cuda")  # type: ignore[misc]
        value, wanted = ops.loss_and_gradient(layout, y, w, loss="log_loss", sample_weight=s)  # type: ignore[misc]
        np.testing.assert_allclose(g, wanted, rtol=0, atol=1e-6)
        assert found == pytest.approx(value, rel=1e-6)
        assert g.dtype == X.dtype


def test_rows_go_up_once_and_scaled_columns_as_they_are_seen() -> None:
    X, y, _, w = problem(40, 5, "float64", losses.LogLoss())
    scaled = Scaling.of(X * 3 + 1, center=True, threads=1).apply(X * 3 + 1)
    examples, backend = Examples(scaled, y, None), Cuda(0)
    value, g = backend.gradient(examples, losses.LogLoss(), w[:, None], False)
    wanted, expected_g = reference.gradient(examples, losses.LogLoss(), w[:, None], False)
    assert value == pytest.approx(wanted, rel=1e-12)
    np.testing.assert_allclose(g, expected_g, rtol=0, atol=1e-12)
    (held,), spent = backend._held, backend.transfer_seconds
    backend.gradient(examples, losses.LogLoss(), w[:, None], True)
    assert backend._held == [held]
    assert backend.transfer_seconds > spent > 0


def test_what_a_device_does_not_take_is_named() -> None:
    from scipy.sparse import csr_array

    X, y, _, w = problem(8, 3, "float64", losses.LogLoss())
    with pytest.raises(ValueError, match="device='cuda' takes dense rows"):
        ops.loss_and_gradient(csr_array(X), y, w, loss="log_loss", device="cuda")
    with pytest.raises(ValueError, match="device='cuda' takes models of one output, got 2"):
        ops.loss_and_gradient(X, y, np.zeros((4, 2)), loss="softmax", device="cuda")


def test_rows_that_do_not_fit_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y, _, w = problem(8, 3, "float64", losses.LogLoss())
    backend = Cuda(0)
    monkeypatch.setattr(backend._device, "free_memory", lambda: 100)
    with pytest.raises(MemoryError, match=r"device='cuda:0' has 0.0 GB of free memory, 8 rows of 3 columns need"):
        backend.gradient(Examples(X, y, None), losses.LogLoss(), w[:, None], True)


def few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels of 32 threads: the simulator's time goes with their number."""
    monkeypatch.setattr(cuda_backend, "shape_for", lambda d, real: replace(shape_for(d, real), threads=32))
    monkeypatch.setattr(cuda_backend, "THREADS", 32)


@pytest.mark.parametrize(("n", "block"), [(1, 1), (50, 1), (97, 4), (64, 64), (100, 7)])
def test_rows_are_shuffled_as_on_the_cpu(n: int, block: int) -> None:
    plan = Plan(loss=losses.LogLoss(), optimizer=SGD(), seed=5, block=block)
    order = Cuda(0)._order(n, plan, 3).copy_to_host()
    assert np.array_equal(order, order_rows(n, keys_of(5, 3), block=min(block, n)))


@pytest.mark.parametrize("kernel", list(every_kernel(0.05)))
def test_every_optimizer_goes_the_way_of_the_reference(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few_threads(monkeypatch)
    X, y, weight, _ = problem(50, 5, "float64", losses.LogLoss())
    optimizer = replace(every_kernel(0.05)[kernel], weight_decay=0.01)
    plan = Plan(
        loss=losses.LogLoss(), optimizer=optimizer, penalty=ElasticNet(0.01, 0.5), clipping=ClipNorm(0.3), batch_size=20,
        seed=3, block=4, average_from=2, bounds=Bounds(-0.5, 0.6),
    )  # fmt: skip
    same_way(Examples(X, y, weight), plan, epochs=3)


@pytest.mark.parametrize(
    "change",
    [
        {"clipping": ClipValue(0.02)},
        {"clipping": NormalizeGradient(0.5)},
        {"fit_intercept": False, "shuffle": False},
        {"penalty": ElasticNet(0.1, 1.0, np.array([0.0, 1.0, 2.0, 0.5, 1.0]))},
        {"accumulate": 2, "mean_weight": 1.5, "block": 1},
    ],
    ids="-".join,
)
def test_every_part_of_a_plan_counts(change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    few_threads(monkeypatch)
    X, y, weight, _ = problem(50, 5, "float64", losses.LogLoss())
    plan = Plan(loss=losses.LogLoss(), optimizer=SGD(0.1, momentum=0.9), batch_size=16, seed=1)
    same_way(Examples(X, y, weight), replace(plan, **change), epochs=2)


def same_way(examples: Examples, plan: Plan, epochs: int) -> None:
    """The same states and reports as the reference, epoch after epoch."""
    mine, theirs = (State.start(plan, np.zeros((examples.d + 1, 1))) for _ in range(2))
    backend = Cuda(0)
    for _ in range(epochs):
        rates = plan.optimizer.rates(mine.step, plan.steps(examples.n))
        for part, of_part in ((Part(0, 0, False), rates[:1]), (Part(0, 1, True), rates[1:])):
            found = backend.epoch(examples, plan, mine, of_part, part=part)
            wanted = reference.epoch(examples, plan, theirs, of_part, part=part)
            agree(mine, theirs, found, wanted)


def agree(mine: State, theirs: State, found: EpochReport, wanted: EpochReport) -> None:
    assert (found.steps, found.finite) == (wanted.steps, wanted.finite)
    np.testing.assert_allclose(found.norms, wanted.norms, rtol=1e-9)
    np.testing.assert_allclose(found.losses, wanted.losses, rtol=1e-9)
    assert (mine.step, mine.epoch) == (theirs.step, theirs.epoch)
    np.testing.assert_allclose(mine.w, theirs.w, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(mine.slots, theirs.slots, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(mine.weights, theirs.weights, rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the simulator's numbers are NumPy's
def test_an_epoch_ends_at_a_step_that_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    few_threads(monkeypatch)
    X, y, _, _ = problem(48, 5, "float64", losses.LogLoss())
    X[20] = np.inf
    plan = Plan(loss=losses.SquaredError(), optimizer=SGD(0.1), batch_size=16, shuffle=False)
    state = State.start(plan, np.full((6, 1), 0.1))
    report = Cuda(0).epoch(Examples(X, y, None), plan, state, np.full(3, 0.1))
    assert (report.steps, report.finite) == (1, False)
    assert (state.step, state.epoch) == (1, 0)
    assert np.isfinite(state.w).all()


def test_optimizers_are_those_of_the_formulas() -> None:
    assert sorted(device_optimizers.of("float32")) == sorted(every_kernel(0.1))


@pytest.mark.parametrize("real", ERROR)
def test_an_estimator_trains_on_a_device(real: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few_threads(monkeypatch)
    X, y, weight, _ = problem(60, 5, real, losses.LogLoss())
    options: dict[str, Any] = {
        "loss": "log_loss", "optimizer": Adam(0.05), "batch_size": 20, "max_iter": 3, "tol": None, "random_state": 1,
        "clip_norm": 0.5, "standardize": True, "average": True, "early_stopping": True,
    }  # fmt: skip
    found = SGDClassifier(device="cuda", **options).fit(X, y, sample_weight=weight + 1)
    wanted = SGDClassifier(**options).fit(X, y, sample_weight=weight + 1)
    np.testing.assert_allclose(found.coef_, wanted.coef_, rtol=0, atol=1e3 * ERROR[real])
    np.testing.assert_allclose(found.loss_curve_, wanted.loss_curve_, rtol=1e3 * ERROR[real])
    assert found.fit_report_["device"] == "cuda:0"
    assert found.fit_report_["transfer_seconds"] > 0
    assert isinstance(found.coef_, np.ndarray)


def test_auto_takes_the_device_for_large_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    few_threads(monkeypatch)
    monkeypatch.setattr("gdfast.estimators.minibatch.WORTH_A_GPU", 100)
    X, y, _, _ = problem(30, 5, "float32", losses.SquaredError())
    model = SGDRegressor(device="auto", batch_size=30, max_iter=1, tol=None).fit(X, y)
    assert model.fit_report_["device"] == "cuda:0: steps are large enough"
