"""The order of rows in an epoch: a keyed permutation of [0, n), a pure function of (seed, epoch, block, position).

Six rounds of a Feistel network on pairs (left, right) of a rectangle a x b >= n as small as can be, walked again in the
rare case that it leaves [0, n) (Black and Rogaway 2002). Nothing is stored, so shuffling costs no memory, runs in
parallel, and a run can be resumed anywhere.

With blocks of more than one row, memory is read in runs: the rows, seen as a circle that is cut at a place given by the
keys, are divided into blocks of consecutive rows, which are permuted; what is left over comes last.
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


def _images(position: Array, n: int, keys: Array) -> Array:
    """What the permutation of [0, n) makes of these numbers."""
    image = _permute(position, n, keys)
    while (outside := image >= n).any():
        image[outside] = _permute(image[outside], n, keys)
    return image


def order_rows(n: int, keys: Array, first: int = 0, count: int | None = None, block: int = 1) -> Array:
    """The rows at positions first, ..., first + count - 1 of the order of n rows, ``block`` in a run: int64."""
    position = np.arange(first, n if count is None else first + count, dtype=np.int64)
    if block == 1:
        return _images(position, n, keys)
    blocks, cut = n // block, ((int(keys[0]) << 31) ^ int(keys[1])) % n
    of, within = np.divmod(position, block)
    of[of < blocks] = _images(of[of < blocks], blocks, keys)
    return (of * block + within + cut) % n
