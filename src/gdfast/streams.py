"""Tables larger than memory: rows in pieces that are read again in every pass, a block of them in memory at a time.

A block is as many pieces as its share of the memory holds. In a pass that trains with shuffling, pieces come in a random
order, so that a block is mixed from all over the table, and its rows are shuffled as those of an array in memory are. Both
orders are pure functions of (seed, epoch, block): the same table, seed and blocks give the same bits from memory and from
file, and a run can be resumed at any block. While one block is trained the next is read, by ``READERS`` threads.

A table that fits into one block is read once and treated as an array in memory is.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gdfast._core import find_non_finite
from gdfast.conversion import convert, float_type, require_real, size_of
from gdfast.layouts import to_dense
from gdfast.order import keys_of, order_rows
from gdfast.plan import Examples, Part, Plan
from gdfast.run_folder import DataChangedError, checksum
from gdfast.scaling import Scaling, column_moments

Array = np.ndarray[Any, Any]
Rows = tuple[Array, Array, "Array | None"]  # X, labels, weights
# what becomes of the labels (n,) and weights (n,) of some rows: targets and weights as in ``Examples``
Encode = Callable[[Array, "Array | None"], "tuple[Array, Array | None]"]

READERS = 2
# where the reader may choose, a piece has so many bytes at most, and a block so many pieces at least
PIECE, PIECES_A_BLOCK = 2**21, 32
BLOCK, SAMPLE = 4, 8  # two blocks of a quarter of the memory each, an eighth for a sample of rows
ORDER_OF_PIECES, HELD_OUT = 2**62, 2**62 + 1  # block numbers that no block has


def memory_of(limit: int | str) -> int:
    """Bytes from "512M", "2G" or a number."""
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)i?B?", str(limit).strip(), re.IGNORECASE)
    if isinstance(limit, bool) or found is None:
        raise ValueError(f"memory_limit must be a number of bytes or a text like '512M' or '2G', got {limit!r}")
    return int(float(found[1]) * units[found[2].upper()])


class Source(ABC):
    """A table in pieces.

    rows: (pieces,) rows of each; d, dtype: of the features; names: of the features, or None; in_order: whether pieces can
    only be read one after the other.
    """

    rows: Array
    d: int
    dtype: np.dtype[Any]
    names: list[str] | None = None
    in_order = False
    memory_limit: int | str = "1G"

    @abstractmethod
    def read(self, piece: int, X: Array) -> tuple[Array, Array | None]:
        """Fill X (rows, d) with a piece; its (labels, weights). Called by several threads."""

    @abstractmethod
    def place(self, piece: int, row: int, column: int) -> str:
        """Where a number is, for a message."""

    @abstractmethod
    def identity(self) -> str:
        """Text that differs where the table does."""

    @property
    def n(self) -> int:
        return int(self.rows.sum())

    @property
    def fits(self) -> bool:
        """Into one block."""
        return self.n <= self.rows_of_block

    @property
    def rows_of_block(self) -> int:
        share = memory_of(self.memory_limit) // BLOCK // (self.d * self.dtype.itemsize)
        longest = int(self.rows.max())
        if longest > share:
            taken, where = size_of(longest * self.d * self.dtype.itemsize), self.place(int(self.rows.argmax()), 0, 0)
            raise ValueError(
                f"memory_limit={self.memory_limit!r} is too small: a block has a quarter of it, and {longest:,} rows that are "
                f"read at once ({where}) take {taken}. Raise it, or write smaller row groups"
            )
        return share

    def checked(self, piece: int, X: Array) -> tuple[Array, Array | None]:
        """As ``read``; NaN and infinity are a ValueError that says where."""
        y, weight = self.read(piece, X)
        at = find_non_finite(X)
        if at >= 0:
            self._refuse(X[divmod(at, self.d)], piece, *divmod(at, self.d))
        for values in (y, weight):
            if values is not None and values.dtype.kind == "f" and not np.isfinite(values).all():
                row = int(np.flatnonzero(~np.isfinite(values))[0])
                self._refuse(values[row], piece, row, -1 if values is y else -2)
        if weight is not None and (weight < 0).any():
            row = int((weight < 0).argmax())
            raise ValueError(
                f"{self.place(piece, row, -2)} is the negative weight {weight[row]}, expected weights >= 0"
            )
        return y, weight

    def _refuse(self, value: Any, piece: int, row: int, column: int) -> None:
        what = "NaN" if np.isnan(value) else "infinity"
        raise ValueError(f"{self.place(piece, row, column)} is {what}, expected a finite number: drop or fill it")

    def divided(self, pieces: Array | None = None) -> list[Array]:
        """The pieces of each block, for all of them in this order."""
        most, rows = self.rows_of_block, 0
        blocks: list[list[int]] = [[]]
        for piece in range(len(self.rows)) if pieces is None else pieces.tolist():
            if rows + int(self.rows[piece]) > most:
                blocks, rows = [*blocks, []], 0
            blocks[-1].append(piece)
            rows += int(self.rows[piece])
        return [np.array(block) for block in blocks]

    def blocks(self, blocks: list[Array], first: int = 0) -> Iterator[tuple[int, Array, Array, Array | None]]:
        """(number, X, labels, weights) of the blocks from number ``first`` on; X is overwritten two blocks later."""
        most = max((int(self.rows[block].sum()) for block in blocks[first:]), default=0)
        buffers = [np.empty((most, self.d), self.dtype) for _ in range(min(2, len(blocks) - first))]
        pool = ThreadPoolExecutor(1 if self.in_order else READERS, thread_name_prefix="gdfast reader")
        try:
            ahead = _begin(self, pool, blocks[first], buffers[0])
            for number in range(first, len(blocks)):
                y, weight = _finish(ahead)
                if number + 1 < len(blocks):
                    ahead = _begin(self, pool, blocks[number + 1], buffers[(number + 1 - first) % 2])
                yield number, buffers[(number - first) % 2][: len(y)], y, weight
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def load(self) -> Rows:
        """All of it."""
        (_, X, y, weight), *_ = self.blocks([np.arange(len(self.rows))])
        return X, y, weight


def _begin(source: Source, pool: ThreadPoolExecutor, pieces: Array, X: Array) -> list[Future[Any]]:
    at, futures = 0, []
    for piece in pieces.tolist():
        end = at + int(source.rows[piece])
        futures.append(pool.submit(source.checked, piece, X[at:end]))
        at = end
    return futures


def _finish(futures: list[Future[Any]]) -> tuple[Array, Array | None]:
    try:
        read = [future.result() for future in futures]
    except BaseException:
        for future in futures:
            future.cancel()
        raise
    weight = None if read[0][1] is None else np.concatenate([w for _, w in read])
    return np.concatenate([y for y, _ in read]), weight


@dataclass(frozen=True, eq=False)
class Stream:
    """The rows of a source to learn from, in place of ``Examples``. held_out: the share of rows of weight 0."""

    source: Source
    encode: Encode
    k: int
    total_weight: float
    few: Examples
    moments: tuple[Array, Array]
    held_out: float = 0.0
    scaling: Scaling | None = None

    @property
    def n(self) -> int:
        return self.source.n

    @property
    def d(self) -> int:
        return self.source.d

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.source.dtype

    @property
    def y(self) -> Array:
        """Of some rows."""
        return self.few.y

    @property
    def weight(self) -> Array | None:
        return self.few.weight

    @property
    def X(self) -> Any:  # noqa: N802
        """Of some rows."""
        return self.few.X

    def sample(self, count: int, numbers: int | None = None) -> Examples:
        """As ``Examples.sample``, from rows kept in memory: fewer where these are fewer."""
        return self.few.sample(count, numbers)

    def scaled(self, scaling: Scaling) -> Stream:
        return replace(self, scaling=scaling, few=replace(self.few, X=scaling.apply(self.few.X)))

    def blocks(self, plan: Plan, epoch: int, first: int = 0) -> Iterator[tuple[Part, Examples]]:
        """The blocks of an epoch from number ``first`` on. One is in memory until the one behind the next is asked for."""
        pieces = np.arange(len(self.source.rows))
        if plan.shuffle and not self.source.in_order:
            pieces = order_rows(len(pieces), keys_of(plan.seed, epoch, ORDER_OF_PIECES))
        blocks = self.source.divided(pieces)
        for number, X, y, weight in self.source.blocks(blocks, first):
            yield Part(number, 0, number == len(blocks) - 1), self._examples(X, y, weight, blocks[number])

    def in_order(self) -> Iterator[Examples]:
        """All rows, in blocks."""
        blocks = self.source.divided()
        for number, X, y, weight in self.source.blocks(blocks):
            yield self._examples(X, y, weight, blocks[number])

    def _examples(self, X: Array, y: Array, weight: Array | None, block: Array) -> Examples:
        targets, weights = self.encode(y, weight)
        if self.held_out:
            weights = np.ones(len(y), self.dtype) if weights is None else weights.copy()
            weights[held_rows(self.source, block, self.held_out)] = 0
        return Examples(X if self.scaling is None else self.scaling.apply(X), targets, weights, self.k)


def held_rows(source: Source, block: Array, share: float) -> Array:
    """The rows of a block that are held out: a share of each piece, the same in every pass."""
    starts = np.concatenate([[0], np.cumsum(source.rows[block])])
    rows = []
    for start, piece in zip(starts, block, strict=False):
        n = int(source.rows[piece])
        rows.append(start + order_rows(n, keys_of(0, HELD_OUT, int(piece)), 0, round(share * n)))
    return np.concatenate(rows)


@dataclass(frozen=True, eq=False)
class Summary:
    """What one pass over a table tells of the rows that are not held out.

    labels: sorted, weights: of the rows of each, both empty unless asked for; mean, variance: of the columns; sample: some
    rows; held: those held out, if any.
    """

    labels: Array
    weights: Array
    total_weight: float
    mean: Array
    variance: Array
    sample: Rows
    held: Rows | None

    def stream(self, source: Source, encode: Encode, k: int, total_weight: float, held_out: float = 0.0) -> Stream:
        """The rows to learn from."""
        X, labels, weight = self.sample
        few = Examples(X, *encode(labels, weight), k)
        return Stream(source, encode, k, total_weight, few, (self.mean, self.variance), held_out)


def summarise(source: Source, *, labels: bool, held_out: float = 0.0) -> Summary:
    room = memory_of(source.memory_limit) // SAMPLE // (source.d * source.dtype.itemsize)
    if held_out * source.n > room:
        raise ValueError(
            f"the {round(held_out * source.n):,} rows held out take more than an eighth of memory_limit="
            f"{source.memory_limit!r}: raise it, or lower validation_fraction"
        )
    counts: dict[Any, float] = {}
    mean, variance, seen, total = np.zeros(source.d), np.zeros(source.d), 0, 0.0
    sample: list[Rows] = []
    held: list[Rows] = []
    blocks = source.divided()
    for number, X, y, weight in source.blocks(blocks):
        if held_out:
            hidden = held_rows(source, blocks[number], held_out)
            held.append((X[hidden], y[hidden], None if weight is None else weight[hidden]))
            weight = np.ones(len(y), source.dtype) if weight is None else weight.copy()  # noqa: PLW2901
            weight[hidden] = 0
        w = np.ones(len(y)) if weight is None else weight
        if labels:
            found, codes = np.unique(y, return_inverse=True)
            for label, count in zip(found.tolist(), np.bincount(codes, weights=w).tolist(), strict=True):
                counts[label] = counts.get(label, 0.0) + count
        total += float(w.sum(dtype=np.float64))
        m, v = column_moments(X)
        both = seen + len(y)  # joined as in column_moments
        variance += (v - variance) * (len(y) / both) + np.square(m - mean) * (seen * len(y) / both**2)
        mean += (m - mean) * (len(y) / both)
        seen = both
        rows = np.arange(len(y))
        some = Examples(X, rows, weight).sample(max(1, room * len(y) // (2 * source.n)))
        sample.append((to_dense(some.X).copy(), y[some.y], None if some.weight is None else some.weight.copy()))
    found = np.array(sorted(counts))
    return Summary(
        found, np.array([counts[label] for label in found.tolist()]), total, mean, variance, _joined(sample),
        _joined(held) if held else None,
    )  # fmt: skip


def _joined(parts: list[Rows]) -> Rows:
    X, y, weight = zip(*parts, strict=True)
    return np.concatenate(X), np.concatenate(y), None if weight[0] is None else np.concatenate(weight)


class ArraySource(Source):
    """A table in memory in the pieces that a file would have: to compare, or to train in blocks.

    X: (n, d) float32 or float64 in rows; y, weight: (n,).
    """

    def __init__(
        self, X: Any, y: Any, weight: Any = None, *, piece_rows: int | None = None, memory_limit: int | str = "1G"
    ):
        self._X, self._y = np.asarray(X), np.asarray(y)
        self._weight = None if weight is None else np.asarray(weight)
        self.dtype, self.d, self.memory_limit = float_type(self._X.dtype), self._X.shape[1], memory_limit
        self.rows = pieces_of(len(self._X), self.d * self.dtype.itemsize, memory_of(memory_limit), piece_rows)
        self._starts = np.concatenate([[0], np.cumsum(self.rows)])

    def read(self, piece: int, X: Array) -> tuple[Array, Array | None]:
        rows = slice(*self._starts[piece : piece + 2])
        X[:] = self._X[rows]
        return self._y[rows], None if self._weight is None else self._weight[rows].astype(self.dtype)

    def place(self, piece: int, row: int, column: int) -> str:
        return f"row {self._starts[piece] + row}, {column_name(column)} of the array"

    def identity(self) -> str:
        sums = [0 if a is None else checksum(a) for a in (self._X, self._y, self._weight)]
        return f"array {self._X.shape} {self.dtype}, checksums {sums}"


def pieces_of(n: int, row_bytes: int, memory: int, piece_rows: int | None = None) -> Array:
    """Rows of each piece."""
    share = min(PIECE, memory // BLOCK // PIECES_A_BLOCK)
    rows = max(1, share // row_bytes) if piece_rows is None else piece_rows
    return np.array([min(rows, n - start) for start in range(0, n, rows)], dtype=np.int64)


def column_name(column: int) -> str:
    return {-1: "the target", -2: "the weight"}.get(column, f"column {column}")


class File:
    """A file that is read at any place, by any thread, and must stay as it was when it was opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._was = self._looks()

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    @property
    def size(self) -> int:
        return self._was[1]

    def _looks(self) -> tuple[int, int, int]:
        found = os.stat(self.path)
        return found.st_ino, found.st_size, found.st_mtime_ns

    def check(self) -> None:
        try:
            now = self._looks()
        except OSError as error:
            raise DataChangedError(f"{self.path} is gone while it is learned from: {error.strerror}") from error
        if now != self._was:
            how = (
                f"from {self._was[1]:,} to {now[1]:,} bytes" if now[1] != self._was[1] else "was written to or replaced"
            )
            raise DataChangedError(f"{self.path} changed while it is learned from: {how}. Begin again")

    def read_into(self, offset: int, out: Array) -> None:
        """Fill the contiguous array ``out`` from ``offset`` on."""
        view = memoryview(out.reshape(-1).view(np.uint8).data)
        done = 0
        while done < len(view):
            got = os.preadv(self._descriptor, [view[done:]], offset + done)
            if got == 0:
                self.check()
                raise DataChangedError(f"{self.path} ends at byte {offset + done}, expected {offset + len(view)}")
            done += got
        self.check()

    def identity(self) -> str:
        return f"{self.path.name} {self._was[1]} bytes of {self._was[2]}"


class NpySource(Source):
    """A ``.npy`` file of n rows in C order, read with pread.

    target : the number of the column to predict, or (n,) labels in memory.
    weight : likewise the row weights, None for ones.
    memory_limit : bytes, or a text like "512M", that reading takes at most.
    """

    def __init__(self, path: Any, *, target: Any, weight: Any = None, memory_limit: int | str = "1G") -> None:
        self._file, self.memory_limit = File(Path(path)), memory_limit
        with open(path, "rb") as file:
            try:
                version = np.lib.format.read_magic(file)
                header = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                shape, fortran, stored = header(file)
            except ValueError as error:
                raise ValueError(f"{path} is no .npy file: {error}") from error
            self._offset = file.tell()
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"{path} holds an array of shape {shape}, expected rows and columns")
        if fortran:
            raise ValueError(f"{path} holds columns one after the other: save np.ascontiguousarray(X) instead")
        if stored.hasobject:
            raise ValueError(f"{path} holds objects, expected numbers")
        require_real(np.empty(0, stored), str(path))
        n, columns = shape
        if self._file.size < self._offset + n * columns * stored.itemsize:
            raise ValueError(f"{path} is truncated: {self._file.size:,} bytes, too few for {n:,} x {columns} {stored}")
        self._stored, self._columns = stored, columns
        self._taken: dict[str, Any] = {}
        for name, given in (("target", target), ("weight", weight)):
            if given is None and name == "weight":
                continue
            if isinstance(given, (int, np.integer)) and not isinstance(given, bool):
                if not -columns <= given < columns:
                    raise ValueError(f"{name}={given}: {path} has the columns 0 to {columns - 1}")
                self._taken[name] = int(given) % columns
            elif np.ndim(given) == 1 and len(given) == n:
                self._taken[name] = np.asarray(given)
            else:
                raise ValueError(f"{name} must be the number of a column or ({n},) values, got {given!r}")
        used = {at for at in self._taken.values() if isinstance(at, int)}
        self._features = [j for j in range(columns) if j not in used]
        self.d, self.dtype = len(self._features), float_type(stored)
        self.rows = pieces_of(n, self.d * self.dtype.itemsize, memory_of(memory_limit))
        self._starts = np.concatenate([[0], np.cumsum(self.rows)])

    def read(self, piece: int, X: Array) -> tuple[Array, Array | None]:
        first, row_bytes = int(self._starts[piece]), self._columns * self._stored.itemsize
        whole = self._stored == self.dtype and self.d == self._columns
        raw = X if whole else np.empty((len(X), self._columns), self._stored)
        self._file.read_into(self._offset + first * row_bytes, raw)
        if not whole:
            low, high = self._features[0], self._features[-1] + 1
            X[:] = raw[:, low:high] if high - low == self.d else raw[:, self._features]

        def column(name: str) -> Array | None:
            at = self._taken.get(name)
            return at if at is None else raw[:, at].copy() if isinstance(at, int) else at[first : first + len(X)]

        y, weight = column("target"), column("weight")
        assert y is not None
        return y, None if weight is None else weight.astype(self.dtype)

    def place(self, piece: int, row: int, column: int) -> str:
        name = column_name(column) if column < 0 else f"column {self._features[column]}"
        return f"{self._file.path}: row {self._starts[piece] + row}, {name}"

    def identity(self) -> str:
        taken = {name: at if isinstance(at, int) else checksum(at) for name, at in self._taken.items()}
        return f"{self._file.identity()}, {taken}"


class BatchSource(Source):
    """Anything that can be iterated again and again and gives the same batches: (X, y) or (X, y, weight), X in two dimensions.

    Batches come in their own order, so that only the rows of a block are shuffled. The first pass is made at once, to count.
    """

    in_order = True

    def __init__(self, batches: Iterable[Any], *, memory_limit: int | str = "1G") -> None:
        if iter(batches) is batches:
            raise TypeError(
                f"{type(batches).__name__} can be iterated once only, and training reads the data in every epoch: give an "
                "object whose __iter__ begins anew, or a list"
            )
        self._batches, self.memory_limit, self._at = batches, memory_limit, 0
        self._open: Iterator[Any] | None = None
        rows, value, kinds = [], 0, set()
        for number, batch in enumerate(batches):
            X, y, weight = self._parts(batch, number)
            if number == 0:
                self.d = X.shape[1]
            if X.shape[1] != self.d:
                raise ValueError(f"batch {number} has {X.shape[1]} columns, batch 0 has {self.d}")
            kinds.add(X.dtype)
            rows.append(len(X))
            for a in (X, y, weight):
                value = value if a is None or a.dtype == object else checksum(a, value)
        if not rows:
            raise ValueError("there are no batches")
        self.dtype = float_type(np.result_type(*kinds))
        self.rows, self._value = np.array(rows), value

    @staticmethod
    def _parts(batch: Any, number: int) -> tuple[Array, Array, Array | None]:
        if not isinstance(batch, tuple) or len(batch) not in (2, 3):
            raise TypeError(f"batch {number} is {type(batch).__name__}, expected a tuple (X, y) or (X, y, weight)")
        X, y = np.asarray(batch[0]), np.asarray(batch[1])
        weight = np.asarray(batch[2]) if len(batch) == 3 else None
        if X.ndim != 2 or len(X) == 0 or y.shape != (len(X),) or (weight is not None and weight.shape != y.shape):
            shapes = X.shape, y.shape, None if weight is None else weight.shape
            raise ValueError(f"batch {number} has the shapes {shapes}, expected (n, d), (n,) and (n,) or no weights")
        return X, y, weight

    def read(self, piece: int, X: Array) -> tuple[Array, Array | None]:
        if self._open is None or piece < self._at:
            self._open, self._at = iter(self._batches), 0
        batch = None
        while self._at <= piece:
            batch = next(self._open, None)
            self._at += 1
        rows, y, weight = self._parts(batch, piece) if batch is not None else (X[:0], X[:0, 0], None)
        if rows.shape != X.shape:
            raise DataChangedError(f"batch {piece} has the shape {rows.shape}, in the first pass it was {X.shape}")
        X[:] = convert(rows, self.dtype, f"batch {piece}")
        return y, None if weight is None else weight.astype(self.dtype)

    def place(self, piece: int, row: int, column: int) -> str:
        return f"batch {piece}: row {row}, {column_name(column)}"

    def identity(self) -> str:
        return f"{len(self.rows)} batches, {self.n} x {self.d} {self.dtype}, checksum {self._value:08x}"


def over_blocks(examples: Examples | Stream, sums: Callable[[Examples], tuple[Any, ...]]) -> tuple[Any, ...]:
    """Sums over all rows from those over a block"""
    if isinstance(examples, Examples):
        return sums(examples)
    total: tuple[Any, ...] | None = None
    for rows in examples.in_order():
        of_block = sums(rows)
        total = of_block if total is None else tuple(a + b for a, b in zip(total, of_block, strict=True))
    assert total is not None
    return total
