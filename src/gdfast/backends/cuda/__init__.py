"""An NVIDIA GPU: the rows go up once, every pass reads them there. Numba is loaded when the first ``Cuda`` is made."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from gdfast.backends.cuda.shapes import THREADS, WARP, Shape, shape_for
from gdfast.layouts import CsrRows, Scaled, take_rows, to_dense
from gdfast.losses import Loss
from gdfast.order import keys_of
from gdfast.penalties import of_each
from gdfast.plan import WHOLE, EpochReport, Examples, Part, Plan, State

Array = np.ndarray[Any, Any]
CHUNK = 64 * 2**20  # bytes that go up in one copy


@cache
def _gradient_kernel(shape: Shape, loss: str, weighted: bool, ordered: bool = False) -> Any:
    from gdfast.backends.cuda.gradient import gradient_kernel

    return gradient_kernel(shape, loss, weighted=weighted, ordered=ordered)


@cache
def _sum_kernel() -> Any:
    from gdfast.backends.cuda.gradient import sum_kernel

    return sum_kernel()


@cache
def _update_kernel(real: str, rule: str, threads: int) -> Any:
    from gdfast.backends.cuda.update import update_kernel

    return update_kernel(real, rule, threads)


@cache
def _order_kernel() -> Any:
    from gdfast.backends.cuda.update import order_kernel

    return order_kernel()


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
        self._held: list[_Resident] = []
        self.transfer_seconds = 0.0

    def gradient(
        self, examples: Examples, loss: Loss, w: Array, fit_intercept: bool, threads: int = 1
    ) -> tuple[float, Array]:
        """(sum of the weighted losses, sum of the weighted gradients as float64 (d + 1, k)). Rows of float32 are summed in
        float32 within a block, blocks in float64."""
        _one_output(examples)
        with self._cuda.gpus[self.number]:
            rows = self._hold(examples)
            shape, n = rows.shape, examples.n
            kernel = _gradient_kernel(shape, loss.name, rows.weight is not None)
            blocks, width = shape.blocks(n, self._device.multiprocessors()), shape.d + 2
            parts = self._cuda.device_array(blocks * width, examples.dtype)
            out = self._cuda.device_array(width, np.float64)
            p = examples.dtype.type(loss.parameters()[0] if loss.parameters() else 0)
            weight = rows.y if rows.weight is None else rows.weight
            kernel[blocks, shape.threads](
                rows.X, rows.y, weight, self._up(_filled_up(w, shape.d)), p, parts, self._order_of_none(), 0, n
            )
            _sum_kernel()[-(-width // 64), 64](parts, blocks, width, out)
            sums = self._down(out)
        g = np.append(sums[: examples.d], sums[-2] if fit_intercept else 0.0)
        return float(sums[-1]), g[:, None]

    def epoch(
        self,
        examples: Examples,
        plan: Plan,
        state: State,
        rates: Array,
        threads: int = 1,
        seconds: float = math.inf,
        part: Part = WHOLE,
    ) -> EpochReport:
        """As the reference's, rows shuffled on the device; two launches a step, which do not wait for each other's end on
        the host. Steps are stopped by ``seconds`` at every 64th."""
        _one_output(examples)
        with self._cuda.gpus[self.number]:
            return self._epoch(examples, plan, state, rates, seconds, part)

    def _epoch(
        self, examples: Examples, plan: Plan, state: State, rates: Array, seconds: float, part: Part
    ) -> EpochReport:
        began, rows = time.perf_counter(), self._hold(examples)
        shape, n, real, steps = rows.shape, examples.n, examples.dtype, len(rates)
        d, given = shape.d, examples.d
        order = self._order(n, plan, state.epoch, part.block) if plan.shuffle else self._order_of_none()
        gradient = _gradient_kernel(shape, plan.loss.name, rows.weight is not None, plan.shuffle)
        block = min(THREADS, -(-(d + 1) // WARP) * WARP)
        update = _update_kernel(shape.real, plan.optimizer.kernel, block)
        up, weight = self._up, rows.y if rows.weight is None else rows.weight
        w, g = up(_filled_up(state.w, d)), self._cuda.device_array(d + 1, real)
        slots = up(
            np.concatenate([_filled_up(slot, d) for slot in state.slots]) if len(state.slots) else np.zeros(1, real)
        )
        average = up(_filled_up(state.weights, d))
        table = plan.optimizer.coefficients_of(state.step, steps)
        constants = up(np.array(plan.optimizer.parameters() or (0.0,), dtype=real))
        coefficients = up(np.append(table.ravel(), 0.0).astype(real))
        of_each = up(_of_each(plan, given, d, real))
        largest = shape.blocks(plan.rows_per_step, self._device.multiprocessors())
        parts = self._cuda.device_array(largest * (d + 2), real)
        records = np.zeros(2 * steps + 2)
        records[-1] = 1
        numbers, recorded = up(_numbers(plan, state, rates, n, part.first).ravel()), up(records)
        p = real.type(plan.loss.parameters()[0] if plan.loss.parameters() else 0)
        for b in range(steps):
            if b % 64 == 0 and seconds < math.inf:
                self._cuda.synchronize()
                if time.perf_counter() - began >= seconds:
                    break
            first = (part.first + b) * plan.rows_per_step
            count = min(plan.rows_per_step, n - first)
            blocks = shape.blocks(count, self._device.multiprocessors())
            gradient[blocks, shape.threads](rows.X, rows.y, weight, w, p, parts, order, first, count)
            at = min(b, len(table) - 1) * table.shape[1]
            update[1, block](
                parts, blocks, w, g, slots, average, constants, coefficients, at, of_each,
                numbers[9 * b : 9 * (b + 1)], recorded, steps, int(plan.fit_intercept), b,
            )  # fmt: skip
        records = self._down(recorded)
        norms, losses, made, finite = records[:steps], records[steps:-2], int(records[-2]), bool(records[-1])
        kept = [*range(given), d]
        state.w[:, 0] = self._down(w)[kept]
        if len(state.slots):
            state.slots[:, :, 0] = self._down(slots).reshape(len(state.slots), d + 1)[:, kept]
        if state.average is not None:
            state.average[:, 0] = self._down(average)[kept]
        state.step += made
        state.epoch += finite and part.last
        return EpochReport(float(losses.sum()), made, finite, norms, losses)

    def _order_of_none(self) -> Any:
        return self._cuda.device_array(1, np.int64)

    def _order(self, n: int, plan: Plan, epoch: int, of: int = 0) -> Any:
        keys = [int(key) for key in keys_of(plan.seed, epoch, of)]
        block = min(plan.block, n)
        blocks = n // block
        a = math.isqrt(blocks - 1) + 1
        cut = 0 if block == 1 else ((keys[0] << 31) ^ keys[1]) % n
        out = self._cuda.device_array(n, np.int64)
        _order_kernel()[-(-n // THREADS), THREADS](out, 0, n, blocks, block, cut, a, -(-blocks // a), *keys)
        return out

    def _hold(self, examples: Examples) -> _Resident:
        """The rows on the device; those of the call before stay, as training looks at a sample between epochs."""
        for resident in self._held:
            if resident.examples is examples:
                return resident
        del self._held[:-1]
        self._held.append(self._upload(examples))
        return self._held[-1]

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


def _one_output(examples: Examples) -> None:
    if examples.k != 1:
        raise ValueError(f"device='cuda' takes models of one output, got {examples.k}; use device='cpu'")


def _of_each(plan: Plan, given: int, d: int, real: Any) -> Array:
    """Factors of the penalty, lower and upper bounds of the weights, with harmless ones for columns that fill up."""
    lower, upper = plan.bounds.of_each(given) if plan.bounds else (-np.inf, np.inf)
    factors = 1.0 if plan.penalty.factors is None else of_each("factors", plan.penalty.factors, given)
    out = np.empty((3, d))
    out[:, given:] = np.array([0.0, -np.inf, np.inf])[:, None]
    out[0, :given], out[1, :given], out[2, :given] = factors, lower, upper
    return out.ravel().astype(real)


def _numbers(plan: Plan, state: State, rates: Array, n: int, first: int = 0) -> Array:
    """Of every step what the update kernel calls ``numbers``: (steps, 9)."""
    number = np.arange(len(rates))
    rows = np.minimum(plan.rows_per_step, n - (first + number) * plan.rows_per_step)
    t = state.step + 1 + number
    since = np.maximum(t - plan.average_from + 1, 1)
    mean = np.where(t >= plan.average_from, 1 / since, 0.0) if state.average is not None else np.zeros(len(rates))
    least, largest = plan.clipping.norm_range if plan.clipping else (0.0, np.inf)
    limit = plan.clipping.limit if plan.clipping else np.inf
    fixed = (plan.penalty.l1, plan.penalty.l2, plan.optimizer.weight_decay, least, largest, limit)
    return np.column_stack([1 / (rows * plan.mean_weight), rates, mean, np.tile(fixed, (len(rates), 1))])
