from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Features = Array | tuple[Array, ...]

openmp: bool

class Worker:
    def __enter__(self) -> None: ...
    def __exit__(self, *exception: object) -> None: ...

def gradient(
    X: Features,
    y: Array,
    weight: Array | None,
    w: Array,
    g: Array,
    H: Array | None,
    loss: str,
    parameters: Sequence[float],
    intercept: bool,
    threads: int,
    shards: int = 0,
) -> float: ...
def margins(X: Features, w: Array, z: Array, threads: int) -> None: ...
def epoch(
    *,
    X: Features,
    y: Array,
    weight: Array | None,
    w: Array,
    slots: Array,
    average: Array | None,
    loss: str,
    loss_parameters: Sequence[float],
    optimizer: str,
    optimizer_parameters: Sequence[float],
    rates: Array,
    norms: Array,
    keys: Array | None,
    batch: int,
    first_step: int,
    average_from: int,
    l1: float,
    l2: float,
    clip_norm: float,
    clip_value: float,
    mean_weight: float,
    intercept: bool,
    threads: int,
    shards: int = 0,
) -> tuple[float, int, bool]: ...
def update(
    *,
    w: Array,
    g: Array,
    slots: Array,
    optimizer: str,
    parameters: Sequence[float],
    lr: float,
    t: float,
    scale: float,
    clip_value: float,
    l1: float,
    l2: float,
    n_penalized: int,
) -> None: ...
def norm(a: Array) -> float: ...
def clip_by_norm(g: Array, max_norm: float) -> float: ...
def find_non_finite(a: Array, threads: int = 1) -> int: ...
def cholesky(A: Array, smallest: float) -> int: ...
def cholesky_solve(L: Array, b: Array) -> None: ...
def order_rows(n: int, keys: Array, first: int, count: int) -> Array: ...
def shards_of(rows: int, d: int, k: int, itemsize: int) -> int: ...
def losses() -> list[tuple[str, int]]: ...
def optimizers() -> list[tuple[str, int, int]]: ...
def instruction_sets() -> list[str]: ...
def instruction_set() -> str: ...
def use_instruction_set(name: str) -> None: ...
def max_threads() -> int: ...
def in_parallel() -> bool: ...
