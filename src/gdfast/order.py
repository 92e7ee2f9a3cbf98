"""The order of rows in an epoch: a keyed permutation of [0, n), a pure function of (seed, epoch, block, position).

Six rounds of a Feistel network over the smallest power of two >= n, walked again while it leaves [0, n) (Black and
Rogaway 2002). Nothing is stored, so shuffling costs no memory, runs in parallel, and a run can be resumed anywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def keys_of(seed: int, epoch: int, block: int = 0) -> Array:
    """Six uint32 keys: the first numbers of Philox 4x64 keyed by ``seed`` at the counter (0, 0, block, epoch)."""
    generator = np.random.Philox(key=seed, counter=[0, 0, block, epoch])
    return np.asarray(generator.random_raw(3), dtype=np.uint64).view(np.uint32)


def _mix(x: Array, key: np.uint32) -> Array:
    x = (x ^ key) * np.uint32(0x9E3779B1)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x85EBCA77)
    return x ^ (x >> np.uint32(13))


def _permute(position: Array, n: int, keys: Array) -> Array:
    bits = max(1, int(n - 1).bit_length())
    left_bits, right_bits = bits // 2, bits - bits // 2
    left_mask, right_mask = np.uint32(2**left_bits - 1), np.uint32(2**right_bits - 1)
    left, right = (position >> right_bits).astype(np.uint32), (position & int(right_mask)).astype(np.uint32)
    for r in range(0, 6, 2):
        left ^= _mix(right, keys[r]) & left_mask
        right ^= _mix(left, keys[r + 1]) & right_mask
    return left.astype(np.int64) << right_bits | right.astype(np.int64)


def order_rows(n: int, keys: Array, first: int = 0, count: int | None = None) -> Array:
    """The rows at positions first, ..., first + count - 1 of the order of n rows: int64."""
    rows = _permute(np.arange(first, n if count is None else first + count, dtype=np.int64), n, keys)
    while (outside := rows >= n).any():
        rows[outside] = _permute(rows[outside], n, keys)
    return rows
