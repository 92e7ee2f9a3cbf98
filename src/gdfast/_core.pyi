from collections.abc import Sequence
from typing import Any

import numpy as np

from gdfast.layouts import CsrRows, Features

Array = np.ndarray[Any, Any]

openmp: bool

class Worker:
    def __init__(self, *, kept: bool = False) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *exception: object) -> None: ...

class Rule:
    def __init__(
        self,
        *,
        optimizer: str,
        parameters: Sequence[float],
        coefficients: Array,
        l1: float,
        l2: float,
        decay: float,
        factor: float | Array,
        lower: float | Array,
        upper: float | Array,
        min_norm: float,
        max_norm: float,
        clip_value: float,
    ) -> None: ...

class Model:
    def __init__(
        self,
        *,
        w: Array,
        slots: Array,
        average: Array | None,
        rule: Rule,
        rates: Array,
        norms: Array,
        losses: Array,
        first_step: int,
        average_from: int,
        mean_weight: float,
        held_out: int = -1,
    ) -> None: ...

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
def hessian_product(
    X: Features,
    y: Array,
    weight: Array | None,
    w: Array,
    p: Array,
    Hp: Array,
    loss: str,
    parameters: Sequence[float],
    intercept: bool,
    threads: int,
) -> None: ...
def gradient_at(
    X: Features,
    y: Array,
    weight: Array | None,
    z: Array,
    g: Array,
    h: Array,
    loss: str,
    parameters: Sequence[float],
    intercept: bool,
    threads: int,
) -> float: ...
def conjugate_gradients(
    X: Features,
    h: Array,
    g: Array,
    diagonal: Array,
    total: float,
    l2: float,
    share: float,
    most: int,
    s: Array,
    margins: Array,
    intercept: bool,
    threads: int,
) -> tuple[float, int]: ...
def curvatures(
    X: Features,
    y: Array,
    weight: Array | None,
    w: Array,
    h: Array,
    loss: str,
    parameters: Sequence[float],
    threads: int,
) -> None: ...
def gram(X: Features, columns: Array, h: Array, H: Array, intercept: bool, threads: int) -> None: ...

class SparseGram:
    def __init__(self, X: Features, threads: int) -> None: ...
    def set(self, h: Array, scale: float, ridge: float) -> None: ...
    def add(self, columns: Array, threads: int) -> None: ...
    def matrix(self) -> tuple[Array, Array, Array, Array]: ...

def minimize_model(
    H: Array | tuple[Array, Array, Array],
    h: Array,
    c: float,
    g: Array,
    l1: float,
    w: Array,
    precision: float,
    enough: float,
    rounds: int,
) -> tuple[float, float, bool]: ...
def margins(X: Features, w: Array, z: Array, threads: int) -> None: ...
def epoch(
    *,
    X: Features,
    y: Array,
    weight: Array | None,
    fold: Array | None,
    models: Sequence[Model],
    loss: str,
    loss_parameters: Sequence[float],
    steps: int,
    seconds: float,
    keys: Array | None,
    block: int,
    batch: int,
    intercept: bool,
    held_only: bool,
    threads: int,
    shards: int = 0,
    first: int = 0,
) -> list[tuple[float, int, bool]]: ...
def update(*, w: Array, g: Array, slots: Array, rule: Rule, lr: float, n_penalized: int, threads: int) -> float: ...
def update_tensors(groups: Sequence[tuple[Rule, float, float, Array, Array]], threads: int) -> float: ...
def norm(a: Array) -> float: ...
def scale_to_norm(g: Array, min_norm: float, max_norm: float) -> float: ...
def find_non_finite(a: Array, threads: int = 1) -> int: ...
def cholesky(A: Array, smallest: float) -> int: ...
def cholesky_solve(L: Array, b: Array) -> None: ...
def order_rows(n: int, keys: Array, first: int, count: int, block: int = 1) -> Array: ...
def shards_of(rows: int, X: Features, k: int) -> int: ...
def mean_squares(X: CsrRows, weight: Array | None, out: Array, threads: int = 1) -> None: ...
def moments(X: Features, weight: Array | None, mean: Array, variance: Array, threads: int = 1) -> None: ...
def check_csr(X: CsrRows, finite: bool, threads: int = 1) -> tuple[str | None, int]: ...
def count_non_zeros(X: Array, starts: Array, threads: int = 1) -> None: ...
def pick_non_zeros(X: Array, starts: Array, x: Array, columns: Array, threads: int = 1) -> None: ...
def losses() -> list[tuple[str, int]]: ...
def optimizers() -> list[tuple[str, int, int, int]]: ...
def instruction_sets() -> list[str]: ...
def instruction_set() -> str: ...
def use_instruction_set(name: str) -> None: ...
def max_threads() -> int: ...
def in_parallel() -> bool: ...
