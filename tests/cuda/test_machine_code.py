"""The machine code of every kernel for sm_80 and sm_90, read: against the laws below, and against figures.json.

A figure that moves, with a kernel or with the compiler, fails until somebody has looked at it. To write the new ones:
``python tests/cuda/test_machine_code.py``.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pytest

from gdfast import losses
from gdfast.backends.cuda.shapes import WARP, shape_for

launches = pytest.importorskip("launches", reason='numba-cuda is missing: pip install ".[test-cuda]"')
machine_code = pytest.importorskip("machine_code", reason='numba-cuda is missing: pip install ".[test-cuda]"')

TABLE = Path(__file__).with_name("figures.json")
WIDTHS = {"float32": (8, 28, 128, 256, 512, 1024, 2048, 4096), "float64": (8, 28, 256, 512, 4096)}
CAPABILITIES = ((8, 0), (9, 0))
CASES = [(d, real, "log_loss", c) for c in CAPABILITIES for real, widths in WIDTHS.items() for d in widths]
CASES += [(28, "float32", name, (9, 0)) for name in sorted(set(losses.ALL) - {"softmax", "log_loss"})]
# An H100: multiprocessors, instructions issued a second by each, bytes a second of its memory, seconds that a load takes
MULTIPROCESSORS, ISSUED, BANDWIDTH, LATENCY = 132, 4 * 1.755e9, 3.0e12, 0.8e-6


def name_of(d: int, real: str, loss: str, capability: tuple[int, int]) -> str:
    return f"sm_{capability[0]}{capability[1]} {real} d={d} {loss}"


@cache
def figures_of(d: int, real: str, loss: str, capability: tuple[int, int]) -> machine_code.Figures:
    return machine_code.figures(launches.cached_build(d, real, loss, capability).cubin)


@pytest.mark.parametrize("case", CASES, ids=lambda case: name_of(*case))
def test_figures_are_those_that_were_looked_at(case: tuple[int, str, str, tuple[int, int]]) -> None:
    assert asdict(figures_of(*case)) == json.loads(TABLE.read_text())[name_of(*case)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: name_of(*case))
def test_registers_hold_all_and_loads_go_out_together(case: tuple[int, str, str, tuple[int, int]]) -> None:
    d, real, _, _ = case
    shape, figures = shape_for(d, real), figures_of(*case)
    assert figures.stack == figures.local == 0, "spilled, or an array that is indexed at run time"
    assert figures.registers * shape.threads * shape.resident <= 65536
    assert figures.loads == shape.rows * shape.loads, "a load is not of 128 bits"
    assert figures.in_flight == figures.loads, "loads wait for the use of earlier ones"
    if real == "float32":
        assert figures.float64 == 0
        assert ".f64 " not in launches.cached_build(*case).ptx.replace("\t", " ")


@pytest.mark.parametrize("d", WIDTHS["float32"])
def test_nothing_but_memory_bounds_float32_on_an_h100(d: int) -> None:
    """By instructions and by bytes in flight: on paper, no GPU has run this."""
    shape, figures = shape_for(d, "float32"), figures_of(d, "float32", "log_loss", (9, 0))
    rows_of_a_warp = shape.rows * WARP / shape.lanes
    issue_bound = MULTIPROCESSORS * ISSUED / figures.loop * rows_of_a_warp * d * 4
    in_flight = shape.resident * shape.threads * figures.in_flight * 16
    assert issue_bound > BANDWIDTH
    assert in_flight > BANDWIDTH * LATENCY / MULTIPROCESSORS


def test_the_table_holds_what_is_built() -> None:
    assert sorted(json.loads(TABLE.read_text())) == sorted(name_of(*case) for case in CASES)


if __name__ == "__main__":
    table = {name_of(*case): asdict(figures_of(*case)) for case in CASES}
    TABLE.write_text(json.dumps(table, indent=1) + "\n")
