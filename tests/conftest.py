"""What the tests share: the axes that they are parametrised over, and facts about the machine in the report's header."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from memory import LAYOUTS, SPARSE, Array, Features

from gdfast import runtime


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
