"""Rows stored in one or two bytes a number: the same models as of the float32 numbers that they stand for, without a copy."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

import gdfast as ours
from gdfast import SGD, Adam, Quantized, ops
from gdfast.backends import cpu, reference
from gdfast.layouts import QUANTIZED, Scaled, take_rows, to_dense
from gdfast.losses import LogLoss, Softmax
from gdfast.plan import Examples
from gdfast.scaling import column_moments
from gdfast.sources import as_table

Array = np.ndarray[Any, Any]


def type_of(stored: str) -> Any:
    return pytest.importorskip("ml_dtypes").bfloat16 if stored == "bfloat16" else np.dtype(stored)


def rows(stored: str, n: int = 400, d: int = 20, *, scaled: bool | None = None) -> Quantized:
    rng = np.random.default_rng(d)
    if stored in ("int8", "uint8"):
        low, high = (-128, 128) if stored == "int8" else (0, 256)
        data = rng.integers(low, high, (n, d)).astype(stored)
    else:
        data = rng.standard_normal((n, d)).astype(type_of(stored))
    if scaled is False or (scaled is None and stored not in ("int8", "uint8")):
        return Quantized(data)
    return Quantized(data, rng.uniform(0.005, 0.02, d), rng.standard_normal(d))


def labels(X: Quantized, k: int = 2) -> Array:
    rng = np.random.default_rng(1)
    z = to_dense(X).astype(float) @ rng.standard_normal(X.d) + rng.standard_normal(X.n)
    return np.digitize(z, np.quantile(z, np.arange(1, k) / k))


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_every_bit_pattern(isa: str, stored: str) -> None:
    """Margins of one column at weight 1 are the numbers themselves, subnormal, infinite and NaN ones too."""
    data = np.arange(2**16, dtype=np.uint16).reshape(-1, 1)
    for d in (1, 8, 37):  # by one number, and by whole registers
        X = Quantized(np.repeat(data, d, axis=1).view(type_of(stored)))
        w = np.zeros((d + 1, 1), np.float32)
        w[0] = 1
        with np.errstate(invalid="ignore"):
            expected = X.data[:, 0].astype(np.float32)
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(cpu.margins(X, w)[finite, 0], expected[finite])
        assert not np.isfinite(cpu.margins(X, w)[~finite]).any()


@pytest.mark.parametrize("stored", QUANTIZED)
@pytest.mark.parametrize("d", [1, 3, 8, 28, 100, 700])
@pytest.mark.parametrize("k", [1, 3])
def test_gradient_margins_and_moments(isa: str, stored: str, d: int, k: int) -> None:
    X = rows(stored, 333, d)
    dense = to_dense(X)
    rng = np.random.default_rng(0)
    w = (rng.standard_normal((d + 1, k)) / np.sqrt(d)).astype(np.float32)
    y, weight = labels(X, k + 1).clip(0, max(k - 1, 1)).astype(np.float32), rng.uniform(0.5, 2, X.n).astype(np.float32)
    loss = LogLoss() if k == 1 else Softmax()
    value, g = cpu.gradient(Examples(X, y, weight, k), loss, w, True, 2)
    double = Examples(dense.astype(float), y.astype(float), weight.astype(float), k)
    expected, slope = reference.gradient(double, loss, w.astype(float), True)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(g, slope, rtol=0, atol=1e-5 * np.abs(slope).max())
    for got, wanted in zip(column_moments(X, weight, 2), column_moments(dense, weight, 1), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())
    some = slice(5, 90, 3)
    np.testing.assert_array_equal(to_dense(take_rows(X, np.arange(333)[some])), dense[some])
    scaled = Scaled(X, np.full(d, 0.5, np.float32), np.full(d, 2, np.float32))
    np.testing.assert_allclose(cpu.margins(scaled, w), cpu.margins(to_dense(scaled), w), rtol=0, atol=1e-5)


MODELS: list[Any] = [
    ours.LogisticRegression(tol=1e-9, max_iter=2000),
    ours.LogisticRegression(C=0.1, l1_ratio=1.0, solver="saga", tol=1e-4, max_iter=5000),
    ours.Ridge(0.5),
    ours.SGDClassifier("log_loss", optimizer=Adam(0.01), batch_size=32, max_iter=3, tol=None, random_state=0),
    ours.SGDClassifier("log_loss", optimizer=SGD(0.01), standardize=True, max_iter=2, tol=None, random_state=0),
    ours.SGDClassifier(
        "log_loss", early_stopping=True, optimizer=Adam(0.01), batch_size=16, max_iter=5, random_state=0
    ),
]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("stored", QUANTIZED)
@pytest.mark.parametrize("model", MODELS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("k", [2, 4])
def test_every_way_to_fit(stored: str, model: Any, k: int) -> None:
    X = rows(stored)
    y = labels(X, k)
    a = type(model)(**model.get_params()).fit(X, y)
    b = type(model)(**model.get_params()).fit(to_dense(X), y)
    assert a.coef_.dtype == np.float32
    # accelerated gradients on the one side, proximal Newton on the other stop at different places within their tolerance
    near = 1e-2 if getattr(model, "l1_ratio", 0) == 1 and isinstance(model, ours.LogisticRegression) else 2e-4
    np.testing.assert_allclose(a.coef_, b.coef_, rtol=0, atol=near * np.abs(b.coef_).max())
    assert a.fit_report_["copies"] == ()
    np.testing.assert_allclose(a.score(X, y), b.score(to_dense(X), y), atol=0.01)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_bits_for_any_number_of_threads(threads: int) -> None:
    X = rows("int8", 5000, 30)
    y = labels(X).astype(np.float32)
    w = np.full((31, 1), 0.01, np.float32)
    one = cpu.gradient(Examples(X, y, None), LogLoss(), w, True, 1)
    many = cpu.gradient(Examples(X, y, None), LogLoss(), w, True, threads)
    assert one[0] == many[0]
    np.testing.assert_array_equal(one[1], many[1])


def test_halves_are_used_in_place() -> None:
    X = np.random.default_rng(0).standard_normal((20_000, 50)).astype(np.float16)
    y = (X[:, 0] > 0).astype(int)
    model = ours.SGDClassifier("log_loss", optimizer="adam", batch_size=256, max_iter=1, tol=None)
    model.fit(X[:100], y[:100])
    tracemalloc.start()
    try:
        model.fit(X, y)
        assert tracemalloc.get_traced_memory()[1] < X.nbytes / 2
    finally:
        tracemalloc.stop()
    assert model.fit_report_["copies"] == ()
    table = as_table(X)
    assert isinstance(table.X, Quantized)
    assert np.shares_memory(table.X.data, X)
    assert as_table(X, dtype=np.float64).dtype == np.float64
    g, w = np.zeros(51, np.float32), np.zeros(51, np.float32)
    loss = ops.loss_and_gradient(X, y.astype(np.float32), w, loss="log_loss", out=g)
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"data is int32 of shape \(2, 2\), expected an \(n, d\) array of float16"):
        Quantized(np.ones((2, 2), np.int32))
    with pytest.raises(ValueError, match=r"data is list, expected"):
        Quantized([[1.0]])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"ascontiguousarray"):
        Quantized(np.ones((3, 4), np.int8, order="F"))
    with pytest.raises(ValueError, match=r"scale has shape \(3,\), expected one finite number, or 4 of them"):
        Quantized(np.ones((3, 4), np.int8), np.ones(3))
    with pytest.raises(ValueError, match="offset is not finite"):
        Quantized(np.ones((3, 4), np.int8), 1.0, np.nan)
    X = np.ones((5000, 4), np.float16)
    X[4500, 2] = np.nan
    with pytest.raises(ValueError, match=r"Input X contains NaN \(row 4500, column 2 is the first\)"):
        ours.LogisticRegression().fit(X, np.arange(5000) % 2)
    with pytest.raises(ValueError, match=r"infinity"):
        ours.SGDClassifier().fit(np.where(np.isnan(X), np.float16(np.inf), X), np.arange(5000) % 2)
