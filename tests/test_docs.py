"""The chapters of docs/ are true: their code runs, and prints what they say."""

from __future__ import annotations

import importlib.util
import re
from itertools import chain
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="the chapter draws pictures: matplotlib is not installed")

DOCS = Path(__file__).parent.parent / "docs"
spec = importlib.util.spec_from_file_location("execute", DOCS / "execute.py")
assert spec is not None
assert spec.loader is not None
execute = importlib.util.module_from_spec(spec)
spec.loader.exec_module(execute)

PAGE = DOCS / "gradient-descent.md"
# a section of the chapter stands for itself; the other pages are read from top to bottom
PARTS = {(PAGE.name, name): blocks for name, blocks in execute.sections(PAGE).items()}
PARTS |= {(name, ""): [*chain.from_iterable(execute.sections(DOCS / name).values())] for name in ("torch.md", "ops.md")}
NEEDS = {"torch.md": "torch"}


@pytest.mark.parametrize(("page", "name"), PARTS)
def test_a_section_prints_what_it_says(page: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page in NEEDS:
        pytest.importorskip(NEEDS[page], reason=f"the extra {NEEDS[page]} is not installed")
    monkeypatch.chdir(tmp_path)  # pictures go here
    for expected, printed, line in execute.run(PARTS[page, name], DOCS / page):
        assert execute.same(expected, printed), f"{page}:{line}: expected\n{expected}got\n{printed}"
    drawn = {file.name for file in tmp_path.iterdir()}
    if page != PAGE.name:
        assert not drawn
        return
    text = PAGE.read_text().split(f"## {name}\n")[1].split("\n## ")[0]
    assert drawn == set(re.findall(r"!\[.*?\]\((.*?)\)", text))


def test_every_picture_is_there() -> None:
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", PAGE.read_text())
    assert pictures
    for picture in pictures:
        assert 0 < (DOCS / picture).stat().st_size < 100_000


@pytest.mark.parametrize(
    ("expected", "printed", "alike"),
    [
        ("a 1.00 b", "a 1.004 b", True),
        ("a 1.00 b", "a 1.02 b", False),
        ("1e-03", "1.4e-03", True),
        ("5 steps", "6 steps", False),
        ("[1.0  2.0]", "[1.0 2.0]", True),
        ("True", "False", False),
        ("1.0", "1.0 2.0", False),
    ],
)
def test_numbers_are_compared_to_the_places_written(expected: str, printed: str, alike: bool) -> None:
    assert execute.same(expected, printed) is alike
