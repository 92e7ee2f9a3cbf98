"""What the tests share: the axes that they are parametrised over, and facts about the machine in the report's header."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from gdfast import runtime
from gdfast.layouts import CsrRows

Array = np.ndarray[Any, Any]
Features = Any  # an array, or a tuple of columns


def _inside(X: Array) -> Array:
    """The same rows in the middle of wider ones: a row stride above d."""
    wide = np.full((X.shape[0], X.shape[1] + 3), np.nan, dtype=X.dtype)
    wide[:, 1:-2] = X
    return wide[:, 1:-2]


# What the kernels read: every layout holds the same numbers. Memory around them is NaN, so that reading it shows.
LAYOUTS: dict[str, Callable[[Array], Features]] = {
    "rows": np.ascontiguousarray,
    "columns": np.asfortranarray,
    "tuple": lambda X: tuple(x.copy() for x in X.T),
    "strided": _inside,
    "reversed": lambda X: np.ascontiguousarray(X[::-1])[::-1],
}


def _csr(index: str) -> Callable[[Array], Features]:
    def sparse(X: Array) -> Features:
        rows, columns = np.nonzero(X)
        memory = np.full(len(rows) + 64, np.nan, dtype=X.dtype)
        data = memory[: len(rows)]
        data[:] = X[rows, columns]
        indptr = np.append(0, np.cumsum(np.bincount(rows, minlength=len(X))))
        return CsrRows(data, columns.astype(index), indptr.astype(index), X.shape[1])

    return sparse


# The same for numbers of which many are 0.
SPARSE: dict[str, Callable[[Array], Features]] = {"csr": _csr("int32"), "csr64": _csr("int64")}


@pytest.fixture(scope="session")
def layouts() -> dict[str, Callable[[Array], Features]]:
    return LAYOUTS | SPARSE


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Callable[[Array], Features]:
    """Turns a C-ordered array into one of the layouts."""
    return LAYOUTS[request.param]


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> np.dtype[Any]:
    return np.dtype(request.param)


@pytest.fixture(params=runtime.instruction_sets())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set of this machine, forced for the test."""
    before = runtime.instruction_set()
    runtime.use(request.param)
    yield request.param
    runtime.use(before)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240229)


def pytest_report_header() -> list[str]:
    facts = runtime.info()
    wanted = ("gdfast", "numpy", "instruction sets", "instruction set in use", "cores", "threads by default", "openmp")
    return [f"{name}: {facts[name]}" for name in wanted]
