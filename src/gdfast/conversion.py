"""Numbers of any type to float32 and float64, and the words for what cannot be one. The doors share it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ENCODE", "convert", "float_type", "require_cells", "require_real", "size_of", "where_missing"]

_Array = NDArray[Any]

ENCODE = "encode text and categories as numbers first, for example one-hot (sklearn.preprocessing.OneHotEncoder)"


def require_cells(shape: tuple[int, ...], name: str) -> None:
    for size, unit in zip(shape, ("sample", "feature"), strict=True):
        if size == 0:
            found = f"Found array with 0 {unit}(s) (shape={shape}) while a minimum of 1 is required."
            raise ValueError(f"{found} {name} must hold one row per sample and one column per feature.")


def float_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float32 if dtype.kind == "f" and dtype.itemsize <= 4 else np.float64)


def convert(a: _Array, dtype: np.dtype[Any], what: str) -> _Array:
    """A fresh C-order copy. Values too large for `dtype` become infinity, missing ones NaN: the scan finds both."""
    held = require_real(a, what)
    if a.dtype.kind in "SUT":
        raise ValueError(f"could not convert string to float: {str(a.flat[0])!r}. {held}; {ENCODE}.")
    if a.dtype == object:
        a = np.where(where_missing(a), np.nan, a)
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            return np.array(a, dtype=dtype, order="C")
    except (TypeError, ValueError, OverflowError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{error}. {held}; {ENCODE}.") from error


def require_real(a: _Array, what: str) -> str:
    held = f"{what} has dtype {a.dtype}, expected real numbers"
    if a.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {held}; pass the real and imaginary parts on their own.")
    if a.dtype.kind in "mMV":
        raise ValueError(f"Dates and records are not supported: {held}; convert dates to days since a fixed day.")
    return held


def where_missing(a: _Array) -> NDArray[np.bool_]:
    """Where an object array holds None, NaN, pd.NA or NaT (by name: pandas need not be installed)."""

    def is_missing(v: object) -> bool:
        nan = isinstance(v, (float, np.floating)) and bool(np.isnan(v))
        return nan or type(v).__name__ in ("NoneType", "NAType", "NaTType")

    return np.fromiter(map(is_missing, a.flat), np.bool_, a.size).reshape(a.shape)


def size_of(nbytes: int) -> str:
    return f"{nbytes / 1e6:.1f} MB" if nbytes >= 100_000 else f"{nbytes} B"
