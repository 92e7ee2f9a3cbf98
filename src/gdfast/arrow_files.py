"""Files that pyarrow reads, the only file that names it: whole tables, and Parquet in pieces (extra ``io``)."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gdfast.conversion import ENCODE
from gdfast.streams import File, Source

Array = np.ndarray[Any, Any]

TILE = 512  # rows that are turned from columns in cache


def read_parquet(raw: Any) -> Any:
    """A pyarrow.Table from an open file."""
    from pyarrow import parquet

    return parquet.read_table(raw)


def read_csv(raw: Any, missing: list[str]) -> Any:
    """A pyarrow.Table from an open file of text."""
    from pyarrow import csv

    # one block: with several, the type of a column is guessed from the first
    read = csv.ReadOptions(block_size=2**31 - 1)
    return csv.read_csv(raw, read, convert_options=csv.ConvertOptions(null_values=missing, strings_can_be_null=True))


def _paths(where: Any) -> list[Path]:
    """Files of a file, a folder (with those below), a glob, or a list of files; in the order of their names."""
    if isinstance(where, (list, tuple)):
        return [Path(path) for path in where]
    path = Path(where)
    if path.is_dir():
        found = [file for file in path.rglob("*.parquet") if not file.name.startswith((".", "_"))]
    else:
        found = [path] if path.exists() else [Path(name) for name in glob.glob(os.fspath(where), recursive=True)]
    if not found:
        raise ValueError(
            f"{where}: there is no such file, no .parquet file in the folder, or none that the pattern matches"
        )
    return sorted(found)


def _metadata(path: Path) -> Any:
    from pyarrow import ArrowException, parquet

    try:
        return parquet.read_metadata(path)
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path} is no whole Parquet file: {error}") from error


class ParquetSource(Source):
    """Rows of Parquet files, read again in every pass, a row group at a time.

    where : a file, a folder, a glob, or a list of files, all of the same columns.
    target, weight : names of columns; weight None for ones.
    columns : names of the features, in this order; None for all others of the first file.
    exclude : names of columns to leave out.
    memory_limit : bytes, or a text like "512M", that reading takes at most.

    Features are numbers: float32 where all are float32 or halves, else float64. Nulls, text, a missing column and one whose
    type differs between files are a ValueError that names file, row group and column; a file that changes while it is
    learned from is a DataChangedError.
    """

    def __init__(
        self,
        where: Any,
        *,
        target: str,
        weight: str | None = None,
        columns: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        memory_limit: int | str = "1G",
    ) -> None:
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise ModuleNotFoundError('reading Parquet needs pyarrow: pip install "gdfast[io]"') from error

        self.memory_limit, self._target, self._weight = memory_limit, target, weight
        self._files = [File(path) for path in _paths(where)]
        self._metadata = [_metadata(file.path) for file in self._files]
        schemas = [metadata.schema.to_arrow_schema() for metadata in self._metadata]
        taken = {target, weight, *exclude}
        first = [name for name in schemas[0].names if name not in taken and not name.startswith("__index_level_")]
        self.names = first if columns is None else list(columns)
        if not self.names:
            raise ValueError(f"{self._files[0].path}: no column is left to learn from")
        self._columns = [*self.names, target, *([] if weight is None else [weight])]
        for name in {*exclude}:
            self._type_of(schemas[0], name, self._files[0])
        for file, schema in zip(self._files, schemas, strict=True):
            for name in self._columns:
                here, there = self._type_of(schema, name, file), self._type_of(schemas[0], name, self._files[0])
                if here != there:
                    raise ValueError(f"{file.path}: column {name!r} is {here}, in {self._files[0].path} it is {there}")
        types = [schemas[0].field(name).type for name in self.names]
        self._require_numbers(types)
        narrow = all(str(kind) in ("float", "halffloat") for kind in types)
        self.dtype, self.d = np.dtype(np.float32 if narrow else np.float64), len(types)
        places = [
            (number, group, metadata.row_group(group).num_rows)
            for number, metadata in enumerate(self._metadata)
            for group in range(metadata.num_row_groups)
        ]
        self._groups = [(number, group) for number, group, rows in places if rows]
        self.rows = np.array([rows for _, _, rows in places if rows], dtype=np.int64)
        if len(self.rows) == 0:
            raise ValueError(f"{where} holds no rows")

    @staticmethod
    def _type_of(schema: Any, name: str, file: File) -> Any:
        if name not in schema.names:
            shown = ", ".join(schema.names[:20]) + (", ..." if len(schema.names) > 20 else "")
            raise ValueError(f"{file.path}: there is no column {name!r}; it has {shown}")
        return schema.field(name).type

    def _require_numbers(self, types: list[Any]) -> None:
        from pyarrow import types as kinds

        for name, kind in zip(self.names or [], types, strict=True):
            if not (
                kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_boolean(kind) or kinds.is_decimal(kind)
            ):
                raise ValueError(f"{self._files[0].path}: column {name!r} holds {kind}, expected numbers; {ENCODE}")

    def read(self, piece: int, X: Array) -> tuple[Array, Array | None]:
        from pyarrow import ArrowException, parquet

        number, group = self._groups[piece]
        file = self._files[number]
        file.check()
        try:
            reader = parquet.ParquetFile(
                file.path, metadata=self._metadata[number], memory_map=False, page_checksum_verification=True
            )
            with reader:
                table = reader.read_row_group(group, columns=self._columns, use_threads=False)
        except (ArrowException, OSError) as error:
            file.check()
            raise ValueError(f"{file.path}: row group {group} cannot be read: {error}") from error
        file.check()
        columns = []
        for name in self._columns:
            column = table.column(name)
            if column.null_count:
                held = f"{file.path}: row group {group}, column {name!r} has {column.null_count:,} nulls"
                raise ValueError(f"{held}: fill them or drop their rows")
            columns.append(self._array(column))
        for start in range(0, len(X), TILE):
            rows = slice(start, start + TILE)
            for j in range(self.d):
                X[rows, j] = columns[j][rows]
        weight = None if self._weight is None else columns[-1].astype(self.dtype)
        return columns[self.d], weight

    @staticmethod
    def _array(column: Any) -> Array:
        from pyarrow import float64, types

        if types.is_decimal(column.type):
            column = column.cast(float64())
        return np.asarray(column.to_numpy())

    def place(self, piece: int, row: int, column: int) -> str:
        number, group = self._groups[piece]
        name = self._columns[column] if column >= 0 else self._target if column == -1 else self._weight
        return f"{self._files[number].path}: row group {group}, row {row} of it, column {name!r}"

    def identity(self) -> str:
        return f"{self._columns} of {[file.identity() for file in self._files]}"
