"""What the compiler made of the kernels: registers as wide as the instruction set, and no symbol that the linker could
hand to a machine without it. Compiles cpp/kernels.cpp with the flags of CMakeLists.txt."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CMAKE = (ROOT / "CMakeLists.txt").read_text()
COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")

needs_x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="the registers are those of x86-64"
)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler is installed")
needs_binutils = pytest.mark.skipif(
    not (shutil.which("nm") and shutil.which("objdump")), reason="nm and objdump (binutils) are not installed"
)
ISAS = ("baseline", "avx2", pytest.param("avx512", marks=pytest.mark.long))
REGISTERS = {"baseline": "xmm", "avx2": "ymm", "avx512": "zmm"}


def flags(variable: str) -> list[str]:
    """The words that CMakeLists.txt sets a variable to."""
    (words,) = re.findall(rf"set\({variable} (.*?)\)", CMAKE)
    return [] if words == '""' else words.split()


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, Path]:
    """An object file for each instruction set that a selected test asks for."""
    wanted = {
        item.callspec.params["isa"]
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec") and "isa" in item.callspec.params
    }
    folder = tmp_path_factory.mktemp("objects")
    running = {}
    for isa in sorted(wanted):
        command = [*shlex.split(COMPILER or ""), "-std=c++17", "-fPIC", "-fvisibility=hidden", f"-DGDFAST_ISA={isa}"]
        command += [*flags("kernel_flags"), *flags(f"isa_{isa}"), "-c", str(ROOT / "cpp" / "kernels.cpp")]
        command += ["-o", str(folder / f"{isa}.o")]
        running[isa] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for isa, process in running.items():
        output, _ = process.communicate()
        assert process.returncode == 0, (isa, output)
    return {isa: folder / f"{isa}.o" for isa in wanted}


def symbols(file: Path) -> list[tuple[str, str]]:
    """(kind, demangled name) of every symbol."""
    listing = subprocess.run(["nm", "-C", str(file)], capture_output=True, text=True, check=True).stdout
    return [(line[17], line[19:]) for line in listing.splitlines()]


def functions(file: Path) -> dict[str, str]:
    """Demangled name -> its instructions."""
    listing = subprocess.run(
        ["objdump", "-d", "-C", "--no-show-raw-insn", str(file)], capture_output=True, text=True, check=True
    ).stdout
    parts = re.split(r"^[0-9a-f]+ <(.+)>:$", listing, flags=re.MULTILINE)
    code: dict[str, str] = {}
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        plain = re.sub(r" \[clone [^]]*\]", "", name)
        code[plain] = code.get(plain, "") + body
    return code


@needs_x86
@needs_compiler
@needs_binutils
@pytest.mark.parametrize("isa", ISAS)
def test_all_that_a_linker_may_choose_among_is_in_the_namespace_of_the_instruction_set(
    objects: dict[str, Path], isa: str
) -> None:
    # weak and unique symbols of equal names are one: a machine without AVX-512 could get this copy
    shared = [name for kind, name in symbols(objects[isa]) if kind in "WwVvu" and f"gdfast::{isa}::" not in name]
    assert not shared
    defined = [name for kind, name in symbols(objects[isa]) if kind in "TDBR"]
    assert defined
    assert all(f"gdfast::{isa}::" in name for name in defined), defined


@needs_x86
@needs_compiler
@needs_binutils
@pytest.mark.parametrize("isa", ISAS)
def test_kernels_need_nothing_but_the_mathematics_library(objects: dict[str, Path], isa: str) -> None:
    wanted = {name for kind, name in symbols(objects[isa]) if kind == "U"}
    mathematics = {"sqrt", "sqrtf", "pow", "fma", "fmaf", "fmax", "fmin"}
    assert wanted <= mathematics | {"memcpy", "memset", "memmove", "__stack_chk_fail", "_GLOBAL_OFFSET_TABLE_"}


@needs_x86
@needs_compiler
@needs_binutils
@pytest.mark.parametrize("isa", ISAS)
def test_no_wider_register_than_the_instruction_set_has(objects: dict[str, Path], isa: str) -> None:
    listing = "".join(functions(objects[isa]).values())
    wider = {"baseline": ("ymm", "zmm"), "avx2": ("zmm",), "avx512": ()}[isa]
    assert f"%{REGISTERS[isa]}" in listing
    for register in wider:
        assert f"%{register}" not in listing


@needs_x86
@needs_compiler
@needs_binutils
@pytest.mark.parametrize("isa", ["avx2", pytest.param("avx512", marks=pytest.mark.long)])
def test_every_hot_loop_is_vector_code(objects: dict[str, Path], isa: str) -> None:
    code = functions(objects[isa])
    register = f"%{REGISTERS[isa]}"
    scalar = []
    names = [re.search(rf"gdfast::{isa}::residuals<gdfast::{isa}::(\w+), (\w+)>", name) for name in code]
    formulas = {found.groups() for found in names if found}
    assert len(formulas) >= 4
    for formula, number in formulas:  # with the loops that were not written into it
        loops = [body for name, body in code.items() if f"::{formula}" in name and number in name]
        if not any(register in body for body in loops):
            scalar.append(f"residuals<{formula}, {number}>")
    for kernel in ("residuals_in_lanes<(?!.*Softmax)", "update<", "Update<.+::constrained"):  # one a formula
        mine = {name: body for name, body in code.items() if re.search(rf"gdfast::{isa}::{kernel}", name)}
        assert len(mine) >= 2, kernel
        scalar += [name for name, body in mine.items() if register not in body]
    layouts = [f"{kernel}_{layout}" for kernel in ("margins", "accumulate") for layout in ("rows", "columns")]
    for kernel in (*layouts, "gram", "sum_of_squares", "find_non_finite"):
        mine = {name: body for name, body in code.items() if re.search(rf"gdfast::{isa}::{kernel}[<_(]", name)}
        assert mine, kernel
        for number in ("float", "double"):
            bodies = [body for name, body in mine.items() if number in name]
            assert bodies, (kernel, number)
            if not any(register in body for body in bodies):
                scalar.append(f"{kernel}<{number}>")
    assert not scalar


def test_the_flags_keep_nan_and_denormals() -> None:
    words = re.findall(r"(?<![\w-])-[fOm][\w=-]+", re.sub(r"#.*", "", CMAKE))
    assert "-O3" in words
    assert not set(words) & {
        "-ffast-math", "-Ofast", "-ffinite-math-only", "-fassociative-math", "-funsafe-math-optimizations",
        "-freciprocal-math", "-flto", "-march=native",
    }  # fmt: skip
    assert "INTERPROCEDURAL_OPTIMIZATION OFF" in CMAKE
