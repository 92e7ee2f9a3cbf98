"""The building blocks: values against NumPy, in place without copies, and a clear refusal of everything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gdfast import losses, ops
from gdfast.clipping import ClipNorm, ClipValue, NormalizeGradient
from gdfast.optimizers import SGD, Adam
from gdfast.penalties import Bounds, ElasticNet

Array = np.ndarray[Any, Any]


def problem(dtype: Any = np.float64, k: int | None = None) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    X = rng.standard_normal((30, 4)).astype(dtype)
    w = rng.standard_normal((5,) if k is None else (5, k)).astype(dtype)
    y = rng.standard_normal((30,) if k is None else (30, k)).astype(dtype)
    return {"X": X, "y": y, "w": w, "sample_weight": rng.uniform(0, 2, 30).astype(dtype)}


def expected(X: Array, y: Array, w: Array, sample_weight: Array | None = None) -> tuple[float, Array]:
    """Squared error and its gradient, in float64."""
    X, y, w = (a.astype(np.float64) for a in (X, y, w))
    s = np.ones(len(X)) if sample_weight is None else sample_weight.astype(np.float64)
    A = np.column_stack([X, np.ones(len(X))])
    r = (A @ w - y).reshape(len(X), -1) * s[:, None]
    f = 0.5 * float((r * (A @ w - y).reshape(len(X), -1)).sum()) / s.sum()
    return f, (A.T @ r / s.sum()).reshape(w.shape)


@pytest.mark.parametrize("k", [None, 1, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_and_gradient(dtype: Any, k: int | None, weighted: bool, layout: Callable[[Array], Any]) -> None:
    given = problem(dtype, k)
    if not weighted:
        del given["sample_weight"]
    f, g = expected(**given)
    X = layout(given["X"])
    given["X"] = np.column_stack(X) if isinstance(X, tuple) else X
    rtol = 1e-5 if dtype == np.float32 else 1e-12
    got_f, got_g = ops.loss_and_gradient(**given)
    assert got_f == pytest.approx(f, rel=rtol)
    assert got_g.dtype == dtype
    assert got_g.shape == g.shape
    np.testing.assert_allclose(got_g, g, rtol=rtol, atol=rtol)
    assert ops.loss(**given) == got_f
    z = ops.margins(given["X"], given["w"])
    assert z.dtype == dtype
    np.testing.assert_allclose(z, given["X"] @ given["w"][:-1] + given["w"][-1], rtol=rtol, atol=10 * rtol)
    assert z.shape == given["y"].shape


def test_out_is_filled_in_place(dtype: Any) -> None:
    given = problem(dtype)
    f, g = ops.loss_and_gradient(**given)
    out = np.full(5, np.nan, dtype)
    assert ops.loss_and_gradient(**given, out=out) == f
    assert np.array_equal(out, g)


def test_any_loss_by_name_or_value() -> None:
    given = problem()
    given["y"] = (given["y"] > 0).astype(float)
    assert ops.loss(**given, loss="log_loss") == ops.loss(**given, loss=losses.LogLoss())
    assert ops.loss(**given, loss=losses.Huber(0.1)) < ops.loss(**given, loss="huber")
    with pytest.raises(ValueError, match=r"loss='log-loss' is unknown; choose one of .*log_loss"):
        ops.loss(**given, loss="log-loss")


def test_threads_do_not_change_bits() -> None:
    rng = np.random.default_rng(0)
    X, y, w = rng.standard_normal((20_000, 20)), rng.standard_normal(20_000), rng.standard_normal(21)
    f, g = ops.loss_and_gradient(X, y, w)
    for threads in (2, 3):
        f_again, g_again = ops.loss_and_gradient(X, y, w, threads=threads)
        assert f_again == f
        assert np.array_equal(g_again, g)
        assert np.array_equal(ops.margins(X, w, threads=threads), ops.margins(X, w))


def test_norm_and_clipping(dtype: Any) -> None:
    g = np.array([[3.0, 0.0], [0.0, 4.0]], dtype)
    assert ops.norm(g) == 5.0
    assert ops.clip_by_norm_(g, 10.0) == 5.0
    assert g[1, 1] == 4.0
    assert ops.clip_by_norm_(g, 1.0) == 5.0
    np.testing.assert_allclose(g, [[0.6, 0.0], [0.0, 0.8]], rtol=1e-6)
    assert ops.clip_by_value_(g, 0.7) is None
    np.testing.assert_allclose(g, [[0.6, 0.0], [0.0, 0.7]], rtol=1e-6)
    assert ops.norm(np.asfortranarray(np.ones((3, 4), dtype))[::2]) == pytest.approx(np.sqrt(8))
    assert ops.normalize_(g, 2.0) == pytest.approx(np.sqrt(0.36 + 0.49))
    assert ops.norm(g) == pytest.approx(2.0)
    assert ops.normalize_(g) == pytest.approx(2.0)
    assert ops.norm(g) == pytest.approx(1.0)
    zeros = np.zeros(3, dtype)
    assert ops.normalize_(zeros) == 0.0
    assert not zeros.any()
    for clip in (ops.clip_by_norm_, ops.clip_by_value_, ops.normalize_):
        for limit in (0.0, -1.0, np.nan, np.inf):
            with pytest.raises(ValueError, match="must be a finite number > 0"):
                clip(g, limit)


@pytest.mark.parametrize("shape", [(6,), (3, 2), (2, 3, 1)])
def test_step_works_on_any_shape(dtype: Any, shape: tuple[int, ...]) -> None:
    w, g, slots = np.ones(shape, dtype), np.full(shape, 2.0, dtype), np.zeros((0, *shape), dtype)
    assert ops.step_(SGD(0.25), w, g, slots, 1) is None
    assert (w == 0.5).all()
    ops.step_(SGD(0.25), w, g, slots, 2, clipping=ClipNorm(np.sqrt(6)), penalty=ElasticNet(2.0), n_penalized=4)
    np.testing.assert_allclose(w.ravel(), [0.0] * 4 + [0.25] * 2, atol=1e-6)


def test_a_step_reports_the_norm_before_clipping(dtype: Any) -> None:
    g = np.array([3.0, 0.0, 4.0], dtype)
    for clipping, norm in ((None, None), (ClipValue(1.0), None), (ClipNorm(1.0), 5.0), (NormalizeGradient(), 5.0)):
        w = np.zeros(3, dtype)
        assert ops.step_(SGD(1.0), w, g, np.zeros((0, 3), dtype), 1, clipping=clipping) == norm
        if norm is not None:
            np.testing.assert_allclose(w, -g / 5, rtol=1e-6)


def test_prox_is_in_place_and_bounded(dtype: Any) -> None:
    w = np.array([[3.0, -0.2], [-3.0, 1.0], [0.3, 5.0]], dtype)
    expected = np.clip(np.sign(w) * np.maximum(np.abs(w) - 0.5, 0) / 1.5, -1, 2)
    ops.prox_(w, ElasticNet(2.0, 0.5), 0.5, bounds=Bounds(-1.0, 2.0))
    np.testing.assert_allclose(w, expected, rtol=1e-6)
    assert w[0, 1] == 0
    ops.prox_(w, ElasticNet(2.0, 1.0, factors=np.array([0.0, 1.0, 0.0])), 10.0)
    np.testing.assert_allclose(w, expected * [[1], [0], [1]], rtol=1e-6)
    for step in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="step must be a finite number > 0"):
            ops.prox_(w, ElasticNet(1.0), step)


def test_factors_and_bounds_of_another_length_are_refused() -> None:
    w, g, slots = np.ones(5), np.ones(5), np.zeros((0, 5))
    with pytest.raises(ValueError, match="factors holds 3 numbers, expected one for each feature of 5 parameters"):
        ops.step_(SGD(), w, g, slots, 1, penalty=ElasticNet(1.0, factors=np.ones(3)))
    with pytest.raises(ValueError, match="upper holds 5 numbers, expected one for each feature of 4 parameters"):
        ops.step_(SGD(), w, g, slots, 1, bounds=Bounds(upper=np.ones(5)), n_penalized=4)
    with pytest.raises(ValueError, match="n_penalized: expected 0 to 5, got 6"):
        ops.step_(SGD(), w, g, slots, 1, n_penalized=6)
    with pytest.raises(ValueError, match="threads: expected an integer >= 1, got 0"):
        ops.step_(SGD(), w, g, slots, 1, threads=0)
    assert (w == 1).all()


def test_a_loop_of_building_blocks_learns() -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 3))
    y = X @ [1.0, -2.0, 0.5] + 0.25
    w, g = np.zeros(4), np.empty(4)
    optimizer = Adam(0.1)
    slots = np.zeros((optimizer.n_slots, 4))
    for t in range(1, 400):
        ops.loss_and_gradient(X, y, w, out=g)
        ops.clip_by_norm_(g, 1.0)
        ops.step_(optimizer, w, g, slots, t)
    np.testing.assert_allclose(w, [1.0, -2.0, 0.5, 0.25], atol=1e-3)


# ------------------------------------------------------------------------------------------ in place, or not at all


def read_only(a: Array) -> Array:
    a = a.copy()
    a.flags.writeable = False
    return a


def misaligned(a: Array) -> Array:
    out = np.empty(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    out[...] = a
    return out


def masked(a: Array) -> Array:
    return np.ma.masked_array(a.copy(), mask=np.arange(a.size).reshape(a.shape) == 1)


NOT_IN_PLACE: dict[str, tuple[type[Exception], str, Callable[[Array], Any]]] = {
    "read-only": (ValueError, "read-only", read_only),
    "strided": (ValueError, "strided", lambda a: np.repeat(a, 2, axis=-1)[..., ::2]),
    "reversed": (ValueError, "strided", lambda a: a.copy()[..., ::-1]),
    "misaligned": (ValueError, "misaligned", misaligned),
    "byte-swapped": (TypeError, "native float", lambda a: a.astype(a.dtype.newbyteorder())),
    "integers": (TypeError, "float", lambda a: a.astype(np.int64)),
    "complex": (TypeError, "float", lambda a: a.astype(np.complex128)),
    "half": (TypeError, "float", lambda a: a.astype(np.float16)),
    "objects": (TypeError, "float", lambda a: a.astype(object)),
    "list": (TypeError, "NumPy array", lambda a: a.tolist()),
    "masked": (TypeError, "NumPy array", masked),
}
IN_PLACE: dict[str, Callable[[Any], object]] = {
    "clip_by_norm_(g)": lambda a: ops.clip_by_norm_(a, 1e-3),
    "normalize_(g)": ops.normalize_,
    "prox_(w)": lambda a: ops.prox_(a, ElasticNet(1.0), 0.1),
    "clip_by_value_(g)": lambda a: ops.clip_by_value_(a, 1e-3),
    "step_(w)": lambda a: ops.step_(SGD(momentum=0.5), a, np.ones(5), np.zeros((1, 5)), 1),
    "step_(slots)": lambda a: ops.step_(SGD(momentum=0.5), np.ones(5), np.ones(5), a, 1),
    "loss_and_gradient(out)": lambda a: ops.loss_and_gradient(**problem(), out=a),
}


@pytest.mark.parametrize("kind", NOT_IN_PLACE)
@pytest.mark.parametrize("call", IN_PLACE)
def test_what_would_have_to_be_copied_is_refused(call: str, kind: str) -> None:
    error, words, spoil = NOT_IN_PLACE[kind]
    a = spoil(np.arange(5.0))
    before = np.ma.getdata(a).copy()
    argument = call.split("(")[1].rstrip(")")
    with pytest.raises(error, match=f"^{argument}: .*{words}"):
        IN_PLACE[call](a)
    assert np.array_equal(np.ma.getdata(a), before)


@pytest.mark.parametrize("kind", ["strided", "misaligned", "byte-swapped", "integers", "list", "masked"])
def test_a_gradient_that_would_have_to_be_copied_is_refused(kind: str) -> None:
    w = np.ones(5)
    with pytest.raises((TypeError, ValueError), match=r"^g: "):
        ops.step_(SGD(momentum=0.5), w, NOT_IN_PLACE[kind][2](np.ones(5)), np.zeros((1, 5)), 1)
    assert (w == 1).all()


def test_float32_results_are_not_written_to_float64_or_the_other_way() -> None:
    for data, other in ((np.float32, np.float64), (np.float64, np.float32)):
        with pytest.raises(TypeError, match=f"^out: expected .*{np.dtype(data)}"):
            ops.loss_and_gradient(**problem(data), out=np.zeros(5, other))
        with pytest.raises(TypeError, match=f"^slots: expected .*{np.dtype(data)}"):
            ops.step_(SGD(momentum=0.5), np.ones(5, data), np.ones(5, data), np.zeros((1, 5), other), 1)
        with pytest.raises(ValueError, match=f"^g: expected .*{np.dtype(data)}"):
            ops.step_(SGD(momentum=0.5), np.ones(5, data), np.ones(5, other), np.zeros((1, 5), data), 1)


def test_other_sizes_and_shapes_are_refused() -> None:
    given = problem()
    for out in (np.zeros(4), np.zeros(6), np.zeros((5, 2))):
        with pytest.raises(ValueError, match=r"^out: expected shape"):
            ops.loss_and_gradient(**given, out=out)
    with pytest.raises(ValueError, match=r"^out: "):
        ops.loss_and_gradient(**problem(k=2), out=np.zeros((2, 5)))
    with pytest.raises(ValueError, match=r"^slots: expected shape"):
        ops.step_(Adam(), np.ones(5), np.ones(5), np.zeros((1, 5)), 1)
    with pytest.raises(ValueError, match=r"^g: expected .* shape"):
        ops.step_(SGD(momentum=0.5), np.ones(5), np.ones(4), np.zeros((1, 5)), 1)
    with pytest.raises(ValueError, match=r"^g: "):
        ops.step_(SGD(momentum=0.5), np.ones((2, 3)), np.ones((3, 2)), np.zeros((1, 2, 3)), 1)
    for t in (0, -1):
        with pytest.raises(ValueError, match=r"^t: steps count from 1"):
            ops.step_(SGD(momentum=0.5), np.ones(5), np.ones(5), np.zeros((1, 5)), t)


def test_outputs_must_not_overlap_inputs() -> None:
    for name in ("X", "y", "w", "sample_weight"):
        given = problem()
        before = given[name].copy()
        out = given[name].reshape(-1)[:5]
        with pytest.raises(ValueError, match=f"^out and {name} overlap in memory"):
            ops.loss_and_gradient(**given, out=out)
        assert np.array_equal(given[name], before)
    # neighbours in one block of memory do not overlap
    block = np.zeros(10)
    ops.loss_and_gradient(**problem() | {"w": block[:5]}, out=block[5:])
    assert block[5:].any()
    with pytest.raises(ValueError, match=r"^out and w overlap in memory"):
        ops.loss_and_gradient(**problem() | {"w": block[:5]}, out=block[4:9])


def test_the_arrays_of_a_step_must_not_overlap() -> None:
    block = np.ones(10)
    before = block.copy()
    for w, g, slots, names in (
        (block[:5], block[:5], np.zeros((1, 5)), "w and g"),
        (block[:5], np.ones(5), block[4:9].reshape(1, 5), "w and slots"),
        (np.ones(5), block[:5], block[:5].reshape(1, 5), "g and slots"),
    ):
        with pytest.raises(ValueError, match=f"^{names} overlap in memory"):
            ops.step_(SGD(momentum=0.5), w, g, slots, 1)
        assert np.array_equal(block, before)
    ops.step_(SGD(momentum=0.5), block[:5], np.ones(5), block[5:].reshape(1, 5), 1)


# ---------------------------------------------------------------------------------------------------- inputs as they are


@pytest.mark.parametrize("name", ["X", "y", "w", "sample_weight"])
@pytest.mark.parametrize("kind", ["read-only", "strided", "misaligned", "byte-swapped"])
def test_inputs_in_any_memory_give_the_bits_of_their_plain_copy(dtype: Any, name: str, kind: str) -> None:
    given = problem(dtype)
    f, g = ops.loss_and_gradient(**given)
    spoilt = NOT_IN_PLACE[kind][2](given[name])
    before = spoilt.copy()
    same_f, same_g = ops.loss_and_gradient(**given | {name: spoilt})
    assert same_f == f
    assert np.array_equal(same_g, g)
    assert np.array_equal(spoilt, before)


def test_inputs_are_never_written(dtype: Any) -> None:
    given = {name: read_only(a) for name, a in problem(dtype).items()}
    ops.loss_and_gradient(**given)
    ops.margins(given["X"], given["w"])
    ops.norm(given["w"])


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"w": np.ones(4)}, ValueError, r"^w: expected shape \(5,\) or \(5, k\) for 4 columns and the intercept, got \(4,\)"),
        ({"w": np.ones((1, 5))}, ValueError, r"^w: expected shape \(5,\)"),
        ({"w": np.ones((5, 1, 1))}, ValueError, r"^w: expected shape \(5,\)"),
        ({"w": np.full(5, np.nan)}, ValueError, "^Input w contains (NaN|infinity)"),
        ({"w": np.full(5, np.inf)}, ValueError, "^Input w contains (NaN|infinity)"),
        ({"w": np.ones(5, complex)}, (TypeError, ValueError), "^w|[Cc]omplex"),
        ({"w": masked(np.ones(5))}, (TypeError, ValueError), "^w.*masked"),
        ({"w": np.array(["1"] * 5)}, (TypeError, ValueError), "^w|string"),
        ({"w": np.zeros((5, 0))}, ValueError, "^w"),
        ({"y": np.ones(29)}, ValueError, "inconsistent numbers of samples: X has 30 rows, y has 29"),
        ({"y": np.ones((30, 2))}, ValueError, r"^y: expected shape \(30, 1\).*got \(30, 2\)"),
        ({"y": np.full(30, np.nan)}, ValueError, "^Input y contains NaN"),
        ({"y": np.ones(30, complex)}, ValueError, "y has dtype complex128"),
        ({"y": None}, ValueError, "y is None"),
        ({"X": np.ones(30)}, ValueError, r"X has shape \(30,\)"),
        ({"X": np.ones((30, 4), complex)}, ValueError, "X has dtype complex128"),
        ({"X": np.full((30, 4), np.inf)}, ValueError, "^Input X contains infinity"),
        ({"X": np.ones((0, 4))}, ValueError, r"0 sample\(s\).*X"),
        ({"X": masked(np.ones((30, 4)))}, ValueError, "X is a masked array"),
        ({"sample_weight": np.ones(3)}, ValueError, "X has 30 rows, sample_weight has 3"),
        ({"sample_weight": -np.ones(30)}, ValueError, "^sample_weight contains the negative weight"),
        ({"sample_weight": np.zeros(30)}, ValueError, "^sample_weight is zero for every row"),
        ({"sample_weight": np.full(30, np.nan)}, ValueError, "^Input sample_weight contains NaN"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_by_name(changes: dict[str, Any], error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        ops.loss_and_gradient(**problem() | changes)


@pytest.mark.parametrize(
    ("loss", "k", "y", "words"),
    [
        ("log_loss", None, 2.0, r"^y: log_loss expects targets in \[0, 1\], got 2 to 2"),
        ("hinge", None, -1.0, r"^y: hinge expects targets in \[0, 1\], got -1 to -1"),
        ("perceptron", None, 3.0, r"^y: perceptron expects targets in \[0, 1\]"),
        ("log_loss", 3, 3.0, "^y: log_loss with 3 outputs expects class codes 0 to 2"),
        ("softmax", 3, 3.0, "^y: softmax with 3 outputs expects class codes 0 to 2"),
        ("softmax", 3, -1.0, "^y: softmax with 3 outputs expects class codes 0 to 2"),
        ("softmax", 3, 0.5, "^y: softmax with 3 outputs expects class codes 0 to 2"),
        ("poisson", None, -1.0, "^y: poisson expects targets >= 0, got -1"),
        ("tweedie", None, -1.0, "^y: tweedie expects targets >= 0, got -1"),
        ("gamma", None, 0.0, "^y: gamma expects targets > 0, got 0"),
    ],
)
def test_targets_outside_the_range_of_the_loss_are_refused(loss: str, k: int | None, y: float, words: str) -> None:
    given = problem(k=k) | {"y": np.full(30, y)}
    with pytest.raises(ValueError, match=words):
        ops.loss_and_gradient(**given, loss=loss)


@pytest.mark.parametrize("loss", ["log_loss", "hinge", "softmax"])
def test_one_column_a_class_of_the_wrong_number_is_refused(loss: str) -> None:
    given = problem(k=3) | {"y": np.ones((30, 2))}
    with pytest.raises(ValueError, match=r"^y: "):
        ops.loss_and_gradient(**given, loss=loss)
    given = problem() | {"y": np.ones((30, 2))}
    with pytest.raises(ValueError, match=r"^y: "):
        ops.loss_and_gradient(**given, loss=loss)


def test_norm_refuses_other_types_by_name() -> None:
    with pytest.raises((TypeError, ValueError), match=r"^a: expected float32 or float64, got int64"):
        ops.norm(np.arange(3))
    with pytest.raises((TypeError, ValueError), match=r"^a: "):
        ops.norm(np.ones(3, complex))


class Shared:
    """An array of another library, which shares its memory by one of two protocols."""

    def __init__(self, a: Array, protocol: str) -> None:
        self.a, self.shape, self.ndim = a, a.shape, a.ndim
        if protocol == "dlpack":
            self.__class__ = type("WithDlpack", (Shared,), {"__dlpack__": _dlpack, "__dlpack_device__": _device})
        else:
            self.__array_interface__ = a.__array_interface__


def _dlpack(self: Any, **options: Any) -> Any:
    return self.a.__dlpack__(**options)


def _device(self: Any) -> Any:
    return self.a.__dlpack_device__()


@pytest.mark.parametrize("protocol", ["dlpack", "array interface"])
def test_arrays_of_other_libraries_are_used_in_place(dtype: Any, protocol: str) -> None:
    given = problem(dtype)
    shared = {name: Shared(a, protocol) for name, a in given.items()}
    f, g = ops.loss_and_gradient(**given)
    out = np.empty_like(g)
    assert ops.loss_and_gradient(**shared, out=Shared(out, protocol)) == f
    assert np.array_equal(out, g)
    assert ops.loss(**shared) == f
    assert np.array_equal(ops.margins(shared["X"], shared["w"]), ops.margins(given["X"], given["w"]))
    length = ops.norm(Shared(g, protocol))
    assert ops.clip_by_norm_(Shared(g, protocol), length / 2) == length
    assert ops.norm(g) == pytest.approx(length / 2, rel=1e-6)
    assert ops.normalize_(Shared(g, protocol), 10.0) == pytest.approx(length / 2, rel=1e-6)
    ops.clip_by_value_(Shared(g, protocol), 0.5)
    assert np.abs(g).max() == 0.5
    w, same = given["w"].copy(), given["w"].copy()
    slots, twin = Adam().initial_slots(w), Adam().initial_slots(w)
    ops.step_(Adam(), w, g, slots, 1)
    ops.step_(Adam(), Shared(same, protocol), Shared(g, protocol), Shared(twin, protocol), 1)
    ops.prox_(w, ElasticNet(0.5, 1.0), 0.1)
    ops.prox_(Shared(same, protocol), ElasticNet(0.5, 1.0), 0.1)
    assert np.array_equal(w, same)
    assert np.array_equal(slots, twin)


def test_tensors_of_torch_are_used_in_place() -> None:
    torch = pytest.importorskip("torch", reason="the extra torch is not installed")
    g = torch.tensor([3.0, 4.0])
    assert ops.clip_by_norm_(g, 1.0) == 5.0
    torch.testing.assert_close(g, torch.tensor([0.6, 0.8]))
    with pytest.raises(TypeError, match="detach"):
        ops.clip_by_norm_(torch.ones(2, requires_grad=True), 1.0)
