"""How a gradient kernel is laid out for rows of d numbers: pure functions, no device needed."""

from __future__ import annotations

from dataclasses import dataclass

THREADS, WARP = 256, 32
WIDEST = {"float32": 8192, "float64": 4096}  # numbers a row that fit the registers of one block


@dataclass(frozen=True)
class Shape:
    """``lanes`` threads share a row, 16 bytes a load; a thread holds ``rows`` rows at a time, ``loads`` loads of each.

    d: columns, with zeros up to a multiple of ``per_load``; ``resident``: blocks a multiprocessor that the registers must
    suffice for (without that bound ptxas sees no reason to issue all loads before the first use).
    """

    real: str
    d: int
    lanes: int
    rows: int
    resident: int
    threads: int = THREADS

    @property
    def per_load(self) -> int:
        return 4 if self.real == "float32" else 2

    @property
    def loads(self) -> int:
        return -(-(self.d // self.per_load) // self.lanes)

    @property
    def rows_per_block(self) -> int:
        return self.threads // self.lanes * self.rows

    def blocks(self, n: int, multiprocessors: int) -> int:
        """Blocks for n rows: one wave of them. The order of sums, and so the last bits, hang on this number."""
        return max(1, min(self.resident * multiprocessors, -(-n // self.rows_per_block)))


def padded(d: int, real: str) -> int:
    per_load = 4 if real == "float32" else 2
    return -(-d // per_load) * per_load


def shape_for(d: int, real: str) -> Shape:
    """The shape for rows of d numbers. Raises ValueError for rows that are too wide for the registers of a block."""
    if d > WIDEST[real]:
        raise ValueError(
            f"X has {d} columns; device='cuda' takes at most {WIDEST[real]} of {real}. Use device='cpu' for wider rows"
        )
    width = padded(d, real)
    loads = width // (4 if real == "float32" else 2)  # of one row
    narrow = loads <= WARP * (8 if real == "float32" else 4)
    lanes = min(WARP, 1 << (loads - 1).bit_length()) if narrow else THREADS
    each = -(-loads // lanes)
    rows = 4 if each == 1 else 2 if each <= 4 else 1
    resident = (3 if each <= 2 else 2) if real == "float32" else (2 if each <= 4 else 1)
    return Shape(real, width, lanes, rows, resident)
