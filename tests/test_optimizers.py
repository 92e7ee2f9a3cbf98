"""Optimizers: against torch and Keras by numbers written down, against torch itself where it is installed, against the
published recurrences in plain Python; what L1, decay and the coefficients of a step mean."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rules import every_kernel
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

from gdfast import FTRL, SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, ElasticNet, Lion, Nadam, RMSprop, optimizers
from gdfast.backends import cpu
from gdfast.losses import LogLoss, SquaredError
from gdfast.optimizers import Optimizer
from gdfast.plan import Examples, Plan, State
from gdfast.schedules import ExponentialDecay

Array = np.ndarray[Any, Any]

# Six steps on three numbers. Weights after the first and the last step, in float64: torch.optim of PyTorch 2.13.0, and
# keras.optimizers of Keras 3.15.1, both with float64 as the default type.
START = (1.0, -2.0, 0.5)
GRADIENTS = (
    (0.5, -3.0, 0.01), (0.4, 2.0, 0.02), (-0.3, 1.0, -0.01), (0.2, -1.0, 0.03), (0.1, 0.5, 0.0), (-0.6, 0.25, 0.02),
)  # fmt: skip
Numbers = tuple[float, float, float]
TORCH: list[tuple[Optimizer, str, dict[str, Any], Numbers, Numbers]] = [
    (SGD(0.1), "SGD", {"lr": 0.1},
     (0.95, -1.7, 0.499), (0.97, -1.975, 0.493)),
    (SGD(0.1, momentum=0.9), "SGD", {"lr": 0.1, "momentum": 0.9},
     (0.95, -1.7, 0.499), (0.6918865, -1.606243, 0.48043321)),
    (SGD(0.1, momentum=0.9, nesterov=True), "SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True},
     (0.905, -1.43, 0.4981), (0.69269785, -1.6206187, 0.475389889)),
    (SGD(0.1, momentum=0.9, dampening=0.5), "SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5},
     (0.95, -1.7, 0.499), (0.7288035, -1.100283, 0.48787381)),
    (Adagrad(0.1), "Adagrad", {"lr": 0.1},
     (0.9, -1.9, 0.400000001), (0.9021534424, -1.975568708, 0.2280392978)),
    (Adagrad(0.1, initial_accumulator=0.1, epsilon=0.01), "Adagrad", {"lr": 0.1, "initial_accumulator_value": 0.1, "eps": 0.01},
     (0.9168894001, -1.900879549, 0.4969361416), (0.9220590404, -1.975958698, 0.4786718195)),
    (Adadelta(), "Adadelta", {},
     (0.9968377856, -1.996837724, 0.4969848866), (0.9976460761, -2.000574932, 0.4869081191)),
    (Adadelta(0.5, rho=0.8, epsilon=0.001), "Adadelta", {"lr": 0.5, "rho": 0.8, "eps": 0.001},
     (0.9649929979, -1.964654478, 0.4950492623), (0.9727745567, -2.009293215, 0.4666580572)),
    (RMSprop(), "RMSprop", {},
     (0.90000002, -1.900000003, 0.400001), (0.9025172955, -1.976017503, 0.2273367137)),
    (RMSprop(0.02, rho=0.9, centered=True), "RMSprop", {"lr": 0.02, "alpha": 0.9, "centered": True},
     (0.9333333378, -1.933333334, 0.4333335556), (0.9315577269, -1.984290464, 0.3070177771)),
    (RMSprop(0.02, momentum=0.9), "RMSprop", {"lr": 0.02, "momentum": 0.9},
     (0.80000004, -1.800000007, 0.300002), (-0.2303751518, -1.624947604, -1.402484455)),
    (RMSprop(0.02, centered=True, momentum=0.5, epsilon=0.01), "RMSprop",
     {"lr": 0.02, "centered": True, "momentum": 0.5, "eps": 0.01},
     (0.8326342238, -1.805508159, 0.4818098928), (0.5931227921, -1.887024937, 0.3269028377)),
    (Adam(), "Adam", {},
     (0.999, -1.999, 0.499000001), (0.9966230642, -1.998825823, 0.4957104789)),
    (Adam(0.1, beta_1=0.8, beta_2=0.95, epsilon=0.01), "Adam", {"lr": 0.1, "betas": (0.8, 0.95), "eps": 0.01},
     (0.9019607843, -1.900332226, 0.45), (0.7010131908, -1.905222629, 0.244555489)),
    (Adam(0.1, beta_2=0.9, amsgrad=True), "Adam", {"lr": 0.1, "betas": (0.9, 0.9), "amsgrad": True},
     (0.900000002, -1.9, 0.4000001), (0.6587581965, -1.882218741, 0.07903076723)),
    (AdamW(0.1), "AdamW", {"lr": 0.1},
     (0.899000002, -1.898, 0.3995001), (0.6574872921, -1.871171427, 0.06925571751)),
    (AdamW(0.1, weight_decay=0.5, amsgrad=True), "AdamW", {"lr": 0.1, "weight_decay": 0.5, "amsgrad": True},
     (0.850000002, -1.8, 0.3750001), (0.4515375448, -1.378214171, -0.005528825095)),
    (Nadam(), "NAdam", {},
     (0.9978870965, -1.997887096, 0.4978870986), (0.9976779086, -1.999392556, 0.4929832776)),
    (Nadam(0.1, momentum_decay=0.5, epsilon=0.01), "NAdam", {"lr": 0.1, "momentum_decay": 0.5, "eps": 0.01},
     (0.8961169781, -1.894391347, 0.4470196588), (0.877827013, -1.966914031, 0.2922315318)),
    (Nadam(0.1, weight_decay=0.5), "NAdam", {"lr": 0.1, "weight_decay": 0.5, "decoupled_weight_decay": True},
     (0.8443548243, -1.794354823, 0.3693549278), (0.6554250648, -1.452070566, 0.06334036535)),
    (Adamax(), "Adamax", {},
     (0.998, -1.998, 0.498000002), (0.9941618964, -1.9977221, 0.4935651416)),
    (Adamax(0.1, beta_2=0.5, epsilon=0.1), "Adamax", {"lr": 0.1, "betas": (0.9, 0.5), "eps": 0.1},
     (0.9166666667, -1.903225806, 0.4909090909), (0.6444464733, -1.886119692, 0.4430934991)),
]  # fmt: skip
KERAS: list[tuple[Optimizer, Numbers, Numbers]] = [
    (SGD(0.1, momentum=0.9),
     (0.95, -1.7, 0.499), (0.6918865, -1.606243, 0.48043321)),
    (SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.5),
     (0.855, -1.33, 0.4731), (0.4834129422, -1.188877066, 0.3451478996)),
    (Adagrad(0.1, initial_accumulator=0.1, epsilon=0.01, keras_epsilon=True),
     (0.9166666667, -1.900605566, 0.4969862561), (0.9219004676, -1.975862093, 0.4790135077)),
    (Adadelta(0.5, rho=0.8, epsilon=0.001),
     (0.9649929979, -1.964654478, 0.4950492623), (0.9727745567, -2.009293215, 0.4666580572)),
    (RMSprop(0.02, rho=0.9, epsilon=0.01, keras_epsilon=True),
     (0.9465477516, -1.93710291, 0.4980009993), (0.9517648945, -1.987792209, 0.4860766784)),
    (RMSprop(0.02, rho=0.9, epsilon=0.01, centered=True, momentum=0.5, keras_epsilon=True, weight_decay=0.5),
     (0.9345299804, -1.913741084, 0.4930008994), (0.8081622561, -1.846871233, 0.448860536)),
    (Adam(0.1, epsilon=0.01, keras_epsilon=True),
     (0.9387425887, -1.909535767, 0.496934657), (0.7758144287, -1.893493192, 0.465971916)),
    (Adam(0.1, beta_2=0.9, epsilon=0.01, amsgrad=True, keras_epsilon=True),
     (0.9059483487, -1.901043097, 0.4759746927), (0.6760104913, -1.88342203, 0.3188075463)),
    (AdamW(0.1, epsilon=0.01, keras_epsilon=True, weight_decay=0.004),
     (0.9383425887, -1.908735767, 0.496734657), (0.7737207691, -1.888900955, 0.4648013413)),
    (Nadam(0.1, epsilon=0.01, momentum_decay=1.0),
     (0.8958051173, -1.894074305, 0.4468606098), (0.8702747902, -1.964335932, 0.2951251503)),
    (Adamax(0.1, beta_2=0.5, epsilon=0.1, keras_epsilon=True),
     (0.9166666667, -1.903225806, 0.4909090909), (0.6444464733, -1.886119692, 0.4443688621)),
    (Lion(0.01),
     (0.99, -1.99, 0.49), (0.98, -2.02, 0.46)),
    (Lion(0.01, beta_1=0.5, beta_2=0.8, weight_decay=0.5),
     (0.985, -1.98, 0.4875), (0.9508190256, -1.960694525, 0.4456327709)),
    (FTRL(0.1, beta=0.0, initial_accumulator=0.1),
     (-0.08451542547, 0.09944903162, -0.003160697706), (-0.07949803742, 0.02416428377, -0.02199845458)),
    (FTRL(0.1, beta=0.5, l1=0.3, l2=0.2, initial_accumulator=0.2),
     (-0.01679514401, 0.07598890745, 0), (-0.009002221329, 0.01030324636, 0)),
]  # fmt: skip


def path(optimizer: Optimizer, w: Array, gradients: Any) -> Iterator[Array]:
    """w after each step, decay included."""
    w, slots = np.array(w), optimizer.initial_slots(np.array(w))
    for t, (g, lr) in enumerate(zip(np.asarray(gradients), optimizer.rates(0, len(gradients)), strict=True), start=1):
        before = w.copy()
        optimizer.step(w, g, slots, lr, t)
        w -= lr * optimizer.weight_decay * before
        yield w.copy()


def shown(case: Any) -> str:
    return repr(case[0])


@pytest.mark.parametrize("case", TORCH, ids=shown)
def test_numbers_of_torch(case: Any) -> None:
    optimizer, _, _, first, last = case
    steps = list(path(optimizer, START, GRADIENTS))
    np.testing.assert_allclose(steps[0], first, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(steps[-1], last, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("case", KERAS, ids=shown)
def test_numbers_of_keras(case: Any) -> None:
    optimizer, first, last = case
    steps = list(path(optimizer, np.zeros(3) if optimizer.name == "ftrl" else START, GRADIENTS))
    np.testing.assert_allclose(steps[0], first, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(steps[-1], last, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("case", TORCH, ids=shown)
def test_long_paths_follow_torch(case: Any, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    optimizer, name, options, _, _ = case
    start, gradients = rng.standard_normal(50), rng.standard_normal((100, 50)) * 10.0 ** rng.integers(-3, 2, 50)
    parameter = torch.tensor(start, requires_grad=True)
    theirs = getattr(torch.optim, name)([parameter], **options)
    rtol = 1e-6 if name == "NAdam" else 1e-9  # torch keeps its product of momenta in float32
    for g, w in zip(gradients, path(optimizer, start, gradients), strict=True):
        parameter.grad = torch.tensor(g)
        theirs.step()
        np.testing.assert_allclose(w, parameter.detach().numpy(), rtol=rtol, atol=1e-2 * rtol)


def test_momentum_follows_torch_while_the_rate_changes(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    optimizer = SGD(ExponentialDecay(0.1, 5, 0.5), momentum=0.9)
    start, gradients = rng.standard_normal(4), rng.standard_normal((30, 4))
    parameter = torch.tensor(start, requires_grad=True)
    theirs = torch.optim.SGD([parameter], 0.1, momentum=0.9)
    for g, lr, w in zip(gradients, optimizer.rates(0, 30), path(optimizer, start, gradients), strict=True):
        theirs.param_groups[0]["lr"] = lr
        parameter.grad = torch.tensor(g)
        theirs.step()
        np.testing.assert_allclose(w, parameter.detach().numpy(), rtol=1e-10)


def test_all_are_compared_with_another_library() -> None:
    compared = {case[0].kernel for case in (*TORCH, *KERAS)}
    assert compared == set(every_kernel(0.1))
    assert {case[0].name for case in (*TORCH, *KERAS)} == set(optimizers.ALL)
    with_keras_epsilon = {name for name, kind in optimizers.ALL.items() if hasattr(kind, "keras_epsilon")}
    assert {case[0].name for case in KERAS if getattr(case[0], "keras_epsilon", False)} == with_keras_epsilon


# ------------------------------------------------------------------------------------------- recurrences, as published


def ftrl_by_mcmahan(o: FTRL, gradients: list[float]) -> list[float]:
    """Algorithm 1 of the paper: per coordinate z and n, and the weight from them at the start of each round."""
    out, z, n, alpha = [], 0.0, o.initial_accumulator, float(o.learning_rate)  # type: ignore[arg-type]

    def weight() -> float:
        return 0.0 if abs(z) <= o.l1 else -(z - math.copysign(o.l1, z)) / ((o.beta + math.sqrt(n)) / alpha + o.l2)

    for g in gradients:
        sigma = (math.sqrt(n + g * g) - math.sqrt(n)) / alpha
        z, n = z + g - sigma * weight(), n + g * g
        out.append(weight())
    return out


@pytest.mark.parametrize(
    "o", [FTRL(), FTRL(0.3, beta=0.5, l1=0.7, l2=0.4), FTRL(l1=2.0, initial_accumulator=1.0)], ids=str
)
def test_ftrl_is_the_algorithm_of_the_paper(o: FTRL, rng: np.random.Generator) -> None:
    gradients = rng.standard_normal((200, 6)) + np.linspace(-1, 1, 6)
    steps = np.array(list(path(o, np.zeros(6), gradients)))
    for j in range(6):
        np.testing.assert_allclose(steps[:, j], ftrl_by_mcmahan(o, gradients[:, j].tolist()), rtol=1e-8, atol=1e-12)
    assert (steps == 0).any() == (o.l1 > 0)


def test_ftrl_without_penalties_is_adagrad_from_any_start_and_with_any_rate(rng: np.random.Generator) -> None:
    start, gradients = rng.standard_normal(5), rng.standard_normal((60, 5))
    rate = ExponentialDecay(0.3, 10, 0.5)
    ftrl = path(FTRL(rate, beta=1e-3), start, gradients)
    for a, b in zip(ftrl, path(Adagrad(rate, epsilon=1e-3), start, gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


def test_nadam_follows_its_running_product(rng: np.random.Generator) -> None:
    o, t = Nadam(beta_1=0.8, momentum_decay=0.1), np.arange(1.0, 301.0)
    product, rows = 1.0, o.coefficients(t)
    for i in range(300):
        mu, following = (0.8 * (1 - 0.5 * 0.96 ** (s * 0.1)) for s in (i + 1, i + 2))
        product *= mu
        np.testing.assert_allclose(
            rows[i, :2], [following / (1 - product * following), (1 - mu) / (1 - product)], rtol=1e-14
        )
    assert np.isfinite(Nadam(beta_1=0.0).coefficients(np.array([1.0, 1e9]))).all()
    assert np.isfinite(Nadam().coefficients(np.array([1e12]))).all()


# ------------------------------------------------------------------------------------- what follows from t and nothing else

KERNELS = every_kernel(ExponentialDecay(0.05, 4, 0.7))


@pytest.mark.parametrize("kernel", KERNELS)
def test_coefficients_are_a_pure_function_of_the_step(kernel: str) -> None:
    o = KERNELS[kernel]
    t = np.arange(1.0, 5001.0)
    everything = o.coefficients(t)
    for first, count in ((0, 1), (0, 5000), (17, 9), (4999, 1), (1000, 3000)):
        rows = o.coefficients_of(first, count)
        assert 1 <= len(rows) <= count
        np.testing.assert_array_equal(rows, everything[first : first + len(rows)])
        assert (everything[first + len(rows) : first + count] == rows[-1]).all()


def test_coefficients_that_have_settled_are_not_repeated() -> None:
    assert len(Adam().coefficients_of(0, 10_000_000)) < 100_000
    assert len(Adam().coefficients_of(100_000, 10_000_000)) == 1024


@pytest.mark.parametrize("kernel", KERNELS)
def test_rates_are_those_of_the_schedule_from_any_step(kernel: str) -> None:
    everything = KERNELS[kernel].rates(0, 40)
    assert everything.dtype == np.float64
    np.testing.assert_array_equal(KERNELS[kernel].rates(17, 9), everything[17:26])


@pytest.mark.parametrize("kernel", KERNELS)
def test_slots_are_named_and_start_as_the_rule_wants(kernel: str, dtype: Any) -> None:
    o = KERNELS[kernel]
    slots = o.initial_slots(np.ones((3, 2), dtype))
    assert slots.shape == (len(o.slot_names), 3, 2)
    assert slots.dtype == dtype
    assert not slots.any()
    assert len(set(o.slot_names)) == o.n_slots
    assert Adam().slot_names == ("m", "v")
    assert Adam(amsgrad=True).slot_names == ("m", "v", "v_max")
    assert RMSprop(centered=True, momentum=0.5).slot_names == ("v", "mean", "velocity")
    assert (Adagrad(initial_accumulator=0.5).initial_slots(np.ones(3)) == 0.5).all()
    assert FTRL(initial_accumulator=0.5).initial_slots(np.ones(3)).tolist() == [[0.0] * 3, [0.5] * 3]


# ------------------------------------------------------------------------------------------------------------ penalties


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_threshold_is_l1_times_the_move_of_a_constant_gradient(kernel: str) -> None:
    """After any number of steps with the same gradient, the step by g and the threshold of l1 = |g| are equal."""
    o, g = KERNELS[kernel], np.array([2.0, -0.5, 1e-3])
    o = replace(o, rho=0.0) if isinstance(o, RMSprop) else o  # momentum remembers the roots of earlier steps
    w, slots, free = np.ones(3), o.initial_slots(np.ones(3)), np.ones(3)
    lone = o.initial_slots(w)
    for t in range(1, 30):
        before, lr = w.copy(), float(o.rates(t - 1, 1)[0])
        threshold = o.step(w, g, slots, lr, t, np.abs(g))
        o.step(free, g, lone, lr, t)
        moved = np.abs(w - before) if o.name != "lion" else lr  # Lion leaves the move to the threshold
        np.testing.assert_allclose(threshold, moved, rtol=1e-8)


def least_squares(rng: np.random.Generator) -> tuple[Array, Array]:
    X = rng.standard_normal((200, 8)) @ (np.eye(8) + 0.3 * rng.standard_normal((8, 8))) * np.geomspace(0.5, 2, 8)
    y = X @ np.array([2.0, -1.0, 0.0, 0.0, 0.7, 0.0, -3.0, 0.0]) + rng.standard_normal(200)
    return X, y


def optimum(H: Array, b: Array, penalty: ElasticNet) -> Array:
    """argmin w' H w / 2 - b' w + penalty, by coordinate descent."""
    w, factors = np.zeros(len(b)), np.ones(len(b)) if penalty.factors is None else penalty.factors
    for _ in range(5000):
        for j in range(len(b)):
            z = b[j] - H[j] @ w + H[j, j] * w[j]
            w[j] = np.sign(z) * max(abs(z) - penalty.l1 * factors[j], 0) / (H[j, j] + penalty.l2 * factors[j])
    return w


PENALTIES = {
    "l1": ElasticNet(0.4, 1.0),
    "elastic": ElasticNet(0.6, 0.6),
    "factors": ElasticNet(0.4, 0.9, factors=np.array([1.0, 0.0, 2.0, 1.0, 0.5, 0.0, 1.0, 3.0])),
}
LONG = every_kernel(ExponentialDecay(0.05, 1000, 0.5))
# those that move by lr times a small number, or a large one; centred, the root falls to epsilon where g comes to rest
LONG |= {
    "adadelta": Adadelta(ExponentialDecay(20.0, 2000, 0.5), epsilon=1e-4),
    "adagrad": Adagrad(0.5),
    "ftrl": FTRL(0.5),
    "rmsprop-centered-momentum": RMSprop(0.01, centered=True, momentum=0.9, epsilon=0.1),
    "sgd": SGD(0.1),
    "sgd-momentum": SGD(0.02, momentum=0.9),
}


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("kernel", LONG)
def test_every_optimizer_ends_at_the_optimum_of_the_penalised_objective(
    kernel: str, penalty: str, rng: np.random.Generator
) -> None:
    X, y = least_squares(rng)
    expected = optimum(X.T @ X / len(X), X.T @ y / len(X), PENALTIES[penalty])
    # an epoch of 100 batches, each of them all the rows
    examples = Examples(np.tile(X, (100, 1)), np.tile(y, 100), None)
    plan = Plan(SquaredError(), LONG[kernel], PENALTIES[penalty], batch_size=len(X), shuffle=False, fit_intercept=False)
    state = State.start(plan, np.vstack([np.ones((8, 1)), np.zeros((1, 1))]))
    for _ in range(150):
        cpu.epoch(examples, plan, state, plan.optimizer.rates(state.step, 100))
    w = state.w[:-1, 0]
    np.testing.assert_allclose(w, expected, atol=1e-3 * np.abs(expected).max())
    assert np.array_equal(w == 0, expected == 0)
    assert 0 < (expected == 0).sum() < 8


RATES = every_kernel(ExponentialDecay(0.05, 2000, 0.5)) | {
    "adadelta": Adadelta(ExponentialDecay(5.0, 2000, 0.5), epsilon=1e-4),
    "adagrad": Adagrad(0.5),
    "ftrl": FTRL(0.5),
    "sgd": SGD(ExponentialDecay(1.0, 2000, 0.5)),
    "sgd-momentum": SGD(ExponentialDecay(0.2, 2000, 0.5), momentum=0.9),
}


@pytest.mark.parametrize("kernel", RATES)
def test_every_optimizer_reaches_the_optimum_of_breast_cancer(kernel: str) -> None:
    X, y = load_breast_cancer(return_X_y=True)
    examples = Examples((X - X.mean(axis=0)) / X.std(axis=0), y.astype(np.float64), None)
    plan = Plan(LogLoss(), RATES[kernel], ElasticNet(1 / examples.n), batch_size=32)

    def objective(w: Array) -> float:
        return cpu.gradient(examples, plan.loss, w, True)[0] / examples.n + plan.penalty.value(w)

    theirs = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(examples.X, y)
    state = State.start(plan, np.zeros((31, 1)))
    for _ in range(1000):
        cpu.epoch(examples, plan, state, plan.optimizer.rates(state.step, plan.steps(examples.n)))
    assert objective(state.w) <= 1.001 * objective(np.append(theirs.coef_, theirs.intercept_)[:, None])
