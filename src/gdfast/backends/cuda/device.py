"""Device primitives: all that the kernels need beyond plain Numba CUDA, and the only file that imports Numba.

Every primitive has two bodies: compiled, and plain Python for the CUDA simulator (``NUMBA_ENABLE_CUDASIM=1``), which runs
kernels on the CPU, one Python thread a CUDA thread. Loaded only where a device is asked for.
"""

from __future__ import annotations

import math
import os
import threading
from typing import Any

import numpy as np
from numba import cuda, float32, float64, int64, types

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") == "1"
WARP, FULL = 32, 0xFFFFFFFF
__all__ = ["FULL", "REALS", "WARP", "cuda", "divide", "float64", "inline", "int64", "jit", "load"]
REALS = {"float32": float32, "float64": float64}


def unusable() -> str:
    """Why no GPU can be used; empty where one can."""
    try:
        if cuda.is_available():
            return ""
        return " ".join(str(cuda.cuda_error() or "No CUDA device was found.").split())
    except Exception as error:  # whatever a broken driver raises
        return f"{type(error).__name__}: {error}."


def count() -> int:
    return len(list(cuda.gpus))


def multiprocessors() -> int:
    """Of the current device; 1 in the simulator, which runs one block after another."""
    return 1 if SIMULATED else int(cuda.get_current_device().MULTIPROCESSOR_COUNT)


def free_memory() -> int:
    """Bytes that are free on the current device."""
    return 2**40 if SIMULATED else int(cuda.current_context().get_memory_info().free)


if not SIMULATED:
    from llvmlite import ir
    from numba.cuda import libdevice
    from numba.cuda.extending import intrinsic

    jit = cuda.jit

    def inline(function: Any) -> Any:
        """A device function that becomes part of its caller."""
        return cuda.jit(function, device=True, forceinline=True)

    def _vector_load(instruction: str, constraint: str, kind: Any, ir_kind: Any, count: int) -> Any:
        # Numba never tells LLVM that an address is a multiple of 16, so 128-bit loads are written down. X is read once
        # and never written by a kernel: no place in L1, and the read-only path.
        outputs = ", ".join(f"${i}" for i in range(count))
        assembly = f"ld.global.nc.L1::no_allocate.L2::128B.{instruction} {{{outputs}}}, [${count}];"
        constraints = ",".join([constraint] * count + ["l"])

        @intrinsic
        def load_vector(context, array, index):
            def generate(target, builder, signature, arguments):
                data = target.make_array(signature.args[0])(target, builder, arguments[0]).data
                address = builder.ptrtoint(builder.gep(data, [arguments[1]]), ir.IntType(64))
                result = ir.LiteralStructType([ir_kind] * count)
                function = ir.FunctionType(result, [ir.IntType(64)])
                loaded = builder.asm(function, assembly, constraints, [address], side_effect=False)
                parts = [builder.extract_value(loaded, i) for i in range(count)]
                return target.make_tuple(builder, signature.return_type, parts)

            return types.UniTuple(kind, count)(array, types.int64), generate

        return load_vector

    # load[real](array, index): the 16 bytes that begin at array[index], as a tuple; index is a multiple of their number
    load = {
        "float32": _vector_load("v4.f32", "=f", types.float32, ir.FloatType(), 4),
        "float64": _vector_load("v2.f64", "=d", types.float64, ir.DoubleType(), 2),
    }

    @intrinsic
    def _quotient(context, a, b):
        def generate(target, builder, signature, arguments):
            return builder.fdiv(*arguments)

        return types.float64(types.float64, types.float64), generate

    # divide[real](a, b): a / b to 2 ulp in float32 (IEEE division is a call), exact in float64, no test for b = 0
    divide = {"float32": libdevice.fast_fdividef, "float64": _quotient}
else:
    from numba.cuda.simulator.kernelapi import FakeCUDAModule

    def jit(*arguments: Any, **options: Any) -> Any:
        """The simulator's ``jit`` takes none of the options of the compiler."""
        return cuda.jit(*arguments)

    def inline(function: Any) -> Any:
        return cuda.jit(function, device=True)

    load = {
        "float32": lambda array, i: tuple(array[i + k] for k in range(4)),
        "float64": lambda array, i: tuple(array[i + k] for k in range(2)),
    }
    divide = {"float32": lambda a, b: np.float32(a / b), "float64": lambda a, b: a / b}

    _creating = threading.Lock()

    def _exchange(mask: int, value: Any, source: Any) -> Any:
        """A shuffle: a buffer of the warp between two barriers. ``source``: lane -> lane."""
        assert mask == FULL, "the simulator exchanges within whole warps only"
        thread: Any = threading.current_thread()
        warp, lane = divmod(thread.thread_id, WARP)
        with _creating:
            warps = thread._manager.__dict__.setdefault("_warps", {})
            if warp not in warps:
                lanes = min(WARP, math.prod(thread._manager._block_dim) - WARP * warp)
                warps[warp] = threading.Barrier(lanes), [None] * WARP
        barrier, buffer = warps[warp]
        buffer[lane] = value
        barrier.wait(30)
        result = buffer[source(lane)]
        barrier.wait(30)
        return result

    FakeCUDAModule.shfl_xor_sync = lambda self, mask, value, lanes: _exchange(mask, value, lambda lane: lane ^ lanes)
