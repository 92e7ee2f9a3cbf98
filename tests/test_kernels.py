"""The kernels against the specification in higher precision: float32 against float64, float64 against longdouble.

Tolerances. Elementary functions: a few units in the last place (eps * |true value|). Reductions: eps times
``4 + sqrt(n)`` times the sum of the absolute terms, plus what rounded margins can change: a margin is off by at most
``delta``, so a residual is off by what the loss' own gradient does between z - delta and z + delta. At a kink that is the
whole jump, and nothing has to be excused by hand.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pytest

from gdfast import _core, losses, runtime
from gdfast.backends import cpu, reference
from gdfast.losses import Loss
from gdfast.plan import Examples

Array = np.ndarray[Any, Any]
WIDER = {np.dtype(np.float32): np.dtype(np.float64), np.dtype(np.float64): np.dtype(np.longdouble)}
# Parameters off their defaults: a symmetric one would hide an exchanged sign.
LOSSES = {name: kind(**{f.name: 0.7 * f.default for f in fields(kind)}) for name, kind in losses.ALL.items()}
SMOOTH = [name for name, loss in LOSSES.items() if loss.twice_differentiable]

ROWS = (1, 2, 15, 16, 17, 255, 256, 257, 1000)
COLUMNS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 28, 31, 32, 33, 63, 64, 65, 100, 257, 1030)
OUTPUTS = (1, 2, 3, 5, 9, 17, 33)
LARGEST_HESSIAN = 10_000_000  # n d^2 of the oracle, which has no BLAS in longdouble


@dataclass(frozen=True)
class Case:
    loss: str
    layout: str
    dtype: str
    k: int
    n: int
    d: int
    weighted: bool
    intercept: bool

    def __str__(self) -> str:
        return (
            f"{self.loss}-{self.layout}-{self.dtype}-k{self.k}-{self.n}x{self.d}"
            f"{'-weighted' * self.weighted}{'' if self.intercept else '-through0'}"
        )


def cases() -> Iterator[tuple[str, Case]]:
    """For each loss twice as many cases as the longest axis has values: every value of every axis twice at least."""
    rng = np.random.default_rng(7)
    for name, loss in LOSSES.items():
        axes: tuple[tuple[Any, ...], ...] = (
            tuple(runtime.instruction_sets()),
            ("rows", "columns", "tuple", "strided", "reversed", "csr", "csr64"),
            ("float32", "float64"),
            tuple(k for k in OUTPUTS if k > 1 or loss.target != "class"),
            ROWS,
            COLUMNS,
            (False, True),
            (True, True, False),
        )
        length = 2 * max(map(len, axes))
        drawn = [rng.permutation(np.resize(np.arange(len(values)), length)) for values in axes]
        for picks in zip(*drawn, strict=True):
            isa, *rest = (values[i] for values, i in zip(axes, picks, strict=True))
            yield isa, Case(name, *rest)


def targets_of(loss: Loss, n: int, k: int, rng: np.random.Generator, dtype: Any) -> Array:
    codes = rng.integers(0, k, n)
    if loss.target == "class" or (loss.target == "binary" and k > 1):
        return codes.astype(dtype)
    shape = (n,) if k == 1 else (n, k)
    drawn = {
        "binary": lambda: rng.choice([0.0, 1.0, 0.25], shape, p=[0.45, 0.45, 0.1]),
        "real": lambda: rng.standard_normal(shape),
        "positive": lambda: rng.gamma(2.0, 0.5, shape) + 0.01,
        "nonnegative": lambda: rng.poisson(1.5, shape),
    }
    return np.asarray(drawn[loss.target](), dtype=dtype)


def problem(case: Case, layouts: dict[str, Callable[[Array], Any]]) -> tuple[Examples, Array, Examples, Array]:
    """(examples, w) as the kernels get them, and the same numbers, wider, in plain rows."""
    rng = np.random.default_rng([case.k, case.n, case.d])
    dtype = np.dtype(case.dtype)
    X = rng.standard_normal((case.n, case.d)).astype(dtype)
    if case.layout.startswith("csr"):
        X *= rng.random(X.shape) < rng.choice([0.02, 0.3, 1.0])
    w = (rng.standard_normal((case.d + 1, case.k)) / np.sqrt(case.d)).astype(dtype)
    y = targets_of(LOSSES[case.loss], case.n, case.k, rng, dtype)
    weight = None
    if case.weighted:
        weight = (rng.uniform(0, 3, case.n) * (rng.random(case.n) > 0.2)).astype(dtype)
    wide = WIDER[dtype]
    exact = Examples(X.astype(wide), y.astype(wide), None if weight is None else weight.astype(wide), case.k)
    return Examples(layouts[case.layout](X), y, weight, case.k), w, exact, w.astype(wide)


@dataclass(frozen=True)
class Oracle:
    """The result of the specification and how far rounding in numbers of ``eps`` can move it."""

    z: Array
    z_bound: Array
    value: float
    value_bound: float
    g: Array
    g_bound: Array
    h: Array
    h_error: Array
    reduction: float


def oracle(loss: Loss, examples: Examples, w: Array, eps: float, intercept: bool) -> Oracle:
    X, n, d = np.asarray(examples.X), examples.n, examples.d
    y = reference._targets(examples)
    s = np.ones((n, 1), X.dtype) if examples.weight is None else examples.weight[:, None]
    z = reference.margins(X, w)
    z_bound = eps * (2 + np.sqrt(d) / 2) * (np.abs(X) @ np.abs(w[:-1]) + np.abs(w[-1]))
    delta = z_bound + 2 * eps * (np.abs(z) + np.abs(y) + 1)
    r, zero = loss.gradient(z, y), np.zeros_like(y)
    if loss.link == "softmax":  # one margin moves all outputs of its row
        moved = 2 * delta.max(axis=1, keepdims=True) * loss.gradient(z, zero)
    else:
        moved = np.maximum(loss.gradient(z + delta, y) - r, r - loss.gradient(z - delta, y))
    r_error = moved + 2 * eps * (np.abs(r) + np.abs(loss.gradient(z, zero)) + np.abs(y) + 1)
    values = loss.value(z, y)
    terms = np.abs(values) + np.abs(loss.value(z, zero))
    size = np.abs(z) * (1 + np.abs(y)) + 1
    v_error = 2 * eps * (terms + (size if terms.shape == size.shape else size.max(axis=1, keepdims=True)))
    reduction = eps * (4 + np.sqrt(min(n, 1024)))
    A = np.hstack([np.abs(X), np.ones((n, 1), X.dtype)])
    value, g = reference.gradient(examples, loss, w, intercept)
    h = loss.curvature(z, y)[:, :1]
    h_moved = np.maximum(
        np.abs(loss.curvature(z + delta, y)[:, :1] - h), np.abs(loss.curvature(z - delta, y)[:, :1] - h)
    )
    return Oracle(
        z,
        z_bound,
        value,
        float((s * ((np.abs(r) + moved) * delta)).sum() + (s * v_error).sum() + reduction * (s * np.abs(values)).sum()),
        g,
        A.T @ (s * (r_error + reduction * np.abs(r))) + np.finfo(float).tiny,
        s * h,
        s * (h_moved + 3 * eps * h),
        reduction,
    )


def assert_within(got: Array, expected: Array, bound: Array) -> None:
    excess = np.abs(got - expected) - bound
    worst = np.unravel_index(np.argmax(excess), excess.shape)
    assert np.isfinite(got).all()
    assert excess[worst] <= 0, (
        f"at {worst}: {got[worst]!r} instead of {expected[worst]!r}, off by {float(np.abs(got - expected)[worst]):.3g}, "
        f"allowed {float(bound[worst]):.3g}"
    )


@pytest.mark.parametrize(("isa", "case"), list(cases()), indirect=["isa"], ids=str)
def test_margins_gradient_and_hessian_equal_the_specification(
    isa: str, case: Case, layouts: dict[str, Callable[[Array], Any]]
) -> None:
    loss = LOSSES[case.loss]
    examples, w, exact, exact_w = problem(case, layouts)
    eps = float(np.finfo(examples.dtype).eps)
    spec = oracle(loss, exact, exact_w, eps, case.intercept)

    assert_within(cpu.margins(examples.X, w), spec.z, spec.z_bound)
    value, g = cpu.gradient(examples, loss, w, case.intercept)
    assert abs(value - spec.value) <= spec.value_bound
    assert_within(g, spec.g, spec.g_bound)
    if not case.intercept:
        assert not g[-1].any()
    if case.k > 1 or case.n * case.d**2 > LARGEST_HESSIAN:
        return
    same_value, same_g, H = cpu.hessian(examples, loss, w, case.intercept)
    assert abs(same_value - spec.value) <= spec.value_bound
    assert_within(same_g, spec.g, spec.g_bound)
    A = np.hstack([exact.X, np.full((case.n, 1), float(case.intercept), exact.dtype)])
    bound = np.abs(A).T @ ((spec.h_error + spec.reduction * spec.h) * np.abs(A)) + np.finfo(float).tiny
    assert_within(H, A.T @ (spec.h * A), bound)
    assert np.array_equal(H, H.T)


def test_the_sample_of_cases_has_every_value_of_every_axis_for_every_loss() -> None:
    drawn = list(cases())
    for name, loss in LOSSES.items():
        mine = [(isa, case) for isa, case in drawn if case.loss == name]
        assert {isa for isa, _ in mine} == set(runtime.instruction_sets())
        assert {case.k for _, case in mine} == {k for k in OUTPUTS if k > 1 or loss.target != "class"}
        assert {case.n for _, case in mine} == set(ROWS)
        assert {case.d for _, case in mine} == set(COLUMNS)
        for axis, size in (("layout", 7), ("dtype", 2), ("weighted", 2), ("intercept", 2)):
            assert len({getattr(case, axis) for _, case in mine}) == size


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.target in ("binary", "class")])
def test_class_codes_are_one_column_a_class(isa: str, name: str, dtype: Any, rng: np.random.Generator) -> None:
    X = rng.standard_normal((60, 6)).astype(dtype)
    w = rng.standard_normal((7, 5)).astype(dtype)
    codes = rng.integers(0, 5, 60).astype(dtype)
    one_hot = losses.one_column_per_class(codes, 5, dtype)
    by_code = cpu.gradient(Examples(X, codes, None, 5), LOSSES[name], w, True)
    by_column = cpu.gradient(Examples(X, one_hot, None, 5), LOSSES[name], w, True)
    assert by_code[0] == by_column[0]
    assert np.array_equal(by_code[1], by_column[1])


# ---------------------------------------------------------------------------------------------- elementary functions
#
# X = 1 makes the margins of a tile equal to w, exactly, and its gradient equal to the residuals: a call measures as many
# numbers as a register holds and more. Rows that are all alike make the sum of the losses a multiple of one loss.


def residuals_of(loss: Loss, z: Array, y: float) -> Array:
    n, r = 64, np.empty(len(z))
    eye, g = np.eye(n, dtype=z.dtype), np.empty(n + 1)
    for start in range(0, len(z), n):
        w = np.append(np.resize(z[start:], n), z.dtype.type(0))
        _core.gradient(eye, np.full(n, y, z.dtype), None, w, g, None, loss.name, loss.parameters(), True, 1)
        r[start : start + n] = g[: len(z[start : start + n])]
    return r


def values_of(loss: Loss, z: Array, y: float, weight: Array | None = None) -> Array:
    n = 64 // z.itemsize if weight is None else len(weight)
    ones, target, g = np.ones((n, 1), z.dtype), np.full(n, y, z.dtype), np.empty(2)

    def mean(margin: Any) -> float:
        w = np.array([margin, 0], z.dtype)
        return _core.gradient(ones, target, weight, w, g, None, loss.name, loss.parameters(), True, 1) / n

    return np.array([mean(margin) for margin in z])


def assert_few_ulp(got: Array, true: Array, ulp: float, dtype: Any) -> None:
    """|got - true| <= ulp * eps * |true|, and at most 5 of the smallest normal number where exp is cut to 0."""
    info = np.finfo(dtype)
    expected = true.astype(dtype)
    error = np.abs(got - true)
    allowed = ulp * info.eps * np.abs(true) + 5 * info.smallest_normal
    worst = int(np.argmax(error / allowed))
    assert np.isfinite(got).all()
    assert error[worst] <= allowed[worst], f"{got[worst]!r} instead of {expected[worst]!r}"


def arguments(dtype: Any, rng: np.random.Generator) -> Array:
    """Numbers of every exponent that exp tells apart, both signs, and the ends of its range."""
    info = np.finfo(dtype)
    top, bottom = np.log(info.max), np.log(info.smallest_normal)
    ends = [0.0, -0.0, float(top), float(bottom), -float(top), 1e4, -1e4, float(info.max), -float(info.max)]
    near = np.concatenate(
        [np.nextafter(dtype.type(e), dtype.type(t)) for e in (top, bottom) for t in (-9e9, 9e9)], axis=None
    )
    spread = rng.choice([-1, 1], 600) * 2.0 ** rng.uniform(-40, np.log2(top), 600)
    return np.concatenate([ends, near, spread, rng.uniform(bottom, top, 600), rng.uniform(-2, 2, 400)]).astype(dtype)


def test_exp_is_within_2_units_in_the_last_place(isa: str, dtype: Any, rng: np.random.Generator) -> None:
    z = arguments(dtype, rng)
    true = np.exp(np.minimum(z.astype(np.longdouble), 1e4))
    finite = true <= np.finfo(dtype).max
    assert_few_ulp(residuals_of(LOSSES["poisson"], z[finite], 0.0), true[finite], 2, dtype)
    assert np.all(values_of(LOSSES["poisson"], z[~finite], 0.0) == np.inf)


def test_sigmoid_is_within_3_units_in_the_last_place(isa: str, dtype: Any, rng: np.random.Generator) -> None:
    z = arguments(dtype, rng)
    assert_few_ulp(residuals_of(LOSSES["log_loss"], z, 0.0), losses.sigmoid(z.astype(np.longdouble)), 3, dtype)


@pytest.mark.parametrize("weighted", [False, True])
def test_log_loss_keeps_its_relative_accuracy_down_to_the_smallest_losses(
    isa: str, dtype: Any, weighted: bool, rng: np.random.Generator
) -> None:
    # a row that is classified with a margin of 20 costs 2e-9, in float32 too, with weights and without
    z = -np.abs(arguments(dtype, rng))
    true = np.log1p(np.exp(z.astype(np.longdouble)))
    weight = np.ones(64 // z.itemsize, dtype) if weighted else None
    assert_few_ulp(values_of(LOSSES["log_loss"], z, 0.0, weight), true, 4, dtype)
    assert_few_ulp(values_of(LOSSES["log_loss"], -z, 1.0, weight), true, 4, dtype)


@pytest.mark.parametrize("k", [2, 3, 4, 5, 9, 17, 33])
def test_softmax_is_within_6_units_in_the_last_place(isa: str, dtype: Any, k: int, rng: np.random.Generator) -> None:
    # margins on a grid, so that their differences are exact
    grid, reach = (2.0**-8, 200) if dtype == np.float32 else (2.0**-20, 1500)
    g, X = np.empty((2, k)), np.zeros((1, 1), dtype)
    for scale in (0.1, 1, 10, 100, reach):
        for _ in range(20):
            z = np.round(rng.uniform(-scale, scale, (1, k)) / grid) * grid
            exact = z.astype(np.longdouble)
            w, code = np.vstack([np.zeros((1, k)), z]).astype(dtype), rng.integers(0, k)
            value = _core.gradient(X, np.array([code], dtype), None, w, g, None, "softmax", (), True, 1)
            y = losses.one_column_per_class(np.array([code]), k, np.longdouble)
            p = LOSSES["softmax"].gradient(exact, np.zeros_like(y))[0]
            others = np.arange(k) != code
            assert_few_ulp(g[-1][others], p[others], 6, dtype)
            eps = np.finfo(dtype).eps
            assert abs(g[-1][code] - (p[code] - 1)) <= 3 * eps
            log_sum = LOSSES["softmax"].value(exact, np.zeros_like(y))[0, 0]
            picked = (exact[0] - exact.max())[code]
            assert abs(value - (log_sum - picked)) <= 4 * eps * (1 + log_sum + abs(picked))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("margin", [1e4, -1e4])
def test_a_margin_of_any_size_gives_the_true_loss_or_infinity(isa: str, dtype: Any, name: str, margin: float) -> None:
    loss = LOSSES[name]
    k = 3 if loss.target == "class" else 1
    w = np.zeros((2, k))
    w[0, 0] = margin
    for target in (1.0, 2.0) if loss.target == "positive" else (0.0, 1.0):
        examples = Examples(np.ones((40, 1), dtype), np.full(40, target, dtype), None, k)
        value, g = cpu.gradient(examples, loss, w.astype(dtype), True)
        y = reference._targets(examples).astype(np.longdouble)[:1]
        z = np.longdouble(w[:1])  # 80 bits hold exp(1e4)
        for got, true in ((value, loss.value(z, y).sum()), (g, loss.gradient(z, y))):
            if np.abs(true * 40).max() <= np.finfo(dtype).max:
                np.testing.assert_allclose(got, np.broadcast_to(40 * true, np.shape(got)).astype(np.float64), rtol=1e-5)
            else:
                assert np.all(np.abs(got) == np.inf)


# ------------------------------------------------------------------------------------------------- what is not finite


@pytest.mark.parametrize("name", LOSSES)
def test_a_nan_in_x_is_never_lost(isa: str, dtype: Any, layout: Callable[[Array], Any], name: str) -> None:
    loss, rng = LOSSES[name], np.random.default_rng(3)
    for n, d, k in ((1, 1, 1), (17, 3, 1), (257, 33, 1), (300, 8, 3), (40, 70, 17)):
        k = max(k, 2) if loss.target == "class" else k  # noqa: PLW2901
        X = rng.standard_normal((n, d)).astype(dtype)
        w = rng.standard_normal((d + 1, k)).astype(dtype)
        y = targets_of(loss, n, k, rng, dtype)
        for i, j in {(0, 0), (n - 1, d - 1), (n // 2, d // 3)}:
            spoilt = X.copy()
            spoilt[i, j] = np.nan
            examples = Examples(layout(spoilt), y, None, k)
            value, _ = cpu.gradient(examples, loss, w, True)
            assert np.isnan(value), (n, d, k, i, j)
            if k == 1:
                assert np.isnan(cpu.hessian(examples, loss, w, True)[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("k", [1, 3])
def test_a_bad_number_spoils_the_margins_of_its_own_row_only(
    isa: str, dtype: Any, layout: Callable[[Array], Any], bad: float, k: int, rng: np.random.Generator
) -> None:
    for n, d in ((1, 1), (33, 2), (100, 16), (300, 19), (40, 130)):
        X, w = rng.standard_normal((n, d)).astype(dtype), rng.standard_normal((d + 1, k)).astype(dtype)
        clean = cpu.margins(layout(X), w)
        i, j = n // 2, d - 1
        X[i, j] = bad
        z = cpu.margins(layout(X), w)
        assert not np.isfinite(z[i]).any()
        assert np.array_equal(np.delete(z, i, axis=0), np.delete(clean, i, axis=0))


def first_bad(X: Any) -> int:
    """As sources.py asks: columns one by one, everything else at once. Row-major position, -1 where all is well."""
    if not isinstance(X, tuple):
        return _core.find_non_finite(X)
    found = [(_core.find_non_finite(x) * len(X) + j) for j, x in enumerate(X) if _core.find_non_finite(x) >= 0]
    return min(found, default=-1)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_find_non_finite_finds_the_first_one(
    isa: str, dtype: Any, layout: Callable[[Array], Any], bad: float, rng: np.random.Generator
) -> None:
    info = np.finfo(dtype)
    for n, d in ((1, 1), (2, 3), (5, 1), (1, 70), (13, 7), (4096, 2), (4097, 1), (70, 130)):
        X = rng.standard_normal((n, d)).astype(dtype)
        X.flat[: min(4, X.size)] = [info.max, -info.max, info.smallest_subnormal, -0.0][: min(4, X.size)]
        assert first_bad(layout(X)) == -1
        positions = {0, X.size - 1, *rng.integers(0, X.size, 3).tolist()} | ({4095, 4096} if X.size > 4096 else set())
        for at in positions:
            spoilt = X.copy()
            spoilt.flat[at] = bad
            assert first_bad(layout(spoilt)) == at
        one, other = sorted(rng.integers(0, X.size, 2).tolist())
        X.flat[[one, other]] = bad
        assert first_bad(layout(X)) == one


def test_find_non_finite_in_vectors_of_all_lengths(isa: str, dtype: Any) -> None:
    for n in itertools.chain(range(70), (4095, 4096, 4097, 10_000)):
        a = np.ones(n, dtype)
        assert _core.find_non_finite(a) == -1
        for at in {0, n // 2, n - 1} if n else ():
            a[at] = np.nan
            assert _core.find_non_finite(a) == at
            a[at] = 1


# ------------------------------------------------------------------------------------------------------ norms, Cholesky


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 1000, 100_001])
def test_norm_is_summed_in_float64(isa: str, dtype: Any, n: int, rng: np.random.Generator) -> None:
    a = rng.standard_normal(n).astype(dtype)
    norm = float(np.sqrt(np.square(a.astype(np.longdouble)).sum()))
    rounding = 4 * np.sqrt(n) * np.finfo(np.float64).eps
    assert _core.norm(a) == pytest.approx(norm, rel=rounding)
    before = a.copy()
    assert _core.scale_to_norm(a, 0.0, norm * 1.001) == _core.norm(before)
    assert np.array_equal(a, before)
    assert _core.scale_to_norm(a, 0.0, norm / 3) == _core.norm(before)
    np.testing.assert_allclose(a, before / 3.0, rtol=rounding + 2 * np.finfo(dtype).eps)


def spd(n: int, rng: np.random.Generator) -> Array:
    B = rng.standard_normal((n, n + 3))
    return B @ B.T / n + 0.1 * np.eye(n)


@pytest.mark.parametrize("n", [*range(1, 71), 200])
def test_cholesky_and_solve(isa: str, n: int) -> None:
    rng = np.random.default_rng(n)
    A = spd(n, rng)
    L = A.copy()
    assert _core.cholesky(L, 0.0) == -1
    assert np.array_equal(np.triu(L, 1), np.triu(A, 1))  # only the lower triangle is written
    L = np.tril(L)
    eps = np.finfo(np.float64).eps
    assert_within(L @ L.T, A, 4 * n * eps * (np.abs(L) @ np.abs(L).T))
    condition = np.linalg.cond(A)
    np.testing.assert_allclose(L, np.linalg.cholesky(A), atol=8 * eps * condition * np.abs(L).max(), rtol=0)
    b = rng.standard_normal(n)
    x = b.copy()
    _core.cholesky_solve(L, x)
    np.testing.assert_allclose(x, np.linalg.solve(A, b), atol=8 * eps * condition * np.abs(x).max(), rtol=0)


@pytest.mark.parametrize("k", [8, 16, 24, 40])
@pytest.mark.parametrize("n", [1, 3, 4, 5, 31, 70])
def test_cholesky_solves_many_columns(isa: str, n: int, k: int) -> None:
    rng = np.random.default_rng(n)
    A = spd(n, rng)
    L = np.tril(np.linalg.cholesky(A))
    B = rng.standard_normal((n, k))
    x = B.copy()
    _core.cholesky_solve(L, x)
    np.testing.assert_allclose(x, np.linalg.solve(A, B), atol=1e-12 * np.linalg.cond(A), rtol=0)
    with pytest.raises(ValueError, match="expected one column or a multiple of 8, got 3"):
        _core.cholesky_solve(L, np.ones((n, 3)))


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 16, 17, 40, 70])
def test_cholesky_stops_at_the_column_where_the_matrix_stops_being_definite(isa: str, n: int) -> None:
    rng = np.random.default_rng(n)
    L = np.linalg.cholesky(spd(n, rng))
    for column in {0, n // 2, n - 1}:
        pivots = np.ones(n)
        pivots[column] = -0.5
        assert _core.cholesky((L * pivots) @ L.T, 0.0) == column
        pivots[column] = 1e-9
        assert _core.cholesky((L * pivots) @ L.T, 1e-6) == column
        assert _core.cholesky((L * pivots) @ L.T, 0.0) == -1
    A = spd(n, rng)
    A[n - 1, 0] = np.nan
    assert _core.cholesky(A, 0.0) == n - 1
