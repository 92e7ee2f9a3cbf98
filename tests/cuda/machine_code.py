"""The machine code that the dispatcher would load, built without a driver, and what is to be read off it.

Needs the extra ``test-cuda``: the compiler wheels, nvdisasm and cuobjdump.
"""

from __future__ import annotations

import re
import site
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from numba.cuda import dispatcher
from numba.cuda.cudadrv import devices

INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)([^;]*)")
FLOAT64 = ("DADD", "DMUL", "DFMA", "DSETP", "MUFU.RCP64", "MUFU.RSQ64")


@dataclass(frozen=True)
class Build:
    cubin: bytes
    ptx: str
    cooperative: bool


def build(kernel: Any, signature: Any, capability: tuple[int, int] = (9, 0)) -> Build:
    """What ``kernel[grid, block](...)`` would load on a device of that compute capability: options and linking included."""
    device = SimpleNamespace(compute_capability=capability, id=0, name="none")
    asked, context = dispatcher.get_current_device, devices.get_context
    try:  # the compiler asks the current device for its capability, and for nothing else
        dispatcher.get_current_device = lambda: device
        devices.get_context = lambda number=None: SimpleNamespace(device=device)
        made = dispatcher._Kernel(kernel.py_func, signature.args, **kernel.targetoptions)
        library = made._codelibrary
        cubin = library.get_cubin(cc=capability)
        ptx = library.get_lto_ptx(cc=capability) if library._lto else library.get_asm_str(cc=capability)
    finally:
        dispatcher.get_current_device, devices.get_context = asked, context
    return Build(getattr(cubin, "code", cubin), ptx.strip("\0 \n"), made.cooperative)


def _tool(name: str) -> str:
    found = (p for folder in site.getsitepackages() for p in Path(folder).glob(f"nvidia/*/bin/{name}"))
    return str(next(found))


def _wide_load(op: str) -> bool:
    return op.startswith("LDG") and ".128" in op


@dataclass(frozen=True)
class Figures:
    """registers a thread; stack and local accesses (a spill, or an array that is indexed at run time); float64
    instructions; of the loop over rows: instructions, 128-bit loads, and how many of these are issued before the first use."""

    registers: int
    stack: int
    local: int
    float64: int
    loop: int
    loads: int
    in_flight: int


def figures(cubin: bytes) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        listing = subprocess.run(
            [_tool("nvdisasm"), "-c", str(file)], capture_output=True, text=True, check=True
        ).stdout
        use = subprocess.run(
            [_tool("cuobjdump"), "-res-usage", str(file)], capture_output=True, text=True, check=True
        ).stdout
    registers, stack = max((int(a), int(b)) for a, b in re.findall(r"REG:(\d+) STACK:(\d+)", use))
    code: list[tuple[str, str]] = []
    labels: dict[str, int] = {}
    for line in listing.splitlines():
        if label := re.match(r"^\s*(\.L_x_\d+):", line):
            labels[label.group(1)] = len(code)
        elif found := INSTRUCTION.match(line):
            code.append((found.group(1), found.group(2)))
    loop = _loop_over_rows(code, labels)
    uses = (i for i, op in enumerate(loop) if op.startswith(("FFMA", "FMUL", "DFMA", "DMUL")))
    first = next(uses, 0)
    ops = Counter(op for op, _ in code)
    return Figures(
        registers=registers,
        stack=stack,
        local=sum(count for op, count in ops.items() if op.startswith(("LDL", "STL"))),
        float64=sum(count for op, count in ops.items() if op.startswith(FLOAT64)),
        loop=len(loop),
        loads=sum(map(_wide_load, loop)),
        in_flight=sum(map(_wide_load, loop[:first])),
    )


def _loop_over_rows(code: list[tuple[str, str]], labels: dict[str, int]) -> list[str]:
    """The innermost loop with 128-bit loads: the shortest backward branch around some."""
    bodies = []
    for i, (op, arguments) in enumerate(code):
        target = re.search(r"(\.L_x_\d+)", arguments) if op.startswith("BRA") else None
        if target and labels.get(target.group(1), len(code)) <= i:
            body = [op for op, _ in code[labels[target.group(1)] : i + 1]]
            if any(map(_wide_load, body)):
                bodies.append(body)
    return min(bodies, key=len, default=[])
