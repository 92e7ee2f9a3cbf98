"""Tables in files, and what is learned from them: columns of numbers as they are, a column of text as one 0/1 column a level.

Everything that cannot be read or learned from is a ValueError that names the file or the column.
"""

from __future__ import annotations

import gzip
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from gdfast.arrow_files import read_csv, read_parquet

Array = np.ndarray[Any, Any]
Features = list[tuple[str, Any]]  # (column, level), a text; None for a column of numbers

KINDS = (".csv", ".csv.gz", ".csv.zip", ".parquet", ".npy")
MOST_LEVELS = 1000
# what pandas reads as missing, given to both readers so that they agree
MISSING = ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A"]
MISSING += ["NA", "NULL", "NaN", "None", "n/a", "nan", "null"]


def read_table(path: Path) -> Any:
    """A data frame of narwhals. CSV by pandas or else pyarrow, Parquet by pyarrow, with a bar over the bytes read."""
    import narwhals as nw
    from tqdm import tqdm

    name, pandas, arrow = path.name.lower(), find_spec("pandas") is not None, find_spec("pyarrow") is not None
    if not name.endswith(KINDS):
        raise ValueError(f"{path}: unknown kind of file, expected one of {', '.join(KINDS)}")
    if not (arrow or (pandas and not name.endswith(".parquet"))):
        raise ValueError(f'reading {path.name} needs pyarrow, which is not installed: pip install "gdfast[io]"')
    with open(path, "rb", buffering=0) as file, tqdm.wrapattr(
        file, "read", total=path.stat().st_size, desc=f"reading {path.name}", disable=None, delay=1
    ) as raw:  # fmt: skip
        if name.endswith(".npy"):
            a = np.lib.format.read_array(raw, allow_pickle=False)
            if a.ndim != 2 or a.dtype.kind not in "fiub":
                raise ValueError(
                    f"{path} holds {a.dtype} of shape {a.shape}, expected rows and columns of real numbers"
                )
            table = nw.from_numpy(a, [str(j) for j in range(a.shape[1])], backend="pandas" if pandas else "pyarrow")
        elif name.endswith(".parquet"):
            table = nw.from_native(read_parquet(raw), eager_only=True)
            table = table.drop([name for name in table.columns if name.startswith("__index_level_")])  # of pandas
        else:
            table = nw.from_native(_read_csv(raw, name, pandas), eager_only=True)
    if len(table) == 0:
        raise ValueError(f"{path} holds no rows")
    return table


def _read_csv(raw: Any, name: str, pandas: bool) -> Any:
    if name.endswith(".gz"):
        raw = gzip.GzipFile(fileobj=raw)
    elif name.endswith(".zip"):
        archive = zipfile.ZipFile(raw)
        members = [member for member in archive.namelist() if member.lower().endswith(".csv")]
        if len(members) != 1:
            raise ValueError(f"{name} holds {len(members)} .csv files, expected one")
        raw = archive.open(members[0])
    if pandas:
        import pandas as pd

        return pd.read_csv(raw, low_memory=False, keep_default_na=False, na_values=MISSING)
    return read_csv(raw, MISSING)


def column_of(table: Any, name: str) -> Any:
    """The column called so; an error lists those that there are."""
    if name not in table.columns:
        shown = ", ".join(table.columns[:20]) + (", ..." if len(table.columns) > 20 else "")
        raise ValueError(f"there is no column {name!r}; the table has {shown}")
    return table[name]


def _refuse_missing(name: str, missing: Any) -> None:
    if count := int(missing.sum()):
        advice = f"fill them or drop their rows; a feature can be left out with --exclude {name}"
        raise ValueError(f"column {name!r} has {count:,} missing values of {len(missing):,}: {advice}")


def is_text(column: Any) -> bool:
    import narwhals as nw

    return column.dtype in (nw.String, nw.Categorical, nw.Enum)


def text_of(column: Any) -> Array:
    """(n,) objects, all str."""
    import narwhals as nw

    _refuse_missing(column.name, column.is_null())
    return np.array(column.cast(nw.String).to_list(), dtype=object)


def numbers_of(table: Any, name: str) -> Array:
    """(n,) finite float32 where the table holds that, else float64."""
    import narwhals as nw

    column = column_of(table, name)
    if not (column.dtype.is_numeric() or column.dtype == nw.Boolean):
        advice = f"turn it into numbers, or leave it out with --exclude {name}"
        raise ValueError(f"column {name!r} holds {column.dtype}, expected numbers: {advice}")
    _refuse_missing(name, column.is_null())
    values = column.to_numpy()
    values = values.astype(np.float32 if values.dtype == np.float32 else np.float64)
    _refuse_missing(name, np.isnan(values))
    if np.isinf(values).any():
        raise ValueError(f"column {name!r} holds infinity: replace it, or leave the column out with --exclude {name}")
    return values


def features_of(table: Any, names: list[str]) -> Features:
    """A column of numbers is one feature, a column of text one a level."""
    from tqdm import tqdm

    found: Features = []
    for name in tqdm(names, desc="collecting levels", disable=None, delay=1):
        if not is_text(table[name]):
            found.append((name, None))
            continue
        levels = sorted(set(text_of(table[name])))
        if len(levels) > MOST_LEVELS:
            held = (
                f"column {name!r} holds {len(levels):,} different texts, of which at most {MOST_LEVELS:,} are encoded"
            )
            raise ValueError(f"{held}: leave it out with --exclude {name}")
        found += [(name, level) for level in levels]
    if not found:
        raise ValueError("no column is left to learn from")
    return found


def matrix_of(table: Any, features: Features) -> Array:
    """(n, d) in C order, float32 if all columns of numbers are; a text that is none of the levels is 0 in all of them."""
    import narwhals as nw
    from tqdm import tqdm

    narrow = all(column_of(table, name).dtype == nw.Float32 for name, level in features if level is None)
    X = np.zeros((len(table), len(features)), np.float32 if narrow else np.float64)
    places: dict[str, dict[Any, int]] = {}
    for j, (name, level) in enumerate(features):
        places.setdefault(name, {})[level] = j
    for name, place in tqdm(places.items(), desc="encoding", disable=None, delay=1):
        if None in place:
            X[:, place[None]] = numbers_of(table, name)
            continue
        if not is_text(column_of(table, name)):
            raise ValueError(f"column {name!r} holds numbers, but held text when the model was trained")
        columns = np.array([place.get(text, -1) for text in text_of(table[name])])
        known = np.flatnonzero(columns >= 0)
        X[known, columns[known]] = 1
    return X
