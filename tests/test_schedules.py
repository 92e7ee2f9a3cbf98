"""Schedules: published values, scikit-learn's formulas, one function of the step alone, refusals by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gdfast import losses
from gdfast.optimizers import SGD
from gdfast.schedules import (
    ALL,
    Constant,
    CosineDecay,
    CosineRestarts,
    Cyclic,
    ExponentialDecay,
    InverseScaling,
    InverseTimeDecay,
    OneCycle,
    Optimal,
    PiecewiseConstant,
    PolynomialDecay,
    ReduceOnPlateau,
    StepDecay,
    Warmup,
    as_schedule,
)

EXAMPLES: list[Any] = [
    Constant(0.1),
    ExponentialDecay(0.1, 1000, 0.96),
    ExponentialDecay(0.1, 1000, 0.96, staircase=True),
    InverseScaling(0.01, 0.25),
    Optimal(1e-4),
    PiecewiseConstant((10, 20), (0.1, 0.01, 0.001)),
    StepDecay(0.1, 30),
    InverseTimeDecay(0.1, 100, 0.5),
    PolynomialDecay(0.1, 1000, 0.001, power=2.0),
    PolynomialDecay(0.1, 1000, 0.001, cycle=True),
    ReduceOnPlateau(0.1),
    ReduceOnPlateau(CosineDecay(0.1, 1000), min_learning_rate=0.01),
    CosineDecay(0.1, 1000, 0.01),
    CosineRestarts(0.1, 100),
    Cyclic(0.001, 0.1, 50, mode="triangular2"),
    OneCycle(0.1, 1000),
    Warmup(10, CosineDecay(0.1, 1000)),
]


def test_exponential_decay() -> None:
    smooth, stairs = ExponentialDecay(0.1, 1000, 0.96), ExponentialDecay(0.1, 1000, 0.96, staircase=True)
    steps = np.array([0, 1, 999, 1000, 1001, 1999, 2000, 10_000])
    assert smooth(np.array([1000]))[0] == pytest.approx(0.096, rel=1e-15)
    np.testing.assert_allclose(smooth(steps), [0.1 * 0.96 ** (s / 1000) for s in steps], rtol=1e-15)
    np.testing.assert_allclose(stairs(steps), [0.1 * 0.96 ** (s // 1000) for s in steps], rtol=1e-15)
    assert stairs(np.array([999]))[0] == 0.1
    assert smooth(np.array([999]))[0] < 0.1


def test_inverse_scaling_is_that_of_scikit_learn() -> None:
    # eta = eta0 / pow(t, power_t), t counted from 1
    steps = np.arange(100)
    np.testing.assert_allclose(InverseScaling(0.01, 0.25)(steps), [0.01 / t**0.25 for t in range(1, 101)], rtol=1e-14)
    assert InverseScaling(0.01)(np.array([3]))[0] == pytest.approx(0.005)
    assert (InverseScaling(0.5, 0.0)(steps) == 0.5).all()


@pytest.mark.parametrize("name", ["hinge", "log_loss", "perceptron", "squared_hinge", "modified_huber"])
@pytest.mark.parametrize("alpha", [1e-5, 1e-2, 1.0])
def test_optimal_is_that_of_scikit_learn(name: str, alpha: float) -> None:
    # eta = 1 / (alpha (t + t0)); t0 from typw = sqrt(1 / sqrt(alpha)), eta0 = typw / max(1, dloss(-typw, 1))
    loss = losses.named(name)
    typical = math.sqrt(1 / math.sqrt(alpha))
    slope = float(loss.gradient(np.array([[-typical]]), np.array([[1.0]]))[0, 0])
    initial = typical / max(1.0, abs(slope))
    optimal_init = 1 / (initial * alpha)
    rates = Optimal(alpha, slope)(np.arange(50))
    np.testing.assert_allclose(rates, [1 / (alpha * (optimal_init + t - 1)) for t in range(1, 51)], rtol=1e-12)
    assert rates[0] == pytest.approx(initial)


def test_constant() -> None:
    assert (Constant(0.3)(np.arange(5)) == 0.3).all()
    assert as_schedule(0.3) == Constant(0.3)
    assert as_schedule(np.float32(0.5)) == Constant(0.5)
    assert as_schedule(1) == Constant(1.0)


@pytest.mark.parametrize("schedule", EXAMPLES, ids=str)
def test_a_schedule_is_a_function_of_the_step_alone(schedule: Any) -> None:
    steps = np.arange(5000, dtype=np.float64)
    rates = schedule(steps)
    assert rates.dtype == np.float64
    assert rates.shape == steps.shape
    assert (rates >= 0).all()
    if isinstance(schedule, (Constant, ExponentialDecay, InverseScaling, InverseTimeDecay, Optimal, StepDecay)):
        assert (rates > 0).all()
        assert (np.diff(rates) <= 0).all()
    np.testing.assert_array_equal(schedule(steps[1234:1300]), rates[1234:1300])
    np.testing.assert_array_equal(schedule(np.arange(5000)), rates)
    assert as_schedule(schedule) is schedule
    np.testing.assert_array_equal(SGD(schedule).rates(1234, 66), rates[1234:1300])


def test_every_schedule_has_an_example() -> None:
    assert {type(schedule) for schedule in EXAMPLES} == set(ALL)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ExponentialDecay(0.0, 10, 0.9), ("ExponentialDecay", "initial_learning_rate", "> 0", "0.0")),
        (lambda: ExponentialDecay(0.1, 0, 0.9), ("ExponentialDecay", "decay_steps", "> 0", "0")),
        (lambda: ExponentialDecay(0.1, 10, -0.9), ("ExponentialDecay", "decay_rate", "-0.9")),
        (lambda: ExponentialDecay(0.1, 10, math.nan), ("ExponentialDecay", "decay_rate", "nan")),
        (lambda: InverseScaling(-1.0), ("InverseScaling", "eta0", "-1.0")),
        (lambda: InverseScaling(1.0, -0.5), ("InverseScaling", "power_t", ">= 0", "-0.5")),
        (lambda: InverseScaling(1.0, math.inf), ("InverseScaling", "power_t", "inf")),
        (lambda: Optimal(0.0), ("Optimal", "alpha", "> 0")),
        (lambda: Optimal(math.inf), ("Optimal", "alpha", "finite")),
        (lambda: Constant(0.0), ("learning_rate", "> 0")),
        (lambda: as_schedule(-1), ("learning_rate", "-1")),
    ],
)
def test_bad_parameters_are_refused_by_name(make: Callable[[], object], words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError) as refusal:
        make()
    message = str(refusal.value)
    assert all(word in message for word in words), message


@pytest.mark.parametrize("rate", ["fast", None, True, (0.1,), np.array([0.1])])
def test_what_is_no_rate_is_refused(rate: Any) -> None:
    with pytest.raises(TypeError, match=r"learning_rate must be a number > 0 or a schedule such as ExponentialDecay"):
        as_schedule(rate)


def test_published_points_of_the_others() -> None:
    def at(schedule: Any, *steps: float) -> Any:
        return schedule(np.array(steps, dtype=np.float64))

    np.testing.assert_allclose(
        at(PiecewiseConstant((10, 20), (1.0, 0.5, 0.1)), 0, 10, 11, 20, 21), [1, 1, 0.5, 0.5, 0.1]
    )
    np.testing.assert_allclose(at(StepDecay(0.1, 30, 0.1), 29, 30, 60), [0.1, 0.01, 0.001])
    np.testing.assert_allclose(at(InverseTimeDecay(0.1, 1, 0.5), 0, 2), [0.1, 0.05])
    np.testing.assert_allclose(at(PolynomialDecay(0.1, 100, 0.01, power=1), 0, 50, 100, 200), [0.1, 0.055, 0.01, 0.01])
    np.testing.assert_allclose(
        at(PolynomialDecay(0.1, 100, 0.0, cycle=True), 100, 150, 200), [0.0, 0.025, 0.0], atol=1e-12
    )
    np.testing.assert_allclose(at(CosineDecay(0.1, 100), 0, 50, 100, 150), [0.1, 0.05, 0.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(
        at(CosineRestarts(0.1, 100), 0, 50, 100, 200, 300), [0.1, 0.05, 0.1, 0.05, 0.1], atol=1e-9
    )
    np.testing.assert_allclose(at(Cyclic(0.1, 0.3, 10), 0, 5, 10, 20, 30), [0.1, 0.2, 0.3, 0.1, 0.3])
    np.testing.assert_allclose(at(Cyclic(0.1, 0.3, 10, mode="triangular2"), 10, 30), [0.3, 0.2])
    np.testing.assert_allclose(at(OneCycle(1.0, 100), 0, 29, 99, 200), [0.04, 1.0, 0.04e-4, 0.04e-4])
    np.testing.assert_allclose(at(Warmup(10, Constant(0.1)), 0, 4, 9, 10, 50), [0.01, 0.05, 0.1, 0.1, 0.1])
