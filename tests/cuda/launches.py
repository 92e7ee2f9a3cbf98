"""What the tests of compiled kernels share: builds by shape and loss, and launches in the interpreter."""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

import machine_code
import numpy as np
import ptx
from numba import float32, float64, int64, types

from gdfast import losses
from gdfast.backends import reference
from gdfast.backends.cuda import gradient as kernels
from gdfast.backends.cuda.shapes import shape_for
from gdfast.losses import Loss
from gdfast.plan import Examples

Array = np.ndarray[Any, Any]
KIND = {"float32": float32, "float64": float64}
BLOCKS = 3


def build(
    d: int, real: str, loss: str, capability: tuple[int, int] = (9, 0), weighted: bool = False,
    module: ModuleType = kernels, ordered: bool = False,
) -> machine_code.Build:  # fmt: skip
    kind = KIND[real]
    a = kind[::1]
    signature = types.void(a, a, a, a, kind, a, int64[::1], int64, int64)
    return machine_code.build(
        module.gradient_kernel(shape_for(d, real), loss, weighted=weighted, ordered=ordered), signature, capability
    )


cached_build = cache(build)


@cache
def sum_build(real: str) -> machine_code.Build:
    return build_sum(real)


def build_sum(real: str, module: ModuleType = kernels) -> machine_code.Build:
    return machine_code.build(module.sum_kernel(), types.void(KIND[real][::1], int64, int64, float64[::1]))


def problem(n: int, d: int, real: str, loss: Loss, scale: float = 1.0) -> tuple[Array, Array, Array, Array]:
    """X, y, weight, w, d of them as wide as the kernel wants it."""
    random = np.random.default_rng(n + d)
    X = (random.standard_normal((n, d)) * scale / np.sqrt(d)).astype(real)
    z = X.sum(axis=1) / scale + random.standard_normal(n)
    y = {"binary": z > 0, "real": z, "positive": np.exp(z), "nonnegative": np.floor(np.exp(z))}[loss.target]
    weight = random.integers(0, 3, n)
    return X, y.astype(real), weight.astype(real), random.standard_normal(d + 1).astype(real)


def expected(X: Array, y: Array, weight: Array | None, w: Array, loss: Loss) -> tuple[Array, Array]:
    """([gradient, gradient of the intercept, sum of losses], the sum of the magnitudes behind each) in float64"""
    X, y, w = (a.astype(np.float64) for a in (X, y, w))
    s = np.ones(len(X)) if weight is None else weight.astype(np.float64)
    value, g = reference.gradient(Examples(X, y, s), loss, w[:, None], True)
    z = (X @ w[:-1] + w[-1])[:, None]
    r = s * np.abs(loss.gradient(z, y[:, None])[:, 0])
    values = (s * np.abs(loss.value(z, y[:, None])[:, 0])).sum()
    return np.append(g[:, 0], value), np.concatenate([np.abs(X).T @ r, [r.sum(), values]])


class Launch:
    """One launch of the gradient kernel in the interpreter, on memory full of NaN: what was found, and the sums."""

    def __init__(
        self, kernel: ptx.Kernel, X: Array, y: Array, weight: Array | None, w: Array, loss: Loss, seed: int = 1
    ) -> None:
        shape = shape_for(X.shape[1], str(X.dtype))
        parts = ptx.aligned(np.full(BLOCKS * (shape.d + 2), np.nan, dtype=X.dtype))
        targets = ptx.aligned(y)
        p = X.dtype.type(loss.parameters()[0] if loss.parameters() else 0)
        weights = targets if weight is None else ptx.aligned(weight)
        self.found = kernel.launch(
            BLOCKS,
            shape.threads,
            ptx.aligned(X),
            targets,
            weights,
            ptx.aligned(w),
            p,
            parts,
            ptx.aligned(np.zeros(1, np.int64)),
            0,
            len(X),
            seed=seed,
        )
        self.parts = parts
        self.sums = parts.reshape(BLOCKS, -1).sum(axis=0, dtype=np.float64)


LOG_LOSS = losses.LogLoss()
