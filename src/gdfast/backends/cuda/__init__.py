"""An NVIDIA GPU: the rows go up once, every pass reads them there. Numba is loaded when the first ``Cuda`` is made."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from gdfast.backends.cuda.shapes import Shape, shape_for
from gdfast.layouts import CsrRows, Scaled, take_rows, to_dense
from gdfast.losses import Loss
from gdfast.plan import Examples

Array = np.ndarray[Any, Any]
CHUNK = 64 * 2**20  # bytes that go up in one copy


@cache
def _gradient_kernel(shape: Shape, loss: str, weighted: bool) -> Any:
    from gdfast.backends.cuda.gradient import gradient_kernel

    return gradient_kernel(shape, loss, weighted=weighted)


@cache
def _sum_kernel() -> Any:
    from gdfast.backends.cuda.gradient import sum_kernel

    return sum_kernel()


@dataclass
class _Resident:
    """Rows on the device: X flat, its columns filled up with zeros to shape.d."""

    examples: Examples
    shape: Shape
    X: Any
    y: Any
    weight: Any


class Cuda:
    """The backend of one GPU. It keeps the rows of the last call there, and ``transfer_seconds``: how long copies to and
    from the device took so far."""

    def __init__(self, number: int = 0) -> None:
        from gdfast.backends.cuda import device

        self._device, self._cuda, self.number = device, device.cuda, number
        self._resident: _Resident | None = None
        self.transfer_seconds = 0.0

    def gradient(
        self, examples: Examples, loss: Loss, w: Array, fit_intercept: bool, threads: int = 1
    ) -> tuple[float, Array]:
        """(sum of the weighted losses, sum of the weighted gradients as float64 (d + 1, k)). Rows of float32 are summed in
        float32 within a block, blocks in float64."""
        if examples.k != 1:
            raise ValueError(f"device='cuda' takes models of one output, got {examples.k}; use device='cpu'")
        with self._cuda.gpus[self.number]:
            rows = self._hold(examples)
            shape, n = rows.shape, examples.n
            kernel = _gradient_kernel(shape, loss.name, rows.weight is not None)
            blocks, width = shape.blocks(n, self._device.multiprocessors()), shape.d + 2
            parts = self._cuda.device_array(blocks * width, examples.dtype)
            out = self._cuda.device_array(width, np.float64)
            p = examples.dtype.type(loss.parameters()[0] if loss.parameters() else 0)
            weight = rows.y if rows.weight is None else rows.weight
            kernel[blocks, shape.threads](rows.X, rows.y, weight, self._up(_filled_up(w, shape.d)), p, parts, 0, n)
            _sum_kernel()[-(-width // 64), 64](parts, blocks, width, out)
            sums = self._down(out)
        g = np.append(sums[: examples.d], sums[-2] if fit_intercept else 0.0)
        return float(sums[-1]), g[:, None]

    def _hold(self, examples: Examples) -> _Resident:
        if self._resident is None or self._resident.examples is not examples:
            self._resident = None  # its memory is free before the next rows need some
            self._resident = self._upload(examples)
        return self._resident

    def _upload(self, examples: Examples) -> _Resident:
        X = examples.X.X if isinstance(examples.X, Scaled) else examples.X
        if isinstance(X, CsrRows):
            raise ValueError("device='cuda' takes dense rows, got sparse ones; use device='cpu'")
        n, real = examples.n, str(examples.dtype)
        shape = shape_for(examples.d, real)
        needed, free = n * (shape.d + 2) * examples.dtype.itemsize, self._device.free_memory()
        if needed > free:
            raise MemoryError(
                f"device='cuda:{self.number}' has {free / 1e9:.1f} GB of free memory, {n} rows of {examples.d} columns need "
                f"{needed / 1e9:.1f}; use device='cpu', fewer rows or float32"
            )
        began = time.perf_counter()
        on_device = self._cuda.device_array(n * shape.d, examples.dtype)
        count = max(1, CHUNK // (shape.d * examples.dtype.itemsize))
        for first in range(0, n, count):
            part = to_dense(take_rows(examples.X, slice(first, first + count)))
            filled = np.zeros((len(part), shape.d), dtype=examples.dtype)
            filled[:, : examples.d] = part
            on_device[first * shape.d : first * shape.d + filled.size].copy_to_device(filled.ravel())
        self.transfer_seconds += time.perf_counter() - began
        weight = None if examples.weight is None else self._up(examples.weight)
        return _Resident(examples, shape, on_device, self._up(examples.y), weight)

    def _up(self, a: Array) -> Any:
        began = time.perf_counter()
        copied = self._cuda.to_device(np.ascontiguousarray(a))
        self.transfer_seconds += time.perf_counter() - began
        return copied

    def _down(self, a: Any) -> Array:
        self._cuda.synchronize()  # so that what follows is the copy alone
        began = time.perf_counter()
        copied = a.copy_to_host()
        self.transfer_seconds += time.perf_counter() - began
        return np.asarray(copied)


def _filled_up(w: Array, d: int) -> Array:
    """(d_given + 1, 1) -> (d + 1,), with zeros between the last weight and the intercept."""
    out = np.zeros(d + 1, dtype=w.dtype)
    out[: len(w) - 1], out[-1] = w[:-1, 0], w[-1, 0]
    return out
