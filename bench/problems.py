"""Seeded data for the benches, and the read bandwidth that they are measured against."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np

from gdfast import _core
from gdfast.plan import Examples

Array = np.ndarray[Any, Any]


@lru_cache(maxsize=1)
def logistic(n: int, d: int, dtype: str = "f4", order: str = "C") -> Examples:
    """n rows of d standard normal columns, labels from a logistic model."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d), dtype=np.float32).astype(dtype, copy=False)
    w = rng.standard_normal(d).astype(dtype) / np.sqrt(d, dtype=dtype)
    y = (rng.random(n) < 1 / (1 + np.exp(-(X @ w)))).astype(dtype)
    return Examples(np.asarray(X, order=order), y, None)


def read_everything(a: Array, threads: int, pool: ThreadPoolExecutor) -> None:
    """Reads every byte of a once and keeps nothing: the yardstick of memory bandwidth, with so many threads."""
    flat = a.reshape(-1) if a.flags.c_contiguous else a.T.reshape(-1)
    if threads == 1:
        _core.find_non_finite(flat)
        return
    for done in [pool.submit(_core.find_non_finite, part) for part in np.array_split(flat, threads)]:
        done.result()


@lru_cache(maxsize=1)
def power_law(n: int, d: int) -> Any:
    """scipy.sparse.csr_array, float32: about 61 non-zeros a row, column j about as often as 1 / (j + 10)."""
    from scipy.sparse import csr_array

    rng = np.random.default_rng(0)
    frequency = 1 / (rng.permutation(d) + 10.0)
    drawn = rng.choice(d, size=n * 63, p=frequency / frequency.sum())
    rows = np.repeat(np.arange(n), 63)
    cells = np.unique(rows * np.int64(d) + drawn)  # a column at most once a row
    rows, columns = np.divmod(cells, d)
    indptr = np.append(0, np.cumsum(np.bincount(rows, minlength=n)))
    return csr_array((rng.standard_normal(len(cells)).astype("f4"), columns, indptr), shape=(n, d))
