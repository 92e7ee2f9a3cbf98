"""The gradient of a run of rows in one pass over X, and the sum over blocks behind it.

    z = x . w + b;  (value, slope) = loss(z, y);  parts[block] = [sum s slope x, sum s slope, sum s value]

``lanes`` threads share a row; a thread loads its share of several rows before it uses any, so that memory always has work;
the margin is summed over lanes by shuffles (and shared memory where a row has all threads of the block); gradients stay in
registers. No atomics: blocks and lanes are summed in a fixed order, so that equal runs give equal bits.
"""

from __future__ import annotations

from typing import Any

from gdfast.backends.cuda import losses
from gdfast.backends.cuda.device import FULL, REALS, WARP, cuda, float64, int64, jit, load
from gdfast.backends.cuda.shapes import Shape


def gradient_kernel(shape: Shape, loss: str, *, weighted: bool, ordered: bool = False) -> Any:
    """kernel(X, y, weight, w, p, parts, order, first, count) for rows first, ..., first + count - 1, of ``order`` if ordered.

    X: (n * d,) rows of shape.d numbers, aligned to 16 bytes; y: (n,); weight: (n,), not read unless weighted; w: (d + 1,),
    intercept last; p: parameter of the loss; parts: (blocks * (d + 2),), written whole; order: (n,) row numbers, not
    read unless ordered.
    """
    function, kind, load_vector = losses.of(shape.real)[loss], REALS[shape.real], load[shape.real]
    d, lanes, rows, threads = shape.d, shape.lanes, shape.rows, shape.threads
    per_load, loads = shape.per_load, shape.loads
    held = per_load * loads  # numbers of one row in one thread
    wide, whole = lanes > WARP, d == held * lanes
    groups, warps, stride = threads // lanes, threads // WARP, shape.rows_per_block
    log_lanes = min(lanes, WARP).bit_length() - 1
    tiles = rows * held
    slots = lanes * held  # of a row, in the order of threads
    shift = lanes.bit_length() - 1
    of_load = per_load.bit_length() - 1
    sums = 2 * rows * warps if wide else warps * slots  # in shared memory: of margins, or of gradients
    shared, sums_turn = sums + 2 * warps, rows * warps
    mask, last_load = lanes - 1, d // per_load - 1
    zero = kind(0.0)

    def gradient(X, y, weight, w, p, parts, order, first, count):
        memory = cuda.shared.array(shared, kind)
        v = cuda.local.array(held, kind)
        g = cuda.local.array(held, kind)
        x = cuda.local.array(tiles, kind)
        z = cuda.local.array(rows, kind)
        thread = cuda.threadIdx.x
        lane, group, warp = thread & mask, thread >> shift, thread >> 5
        for i in range(loads):
            place = lane + lanes * i
            for k in range(per_load):
                v[per_load * i + k] = w[per_load * place + k] if whole or place <= last_load else zero
                g[per_load * i + k] = zero
        b = w[d]
        slopes = zero
        values = zero
        last = count - 1
        turn = 0
        base = int64(cuda.blockIdx.x) * stride
        while base < count:  # the same number of times for all threads of a block: shuffles and barriers see all lanes
            row = base + group
            for u in range(rows):
                at = first + min(row + u * groups, last)
                start = (order[at] if ordered else at) * d
                for i in range(loads):
                    place = lane + lanes * i if whole else min(lane + lanes * i, last_load)
                    loaded = load_vector(X, start + per_load * place)
                    for k in range(per_load):
                        x[held * u + per_load * i + k] = loaded[k]
            for u in range(rows):
                s = zero
                for k in range(held):
                    s += x[held * u + k] * v[k]
                for k in range(log_lanes):
                    s += cuda.shfl_xor_sync(FULL, s, 1 << k)
                z[u] = s
            if wide:
                if thread & 31 == 0:
                    for u in range(rows):
                        memory[turn + u * warps + warp] = z[u]
                cuda.syncthreads()
                for u in range(rows):
                    s = zero
                    for k in range(warps):
                        s += memory[turn + u * warps + k]
                    z[u] = s
                turn = sums_turn - turn  # the other half: the next iteration writes while slow warps still read
            for u in range(rows):
                i = row + u * groups
                at = first + min(i, last)
                if ordered:
                    at = order[at]
                value, slope = function(z[u] + b, y[at], p)
                if weighted:
                    value *= weight[at]
                    slope *= weight[at]
                if i > last:
                    value = zero
                    slope = zero
                values += value
                slopes += slope
                for k in range(held):
                    g[k] += slope * x[held * u + k]
            base += int64(cuda.gridDim.x) * stride
        out = int64(cuda.blockIdx.x) * (d + 2)
        if wide:
            for i in range(loads):
                place = lane + lanes * i
                for k in range(per_load):
                    if whole or place <= last_load:
                        parts[out + per_load * place + k] = g[per_load * i + k]
        else:
            for k in range(held):
                s = g[k]
                for j in range(5 - log_lanes):
                    s += cuda.shfl_xor_sync(FULL, s, 16 >> j)
                if thread & 31 < lanes:
                    memory[warp * slots + k * lanes + lane] = s
            cuda.syncthreads()
            for j in range((slots + threads - 1) // threads):
                slot = thread + j * threads
                if slot < slots:
                    k = slot >> shift
                    column = per_load * ((slot & mask) + lanes * (k >> of_load)) + (k & (per_load - 1))
                    if whole or column < d:
                        s = zero
                        for i in range(warps):
                            s += memory[i * slots + slot]
                        parts[out + column] = s
        if lane > 0:  # all lanes of a row hold the same
            values = zero
            slopes = zero
        for j in range(5):
            slopes += cuda.shfl_xor_sync(FULL, slopes, 16 >> j)
            values += cuda.shfl_xor_sync(FULL, values, 16 >> j)
        if thread & 31 == 0:
            memory[sums + warp] = slopes
            memory[sums + warps + warp] = values
        cuda.syncthreads()
        if thread < 2:
            s = zero
            for i in range(warps):
                s += memory[sums + thread * warps + i]
            parts[out + d + thread] = s

    return jit(gradient, launch_bounds=(threads, shape.resident))


def sum_kernel() -> Any:
    """kernel(parts, blocks, width, out): out[c] = sum_b parts[b, c] in float64, blocks in their order. A thread a column."""

    def sum_parts(parts, blocks, width, out):
        c = int64(cuda.grid(1))
        if c < width:
            s = float64(0.0)
            for b in range(blocks):
                s += float64(parts[b * width + c])
            out[c] = s

    return jit(sum_parts)
