"""Runs the blocks of Python in a page of documentation, and compares what they print with the block of text that follows.

`python docs/execute.py` does so for gradient-descent.md and draws its pictures again, beside it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

BLOCK = re.compile(r"^```python\n(.*?)^```$(?:\s*^```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:\.\d*)?(?:e[+-]?\d+)?")


def sections(page: Path) -> dict[str, list[tuple[str, str, int]]]:
    """Of each section with code: its blocks as (code, what it has to print, line)."""
    text = page.read_text()
    heads = [*re.finditer(r"^## (.*)$", text, re.MULTILINE)]
    ends = [*(head.start() for head in heads[1:]), len(text)]
    found = {}
    for head, end in zip(heads, ends, strict=True):
        blocks = [
            (b[1], b[2] or "", text.count("\n", 0, b.start(1)) + 1) for b in BLOCK.finditer(text, head.end(), end)
        ]
        if blocks:
            found[head[1]] = blocks
    return found


def run(blocks: list[tuple[str, str, int]], page: Path) -> Iterator[tuple[str, str, int]]:
    """(what it had to print, what it printed, line) of each block; one namespace for all of them."""
    names: dict[str, object] = {"__name__": "__main__"}
    for code, expected, line in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)
        yield expected, printed.getvalue(), line


def same(expected: str, printed: str) -> bool:
    """Equal but for blanks, and for numbers with a point, which have to agree to a unit of the last place written."""
    if NUMBER.sub("#", " ".join(expected.split())) != NUMBER.sub("#", " ".join(printed.split())):
        return False
    for a, b in zip(NUMBER.findall(expected), NUMBER.findall(printed), strict=True):
        digits, _, exponent = a.partition("e")
        places = len(digits.partition(".")[2])
        unit = 10.0 ** (int(exponent or 0) - places) if "." in a or exponent else 0.0
        if abs(float(a) - float(b)) > 1.001 * unit:
            return False
    return True


def main() -> None:
    page = Path(__file__).with_name("gradient-descent.md")
    os.chdir(page.parent)
    wrong = 0
    for name, blocks in sections(page).items():
        for expected, printed, line in run(blocks, page):
            if not same(expected, printed):
                wrong += 1
                print(f"{page.name}:{line}: in '{name}' expected\n{expected}got\n{printed}", file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
