"""Building blocks on arrays: in place where the name ends in ``_``, no copies, the GIL released.

Arrays are NumPy's, or any other library's that shares its memory by DLPack or the array interface (tensors of the CPU).
``w`` and ``g`` have d + 1 rows, the intercept last: shape (d + 1,) or (d + 1, k). In-place functions refuse an array
that they would have to copy (read-only, strided, another type or byte order), because the result would be lost in the copy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gdfast import _core, runtime
from gdfast.backends import cpu
from gdfast.clipping import ClipNorm, Clipping, ClipValue, NormalizeGradient
from gdfast.losses import Loss, named
from gdfast.optimizers import Optimizer
from gdfast.penalties import Bounds, ElasticNet
from gdfast.plan import Examples
from gdfast.sources import Table, as_table, as_target, as_weight

Array = np.ndarray[Any, Any]

__all__ = [
    "clip_by_norm_",
    "clip_by_value_",
    "hessian_product",
    "loss",
    "loss_and_gradient",
    "margins",
    "norm",
    "normalize_",
    "prox_",
    "step_",
]


def _shared(a: Any) -> Any:
    """An array of another library as NumPy's, on the same memory; what shares no memory stays what it is."""
    if isinstance(a, np.ndarray):
        return a
    if hasattr(a, "__dlpack__"):
        try:
            return np.from_dlpack(a)
        except (BufferError, RuntimeError, TypeError) as error:
            raise TypeError(f"{type(a).__name__} does not share its memory with NumPy: {error}") from error
    return np.asarray(a) if hasattr(a, "__array_interface__") else a


def _in_place(a: Any, name: str, dtype: Any = None, shape: tuple[int, ...] | None = None) -> Array:
    a = _shared(a)
    if not isinstance(a, np.ndarray) or isinstance(a, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: expected a NumPy array, or one that shares its memory, to change in place, got {type(a).__name__}"
        )
    if not a.dtype.isnative or (a.dtype.char not in "fd" if dtype is None else a.dtype != dtype):
        wanted = "float32 or float64" if dtype is None else str(dtype)
        raise TypeError(f"{name}: expected native {wanted} to change in place, got {a.dtype.str}")
    flags = a.flags
    if not flags.carray:
        if not flags.c_contiguous or not flags.aligned:
            raise ValueError(
                f"{name}: a strided or misaligned array cannot be changed in place; pass a C-contiguous one"
            )
        raise ValueError(f"{name}: the array is read-only; pass a writable one")
    if shape is not None and a.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {a.shape}")
    return a


def _apart(**arrays: Any) -> None:
    named_arrays = [(n, a) for n, a in arrays.items() if isinstance(a, np.ndarray)]
    for i, (first, a) in enumerate(named_arrays):
        for second, b in named_arrays[i + 1 :]:
            if np.may_share_memory(a, b) and np.shares_memory(a, b):
                raise ValueError(f"{first} and {second} overlap in memory; pass separate arrays")


def _weights(w: Array, d: int, dtype: Any) -> Array:
    shape = np.shape(w)
    if len(shape) not in (1, 2) or shape[0] != d + 1 or 0 in shape:
        raise ValueError(f"w: expected shape ({d + 1},) or ({d + 1}, k) for {d} columns and the intercept, got {shape}")
    return as_target(w, d + 1, dtype=dtype, name="w").reshape(d + 1, -1)


def _examples(X: Any, y: Any, w: Any, loss: Loss, sample_weight: Any) -> tuple[Examples, Array]:
    X, y, w, sample_weight = map(_shared, (X, y, w, sample_weight))
    table = as_table(X)
    weights = _weights(w, table.d, table.dtype)
    return examples_of(table, y, weights.shape[1], loss, sample_weight), weights


def examples_of(table: Table, y: Any, k: int, loss: Loss, sample_weight: Any) -> Examples:
    """Rows with the targets of a loss of k outputs. Raises ValueError for targets that the loss does not take."""
    target = as_target(y, table.n, dtype=table.dtype)
    if target.ndim == 2 and target.shape[1] == 1:
        target = target[:, 0]
    if loss.target == "class" or (loss.target == "binary" and k > 1 and target.ndim == 1):
        if target.ndim != 1 or not (np.all(target == np.floor(target)) and target.min() >= 0 and target.max() < k):
            raise ValueError(f"y: {loss.name} with {k} outputs expects class codes 0 to {k - 1}")
    elif loss.target == "binary":
        if target.min() < 0 or target.max() > 1:
            raise ValueError(f"y: {loss.name} expects targets in [0, 1], got {target.min():g} to {target.max():g}")
    else:
        check_target_range(target, loss)
        if (target.shape[1] if target.ndim == 2 else 1) != k:
            raise ValueError(f"y: expected shape ({table.n}, {k}) for {k} outputs, got {target.shape}")
    return Examples(table.X, target, as_weight(sample_weight, table.n, dtype=table.dtype), k)


def check_target_range(y: Array, loss: Loss) -> None:
    """Raises ValueError where y is outside the range of the loss (counts below 0 for poisson, ...)."""
    low = float(y.min())
    if (loss.target == "positive" and low <= 0) or (loss.target == "nonnegative" and low < 0):
        wanted = "> 0" if loss.target == "positive" else ">= 0"
        raise ValueError(f"y: {loss.name} expects targets {wanted}, got {low:g}; remove or shift those rows")


def margins(X: Any, w: Array, *, threads: int = 1) -> Array:
    """z = X w + b. X: (n, d); returns (n,) for w (d + 1,), else (n, k)."""
    X, w = _shared(X), _shared(w)
    table = as_table(X)
    z = cpu.margins(table.X, _weights(w, table.d, table.dtype), threads)
    return z[:, 0] if np.ndim(w) == 1 else z


def loss_and_gradient(
    X: Any,
    y: Any,
    w: Array,
    *,
    loss: str | Loss = "squared_error",
    sample_weight: Any = None,
    out: Array | None = None,
    threads: int = 1,
    device: str = "cpu",
) -> float | tuple[float, Array]:
    """f = sum_i s_i loss(x_i w + b, y_i) / sum_i s_i and g = d f / d w, reading X once.

    X: (n, d) float32 or float64, rows or columns, used in place; y: (n,) or (n, k), class codes for classification with
    k outputs; w: (d + 1,) or (d + 1, k). Returns (f, g), or f alone with g written to ``out`` (the dtype of X).
    device: see ``runtime.device``; a GPU takes dense rows and one output, and X goes up with every call.
    """
    chosen = named(loss)
    X, y, w, sample_weight = map(_shared, (X, y, w, sample_weight))
    if out is not None:
        out = _in_place(out, "out")
        _apart(out=out, X=X, y=y, w=w, sample_weight=sample_weight)
    examples, weights = _examples(X, y, w, chosen, sample_weight)
    if out is not None:
        _in_place(out, "out", examples.dtype, np.shape(w))
    value, g = runtime.backend(device).gradient(examples, chosen, weights, True, threads)
    total = examples.total_weight
    g = (g / total).astype(examples.dtype).reshape(np.shape(w))
    if out is None:
        return value / total, g
    out[...] = g
    return value / total


def loss(
    X: Any, y: Any, w: Array, *, loss: str | Loss = "squared_error", sample_weight: Any = None, threads: int = 1
) -> float:
    """f = sum_i s_i loss(x_i w + b, y_i) / sum_i s_i. Arguments as in ``loss_and_gradient``."""
    chosen = named(loss)
    examples, weights = _examples(X, y, w, chosen, sample_weight)
    return cpu.gradient(examples, chosen, weights, True, threads)[0] / examples.total_weight


def hessian_product(
    X: Any,
    y: Any,
    w: Array,
    p: Array,
    *,
    loss: str | Loss = "squared_error",
    sample_weight: Any = None,
    threads: int = 1,
) -> Array:
    """H p, with H the second derivative of f at w, f as in ``loss_and_gradient``; X is read once. p and the result (float64)
    are shaped as w. Where a loss has kinks, the curvature of its smooth pieces counts."""
    chosen = named(loss)
    examples, weights = _examples(X, y, w, chosen, sample_weight)
    if np.shape(p) != np.shape(w):
        raise ValueError(f"p: expected the shape of w, {np.shape(w)}, got {np.shape(p)}")
    direction = as_target(p, len(weights), dtype=examples.dtype, name="p").reshape(weights.shape)
    Hp = cpu.hessian_product(examples, chosen, weights, direction, True, threads)
    return (Hp / examples.total_weight).reshape(np.shape(w))


def norm(a: Array) -> float:
    """|a|: the Euclidean norm over all numbers of a float32 or float64 array, summed in float64."""
    a = np.asarray(_shared(a))
    if a.dtype.char in "fd" and a.dtype.isnative and a.flags.carray:
        return _core.norm(a)
    return _core.norm(np.require(a, a.dtype.newbyteorder("="), ["C", "ALIGNED"]).reshape(-1))


def clip_by_norm_(g: Array, max_norm: float) -> float:
    """g *= min(1, max_norm / |g|), in place. Returns |g| before clipping. Raises as all in-place functions do."""
    return _core.scale_to_norm(_in_place(g, "g"), *ClipNorm(max_norm).norm_range)


def normalize_(g: Array, norm: float = 1.0) -> float:
    """g *= norm / |g|, in place; zeros stay. Returns |g| before. Raises as all in-place functions do."""
    return _core.scale_to_norm(_in_place(g, "g"), *NormalizeGradient(norm).norm_range)


def clip_by_value_(g: Array, limit: float) -> None:
    """g = min(max(g, -limit), limit), in place."""
    bound = ClipValue(limit).limit
    g = _in_place(g, "g")
    np.minimum(np.maximum(g, -bound, out=g), bound, out=g)


def prox_(w: Array, penalty: ElasticNet, step: float, *, bounds: Bounds | None = None) -> None:
    """w = argmin_u |u - w|^2 / 2 + step penalty(u), within the bounds: soft(w, step l1) / (1 + step l2), in place.

    w: (d,) or (d, k), without the intercept (pass ``w[:-1]``); step: a number > 0, the rate of the gradient step before.
    """
    if not (np.isfinite(step) and step > 0):
        raise ValueError(f"step must be a finite number > 0, got {step!r}")
    w = _in_place(w, "w")
    moved = penalty.prox(w, step)
    w[...] = moved if bounds is None else bounds.project(moved)


def step_(
    optimizer: Optimizer,
    w: Array,
    g: Array,
    slots: Array,
    t: int,
    *,
    clipping: Clipping | None = None,
    penalty: ElasticNet | None = None,
    bounds: Bounds | None = None,
    n_penalized: int | None = None,
    threads: int = 1,
) -> float | None:
    """One fused step, in place: clip g -> + l2 w -> optimizer at the rate of step t (from 1) -> decoupled decay -> soft
    threshold -> bounds.

    w, g: any equal shapes; slots: ``optimizer.initial_slots(w)`` before the first step; ``n_penalized``: how many of the
    first numbers of w penalty, decay and bounds cover, all unless given. g itself is not changed. Returns |g| before
    clipping where clipping needs it, else None. The same bits for any number of threads.
    """
    w = _in_place(w, "w")
    slots = _in_place(slots, "slots", w.dtype, (optimizer.n_slots, *w.shape))
    g = _shared(g)
    plain = isinstance(g, np.ndarray) and not isinstance(g, np.ma.MaskedArray) and g.flags.c_contiguous
    if not plain or g.dtype != w.dtype or g.shape != w.shape:
        what = f"{type(g).__name__} of shape {np.shape(g)}"
        raise ValueError(f"g: expected a C-contiguous {w.dtype} array of shape {w.shape}, got {what}")
    if t < 1:
        raise ValueError(f"t: steps count from 1, got {t!r}")
    if threads < 1:
        raise ValueError(f"threads: expected an integer >= 1, got {threads!r}")
    _apart(w=w, g=g, slots=slots)
    covered = w.size if n_penalized is None else n_penalized
    if not 0 <= covered <= w.size:
        raise ValueError(f"n_penalized: expected 0 to {w.size}, got {covered!r}")
    coefficients = optimizer.coefficients_of(t - 1, 1)
    rule = cpu.rule_of(optimizer, coefficients, penalty or ElasticNet(), clipping, bounds, covered, w.dtype)
    lr = float(optimizer.rates(t - 1, 1)[0])
    norm = _core.update(w=w, g=g, slots=slots, rule=rule, lr=lr, n_penalized=covered, threads=threads)
    return None if clipping is None or isinstance(clipping, ClipValue) else norm
