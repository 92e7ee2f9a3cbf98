"""The checks are tested too: kernels with a bug planted in their source have to be reported, or give wrong numbers."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

launches = pytest.importorskip("launches", reason='numba-cuda is missing: pip install ".[test-cuda]"')
ptx = pytest.importorskip("ptx")

# name: (what stands in gradient.py, what is planted, d, what is reported; "" where only the numbers are wrong)
BUGS = {
    "no barrier before the sums over warps": (
        "            cuda.syncthreads()\n            for j",
        "            for j",
        28,
        "RACE shared",
    ),
    "no barrier before the last sums": (
        "        cuda.syncthreads()\n        if thread < 2",
        "        if thread < 2",
        28,
        "RACE shared|before any write",
    ),
    "no barrier in the margin of a wide row": (
        "                cuda.syncthreads()\n",
        "",
        2048,
        "RACE shared|before any write",
    ),
    "margins of wide rows in one buffer": ("turn = sums_turn - turn", "turn = 0", 2048, "RACE shared"),
    "rows beyond the last are loaded": (
        "first + min(row + u * groups, last)",
        "first + row + u * groups",
        28,
        "OUT OF BOUNDS global load",
    ),
    "targets beyond the last are loaded": (
        "at = first + min(i, last)",
        "at = first + i",
        28,
        "OUT OF BOUNDS global load",
    ),
    "columns beyond the last are loaded": (
        "min(lane + lanes * i, last_load)",
        "min(lane + lanes * i, last_load + 1)",
        28,
        "OUT OF BOUNDS global load",
    ),
    "a load 4 bytes off": (
        "start + per_load * place)",
        "start + per_load * place + 1)",
        28,
        "misaligned global access",
    ),
    "the intercept behind the weights": ("b = w[d]", "b = w[d + 1]", 28, "OUT OF BOUNDS global load"),
    "a shuffle in a branch": (
        "                for k in range(log_lanes):\n                    s +=",
        "                for k in range(log_lanes if row + u * groups <= last else 0):\n                    s +=",
        28,
        "DIVERGENT shuffle",
    ),
    "a barrier in a branch": (
        "        cuda.syncthreads()\n        if thread < 2",
        "        if thread < 64:\n            cuda.syncthreads()\n        if thread < 2",
        28,
        "bar.sync|RACE|DEADLOCK",
    ),
    "all blocks in one place": (
        "out = int64(cuda.blockIdx.x) * (d + 2)",
        "out = int64(0)",
        28,
        "RACE write after unordered write",
    ),
    "all warps in one place": (
        "memory[warp * slots + k * lanes + lane]",
        "memory[k * lanes + lane]",
        28,
        "RACE shared|before any write",
    ),
    "shared memory too small": (
        "shared, sums_turn = sums + 2 * warps",
        "shared, sums_turn = sums",
        28,
        "OUT OF BOUNDS shared",
    ),
    "a loop without end": ("base += int64(cuda.gridDim.x) * stride", "base += int64(0)", 28, "HANG"),
    "too few lanes in the sum of gradients": ("range(5 - log_lanes)", "range(4 - log_lanes)", 28, ""),
    "too few lanes in the margin": ("range(log_lanes)", "range(log_lanes - 1)", 28, ""),
    "the last row is lost": ("if i > last", "if i >= last", 28, ""),
    "the last row counts many times": ("if i > last", "if i > last + 300", 28, ""),
    "every lane counts its row": ("if lane > 0", "if lane > 99", 28, ""),
    "blocks take the rows of each other": ("base += int64(cuda.gridDim.x) * stride", "base += stride", 28, ""),
}


def planted(folder: Path, was: str, becomes: str) -> ModuleType:
    source = Path(launches.kernels.__file__).read_text()
    assert was in source, "the source has changed: plant the bug anew"
    file = folder / "planted.py"
    file.write_text(source.replace(was, becomes, 1))
    spec = importlib.util.spec_from_file_location("planted", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_caught(name: str, tmp_path: Path) -> None:
    was, becomes, d, reported = BUGS[name]
    built = launches.build(d, "float32", "log_loss", module=planted(tmp_path, was, becomes))
    X, y, _, w = launches.problem(499 if d < 2048 else 20, d, "float32", launches.LOG_LOSS)
    launch = launches.Launch(ptx.Kernel(built.ptx), X, y, None, w, launches.LOG_LOSS)
    if reported:
        said = "\n".join(launch.found)
        assert any(part in said for part in reported.split("|")), said or "nothing was reported"
        return
    wanted, size = launches.expected(X, y, None, w, launches.LOG_LOSS)
    assert not launch.found
    assert (np.abs(launch.sums - wanted) > 1e-3 * size).any()


def test_a_sum_without_its_bound_is_caught(tmp_path: Path) -> None:
    built = launches.build_sum("float32", planted(tmp_path, "if c < width:", "if c < width + 9:"))
    parts, out = ptx.aligned(np.ones((7, 70), dtype=np.float32)), ptx.aligned(np.zeros(70))
    found = ptx.Kernel(built.ptx).launch(2, 64, parts, 7, 70, out)
    assert any("OUT OF BOUNDS global store" in line for line in found)
