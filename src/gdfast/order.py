"""The order of rows in an epoch: a keyed permutation of [0, n), a pure function of (seed, epoch, block, position).

Six rounds of a Feistel network on pairs (left, right) of a rectangle a x b >= n as small as can be, walked again in the
rare case that it leaves [0, n) (Black and Rogaway 2002). Nothing is stored, so shuffling costs no memory, runs in
parallel, and a run can be resumed anywhere.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def keys_of(seed: int, epoch: int, block: int = 0) -> Array:
    """Six uint32 keys: the first numbers of Philox 4x64 keyed by ``seed`` at the counter (0, 0, block, epoch)."""
    generator = np.random.Philox(key=seed, counter=[0, 0, block, epoch])
    return np.asarray(generator.random_raw(3), dtype=np.uint64).view(np.uint32)


def _scramble(x: Array, key: int, limit: int) -> Array:
    """A number below ``limit`` from 32 bits of x and key."""
    x = (x ^ key) * 0x9E3779B1 & 0xFFFFFFFF
    x = (x ^ x >> 15) * 0x85EBCA77 & 0xFFFFFFFF
    return ((x ^ x >> 13).astype(np.uint64) * np.uint64(limit) >> np.uint64(32)).astype(np.int64)


def _permute(position: Array, n: int, keys: Array) -> Array:
    a = isqrt(n - 1) + 1
    b = -(-n // a)
    left, right = np.divmod(position, b)
    for r in range(0, 6, 2):
        left = (left + _scramble(right, int(keys[r]), a)) % a
        right = (right + _scramble(left, int(keys[r + 1]), b)) % b
    return left * b + right


def order_rows(n: int, keys: Array, first: int = 0, count: int | None = None) -> Array:
    """The rows at positions first, ..., first + count - 1 of the order of n rows: int64."""
    rows = _permute(np.arange(first, n if count is None else first + count, dtype=np.int64), n, keys)
    while (outside := rows >= n).any():
        rows[outside] = _permute(rows[outside], n, keys)
    return rows
