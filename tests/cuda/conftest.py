"""These tests need the CUDA compiler, not a GPU: `pip install ".[test-cuda]"`. Without it they are skipped, and say so."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
COMPILER = find_spec("numba_cuda") is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not COMPILER:
        missing = pytest.mark.skip(reason='numba-cuda is missing: pip install ".[test-cuda]"')
        for item in items:
            if HERE in item.path.parents and item.path.name != "test_devices.py":
                item.add_marker(missing)
