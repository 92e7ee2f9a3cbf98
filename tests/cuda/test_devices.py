"""Names of devices, and what is said where there is none: on a machine without Numba, without a driver, without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

import gdfast
from gdfast import SGDClassifier, SGDRegressor, ops, runtime
from gdfast.backends.cuda.shapes import WIDEST, shape_for


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:x", "CPU", "", None, 0])
def test_a_device_has_a_known_name(name: object) -> None:
    with pytest.raises(
        ValueError, match=r"device must be 'auto', 'cpu', 'cuda' or a numbered one such as 'cuda:1'; got"
    ):
        runtime.device(name)  # type: ignore[arg-type]


def test_the_cpu_is_itself() -> None:
    assert runtime.device("cpu") == "cpu"


def test_without_numba_cuda_the_message_has_the_command() -> None:
    code = """
import importlib.util
from gdfast import runtime
runtime.find_spec = lambda name: None
assert runtime.device("auto") == "cpu"
try:
    runtime.device("cuda")
except RuntimeError as error:
    print(error)
"""
    said = python(code)
    assert "device='cuda' needs numba-cuda, which is not installed" in said
    assert 'pip install "gdfast[cuda]"' in said


@pytest.mark.skipif(find_spec("numba_cuda") is None, reason='numba-cuda is missing: pip install ".[test-cuda]"')
def test_a_numba_cuda_that_does_not_load_is_named() -> None:
    code = """
import sys
sys.modules["numba"] = None
from gdfast import runtime
try:
    runtime.device("cuda")
except RuntimeError as error:
    print(error)
"""
    assert "which does not load" in python(code)


@pytest.mark.skipif(find_spec("numba_cuda") is None, reason='numba-cuda is missing: pip install ".[test-cuda]"')
def test_without_a_gpu_the_reason_is_that_of_the_driver() -> None:
    code = """
from gdfast import runtime
print(runtime.device("auto"))
try:
    runtime.device("cuda:1")
except RuntimeError as error:
    print(error)
"""
    chosen, *said = python(code, CUDA_VISIBLE_DEVICES="").splitlines()
    assert chosen == "cpu"
    assert said[0].startswith("device='cuda:1': no usable GPU. ")
    assert said[0].endswith("device='auto' takes the CPU where there is none.")


@pytest.mark.skipif(find_spec("numba_cuda") is None, reason='numba-cuda is missing: pip install ".[test-cuda]"')
def test_the_number_of_a_device_is_checked() -> None:
    code = """
from gdfast import runtime
print(runtime.device("cuda"), runtime.device("auto"))
try:
    runtime.device("cuda:7")
except RuntimeError as error:
    print(error)
"""
    said = python(code, NUMBA_ENABLE_CUDASIM="1").splitlines()
    assert said[0] == "cuda:0 cuda:0"
    assert "device='cuda:7': this machine has 1 CUDA devices, numbered from 0" in said[1]


def test_the_cpu_path_does_not_load_numba() -> None:
    code = """
import sys
import numpy as np
from gdfast import ops
ops.loss_and_gradient(np.ones((4, 2)), np.zeros(4), np.zeros(3), device="cpu")
print([name for name in ("numba", "llvmlite", "numba_cuda") if name in sys.modules])
"""
    assert python(code) == "[]"


def test_ops_refuse_a_device_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="device must be"):
        ops.loss_and_gradient(np.ones((4, 2)), np.zeros(4), np.zeros(3), device="tpu")


@pytest.mark.parametrize("real", WIDEST)
@pytest.mark.parametrize("multiprocessors", [1, 24, 108, 132])
def test_shapes_suffice_for_the_limits_of_a_multiprocessor(real: str, multiprocessors: int) -> None:
    size = np.dtype(real).itemsize
    for d in [*range(1, 300), 511, 513, 1024, 1025, 2047, WIDEST[real]]:
        shape = shape_for(d, real)
        assert d <= shape.d < d + shape.per_load
        assert shape.lanes * shape.loads * shape.per_load >= shape.d  # all columns are somebody's
        assert shape.resident * shape.threads <= 1024
        shared = 2 * shape.rows * 8 if shape.lanes > 32 else 8 * shape.lanes * shape.loads * shape.per_load
        assert (shared + 16) * size <= 48 * 1024  # what a kernel may declare
        for n in (1, shape.rows_per_block, shape.rows_per_block + 1, 10**7):
            blocks = shape.blocks(n, multiprocessors)
            assert 1 <= blocks <= shape.resident * multiprocessors
            assert blocks == 1 or (blocks - 1) * shape.rows_per_block < n  # no block is without rows


@pytest.mark.parametrize("real", WIDEST)
def test_rows_that_are_too_wide_are_named(real: str) -> None:
    with pytest.raises(ValueError, match=f"X has {WIDEST[real] + 1} columns; device='cuda' takes at most"):
        shape_for(WIDEST[real] + 1, real)


@pytest.mark.parametrize("kind", [SGDClassifier, SGDRegressor])
def test_estimators_refuse_what_is_no_device(kind: type) -> None:
    with pytest.raises(ValueError, match="device must be 'auto'"):
        kind(device="tpu").fit(np.ones((4, 2)), [0, 1, 0, 1])


def test_a_grid_names_its_device() -> None:
    with pytest.raises(ValueError, match="device='auto' is not possible with several models in one pass"):
        gdfast.grid(SGDRegressor(device="auto"), np.ones((8, 2)), np.arange(8.0), {"alpha": [0.1]})


def test_auto_says_why_it_took_the_cpu() -> None:
    X, y = np.random.default_rng(0).standard_normal((60, 3)), np.arange(60) % 3
    options = {"device": "auto", "max_iter": 2, "tol": None}
    assert "steps of 1 MB" in SGDRegressor(**options).fit(X, y).fit_report_["device"]
    assert SGDRegressor(max_iter=2, tol=None).fit(X, y).fit_report_["device"] == "cpu"
    several = SGDClassifier("softmax", **options).fit(X, y)
    assert several.fit_report_["device"] == "cpu: a GPU takes dense rows and one output"
    assert several.fit_report_["transfer_seconds"] == 0
