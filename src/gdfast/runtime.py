"""What the machine offers: instruction sets, threads, build facts."""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib.util import find_spec
from typing import Any

import numpy as np

from gdfast import _core


def instruction_sets() -> list[str]:
    """The instruction sets this machine can run, best first."""
    return list(_core.instruction_sets())


def instruction_set() -> str:
    """The instruction set in use: the best one, the one in ``GDFAST_ISA``, or the one given to ``use``."""
    return _core.instruction_set()


def use(name: str) -> None:
    """Force an instruction set by name, for this process. Raises ValueError where the machine does not have it."""
    _core.use_instruction_set(name)


def cores() -> int:
    """Cores this process may use: affinity and the quota of its control group respected."""
    from joblib import cpu_count

    return int(cpu_count())


def _inside_joblib_worker() -> bool:
    parallel = sys.modules.get("joblib.parallel")
    if parallel is None:
        return False
    backend = parallel.get_active_backend()[0]
    return bool(getattr(backend, "nesting_level", 0)) or os.environ.get("LOKY_WORKER") is not None


def threads(n_jobs: int | None = None) -> int:
    """How many threads one call may use.

    None: what OpenMP allows the calling thread (``OMP_NUM_THREADS``, ``threadpoolctl``), at most the cores of the process;
    -1: those cores, -2: one fewer, ...; a positive number: that many. One inside a joblib worker or a parallel region.
    """
    if _core.in_parallel() or _inside_joblib_worker():
        return 1
    if n_jobs is None:
        return max(1, min(int(_core.max_threads()), cores()))
    if isinstance(n_jobs, bool) or not isinstance(n_jobs, (int, np.integer)) or n_jobs == 0:
        raise ValueError(f"n_jobs must be None, a positive number of threads, or -1 for all cores; got {n_jobs!r}")
    return int(n_jobs) if n_jobs > 0 else max(1, cores() + 1 + int(n_jobs))


def worker() -> _core.Worker:
    """Context manager: the parallel calls inside share one native thread and its team, and leave neither behind."""
    return _core.Worker()


def device(name: str) -> str:
    """The device that a name stands for: "cpu", or "cuda:0", "cuda:1", ...

    name: "cpu"; "cuda" (the first GPU) or "cuda:1"; "auto": the first GPU where there is a usable one, else "cpu".
    Raises ValueError for another name, RuntimeError where a GPU is asked for and something is missing: what, and what to do.
    """
    number = check_device(name)
    if name == "cpu":
        return name
    try:
        return f"cuda:{_usable_gpu(name, number)}"
    except RuntimeError:
        if name == "auto":
            return "cpu"
        raise


def check_device(name: str) -> int:
    """The number in the name of a device, 0 where it has none. Raises ValueError for what is no name of a device."""
    found = re.fullmatch(r"cpu|auto|cuda(?::(\d+))?", name) if isinstance(name, str) else None
    if found is None:
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or a numbered one such as 'cuda:1'; got {name!r}")
    return int(found.group(1) or 0)


def _usable_gpu(name: str, number: int) -> int:
    needed = f"device={name!r} needs numba-cuda"
    command = """pip install "gdfast[cuda]" (NVIDIA driver r580 or newer; "gdfast[cuda12]" for r525 to r579)"""
    if find_spec("numba_cuda") is None:
        raise RuntimeError(f"{needed}, which is not installed: {command}")
    try:
        from gdfast.backends.cuda import device as primitives
    except ImportError as error:
        raise RuntimeError(f"{needed}, which does not load ({error}): {command}") from error
    reason = primitives.unusable()
    if reason:
        raise RuntimeError(f"device={name!r}: no usable GPU. {reason} device='auto' takes the CPU where there is none.")
    count = primitives.count()
    if number >= count:
        raise RuntimeError(f"device={name!r}: this machine has {count} CUDA devices, numbered from 0")
    return number


def backend(name: str) -> Any:
    """The backend of a device (see ``device``): a new one a call, as it keeps the data of a GPU."""
    chosen = device(name)
    if chosen == "cpu":
        from gdfast.backends import cpu

        return cpu
    from gdfast.backends.cuda import Cuda

    return Cuda(int(chosen.partition(":")[2]))


def info() -> dict[str, Any]:
    """Facts about this installation: version, instruction sets, cores, OpenMP, devices."""
    from gdfast import __version__

    return {
        "gdfast": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "instruction sets": instruction_sets(),
        "instruction set in use": instruction_set(),
        "cores": cores(),
        "threads by default": threads(),
        "openmp": bool(_core.openmp),
        "devices": ["cpu", *([] if device("auto") == "cpu" else ["cuda"])],
    }
