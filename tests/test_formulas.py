"""The specification itself: losses against finite differences and scikit-learn, penalties against optimality, clipping
against its definition; bad parameters of all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from typing import Any

import numpy as np
import pytest
from sklearn import metrics

from gdfast import FTRL, Adadelta, Adagrad, Adamax, AdamW, Lion, Nadam, RMSprop, losses, ops
from gdfast.clipping import ClipNorm, ClipValue, NormalizeGradient
from gdfast.losses import Loss
from gdfast.optimizers import SGD, Adam
from gdfast.penalties import Bounds, ElasticNet, of_each, soft_threshold

Array = np.ndarray[Any, Any]
# Parameters off their defaults: a symmetric one would hide an exchanged sign.
LOSSES = {name: kind(**{f.name: 0.7 * f.default for f in fields(kind)}) for name, kind in losses.ALL.items()}
MEANS: dict[str, Callable[[Array], Array]] = {
    "identity": lambda z: z,
    "logistic": losses.sigmoid,
    "softmax": lambda z: np.exp(z) / np.exp(z).sum(axis=1, keepdims=True),
    "exp": np.exp,
}


def targets(loss: Loss, n: int, k: int, rng: np.random.Generator) -> Array:
    """(n, k) targets that the loss takes; one-hot rows for softmax."""
    if loss.target == "class":
        return losses.one_column_per_class(rng.integers(0, k, n), k, float)
    draw: dict[str, Callable[[], Array]] = {
        "binary": lambda: rng.choice([0.0, 1.0, 0.3], (n, k)),
        "real": lambda: rng.standard_normal((n, k)),
        "positive": lambda: rng.gamma(2.0, 0.5, (n, k)) + 0.01,
        "nonnegative": lambda: rng.poisson(1.5, (n, k)).astype(float),
    }
    return draw[loss.target]()


def smooth_points(loss: Loss, rng: np.random.Generator) -> tuple[Array, Array]:
    """(z, y) of shape (300, 1), or rows of 4, where the gradient does not jump nearby."""
    k = 4 if loss.target == "class" else 1
    z, y = 2 * rng.standard_normal((400, k)), targets(loss, 400, k, rng)
    near = 1e-3
    jump = np.abs(loss.gradient(z + near, y) - loss.gradient(z - near, y)).max(axis=1)
    kept = jump < 0.2
    return z[kept], y[kept]


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_the_slope_of_the_value(name: str, rng: np.random.Generator) -> None:
    loss = LOSSES[name]
    z, y = smooth_points(loss, rng)
    assert len(z) > 300
    g, h = loss.gradient(z, y), 1e-6
    for o in range(z.shape[1]):
        e = np.zeros(z.shape[1])
        e[o] = h
        slope = (loss.value(z + e, y) - loss.value(z - e, y)).sum(axis=1) / (2 * h)
        np.testing.assert_allclose(g[:, o], slope, rtol=1e-6, atol=1e-8 * (1 + np.abs(loss.value(z, y)).max()))


@pytest.mark.parametrize("name", LOSSES)
def test_the_curvature_is_the_slope_of_the_gradient(name: str, rng: np.random.Generator) -> None:
    loss = LOSSES[name]
    z, y = smooth_points(loss, rng)
    curvature, h = loss.curvature(z, y), 1e-6
    assert curvature.shape == z.shape
    assert (curvature >= 0).all()
    for o in range(z.shape[1]):
        e = np.zeros(z.shape[1])
        e[o] = h
        slope = (loss.gradient(z + e, y) - loss.gradient(z - e, y))[:, o] / (2 * h)
        # a kink of the gradient within h of a point shows as a slope between the two curvatures
        away = np.abs(loss.curvature(z + 3 * e, y) - loss.curvature(z - 3 * e, y))[:, o] < 1e-3
        assert away.mean() > (0.99 if loss.twice_differentiable else 0.9)
        np.testing.assert_allclose(curvature[away, o], slope[away], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", LOSSES)
def test_the_bound_of_the_curvature_holds_and_is_reached(name: str, rng: np.random.Generator) -> None:
    loss = LOSSES[name]
    z, y = smooth_points(loss, rng)
    if loss.curvature_bound is None:
        worst = loss.curvature(np.full((1, 1), 8.0), np.ones((1, 1))) + loss.curvature(
            np.full((1, 1), -8.0), np.ones((1, 1))
        )
        assert worst.max() > 2 or not loss.curvature(z, y).any()
    elif loss.link == "softmax":  # of the Hessian of a row, not only of its diagonal
        p = loss.gradient(z, np.zeros_like(z))
        largest = [np.linalg.eigvalsh(np.diag(row) - np.outer(row, row)).max() for row in p]
        assert 0.4 < max(largest) <= loss.curvature_bound
    else:
        wide = loss.curvature(np.vstack([z, np.zeros_like(z)]), np.vstack([y, y]))
        assert wide.max() == pytest.approx(loss.curvature_bound)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_convex_in_the_margins(name: str, rng: np.random.Generator) -> None:
    loss = LOSSES[name]
    k = 4 if loss.target == "class" else 1
    y = targets(loss, 2000, k, rng)
    a, b = 4 * rng.standard_normal((2, 2000, k))
    t = rng.random((2000, 1))
    middle = loss.value(t * a + (1 - t) * b, y)
    chord = t * loss.value(a, y) + (1 - t) * loss.value(b, y)
    assert (middle <= chord + 1e-12 * (1 + np.abs(chord))).all()
    # and the gradient supports the value from below
    below = loss.value(a, y) + (loss.gradient(a, y) * (b - a)).sum(axis=1, keepdims=True)
    assert (loss.value(b, y) >= below - 1e-12 * (1 + np.abs(below))).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("margin", [1e4, -1e4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_losses_are_finite_at_any_margin_where_the_truth_is(name: str, margin: float, dtype: Any) -> None:
    loss = LOSSES[name]
    k = 3 if loss.target == "class" else 1
    for target in (1.0, 2.0) if loss.target == "positive" else (0.0, 1.0):
        y = np.full((1, k), target, dtype)
        if loss.target == "class":
            y = losses.one_column_per_class(np.array([int(target)]), k, dtype)
        z = np.zeros((1, k), dtype)
        z[0, 0] = margin
        wide, exact = z.astype(np.longdouble), y.astype(np.longdouble)  # 80 bits hold exp(1e4)
        for formula in ("value", "gradient", "curvature"):
            true = getattr(loss, formula)(wide, exact)
            if np.abs(true).max() > np.finfo(dtype).max:
                continue
            with np.errstate(all="raise", under="ignore"):
                got = getattr(loss, formula)(z, y)
            assert got.dtype == dtype
            np.testing.assert_allclose(got, true.astype(dtype), rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_formulas_keep_the_type(name: str, rng: np.random.Generator) -> None:
    loss = LOSSES[name]
    z, y = (a.astype(np.float32) for a in smooth_points(loss, rng))
    assert loss.value(z, y).dtype == loss.gradient(z, y).dtype == loss.curvature(z, y).dtype == np.float32


@pytest.mark.parametrize("name", LOSSES)
def test_what_a_loss_says_about_itself(name: str, rng: np.random.Generator) -> None:
    loss = LOSSES[name]
    assert loss.name == name
    assert losses.named(name) == losses.ALL[name]()
    assert losses.named(loss) is loss
    assert loss.target in ("real", "positive", "nonnegative", "binary", "class")
    assert loss.link in MEANS
    assert (loss.__doc__ or "").strip()
    assert loss.parameters() == tuple(getattr(loss, f.name) for f in fields(loss))
    assert hash(loss) == hash(type(loss)(*loss.parameters()))
    with pytest.raises(FrozenInstanceError):
        loss.name = "other"  # type: ignore[misc]
    if not loss.twice_differentiable:
        return
    # where the loss is smooth, its gradient vanishes exactly where the link gives y
    k = 4 if loss.target == "class" else 1
    z = rng.standard_normal((50, k))
    np.testing.assert_allclose(loss.gradient(z, MEANS[loss.link](z)), 0, atol=1e-12)


def test_sigmoid() -> None:
    z = np.array([-1e4, -800.0, -1.0, 0.0, 1.0, 800.0, 1e4])
    with np.errstate(all="raise", under="ignore"):
        p = losses.sigmoid(z)
    assert p[[0, 3, 6]].tolist() == [0.0, 0.5, 1.0]
    np.testing.assert_allclose(p + losses.sigmoid(-z), 1, rtol=1e-15)


def mean(loss: Loss, z: Array, y: Array) -> float:
    return float(loss.value(z.reshape(len(z), -1), y.reshape(len(y), -1)).mean())


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_losses_equal_those_of_scikit_learn(p: float, rng: np.random.Generator) -> None:
    z, y = 2 * rng.standard_normal(200), rng.standard_normal(200)
    code = rng.integers(0, 2, 200).astype(float)
    assert mean(losses.SquaredError(), z, y) == pytest.approx(metrics.mean_squared_error(y, z) / 2)
    assert mean(losses.Pinball(p), z, y) == pytest.approx(metrics.mean_pinball_loss(y, z, alpha=p))
    assert mean(losses.EpsilonInsensitive(0.0), z, y) == pytest.approx(metrics.mean_absolute_error(y, z))
    assert mean(losses.SquaredEpsilonInsensitive(0.0), z, y) == pytest.approx(metrics.mean_squared_error(y, z))
    assert mean(losses.Hinge(), z, code) == pytest.approx(metrics.hinge_loss(code, z))
    assert mean(losses.LogLoss(), z, code) == pytest.approx(metrics.log_loss(code, losses.sigmoid(z)))
    rows, classes = rng.standard_normal((200, 4)), rng.integers(0, 4, 200)
    one_hot = losses.one_column_per_class(classes, 4, float)
    expected = metrics.log_loss(classes, MEANS["softmax"](rows), labels=range(4))
    assert float(losses.Softmax().value(rows, one_hot).mean()) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("loss", "power"),
    [(losses.Poisson(), 1), (losses.Gamma(), 2), (losses.Tweedie(1.5), 1.5), (losses.Tweedie(1.1), 1.1)],
    ids=["poisson", "gamma", "tweedie 1.5", "tweedie 1.1"],
)
def test_log_link_losses_are_half_the_deviance_up_to_a_constant(
    loss: Loss, power: float, rng: np.random.Generator
) -> None:
    y, (a, b) = rng.gamma(2.0, 1.0, 200) + 0.1, rng.standard_normal((2, 200))
    deviance = metrics.mean_tweedie_deviance(y, np.exp(a), power=power)
    deviance -= metrics.mean_tweedie_deviance(y, np.exp(b), power=power)
    assert mean(loss, a, y) - mean(loss, b, y) == pytest.approx(deviance / 2)


def test_losses_by_hand() -> None:
    def of(loss: Loss, z: float, y: float) -> tuple[float, float]:
        a, b = np.array([[z]]), np.array([[y]])
        return float(loss.value(a, b)[0, 0]), float(loss.gradient(a, b)[0, 0])

    assert of(losses.Huber(2.0), 5.0, 1.0) == (6.0, 2.0)
    assert of(losses.Huber(2.0), 0.5, 1.0) == (0.125, -0.5)
    assert of(losses.SquaredHinge(), 0.5, 0.0) == (2.25, 3.0)
    assert of(losses.ModifiedHuber(), 3.0, 0.0) == (12.0, 4.0)
    assert of(losses.ModifiedHuber(), 0.5, 1.0) == (0.25, -1.0)
    assert of(losses.Perceptron(), -2.0, 1.0) == (2.0, -1.0)
    assert of(losses.Perceptron(), 2.0, 1.0) == (0.0, 0.0)
    assert of(losses.EpsilonInsensitive(0.5), 3.0, 1.0) == (1.5, 1.0)
    assert of(losses.SquaredEpsilonInsensitive(0.5), -1.0, 1.0) == (2.25, -3.0)
    assert of(losses.Pinball(0.9), 0.0, 2.0) == (1.8, -0.9)
    assert of(losses.Tweedie(1.5), 0.0, 3.0) == (8.0, -2.0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: losses.Huber(0.0), ("huber", "epsilon", "> 0", "0.0")),
        (lambda: losses.Huber(-1.0), ("huber", "epsilon", "> 0", "-1.0")),
        (lambda: losses.Huber(math.nan), ("huber", "epsilon", "nan")),
        (lambda: losses.Huber(math.inf), ("huber", "epsilon", "inf")),
        (lambda: losses.EpsilonInsensitive(-0.1), ("epsilon_insensitive", "epsilon", ">= 0", "-0.1")),
        (lambda: losses.EpsilonInsensitive(math.nan), ("epsilon_insensitive", "epsilon", "nan")),
        (lambda: losses.EpsilonInsensitive(math.inf), ("epsilon_insensitive", "epsilon", "inf")),
        (lambda: losses.SquaredEpsilonInsensitive(-0.1), ("squared_epsilon_insensitive", "epsilon", "-0.1")),
        (lambda: losses.SquaredEpsilonInsensitive(math.inf), ("squared_epsilon_insensitive", "epsilon", "inf")),
        (lambda: losses.Pinball(0.0), ("pinball", "quantile", "(0, 1)")),
        (lambda: losses.Pinball(1.0), ("pinball", "quantile", "(0, 1)")),
        (lambda: losses.Pinball(math.nan), ("pinball", "quantile", "nan")),
        (lambda: losses.Tweedie(1.0), ("tweedie", "power", "poisson")),
        (lambda: losses.Tweedie(2.0), ("tweedie", "power", "gamma")),
        (lambda: losses.Tweedie(math.nan), ("tweedie", "power", "nan")),
        (lambda: losses.named("hinges"), ("loss", "'hinges'", "hinge", "log_loss")),
        (lambda: SGD(momentum=1.0), ("SGD", "momentum", "[0, 1)", "1.0")),
        (lambda: SGD(momentum=-0.1), ("SGD", "momentum", "-0.1")),
        (lambda: SGD(momentum=math.nan), ("SGD", "momentum", "nan")),
        (lambda: SGD(nesterov=True), ("SGD", "nesterov", "momentum")),
        (lambda: SGD(0.0), ("learning_rate", "> 0", "0.0")),
        (lambda: SGD(-0.1), ("learning_rate", "> 0", "-0.1")),
        (lambda: SGD(math.nan), ("learning_rate", "nan")),
        (lambda: Adam(math.inf), ("learning_rate", "inf")),
        (lambda: Adam(beta_1=1.0), ("Adam", "beta_1", "[0, 1)")),
        (lambda: Adam(beta_2=-0.1), ("Adam", "beta_2", "-0.1")),
        (lambda: Adam(epsilon=0.0), ("Adam", "epsilon", "> 0")),
        (lambda: Adam(epsilon=math.nan), ("Adam", "epsilon", "nan")),
        (lambda: Adam(weight_decay=-0.1), ("Adam", "weight_decay", ">= 0", "-0.1")),
        (lambda: AdamW(weight_decay=math.inf), ("AdamW", "weight_decay", "inf")),
        (lambda: SGD(momentum=0.9, dampening=1.0), ("SGD", "dampening", "[0, 1)", "1.0")),
        (lambda: SGD(dampening=0.5), ("SGD", "dampening", "0 without momentum")),
        (lambda: SGD(momentum=0.9, nesterov=True, dampening=0.5), ("SGD", "dampening", "nesterov")),
        (lambda: Adagrad(initial_accumulator=-1.0), ("Adagrad", "initial_accumulator", ">= 0", "-1.0")),
        (lambda: Adagrad(epsilon=0.0), ("Adagrad", "epsilon", "> 0")),
        (lambda: Adadelta(rho=1.0), ("Adadelta", "rho", "[0, 1)", "1.0")),
        (lambda: Adadelta(epsilon=-1.0), ("Adadelta", "epsilon", "-1.0")),
        (lambda: RMSprop(rho=-0.1), ("RMSprop", "rho", "-0.1")),
        (lambda: RMSprop(momentum=1.0), ("RMSprop", "momentum", "[0, 1)")),
        (lambda: RMSprop(epsilon=math.inf), ("RMSprop", "epsilon", "inf")),
        (lambda: Nadam(beta_2=1.0), ("Nadam", "beta_2", "[0, 1)")),
        (lambda: Nadam(momentum_decay=-1.0), ("Nadam", "momentum_decay", ">= 0")),
        (lambda: Nadam(epsilon=0.0), ("Nadam", "epsilon")),
        (lambda: Adamax(beta_1=1.5), ("Adamax", "beta_1", "1.5")),
        (lambda: Adamax(epsilon=0.0), ("Adamax", "epsilon")),
        (lambda: Lion(beta_1=1.0), ("Lion", "beta_1")),
        (lambda: Lion(beta_2=math.nan), ("Lion", "beta_2", "nan")),
        (lambda: FTRL(l1=-1.0), ("FTRL", "l1", ">= 0")),
        (lambda: FTRL(l2=math.nan), ("FTRL", "l2", "nan")),
        (lambda: FTRL(beta=0.0), ("FTRL", "beta", "initial_accumulator")),
        (lambda: NormalizeGradient(0.0), ("norm", "> 0", "0.0")),
        (lambda: NormalizeGradient(math.nan), ("norm", "nan")),
        (lambda: ElasticNet(1.0, factors=[1.0, -1.0]), ("factors", ">= 0", "-1")),
        (lambda: ElasticNet(1.0, factors=[math.nan]), ("factors", "nan")),
        (lambda: ElasticNet(1.0, factors=2.0), ("factors", "shape (d,)", "()")),
        (lambda: ElasticNet(1.0, factors=[[1.0]]), ("factors", "(1, 1)")),
        (lambda: Bounds(1.0, 0.0), ("lower", "exceed", "upper")),
        (lambda: Bounds(lower=[0.0, 2.0], upper=1.0), ("lower", "exceed")),
        (lambda: Bounds(math.nan), ("lower", "NaN")),
        (lambda: Bounds(upper=[1.0, math.nan]), ("upper", "NaN")),
        (lambda: Bounds([0.0, 0.0], [1.0, 1.0, 1.0]), ("(2,)", "(3,)")),
        (lambda: Bounds(math.inf), ("lower", "inf")),
        (lambda: ElasticNet(-1.0), ("alpha", ">= 0", "-1.0")),
        (lambda: ElasticNet(math.inf), ("alpha", "finite", "inf")),
        (lambda: ElasticNet(1.0, 1.1), ("l1_ratio", "[0, 1]", "1.1")),
        (lambda: ElasticNet(1.0, math.nan), ("l1_ratio", "nan")),
        (lambda: ClipNorm(0.0), ("max_norm", "> 0", "0.0")),
        (lambda: ClipNorm(math.inf), ("max_norm", "finite", "inf")),
        (lambda: ClipValue(-1.0), ("limit", "> 0", "-1.0")),
        (lambda: ClipValue(math.nan), ("limit", "nan")),
    ],
)
def test_bad_parameters_are_refused_by_name(make: Callable[[], object], words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError) as refusal:
        make()
    message = str(refusal.value)
    assert all(word in message for word in words), message


@pytest.mark.parametrize("rate", ["0.1", None, True, [0.1]])
def test_a_learning_rate_of_another_type_is_refused(rate: Any) -> None:
    with pytest.raises(TypeError, match=r"learning_rate must be a number > 0 or a schedule"):
        SGD(rate)


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.target not in ("class", "binary")])
def test_one_target_against_two_outputs_is_refused_and_not_broadcast(name: str, rng: np.random.Generator) -> None:
    X, w = rng.standard_normal((5, 3)), rng.standard_normal((4, 2))
    y = rng.gamma(2.0, 1.0, 5)
    with pytest.raises(ValueError, match=r"^y: expected shape \(5, 2\)"):
        ops.loss_and_gradient(X, y, w, loss=LOSSES[name])
    with pytest.raises(ValueError, match=r"^y: expected shape \(5, 2\)"):
        ops.loss_and_gradient(X, y[:, None], w, loss=LOSSES[name])
    f, g = ops.loss_and_gradient(X, np.column_stack([y, y]), w, loss=LOSSES[name])
    each = [ops.loss_and_gradient(X, y, w[:, o].copy(), loss=LOSSES[name]) for o in (0, 1)]
    assert f == pytest.approx(each[0][0] + each[1][0])
    np.testing.assert_allclose(g, np.column_stack([each[0][1], each[1][1]]))


# ------------------------------------------------------------------------------------------------ penalties, clipping


def test_the_penalty_leaves_the_intercept_out() -> None:
    w = np.array([[3.0, -1.0], [0.0, 2.0], [100.0, -100.0]])
    penalty = ElasticNet(0.5, 0.2)
    assert penalty.value(w) == pytest.approx(0.5 * (0.8 / 2 * (9 + 1 + 4) + 0.2 * (3 + 1 + 2)))
    assert (penalty.l1, penalty.l2) == (pytest.approx(0.1), pytest.approx(0.4))
    assert penalty.value(w.astype(np.float32)) == pytest.approx(penalty.value(w))
    assert ElasticNet().value(w) == 0


@pytest.mark.parametrize("threshold", [0.0, 0.3, 2.0])
def test_soft_threshold_is_the_proximal_operator(threshold: float, rng: np.random.Generator) -> None:
    v = np.concatenate([rng.standard_normal(200), [0.0, threshold, -threshold]])
    u = soft_threshold(v, threshold)
    # optimality of u in (u - v)^2 / 2 + threshold |u|: v - u is a subgradient
    moved = u != 0
    np.testing.assert_allclose((v - u)[moved], threshold * np.sign(u[moved]), rtol=1e-12)
    assert (np.abs(v[~moved]) <= threshold).all()
    objective = (u - v) ** 2 / 2 + threshold * np.abs(u)
    for other in (u + 1e-3, u - 1e-3, np.zeros_like(u), v):
        assert (objective <= (other - v) ** 2 / 2 + threshold * np.abs(other) + 1e-15).all()


def test_clip_norm_scales_the_whole_gradient() -> None:
    g = np.array([[3.0], [4.0]])
    np.testing.assert_allclose(ClipNorm(1.0)(g), [[0.6], [0.8]])
    assert ClipNorm(5.0)(g) is g
    np.testing.assert_array_equal(g, [[3.0], [4.0]])
    small = np.full(4, 1e-30, np.float32)  # its square is below float32
    assert ClipNorm(1e-30)(small)[0] == pytest.approx(5e-31)


def test_clip_value_cuts_each_number() -> None:
    g = np.array([-2.0, -0.5, 0.0, 0.5, 2.0, np.nan])
    np.testing.assert_array_equal(ClipValue(1.0)(g), [-1.0, -0.5, 0.0, 0.5, 1.0, np.nan])
    assert g[0] == -2.0


def test_normalised_gradients_have_the_norm_asked_for(rng: np.random.Generator) -> None:
    for size in (1e-3, 1.0, 1e3):
        g = size * rng.standard_normal((5, 2))
        out = NormalizeGradient(0.5)(g)
        assert np.linalg.norm(out) == pytest.approx(0.5)
        np.testing.assert_allclose(out / 0.5, g / np.linalg.norm(g))
    assert not NormalizeGradient()(np.zeros(3)).any()


def test_factors_weigh_both_parts_of_the_penalty() -> None:
    w = np.array([[3.0, -1.0], [0.0, 2.0], [100.0, -100.0]])
    penalty = ElasticNet(0.5, 0.2, factors=np.array([2.0, 0.5]))
    assert penalty.value(w) == pytest.approx(0.5 * (0.8 / 2 * (2 * 10 + 0.5 * 4) + 0.2 * (2 * 4 + 0.5 * 2)))
    assert ElasticNet(0.5, 0.2, factors=np.ones(2)).value(w) == pytest.approx(ElasticNet(0.5, 0.2).value(w))
    with pytest.raises(ValueError, match="factors holds 3 numbers, expected one for each feature of 4 parameters"):
        ElasticNet(0.5, factors=np.ones(3)).value(w)


@pytest.mark.parametrize("factors", [None, (0.0, 1.0, 2.5)])
def test_prox_is_the_proximal_operator(factors: Any, rng: np.random.Generator) -> None:
    penalty, v, step = ElasticNet(0.7, 0.4, factors), rng.standard_normal((3, 2)), 0.8
    u = penalty.prox(v, step)

    def objective(w: Array) -> float:
        return float(((w - v) ** 2).sum() / 2) + step * penalty.value(np.vstack([w, np.zeros((1, 2))]))

    for _ in range(200):
        assert objective(u) <= objective(u + rng.standard_normal((3, 2)) * 10.0 ** rng.integers(-6, 1)) + 1e-15


def test_bounds_project_and_cover_every_output() -> None:
    w = np.array([[-2.0, 2.0], [-0.5, 0.5], [3.0, -3.0]])
    np.testing.assert_array_equal(Bounds(lower=0.0).project(w), np.maximum(w, 0))
    both = Bounds([-1.0, 0.0, -np.inf], [1.0, np.inf, 2.0]).project(w)
    np.testing.assert_array_equal(both, [[-1.0, 1.0], [0.0, 0.5], [2.0, -3.0]])
    assert of_each("lower", np.array([1.0, 2.0]), 6).tolist() == [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]
    with pytest.raises(ValueError, match="lower holds 3 numbers"):
        Bounds(lower=[0.0, 0.0, 0.0]).project(np.zeros(4))
