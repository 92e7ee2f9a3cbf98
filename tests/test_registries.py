"""Names and counts that are written down twice: NumPy formulas and native kernels, stub and module, exports."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rules import every_kernel

import gdfast
from gdfast import _core, losses, optimizers, schedules

SOURCE = Path(gdfast.__file__).parent


def test_losses_are_the_native_ones(isa: str) -> None:
    assert _core.losses() == [(name, len(fields(loss))) for name, loss in losses.ALL.items()]


def test_optimizers_are_the_native_ones(isa: str) -> None:
    expected = [
        (kernel, o.n_slots, len(o.parameters()), o.coefficients(np.ones(2)).shape[1])
        for kernel, o in every_kernel(0.1).items()
    ]
    assert _core.optimizers() == expected


@pytest.mark.parametrize("registry", [losses, optimizers, schedules], ids=["losses", "optimizers", "schedules"])
def test_every_formula_of_a_module_is_registered(registry: Any) -> None:
    all_of_them = registry.ALL.values() if isinstance(registry.ALL, dict) else registry.ALL
    base = {"Loss", "Optimizer", "Plateau"}
    defined = {
        name
        for name, kind in vars(registry).items()
        if inspect.isclass(kind) and kind.__module__ == registry.__name__ and name not in base
    }
    assert {kind.__name__ for kind in all_of_them} == defined


def test_registered_names_are_those_of_the_classes() -> None:
    for registry in (losses.ALL, optimizers.ALL):
        assert {name: kind.name for name, kind in registry.items()} == {name: name for name in registry}


# ----------------------------------------------------------------------------------------------------- stub and module


def signature_of_stub(function: ast.FunctionDef) -> tuple[list[str], list[str], int]:
    """(positional parameters, keyword-only ones, how many have a default)"""
    a = function.args
    defaults = len(a.defaults) + sum(d is not None for d in a.kw_defaults)
    return [p.arg for p in a.args], [p.arg for p in a.kwonlyargs], defaults


def signature_of_native(function: Any) -> tuple[list[str], list[str], int]:
    """The same from the first line of a pybind11 docstring: name(X: object, *, k: int = 0) -> float"""
    line = function.__doc__.splitlines()[0]
    start, depth = line.index("(") + 1, 1
    parts, begin = [], start
    for at in range(start, len(line)):
        depth += (line[at] in "([") - (line[at] in ")]")
        if depth == 0 or (depth == 1 and line[at] == ","):
            parts.append(line[begin:at].strip())
            begin = at + 1
        if depth == 0:
            break
    parts = [part for part in parts if part]
    star = parts.index("*") if "*" in parts else len(parts)
    names = [part.split(":")[0].strip() for part in parts]
    return names[:star], names[star + 1 :], sum("=" in part for part in parts)


def stub() -> ast.Module:
    return ast.parse((SOURCE / "_core.pyi").read_text())


def public(names: Any) -> set[str]:
    return {name for name in names if not name.startswith("__")}


def test_the_stub_names_what_the_module_holds() -> None:
    declared = {node.name for node in stub().body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    declared |= {
        node.target.id for node in stub().body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert declared == public(dir(_core))


@pytest.mark.parametrize("node", [n for n in stub().body if isinstance(n, ast.FunctionDef)], ids=lambda n: n.name)
def test_the_stub_has_the_parameters_of_the_module(node: ast.FunctionDef) -> None:
    assert signature_of_native(getattr(_core, node.name)) == signature_of_stub(node)


@pytest.mark.parametrize("node", [n for n in stub().body if isinstance(n, ast.ClassDef)], ids=lambda n: n.name)
def test_the_stub_has_the_methods_of_the_classes(node: ast.ClassDef) -> None:
    kind = getattr(_core, node.name)
    methods = {n.name for n in node.body if isinstance(n, ast.FunctionDef)} - {"__init__"}
    own = {name for name, value in vars(kind).items() if type(value).__name__ == "instancemethod"}
    assert methods == {name for name in own if name != "__init__" and not name.startswith("_pybind11")}


def test_values_of_the_stub_have_its_types() -> None:
    declared = {n.target.id: n.annotation.id for n in stub().body if isinstance(n, ast.AnnAssign)}  # type: ignore[attr-defined]
    assert declared == {"openmp": "bool"}
    assert isinstance(_core.openmp, bool)


def test_native_functions_say_what_they_do() -> None:
    for name in public(dir(_core)) - {"openmp"}:
        assert len(getattr(_core, name).__doc__.strip().splitlines()[-1]) > 10, name


# -------------------------------------------------------------------------------------------------------------- exports


def test_all_and_dir_agree_and_every_name_resolves() -> None:
    assert sorted(gdfast.__all__) == sorted(dir(gdfast))
    assert len(set(gdfast.__all__)) == len(gdfast.__all__)
    for name in gdfast.__all__:
        assert getattr(gdfast, name) is not None, name
    with pytest.raises(AttributeError, match="'gdfast' has no attribute 'nothing'"):
        gdfast.nothing  # noqa: B018


def test_exports_are_the_objects_of_their_modules() -> None:
    for name in set(gdfast.__all__) - {"__version__"}:
        exported = getattr(gdfast, name)
        if inspect.ismodule(exported):
            assert exported is importlib.import_module(f"gdfast.{name}")
        else:
            home = importlib.import_module(exported.__module__)
            assert exported.__module__.startswith("gdfast.")
            assert getattr(home, name) is exported


def test_type_checkers_see_the_same_exports() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    (block,) = [n for n in tree.body if isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING"]
    seen = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(gdfast.__all__) - {"__version__"}


def test_modules_with_an_all_define_it_truly() -> None:
    for path in SOURCE.rglob("*.py"):
        if path.name == "__main__.py" or path.parent.name == "cuda":  # kernels: tests/cuda
            continue
        name = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            if 'pip install "gdfast[' in str(error):  # an extra that is not installed
                continue
            raise
        for exported in getattr(module, "__all__", ()):
            assert hasattr(module, exported), (name, exported)


def test_a_star_import_brings_all_names() -> None:
    code = "from gdfast import *; import gdfast; assert set(gdfast.__all__) <= set(globals()), 'missing'"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert gdfast.__version__ == version("gdfast")
