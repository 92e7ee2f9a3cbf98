"""What follows the gradient of a batch, in one launch of one block: sum over blocks -> mean -> clip -> + l2 w -> optimizer ->
decoupled decay -> soft threshold -> bounds -> running mean of the weights."""

from __future__ import annotations

import math
from typing import Any

from gdfast.backends.cuda import optimizers
from gdfast.backends.cuda.device import REALS, cuda, float64, inline, jit


def update_kernel(real: str, rule: str, threads: int) -> Any:
    """kernel(parts, blocks, w, g, slots, average, p, c, at, of_each, numbers, records, steps, intercept, b).

    parts: (blocks * (d + 2),) of the gradient kernel; w, g, average: (d + 1,); c: coefficients, those of this step from at;
    of_each: (3 * d,) factors of the penalty, lower and upper bounds; numbers: (9,) float64: share of a row, rate, share of
    the running mean (0 for none), l1, l2, decay, least and largest norm, largest component; records: (2 * steps + 2,)
    float64: norms, losses, then the steps made and whether all of them were finite (1); intercept: 0 for none; b: the
    number of the step, from 0.
    A step behind one that was not finite does nothing.
    """
    kind, step = REALS[real], optimizers.of(real)[rule]
    zero, one = kind(0.0), kind(1.0)

    def update(parts, blocks, w, g, slots, average, p, c, at, of_each, numbers, records, steps, intercept, b):
        squares = cuda.shared.array(threads, float64)
        thread = cuda.threadIdx.x
        size = w.size
        width = size + 1
        made, fine = 2 * steps, 2 * steps + 1
        if records[fine] == float64(0.0):
            return  # the same for all threads
        share = numbers[0]
        square = float64(0.0)
        for j in range(thread, size, threads):
            s = float64(0.0)
            for i in range(blocks):
                s += float64(parts[i * width + j])
            s *= share
            if j == size - 1 and intercept == 0:
                s = float64(0.0)
            g[j] = kind(s)
            square += s * s
        squares[thread] = square
        cuda.syncthreads()
        total = float64(0.0)
        for i in range(threads):
            total += squares[i]
        loss = float64(0.0)
        for i in range(blocks):
            loss += float64(parts[i * width + size])
        norm = math.sqrt(total)
        cuda.syncthreads()  # all have read records[fine]
        whole = total + abs(loss) < math.inf  # false for NaN
        if thread == 0:
            records[b] = norm
            records[steps + b] = loss
            if whole:
                records[made] += float64(1.0)
            else:
                records[fine] = float64(0.0)
        if not whole:
            return
        clip = one
        if norm > numbers[7]:
            clip = kind(numbers[7] / norm)
        elif norm > float64(0.0) and norm < numbers[6]:
            clip = kind(numbers[6] / norm)
        lr, mean, l1, l2 = kind(numbers[1]), kind(numbers[2]), kind(numbers[3]), kind(numbers[4])
        decay, limit = kind(numbers[5]), kind(numbers[8])
        d = size - 1
        for j in range(thread, size, threads):
            covered = j < d
            factor = of_each[j] if covered else zero
            before = w[j]
            clipped = min(max(g[j] * clip, -limit), limit)
            to, threshold = step(
                j, before, clipped + l2 * factor * before, lr, l1 * factor, factor, slots, size, p, c, at
            )
            if covered:
                to -= lr * decay * before
                if l1 > zero:
                    to = max(to - threshold, zero) if to > zero else min(to + threshold, zero)
                to = min(max(to, of_each[d + j]), of_each[2 * d + j])
            w[j] = to
            if mean > zero:
                average[j] += (to - average[j]) * mean

    return jit(update, launch_bounds=(threads, 1))


def order_kernel() -> Any:
    """kernel(out, first, n, blocks, block, cut, a, b, k0, ..., k5): the row at every position of an epoch, as order.py has it.

    blocks: of them, n // block; a, b: sides of the rectangle that holds their numbers.
    """

    @inline
    def scramble(x, key, limit):
        x = (x ^ key) * 0x9E3779B1 & 0xFFFFFFFF
        x = (x ^ x >> 15) * 0x85EBCA77 & 0xFFFFFFFF
        return (x ^ x >> 13) * limit >> 32

    def order(out, first, n, blocks, block, cut, a, b, k0, k1, k2, k3, k4, k5):
        position = first + cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if position < n:
            image = position // block
            within = position - image * block
            if image < blocks:
                walking = True
                while walking:  # until the permutation of the rectangle is back among the blocks
                    left = image // b
                    right = image - left * b
                    left = (left + scramble(right, k0, a)) % a
                    right = (right + scramble(left, k1, b)) % b
                    left = (left + scramble(right, k2, a)) % a
                    right = (right + scramble(left, k3, b)) % b
                    left = (left + scramble(right, k4, a)) % a
                    right = (right + scramble(left, k5, b)) % b
                    image = left * b + right
                    walking = image >= blocks
            out[position] = (image * block + within + cut) % n

    return jit(order)
